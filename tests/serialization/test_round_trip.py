"""Hypothesis: whatever the search space, tokens to trials to tokens is the identity, and so is the way back."""

import copy
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.objective import objective_tokens
from optformer.serialization.space import OBSERVED, StudySchema

SCALES = st.sampled_from([None, *vz.ScaleType])
LOGARITHMIC = (vz.ScaleType.LOG, vz.ScaleType.REVERSE_LOG)


@st.composite
def parameters(draw, name: str, depth: int) -> vz.ParameterConfig:
    """A parameter of any type and scale with children down to `depth`."""
    scale = draw(SCALES)
    kind = draw(st.sampled_from(["double", "integer", "wide", "discrete", "categorical", "boolean", "fixed"]))
    external = vz.ExternalType.INTERNAL
    if kind == "double":
        low = 10.0 ** draw(st.integers(-8, 3))
        high = low * 10.0 ** draw(st.sampled_from([0.1, 1, 3, 7]))
        if scale not in LOGARITHMIC and draw(st.booleans()):
            low = -high / 3
        return vz.ParameterConfig.factory(name, bounds=(low, high), scale_type=scale)
    if kind in ("integer", "wide"):
        low = draw(st.integers(1 if scale in LOGARITHMIC else -50, 60))
        width = draw(st.integers(1, 999) if kind == "integer" else st.integers(1000, 10**7))
        config = vz.ParameterConfig.factory(name, bounds=(low, low + width), scale_type=scale)
        choices = [low, low + 1, low + width]
    elif kind == "discrete":
        integral = draw(st.booleans())
        values = st.integers(-1000, 1000) if integral else st.floats(-1e6, 1e6)
        feasible = draw(st.lists(values, min_size=2, max_size=6, unique_by=lambda v: round(float(v), 3)))
        external = vz.ExternalType.INTEGER if integral else vz.ExternalType.FLOAT
        config = vz.ParameterConfig.factory(name, feasible_values=feasible, scale_type=scale, external_type=external)
        choices = config.feasible_values
    elif kind == "fixed":
        config = vz.ParameterConfig.factory(name, bounds=(7, 7))
        choices = [7]
    else:
        categories = (
            ["True", "False"] if kind == "boolean" else draw(st.lists(st.text(), min_size=2, max_size=5, unique=True))
        )
        external = vz.ExternalType.BOOLEAN if kind == "boolean" else external
        config = vz.ParameterConfig.factory(name, feasible_values=categories, external_type=external)
        choices = config.feasible_values
    if depth > 0 and kind != "wide":
        for index in range(draw(st.integers(0, 2))):
            # The same name with one configuration under several values, or with another under the next.
            for value in draw(st.lists(st.sampled_from(choices), max_size=2, unique=True)):
                child_name = f"{name}.{index}"
                if child_name not in config.subspace(value).parameter_names:
                    child = draw(parameters(child_name, depth - 1))
                    for other in [value, *draw(st.lists(st.sampled_from(choices), max_size=2, unique=True))]:
                        if child_name not in config.subspace(other).parameter_names:
                            config.subspace(other).add(copy.deepcopy(child))
    return config


@st.composite
def problems(draw) -> vz.ProblemStatement:
    problem = vz.ProblemStatement()
    for index in range(draw(st.integers(1, 3))):
        problem.search_space.add(draw(parameters(f"p{index}", draw(st.integers(0, 3)))))
    goal = draw(st.sampled_from([vz.ObjectiveMetricGoal.MAXIMIZE, vz.ObjectiveMetricGoal.MINIMIZE]))
    problem.metric_information.append(vz.MetricInformation("y", goal=goal))
    return problem


def legal_trial(schema: StudySchema, rng: np.random.Generator) -> list[int]:
    """Tokens drawn one by one as the legality allows; ends of the ranges often."""
    row: list[int] = []
    for levels, parent, active_when in zip(*schema.legality, strict=True):
        active = parent < 0 or (row[parent] < tokens.NUM_LEVELS and active_when[row[parent]])
        row.append(int([0, levels - 1, rng.integers(levels)][rng.integers(3)]) if active else tokens.INACTIVE)
    return row


