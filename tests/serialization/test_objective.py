"""The four properties DESIGN asks of the objective scaler, and the agreement of the numpy and jax versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optformer.serialization import objective
from optformer.serialization.objective import Scaling

# Integers of at most 1000: no value is an isolated outlier by itself (1e4 rule), and ties are frequent.
histories = st.lists(st.integers(-1000, 1000), min_size=1, max_size=12).map(lambda v: np.array(v, dtype=float))


def fit(values):
    values = np.asarray(values, dtype=float)
    return objective.fit(values, np.ones(values.shape, bool))


def bins(values):
    return objective.to_bins(values, fit(values))


@given(histories, st.sampled_from([2.0**-20, 0.5, 1.0, 8.0, 2.0**30]), st.integers(-4096, 4096))
def test_affine_maps_change_no_bin(values, a, b):
    """Exact in binary: powers of two and small integers leave no rounding."""
    if np.ptp(values) == 0:
        a, b = a, 0  # a constant has no scale of its own: only its own bin is fixed
    moved = objective.to_bins(a * values + b, fit(a * values + b))
    np.testing.assert_array_equal(moved, bins(values))
    if np.ptp(values) > 0:
        probes = np.linspace(-5000, 5000, 101)
        np.testing.assert_array_equal(
            objective.to_bins(a * probes + b, fit(a * values + b)), objective.to_bins(probes, fit(values))
        )


@given(histories, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_any_affine_map_changes_bins_by_rounding_only(values, a, b):
    np.testing.assert_allclose(
        objective.to_unit(a * values + b, fit(a * values + b)), objective.to_unit(values, fit(values)), atol=1e-4
    )


@given(histories)
def test_minimizing_is_maximizing_the_negative(values):
    """The caller negates what is minimized; negation is exact, so predictions in user units are exact mirror images."""
    losses = -values
    scaling = fit(-losses)
    np.testing.assert_array_equal(objective.to_bins(-losses, scaling), bins(values))
    np.testing.assert_array_equal(-objective.bin_centers(scaling), -objective.bin_centers(fit(values)))


@given(histories, st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_has_a_bin_and_finite_edges(values, y):
    scaling = fit(values)
    assert 0 <= objective.to_bins(y, scaling) <= 999
    edges = objective.bin_edges(scaling)
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(objective.log_bin_widths(scaling)).all()


@given(histories, st.booleans())
def test_an_improvement_of_three_good_ranges_is_a_higher_bin(values, isolated):
    if isolated and len(values) >= 4:
        values = np.append(values, 1e12)  # the best is itself an isolated outlier
    scaling = fit(values)
    best = values.max()
    good_range = best - np.median(values) or float(scaling.scale)
    assert objective.to_bins(best + 3 * good_range, scaling) > objective.to_bins(best, scaling)


@settings(max_examples=300)
@given(
    st.lists(st.integers(-1000, 1000), min_size=4, max_size=12) | st.lists(st.integers(0, 1), min_size=4, max_size=9),
    st.sampled_from([-1e12, 1e12]),
    st.integers(0, 12),
)
def test_one_outlier_moves_no_bin_of_the_top_half(values, outlier, position):
    values = np.array(values, dtype=float)
    before = bins(values)
    position = min(position, len(values))
    after = np.delete(bins(np.insert(values, position, outlier)), position)
    top = values >= np.median(values)
    assert np.abs(after - before)[top].max() <= 1


def test_several_outliers_are_left_to_the_order_statistics():
    values = np.array([0.0, 1, 2, 3, 4, 5, -1e12, -2e12])
    scaling = fit(values)
    assert scaling.center == 1.5
    assert scaling.scale == 3.5


@pytest.mark.parametrize(
    ("values", "center", "scale"),
    [
        ([], 0, 1),
        ([np.nan, np.inf], 0, 1),
        ([3], 3, 3),
        ([-3, -3], -3, 3),
        ([0, 0, 0], 0, 1),
        ([1, 2], 1.5, 0.5),
        ([1, 1, 3], 1, 2),
        ([1, 3, 3], 2, 1),  # best = median: the median of the distinct values instead
        ([0, 2, 3, 3, 3, 3], 2, 1),
        ([1.0, np.nextafter(1, 2), np.nextafter(1, 2)], 1, 2.0**-52),  # no number between them
        ([5, 5, 5, 5, 7], 5, 2),  # all equal but one
        ([5, 5, 5, 5, 1], 5, 4),
        ([0, 1, 2, 3, 1e9], 1.5, 1.5),  # isolated best
        ([0, 1, 2, 3, -1e9], 1.5, 1.5),  # isolated worst
        ([-1e9, 0, 1, 2, 3, 1e9], 1.5, 1.5),
        ([1, 2, 1e9], 2, 1e9 - 2),  # three values are too few to tell
        ([-1, 0, 0, 0, 0, 0.5], 0, 0.5),  # the neighbour ties with the median: no outlier
    ],
)
def test_fit(values, center, scale):
    scaling = fit(values)
    assert scaling.center == center
    assert scaling.scale == scale


@given(st.floats(0, 1))
def test_from_unit_inverts_to_unit(z):
    scaling = Scaling(2.0, 0.5)
    assert objective.to_unit(objective.from_unit(z, scaling), scaling) == pytest.approx(z, abs=1e-12)


def test_the_warp_is_increasing_with_its_knots_and_slopes():
    unit = Scaling(0.0, 1.0)
    u = np.concatenate([-np.logspace(15, -6, 4000), [0.0], np.logspace(-6, 15, 4000)])
    z = objective.to_unit(u, unit)
    assert (np.diff(z) > 0).all()
    assert z[0] == pytest.approx(0, abs=1e-15)
    assert z[-1] == pytest.approx(1, abs=1e-12)
    assert objective.to_unit(np.array([0.0, 1.0]), unit) == pytest.approx([0.31, 0.70])
    slope = (objective.to_unit(u + 1e-7, unit) - objective.to_unit(u - 1e-7, unit)) / 2e-7
    for knot in (0.0, 1.0):
        left, right = np.searchsorted(u, knot - 1e-4), np.searchsorted(u, knot + 1e-4)
        assert slope[left] == pytest.approx(slope[right], rel=2e-2)
    assert objective.to_unit(np.array([-np.inf, np.inf]), unit) == pytest.approx([0, 1])


def test_bins_and_edges_agree():
    scaling = Scaling(-3.0, 7.0)
    centers, edges = objective.bin_centers(scaling), objective.bin_edges(scaling)
    np.testing.assert_array_equal(objective.to_bins(centers, scaling), np.arange(1000))
    assert (edges[:-1] <= centers).all()
    assert (centers <= edges[1:]).all()
    inner = edges[1:-1]
    gap = 1e-6 * np.diff(edges)
    np.testing.assert_array_equal(objective.to_bins(inner - gap[:-1], scaling), np.arange(999))
    np.testing.assert_array_equal(objective.to_bins(inner + gap[1:], scaling), np.arange(1, 1000))
    np.testing.assert_allclose(objective.log_bin_widths(scaling), np.log(np.diff(edges)), rtol=1e-9)


def test_the_density_integrates_to_one():
    rng = np.random.default_rng(0)
    scaling = Scaling(np.array([1.0, 100.0]), np.array([0.2, 3.0]))
    probabilities = rng.dirichlet(np.ones(1000), 2)
    centers, edges = objective.bin_centers(scaling), objective.bin_edges(scaling)
    log_probabilities = np.broadcast_to(np.log(probabilities)[:, None], (2, 1000, 1000))
    density = np.exp(objective.log_density(log_probabilities, centers, scaling))
    np.testing.assert_allclose((density * np.diff(edges)).sum(-1), 1.0, rtol=1e-9)


def test_leading_axes_and_masks():
    values = np.array([[[1.0, 2, 3, np.nan], [5, 9, 5, 1e9]], [[0, 0, 0, 0], [7, 1, 1, 1]]])
    known = np.array([[[1, 1, 1, 1], [1, 1, 1, 0]], [[0, 0, 0, 0], [1, 0, 0, 0]]], bool)
    scaling = objective.fit(values, known)
    np.testing.assert_array_equal(scaling.center, [[2, 5], [0, 7]])
    np.testing.assert_array_equal(scaling.scale, [[1, 4], [1, 7]])
    assert objective.bin_edges(scaling).shape == (2, 2, 1001)
    assert objective.to_unit(np.nan_to_num(values), scaling).shape == values.shape


def test_huge_and_tiny_values():
    for values in ([-1.7e308, 0.0, 1.7e308], [5e-324, 0.0, 1e-323], [1e308, 1e308, -1e308]):
        scaling = fit(values)
        assert np.isfinite(scaling.scale)
        assert (objective.to_bins(values, scaling) >= 0).all()
        assert np.isfinite(objective.bin_edges(scaling)).all()


def test_numpy_and_jax_agree():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(64, 20)) * 10.0 ** rng.integers(-3, 4, (64, 1))
    values[:8] = np.round(values[:8])  # ties
    values[8:16, 3] = 1e12
    known = np.arange(20) < rng.integers(0, 21, (64, 1))
    host = objective.fit(values, known)

    @jax.jit
    def device(values, known):
        scaling = objective.fit(values, known, jnp)
        unit = objective.to_unit(values, scaling, jnp)
        return (
            scaling,
            unit,
            objective.to_bins(values, scaling, jnp),
            objective.from_unit(unit, scaling, jnp),
            objective.bin_edges(scaling, jnp),
            objective.log_bin_widths(scaling, jnp),
        )

    scaling, unit, bins_, back, edges, widths = device(values, known)
    assert bins_.dtype == jnp.int32
    np.testing.assert_allclose(scaling.center, host.center, rtol=1e-5)
    np.testing.assert_allclose(scaling.scale, host.scale, rtol=1e-4)
    np.testing.assert_allclose(unit, objective.to_unit(values, host), atol=2e-5)
    assert np.abs(np.asarray(bins_) - objective.to_bins(values, host)).max() <= 1
    np.testing.assert_allclose(back, values, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(edges, objective.bin_edges(host), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(widths, objective.log_bin_widths(host), atol=1e-3)
    np.testing.assert_array_equal(device(np.zeros((2, 0)), np.zeros((2, 0), bool))[0].scale, 1.0)
