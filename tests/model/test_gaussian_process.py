"""The processes against a plain conditional per trial, in NumPy and float64."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from optformer.model.gaussian_process import (
    JITTER,
    MORE_JITTER,
    ROUNDING,
    UNKNOWN,
    Hyperparameters,
    cholesky,
    cholesky_and_inverse,
    decompose,
    fit,
    inverse_of_lower,
    log_density_slopes,
    matern,
    matern_slope,
    predict,
    scaled,
)

SMOOTHNESS = (3, 5, 1)
STUDIES, TRIALS, SLOTS = 2, 9, 3


def numpy_matern(squared, twice_the_order):
    """By its textbook formulas, of r^2 + ROUNDING, 1 at r = 0."""

    def k(r):
        return {
            1: np.exp(-r),
            3: (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r),
            5: (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r),
        }[twice_the_order]

    return k(np.sqrt(np.asarray(squared, np.float64) + ROUNDING)) / k(np.sqrt(ROUNDING))


@pytest.fixture(scope="module")
def case():
    """Squared distances, values, and hyperparameters; one trial of the second study has no value, one is padding."""
    rng = np.random.default_rng(0)
    x = rng.random((STUDIES, TRIALS, SLOTS))
    x[0, 4] = x[0, 1]  # equal configurations
    squared = np.square(x[:, :, None] - x[:, None]).transpose(0, 3, 1, 2)
    observed = np.ones((STUDIES, TRIALS), bool)
    present = observed.copy()
    observed[1, 2] = observed[1, -1] = present[1, -1] = False
    shape = (STUDIES, len(SMOOTHNESS))
    hyper = Hyperparameters(
        rng.uniform(0.5, 6.0, (*shape, SLOTS)), rng.uniform(0.5, 2.0, shape), rng.uniform(0.01, 0.1, shape),
        rng.normal(0, 0.5, shape),
    )  # fmt: skip
    y = np.where(observed, rng.normal(size=(STUDIES, TRIALS)), 0.0)
    to_float32 = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)  # noqa: E731
    return squared, y, present, observed, hyper, to_float32((squared, y, hyper))


def covariance(squared, hyper, study, process):
    r2 = np.einsum("sij,s->ij", squared[study], hyper.weights[study, process])
    return hyper.amplitude[study, process] * numpy_matern(r2, SMOOTHNESS[process])


def noise_of(hyper, study, process):
    return hyper.noise[study, process] + JITTER * hyper.amplitude[study, process]


def conditional(matrix, y, mean, noise, given, target):
    """Mean and variance of the target's noisy value, given the values of some others."""
    inverse = np.linalg.inv(matrix[np.ix_(given, given)] + noise * np.eye(len(given)))
    row = matrix[target, given]
    return mean + row @ inverse @ (y[given] - mean), matrix[target, target] + noise - row @ inverse @ row


def test_each_prediction_is_the_conditional_on_the_trials_before(case):
    squared, y, present, observed, hyper, (squared32, y32, hyper32) = case
    fitted, prediction = fit(squared32, y32, jnp.asarray(present), jnp.asarray(observed), hyper32, SMOOTHNESS)
    for study in range(STUDIES):
        for process in range(len(SMOOTHNESS)):
            matrix, mean = covariance(squared, hyper, study, process), hyper.mean[study, process]
            noise, evidence = noise_of(hyper, study, process), 0.0
            for trial in np.flatnonzero(present[study]):
                given = np.flatnonzero(observed[study, :trial])
                expected = conditional(matrix, y[study], mean, noise, given, trial)
                found = prediction.mean[study, trial, process], prediction.variance[study, trial, process]
                np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
                np.testing.assert_allclose(prediction.evidence[study, trial, process], evidence, rtol=1e-3, atol=1e-3)
                assert prediction.known[study, trial] == len(given)
                if observed[study, trial]:
                    evidence += scipy.stats.norm.logpdf(y[study, trial], expected[0], np.sqrt(expected[1]))
            given = np.flatnonzero(observed[study])
            joint = matrix[np.ix_(given, given)] + noise * np.eye(len(given))
            whole = scipy.stats.multivariate_normal.logpdf(y[study, given], np.full(len(given), mean), joint)
            np.testing.assert_allclose(fitted.evidence[study, process], whole, rtol=1e-3, atol=1e-3)


