"""Acquisitions against sums over a fine grid of outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optformer.inference import acquisition
from optformer.inference.prediction import MOMENT_RANGE, UNIT, Prediction
from optformer.serialization import tokens

N = 5


@pytest.fixture
def logits() -> np.ndarray:
    rng = np.random.default_rng(0)
    bins = np.arange(tokens.NUM_LEVELS)
    values = np.zeros((N, tokens.NUM_OUTPUTS), np.float32)
    center, width = rng.uniform(300, 800, (N, 1)), rng.uniform(10, 80, (N, 1))
    values[:, : tokens.NUM_LEVELS] = -0.5 * ((bins[None] - center) / width) ** 2
    values[:, tokens.INFEASIBLE] = rng.normal(size=N)
    values[:, tokens.PENDING] = 20.0
    return values


def draws(logits: np.ndarray, n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes in u, clamped, and the probability that the trial is feasible."""
    p = Prediction.from_logits(logits, UNIT, 1.0)
    return np.clip(p.sample(n, seed=0), *MOMENT_RANGE), 1.0 - p.infeasible


@pytest.mark.parametrize("incumbent", [1.0, 0.0, 0.3217, 2.0])
def test_expected_and_probability_of_improvement(logits, incumbent):
    u, feasible = draws(logits)
    gain = np.clip(u - incumbent, 0.0, acquisition.MAX_IMPROVEMENT).mean(axis=0) * feasible
    value = acquisition.expected_improvement(jnp.asarray(logits), jnp.float32(incumbent))
    np.testing.assert_allclose(value, gain, rtol=0.05, atol=2e-3)
    better = (u > incumbent).mean(axis=0) * feasible
    value = acquisition.probability_of_improvement(jnp.asarray(logits), jnp.float32(incumbent))
    np.testing.assert_allclose(value, better, atol=5e-3)


def test_where_trials_have_failed_improvement_counts_by_the_third_power_of_success(logits):
    exact = acquisition.expected_improvement(jnp.asarray(logits), jnp.float32(0.3))
    feasible = 1.0 - Prediction.from_logits(logits, UNIT, 1.0).infeasible
    for name, weight in (("ei", 1.0), (acquisition.CAUTIOUS_EI, feasible**2)):
        value = acquisition.FUNCTIONS[name](jnp.asarray(logits), jnp.float32(0.3), jax.random.key(0))
        np.testing.assert_allclose(value, np.asarray(exact) * weight, rtol=1e-5)


def test_quantile_counts_an_infeasible_outcome_as_the_worst(logits):
    u, feasible = draws(logits)
    rng = np.random.default_rng(1)
    u = np.where(rng.random(u.shape) < feasible, u, MOMENT_RANGE[0])
    value = np.asarray(acquisition.quantile(jnp.asarray(logits), jnp.float32(acquisition.UCB_LEVEL)))
    np.testing.assert_allclose((u <= value[None]).mean(axis=0), acquisition.UCB_LEVEL, atol=5e-3)
    hopeless = logits.copy()
    hopeless[:, tokens.INFEASIBLE] = 50.0
    np.testing.assert_allclose(acquisition.quantile(jnp.asarray(hopeless), jnp.float32(0.9)), MOMENT_RANGE[0])


def test_thompson_samples_each_marginal_and_follows_its_key(logits):
    many = jnp.asarray(np.repeat(logits[:1], 4000, axis=0))
    sample = acquisition.ACQUISITIONS["thompson"]
    value = np.asarray(sample(many, jnp.float32(1.0), jax.random.key(0)))
    np.testing.assert_array_equal(value, sample(many, jnp.float32(1.0), jax.random.key(0)))
    for level in (0.5, 0.8, 0.95):
        at = float(acquisition.quantile(many[:1], jnp.float32(level))[0])
        np.testing.assert_allclose((value <= at).mean(), level, atol=0.03)


@pytest.mark.parametrize("name", list(acquisition.ACQUISITIONS))
def test_certain_failure_is_never_preferred_and_values_are_finite(logits, name):
    rows = np.stack([logits[0], logits[0]])
    rows[0, tokens.INFEASIBLE] = 60.0
    value = np.asarray(acquisition.ACQUISITIONS[name](jnp.asarray(rows), jnp.float32(1.0), jax.random.key(3)))
    assert np.all(np.isfinite(value))
    assert value[0] < value[1]


def test_an_astronomical_outcome_cannot_own_the_expectation():
    logits = np.full((1, tokens.NUM_OUTPUTS), -100.0, np.float32)
    logits[0, 500], logits[0, tokens.NUM_LEVELS - 1] = 0.0, -15.0
    assert float(acquisition.expected_improvement(jnp.asarray(logits), jnp.float32(1.0))[0]) < 1e-4


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'eii'.*ei, pi, ucb, thompson, policy"):
        acquisition.check_acquisition("eii")
    assert acquisition.check_acquisition("policy") == "policy"
