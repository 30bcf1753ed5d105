"""The reasons of a suggestion, as strings."""

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.inference.prediction import UNIT, Prediction
from optformer.inference.proposable import Proposal
from optformer.inference.reasons import reasons
from optformer.serialization import tokens
from optformer.serialization.study import EncodedStudy

ROW = np.zeros(1, np.int32)
MINIMIZE, MAXIMIZE = vz.ObjectiveMetricGoal.MINIMIZE, vz.ObjectiveMetricGoal.MAXIMIZE


def study(objectives=("loss",), limits=(), trials=()) -> EncodedStudy:
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    for name in objectives:
        problem.metric_information.append(vz.MetricInformation(name, goal=MINIMIZE))
    for name, goal in limits:
        problem.metric_information.append(vz.MetricInformation(name, goal=goal, safety_threshold=8.0))
    known = [
        vz.Trial(id=number, parameters={"x": 0.5}).complete(vz.Measurement(metrics=metrics))
        for number, metrics in enumerate(trials, 1)
    ]
    return EncodedStudy(problem, known)


def prediction() -> Prediction:
    """Nearly certain to be between the median and the best value, 0 and -1 in user units, and not to fail."""
    logits = np.full((1, tokens.NUM_OUTPUTS), -50.0)
    logits[0, 400:600] = 0.0
    return Prediction.from_logits(logits, UNIT, -1.0)


def test_without_a_prediction_there_is_only_the_source():
    assert reasons(study(), Proposal(ROW, "quasi-random")) == {"source": "quasi-random"}


def test_one_objective():
    proposal = Proposal(ROW, "ei", value=0.125, predictions=(prediction(),), belief=0.5, cost=12.0)
    found = reasons(study(), proposal)
    assert (found["acquisition_value"], found["belief"], found["cost"]) == ("0.125", "0.5", "12")
    low, middle, high = (float(found[f"quantile_{each}"]) for each in ("05", "50", "95"))
    assert low < middle < high
    assert low < float(found["mean"]) < high
    assert found["infeasible"] == "0.0000"
    assert "improvement" not in found, "there is no value to improve on"
    assert reasons(study(trials=[{"loss": 1e6}]), proposal)["improvement"] == "1.0000"
    assert reasons(study(trials=[{"loss": -1e6}]), proposal)["improvement"] == "0.0000"


def test_keys_of_several_objectives_have_their_names():
    found = reasons(study(("loss", "time")), Proposal(ROW, "ei", predictions=(prediction(), prediction())))
    assert {f"{key}:{name}" for key in ("mean", "quantile_05", "infeasible") for name in ("loss", "time")} < set(found)
    assert "mean" not in found


@pytest.mark.parametrize("goal, side", [(MINIMIZE, "at most"), (MAXIMIZE, "at least")])
def test_constraints_on_outcomes(goal, side):
    limited = study(limits=[("memory", goal), ("heat", goal)])
    found = reasons(limited, Proposal(ROW, "ei", holds=(0.5, 0.25)))
    assert (found["constraints_hold"], found["holds:memory"], found["holds:heat"]) == ("0.1250", "0.5000", "0.2500")
    assert "warning" not in found
    found = reasons(limited, Proposal(ROW, "ei", holds=(0.01, 0.9)))
    assert found["warning"] == (
        f"unlikely to be feasible: 'memory' is {side} 8 with a probability of 0.01, and no better candidate was found"
    )
