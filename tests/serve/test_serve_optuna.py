"""The Optuna sampler: the shared conformance suite, conversions, trial states, storages, threads."""

import json
import math
import pickle
import warnings

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from vizier import pyvizier as vz

from optformer import LinearConstraint
from optformer.inference.stopped_trials import with_final_values
from optformer.serialization.branches import Branch
from optformer.serialization.study import EncodedStudy
from optformer.serve import optuna as sampler_module
from optformer.serve import optuna_spaces, testing
from optformer.serve.optuna import REASON, SUGGESTED, OptFormerSampler, _model_trials

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


def distributions(space: vz.SearchSpace) -> dict:
    """A flat search space as an Optuna user would write it."""
    found = {}
    for config in space.parameters:
        log = config.scale_type == vz.ScaleType.LOG
        if config.type == vz.ParameterType.DOUBLE:
            found[config.name] = FloatDistribution(*config.bounds, log=log)
        elif config.type == vz.ParameterType.INTEGER:
            found[config.name] = IntDistribution(*config.bounds, log=log)
        else:
            found[config.name] = CategoricalDistribution(tuple(config.feasible_values))
    return found


def study_of(earlier: vz.ProblemAndTrials) -> optuna.Study:
    """An Optuna study with these trials."""
    study, space = optuna.create_study(study_name="earlier"), distributions(earlier.problem.search_space)
    for trial in earlier.trials:
        state = TrialState.FAIL if trial.infeasible else TrialState.COMPLETE
        value = None if trial.infeasible else trial.final_measurement.metrics["objective"].value
        params = trial.parameters.as_dict()
        study.add_trial(optuna.trial.create_trial(state=state, value=value, params=params, distributions=space))
    return study


class OptunaSession:
    def __init__(self, problem, sampler):
        goal = problem.metric_information.item().goal
        self.study = optuna.create_study(
            study_name="conformance", sampler=sampler, direction="maximize" if goal.is_maximize else "minimize"
        )
        self.distributions = distributions(problem.search_space)

    def suggest(self, count):
        trials = [self.study.ask(self.distributions) for _ in range(count)]
        return [testing.Suggested(trial, dict(trial.params)) for trial in trials]

    def complete(self, suggested, value):
        if value is None:
            self.study.tell(suggested.handle, state=TrialState.FAIL)
        else:
            self.study.tell(suggested.handle, value)


class OptunaBackend:
    conditional = False
    prior_studies = True
    beliefs = True

    def __init__(self, model, process_code=""):
        self.model, self.process_code = model, process_code

    def start(self, problem, seed, prior_studies=(), belief=None):
        earlier = [study_of(each) for each in prior_studies]
        return OptunaSession(problem, OptFormerSampler(self.model, seed=seed, prior_studies=earlier, belief=belief))


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, model, model_code):
    here = f"import sys; sys.path.insert(0, {__file__.rsplit('/', 1)[0]!r})\n"
    code = f"{model_code}\n{here}from test_serve_optuna import OptunaBackend\nbackend = OptunaBackend(model)\n"
    check(OptunaBackend(model, code))


# Conversions.

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
def test_ranges_that_are_not_finite_name_the_parameter(low, high, model):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    with pytest.raises(ValueError, match=r"parameter 'rate': .* is no range of finite numbers"):
        study.ask().suggest_float("rate", low, high)


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
    known = _model_trials(study.trials, optuna_spaces.domains(space.united), {}, ["objective"])
    assert all(set(trial.parameters) == {"x", "n"} for trial in known)


def fixed_study(model, trials=5):
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0))
    space = {"x": FloatDistribution(-1, 1), "kind": CategoricalDistribution(("a", "b")), "n": IntDistribution(1, 9)}
    for _ in range(trials):
        trial = study.ask(space)
        study.tell(trial, trial.params["x"])
    return study, space


def asked_of_the_model(model, monkeypatch):
    calls = []
    suggest = type(model).suggest

    def recorded(self, problem, trials, **options):
        calls.append((problem, self.as_told(problem, trials), options["given"]))
        return suggest(self, problem, trials, **options)

    monkeypatch.setattr(type(model), "suggest", recorded)
    return calls


