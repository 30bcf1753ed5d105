"""Tokens and legality of trials; every bad input by name."""

import math
import re

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.errors import SerializationError
from optformer.serialization.space import OBSERVED, StudySchema
from tests.serialization.test_slots import tree

INACTIVE, MISSING = tokens.INACTIVE, tokens.MISSING


def conditional_problem() -> vz.ProblemStatement:
    """The tree of `test_slots`, and a fixed seed."""
    problem = vz.ProblemStatement()
    problem.metadata.ns("optformer")["study_id"] = "tree"
    tree(problem.search_space.root)
    problem.search_space.root.add_int_param("seed", 3, 3)
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    return problem


schema = StudySchema(conditional_problem())
MLP_ON = {"model": "mlp", "lr": 0.01, "width": 64, "dropout": True, "rate": 0.1, "batch": 32}
LINEAR = {"model": "linear", "batch": 16}
CNN = {"model": "cnn", "lr": 1e-4, "width": 8, "batch": 64}


def test_the_arrays_of_a_space():
    assert schema.study == "tree"
    assert len(schema) == 7
    assert [(fixed.path, fixed.value, fixed.parent) for fixed in schema.fixed] == [
        ("model=linear/l2", 0.5, 0),
        ("seed", 3, -1),
    ]
    assert schema.slot_kinds.tolist() == [4, 1, 2, 2, 4, 1, 3]
    assert schema.slot_levels.tolist() == [3, 1000, 505, 64, 2, 1000, 3]


def test_legality_arrays():
    levels, parents, active_when = schema.legality
    assert levels.tolist() == schema.slot_levels.tolist()
    assert parents.tolist() == [-1, 0, 0, 0, 0, 4, -1]
    assert active_when[[0, 6]].all()
    assert [np.flatnonzero(active_when[slot]).tolist() for slot in range(1, 6)] == [[0, 2], [0], [2], [2], [1]]


def test_encode_golden_table():
    trials = [vz.Trial(id=1, parameters=MLP_ON), vz.Trial(id=2, parameters=LINEAR), vz.Trial(id=3, parameters=CNN)]
    np.testing.assert_array_equal(
        schema.encode(trials),
        [
            [2, 666, INACTIVE, 63, 1, 0, 1],
            [1, INACTIVE, INACTIVE, INACTIVE, INACTIVE, INACTIVE, 0],
            [0, 0, 0, INACTIVE, INACTIVE, INACTIVE, 2],
        ],
    )
    assert schema.encode([]).shape == (0, 7)


def test_decode_gives_plain_values_of_external_types_and_puts_fixed_ones_back():
    decoded = schema.decode([2, 999, INACTIVE, 0, 1, 999, 2])
    assert decoded == {"model": "mlp", "lr": 0.1, "width": 1, "dropout": True, "rate": 0.6, "seed": 3, "batch": 64}
    assert [type(value) for value in decoded.values()] == [str, float, int, bool, float, int, int]
    linear = schema.decode(np.array([1, *[INACTIVE] * 5, 0]))
    assert linear == {"model": "linear", "l2": 0.5, "seed": 3, "batch": 16}
    parameters = schema.decode_parameters([2, 999, INACTIVE, 0, 0, INACTIVE, 2])
    assert isinstance(parameters, vz.ParameterDict)
    assert parameters.get_value("dropout") == "False"  # Vizier's own form
    assert parameters.get_value("batch") == 64


def test_children_of_a_fixed_parameter_are_decoded():
    problem = vz.ProblemStatement()
    problem.search_space.root.add_int_param("only", 5, 5)
    problem.search_space.root.select("only", [5]).add_float_param("x", 0, 1)
    fixed_parent = StudySchema(problem)
    assert fixed_parent.decode([999]) == {"only": 5, "x": 1.0}
    assert fixed_parent.study == "(unnamed)"


def test_auto_log_follows_the_metadata():
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 1e-3, 1)
    assert StudySchema(problem).slots[0].scale == vz.ScaleType.LOG
    problem.metadata.ns("optformer")["auto_log"] = "off"
    assert StudySchema(problem).slots[0].scale == vz.ScaleType.LINEAR


def test_values_of_internal_type_and_of_the_service_are_read_alike():
    external = schema.encode([MLP_ON])
    internal = dict(MLP_ON, dropout="True", batch=32.0, width=64.0, seed=3.0)
    stored = dict(MLP_ON, dropout=1.0)
    np.testing.assert_array_equal(schema.encode([internal]), external)
    np.testing.assert_array_equal(schema.encode([vz.TrialSuggestion(stored)]), external)
    np.testing.assert_array_equal(schema.encode([vz.ParameterDict(internal)]), external)
    np.testing.assert_array_equal(
        schema.encode([{"model": vz.ParameterValue("linear"), "batch": np.int64(16)}])[0, 6], 0
    )


def test_missing_values_and_children_of_missing_parents():
    rows = schema.encode([{}, {"batch": 16, "lr": 0.1}, {"model": "mlp", "dropout": True, "batch": None}])
    np.testing.assert_array_equal(
        rows,
        [
            [MISSING] * 7,
            [MISSING, 999, MISSING, MISSING, MISSING, MISSING, 0],
            [2, MISSING, INACTIVE, MISSING, 1, MISSING, MISSING],
        ],
    )
    assert schema.decode(rows[1]) == {"lr": 0.1, "seed": 3, "batch": 16}
    with pytest.raises(SerializationError, match="'width': several branches have this parameter"):
        schema.encode([{"width": 32}])