def make_trial(schema: StudySchema, row: list[int], rng: np.random.Generator, uid: int) -> vz.Trial:
    trial = vz.Trial(id=uid, parameters=schema.decode_parameters(row))
    status = rng.integers(6)
    if status == 0:
        trial.complete(vz.Measurement(), infeasibility_reason="out of memory")
    elif status == 1:
        trial.complete(vz.Measurement(metrics={"y": [math.nan, math.inf, -math.inf][rng.integers(3)]}))
    elif status == 2:
        trial.complete(vz.Measurement(metrics={"other": 1.0}))
    elif status > 3:
        trial.complete(vz.Measurement(metrics={"y": rng.normal()}))
    return trial


EXPECTED_STATUS = {0: tokens.INFEASIBLE, 1: tokens.INFEASIBLE, 2: tokens.MISSING, 3: tokens.PENDING}


@settings(max_examples=150)
@given(problems(), st.integers(0, 2**32 - 1))
def test_legal_tokens_decode_to_trials_that_encode_to_the_same(problem, seed):
    schema = StudySchema(problem)
    rng = np.random.default_rng(seed)
    rows = [legal_trial(schema, rng) for _ in range(4)]
    trials = [make_trial(schema, row, rng, uid) for uid, row in enumerate(rows, 1)]
    encoded = schema.encode(trials)
    # Wide integer ranges have several levels for one small integer on a logarithmic scale: compare what they stand for.
    for slot in schema.slots:
        for token, expected in zip(encoded[:, slot.index], np.array(rows)[:, slot.index], strict=True):
            if expected < slot.levels:
                assert slot.values[token] == slot.values[expected]
                assert type(slot.values[token]) is type(slot.values[expected])
            else:
                assert token == expected == tokens.INACTIVE
    assert [schema.decode(row) for row in encoded] == [schema.decode(row) for row in rows]
    np.testing.assert_array_equal(schema.encode([schema.decode(row) for row in rows]), encoded)  # external types too


@settings(max_examples=60)
@given(problems(), st.integers(0, 2**32 - 1))
def test_the_legality_allows_exactly_what_is_written(problem, seed):
    schema = StudySchema(problem)
    rng = np.random.default_rng(seed)
    levels, parents, active_when = schema.legality
    for row in schema.encode([make_trial(schema, legal_trial(schema, rng), rng, uid) for uid in range(1, 5)]):
        for column, token in enumerate(row):
            parent = parents[column]
            assert parent < column
            active = parent < 0 or (row[parent] < tokens.NUM_LEVELS and active_when[column, row[parent]])
            assert (token < levels[column]) == active


@given(st.data())
def test_numbers_come_back_between_neighbouring_levels_and_bounds_exactly(data):
    config = data.draw(
        parameters("x", 0).filter(lambda c: c.type in (vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER))
    )
    problem = vz.ProblemStatement()
    problem.search_space.add(config)
    schema = StudySchema(problem)
    if not schema.slots:
        assert schema.decode([]) == {"x": 7}
        return
    (slot,) = schema.slots
    low, high = config.bounds
    numbers = st.integers(low, high) if config.type == vz.ParameterType.INTEGER else st.floats(low, high)
    for value in (low, high, data.draw(numbers)):
        (token,) = schema.encode([{"x": value}])[0]
        decoded = schema.decode([token])["x"]
        exact = config.type == vz.ParameterType.INTEGER and high - low < tokens.NUM_LEVELS
        if exact or value in (low, high):
            assert decoded == value
        neighbours = [slot.values[max(token - 1, 0)], slot.values[min(token + 1, slot.levels - 1)]]
        assert min(neighbours) <= value <= max(neighbours)


def test_every_status_is_drawn():
    """Keeps the generator above honest: all statuses occur and map to their tokens."""
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0, 1)
    problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    schema = StudySchema(problem)
    rng = np.random.default_rng(0)
    trials = [make_trial(schema, [3], rng, uid) for uid in range(60)]
    values, statuses = schema.objectives(trials)
    found = set(objective_tokens(values[:, 0], statuses, np.ones(60, bool)).tokens.tolist())
    assert set(EXPECTED_STATUS.values()) < found
    assert any(token < tokens.NUM_LEVELS for token in found)
    assert OBSERVED not in found
