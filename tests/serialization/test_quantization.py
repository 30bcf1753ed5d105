"""Levels of single parameters: scales, reachable bounds, exact indices."""

import math

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.quantization import quantizer

LINEAR, LOG, REVERSE_LOG = vz.ScaleType.LINEAR, vz.ScaleType.LOG, vz.ScaleType.REVERSE_LOG


def config(**arguments) -> vz.ParameterConfig:
    return vz.ParameterConfig.factory("x", **arguments)


def level(value, **arguments) -> int:
    levels, bad = quantizer(config(**arguments)).encode([value])
    assert not bad[0]
    return int(levels[0])


@pytest.mark.parametrize(
    ("value", "bounds", "scale", "expected"),
    [
        (0.0, (0.0, 1.0), LINEAR, 0),
        (1.0, (0.0, 1.0), LINEAR, 999),
        (0.5, (0.0, 1.0), LINEAR, 500),
        (0.25, (0.0, 1.0), None, 250),
        (0.0, (-2.0, 2.0), None, 500),
        (0.01, (1e-4, 1.0), LOG, 500),
        (1.01 - 0.1, (0.01, 1.0), REVERSE_LOG, 500),
        (0.3, (0.0, 1.0), vz.ScaleType.UNIFORM_DISCRETE, 300),
        (5, (1, 10), LOG, 4),  # integers of at most 1000 values go by index, whatever the scale
        (1000, (1, 1000), LOG, 999),
        (100, (1, 10**6), LOG, 333),
        (500, (0, 999), None, 500),
        (500, (0, 10**4), None, 50),
    ],
)
def test_levels(value, bounds, scale, expected):
    assert level(value, bounds=bounds, scale_type=scale) == expected


@pytest.mark.parametrize("scale", [None, LINEAR, LOG, REVERSE_LOG])
@pytest.mark.parametrize("bounds", [(1e-7, 0.3), (1e-3, 1.0), (0.1, 0.7), (3, 17), (3, 123457), (1, 10**15)])
def test_bounds_are_levels_bit_for_bit(bounds, scale):
    chosen = quantizer(config(bounds=bounds, scale_type=scale))
    assert (chosen.values[0], chosen.values[-1]) == bounds
    assert all(low <= high for low, high in zip(chosen.values, chosen.values[1:], strict=False))
    levels, bad = chosen.encode(list(bounds))
    assert levels.tolist() == [0, len(chosen.values) - 1]
    assert not bad.any()


@pytest.mark.parametrize(
    ("bounds", "scale", "expected"),
    [
        ((1e-3, 1.0), None, LOG),
        ((1e-3, 1.0), LINEAR, LOG),  # add_float_param writes LINEAR when the caller says nothing
        ((1.1e-3, 1.0), None, LINEAR),
        ((0.0, 1e9), None, LINEAR),
        ((-1.0, 1e9), None, LINEAR),
        ((1e-3, 1.0), REVERSE_LOG, REVERSE_LOG),
        ((1, 10**5), None, LOG),
        ((1, 10**5), LINEAR, LINEAR),  # add_int_param writes None: here LINEAR is the caller's word
        ((1, 1000), None, LINEAR),  # by index in any case
    ],
)
def test_wide_positive_ranges_without_a_scale_are_logarithmic(bounds, scale, expected):
    assert quantizer(config(bounds=bounds, scale_type=scale)).scale == expected


def test_auto_log_can_be_turned_off():
    assert quantizer(config(bounds=(1e-3, 1.0)), auto_log=False).scale == LINEAR


def test_huge_ranges_stay_finite():
    for bounds in ((-1.7e308, 1.7e308), (1e-300, 1e300)):
        chosen = quantizer(config(bounds=bounds, scale_type=LOG if bounds[0] > 0 else LINEAR))
        assert np.isfinite(chosen.values).all()
        assert chosen.encode(list(bounds))[0].tolist() == [0, 999]


def test_integers_beyond_the_exact_floats_keep_their_index():
    low = 2**60
    chosen = quantizer(config(bounds=(low, low + 5)))
    levels, bad = chosen.encode([low, low + 1, low + 5, low + 6, "x", math.nan])
    assert levels[:3].tolist() == [0, 1, 5]
    assert bad.tolist() == [False, False, False, True, True, True]


def test_values_within_rounding_of_a_bound_are_clipped():
    chosen = quantizer(config(bounds=(0.1, 0.3), scale_type=LOG))
    levels, bad = chosen.encode([0.1 + 0.2, 0.1 - 1e-12, 0.3 + 1e-8])
    assert levels[:2].tolist() == [999, 0]
    assert bad.tolist() == [False, False, True]
    # Near zero on a logarithmic scale, tolerance is relative to the bound, not to the range.
    assert quantizer(config(bounds=(1e-12, 1.0), scale_type=LOG)).encode([0.0])[1].all()


def test_categories_and_discrete_values_go_by_index():
    categories = quantizer(config(feasible_values=["sgd", "adam", "lion"]))
    assert categories.values == ("adam", "lion", "sgd")  # Vizier sorts
    assert categories.kind == tokens.CATEGORICAL
    levels, bad = categories.encode(["sgd", "adam", "Adam", 3, ["a"], None])
    assert levels[:2].tolist() == [2, 0]
    assert bad.tolist() == [False, False, True, True, True, True]
    discrete = quantizer(config(feasible_values=[0.1, 16, 512]))
    levels, bad = discrete.encode([16, 16.0, np.float32(512), 0.1 * (1 + 1e-12), 17, 1e9, -1, math.inf])
    assert levels[:4].tolist() == [1, 1, 2, 0]
    assert bad.tolist() == [False] * 4 + [True] * 4


def test_booleans_may_come_as_strings_bools_or_numbers():
    chosen = quantizer(config(feasible_values=["True", "False"], external_type=vz.ExternalType.BOOLEAN))
    assert chosen.encode(["True", True, 1.0, "False", False, 0])[0].tolist() == [1, 1, 1, 0, 0, 0]
    plain = quantizer(config(feasible_values=["True", "False", "maybe"]))
    assert plain.encode([1.0])[1].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feasible_values": [f"c{index}" for index in range(1001)]}, "1001 categories"),
        ({"feasible_values": list(range(1001))}, "1001 discrete values"),
        ({"bounds": (0.0, 1.0), "scale_type": LOG}, "LOG needs positive bounds"),
        ({"bounds": (-1.0, 1.0), "scale_type": REVERSE_LOG}, "REVERSE_LOG needs positive bounds"),
        ({"bounds": (0, 10**6), "scale_type": LOG}, "LOG needs positive bounds"),
    ],
)
def test_spaces_without_tokens_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        quantizer(config(**arguments))


def test_a_thousand_values_fit():
    assert len(quantizer(config(feasible_values=[f"c{index}" for index in range(1000)])).values) == 1000
    assert level(999, feasible_values=list(range(1000))) == 999