def test_one_step_ahead_identity(case):
    """mean_t = y_t - L_tt alpha_t and variance_t = L_tt^2."""
    *_, (squared, y, hyper) = case
    known = jnp.ones((STUDIES, TRIALS), bool)
    fitted, prediction = fit(squared, y, known, known, hyper, SMOOTHNESS)
    pivots = 1 / np.diagonal(fitted.inverse, axis1=-2, axis2=-1)
    mean = np.asarray(y)[:, None] - pivots * fitted.alpha
    np.testing.assert_allclose(np.swapaxes(prediction.mean, 1, 2), mean, atol=2e-5)
    np.testing.assert_allclose(np.swapaxes(prediction.variance, 1, 2), pivots**2, rtol=1e-4)


def test_a_candidate_is_predicted_like_the_trial_that_it_would_be(case):
    _, _, present, observed, _, (squared32, y32, hyper32) = case
    before = np.arange(TRIALS)[None] < 6
    fitted, _ = fit(
        squared32, y32 * before, jnp.asarray(present & before), jnp.asarray(observed & before), hyper32, SMOOTHNESS
    )
    candidate = predict(fitted, squared32[:, :, 6:7], SMOOTHNESS)
    _, every = fit(squared32, y32, jnp.asarray(present), jnp.asarray(observed), hyper32, SMOOTHNESS)
    for found, expected in zip(candidate, every, strict=True):
        np.testing.assert_allclose(found[:, 0], expected[:, 6], rtol=1e-4, atol=2e-5)


def test_slopes_are_those_of_the_log_density(case):
    squared, y, _, observed, hyper, (squared32, y32, hyper32) = case
    found = log_density_slopes(squared32, y32, jnp.asarray(observed), hyper32, SMOOTHNESS)

    def log_density(study, process, logs, mean):
        *log_weights, log_amplitude, log_noise = logs
        r2 = np.einsum("sij,s->ij", squared[study], np.exp(log_weights))
        matrix = np.exp(log_amplitude) * numpy_matern(r2, SMOOTHNESS[process])
        noise = np.exp(log_noise) + JITTER * np.exp(log_amplitude)
        given = np.flatnonzero(observed[study])
        joint = matrix[np.ix_(given, given)] + noise * np.eye(len(given))
        return scipy.stats.multivariate_normal.logpdf(y[study, given], np.full(len(given), mean), joint)

    step = 1e-5
    for study in range(STUDIES):
        for process in range(len(SMOOTHNESS)):
            logs = np.log(
                [*hyper.weights[study, process], hyper.amplitude[study, process], hyper.noise[study, process]]
            )
            mean = hyper.mean[study, process]
            slopes = [
                (log_density(study, process, logs + move, mean) - log_density(study, process, logs - move, mean))
                / (2 * step)
                for move in step * np.eye(len(logs))
            ]
            high, low = (log_density(study, process, logs, mean + sign * step) for sign in (1, -1))
            slopes.append((high - low) / (2 * step))
            parts = [part[study, process] for part in found]
            np.testing.assert_allclose(np.hstack(parts), slopes, rtol=5e-3, atol=5e-3)