def test_fixed_values_are_known_and_gone_by(model, monkeypatch):
    study, space = fixed_study(model)
    calls = asked_of_the_model(model, monkeypatch)
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


def test_a_point_with_some_of_the_parameters_is_filled_up(model, monkeypatch):
    study, space = fixed_study(model)
    calls = asked_of_the_model(model, monkeypatch)
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
    alone = "study 's', parameter 'many': sampled by TPESampler, without regard to the other parameters: "
    with pytest.warns(UserWarning, match=f"{alone}the model can tell 1000 choices apart, and it has 1500"):
        study.tell(study.ask(space), 1.0)
    for _ in range(2):  # without another warning
        study.tell(study.ask(space), 1.0)
    assert set(json.loads(study.trials[-1].system_attrs[SUGGESTED])) == {"x"}


# States, goals, objectives.


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


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -2.0, 2.0)
    kind = trial.suggest_categorical("kind", [True, False])
    n = trial.suggest_int("n", 1, 64, log=True)
    if trial.number % 5 == 3:
        raise optuna.TrialPruned
    if trial.number % 5 == 4:
        raise RuntimeError("crashed")
    return (x - 0.5) ** 2 + 0.1 * n + (0.0 if kind else 1.0)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_with_pruned_and_failed_trials(model, direction):
    study = optuna.create_study(direction=direction, sampler=OptFormerSampler(model, seed=0))
    study.optimize(objective, n_trials=14, catch=(RuntimeError,))
    assert [t.state for t in study.trials].count(TrialState.COMPLETE) == 9
    reason = json.loads(study.trials[-1].system_attrs[REASON])
    assert reason["source"] == "ei"
    assert reason["checkpoint"] == "random-tiny"
    assert float(reason["quantile_05"]) <= float(reason["quantile_95"])


def test_several_objectives(model):
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=OptFormerSampler(model, seed=0))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["loss", "speed"])
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


def test_the_model_is_given_the_tree_of_the_branches(model, monkeypatch):
    def nested(trial):
        layers = trial.suggest_int("layers", 1, 3)
        total = sum(trial.suggest_float(f"width {layer}", 0.0, 1.0) for layer in range(layers))
        if trial.suggest_categorical("kind", ["a", "b"]) == "a" and trial.suggest_categorical("more", [True, False]):
            total += trial.suggest_float("extra", 1e-3, 1.0, log=True)
        return total

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(nested, n_trials=30)
    study.sampler = OptFormerSampler(model, seed=0)
    calls = asked_of_the_model(model, monkeypatch)
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
        UserWarning, match="'y': sampled by TPESampler.*no value of another parameter says which"
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


def test_enqueued_values_draw_the_trial_to_their_branch(model, monkeypatch):
    study, define = branched_study(model)
    calls = asked_of_the_model(model, monkeypatch)
    study.enqueue_trial({"y": 0.123456789})  # under b alone
    study.enqueue_trial({"kind": "a", "y": 0.5, "n": 2})  # which a does not have
    study.optimize(define, n_trials=2)
    assert [given for _, _, given in calls] == [{"y": 0.123456789}, {"kind": "a"}]
    first, second = study.trials[-2:]
    assert (first.params["kind"], first.params["y"]) == ("b", 0.123456789)
    assert set(second.params) == {"kind", "x"}


def test_values_fixed_on_a_branch_leave_the_branch_open(model, monkeypatch):
    study, define = branched_study(model)
    calls = asked_of_the_model(model, monkeypatch)
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
    told = _model_trials(study.trials, optuna_spaces.domains(space.united), space.branches, ["objective"])
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


def test_enqueued_trials_are_run_as_they_are(model):
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
    trials = _model_trials(study.trials, optuna_spaces.domains(space), {}, ["objective"])
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
def test_pruned_trials_count_with_what_they_would_have_come_to(pruner, model, monkeypatch):
    study = optuna.create_study(study_name="pruned", sampler=OptFormerSampler(model, seed=0), pruner=pruner)
    calls = asked_of_the_model(model, monkeypatch)
    study.optimize(reporting, n_trials=14)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert len(pruned) >= 3
    best = study.best_value
    told = {trial.id - 1: trial for trial in calls[-1][1]}
    assert set(told) == set(range(13))  # of all brackets
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
    assert set(np.diff(steps).tolist()) <= {10, 11}
    assert all(each.metrics["objective"].value == 1.0 / each.steps for each in told.measurements)
    assert again[0].measurements[0] is told.measurements[0]


