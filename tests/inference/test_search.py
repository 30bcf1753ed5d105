"""Suggestions and predictions end to end, on a model with random weights: what must hold for any weights."""

import json
import time

import jax
import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.inference.acquisition import ACQUISITIONS, CAUTIOUS_EI
from optformer.inference.compiled import CompiledModel
from optformer.inference.history import window
from optformer.inference.prediction import UNIT
from optformer.inference.proposable import fantasies
from optformer.inference.search import QUASI_RANDOM
from optformer.inference.settings import SearchSettings
from optformer.serialization import objective, tokens
from optformer.serialization.study import EncodedStudy

pytestmark = pytest.mark.integration


def problem(goal=vz.ObjectiveMetricGoal.MAXIMIZE, metrics=("y",)) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    root.add_float_param("x", 0.0, 1.0)
    root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_int_param("depth", 1, 9)
    root.add_categorical_param("kind", ["a", "b", "c"])
    for metric in metrics:
        statement.metric_information.append(vz.MetricInformation(metric, goal=goal))
    return statement


def history(count: int, scale: float = 1.0, shift: float = 0.0, seed: int = 0, metrics=("y",)) -> list[vz.Trial]:
    rng = np.random.default_rng(seed)
    trials = []
    for index in range(count):
        parameters = {
            "x": float(rng.random()),
            "rate": float(10 ** rng.uniform(-4, 0)),
            "depth": int(rng.integers(1, 10)),
            "kind": "abc"[rng.integers(3)],
        }
        trial = vz.Trial(parameters=parameters, id=index + 1)
        values = {metric: float(scale * rng.normal() + shift) for metric in metrics}
        trials.append(trial.complete(vz.Measurement(metrics=values)))
    return trials


def plain(suggestions) -> list[dict]:
    return [suggestion.parameters.as_dict() for suggestion in suggestions]


def reasons(suggestion: vz.TrialSuggestion) -> dict[str, str]:
    return dict(suggestion.metadata.ns("optformer").items())


# Who begins.


def test_the_model_may_choose_the_first_trials(model):
    beginner = model.with_settings(start="model")
    first = beginner.suggest(problem(), [], count=3)
    assert [reasons(each)["source"] for each in first] == ["ei"] * 3
    assert not any("mean" in key for each in first for key in reasons(each)), "no unit is known yet"
    assert len({str(row) for row in plain(first)}) == 3
    assert plain(first) != plain(model.suggest(problem(), [], count=3))
    assert reasons(beginner.suggest(problem(), history(1))[0])["source"] == "ei"
    with pytest.raises(ValueError, match="start must be 'auto', 'quasi-random' or 'model', not 'random'"):
        model.with_settings(start="random")


@pytest.mark.parametrize(
    ("card", "source"),
    [
        ({}, "quasi-random"),
        ({"train_config": {"prior": {"blind_rate": 0.0}, "augmentation": None}}, "quasi-random"),
        ({"train_config": {"prior": {"blind_rate": 0.03}}}, "ei"),
        ({"train_config": {"augmentation": {"blind_rate": 0.05}}}, "ei"),
    ],
)
def test_the_card_decides_who_begins(weights, card, source):
    quick = SearchSettings(rounds=0, first_candidates=64, policy_samples=32)
    model = OptFormer(weights, card, quick)
    assert reasons(model.suggest(problem(), [])[0])["source"] == source
    assert reasons(model.with_settings(rounds=1).suggest(problem(), [])[0])["source"] == source
    other = "model" if source == "quasi-random" else "quasi-random"
    assert reasons(model.with_settings(start=other).suggest(problem(), [])[0])["source"] != source


def test_declared_defaults_come_before_the_models_choice(model):
    statement = problem()
    statement.search_space.root.add_float_param("momentum", 0.0, 1.0, default_value=0.9)
    (first,) = model.with_settings(start="model").suggest(statement, [])
    assert (reasons(first)["source"], first.parameters["momentum"].value) == ("default", pytest.approx(0.9, abs=1e-3))


# What the objective's units may change.


@pytest.mark.parametrize("acquisition", ["ei", "thompson", "policy"])
def test_suggestions_do_not_change_under_affine_maps_of_the_objective(model, acquisition):
    suggested = [
        plain(model.suggest(problem(), history(12, scale, shift), count=2, acquisition=acquisition))
        for scale, shift in ((1.0, 0.0), (1e6, -3e4), (1e-9, 0.0))
    ]
    assert suggested[0] == suggested[1] == suggested[2]


