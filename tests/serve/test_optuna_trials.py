"""The Optuna sampler: what the model is told of trials of every state, and of their outcomes."""

import json
import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from vizier import pyvizier as vz

from optformer.inference.stopped_trials import with_final_values
from optformer.serialization.study import EncodedStudy
from optformer.serve import optuna_spaces
from optformer.serve.optuna import REASON, OptFormerSampler
from optformer.serve.optuna_trials import SUGGESTED, model_trials

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_states_are_told_as_what_they_are():
    space = {"x": FloatDistribution(0.0, 1.0)}

    def converted(**fields):
        frozen = optuna.trial.create_trial(params={"x": 0.25}, distributions=space, **fields)
        return optuna_spaces.trial(frozen, frozen.params, optuna_spaces.domains(space), ["objective"])

    complete = converted(value=2.0)
    assert complete.final_measurement.metrics["objective"].value == 2.0
    assert converted(state=TrialState.RUNNING).status == vz.TrialStatus.ACTIVE
    pruned = converted(state=TrialState.PRUNED, intermediate_values={1: 3.0})
    assert pruned.status == vz.TrialStatus.COMPLETED
    assert not pruned.infeasible
    assert "objective" not in pruned.final_measurement.metrics
    assert converted(state=TrialState.FAIL).infeasible
    assert converted(value=math.inf).infeasible


def test_a_value_outside_a_changed_space_is_left_out():
    frozen = optuna.trial.create_trial(params={"x": 5.0}, distributions={"x": FloatDistribution(0, 9)}, value=1.0)
    narrower = optuna_spaces.domains({"x": FloatDistribution(0, 1)})
    assert not optuna_spaces.trial(frozen, frozen.params, narrower, ["objective"]).parameters
    other = optuna_spaces.domains({"x": CategoricalDistribution(("a", "b"))})
    assert not optuna_spaces.trial(frozen, frozen.params, other, ["objective"]).parameters


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_with_pruned_and_failed_trials(model, direction, objective):
    study = optuna.create_study(direction=direction, sampler=OptFormerSampler(model, seed=0))
    study.optimize(objective, n_trials=14, catch=(RuntimeError,))
    assert [t.state for t in study.trials].count(TrialState.COMPLETE) == 9
    reason = json.loads(study.trials[-1].system_attrs[REASON])
    assert reason["source"] == "ei"
    assert reason["checkpoint"] == "random-tiny"
    assert float(reason["quantile_05"]) <= float(reason["quantile_95"])


@pytest.mark.parametrize("names", [["loss", "speed"], ["score", "score"]])
def test_several_objectives(names, model):
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=OptFormerSampler(model, seed=0))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(names)
    study.optimize(lambda t: (t.suggest_float("x", 0, 1), t.suggest_float("y", 0, 1)), n_trials=8)
    assert json.loads(study.trials[-1].system_attrs[REASON])["source"] == "ei"


def constrained(trial):
    x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
    trial.set_user_attr("missing", 1 - x - y)
    if trial.number == 2:
        raise optuna.TrialPruned
    return x * x + y * y


def test_constraints_on_outcomes_are_kept_where_optuna_reads_them(model):
    by_function = OptFormerSampler(model, seed=0, constraints_func=lambda t: (t.user_attrs["missing"], -1.0))
    study = optuna.create_study(sampler=by_function)
    study.optimize(constrained, n_trials=10)
    assert all(trial.constraints["0"] == trial.user_attrs["missing"] for trial in study.trials)
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    feasible = [trial for trial in done if trial.user_attrs["missing"] <= 0]
    assert study.best_trial.number == min(feasible, key=lambda trial: trial.value).number
    reason = json.loads(study.trials[-1].system_attrs[REASON])
    assert {"constraints_hold", "holds:constraint 0", "holds:constraint 1"} <= reason.keys()

    def with_constraints(trial):
        value = constrained(trial)
        trial.set_constraint("0", trial.user_attrs["missing"])
        trial.set_constraint("1", -1.0)
        return value

    other = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    other.optimize(with_constraints, n_trials=3)
    assert [trial.params for trial in other.trials] == [trial.params for trial in study.trials[:3]]
    failing = optuna.create_study(sampler=OptFormerSampler(model, constraints_func=lambda t: (1 / 0,)))
    with pytest.raises(ZeroDivisionError):
        failing.optimize(constrained, n_trials=1)


