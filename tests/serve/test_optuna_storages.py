"""The Optuna sampler: storages, threads, processes, seeds."""

import json
import pickle

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from optformer.serve import optuna as sampler_module
from optformer.serve import testing
from optformer.serve.optuna import REASON, OptFormerSampler

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_a_study_resumes_from_its_database_as_if_it_had_never_stopped(model, tmp_path, objective):
    def run(storage, pieces):
        for number in pieces:
            study = optuna.create_study(
                storage=storage, study_name="s", sampler=OptFormerSampler(model, seed=0), load_if_exists=True
            )
            study.optimize(objective, n_trials=number, catch=(RuntimeError,))
        return [trial.params for trial in study.trials]

    whole = run(f"sqlite:///{tmp_path}/whole.db", [10])
    parts = run(f"sqlite:///{tmp_path}/parts.db", [4, 6])
    assert whole == parts


def test_two_threads_never_get_the_same_point(model, objective):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    study.optimize(objective, n_trials=14, n_jobs=2, catch=(RuntimeError,))
    testing.assert_distinct([trial.params for trial in study.trials])


@pytest.mark.parametrize("finished_already", [False, True])
def test_processes_that_came_to_the_same_point_part(finished_already, model, tmp_path, monkeypatch):
    """Each has read the trials before the other has announced its point."""
    storage = f"sqlite:///{tmp_path}/s.db"
    space = {"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(1, 50)}
    studies = [
        optuna.create_study(
            study_name="s", storage=storage, sampler=OptFormerSampler(model, seed=0), load_if_exists=True
        )
        for _ in range(2)
    ]
    for _ in range(8):
        trial = studies[0].ask(space)
        studies[0].tell(trial, trial.params["x"] + trial.params["n"])
    read, seen = sampler_module.model_trials, []

    def late(*arguments):
        """The second process asks, from beginning to end, when the first has read the trials."""
        trials = read(*arguments)
        if not seen:
            seen.append(None)
            other = studies[1].ask(space)
            seen[0] = other.params
            if finished_already:
                studies[1].tell(other, 1.0)
        return trials

    monkeypatch.setattr(sampler_module, "model_trials", late)
    first = studies[0].ask(space).params
    assert seen[0] != first
    monkeypatch.setattr(sampler_module, "model_trials", read)
    alone = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, seed=0))
    for finished in studies[0].get_trials(states=(TrialState.COMPLETE,))[:8]:
        alone.add_trial(finished)
    assert alone.ask(space).params == seen[0]  # what both had come to


def test_a_cold_start_follows_one_sequence(model):
    """In its first dimension, of base two, every second point lies in the other half."""
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=3))
    space = {name: FloatDistribution(0.0, 1.0) for name in "abcdef"}
    for _ in range(7):
        trial = study.ask(space)
        study.tell(trial, 1.0)
    rest = study.trials[1:]  # the first is Optuna's own
    assert {json.loads(trial.system_attrs[REASON])["source"] for trial in rest} == {"quasi-random"}
    halves = [trial.params["a"] > 0.5 for trial in rest]
    assert halves in ([True, False] * 3, [False, True] * 3)


def test_seeds(model, objective):
    sampler = OptFormerSampler(model, seed=3)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=3)
    copy = pickle.loads(pickle.dumps(sampler))
    study.ask()
    space = copy.infer_relative_search_space(study, study.trials[-1])
    assert copy.sample_relative(study, study.trials[-1], space)
    before = sampler._seed
    sampler.reseed_rng()
    assert sampler._seed != before
    assert OptFormerSampler(model)._seed != OptFormerSampler(model)._seed
    assert "random-tiny" in str(sampler)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"acquisition": "best"}, "unknown acquisition"),
        ({"seed": -1}, "seed must not be negative"),
        ({"model": "no-such-model"}, "no checkpoint 'no-such-model'"),
    ],
)
def test_mistakes(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        OptFormerSampler(**({"model": model} | arguments))