def test_predictions_follow_affine_maps_of_the_objective(model):
    candidates = [trial.parameters for trial in history(5, seed=9)]
    one = model.predict(problem(), history(12), candidates)
    other = model.predict(problem(), history(12, 250.0, -7.0), candidates)
    np.testing.assert_allclose(other.mean, 250.0 * one.mean - 7.0, rtol=1e-5)
    np.testing.assert_allclose(other.quantile([0.1, 0.9]), 250.0 * one.quantile([0.1, 0.9]) - 7.0, rtol=1e-5)
    np.testing.assert_allclose(other.log_prob(250.0 * 0.3 - 7.0), one.log_prob(0.3) - np.log(250.0), rtol=1e-5)


def test_predictions_do_not_depend_on_the_order_of_the_trials(model):
    trials, candidates = history(12), [trial.parameters for trial in history(5, seed=9)]
    one = model.predict(problem(), trials, candidates)
    other = model.predict(problem(), trials[::-1], candidates)
    np.testing.assert_allclose(other.mean, one.mean, rtol=1e-4, atol=1e-4)


def test_scored_in_parallel_or_alone_a_candidate_is_predicted_the_same(model):
    trials, candidates = history(12), [trial.parameters for trial in history(600, seed=9)]
    together = model.predict(problem(), trials, candidates)
    alone = model.predict(problem(), trials, [candidates[573]])
    np.testing.assert_allclose(together[573].log_probabilities, alone.log_probabilities, atol=1e-5)
    assert len(together) == 600
    assert len(model.predict(problem(), trials, [])) == 0


def test_minimized_predictions_are_in_user_units(model):
    prediction = model.predict(
        problem(vz.ObjectiveMetricGoal.MINIMIZE), history(12, 0.1, 5.0), [history(1, seed=9)[0].parameters]
    )
    assert prediction.sign == -1.0
    low, middle, high = prediction.quantile([0.3, 0.5, 0.7])[:, 0]
    assert 3.0 < low < middle < high < 7.0


def test_minimizing_is_maximizing_the_negative_exactly(model):
    trials, negated = history(12), history(12, scale=-1.0)
    candidates = [trial.parameters for trial in history(20, seed=9)]
    maximize, minimize = problem(vz.ObjectiveMetricGoal.MAXIMIZE), problem(vz.ObjectiveMetricGoal.MINIMIZE)
    assert plain(model.suggest(maximize, trials, count=3)) == plain(model.suggest(minimize, negated, count=3))
    up, down = model.predict(maximize, trials, candidates), model.predict(minimize, negated, candidates)
    np.testing.assert_array_equal(up.log_probabilities, down.log_probabilities)
    np.testing.assert_array_equal(up.mean, -down.mean)
    np.testing.assert_allclose(up.quantile(0.25), -down.quantile(0.75), rtol=1e-9)


# Seeds.


def test_the_same_seed_gives_the_same_suggestions_and_another_seed_others(model):
    trials = history(10)
    first = plain(model.suggest(problem(), trials, count=2, seed=5))
    assert plain(model.suggest(problem(), trials, count=2, seed=5)) == first
    assert plain(model.suggest(problem(), trials, count=2, seed=6)) != first
    assert plain(model.suggest(problem(), [], count=2, seed=5)) != plain(model.suggest(problem(), [], count=2, seed=6))
    # A batch begins as a single suggestion would.
    assert plain(model.suggest(problem(), trials, count=1, seed=5)) == first[:1]


# Beginnings.


@pytest.mark.parametrize("acquisition", ["thompson", "policy"])
def test_a_program_that_computes_in_64_bits_gets_the_same_suggestions(model, acquisition):
    suggested = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            suggested.append(plain(model.suggest(problem(), history(12), count=2, acquisition=acquisition)))
    assert suggested[0] == suggested[1]


def test_a_cold_start_is_quasi_random_until_enough_is_known(model):
    for known, expected in ((0, QUASI_RANDOM), (4, QUASI_RANDOM), (5, "ei")):
        (suggestion,) = model.suggest(problem(), history(known))
        assert reasons(suggestion)["source"] == expected
    assert len({json.dumps(p) for p in plain(model.suggest(problem(), [], count=8))}) == 8


def test_default_values_come_first(model):
    statement = vz.ProblemStatement()
    statement.search_space.root.add_float_param("x", 0.0, 1.0, default_value=0.3)
    statement.search_space.root.add_int_param("n", 1, 5)
    statement.search_space.root.add_bool_param("flag", default_value=True)
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    first, second = model.suggest(statement, [], count=2)
    assert reasons(first)["source"] == "default"
    values = first.parameters.as_dict()
    assert values["x"] == pytest.approx(0.3, abs=1e-3)
    assert (values["n"], values["flag"]) == (3, "True")
    assert reasons(second)["source"] == QUASI_RANDOM