@pytest.mark.parametrize(
    ("parameters", "parameter", "reason"),
    [
        ({"lr": math.nan}, "lr", "nan is not a finite number"),
        ({"lr": math.inf}, "lr", "inf is not a finite number"),
        ({"lr": 0.2}, "lr", "0.2 is outside its bounds [0.0001, 0.1]"),
        ({"lr": "0.01"}, "lr", "'0.01' is not a number"),
        ({"width": 0}, "width", "0 is outside its bounds [1, 64]"),
        ({"width": 2.5}, "width", "2.5 is not an integer"),
        ({"batch": 20}, "batch", "20 is none of its 3 feasible values [16.0, 32.0, 64.0]"),
        ({"batch": math.nan}, "batch", "nan is none of its 3 feasible values"),
        ({"model": "rnn"}, "model", "'rnn' is none of its 3 categories ['cnn', 'linear', 'mlp']"),
        ({"seed": 4}, "seed", "4 is not its only feasible value 3"),
        ({"l2": 0.5}, "l2", "has a value (0.5) but is inactive: it belongs to 'model=linear/l2'"),
        ({"dropout": False}, "rate", "has a value (0.1) but is inactive"),
        ({"depth": 3}, "depth", "the search space has no parameter of this name"),
    ],
)
def test_bad_values_name_study_trial_and_parameter(parameters, parameter, reason):
    good = vz.Trial(id=1, parameters=LINEAR)
    bad = vz.Trial(id=7, parameters={**MLP_ON, **parameters})
    expected = f"study 'tree', trial 7, parameter {parameter!r}: {reason}"
    with pytest.raises(SerializationError, match=re.escape(expected)) as error:
        schema.encode([good, bad])
    assert (error.value.study, error.value.trial, error.value.parameter) == ("tree", "trial 7", parameter)
    with pytest.raises(ValueError, match=re.escape("suggestion 1 (counted from 0)")):
        schema.encode([LINEAR, {**MLP_ON, **parameters}])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([3, INACTIVE, INACTIVE, INACTIVE, INACTIVE, INACTIVE, 0], "parameter 'model': token <3> is not legal"),
        (
            [1, 5, INACTIVE, INACTIVE, INACTIVE, INACTIVE, 0],
            "'model=cnn|mlp/lr': token <5> is not legal, expected INACTIVE",
        ),
        ([0, INACTIVE, 0, INACTIVE, INACTIVE, INACTIVE, 0], "token INACTIVE is not legal, expected <0> ... <999>"),
        ([1, *[INACTIVE] * 5, -1], "token -1 is not legal"),
        ([1, *[INACTIVE] * 5, tokens.STAR], r"token * is not legal"),
        ([1, 2], "expected 7 parameter tokens, got shape (2,)"),
    ],
)
def test_illegal_tokens_are_refused(row, expected):
    with pytest.raises(SerializationError, match=re.escape(expected)):
        schema.decode(row)


def completed(metrics, **kwargs) -> vz.Trial:
    trial = vz.Trial(id=1)
    trial.complete(vz.Measurement(metrics=metrics), **kwargs)
    return trial


def test_objectives_are_larger_is_better_with_one_status_a_trial():
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0, 1)
    problem.metric_information = [
        vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE),
        vz.MetricInformation("acc", goal=vz.ObjectiveMetricGoal.MAXIMIZE),
        vz.MetricInformation("heat", goal=vz.ObjectiveMetricGoal.MINIMIZE, safety_threshold=1.0),
    ]
    two = StudySchema(problem)
    assert [metric.name for metric in two.metrics] == ["loss", "acc"]
    values, statuses = two.objectives(
        [
            completed({"loss": 2.0, "acc": 0.5, "heat": 9.0}),
            completed({"loss": 2.0, "acc": 0.5}, infeasibility_reason="diverged"),
            completed({"loss": math.nan, "acc": 0.5}),
            completed({"loss": math.inf, "acc": 0.5}),
            completed({"acc": 0.5}),
            completed({}),
            vz.Trial(id=7),
            vz.Trial(id=8, is_requested=True),
            vz.Trial(id=9, stopping_reason="no progress"),
        ]
    )
    nan = math.nan
    np.testing.assert_array_equal(
        values,
        [[-2, 0.5], [nan, nan], [nan, 0.5], [nan, 0.5], [nan, 0.5], [nan, nan], [nan, nan], [nan, nan], [nan, nan]],
    )
    infeasible, pending = tokens.INFEASIBLE, tokens.PENDING
    assert statuses.tolist() == [
        *[OBSERVED, infeasible, infeasible, infeasible],
        *[MISSING, MISSING, pending, pending, MISSING],
    ]


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1.0, math.nextafter(1.0, 2.0)),
        (1e15, math.nextafter(1e15, 1e16)),
        (0.0, 5e-324),
        (5e-324, 1e-323),
        (-1e15, math.nextafter(-1e15, 0.0)),
        (1.0, 1.0 + 1e-12),
        (1e-300, 2e-300),
        (5e-324, 1.7e308),
        (-1.7e308, 1.7e308),
    ],
)
@pytest.mark.parametrize("scale", [vz.ScaleType.LINEAR, vz.ScaleType.LOG, vz.ScaleType.REVERSE_LOG])
def test_ranges_that_floats_cannot_divide_have_the_values_that_there_are(low, high, scale):
    if scale != vz.ScaleType.LINEAR and low <= 0:
        return
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", low, high, scale_type=scale)
    (slot,) = StudySchema(problem).slots
    values = np.array(slot.values)
    assert (values[0], values[-1]) == (low, high)
    assert ((values >= low) & (values <= high)).all()
    levels, bad = slot.quantizer.encode(list(slot.values))
    assert not bad.any()
    np.testing.assert_array_equal(values[levels], values)  # every suggestion is known again
    assert (levels[0], levels[-1]) == (0, 999)
