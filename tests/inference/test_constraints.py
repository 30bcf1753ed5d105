"""Parameter constraints: what is suggested never breaks one, in easy, narrow, conditional, finite and empty regions."""

import json
import math

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import LinearConstraint
from optformer.inference.constraints import attach

pytestmark = pytest.mark.integration


def problem(*floats: str, integers=(), low=0.0, high=1.0) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    for name in floats:
        root.add_float_param(name, low, high)
    for name in integers:
        root.add_int_param(name, 0, 20)
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    statement.metadata.ns("optformer")["title"] = "bounded"
    return statement


def run(model, statement, constraints, count, acquisition="ei", value=lambda p: sum(map(float, p.values())), seed=0):
    """Parameters of a study of `count` trials whose objective pulls out of the region."""
    trials = []
    while len(trials) < count:
        for suggestion in model.suggest(
            statement, trials, count=2, acquisition=acquisition, seed=seed, constraints=constraints
        ):
            trial = suggestion.to_trial(len(trials) + 1)
            parameters = trial.parameters.as_dict()
            trials.append(trial.complete(vz.Measurement({"y": value(parameters)})))
    return [trial.parameters.as_dict() for trial in trials]


@pytest.mark.parametrize("acquisition", ["ei", "policy"])
def test_linear_inequalities_hold_exactly(model, acquisition):
    constraints = [LinearConstraint({"a": 1.0, "b": 2.0}, upper=1.0), LinearConstraint({"a": 1.0, "c": -1.0}, lower=0)]
    seen = run(model, problem("a", "b", "c"), constraints, 10, acquisition)
    assert all(p["a"] + 2.0 * p["b"] <= 1.0 and p["a"] >= p["c"] for p in seen)
    assert len({tuple(p.values()) for p in seen}) == len(seen)


def test_a_predicate_gets_plain_values_of_all_parameters(model):
    statement = problem("a")
    root = statement.search_space.root
    root.add_int_param("n", 1, 100_000, scale_type=vz.ScaleType.LOG)
    root.add_bool_param("flag")
    root.add_categorical_param("kind", ["u", "v"])
    root.add_float_param("fixed", 2.0, 2.0)
    types = set()

    def allowed(parameters):
        types.add(tuple((name, type(value)) for name, value in sorted(parameters.items())))
        return parameters["fixed"] * parameters["n"] < 100 and (parameters["flag"] or parameters["kind"] == "u")

    seen = run(model, statement, [allowed], 10, value=lambda p: p["n"])
    assert types == {(("a", float), ("fixed", float), ("flag", bool), ("kind", str), ("n", int))}
    assert all(2 * p["n"] < 100 and (p["flag"] == "True" or p["kind"] == "u") for p in seen)
    assert {p["kind"] for p in seen} == {"u", "v"}


def test_a_region_that_chance_does_not_hit_is_found_by_its_corners(model):
    """Ten parameters that add up to next to nothing: one part in 10^14 of the cube."""
    names = "abcdefghij"
    narrow = LinearConstraint(dict.fromkeys(names, 1.0), upper=0.2)
    seen = run(model, problem(*names), [narrow], 8)
    assert all(sum(p[name] for name in names) <= 0.2 for p in seen)
    assert len({tuple(p.values()) for p in seen}) == len(seen)


def test_an_equality_of_integers(model):
    equal = LinearConstraint({"m": 1, "n": 1, "o": 1}, lower=30, upper=30)
    seen = run(model, problem("a", integers="mno"), [equal], 8)
    assert all(p["m"] + p["n"] + p["o"] == 30 for p in seen)


def test_the_best_points_lie_on_the_border_and_are_reached(model):
    """The objective grows with a + b: refinement pushes against the line, and repair ends next to it."""
    statement = problem("a", "b")
    line = LinearConstraint({"a": 1.0, "b": 1.0}, upper=0.8)
    trials = []
    for number, (a, b) in enumerate(np.random.default_rng(0).random((12, 2)) * 0.4):
        trials.append(vz.Trial(id=number + 1, parameters={"a": a, "b": b}).complete(vz.Measurement({"y": a + b})))
    (suggestion,) = model.suggest(statement, trials, constraints=[line], acquisition="ucb")
    assert sum(suggestion.parameters.as_dict().values()) <= 0.8