def test_a_default_outside_its_range_is_an_error(model):
    statement = problem()
    statement.search_space.root.add_float_param("z", 0.0, 1.0, default_value=3.0)
    with pytest.raises(ValueError, match=r"'z': default value.*3\.0"):
        model.suggest(statement, [])


# Pending, infeasible, missing, constant, exhausted, fixed.


@pytest.mark.parametrize("acquisition", [*ACQUISITIONS, "policy"])
def test_a_batch_is_new_distinct_and_legal_under_every_acquisition(model, acquisition):
    trials = history(9)
    trials[3] = vz.Trial(parameters=trials[3].parameters, id=4)  # pending
    suggestions = model.suggest(problem(), trials, count=3, acquisition=acquisition)
    rows = EncodedStudy(problem(), trials).schema.encode([*suggestions, *trials])
    assert len(np.unique(rows, axis=0)) == 12
    for suggestion in suggestions:
        problem().search_space.assert_contains(suggestion.parameters)
        assert all(type(value) in (float, int, str) for value in suggestion.parameters.as_dict().values())
        found = reasons(suggestion)
        assert found["source"] == acquisition
        assert found["checkpoint"] == "random-tiny"
        assert float(found["quantile_05"]) < float(found["quantile_50"]) < float(found["quantile_95"])
        assert all(isinstance(text, str) for text in found.values())


def test_fantasies_are_pessimistic():
    logits = np.full((3, tokens.NUM_OUTPUTS), -30.0)
    best = int(objective.to_bins(np.float64(1.5), UNIT))
    poor = int(objective.to_bins(np.float64(-3.0), UNIT))
    logits[0, best] = logits[1, poor] = logits[2, tokens.INFEASIBLE] = 10.0
    median = int(objective.to_bins(np.float64(0.0), UNIT))
    assert fantasies(logits).tolist() == [median, poor, tokens.INFEASIBLE]


def test_pending_points_change_what_is_suggested_next(model):
    trials = history(9)
    (first,) = model.suggest(problem(), trials)
    (second,) = model.suggest(problem(), [*trials, first.to_trial(10)])
    assert plain([second]) != plain([first])


def test_with_only_failures_it_explores_and_then_seeks_what_is_feasible(model):
    failures = [vz.Trial(parameters=t.parameters, id=t.id) for t in history(15)]
    for trial in failures:
        trial.complete(vz.Measurement(), infeasibility_reason="crashed")
    assert reasons(model.suggest(problem(), failures[:6])[0])["source"] == QUASI_RANDOM
    found = reasons(model.suggest(problem(), failures)[0])
    assert found["source"] == "feasibility"
    assert float(found["acquisition_value"]) == pytest.approx(1.0 - float(found["infeasible"]), abs=1e-3)


def test_caution_begins_with_the_first_failure(model, monkeypatch):
    scored, score = [], CompiledModel.score

    def spy(self, history, candidates, name="ei", *others):
        scored.append(name)
        return score(self, history, candidates, name, *others)

    monkeypatch.setattr(CompiledModel, "score", spy)
    trials = history(9)
    (suggestion,) = model.suggest(problem(), trials)
    assert CAUTIOUS_EI not in scored
    trials.append(vz.Trial(trials[0].parameters, id=10).complete(vz.Measurement(), infeasibility_reason="crashed"))
    (cautious,) = model.suggest(problem(), trials)
    assert CAUTIOUS_EI in scored
    assert reasons(cautious)["source"] == reasons(suggestion)["source"] == "ei"


@pytest.mark.parametrize("value", [0.0, -7.5])
def test_constant_histories(model, value):
    suggestions = model.suggest(problem(), history(8, scale=0.0, shift=value), count=2)
    assert np.isfinite(float(reasons(suggestions[0])["mean"]))


def test_stopped_and_partly_broken_trials_are_lived_with(model):
    trials = history(10)
    trials[0] = vz.Trial(parameters=trials[0].parameters, id=1, stopping_reason="pruned").complete(vz.Measurement())
    trials[1] = vz.Trial(parameters=trials[1].parameters, id=2).complete(vz.Measurement(metrics={"y": np.nan}))
    trials[2] = vz.Trial(parameters=trials[2].parameters, id=3).complete(vz.Measurement(metrics={"y": np.inf}))
    trials[4] = vz.Trial(parameters={"x": 0.5}, id=5).complete(vz.Measurement(metrics={"y": 0.5}))  # others missing
    assert len(model.suggest(problem(), trials, count=2)) == 2


