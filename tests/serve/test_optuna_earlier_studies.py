"""The Optuna sampler: earlier studies."""

import json
import math
import pickle

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from optformer.inference.stopped_trials import with_final_values
from optformer.serve import testing
from optformer.serve.optuna import REASON, OptFormerSampler
from optformer.serve.optuna_trials import SUGGESTED

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


def tuned_before(directions=("minimize",)):
    """A study with branches, a range that changed, and trials of every state."""
    study = optuna.create_study(study_name="before", directions=directions, sampler=optuna.samplers.RandomSampler(0))
    for number in range(12):
        trial = study.ask()
        kind = trial.suggest_categorical("kind", ["svm", "tree"])
        rate = trial.suggest_float("rate", 1e-4, 1.0 if number < 6 else 0.5, log=True)
        size = trial.suggest_float("c", 0.0, 1.0) if kind == "svm" else trial.suggest_int("depth", 1, 9)
        if number == 3:
            study.tell(trial, state=TrialState.FAIL)
        elif number in (4, 5) and len(directions) == 1:
            trial.report(rate, 1)
            study.tell(trial, state=TrialState.PRUNED)
        elif number < 11:
            if len(directions) == 1:
                trial.report(rate, 1)
            study.tell(trial, [rate + size] * len(directions))
    return study


def test_an_earlier_study_is_told_as_what_it_is_and_read_once(model, told_earlier, monkeypatch):
    before, reads = tuned_before(), []
    sampler = OptFormerSampler(model, seed=0, prior_studies=[before])
    assert pickle.loads(pickle.dumps(sampler)) is not None
    monkeypatch.setattr(
        before, "get_trials", lambda **named: reads.append(1) or optuna.Study.get_trials(before, **named)
    )
    study = optuna.create_study(sampler=sampler)
    for _ in range(3):
        trial = study.ask({"rate": FloatDistribution(1e-3, 1.0, log=True), "depth": IntDistribution(2, 20)})
        study.tell(trial, trial.params["rate"])
    assert len(reads) == 2, "before the first trial, once for its space and once for its trials"
    (told,) = told_earlier()
    assert told.problem.metric_information.item().name == "objective"
    trials = {trial.id: trial for trial in with_final_values(told.problem, told.trials)}
    assert trials.keys() == set(range(11)), "all but the one that runs"
    assert trials[3].infeasible
    for number in (4, 5):
        assert trials[number].stopping_reason == "pruned"
        assert math.isfinite(trials[number].final_measurement.metrics["objective"].value)
    for number, frozen in enumerate(before.trials[:11]):
        shared = {name: value for name, value in frozen.params.items() if name in ("rate", "depth")}
        assert trials[number].parameters.as_dict() == shared
    assert "kind" not in told_earlier()[0].trials[0].parameters


def test_earlier_studies_with_several_objectives_and_of_other_origin(model, told_earlier):
    before = tuned_before(("minimize", "maximize"))
    other = testing.earlier_study(testing.mixed_problem())
    sampler = OptFormerSampler(model, seed=0, prior_studies=[before, other])
    study = optuna.create_study(sampler=sampler, directions=["minimize", "maximize"])
    for _ in range(3):
        trial = study.ask({"rate": FloatDistribution(1e-3, 1.0, log=True), "layers": CategoricalDistribution((2, 4))})
        study.tell(trial, [trial.params["rate"], 1.0])
    first, second = told_earlier()
    assert [metric.name for metric in first.problem.metric_information] == ["objective_0", "objective_1"]
    assert {trial.parameters["layers"].value for trial in second.trials if "layers" in trial.parameters} == {"2", "4"}


def test_what_is_no_earlier_study_is_refused(model):
    for given in ([tuned_before().trials], ["sqlite:///tuning.db"], [optuna.trial.create_trial(value=1.0)]):
        with pytest.raises(TypeError, match=r"prior_studies\[0\] is of type .*; wanted: Optuna studies"):
            OptFormerSampler(model, prior_studies=given)
    with pytest.raises(TypeError, match=r"a list of Optuna studies.*, not Study"):
        OptFormerSampler(model, prior_studies=tuned_before())
    endless = optuna.create_study(study_name="endless")
    space = {"x": FloatDistribution(0.0, float("inf"))}
    endless.add_trial(optuna.trial.create_trial(value=1.0, params={"x": 1.0}, distributions=space))
    study = optuna.create_study(sampler=OptFormerSampler(model, prior_studies=[endless]))
    with pytest.raises(ValueError, match=r"study 'endless': parameter 'x': .* is not a range of finite numbers"):
        study.ask({"x": FloatDistribution(0.0, 1.0)})


def test_the_first_trial_is_suggested_in_the_space_of_the_last_earlier_study(model):
    """As far as the new study still allows its values: another kind or range is sampled alone."""
    space = {
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "depth": FloatDistribution(0.0, 1.0),  # a whole number before
        "kind": CategoricalDistribution(("svm", "tree", "net")),
        "new": FloatDistribution(0.0, 1.0),
    }
    first = []
    for seed in (0, 0, 1):
        study = optuna.create_study(sampler=OptFormerSampler(model, seed=seed, prior_studies=[tuned_before()]))
        trials = [study.ask(space), study.ask(space)]
        suggested = [json.loads(study.trials[each.number].system_attrs[SUGGESTED]) for each in trials]
        for trial, values in zip(trials, suggested, strict=True):
            assert {"rate", "kind"} <= values.keys()
            assert trial.params["rate"] == pytest.approx(values["rate"])
            assert trial.params["kind"] == values["kind"]
            assert trial.params.keys() == space.keys()
            assert "source" in json.loads(study.trials[trial.number].system_attrs[REASON])
        assert suggested[0] != suggested[1], "the second knows the first one as pending"
        study.tell(trials[0], 1.0)
        assert study.ask(space).params.keys() == space.keys()
        first.append(trials[0].params["rate"])
    assert first[0] == first[1]


def test_a_first_trial_keeps_its_values_when_another_one_ends_meanwhile(model):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0, prior_studies=[tuned_before()]))
    first, second = study.ask(), study.ask()
    suggested = json.loads(study.trials[second.number].system_attrs[SUGGESTED])
    assert second.suggest_float("rate", 1e-4, 1.0, log=True) == pytest.approx(suggested["rate"])
    study.tell(first, first.suggest_float("rate", 1e-4, 1.0, log=True))
    assert second.suggest_categorical("kind", ["svm", "tree"]) == suggested["kind"]


def test_an_enqueued_first_trial_stays_as_it_is(model):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0, prior_studies=[tuned_before()]))
    study.enqueue_trial({"rate": 0.25})
    trial = study.ask({"rate": FloatDistribution(1e-4, 1.0, log=True)})
    assert trial.params == {"rate": 0.25}