# Earlier studies.


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
    with pytest.raises(ValueError, match=r"study 'endless': parameter 'x': .* is no range of finite numbers"):
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


# Storages, threads, processes.


def test_a_study_resumes_from_its_database_as_if_it_had_never_stopped(model, tmp_path):
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


def test_two_threads_never_get_the_same_point(model):
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
    read, seen = sampler_module._model_trials, []

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

    monkeypatch.setattr(sampler_module, "_model_trials", late)
    first = studies[0].ask(space).params
    assert seen[0] != first
    monkeypatch.setattr(sampler_module, "_model_trials", read)
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


def test_seeds(model):
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


def test_a_belief_from_the_first_trial_on(model):
    belief = {"rate": ("log_normal", 1e-3, 2.0), "kind": {"svm": 1.0}, "c": ("normal", 0.5, 0.01)}
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0, belief=belief))

    def objective(trial):
        rate = trial.suggest_float("rate", 1e-5, 1.0, log=True)
        if trial.suggest_categorical("kind", ["forest", "svm"]) == "svm":
            return rate + trial.suggest_float("c", 0.0, 1.0)
        return rate + trial.suggest_int("depth", 1, 9)

    study.optimize(objective, n_trials=5)
    first = study.trials[0].params
    assert first["rate"] == pytest.approx(1e-3, rel=0.01)
    assert (first["kind"], first["c"]) == ("svm", pytest.approx(0.5, abs=1e-3))
    reasons = [json.loads(trial.system_attrs["optformer:reason"]) for trial in study.trials[1:]]
    assert reasons[0]["source"] == "belief"
    assert all("belief" in reason for reason in reasons)


def test_a_belief_about_what_no_trial_has_is_warned_of_once(model):
    belief = {"rat": ("log_normal", 1e-3, 2.0)}
    study = optuna.create_study(study_name="typo", sampler=OptFormerSampler(model, seed=0, belief=belief))
    study.optimize(lambda trial: trial.suggest_float("rate", 0.0, 1.0), n_trials=10)
    with pytest.warns(UserWarning, match="study 'typo': a belief is about 'rat', and none of 10 trials has") as said:
        study.optimize(lambda trial: trial.suggest_float("rate", 0.0, 1.0), n_trials=2)
    assert len(said) == 1


def test_a_belief_that_makes_no_sense_is_refused(model):
    with pytest.raises(ValueError, match="OptFormerSampler, parameter 'rate': the stddev is 0"):
        OptFormerSampler(model, belief={"rate": ("normal", 0.5, 0)})
    study = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, belief={"kind": {"tree": 1.0}}))
    with pytest.raises(ValueError, match="study 's', parameter 'kind': a belief: 'tree' is none of"):
        study.optimize(lambda trial: len(trial.suggest_categorical("kind", ["forest", "svm"])), n_trials=1)


def test_costs_are_user_attributes_or_durations(model):
    def objective(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.set_user_attr("dollars", 1.0 + x)
        return x

    for cost, least, most in (("dollars", 1.0, 2.0), ("duration", 0.0, 60.0)):
        study = optuna.create_study(sampler=OptFormerSampler(model, seed=0, cost=cost))
        study.optimize(objective, n_trials=5)
        reason = json.loads(study.trials[-1].system_attrs["optformer:reason"])
        assert least <= float(reason["cost"]) <= most
    study = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, cost="dollars"))
    study.optimize(objective, n_trials=2)
    study.add_trial(
        optuna.trial.create_trial(
            value=1.0, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, user_attrs={"dollars": "many"}
        )
    )
    with pytest.raises(ValueError, match="study 's', trial 2: its cost 'dollars' is 'many'"):
        study.optimize(objective, n_trials=1)
