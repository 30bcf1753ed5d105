"""What the user believes: its density, its draws, and how far suggestions follow it."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from vizier import pyvizier as vz

from optformer import LinearConstraint, OptFormer
from optformer.inference.beliefs import FLOOR, Beliefs, attach, attached, power
from optformer.inference.candidates import SlotSpace, configurations, quasi_random
from optformer.serialization.space import StudySchema


def problem(*objectives: str) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    root.add_float_param("rate", 1e-5, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_float_param("momentum", 0.0, 1.0)
    root.add_int_param("depth", 1, 8)
    root.add_discrete_param("batch", [16, 32, 64])
    root.add_bool_param("bias")
    optimizer = root.add_categorical_param("optimizer", ["adam", "lion", "sgd"])
    optimizer.select_values(["sgd"]).add_float_param("decay", 0.5, 1.0)
    for name in objectives or ("loss",):
        statement.metric_information.append(vz.MetricInformation(name, goal=vz.ObjectiveMetricGoal.MINIMIZE))
    return statement


SCHEMA = StudySchema(problem())
BELIEF = {
    "rate": ("log_normal", 1e-2, 3.0),
    "momentum": ("normal", 0.9, 0.05),
    "depth": ("uniform", 3, 6),
    "batch": {32: 2.0, 64: 1.0},
    "bias": {True: 1.0},
    "optimizer": {"adam": 3.0, "sgd": 1.0},
    "decay": ("normal", 0.5, 0.1),
}


def row_of(**values) -> np.ndarray:
    usual = {"rate": 0.01, "momentum": 0.9, "depth": 4, "batch": 32, "bias": True, "optimizer": "adam"}
    return SCHEMA.encode([usual | values])


def values_of(suggestion) -> dict:
    return suggestion.parameters.as_dict()


def said(suggestion) -> dict[str, str]:
    return dict(suggestion.metadata.ns("optformer").items())


def finished(parameters, number: int, **metrics) -> vz.Trial:
    return vz.Trial(id=number, parameters=parameters).complete(vz.Measurement(metrics=metrics))


def history(count: int) -> list[vz.Trial]:
    space, rng = SlotSpace.of(SCHEMA), np.random.default_rng(0)
    rows = configurations(quasi_random(space, 0, count, seed=1), space)
    losses, sizes = rng.normal(size=(2, count))
    return [
        finished(SCHEMA.decode_parameters(row), number, loss=loss, size=size)
        for number, (row, loss, size) in enumerate(zip(rows, losses, sizes, strict=True), 1)
    ]


# Densities.


@settings(deadline=None, max_examples=30)
@given(st.floats(1e-5, 1.0), st.floats(1e-4, 0.5), st.floats(1.5, 30.0))
def test_the_density_of_a_log_normal_belief(rate, median, factor):
    row = row_of(rate=rate)
    value = SCHEMA.decode(row[0])["rate"]
    normal = stats.norm(math.log(median), math.log(factor))
    expected = max(normal.pdf(math.log(value)) / normal.pdf(math.log(median)), FLOOR)
    found = Beliefs(SCHEMA, {"rate": ("log_normal", median, factor)}).log_density(row)
    # The highest level lies within half a step of the median.
    np.testing.assert_allclose(np.exp(found), expected, rtol=0.1)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.05, 5.0))
def test_the_density_of_a_normal_belief(momentum, mean, stddev):
    row = row_of(momentum=momentum)
    value = SCHEMA.decode(row[0])["momentum"]
    normal = stats.norm(mean, stddev)
    expected = max(normal.pdf(value) / normal.pdf(mean), FLOOR)
    found = Beliefs(SCHEMA, {"momentum": ("normal", mean, stddev)}).log_density(row)
    np.testing.assert_allclose(np.exp(found), expected, rtol=0.1)


def test_the_density_of_intervals_and_weights():
    def density(belief, **values) -> float:
        return float(np.exp(Beliefs(SCHEMA, belief).log_density(row_of(**values))[0]))

    interval = [density({"depth": ("uniform", 3, 6)}, depth=depth) for depth in range(1, 9)]
    assert interval == pytest.approx([FLOOR, FLOOR, 1, 1, 1, 1, FLOOR, FLOOR])
    batch = [density({"batch": BELIEF["batch"]}, batch=batch) for batch in (16, 32, 64)]
    assert batch == pytest.approx([FLOOR, 1.0, 0.5])
    names = [density({"optimizer": BELIEF["optimizer"]}, optimizer=name) for name in ("adam", "lion")]
    assert names == pytest.approx([1.0, FLOOR])
    assert density({"depth": {4: 1.0, 5: 2.0}}, depth=4) == pytest.approx(0.5)
    assert density({"bias": {False: 1.0, True: 4.0}}, bias=False) == pytest.approx(0.25)


def test_parameters_are_independent_and_those_that_are_inactive_count_one():
    both = Beliefs(SCHEMA, {"momentum": ("normal", 0.9, 0.1), "decay": ("normal", 0.5, 0.1)})
    alone = Beliefs(SCHEMA, {"momentum": ("normal", 0.9, 0.1)})
    inactive = row_of(momentum=0.8)
    np.testing.assert_allclose(both.log_density(inactive), alone.log_density(inactive))
    active = row_of(momentum=0.8, optimizer="sgd", decay=0.6)
    np.testing.assert_allclose(both.log_density(active), alone.log_density(active) - 0.5, atol=0.02)
    assert not Beliefs(SCHEMA, {})
    assert (Beliefs(SCHEMA, {}).log_density(active) == 0).all()


def test_draws_follow_the_belief_and_the_mode_is_its_highest_place():
    beliefs = Beliefs(SCHEMA, BELIEF)
    rows = beliefs.draws(0, 4096, seed=0)
    values = {slot.name: np.array(slot.values)[rows[:, slot.index]] for slot in SCHEMA.slots}
    logs = np.log(values["rate"])
    assert logs.mean() == pytest.approx(math.log(1e-2), abs=0.05)
    assert logs.std() == pytest.approx(math.log(3.0), abs=0.05)
    cut = stats.truncnorm(-18, 2, 0.9, 0.05)
    assert stats.kstest(values["momentum"], cut.cdf).statistic < 0.05
    assert [np.mean(values["depth"] == depth) for depth in range(2, 8)] == pytest.approx([0, *[0.25] * 4, 0], abs=0.01)
    assert np.mean(values["batch"] == 32) == pytest.approx(2 / 3, abs=0.01)
    assert set(values["bias"]) == {"True"}
    assert np.mean(values["optimizer"] == "adam") == pytest.approx(0.75, abs=0.01)
    (mode,) = beliefs.modes(rows[:1])
    found = {slot.name: slot.values[mode[slot.index]] for slot in SCHEMA.slots}
    assert found["rate"] == pytest.approx(1e-2, rel=0.01)
    assert found["momentum"] == pytest.approx(0.9, abs=1e-3)
    assert found["depth"] in (4, 5)
    assert (found["batch"], found["bias"], found["optimizer"]) == (32, "True", "adam")


def test_a_belief_travels_with_the_problem():
    statement = problem()
    attach(statement, BELIEF)
    told = Beliefs(SCHEMA, attached(statement, "s"))
    rows = np.concatenate([row_of(), row_of(rate=0.3, batch=64, bias=False, optimizer="sgd", decay=0.7)])
    np.testing.assert_array_equal(told.log_density(rows), Beliefs(SCHEMA, BELIEF).log_density(rows))
    statement.metadata.ns("optformer")["belief"] = "{"
    with pytest.raises(ValueError, match="study 's': its metadata 'belief' cannot be read"):
        attached(statement, "s")


@pytest.mark.parametrize("values", [(0.0, 5e-324), (1e-300, 1e300), (-1.7e308, 1.7e308), (1.0, 1.0 + 1e-12)])
def test_ranges_at_the_ends_of_what_floats_hold(values):
    statement = problem()
    statement.search_space.root.add_float_param("x", *values)
    schema = StudySchema(statement)
    for belief in ("normal", values[0], 1e-300), ("normal", values[1], 1e300), ("uniform", *values):
        beliefs = Beliefs(schema, {"x": belief})
        drawn = beliefs.candidates(64, seed=0)
        assert (drawn < schema.slot_levels).all()
        assert np.isfinite(beliefs.log_density(drawn)).all()
        assert (beliefs.log_density(drawn) <= 0).all()


@pytest.mark.parametrize(
    ("belief", "reason"),
    [
        ({"epochs": ("normal", 1, 1)}, "the belief names 'epochs', which is not a parameter"),
        ({"rate": ("gamma", 1, 1)}, "parameter 'rate': ('gamma', 1, 1) is not a belief"),
        ({"rate": 3.0}, "parameter 'rate': 3.0 is not a belief"),
        ({"momentum": ("normal", 0.5, 0.0)}, "parameter 'momentum': the stddev is 0.0; it must be positive"),
        ({"momentum": ("normal", math.nan, 1.0)}, "parameter 'momentum': the mean is nan, not a finite number"),
        ({"momentum": ("normal", 1.5, 1.0)}, "parameter 'momentum': the mean 1.5 is outside [0.0, 1.0]"),
        ({"momentum": ("log_normal", 0.5, 2.0)}, "parameter 'momentum': 'log_normal' needs positive values"),
        ({"momentum": ("uniform", 1.5, 2.0)}, "parameter 'momentum': none of its values lies between 1.5 and 2.0"),
        ({"momentum": ("uniform", 0.5, 0.2)}, "parameter 'momentum': low (0.5) is above high (0.2)"),
        ({"momentum": {0.5: 1.0}}, "parameter 'momentum': it has no discrete values"),
        ({"rate": ("log_normal", 0.01, 1.0)}, "parameter 'rate': the factor is 1.0; it must be above 1"),
        ({"rate": ("log_normal", -0.01, 2.0)}, "parameter 'rate': the median is -0.01; it must be positive"),
        ({"optimizer": ("normal", 0.0, 1.0)}, "parameter 'optimizer': it is categorical: give weights by value"),
        ({"optimizer": {"adam": -1.0}}, "parameter 'optimizer': the weight of 'adam' is -1.0"),
        ({"optimizer": {"adam": 0.0}}, "parameter 'optimizer': no weight is above 0"),
        ({"optimizer": {"rprop": 1.0}}, "parameter 'optimizer': 'rprop' is none of its 3 categories"),
        ({"batch": {48: 1.0}}, "parameter 'batch': 48 is none of its 3 feasible values"),
        ({"depth": {9: 1.0}}, "parameter 'depth': 9 is outside its bounds [1, 8]"),
    ],
)
def test_beliefs_that_make_no_sense(model, belief, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        model.suggest(problem(), [], belief=belief)


# Suggestions.


def test_the_first_suggestion_is_the_mode_and_two_of_three_first_ones_are_drawn(model):
    trials, sources = [], []
    for number in range(1, 7):
        (suggestion,) = model.suggest(problem(), trials, belief=BELIEF)
        sources.append(said(suggestion)["source"])
        if number == 1:
            assert float(said(suggestion)["belief"]) == 1.0
            assert values_of(suggestion)["optimizer"] == "adam"
        trials.append(finished(suggestion.parameters, number, loss=float(number)))
    assert sources == ["belief", "belief", "quasi-random"] * 2


def test_a_default_value_comes_before_the_belief(model):
    statement = problem()
    statement.search_space.root.add_float_param("x", 0.0, 1.0, default_value=0.25)
    first, second = model.suggest(statement, [], 2, belief={"x": ("normal", 0.75, 0.1)})
    assert said(first)["source"] == "default"
    assert values_of(first)["x"] == pytest.approx(0.25, abs=1e-3)
    assert abs(values_of(second)["x"] - 0.75) < 0.3


@pytest.mark.parametrize("acquisition", ["ei", "pi", "ucb", "thompson", "policy"])
def test_batches_are_drawn_to_the_belief_whatever_the_acquisition(model, acquisition):
    trials = history(12)
    belief = {"momentum": ("normal", 0.5, 0.02)}
    told = model.suggest(problem(), trials, 4, acquisition, belief=belief)
    alone = model.suggest(problem(), trials, 4, acquisition)
    distance = [np.mean([abs(values_of(each)["momentum"] - 0.5) for each in some]) for some in (told, alone)]
    assert distance[0] < distance[1]
    assert len({tuple(values_of(each).values()) for each in told}) == 4
    assert "belief" not in said(alone[0])


def test_it_goes_with_constraints_given_values_several_objectives_and_earlier_studies(model):
    statement = problem("loss", "size")
    trials = [each for each in history(24) if each.parameters["momentum"].value <= 0.6]
    for some in trials[:0], trials:
        suggestions = model.suggest(
            statement,
            some,
            3,
            constraints=[LinearConstraint({"momentum": 1.0}, upper=0.6)],
            given={"depth": 2},
            prior_studies=[vz.ProblemAndTrials(problem=statement, trials=trials)],
            belief=BELIEF,
        )
        assert all(values_of(each)["momentum"] <= 0.6 and values_of(each)["depth"] == 2 for each in suggestions)
        assert all(float(said(each)["belief"]) <= FLOOR for each in suggestions), "depth 2 is not believed"


def test_the_same_belief_gives_the_same_suggestions(model):
    first, again = (model.suggest(problem(), [], 3, belief=BELIEF) for _ in range(2))
    assert [values_of(each) for each in first] == [values_of(each) for each in again]


def test_trials_outweigh_it():
    assert power(1) == power(0) == 5.0
    assert FLOOR ** power(5) == FLOOR
    assert FLOOR ** power(1000) > 0.9


# With a trained model.


def quadratic(rate: float, momentum: float) -> float:
    return (math.log10(rate) + 2.0) ** 2 + 4.0 * (momentum - 0.8) ** 2


@pytest.fixture(scope="module")
def trained() -> OptFormer:
    return OptFormer.from_pretrained("default")


def best_values(trained, belief, count: int, seed: int) -> list[float]:
    statement = vz.ProblemStatement()
    statement.search_space.root.add_float_param("rate", 1e-5, 1.0, scale_type=vz.ScaleType.LOG)
    statement.search_space.root.add_float_param("momentum", 0.0, 1.0)
    statement.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    trials, best = [], []
    for number in range(1, count + 1):
        (suggestion,) = trained.suggest(statement, trials, belief=belief, seed=seed)
        loss = quadratic(**values_of(suggestion))
        trials.append(finished(suggestion.parameters, number, loss=loss))
        best.append(min([loss, *best[-1:]]))
    return best


@pytest.mark.integration
def test_a_right_belief_helps_at_once_and_a_wrong_one_is_outgrown(trained):
    right = {"rate": ("log_normal", 2e-2, 3.0), "momentum": ("normal", 0.75, 0.1)}
    wrong = {"rate": ("log_normal", 1e-4, 2.0), "momentum": ("normal", 0.2, 0.05)}
    told, alone = (
        np.mean([best_values(trained, each, 3, seed) for seed in range(3)], axis=0) for each in (right, None)
    )
    assert (told < alone).all()
    misled = best_values(trained, wrong, 25, seed=0)
    assert misled[0] > 4.0
    assert misled[-1] < 0.1