def test_a_fixed_space_has_one_suggestion(model):
    statement = vz.ProblemStatement()
    statement.search_space.root.add_float_param("x", 0.5, 0.5)
    statement.search_space.root.add_categorical_param("kind", ["only"])
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    trials = []
    for index in range(5):
        (suggestion,) = model.suggest(statement, trials)
        assert suggestion.parameters.as_dict() == {"x": 0.5, "kind": "only"}
        trials.append(suggestion.to_trial(index + 1).complete(vz.Measurement(metrics={"y": float(index)})))
    assert np.isfinite(model.predict(statement, trials, [suggestion]).mean[0])
    assert model.log_prob(statement, trials, suggestion) == 0.0


def test_a_finite_space_is_searched_without_repeats_and_then_repeated(model):
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    parent = root.add_categorical_param("model", ["tree", "line"])
    parent.select_values(["tree"]).add_int_param("depth", 1, 3)
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    trials, seen = [], []
    for index in range(6):
        (suggestion,) = model.suggest(statement, trials, acquisition="ei" if index % 2 else "policy")
        seen.append(json.dumps(suggestion.parameters.as_dict(), sort_keys=True))
        trials.append(suggestion.to_trial(index + 1).complete(vz.Measurement(metrics={"y": float(index)})))
    assert len(set(seen[:4])) == 4
    assert len(model.suggest(statement, trials, count=5)) == 5


def test_the_window_keeps_pending_best_and_newest():
    values = np.array([9.0, 1.0, np.nan, 2.0, 3.0, 8.0, 4.0, 5.0, np.nan, 6.0])
    pending = np.zeros(10, bool)
    pending[8] = True
    assert window(values, pending, 20).tolist() == list(range(10))
    assert window(values, pending, 7).tolist() == [0, 4, 5, 6, 7, 8, 9]
    assert window(values, np.ones(10, bool), 4).tolist() == [6, 7, 8, 9]


def test_many_pending_trials_leave_room_for_finished_ones():
    values, pending = np.array([9.0, 1.0, 2.0, 8.0, *[np.nan] * 16]), np.arange(20) >= 4
    assert window(values, pending, 8).tolist() == [0, 1, 2, 3, 16, 17, 18, 19]
    assert window(values, pending, 6).tolist() == [0, 2, 3, 17, 18, 19]
    assert window(values, pending, 1).tolist() == [3]
    few = np.arange(20) >= 1
    assert window(values, few, 8).tolist() == [0, *range(13, 20)], "no place is left empty"


def test_histories_beyond_the_window_are_suggested_for(weights):
    short = OptFormer(weights, settings=SearchSettings(max_trials=12, rounds=0, first_candidates=64, policy_samples=32))
    trials = history(40)
    (suggestion,) = short.suggest(problem(), trials)
    rows = EncodedStudy(problem(), trials).schema.encode([suggestion, *trials])
    assert not (rows[1:] == rows[0]).all(axis=1).any()


def test_predictions_read_more_trials_than_the_policy(weights):
    def model(most, of_policy):
        return OptFormer(weights, settings=SearchSettings(max_trials=most, policy_trials=of_policy))

    trials, asked = history(40), plain(history(2, seed=3))
    statement = problem()
    of_all, of_few = (model(most, 12).predict(statement, trials, asked).mean for most in (40, 12))
    assert not np.allclose(of_all, of_few)
    np.testing.assert_array_equal(of_all, model(40, 40).predict(statement, trials, asked).mean)
    assert model(40, 12).log_prob(statement, trials, asked[0]) != model(40, 40).log_prob(statement, trials, asked[0])
    read = model(40, 12).search(statement, trials)
    focus = read._objective(read.study, 0)
    assert len(focus.shown) == 40
    values = read.study.values[:, 0]
    np.testing.assert_array_equal(read._policy_shown(focus), window(values, np.zeros(40, bool), 12))


def test_several_objectives_take_turns(model):
    statement = problem(metrics=("accuracy", "speed"))
    trials = history(12, metrics=("accuracy", "speed"))
    suggestions = model.suggest(statement, trials, count=3)
    assert len({json.dumps(p) for p in plain(suggestions)}) == 3
    candidates = [trials[0].parameters]
    assert len(model.predict(statement, trials, candidates, metric="speed")) == 1
    with pytest.raises(ValueError, match="'accuracy', 'speed'"):
        model.predict(statement, trials, candidates)
    with pytest.raises(ValueError, match="no metric 'size'"):
        model.predict(statement, trials, candidates, metric="size")


