"""The Optuna sampler: values of all kinds, ranges that change, values that are given, constraints on values."""

import json
import math
import warnings

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from optformer import LinearConstraint
from optformer.serve import optuna_spaces
from optformer.serve.optuna import OptFormerSampler
from optformer.serve.optuna_trials import SUGGESTED, model_trials

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


DISTRIBUTIONS = {
    "float": FloatDistribution(-1.5, 2.0),
    "float log": FloatDistribution(1e-7, 10.0, log=True),
    "float step": FloatDistribution(0.1, 0.9, step=0.2),
    "float tiny step": FloatDistribution(0.0, 1.0, step=1e-4),
    "int": IntDistribution(-3, 12),
    "int log": IntDistribution(1, 4096, log=True),
    "int step": IntDistribution(2, 11, step=3),
    "int wide step": IntDistribution(0, 99_995, step=7),
    "choices": CategoricalDistribution(("adam", "sgd", "")),
    "bools": CategoricalDistribution((True, False, None)),
    "numbers": CategoricalDistribution((1, 1.5, "1", "None", None)),
    "many": CategoricalDistribution(tuple(range(12))),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_values_survive_the_round_trip_exactly(name):
    distribution = DISTRIBUTIONS[name]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        trial = study.ask({"p": distribution})
        value = trial.params["p"]
        domain = optuna_spaces.domain(distribution)
        back = domain.from_model(domain.to_model(domain.own(value)))
        assert type(back) is type(value)
        assert back == value
        study.tell(trial, 0.0)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_suggested_values_are_ones_that_optuna_accepts(name, model):
    distribution = DISTRIBUTIONS[name]
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    for _ in range(5):
        trial = study.ask({"p": distribution, "other": FloatDistribution(0.0, 1.0)})
        value = trial.params["p"]
        assert distribution._contains(distribution.to_internal_repr(value))
        if isinstance(distribution, CategoricalDistribution):
            assert any(value is choice for choice in distribution.choices)
        study.tell(trial, 1.0)
    assert SUGGESTED in study.trials[-1].system_attrs


@pytest.mark.parametrize(
    ("choices", "different"),
    [
        ((16, 32, 64, 64), [16, 32, 64]),
        (("a", 1, 1.0, True, None), ["a", 1, None]),
        ((False, 0, 0.0), None),
        ((float("nan"), 1, float("nan")), [math.nan, 1]),
    ],
)
def test_equal_choices_are_one_choice(choices, different, model):
    """As in Optuna, which stores the first of them."""
    found = optuna_spaces.domain(CategoricalDistribution(choices))
    if different is None:
        assert found is None
    else:
        np.testing.assert_equal(list(found.values), different)
        assert all(type(a) is type(b) for a, b in zip(found.values, different, strict=True))
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    for _ in range(8):
        trial = study.ask({"c": CategoricalDistribution(choices), "n": IntDistribution(1, 2)})
        study.tell(trial, 1.0)
    if different is not None:  # every combination comes before one comes again
        tried = [(repr(trial.params["c"]), trial.params["n"]) for trial in study.trials]
        assert len(set(tried[: 2 * len(different)])) == 2 * len(different)


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (math.nan, 1.0)])
def test_ranges_that_are_not_finite_name_study_and_parameter(low, high, model):
    study = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, seed=0))
    message = r"study 's', parameter 'rate': .* is not a range of finite numbers"
    with pytest.raises(ValueError, match=message):
        study.ask().suggest_float("rate", low, high)


def test_an_enqueued_value_of_such_a_range_names_them_in_the_next_trial(model):
    """Optuna takes an enqueued value from any range."""
    study = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, seed=0))
    study.enqueue_trial({"rate": 0.5})
    study.tell(study.ask({"rate": FloatDistribution(0.0, math.inf)}), 1.0)
    with pytest.raises(ValueError, match=r"study 's', parameter 'rate': .* is not a range of finite numbers"):
        study.ask({"rate": FloatDistribution(0.0, 1.0)})


# Ranges that change, and values that are given.