def test_children_count_where_they_are_active(model):
    statement = problem("a")
    root = statement.search_space.root
    kind = root.add_categorical_param("kind", ["plain", "wide"])
    kind.select_values(["wide"]).add_float_param("width", 0.0, 1.0)
    constraints = [
        LinearConstraint({"a": 1.0, "width": 1.0}, upper=0.9),
        lambda p: ("width" in p) == (p["kind"] == "wide"),
    ]
    seen = run(model, statement, constraints, 16, "policy", value=lambda p: p["a"] + p.get("width", 0.0))
    assert all(p["a"] + p.get("width", 0.0) <= 0.9 for p in seen)
    assert {p["kind"] for p in seen} == {"plain", "wide"}


def test_a_finite_space_is_searched_where_it_is_allowed_and_then_repeated(model):
    statement = problem()
    statement.search_space.root.add_int_param("m", 0, 3)
    statement.search_space.root.add_int_param("n", 0, 3)
    seen = run(model, statement, [LinearConstraint({"m": 1, "n": 1}, upper=1)], 6)
    assert sorted((p["m"], p["n"]) for p in seen[:3]) == [(0, 0), (0, 1), (1, 0)]
    assert all(p["m"] + p["n"] <= 1 for p in seen)


def test_constraints_attached_to_the_problem_are_met_everywhere(model):
    statement = problem("a", "b")
    attach(statement, [LinearConstraint({"a": 1.0, "b": 1.0}, upper=0.5), LinearConstraint({"a": 1.0}, lower=0.1)])
    seen = run(model, statement, (), 10)
    assert all(p["a"] + p["b"] <= 0.5 and p["a"] >= 0.1 for p in seen)


def test_the_same_seed_gives_the_same_suggestions(model):
    constraint = [lambda p: p["a"] < p["b"]]
    assert run(model, problem("a", "b"), constraint, 8) == run(model, problem("a", "b"), constraint, 8)
    assert run(model, problem("a", "b"), constraint, 8) != run(model, problem("a", "b"), constraint, 8, seed=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [LinearConstraint({"z": 1.0}, upper=1.0)], "study 'bounded': a constraint uses 'z'"),
        (lambda: [LinearConstraint({"kind": 1.0}, upper=1.0)], "'kind', which is not numeric"),
        (lambda: [lambda p: False], "none of the 32768 configurations tried satisfies the constraints"),
        (lambda: [LinearConstraint({"a": 1.0}, upper=-1.0)], "satisfies the constraints"),
        (lambda: [lambda p: p["typo"] > 0], r"a constraint failed on \{'a': .*KeyError: 'typo'"),
        (lambda: [LinearConstraint({}, upper=1.0)], "needs finite coefficients"),
        (lambda: [LinearConstraint({"a": math.nan}, upper=1.0)], "needs finite coefficients"),
        (lambda: [LinearConstraint({"a": 1.0})], "needs bounds"),
        (lambda: [LinearConstraint({"a": 1.0}, lower=1.0, upper=0.0)], "needs bounds"),
    ],
)
def test_what_cannot_be_met_or_read_is_told(model, make, message):
    statement = problem("a", "b")
    statement.search_space.root.add_categorical_param("kind", ["u", "v"])
    with pytest.raises(ValueError, match=message):
        model.suggest(statement, [], constraints=make())


def test_a_default_that_breaks_a_constraint_and_other_mistakes(model):
    statement = problem()
    statement.search_space.root.add_float_param("a", 0.0, 1.0, default_value=0.9)
    with pytest.raises(ValueError, match="study 'bounded': the default values violate a constraint"):
        model.suggest(statement, [], constraints=[LinearConstraint({"a": 1.0}, upper=0.5)])
    # The middle stands in for parameters without a default, and gives way.
    statement.search_space.root.add_float_param("b", 0.0, 1.0)
    (suggestion,) = model.suggest(statement, [], constraints=[LinearConstraint({"a": 1.0, "b": 1.0}, upper=1.2)])
    assert suggestion.metadata.ns("optformer")["source"] == "default"
    assert suggestion.parameters.get_value("a") == pytest.approx(0.9, abs=1e-3)
    assert suggestion.parameters.get_value("a") + suggestion.parameters.get_value("b") <= 1.2
    (suggestion,) = model.suggest(statement, [], constraints=[LinearConstraint({"a": 1.0, "b": 1.0}, upper=0.8)])
    assert suggestion.metadata.ns("optformer")["source"] == "quasi-random"
    with pytest.raises(TypeError, match="not str"):
        model.suggest(statement, [], constraints=["a < 1"])
    for text in ("[", json.dumps([{"coefficients": {"a": 1}}]), json.dumps([{"upper": 1}]), '{"a": 1}'):
        statement.metadata.ns("optformer")["constraints"] = text
        with pytest.raises(ValueError, match="study 'bounded': its metadata 'constraints' cannot be read"):
            model.suggest(statement, [])
