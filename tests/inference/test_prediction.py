"""`Prediction` against brute force over the density and against draws, in both directions of the objective."""

import numpy as np
import pytest

from optformer.inference.prediction import MOMENT_RANGE, Prediction
from optformer.serialization import objective, tokens

SCALING = objective.Scaling(center=3.0, scale=0.5)


def prediction(sign: float = 1.0, scaling=SCALING, seed: int = 0, candidates: int = 3) -> Prediction:
    """Bell-shaped histograms near the best, with a little mass everywhere."""
    rng = np.random.default_rng(seed)
    bins = np.arange(tokens.NUM_LEVELS)
    logits = np.full((candidates, tokens.NUM_OUTPUTS), -30.0)
    center, width = rng.uniform(400, 720, (candidates, 1)), rng.uniform(10, 60, (candidates, 1))
    logits[:, : tokens.NUM_LEVELS] = -0.5 * ((bins[None] - center) / width) ** 2
    logits[:, : tokens.NUM_LEVELS] = np.logaddexp(logits[:, : tokens.NUM_LEVELS], -14.0)
    logits[:, tokens.INFEASIBLE] = rng.normal(size=candidates)
    logits[:, tokens.PENDING] = 40.0  # no outcome: must not matter
    return Prediction.from_logits(logits, scaling, sign)