@pytest.mark.parametrize(
    ("old", "new", "united"),
    [
        (FloatDistribution(0, 1), FloatDistribution(0.5, 3), FloatDistribution(0, 3)),
        (FloatDistribution(1e-4, 1e-2, log=True), FloatDistribution(1e-3, 1, log=True), (1e-4, 1)),
        (FloatDistribution(0, 1, step=0.25), FloatDistribution(0.5, 2, step=0.25), FloatDistribution(0, 2, step=0.25)),
        (FloatDistribution(0, 1, step=0.25), FloatDistribution(0, 1, step=0.5), FloatDistribution(0, 1)),
        (IntDistribution(1, 8), IntDistribution(4, 16), IntDistribution(1, 16)),
        (IntDistribution(0, 8, step=4), IntDistribution(4, 16, step=4), IntDistribution(0, 16, step=4)),
        (IntDistribution(0, 8, step=4), IntDistribution(1, 9, step=4), IntDistribution(0, 9)),
        (FloatDistribution(0, 1), IntDistribution(0, 1), None),
        (FloatDistribution(0.1, 1), FloatDistribution(0.1, 1, log=True), None),
        (CategoricalDistribution((1, 2)), CategoricalDistribution((1, 2, 3)), None),
    ],
)
def test_ranges_of_old_and_new_trials_are_united(old, new, united):
    trials = [
        optuna.trial.create_trial(
            params={"p": each.high if hasattr(each, "high") else 1, "q": 0.5},
            distributions={"p": each, "q": FloatDistribution(0, 1)},
            value=1.0,
        )
        for each in (old, new)
    ]
    space = optuna_spaces.known_space(trials)
    if united is None:
        assert list(space.newest) == list(space.united) == ["q"]
    else:
        expected = FloatDistribution(*united, log=True) if isinstance(united, tuple) else united
        assert (space.newest["p"], space.united["p"]) == (new, expected)


@pytest.mark.parametrize(("before", "after"), [((0.0, 0.5), (0.0, 1.0)), ((0.0, 1.0), (0.75, 1.0))])
def test_a_study_goes_on_with_another_range(before, after, model):
    # The first trial of a narrower range may be sampled alone: the sampler does not know the range yet.
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0, warn_independent_sampling=after[0] == 0.0))
    for number in range(14):
        trial = study.ask()
        value = trial.suggest_float("x", *(before if number < 5 else after))
        trial.suggest_int("n", 1, 100)
        study.tell(trial, value)
    later = [json.loads(trial.system_attrs[SUGGESTED])["x"] for trial in study.trials[6:]]
    assert all(after[0] <= x <= after[1] for x in later)
    assert len(set(later)) > 2
    space = optuna_spaces.known_space(study.trials)
    known = model_trials(study.trials, optuna_spaces.domains(space.united), {}, ["objective"])
    assert all(set(trial.parameters) == {"x", "n"} for trial in known)


def test_a_study_goes_on_with_another_parameter(model, asked_of_the_model):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    calls = asked_of_the_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(8):
            trial = study.ask()
            value = trial.suggest_float("x", 0.0, 1.0)
            if number >= 4:
                value += trial.suggest_float("added", 0.0, 1.0)
            study.tell(trial, value)
    suggested = [json.loads(trial.system_attrs.get(SUGGESTED, "{}")).keys() for trial in study.trials]
    # The first trial that has it is suggested before the sampler knows of it.
    assert suggested[4:] == [{"x"}, {"x", "added"}, {"x", "added"}, {"x", "added"}]
    problem, told, _ = calls[-1]
    assert {config.name for config in problem.search_space.parameters} == {"x", "added"}
    assert [set(trial.parameters) for trial in told] == [{"x"}] * 4 + [{"x", "added"}] * 3


def fixed_study(model, trials=5):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    space = {"x": FloatDistribution(-1, 1), "kind": CategoricalDistribution(("a", "b")), "n": IntDistribution(1, 9)}
    for _ in range(trials):
        trial = study.ask(space)
        study.tell(trial, trial.params["x"])
    return study, space


