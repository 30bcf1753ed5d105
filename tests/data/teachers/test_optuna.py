"""Optuna's samplers behind Vizier's Designer."""

import optuna
import pytest
from vizier import algorithms as vza
from vizier import pyvizier as vz

from optformer.data.teachers.optuna import SAMPLERS, OptunaDesigner


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def conditional_problem(goal=vz.ObjectiveMetricGoal.MINIMIZE) -> vz.ProblemStatement:
    problem = vz.ProblemStatement()
    root = problem.search_space.root
    root.add_float_param("x", 0.0, 1.0)
    root.add_int_param("layers", 1, 64, scale_type=vz.ScaleType.LOG)
    root.add_discrete_param("batch", [16, 32, 64])
    root.add_categorical_param("optimizer", ["sgd", "adam"])
    root.select("optimizer", ["sgd"]).add_float_param("momentum", 0.0, 0.99)
    problem.metric_information.append(vz.MetricInformation("loss", goal=goal))
    return problem


def completed(suggestion: vz.TrialSuggestion, number: int, loss: float) -> vz.Trial:
    trial = suggestion.to_trial(number)
    trial.complete(vz.Measurement({"loss": loss}))
    return trial


@pytest.mark.parametrize("name", SAMPLERS)
def test_suggestions_lie_in_the_conditional_space(name):
    problem = conditional_problem()
    designer = OptunaDesigner(problem, name, seed=3)
    for number in range(1, 15):
        (suggestion,) = designer.suggest()
        assert ("momentum" in suggestion.parameters) == (suggestion.parameters["optimizer"].value == "sgd")
        assert 1 <= suggestion.parameters["layers"].value <= 64
        assert suggestion.parameters["batch"].value in (16, 32, 64)
        trial = completed(suggestion, number, suggestion.parameters["x"].value)
        designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())
    assert len(designer.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == 14


def test_learns_from_trials_that_others_suggested():
    problem = conditional_problem(vz.ObjectiveMetricGoal.MAXIMIZE)
    designer = OptunaDesigner(problem, "tpe", seed=0)
    trial = vz.Trial({"x": 0.5, "layers": 2, "batch": 32, "optimizer": "sgd", "momentum": 0.9}, id=7)
    trial.complete(vz.Measurement({"loss": 2.0}))
    failed = vz.Trial({"x": 0.1, "layers": 3, "batch": 16, "optimizer": "adam"}, id=8)
    failed.complete(vz.Measurement(), infeasibility_reason="diverged")
    designer.update(vza.CompletedTrials([trial, failed]), vza.ActiveTrials())
    assert designer.study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert designer.study.best_params == trial.parameters.as_dict()
    assert [t.state for t in designer.study.trials][1] == optuna.trial.TrialState.FAIL


def test_same_seed_same_suggestions():
    first, second = (OptunaDesigner(conditional_problem(), "tpe", seed=5).suggest(4) for _ in range(2))
    assert [s.parameters.as_dict() for s in first] == [s.parameters.as_dict() for s in second]
