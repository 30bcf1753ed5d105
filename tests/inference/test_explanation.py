"""Why a trial was suggested: distances, changes, and what is expected, by hand."""

import json

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.explanation import explain


def problem(*goals: vz.ObjectiveMetricGoal) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    root.add_float_param("x", 0.0, 1.0)
    root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    kind = root.add_categorical_param("kind", ["a", "b"])
    kind.select_values(["b"]).add_int_param("size", 1, 5)
    for index, goal in enumerate(goals):
        statement.metric_information.append(vz.MetricInformation(f"y{index}", goal=goal))
    return statement


MINIMIZE, MAXIMIZE = vz.ObjectiveMetricGoal.MINIMIZE, vz.ObjectiveMetricGoal.MAXIMIZE


def trial(number: int, values: dict[str, float] | None, **parameters) -> vz.Trial:
    result = vz.Trial(id=number, parameters=parameters)
    if values is None:
        return result.complete(vz.Measurement(), infeasibility_reason="out of memory")
    return result.complete(vz.Measurement(metrics=values)) if values else result


TRIALS = [
    trial(1, {"y0": 3.0}, x=0.0, rate=1.0, kind="a"),
    trial(2, {"y0": 2.0}, x=1.0, rate=1e-4, kind="b", size=5),
    trial(3, None, x=0.5, rate=1e-2, kind="b", size=3),
    trial(4, {}, x=0.0, rate=1e-4, kind="b", size=1),
]


def test_neighbours_and_expectations(model):
    suggestion = vz.TrialSuggestion(parameters={"x": 0.0, "rate": 1e-4, "kind": "b", "size": 3})
    suggestion.metadata.ns("optformer")["source"] = "ei"
    told = explain(model, problem(MINIMIZE), TRIALS, suggestion, neighbours=4)
    # Distances on the parameters' own scales: the mean of four.
    assert [(near.trial, round(near.distance, 2)) for near in told.neighbours] == [
        (4, 0.12),
        (3, 0.25),
        (2, 0.38),
        (1, 0.75),
    ]
    assert [near.outcome for near in told.neighbours] == ["pending", "infeasible", {"y0": 2.0}, {"y0": 3.0}]
    assert told.neighbours[0].changes == {"size": (1, 3)}
    assert told.neighbours[3].changes == {"rate": (1.0, 1e-4), "kind": ("a", "b"), "size": (None, 3)}
    (expected,) = told.expectations
    prediction = model.predict(problem(MINIMIZE), TRIALS, [suggestion])
    np.testing.assert_allclose(
        [expected.low, expected.median, expected.high], prediction.quantile([0.05, 0.5, 0.95])[:, 0]
    )
    assert (expected.best, expected.best_trial) == (2.0, 2)
    assert expected.improvement == pytest.approx(prediction.probability_of_improvement(2.0)[0])
    sentences = told.sentences()
    assert sentences[0] == "Found as the highest expected improvement of all candidates."
    assert "best so far 2 (trial 2), better with " in sentences[1]
    assert sentences[2] == "Trial 4 (pending) is 12.5% away: size 1 -> 3."
    assert sentences[4] == "Trial 2 (y0 2) is 37.5% away: x 1 -> 0, size 5 -> 3."
    assert json.loads(json.dumps(told.to_dict()))["neighbours"][0]["changes"] == {"size": [1, 3]}


def test_constraints_on_outcomes_are_explained(model):
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    safety = vz.MetricInformation("memory", goal=vz.ObjectiveMetricGoal.MINIMIZE, safety_threshold=8.0)
    problem.metric_information.append(safety)
    trials = [
        vz.Trial(id=n, parameters={"x": n / 10}).complete(vz.Measurement(metrics={"loss": 1.0 / n, "memory": 2.0 * n}))
        for n in range(1, 10)
    ]
    (suggestion,) = model.suggest(problem, trials)
    explanation = explain(model, problem, trials, suggestion)
    assert explanation.expectations[0].best_trial == 4
    assert explanation.constraints.keys() == {"memory"}
    assert f"memory: meets its threshold with {explanation.constraints['memory']:.0%}." in explanation.sentences()
    assert explanation.neighbours[0].outcome.keys() == {"loss", "memory"}


def test_nothing_known_and_several_objectives(model):
    (suggestion,) = model.suggest(problem(MAXIMIZE, MINIMIZE), [])
    told = explain(model, problem(MAXIMIZE, MINIMIZE), [], suggestion)
    assert told.neighbours == ()
    assert [(each.metric, each.best, each.improvement) for each in told.expectations] == [
        ("y0", None, None),
        ("y1", None, None),
    ]
    assert "quasi-random" in told.sentences()[0]
    trials = [
        trial(1, {"y0": 1.0, "y1": 5.0}, x=0.0, rate=1.0, kind="a"),
        trial(2, {"y0": 0.0, "y1": 4.0}, x=1.0, rate=1.0, kind="a"),
    ]
    told = explain(model, problem(MAXIMIZE, MINIMIZE), trials, suggestion)
    assert [(each.best, each.best_trial) for each in told.expectations] == [(1.0, 1), (4.0, 2)]