def test_trials_say_which_constraints_they_break_whatever_their_state():
    def frozen(state, number, **constraints):
        values = 1.0 if state == TrialState.COMPLETE else None
        attributes = {f"constraints:{name}": value for name, value in constraints.items()}
        space = {"x": FloatDistribution(0, 1)}
        return optuna.trial.create_trial(
            state=state, value=values, params={"x": 0.1 * number}, distributions=space, system_attrs=attributes
        )

    study = optuna.create_study(directions=["minimize"])
    for number, (state, constraints) in enumerate(
        [
            (TrialState.COMPLETE, {"memory": 1.0}),
            (TrialState.PRUNED, {"memory": 2.0}),
            (TrialState.FAIL, {"memory": 3.0, "heat": -1.0}),
            (TrialState.COMPLETE, {}),
        ]
    ):
        study.add_trial(frozen(state, number, **constraints))
    problem, trials = optuna_spaces.problem_and_trials(study)
    encoded = EncodedStudy(problem, trials)
    assert [metric.name for metric in encoded.metrics] == ["objective", "constraint memory", "constraint heat"]
    assert encoded.holds.tolist() == [False, False, False, True]
    np.testing.assert_array_equal(encoded.safety, [[-1, np.nan], [-2, np.nan], [-3, 1], [np.nan, np.nan]])
    assert [trial.number for trial in study.get_trials()] == [trial.id for trial in trials]
    study.add_trial(frozen(TrialState.COMPLETE, 4, memory="much"))
    with pytest.raises(ValueError, match="trial 4: constraint is not a number: 'memory' is 'much'"):
        optuna_spaces.problem_and_trials(study)


def test_enqueued_trials_are_run_as_they_are(model, objective):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    study.enqueue_trial({"x": 0.125, "kind": True, "n": 4})
    study.optimize(objective, n_trials=3)
    assert study.trials[0].params == {"x": 0.125, "kind": True, "n": 4}


def test_a_running_trial_is_pending_before_its_parameters_are_stored(model):
    space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    for _ in range(4):
        study.tell(study.ask(space), 1.0)
    running = study.ask()
    running.suggest_float("x", 0.0, 1.0)  # has not come to y yet
    assert set(study.trials[-1].params) == {"x"}
    given = json.loads(study.trials[-1].system_attrs[SUGGESTED])
    trials = model_trials(study.trials, optuna_spaces.domains(space), {}, ["objective"])
    assert trials[-1].status == vz.TrialStatus.ACTIVE
    assert trials[-1].parameters.as_dict() == given


def reporting(trial):
    final = trial.suggest_float("x", -1.0, 1.0) ** 2 + 0.1 * trial.suggest_int("n", 1, 5)
    for step in range(1, 5):
        trial.report(final + math.exp(-step), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return final


@pytest.mark.parametrize(
    "pruner", [optuna.pruners.MedianPruner(n_startup_trials=3), optuna.pruners.HyperbandPruner(1, 4, 2)]
)
def test_pruned_trials_count_with_what_they_would_have_come_to(pruner, model, asked_of_the_model):
    study = optuna.create_study(study_name="pruned", sampler=OptFormerSampler(model, seed=0), pruner=pruner)
    calls = asked_of_the_model()
    study.optimize(reporting, n_trials=24)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert len(pruned) >= 3
    best = study.best_value
    told = {trial.id - 1: trial for trial in calls[-1][1]}
    assert set(told) == set(range(23))  # of all brackets
    for trial in pruned[:-1]:
        value = told[trial.number].final_measurement.metrics["objective"].value
        would_be = trial.params["x"] ** 2 + 0.1 * trial.params["n"]
        assert value == pytest.approx(max(would_be, best))
        assert told[trial.number].stopping_reason == "pruned"


def test_pruned_trials_without_a_report_have_no_value():
    space = {"x": FloatDistribution(0.0, 1.0)}
    fields = [
        {"state": TrialState.PRUNED},
        {"value": 1.0},
        {"state": TrialState.PRUNED, "intermediate_values": {0: 3.0}},
    ]
    study = optuna.create_study()
    for each in fields:
        study.add_trial(optuna.trial.create_trial(params={"x": 0.25}, distributions=space, **each))
    problem, looked_at = optuna_spaces.problem_and_trials(study)  # what is shown is what was observed
    assert [bool(trial.final_measurement.metrics) for trial in looked_at] == [False, True, False]
    finals = [trial.final_measurement.metrics for trial in with_final_values(problem, looked_at)]
    assert [each["objective"].value if each else None for each in finals] == [None, 1.0, 3.0]


def test_of_a_long_curve_a_hundred_reports_are_told():
    reports = {step: 1.0 / (step + 1) for step in range(1000)} | {1000: math.nan}
    study = optuna.create_study()
    study.add_trial(
        optuna.trial.create_trial(
            params={"x": 0.25},
            distributions={"x": FloatDistribution(0.0, 1.0)},
            value=0.001,
            intermediate_values=reports,
        )
    )
    ((told,), again) = (optuna_spaces.problem_and_trials(study)[1] for _ in range(2))
    steps = [measurement.steps for measurement in told.measurements]
    assert len(steps) == optuna_spaces.MOST_REPORTS == 100
    assert (steps[0], steps[-1]) == (1, 1000), "counted from 1"
    *gaps, last = np.diff(steps).tolist()
    assert set(gaps) <= {10, 11}
    assert last == 1, "the last but one is told, too"
    assert all(each.metrics["objective"].value == 1.0 / each.steps for each in told.measurements)
    assert again[0].measurements[0] is told.measurements[0]