def grid(scaling=SCALING, sign: float = 1.0, range_=MOMENT_RANGE, points: int = 60_001) -> np.ndarray:
    u = np.linspace(*range_, points)
    return np.sort(sign * (scaling.center + scaling.scale * u))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_density_integrates_to_the_cdf_and_gives_the_moments(sign):
    p = prediction(sign)
    y = grid(sign=sign)
    density = np.exp(p.log_prob(y[:, None]))
    assert density.shape == (len(y), 3)
    mass = np.trapezoid(density, y, axis=0)
    np.testing.assert_allclose(mass, p.cdf(y[-1]) - p.cdf(y[0]), rtol=1e-3)
    assert np.all(mass > 0.98)

    # What lies beyond the moments' range counts at its ends.
    low, high = p.cdf(y[0]), 1.0 - p.cdf(y[-1])
    mean = np.trapezoid(density * y[:, None], y, axis=0) + low * y[0] + high * y[-1]
    np.testing.assert_allclose(p.mean, mean, rtol=2e-3)
    squared = np.trapezoid(density * (y[:, None] - mean[None]) ** 2, y, axis=0)
    squared += low * (y[0] - mean) ** 2 + high * (y[-1] - mean) ** 2
    np.testing.assert_allclose(p.stddev, np.sqrt(squared), rtol=5e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_quantiles_invert_the_cdf(sign):
    p = prediction(sign)
    levels = np.linspace(0.002, 0.998, 41)
    values = p.quantile(levels)
    assert values.shape == (41, 3)
    assert np.all(np.diff(values, axis=0) > 0)
    np.testing.assert_allclose(p.cdf(values), np.broadcast_to(levels[:, None], (41, 3)), atol=1e-9)
    np.testing.assert_array_equal(p.quantile(0.5), p.quantile([0.5])[0])


def test_minimizing_mirrors_maximizing():
    up, down = prediction(1.0), prediction(-1.0)
    np.testing.assert_allclose(down.mean, -up.mean)
    np.testing.assert_allclose(down.stddev, up.stddev)
    np.testing.assert_allclose(down.quantile(0.05), -up.quantile(0.95), rtol=1e-9)
    np.testing.assert_allclose(down.log_prob(-3.1), up.log_prob(3.1))
    np.testing.assert_allclose(down.probability_of_improvement(-3.4), up.probability_of_improvement(3.4))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_samples_follow_the_distribution_and_the_seed(sign):
    p = prediction(sign)
    draws = p.sample(20_000, seed=1)
    assert draws.shape == (20_000, 3)
    np.testing.assert_array_equal(draws, p.sample(20_000, seed=1))
    assert np.any(draws != p.sample(20_000, seed=2))
    for level in (0.1, 0.5, 0.9):
        np.testing.assert_allclose((draws <= p.quantile(level)[None]).mean(axis=0), level, atol=0.015)
    best = sign * 3.4
    better = (draws > best) if sign > 0 else (draws < best)
    expected = better.mean(axis=0) * (1 - p.infeasible)
    np.testing.assert_allclose(p.probability_of_improvement(best), expected, atol=0.02)


def test_statistics_follow_an_affine_map_of_the_objective():
    a, b = 250.0, -7.0
    p = prediction()
    q = prediction(scaling=objective.Scaling(a * SCALING.center + b, a * SCALING.scale))
    np.testing.assert_allclose(q.mean, a * p.mean + b)
    np.testing.assert_allclose(q.stddev, a * p.stddev)
    np.testing.assert_allclose(q.quantile([0.05, 0.95]), a * p.quantile([0.05, 0.95]) + b)
    np.testing.assert_allclose(q.log_prob(a * 3.2 + b), p.log_prob(3.2) - np.log(a), rtol=1e-9)


def test_a_far_tail_cannot_own_the_moments():
    logits = np.full((1, tokens.NUM_OUTPUTS), -200.0)
    logits[0, 600] = 0.0
    logits[0, [0, tokens.NUM_LEVELS - 1]] = -20.0
    p = Prediction.from_logits(logits, SCALING, 1.0)
    assert abs(p.mean[0] - p.quantile(0.5)[0]) < 1e-3
    assert np.all(np.isfinite(p.quantile([0.0, 1.0])))


def test_status_tokens_are_no_outcomes_and_infeasibility_is_separate():
    p = prediction()
    np.testing.assert_allclose(np.exp(p.log_probabilities).sum(axis=-1), 1.0)
    logits = np.zeros((1, tokens.NUM_OUTPUTS))
    assert Prediction.from_logits(logits, SCALING, 1.0).infeasible[0] == pytest.approx(1 / 1001)
    logits[0, tokens.INFEASIBLE] = 800.0
    assert Prediction.from_logits(logits, SCALING, 1.0).infeasible[0] == 1.0


def test_length_and_indexing():
    p = prediction()
    assert len(p) == 3
    assert len(p[1]) == 1
    assert p[-1].mean[0] == pytest.approx(p.mean[2])
    np.testing.assert_allclose(p[[2, 0]].mean, p.mean[[2, 0]])
    np.testing.assert_allclose(p[p.mean > p.mean.min()].mean, p.mean[p.mean > p.mean.min()])
    assert [len(one) for one in p] == [1, 1, 1]
    with pytest.raises(IndexError):
        p[3]


def test_values_that_are_no_numbers():
    p = prediction()
    assert np.all(np.isnan(p.log_prob(np.nan)))
    assert np.all(p.log_prob(np.inf) == -np.inf)
    np.testing.assert_allclose(p.cdf(np.inf), 1.0)
    np.testing.assert_allclose(p.cdf(-np.inf), 0.0, atol=1e-12)


@pytest.mark.parametrize("q", [1.5, -0.1, np.nan])
def test_a_quantile_outside_the_unit_interval_is_an_error(q):
    with pytest.raises(ValueError, match="between 0 and 1"):
        prediction().quantile(q)


def test_one_value_per_candidate_or_an_error():
    with pytest.raises(ValueError, match="one value per candidate"):
        prediction().log_prob(np.zeros(2))


def test_statistics_are_finite_where_the_scale_is_as_large_as_floats_go():
    largest = float(np.finfo(np.float64).max)
    flat = np.zeros((2, tokens.NUM_OUTPUTS), np.float32)
    prediction = Prediction.from_logits(flat, objective.Scaling(0.0, largest), 1.0)
    for value in (prediction.mean, prediction.stddev, prediction.quantile([0.05, 0.5, 0.95])):
        assert np.isfinite(value).all()
    assert prediction.stddev[0] == largest
