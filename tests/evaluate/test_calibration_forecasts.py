"""Forecasts and warps: densities integrate to one, distribution functions and quantiles belong to them."""

import itertools

import numpy as np
import pytest
from scipy import stats

from optformer.evaluate.calibration.forecasts import (
    MixtureForecast,
    SampleForecast,
    UniformForecast,
    WarpedForecast,
)
from optformer.evaluate.calibration.output_warps import OutputWarp, fit_output_warps

SKEWED = np.exp(np.random.default_rng(0).normal(size=30) * 1.5)
SAMPLES = {
    "positive and skewed": SKEWED,
    "negative and skewed": -SKEWED,
    "both signs": np.random.default_rng(1).normal(3.0, 10.0, 20),
    "huge": 1e12 * SKEWED,
    "ties": np.repeat([0.5, 0.5, 0.5, 0.75], 3),
    "two": np.array([1.0, 2.0]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_warps_are_increasing_onto_the_reals_and_know_their_slope(name):
    y = SAMPLES[name]
    span = np.ptp(y)
    grid = np.linspace(y.min() - 3 * span, y.max() + 3 * span, 401)
    for warp in fit_output_warps(y):
        w = warp.forward(grid)
        assert (np.diff(w) > 0).all()
        np.testing.assert_allclose(warp.inverse(w), grid, rtol=1e-7, atol=1e-7 * span)
        np.testing.assert_allclose(warp.forward(warp.inverse([-50.0, 50.0])), [-50.0, 50.0], rtol=1e-6)
        step = 1e-6 * span
        numeric = (warp.forward(grid + step) - warp.forward(grid - step)) / (2 * step)
        # Off the joints, where a difference quotient straddles two pieces.
        np.testing.assert_allclose(np.quantile(np.abs(np.log(numeric) - warp.log_slope(grid)), 0.97), 0.0, atol=1e-5)
        known = warp.forward(y)
        assert known.mean() == pytest.approx(0.0, abs=1e-6)
        assert known.std() == pytest.approx(1.0, abs=1e-6)


def test_log_is_a_candidate_only_where_values_have_one_sign():
    assert [warp.kind for warp in fit_output_warps(SAMPLES["positive and skewed"])] == ["none", "yeo-johnson", "log"]
    assert [warp.kind for warp in fit_output_warps(SAMPLES["both signs"])] == ["none", "yeo-johnson"]


def test_yeo_johnson_follows_the_published_formula():
    warp = OutputWarp("yeo-johnson", 0.0, 1.0, parameter=0.5)
    v = np.array([-2.0, -0.3, 0.0, 0.7, 4.0])
    np.testing.assert_allclose(warp.forward(v), stats.yeojohnson(v, 0.5))
    assert warp.parameter == 0.5
    np.testing.assert_allclose(OutputWarp("yeo-johnson", 0.0, 1.0, 0.0).forward([3.0]), np.log(4.0))


def warped_forecasts() -> dict[str, object]:
    made = {}
    for warp in fit_output_warps(SKEWED):
        location, scale = np.array([-0.5, 0.8]), np.array([0.4, 1.0])
        made[f"{warp.kind} normal"] = WarpedForecast(location, scale, warp)
        made[f"{warp.kind} student"] = WarpedForecast(location, scale, warp, degrees=6.0)
        both = np.stack([location, location + 1.5]), np.stack([scale, 0.2 * scale])
        made[f"{warp.kind} mixture"] = MixtureForecast(*both, warp, degrees=6.0)
    draws = np.random.default_rng(2).normal([1.0, 2.0], [0.3, 0.5], size=(300, 2))
    return made | {"samples": SampleForecast(draws), "uniform": UniformForecast(-1.0, 4.0, 2)}


FORECASTS = warped_forecasts()


@pytest.mark.parametrize("name", FORECASTS)
def test_densities_integrate_to_the_distribution_function(name):
    forecast = FORECASTS[name]
    # Points that are dense where the mass is: between quantiles, then linearly in between.
    levels = np.concatenate([[1e-5, 1e-4], np.linspace(1e-3, 1 - 1e-3, 100), [1 - 1e-4, 1 - 1e-5]])
    for trial in range(2):
        knots = np.unique([forecast.quantile(q)[trial] for q in levels])
        if name == "samples":  # the kernels of the outermost samples reach beyond them
            knots = np.concatenate([[knots[0] - 1.0], knots, [knots[-1] + 1.0]])
        y = np.unique(np.concatenate([np.linspace(a, b, 40) for a, b in itertools.pairwise(knots)]))
        queries = np.stack([y, y], axis=1)
        density = np.exp(forecast.log_prob(queries))[:, trial]
        mass = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(y))])
        cdf = forecast.cdf(queries)[:, trial]
        np.testing.assert_allclose(cdf - cdf[0], mass, atol=2e-3)
        assert mass[-1] == pytest.approx(1.0, abs=4e-3)


@pytest.mark.parametrize("name", FORECASTS)
def test_quantiles_invert_the_distribution_function(name):
    forecast = FORECASTS[name]
    tolerance = 0.02 if name == "samples" else 1e-6
    for q in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(forecast.cdf(forecast.quantile(q)), q, atol=tolerance)


def test_means_are_those_of_the_distribution():
    location, scale = np.array([1.0, 2.0]), np.array([0.5, 1.0])
    plain = OutputWarp("none", 10.0, 2.0)
    np.testing.assert_allclose(WarpedForecast(location, scale, plain).mean, 10.0 + 2.0 * location)
    mixture = MixtureForecast(np.stack([location, location + 2]), np.stack([scale, scale]), plain, degrees=8.0)
    np.testing.assert_allclose(mixture.mean, 10.0 + 2.0 * (location + 1))
    np.testing.assert_allclose(UniformForecast(1.0, 3.0, 2).mean, 2.0)


def test_uniform_has_no_density_outside():
    uniform = UniformForecast(0.0, 2.0, 3)
    np.testing.assert_allclose(uniform.log_prob(np.array([-0.1, 1.0, 2.1])), [-np.inf, -np.log(2.0), -np.inf])


def test_samples_come_close_to_the_normal_they_are_from():
    draws = np.random.default_rng(0).normal(5.0, 2.0, size=(4000, 1))
    y = np.array([[3.0], [5.0], [8.0]])
    np.testing.assert_allclose(SampleForecast(draws).log_prob(y), stats.norm(5.0, 2.0).logpdf(y), atol=0.1)
    constant = SampleForecast(np.full((10, 1), 3.0))
    assert np.isfinite(constant.log_prob(np.array([3.0]))).all()
