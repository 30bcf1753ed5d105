"""Scalarizations do not depend on the units of the objectives, as far as floats reach."""

import numpy as np

from optformer.inference.scalarization import random_direction, scalarize

LARGEST = float(np.finfo(np.float64).max)


def test_objectives_of_any_size():
    rng = np.random.default_rng(0)
    values, direction = rng.normal(size=(20, 3)), random_direction(rng, 3)
    values[4, 1] = np.nan
    scalarized = scalarize(values, direction)
    np.testing.assert_array_equal(np.isnan(scalarized), np.arange(20) == 4)
    np.testing.assert_allclose(scalarize(values * [1e300, 1e-300, 1.0], direction), scalarized)


def test_objectives_at_the_ends_of_what_floats_hold():
    values = np.array([[LARGEST, -LARGEST], [-LARGEST, LARGEST], [0.0, 0.0], [1e308, 5e-324]])
    scalarized = scalarize(values, np.array([0.6, 0.8]))
    assert np.isfinite(scalarized).all()
    assert scalarized[2] > max(scalarized[:2]), "in the middle of both"
