"""The mixed histogram against SciPy's normal distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from optformer.model.mixture import BIN, Mixture, log_feasible
from optformer.serialization import tokens

ROWS, EXPERTS = 6, 3


@pytest.fixture(scope="module")
def mixture():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, ROWS, tokens.NUM_OUTPUTS)).astype(np.float32)
    logits[..., tokens.PENDING :] = -1e9
    mean = rng.random((1, ROWS, EXPERTS))
    mean[0, 0], mean[0, 1] = (0.0, 1.0, 0.5), (0.4, 0.4, 0.4)
    deviation = rng.uniform(0.01, 0.6, (1, ROWS, EXPERTS))
    deviation[0, 0], deviation[0, 1] = (0.003, 0.003, 0.003), (BIN, 2 * BIN, 0.2)
    shares = jax.nn.log_softmax(rng.normal(size=(1, ROWS, EXPERTS + 1)))
    return Mixture(*(jnp.asarray(field, jnp.float32) for field in (logits, shares, mean, deviation)))


def expected_masses(mixture):
    """[R, H, Q]: integrals over the bins of normal densities that are cut off at the ends."""
    edges = (np.arange(tokens.NUM_LEVELS + 1) - 0.5) * BIN
    mean, deviation = (np.asarray(field[0], np.float64)[..., None] for field in (mixture.mean, mixture.deviation))
    below = scipy.stats.norm.cdf(edges, mean, deviation)
    return np.diff(below) / (below[..., -1:] - below[..., :1])


def test_probabilities_are_the_mixture(mixture):
    own = np.asarray(jax.nn.softmax(mixture.logits))[0].astype(np.float64)
    shares = np.exp(np.asarray(mixture.log_shares))[0]
    experts = np.einsum("rh,rhq->rq", shares[:, 1:], expected_masses(mixture))
    feasible = 1 - own[:, tokens.INFEASIBLE]
    expected = shares[:, :1] * own[:, : tokens.NUM_LEVELS] + feasible[:, None] * experts
    found = np.exp(mixture.log_probabilities())[0]
    np.testing.assert_allclose(found[:, : tokens.NUM_LEVELS], expected, rtol=5e-3, atol=1e-7)
    np.testing.assert_allclose(found[:, tokens.INFEASIBLE], own[:, tokens.INFEASIBLE], rtol=1e-5)
    assert (mixture.log_probabilities()[..., tokens.PENDING :] < -1e8).all()
    np.testing.assert_allclose(np.exp(log_feasible(mixture.logits))[0], feasible, rtol=1e-5)


def test_probabilities_add_up_to_one(mixture):
    total = np.exp(mixture.log_probabilities()).sum(axis=-1)[0]
    np.testing.assert_allclose(total, 1.0, atol=2e-5)
    narrow = mixture._replace(mean=jnp.zeros_like(mixture.mean), deviation=jnp.full_like(mixture.deviation, BIN))
    np.testing.assert_allclose(np.exp(narrow.log_probabilities()).sum(axis=-1), 1.0, atol=1e-3)


def test_one_token_has_the_probability_that_it_has_among_all(mixture):
    every = np.asarray(mixture.log_probabilities())
    for token in (0, 1, 399, 400, 401, 640, 999, tokens.INFEASIBLE, tokens.PENDING):
        found = mixture.log_probability(jnp.full((1, ROWS), token))
        np.testing.assert_allclose(found, every[..., token], rtol=1e-5, atol=2e-5)


def test_masses_of_one_bin(mixture):
    expected = expected_masses(mixture)
    for token in (0, 400, 777):
        found = np.exp(mixture.log_masses(jnp.full((1, ROWS), token)))[0]
        np.testing.assert_allclose(found, expected[..., token], rtol=5e-3, atol=1e-6)


def test_a_far_target_has_a_finite_gradient(mixture):
    def far(mean):
        return mixture._replace(mean=mean, deviation=jnp.full_like(mean, BIN)).log_probability(
            jnp.full((1, ROWS), 999)
        ).sum()  # fmt: skip

    assert np.isfinite(jax.grad(far)(jnp.zeros_like(mixture.mean))).all()
