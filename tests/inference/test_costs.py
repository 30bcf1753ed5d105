"""What trials cost: the history that predicts it, how it cools, and which trials are then preferred."""

import math

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.inference import costs
from optformer.inference.search import Search
from optformer.serialization.study import EncodedStudy

MINIMIZE = vz.ObjectiveMetricGoal.MINIMIZE


def problem(*objectives: str) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    statement.metadata.ns("optformer")["title"] = "forest"
    for name in ("x", "y"):
        statement.search_space.root.add_float_param(name, 0.0, 1.0)
    for name in objectives or ("loss",):
        statement.metric_information.append(vz.MetricInformation(name, goal=MINIMIZE))
    return statement


def history(count: int, cost=lambda x, y: 1.0 + 100.0 * x, **further: float) -> list[vz.Trial]:
    rng, trials = np.random.default_rng(0), []
    for number in range(1, count + 1):
        x, y = map(float, rng.random(2))
        metrics = {"loss": (y - 0.5) ** 2, "size": y, "seconds": cost(x, y)} | further
        trials.append(vz.Trial(id=number, parameters={"x": x, "y": y}).complete(vz.Measurement(metrics=metrics)))
    return trials


def said(suggestion) -> dict[str, str]:
    return dict(suggestion.metadata.ns("optformer").items())


def test_the_cost_is_a_history_of_its_own_of_trials_that_came_to_their_objective():
    trials = history(7)
    del trials[0].final_measurement.metrics["seconds"]
    trials[1].stopping_reason = "pruned"
    trials[2].complete(trials[2].final_measurement, infeasibility_reason="out of memory")
    trials[3] = vz.Trial(id=4, parameters=trials[3].parameters)
    study = costs.cost_study(EncodedStudy(problem(), trials), "seconds")
    assert study is not None
    assert [trial.id for trial in study.trials] == [5, 6, 7]
    logs = [math.log(trial.final_measurement.metrics["seconds"].value) for trial in trials[4:]]
    assert (-study.values[:, 0]).tolist() == pytest.approx(logs)
    assert study.schema.study == "forest"
    assert costs.cost_study(EncodedStudy(problem(), trials[:6]), "seconds") is None, "too few"
    assert costs.cost_study(EncodedStudy(problem(), trials), "dollars") is None


def test_an_objective_is_no_cost_and_a_constraint_may_be_one():
    study = problem()
    study.metric_information.append(vz.MetricInformation("seconds", goal=MINIMIZE, safety_threshold=50.0))
    encoded = EncodedStudy(study, history(5))
    with pytest.raises(ValueError, match="study 'forest': the cost 'loss' has the name of an objective"):
        costs.cost_study(encoded, "loss")
    assert len(costs.cost_study(encoded, "seconds").trials) == 5


@pytest.mark.parametrize("bad", [0.0, -3.0, math.nan, math.inf])
def test_an_unusable_cost_counts_as_none_and_is_named(bad, caplog):
    trials = history(5)
    trials[2].final_measurement.metrics["seconds"] = bad
    study = costs.cost_study(EncodedStudy(problem(), trials), "seconds")
    assert study is not None
    assert [trial.id for trial in study.trials] == [1, 2, 4, 5]
    (message,) = caplog.messages
    assert f"study 'forest', trial 3: its cost 'seconds' is {bad!r}; a cost is a positive, finite number" in message


def test_it_cools_and_costs_nothing_at_last():
    assert costs.alpha(0) == 1.0
    assert costs.alpha(20) == 0.5
    assert costs.alpha(10_000) < 0.01


def test_acquisitions_that_cannot_be_divided(model):
    for acquisition in ("ucb", "thompson", "policy"):
        with pytest.raises(ValueError, match=f"a cost needs the acquisition 'ei' or 'pi', not '{acquisition}'"):
            model.suggest(problem(), history(4), acquisition=acquisition, cost="seconds")
    with pytest.raises(ValueError, match="cost must be the name of a metric"):
        model.suggest(problem(), [], cost="")


@pytest.mark.parametrize("acquisition", ["ei", "pi"])
def test_values_are_divided_by_the_cost(model, acquisition):
    study = EncodedStudy(problem(), history(8))
    plain = Search(model._model, model._settings, study, acquisition=acquisition)
    priced = Search(model._model, model._settings, study, acquisition=acquisition, cost="seconds")
    rows, values = study.x_tokens, np.linspace(0.0, 1.0, 8)
    predicted = priced._costs.of(rows)
    known = np.array([trial.final_measurement.metrics["seconds"].value for trial in study.trials])
    expected = values / (predicted / np.exp(np.median(np.log(known)))) ** costs.alpha(8)
    np.testing.assert_allclose(priced._weighed(values, rows, acquisition), expected)
    np.testing.assert_array_equal(plain._weighed(values, rows, acquisition), values)
    assert min(known) <= predicted.min() <= predicted.max() <= max(known)


def test_the_unit_of_the_cost_does_not_matter(model):
    in_seconds = model.suggest(problem(), history(8), 2, cost="seconds")
    in_hours = model.suggest(problem(), history(8, lambda x, y: (1.0 + 100.0 * x) / 3600.0), 2, cost="seconds")
    assert [each.parameters.as_dict() for each in in_seconds] == [each.parameters.as_dict() for each in in_hours]
    ratios = [
        float(said(one)["cost"]) / float(said(other)["cost"]) for one, other in zip(in_seconds, in_hours, strict=True)
    ]
    assert ratios == pytest.approx([3600.0] * 2, rel=1e-3)


def test_fewer_than_three_known_costs_change_nothing(model):
    trials = history(12)
    for trial in trials[2:]:
        del trial.final_measurement.metrics["seconds"]
    (told,), (alone,) = (model.suggest(problem(), trials, cost=cost) for cost in ("seconds", None))
    assert told.parameters.as_dict() == alone.parameters.as_dict()
    assert "cost" not in said(told)


def test_a_cost_that_no_trial_reports_is_named_once(model, caplog):
    for count in (9, 10, 11):
        model.suggest(problem(), history(count), cost="secnds")
    assert caplog.messages == [
        "study 'forest': none of its trials reports the cost 'secnds', so costs have no influence"
    ]


def test_it_goes_with_several_objectives_and_a_belief_and_travels_with_the_problem(model):
    statement = problem("loss", "size")
    costs.attach(statement, "seconds")
    suggestions = model.suggest(statement, history(8), 2, belief={"x": ("normal", 0.9, 0.02)})
    assert all(float(said(each)["cost"]) > 0 for each in suggestions)
    assert all(each.parameters["x"].value > 0.7 for each in suggestions)


@pytest.mark.integration
def test_a_trained_model_prefers_cheap_trials():
    from optformer import OptFormer

    trained = OptFormer.from_pretrained("default")
    trials = history(12, lambda x, y: 10.0 ** (4.0 * x))
    spent = {}
    for cost in (None, "seconds"):
        suggestions = trained.suggest(problem(), trials, 4, cost=cost)
        spent[cost] = np.mean([each.parameters["x"].value for each in suggestions])
    assert spent["seconds"] < spent[None]
    assert spent["seconds"] < 0.3