def test_fixed_values_are_known_and_gone_by(model, asked_of_the_model):
    study, space = fixed_study(model)
    calls = asked_of_the_model()
    for fixed in ({"kind": "b"}, {"n": 3}):
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            study.sampler = optuna.samplers.PartialFixedSampler(fixed, study.sampler)
    for _ in range(3):
        trial = study.ask(space)
        study.tell(trial, 1.0)
        assert (trial.params["kind"], trial.params["n"]) == ("b", 3)
        assert json.loads(study.trials[-1].system_attrs[SUGGESTED])["kind"] == "b"
    for problem, trials, given in calls:
        assert given == {"kind": "b", "n": 3}
        assert len(problem.search_space.parameters) == 3
        assert all(len(trial.parameters) == 3 for trial in trials)


def test_a_point_with_some_of_the_parameters_is_filled_up(model, asked_of_the_model):
    study, space = fixed_study(model)
    calls = asked_of_the_model()
    study.enqueue_trial({"kind": "b", "x": 0.123456789})
    study.enqueue_trial({"kind": "a"})
    first, second = study.ask(space), study.ask(space)
    assert (first.params["kind"], first.params["x"]) == ("b", 0.123456789)
    assert second.params["kind"] == "a"
    assert [given for _, _, given in calls] == [{"kind": "b", "x": 0.123456789}, {"kind": "a"}]
    assert calls[1][1][-1].parameters.as_dict()["x"] == 0.123456789  # of the first, which is pending


def test_arbitrary_objects_as_choices(model):
    layers = [(64,), (64, 64), (128, 32)]
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    for _ in range(3):
        trial = study.ask()
        with pytest.warns(UserWarning, match="persistent storage"):
            chosen = trial.suggest_categorical("layers", layers)
        assert any(chosen is choice for choice in layers)
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 1.0)


def test_labels_are_distinct_whatever_the_choices():
    class Same:
        def __repr__(self):
            return "same"

    assert optuna_spaces.domain(CategoricalDistribution(("a", "b"))).labels == ["a", "b"]
    assert optuna_spaces.domain(CategoricalDistribution((1, "1"))).labels == ["1", "'1'"]
    with pytest.warns(UserWarning, match="persistent storage"):
        objects = CategoricalDistribution((Same(), Same()))
    assert optuna_spaces.domain(objects).labels == ["0: same", "1: same"]


def test_too_many_choices_are_sampled_independently(model):
    study = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, seed=0))
    space = {"many": CategoricalDistribution(tuple(range(1500))), "x": FloatDistribution(0, 1)}
    study.tell(study.ask(space), 1.0)
    alone = "study 's', parameter 'many': sampled by TPESampler, independently of the other parameters, because "
    with pytest.warns(UserWarning, match=f"{alone}it has 1500 choices, and the model supports 1000"):
        study.tell(study.ask(space), 1.0)
    for _ in range(2):  # without another warning
        study.tell(study.ask(space), 1.0)
    assert set(json.loads(study.trials[-1].system_attrs[SUGGESTED])) == {"x"}


def test_a_parameter_without_a_name_is_sampled_independently(model):
    study = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, seed=0))
    space = {"": FloatDistribution(0, 1), "x": FloatDistribution(0, 1)}
    study.tell(study.ask(space), 1.0)
    with pytest.warns(UserWarning, match="study 's', parameter '': sampled .* because its name is empty"):
        study.tell(study.ask(space), 1.0)
    study.tell(study.ask(space), 1.0)
    assert set(json.loads(study.trials[-1].system_attrs[SUGGESTED])) == {"x"}


# Constraints.


def test_constraints_hold_on_the_values_that_optuna_hands_out(model):
    """Choices are what the caller wrote, and steps finer than the model's levels are counted after rounding."""
    small, large = 64, None
    seen = []

    def steps_fit(parameters):
        seen.append(parameters["net"])
        return parameters["net"] == small or parameters["depth"] > 2

    constraints = [LinearConstraint({"fine": 1.0, "depth": 10.0}, upper=60.0), steps_fit]
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0, constraints=constraints))
    study.enqueue_trial({"fine": 1.0, "depth": 1, "net": small})

    def objective(trial):
        fine = trial.suggest_float("fine", 0.0, 50.0, step=0.01)
        depth = trial.suggest_int("depth", 1, 9)
        net = trial.suggest_categorical("net", [small, large])
        assert fine + 10.0 * depth <= 60.0
        assert net == small or depth > 2
        return -fine - depth

    study.optimize(objective, n_trials=12)
    assert len(study.trials) == 12
    assert set(seen) == {small, large}
