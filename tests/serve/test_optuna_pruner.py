"""The pruner for Optuna."""

import math

import optuna
import pytest

from optformer.serve import optuna_pruner
from optformer.serve.optuna_pruner import OptFormerPruner

pytestmark = pytest.mark.integration


def reporting(trial: optuna.Trial) -> float:
    end = trial.suggest_float("x", 0.0, 1.0)
    for step in range(10):
        trial.report(end + math.exp(-step), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return end + math.exp(-9)


def test_only_a_model_that_reads_reports_will_do(model, reader):
    with pytest.raises(ValueError, match="was not trained with learning curves"):
        OptFormerPruner(model)
    with pytest.raises(ValueError, match="threshold is a probability between 0 and 1, not -1"):
        OptFormerPruner(reader, threshold=-1.0)
    assert str(OptFormerPruner(reader)) == "OptFormerPruner('random-tiny', threshold=0.05)"


@pytest.mark.parametrize(("threshold", "pruned"), [(0.0, False), (1.0, True)])
def test_it_prunes_below_the_threshold(reader, threshold, pruned):
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler, pruner=OptFormerPruner(reader, threshold=threshold))
    study.optimize(reporting, n_trials=7)
    states = [trial.state for trial in study.trials]
    assert states[:4] == [optuna.trial.TrialState.COMPLETE] * 4, "too little is known"
    assert all((state == optuna.trial.TrialState.PRUNED) == pruned for state in states[4:])
    for trial in study.trials[4:] if pruned else ():
        assert trial.last_step == 3, "of ten steps the first after a third"


def test_steps_that_begin_at_0_are_counted_from_1(reader, monkeypatch):
    asked = []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=OptFormerPruner(reader))
    study.optimize(reporting, n_trials=1)
    whole = optuna_pruner.stopping
    monkeypatch.setattr(optuna_pruner, "stopping", lambda *given: asked.append(given) or whole(*given))
    study.optimize(reporting, n_trials=1)
    _, problem, trials, running, _ = asked[-1]
    assert running.id == 1
    assert [measurement.steps for measurement in running.measurements] == list(range(1, 11))
    assert [len(trial.measurements) for trial in trials] == [10, 10]
    assert problem.metric_information.item().name == "objective"


def test_a_trial_with_many_reports_is_checked_once_at_each_share(reader, monkeypatch):
    study = optuna.create_study(pruner=OptFormerPruner(reader, threshold=0.0))
    space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    curve = {step: 1.0 / step for step in range(1, 301)}
    for x in (0.1, 0.3, 0.6, 0.8):
        finished = {"params": {"x": x}, "distributions": space, "value": x}
        study.add_trial(optuna.trial.create_trial(**finished, intermediate_values=curve))
    checked = []
    predict = reader.predict_final
    monkeypatch.setattr(reader, "predict_final", lambda *given: checked.append(step) or predict(*given))
    trial = study.ask(space)
    for step, value in curve.items():
        trial.report(value, step)
        assert not trial.should_prune()
    assert checked == [100, 120, 150, 180, 210, 240, 270]


def test_a_trial_without_reports_or_parameters_goes_on(reader):
    study = optuna.create_study(pruner=OptFormerPruner(reader))
    trial = study.ask()
    assert not trial.should_prune()
    trial.report(1.0, 1)
    assert not trial.should_prune()