def test_kernels_and_their_slopes():
    squared = np.asarray([0.0, 1e-6, 0.01, 0.5, 3.0, 50.0])
    given = jnp.broadcast_to(jnp.asarray(squared, jnp.float32), (1, 3, 1, 6))
    expected = np.stack([numpy_matern(squared, order) for order in SMOOTHNESS])
    np.testing.assert_allclose(matern(given, SMOOTHNESS)[0, :, 0], expected, rtol=2e-5, atol=1e-7)
    step = 1e-7
    difference = np.stack([(numpy_matern(squared + step, k) - numpy_matern(squared, k)) / step for k in SMOOTHNESS])
    derived = jax.grad(lambda s: matern(s, SMOOTHNESS).sum())(given)
    np.testing.assert_allclose(derived, matern_slope(given, SMOOTHNESS))
    np.testing.assert_allclose(derived[0, :, 0], difference, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("trials", [1, 2, 5, 8, 13])
def test_factors_and_their_gradient(trials):
    rng = np.random.default_rng(trials)
    root = rng.normal(size=(2, trials, trials)).astype(np.float32)
    matrix = root @ root.swapaxes(1, 2) + np.eye(trials, dtype=np.float32)
    lower, inverse = cholesky_and_inverse(jnp.asarray(matrix))
    np.testing.assert_allclose(lower, np.linalg.cholesky(matrix), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(inverse @ lower, np.broadcast_to(np.eye(trials), matrix.shape), atol=1e-4)
    weights = rng.normal(size=(2, 2, trials, trials)).astype(np.float32)

    def plain(matrix):
        lower = jnp.linalg.cholesky(matrix)
        return lower, jnp.linalg.inv(lower)

    def gradient(function):
        return jax.grad(lambda m: sum(jnp.sum(w * part) for w, part in zip(weights, function(m), strict=True)))(matrix)

    np.testing.assert_allclose(gradient(cholesky_and_inverse), gradient(plain), rtol=2e-3, atol=2e-3)


CONCURRENT = """
import os, threading
import jax, numpy as np
from optformer.model.gaussian_process import cholesky

decompose = jax.jit(lambda matrices: cholesky(cholesky(matrices)))
matrices = np.broadcast_to(np.eye(48, dtype=np.float32), (8, 4, 48, 48))
decompose(matrices).block_until_ready()
threads = [
    threading.Thread(target=lambda: [decompose(matrices).block_until_ready() for _ in range(100)])
    for _ in range(2 * os.cpu_count())
]
for thread in threads:
    thread.start()
"""


@pytest.mark.integration
def test_decompositions_in_many_threads_do_not_wait_for_each_other():
    """As calls of LAPACK for several matrices do in jaxlib 0.10; the process would not end."""
    subprocess.run([sys.executable, "-c", CONCURRENT], check=True, timeout=120)


def test_a_cpu_decomposes_one_matrix_at_a_time():
    lowered = jax.jit(cholesky).lower(jnp.ones((2, 3, 5, 5))).as_text()
    calls = [line for line in lowered.splitlines() if "lapack_spotrf" in line]
    assert calls
    assert not any("3x5x5" in line for line in calls), calls


def test_inverse_of_a_covariance_that_is_nearly_singular():
    """Rows of the inverse times L are as exact as a solver of triangular systems makes them."""
    x = np.linspace(0, 1, 100)
    matrix = numpy_matern(np.square(x[:, None] - x[None]), 5) + JITTER * np.eye(100)
    lower = np.linalg.cholesky(matrix)
    found = inverse_of_lower(jnp.asarray(lower, jnp.float32))
    np.testing.assert_allclose(np.asarray(found, np.float64) @ lower, np.eye(100), atol=2e-3)


def test_where_rounding_makes_a_covariance_indefinite_more_noise_is_added():
    matrix = np.ones((1, 1, 40, 40), np.float32)
    matrix[..., ::2, 1::2] += 2e-5  # the least eigenvalue is -4e-4
    matrix[..., 1::2, ::2] += 2e-5
    one = jnp.ones((1, 1))
    hyper = Hyperparameters(jnp.ones((1, 1, 1)), one, 1e-6 * one, 0 * one)
    every = jnp.ones((1, 40), bool)
    lower, inverse, noise = decompose(jnp.asarray(matrix), hyper, every, every)
    assert noise[0, 0] == pytest.approx(1e-6 + JITTER + MORE_JITTER, rel=1e-3)
    assert np.isfinite(lower).all()
    assert np.isfinite(inverse).all()


def test_a_trial_without_a_value_tells_nothing(case):
    *_, (squared, y, hyper) = case
    every = jnp.ones((STUDIES, TRIALS), bool)
    some = every.at[:, 3].set(False)
    _, without_row = fit(
        *(jnp.delete(field, 3, axis) for field, axis in ((jnp.delete(squared, 3, 2), 3), (y, 1))),
        *(every[:, 1:],) * 2,
        hyper,
        SMOOTHNESS,
    )
    _, without_value = fit(squared, y, every, some, hyper, SMOOTHNESS)
    for left_out, unknown in zip(without_row, without_value, strict=True):
        np.testing.assert_allclose(left_out, np.delete(unknown, 3, axis=1), rtol=1e-4, atol=2e-5)
    assert UNKNOWN > 1e6


def test_scaled_distances(case):
    squared, *_, (squared32, _, hyper32) = case
    expected = np.einsum("bsij,bhs->bhij", squared, np.asarray(hyper32.weights, np.float64))
    np.testing.assert_allclose(scaled(squared32, hyper32.weights), expected, rtol=1e-5)
