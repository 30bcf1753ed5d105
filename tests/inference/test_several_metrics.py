"""Several objectives and constraints on outcomes: each metric is predicted; one rule says what a candidate is worth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.inference import hypervolume
from optformer.inference.history import Objective, Reported
from optformer.inference.prediction import Prediction
from optformer.inference.search import Search
from optformer.inference.several_metrics import FEASIBILITY, Metric, SeveralMetrics, _survival, least_holding
from optformer.serialization import objective, tokens
from optformer.serialization.study import EncodedStudy

MINIMIZE, MAXIMIZE = vz.ObjectiveMetricGoal.MINIMIZE, vz.ObjectiveMetricGoal.MAXIMIZE
EDGES = np.asarray(objective.bin_edges(objective.Scaling(0.0, 1.0)))


def problem(objectives=("cost",), desired=None, limits=(("memory", MINIMIZE, 8.0),)) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    statement.search_space.root.add_float_param("x", 0.0, 1.0)
    statement.search_space.root.add_float_param("y", 0.0, 1.0)
    for name in objectives:
        statement.metric_information.append(vz.MetricInformation(name, goal=MINIMIZE))
    for name, goal, limit in limits:
        safety = vz.MetricInformation(name, goal=goal, safety_threshold=limit, desired_min_safe_trials_fraction=desired)
        statement.metric_information.append(safety)
    return statement


def history(count=12, objectives=("cost",), memory=lambda x, y: 16.0 * x, seed=0) -> list[vz.Trial]:
    rng, trials = np.random.default_rng(seed), []
    for number in range(1, count + 1):
        x, y = map(float, rng.random(2))
        metrics = {name: x * k + (y - 0.3) ** 2 for k, name in enumerate(objectives)} | {"memory": memory(x, y)}
        trials.append(vz.Trial(id=number, parameters={"x": x, "y": y}).complete(vz.Measurement(metrics=metrics)))
    return trials


def said(suggestion) -> dict[str, str]:
    return dict(suggestion.metadata.ns("optformer").items())


def values_of(suggestions) -> list[dict]:
    return [each.parameters.as_dict() for each in suggestions]


# What a study knows of its constraints.


def test_trials_hold_up_to_the_threshold_and_what_was_not_measured_counts_as_safe():
    statement = problem(limits=(("memory", MINIMIZE, 8.0), ("accuracy", MAXIMIZE, 0.5)))
    measured = [
        {"memory": 8.0, "accuracy": 0.5},
        {"memory": 8.1, "accuracy": 0.9},
        {"memory": 1.0, "accuracy": 0.4},
        {"memory": 1.0},
        {"memory": math.inf, "accuracy": 0.9},
    ]
    trials = [vz.Trial(id=n, parameters={"x": 0.1 * n, "y": 0.1}) for n in range(1, 8)]
    for trial, metrics in zip(trials, measured, strict=False):
        trial.complete(vz.Measurement(metrics={"cost": 1.0} | metrics))
    trials[5].complete(vz.Measurement(metrics={"memory": 9.0}), infeasibility_reason="out of memory")
    study = EncodedStudy(statement, trials)
    assert study.holds.tolist() == [True, False, False, True, False, False, True]
    assert (study.shortfall == 0).tolist() == study.holds.tolist()
    assert study.values.shape == (7, 1), "a safety metric is not an objective"
    assert study.metric_values(1)[:6].tolist() == [-8.0, -8.1, -1.0, -1.0, -15.0, -9.0]
    assert study.best(0) in (0, 3)
    assert study.metric_index("accuracy") == 2
    assert study.metric_index(None) == 0


def test_the_share_of_safe_trials_that_is_desired():
    trials = history(10, memory=lambda x, y: 16.0 * x)
    share = np.mean([16.0 * trial.parameters["x"].value <= 8.0 for trial in trials])
    assert least_holding(EncodedStudy(problem(), trials)) == 0.0
    assert least_holding(EncodedStudy(problem(desired=float(share)), trials)) == 0.0
    assert least_holding(EncodedStudy(problem(desired=1.0), trials)) == 1.0
    assert least_holding(EncodedStudy(problem(desired=1.0), [])) == 0.0


# Probabilities.


def peaked(*bins: int) -> np.ndarray:
    """Logits of candidates that are predicted to fall into these bins."""
    logits = np.full((len(bins), tokens.NUM_OUTPUTS), -30.0, np.float32)
    logits[np.arange(len(bins)), list(bins)] = 10.0
    return logits


def measured(values, threshold) -> Metric:
    scaling = objective.Scaling(0.0, 1.0)
    shown = np.arange(len(values))
    none = np.zeros(0, np.int32)
    reported = Reported(none[:, None], none, none, none)
    return Metric(Objective(np.array(values), none, shown, scaling, reported, 1.0, 1), None, threshold)


def test_the_probability_of_holding_is_the_share_above_the_threshold():
    edge = 500
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, tokens.NUM_OUTPUTS)).astype(np.float32) * 3
    metric = measured([0.0, 1.0], float(EDGES[edge]))
    expected = 1.0 - Prediction.from_logits(logits, metric.values.scaling, 1.0).cdf(float(EDGES[edge]))
    np.testing.assert_allclose(metric.holds(logits), expected, atol=1e-5)
    np.testing.assert_array_less(measured([], 0.5).holds(logits), 1.1)
    assert (measured([np.nan], 0.5).holds(logits) == 1.0).all(), "nothing is known of the metric"
    assert (measured([0.0], np.inf).holds(logits) < 1e-3).all()
    assert (measured([0.0], -np.inf).holds(logits) == 1.0).all()


def test_values_just_at_the_threshold_are_safe():
    threshold = float((EDGES[400] + EDGES[401]) / 2)
    assert measured([0.0, 1.0], threshold).holds(peaked(400))[0] == pytest.approx(0.5, abs=1e-3)
    assert measured([0.0, threshold], threshold).holds(peaked(400))[0] == pytest.approx(1.0, abs=1e-3)
    assert measured([0.0, threshold], threshold).holds(peaked(399))[0] == pytest.approx(0.0, abs=1e-3)


# Hypervolume.


def test_the_expected_gain_is_that_of_samples():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 6, tokens.NUM_OUTPUTS)) * 2
    logits[:, :, :200] -= 30.0  # no outcome far out, where samples are few
    logits[:, :, 850:] -= 30.0
    front = np.array([[0.2, 0.9], [0.7, 0.4]])
    reference, limit = hypervolume.reference_point(front), np.array([2.0, 2.0])
    directions = hypervolume.random_directions(rng, 512, 2)
    survival = [_survival(each.astype(np.float32)) for each in logits]
    found = hypervolume.expected_improvement(survival, EDGES, front, reference, limit, directions, rng)
    drawn = [
        Prediction.from_logits(each, objective.Scaling(0.0, 1.0), 1.0).sample(4000, seed=k)
        for k, each in enumerate(logits)
    ]
    points = np.minimum(np.stack(drawn, axis=-1), limit)
    best = hypervolume.best_scalarized(front, reference, directions)
    scaled = np.maximum((points[..., None, :] - reference) / directions, 0.0).min(axis=-1)
    expected = np.maximum(scaled**2 - best**2, 0.0).mean(axis=(0, 2))
    np.testing.assert_allclose(found, expected, rtol=0.05)
    chance = hypervolume.probability_of_improvement(survival, EDGES, front, reference, directions)
    np.testing.assert_allclose(chance, (scaled > best).mean(axis=(0, 2)), atol=0.02)


def test_the_best_scalarizations_average_to_the_hypervolume():
    directions = hypervolume.random_directions(np.random.default_rng(1), 20_000, 2)
    front, reference = np.array([[1.0, 3.0], [2.0, 1.0]]), np.zeros(2)
    whole = (hypervolume.best_scalarized(front, reference, directions) ** 2).mean()
    one = (hypervolume.best_scalarized(front[:1], reference, directions) ** 2).mean()
    assert whole / one == pytest.approx(4.0 / 3.0, rel=0.03)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_a_point_that_is_beaten_adds_nothing(rows):
    front = np.array(rows, float)
    directions = hypervolume.random_directions(np.random.default_rng(0), 64, 3)
    reference = hypervolume.reference_point(front)
    assert (reference < front.min(axis=0)).all()
    assert (hypervolume.improvement(front, front, reference, directions) <= 1e-9).all()
    assert (hypervolume.improvement(front.max(axis=0)[None] + 1.0, front, reference, directions) > 0).all()


# The rule.


class Told:
    """A model that predicts what it is told: candidates are their own bins of each metric."""

    def __init__(self, real):
        self._real = real

    def score(self, history, rows):
        return None, peaked(*rows[:, history])

    def acquire(self, *arguments):
        return self._real.acquire(*arguments)


@pytest.fixture
def told(model):
    return Told(model._model)


def several(told, acquisition, best, objectives=1, **options) -> SeveralMetrics:
    metrics = []
    for k in range(objectives + 1):
        one = measured([-1.0, 1.0], 0.0 if k == objectives else None)
        metrics.append(Metric(one.values, k, one.threshold))
    return SeveralMetrics(told, metrics, acquisition, np.array(best, float), **options)


BAD, MEDIAN, GOOD = 100, 310, 690


@pytest.mark.parametrize("acquisition", ["ei", "pi", "ucb", "thompson"])
@pytest.mark.parametrize("objectives", [1, 2])
def test_an_improvement_counts_only_where_the_constraint_holds(acquisition, objectives, told):
    rows = np.array([[GOOD] * objectives + [BAD], [GOOD] * objectives + [GOOD], [BAD] * objectives + [GOOD]])
    values, logits = several(told, acquisition, [[0.5] * objectives], objectives).score(rows, 0)
    assert logits.shape == (3, objectives + 1, tokens.NUM_OUTPUTS)
    assert values.argmax() == 1
    assert np.isfinite(values).all()


def test_without_a_feasible_trial_the_likeliest_one_is_the_best(told):
    rows = np.array([[GOOD, BAD], [MEDIAN, GOOD], [GOOD, MEDIAN]])
    values, _ = several(told, FEASIBILITY, [[0.0]]).score(rows, 0)
    assert values.argmax() == 1
    assert values == pytest.approx([0.0, 1.0, 0.81], abs=0.01)


def test_a_candidate_that_is_too_likely_to_be_unsafe_comes_last(told):
    rows = np.array([[GOOD, MEDIAN], [BAD, GOOD], [GOOD, BAD]])
    free, _ = several(told, "ei", [[0.5]]).score(rows, 0)
    asked, _ = several(told, "ei", [[0.5]], least=0.9).score(rows, 0)
    assert free.argmax() == 0
    assert asked.argsort().tolist() == [2, 0, 1]


# Suggestions.


def test_suggestions_under_constraints_say_what_holds_and_are_reproducible(model):
    trials = history()
    first = model.suggest(problem(), trials, count=2, seed=3)
    assert values_of(first) == values_of(model.suggest(problem(), trials, count=2, seed=3))
    assert values_of(first) != values_of(model.suggest(problem(limits=()), trials, count=2, seed=3))
    for each in first:
        reason = said(each)
        assert reason["source"] == "ei"
        assert reason["constraints_hold"] == reason["holds:memory"]
        assert 0.0 <= float(reason["holds:memory"]) <= 1.0
        assert {"mean", "quantile_05", "infeasible", "improvement"} <= reason.keys()


@pytest.mark.parametrize("acquisition", ["ei", "pi", "ucb", "thompson", "policy"])
@pytest.mark.parametrize("objectives", [("cost",), ("cost", "time")])
def test_every_acquisition_with_constraints(model, acquisition, objectives):
    suggestions = model.suggest(problem(objectives), history(10, objectives), 2, acquisition=acquisition)
    assert len({str(row) for row in values_of(suggestions)}) == 2
    assert {said(each)["source"] for each in suggestions} == {acquisition}
    mean = "mean" if len(objectives) == 1 else "mean:time"
    assert all(math.isfinite(float(said(each)[mean])) for each in suggestions)


@pytest.mark.parametrize("objectives", [("cost",), ("cost", "time")])
def test_as_long_as_nothing_is_feasible_it_looks_for_that_and_warns(model, objectives):
    trials = history(12, objectives, memory=lambda x, y: 1e4 * (1 + x))
    (suggestion,) = model.suggest(problem(objectives), trials)
    reason = said(suggestion)
    assert reason["source"] == "feasibility"
    assert "improvement" not in reason, "there is no feasible value to improve on"
    trials = history(40, objectives, memory=lambda x, y: 9.0 + 1e-9 * x)
    memory = [float(said(each)["holds:memory"]) for each in model.suggest(problem(objectives), trials)]
    assert memory[0] <= 0.5


def test_near_certain_infeasibility_is_said(model, monkeypatch):
    monkeypatch.setattr(Metric, "holds", lambda self, logits: np.full(len(logits), 0.01, np.float32))
    (suggestion,) = model.suggest(problem(), history())
    assert said(suggestion)["warning"] == (
        "unlikely to be feasible: 'memory' is at most 8 with a probability of 0.01, and no better candidate was found"
    )


def test_a_constraint_without_any_value_changes_little_and_breaks_nothing(model):
    trials = history()
    for trial in trials:
        trial.final_measurement.metrics.pop("memory")
    (suggestion,) = model.suggest(problem(), trials)
    assert said(suggestion)["constraints_hold"] == "1.0000"
    assert said(suggestion)["source"] == "ei"


def test_with_pending_failed_and_given_values(model):
    trials = history(14)
    trials[3] = vz.Trial(id=4, parameters=trials[3].parameters)
    trials[5] = vz.Trial(id=6, parameters=trials[5].parameters).complete(
        vz.Measurement(), infeasibility_reason="crashed"
    )
    suggestions = model.suggest(problem(desired=0.9), trials, 2, given={"x": 0.25})
    assert [each.parameters["x"].value for each in suggestions] == pytest.approx([0.25] * 2, abs=1e-3)
    assert len({each.parameters["y"].value for each in suggestions}) == 2


def test_a_model_may_choose_the_first_trials_of_a_study_with_constraints(model):
    first = model.with_settings(start="model").suggest(problem(("cost", "time")), [], count=2)
    assert [said(each)["source"] for each in first] == ["ei"] * 2


def test_predictions_of_a_safety_metric_are_in_its_units(model):
    trials = history(memory=lambda x, y: 1e6 * (1 + x))
    prediction = model.predict(problem(), trials, values_of(trials[:2]), metric="memory")
    assert (prediction.quantile(0.5) > 1e5).all()
    plain = model.predict(problem(), trials, values_of(trials[:2]))
    np.testing.assert_array_equal(plain.mean, model.predict(problem(limits=()), trials, values_of(trials[:2])).mean)


def test_each_objective_is_predicted_by_itself_and_the_policy_knows_what_is_infeasible(model):
    objectives = ("cost", "time")
    study = EncodedStudy(problem(objectives), history(12, objectives))
    search = Search(model._model, model._settings, study)
    (proposal,) = search.suggest(1)
    for k, prediction in enumerate(proposal.predictions):
        assert prediction.mean == pytest.approx(search.predict(proposal.row[None], k).mean, rel=1e-4)
    focus = Objective.of(study, study.values[:, 0], 0, 100)
    told = search._policy_tokens(focus, focus.shown)
    assert ((told == tokens.INFEASIBLE) == ~study.holds).all()


def test_scalarizations_of_objectives_of_any_size():
    rng = np.random.default_rng(0)
    values, (direction,) = rng.normal(size=(20, 3)), hypervolume.random_directions(rng, 1, 3)
    values[4, 1] = np.nan
    scalarized = hypervolume.scalarize(values, direction)
    np.testing.assert_array_equal(np.isnan(scalarized), np.arange(20) == 4)
    np.testing.assert_allclose(hypervolume.scalarize(values * [1e300, 1e-300, 1.0], direction), scalarized)


def test_scalarizations_at_the_ends_of_what_floats_hold():
    largest = float(np.finfo(np.float64).max)
    values = np.array([[largest, -largest], [-largest, largest], [0.0, 0.0], [1e308, 5e-324]])
    scalarized = hypervolume.scalarize(values, np.array([0.6, 0.8]))
    assert np.isfinite(scalarized).all()
    assert scalarized[2] > max(scalarized[:2]), "in the middle of both"