# The policy.


def test_log_probabilities_of_a_finite_space_sum_to_one(model):
    statement = vz.ProblemStatement()
    parent = statement.search_space.root.add_categorical_param("model", ["tree", "line"])
    parent.select_values(["tree"]).add_int_param("depth", 1, 4)
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    every = [{"model": "line"}, *({"model": "tree", "depth": d} for d in range(1, 5))]
    total = sum(np.exp(model.log_prob(statement, [], candidate)) for candidate in every)
    assert total == pytest.approx(1.0, abs=1e-4)


def test_log_prob_knows_the_algorithm_and_refuses_what_is_incomplete(model):
    trials = history(6)
    one, other = (model.log_prob(problem(), trials, trials[0], algorithm=name) for name in ("random", "tpe"))
    assert one != other
    with pytest.raises(ValueError, match=r"lacks parameter.*depth"):
        model.log_prob(problem(), trials, {"x": 0.1, "rate": 0.01, "kind": "a"})


def test_policy_samples_follow_the_policy(model):
    statement = vz.ProblemStatement()
    statement.search_space.root.add_categorical_param("kind", ["a", "b", "c"])
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    counts = dict.fromkeys("abc", 0)
    for seed in range(150):
        counts[model.suggest(statement, [], acquisition="policy", seed=seed)[0].parameters.get_value("kind")] += 1
    for kind, count in counts.items():
        assert count / 150 == pytest.approx(np.exp(model.log_prob(statement, [], {"kind": kind})), abs=0.15)


def test_wide_spaces_have_fewer_policy_samples(model, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        CompiledModel,
        "sample",
        lambda self, history, legality, seed, count: drawn.append(count) or np.zeros((count, 1)),
    )
    for slots in (4, 64, 100, 200):
        statement = vz.ProblemStatement()
        for number in range(slots):
            statement.search_space.root.add_float_param(f"x{number}", 0.0, 1.0)
        statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
        search = model.search(statement, [])
        search._drawn(None, np.random.default_rng(0))
    assert drawn == [32, 32, 16, 8], "as many values in all"


# Mistakes.


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"acquisition": "best"}, "unknown acquisition 'best'"),
        ({"count": -1}, "count must not be negative"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_mistaken_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.suggest(problem(), [], **arguments)


def test_a_problem_without_an_objective_and_a_trial_outside_the_space(model):
    with pytest.raises(ValueError, match="no objective metric"):
        model.suggest(problem(metrics=()), [])
    trials = history(3)
    trials[1].parameters["x"] = 7.0
    with pytest.raises(ValueError, match="trial 2, parameter 'x'"):
        model.suggest(problem(), trials)


@pytest.mark.parametrize("fields", [{"max_trials": 0}, {"rounds": -1}, {"global_share": 2.0}])
def test_mistaken_settings(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        SearchSettings(**fields)


def test_a_growing_study_compiles_a_handful_of_times(weights):
    model = OptFormer(weights, settings=SearchSettings(rounds=1, first_candidates=64, policy_samples=32))
    compiled = model._model
    for count in (5, 7, 9, 12, 14):
        model.suggest(problem(), history(count), count=2)
    sizes = {name: function.func._cache_size() for (name, _), function in compiled._functions.items()}
    # Of many candidates, and of the few that are pending.
    assert sizes == {"_encode": 1, "_logits": 2, "_acquisition": 2, "_sample": 1}
    model.suggest(problem(), history(9), acquisition="ucb")
    sizes = {name: function.func._cache_size() for (name, _), function in compiled._functions.items()}
    assert sizes["_logits"] == 2, "another acquisition does not compile the model again"


@pytest.mark.slow
def test_the_time_of_a_suggestion_grows_about_linearly_with_the_parameters(model):
    def seconds(count: int) -> float:
        many = vz.ProblemStatement()
        for index in range(count):
            many.search_space.root.add_float_param(f"w{index}", -1.0, 1.0)
        many.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MINIMIZE))
        rng, known = np.random.default_rng(0), []
        for number in range(1, 10):
            values = {f"w{index}": value for index, value in enumerate(rng.uniform(-1, 1, count))}
            measured = vz.Measurement(metrics={"y": sum(values.values())})
            known.append(vz.Trial(id=number, parameters=values).complete(measured))
        took = []
        for seed in range(4):  # the first one compiles
            before = time.process_time()
            model.suggest(many, known, seed=seed)
            took.append(time.process_time() - before)
        return min(took[1:])

    assert seconds(160) < 8 * seconds(40)  # 4 if linear, 16 if quadratic
