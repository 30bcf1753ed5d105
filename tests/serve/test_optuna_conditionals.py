"""The Optuna sampler: parameters that depend on others."""

import json
import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from optformer.serialization.branches import Branch
from optformer.serve import optuna_spaces
from optformer.serve.optuna import OptFormerSampler
from optformer.serve.optuna_trials import SUGGESTED, model_trials

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_parameters_that_depend_on_others(model):
    def branching(trial):
        if trial.suggest_categorical("model", ["svm", "forest"]) == "svm":
            return trial.suggest_float("c", 1e-3, 1e3, log=True)
        return trial.suggest_int("depth", 1, 12)

    study = optuna.create_study(sampler=OptFormerSampler(model, seed=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once each branch has been taken, nothing is left to chance
        study.optimize(branching, n_trials=12)
    assert {frozenset(t.params) for t in study.trials} == {frozenset({"model", "c"}), frozenset({"model", "depth"})}
    for trial in study.trials[8:]:
        assert json.loads(trial.system_attrs[SUGGESTED]).keys() == trial.params.keys()
    space = optuna_spaces.known_space(study.trials)
    assert space.branches == {"c": Branch("model", ("svm",)), "depth": Branch("model", ("forest",))}


def names_in(problem):
    return [config.name for config in problem.search_space.parameters]


def test_first_trials_and_branches_are_chosen_one_parameter_after_the_other(model, asked_of_the_model):
    def branching(trial):
        kind = trial.suggest_categorical("kind", ["a", "b"])
        trial.suggest_int("fixed", 3, 3)
        if kind == "b":
            return trial.suggest_float("x", 0.0, 1.0) + trial.suggest_float("y", 0.0, 1.0)
        return trial.suggest_int("n", 1, 9)

    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    study.enqueue_trial({"kind": "a"})
    study.enqueue_trial({"kind": "b"})
    calls = asked_of_the_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.optimize(branching, n_trials=2)
    first, second = study.trials
    given = [(names_in(problem), given) for problem, _, given in calls]
    label = {"kind": "a"}
    assert given[0] == (["kind", "n"], label), "the enqueued value is known, and a constant is no parameter"
    # The second trial: the whole space as known, then what the first trial did not have.
    (_, told, _), (_, told_again, _) = calls[-2:]
    assert given[-2:] == [
        (["kind", "x"], {"kind": "b"}),
        (["kind", "x", "y"], {"kind": "b", "x": pytest.approx(second.params["x"])}),
    ]
    assert [set(trial.parameters) for trial in told] == [{"kind"}], "the first trial lacks the new parameter"
    assert len(told_again) == 1
    assert set(first.params) == {"kind", "fixed", "n"}


def test_the_first_trials_depend_on_the_seed_and_on_running_trials(model):
    def ask(study):
        trial = study.ask()
        return tuple(trial.suggest_float(f"x{index}", 0.0, 1.0) for index in range(10))

    found = []
    for seed in (0, 0, 1):
        study = optuna.create_study(sampler=OptFormerSampler(model, seed=seed))
        found.append([ask(study), ask(study)])
    assert found[0] == found[1] != found[2]
    assert found[0][0] != found[0][1]


def test_trials_that_start_at_once_do_not_get_the_same_first_values(model, asked_of_the_model):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    calls = asked_of_the_model()
    older, newer = study.ask(), study.ask()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = [trial.suggest_float("x", 0.0, 1.0) for trial in (newer, older)]
    assert len(calls) == 1, "the newer one is sampled independently, because the older one has not come to x"
    assert values[0] != values[1]
    assert newer.suggest_float("y", 0.0, 1.0) != older.suggest_float("y", 0.0, 1.0)


def test_the_model_is_given_the_tree_of_the_branches(model, asked_of_the_model):
    def nested(trial):
        layers = trial.suggest_int("layers", 1, 3)
        total = sum(trial.suggest_float(f"width {layer}", 0.0, 1.0) for layer in range(layers))
        if trial.suggest_categorical("kind", ["a", "b"]) == "a" and trial.suggest_categorical("more", [True, False]):
            total += trial.suggest_float("extra", 1e-3, 1.0, log=True)
        return total

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(nested, n_trials=30)
    study.sampler = OptFormerSampler(model, seed=0)
    calls = asked_of_the_model()
    study.optimize(nested, n_trials=3)
    for problem, trials, _ in calls:
        roots = {config.name: config for config in problem.search_space.parameters}
        assert set(roots) == {"layers", "width 0", "kind"}
        children = {
            (str(value), child.name) for value, below in roots["layers"].subspaces() for child in below.parameters
        }
        assert children == {("2", "width 1"), ("3", "width 1"), ("3", "width 2")}
        more = roots["kind"].subspace("a").get("more")
        assert [child.name for child in more.subspace("True").parameters] == ["extra"]
        assert [set(told.parameters) for told in trials] == [set(t.params) for t in study.trials[: len(trials)]]


def test_what_no_other_parameter_tells_is_sampled_alone_with_one_warning(model):
    def moody(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        return x + (trial.suggest_float("y", 0.0, 1.0) if trial.number % 3 else 0.0)

    study = optuna.create_study(sampler=OptFormerSampler(model, seed=2))
    with pytest.warns(
        UserWarning, match="'y': sampled by TPESampler.*no value of another parameter explains which"
    ) as all_:
        study.optimize(moody, n_trials=8)
    assert len(all_) == 1
    silent = OptFormerSampler(
        model, seed=2, independent_sampler=optuna.samplers.RandomSampler(seed=0), warn_independent_sampling=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optuna.create_study(sampler=silent).optimize(moody, n_trials=8)


def test_a_wrong_branch_is_refuted_by_the_next_trial(model):
    def trial(kind, **others):
        params = {"kind": kind} | others
        distributions = {name: FloatDistribution(0.0, 1.0) for name in others}
        distributions["kind"] = CategoricalDistribution(("a", "b", "c"))
        return optuna.trial.create_trial(params=params, distributions=distributions, value=1.0)

    trials = [trial("a", y=0.5), trial("b")]
    assert optuna_spaces.known_space(trials).branches == {"y": Branch("kind", ("a",))}
    space = optuna_spaces.known_space([*trials, trial("b", y=0.25)])
    assert not space.branches
    assert list(space.newest) == ["kind"]


def branched_study(model):
    def define(trial):
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return trial.suggest_float("x", 0.0, 1.0)
        return trial.suggest_float("y", 0.0, 1.0) + 0.5 * trial.suggest_int("n", 1, 3)

    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    for kind in ("a", "b", "a", "b"):
        study.enqueue_trial({"kind": kind})
    study.optimize(define, n_trials=4)
    return study, define


def test_enqueued_values_draw_the_trial_to_their_branch(model, asked_of_the_model):
    study, define = branched_study(model)
    calls = asked_of_the_model()
    study.enqueue_trial({"y": 0.123456789})  # under b alone
    study.enqueue_trial({"kind": "a", "y": 0.5, "n": 2})  # which a does not have
    study.optimize(define, n_trials=2)
    assert [given for _, _, given in calls] == [{"y": 0.123456789}, {"kind": "a"}]
    first, second = study.trials[-2:]
    assert (first.params["kind"], first.params["y"]) == ("b", 0.123456789)
    assert set(second.params) == {"kind", "x"}


def test_values_fixed_on_a_branch_leave_the_branch_open(model, asked_of_the_model):
    study, define = branched_study(model)
    calls = asked_of_the_model()
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.sampler = optuna.samplers.PartialFixedSampler({"y": 0.5}, study.sampler)
    study.optimize(define, n_trials=2)
    study.enqueue_trial({"kind": "b"})
    study.optimize(define, n_trials=1)
    assert [given for _, _, given in calls] == [{}, {}, {"kind": "b", "y": 0.5}]
    assert all(t.params["y"] == 0.5 for t in study.trials[4:] if "y" in t.params)
    assert "y" in study.trials[-1].params


def test_a_running_trial_that_was_given_another_branch(model):
    """Announced under a tree that the trials have refuted since: what it cannot have is left out."""
    study, _ = branched_study(model)
    running = study.ask()
    study._storage.set_trial_system_attr(running._trial_id, SUGGESTED, '{"kind": "a", "x": 0.25, "y": 0.5}')
    space = optuna_spaces.known_space(study.trials)
    told = model_trials(study.trials, optuna_spaces.domains(space.united), space.branches, ["objective"])
    assert told[-1].parameters.as_dict() == {"kind": "a", "x": 0.25}
    study.tell(study.ask(), 1.0)  # the study goes on


def test_a_range_on_a_branch_that_was_narrowed(model):
    study, _ = branched_study(model)

    def narrower(trial):
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return trial.suggest_float("x", 0.5, 1.0)
        return trial.suggest_float("y", 0.0, 1.0) + 0.5 * trial.suggest_int("n", 1, 3)

    study.enqueue_trial({"kind": "a", "x": 0.75})
    for kind in "abaaba":
        study.enqueue_trial({"kind": kind})
    study.optimize(narrower, n_trials=10)
    suggested = [json.loads(trial.system_attrs[SUGGESTED]) for trial in study.trials[5:11]]
    assert [each["kind"] for each in suggested] == list("abaaba")
    assert all(each["x"] >= 0.5 for each in suggested if "x" in each)
