"""Gaussian processes with given hyperparameters: several per study, over the same trials.

Notation: B studies, H processes, D slots, T trials in their order, R rows to predict, N candidates.

    y_t = m + f(x_t) + noise      cov(f(x), f(x')) = a k(r)      r^2 = sum_s w_s d_s^2(x, x')      var(noise) = n

d_s is the distance of two values in slot s.  It must be a distance between points of a Euclidean space; then so is r,
for weights w_s >= 0.  k is a Matérn function of r: a mixture of exp(-c r^2) over c > 0, each of which is positive
semi-definite by Schoenberg's theorem.  So every covariance matrix here is positive semi-definite.

One Cholesky factor of all trials, L L^T = a k + n, gives each trial's prediction from the trials before it.  Row t of L
and of alpha = L^-1 (y - m) depends only on the trials 0 ... t, and

    mean_t = m + sum_{j<t} L_tj alpha_j = y_t - L_tt alpha_t        variance_t = a - sum_{j<t} L_tj^2 + n = L_tt^2

A trial without a value has noise of variance `UNKNOWN`, so large that it does not affect the others.  If the covariance
of a study cannot be decomposed in float32, all of its trials get `MORE_JITTER`.  Only then does a prediction depend on
later trials, and only on their configurations.

All computations are float32, products included: TF32, which a GPU may use for them, would lose half of the digits.
Systems are solved by products with L^-1, which is itself computed with products.  LAPACK's solvers, which jax calls on
a CPU, busy-wait for threads of their own and take twenty times as long on a busy machine.
"""

import functools
import math
from collections.abc import Callable
from typing import Final, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

UNKNOWN: Final = 1e8
"""Variance of the noise of a trial without a value; values are of order 1."""

JITTER: Final = 5e-5
"""Noise added to n, as a share of the amplitude; without it, most covariances cannot be decomposed in float32."""

MORE_JITTER: Final = 3e-3
"""Jitter of studies for which `JITTER` is too small."""

ROUNDING: Final = 1e-4
"""Added to r^2, so that the kernel of order 1/2 is differentiable where two points are equal."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

Smoothness = tuple[int, ...]
"""Per process, twice the order of its Matérn kernel: 1, 3 or 5.  1 is rough, for step functions; 5 is smooth."""


class Hyperparameters(NamedTuple):
    """Hyperparameters of every process, float32.

    Attributes:
      weights: w [B, H, D], inverse squared length scales; 0 for padding.
      amplitude: a [B, H].
      noise: n [B, H].
      mean: m [B, H].
    """

    weights: Array
    amplitude: Array
    noise: Array
    mean: Array


class Prediction(NamedTuple):
    """Predictions of rows by every process: a normal distribution of the value, and the evidence of the process.

    Attributes:
      mean: [B, R, H].
      variance: [B, R, H], including the noise.
      evidence: [B, R, H], log density of all values from which the row is predicted.
      known: [B, R], number of these values.
    """

    mean: Array
    variance: Array
    evidence: Array
    known: Array


class Fitted(NamedTuple):
    """Fitted trials, from which candidates are predicted.

    Attributes:
      hyperparameters: hyperparameters of the processes.
      noise: [B, H], n plus jitter.
      inverse: L^-1 [B, H, T, T].
      alpha: [B, H, T].
      present: bool [B, T], False for padding.
      evidence: [B, H], log density of the known values.
      known: [B], number of known values.
    """

    hyperparameters: Hyperparameters
    noise: Array
    inverse: Array
    alpha: Array
    present: Array
    evidence: Array
    known: Array


class Points(NamedTuple):
    """Configurations, in a form for computing distances.

    Attributes:
      tokens: int32 [B, R, D].
      categories: [B, R, D, K], unit vectors of categories, 0 for any other token.
    """

    tokens: Array
    categories: Array


class Known(NamedTuple):
    """The known trials: their points, and the processes fitted to them."""

    points: Points
    fitted: Fitted


def full_precision(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorator: float32 products in full precision on every device."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


# By twice the order of a Matérn kernel, with p = sqrt(2 order) r: c_1 and c_2 of k = (1 + c_1 p + c_2 p^2) exp(-p), and
# the e of its slope dk/d(r^2) = -order (e_0 / p + e_1 + e_2 p) exp(-p).
_MATERN: Final = {1: (0.0, 0.0, 1.0, 0.0, 0.0), 3: (1.0, 0.0, 0.0, 1.0, 0.0), 5: (1.0, 1 / 3, 0.0, 1 / 3, 1 / 3)}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def matern(
    squared: Float[Array, "batch process row trial"], smoothness: Smoothness
) -> Float[Array, "batch process row trial"]:
    """k as a function of r^2; 1 for r = 0.  Has a custom derivative, since the automatic one is 0 / 0 there."""
    order, (c1, c2, *_) = _constants(smoothness)
    p0 = np.sqrt(2 * order * ROUNDING)
    p = jnp.sqrt(2 * order * (jnp.maximum(squared, 0.0) + ROUNDING))
    return (1 + c1 * p + c2 * p * p) * jnp.exp(p0 - p) / (1 + c1 * p0 + c2 * p0 * p0)


def matern_slope(
    squared: Float[Array, "batch process row trial"], smoothness: Smoothness
) -> Float[Array, "batch process row trial"]:
    """dk / d(r^2): negative."""
    order, (c1, c2, e0, e1, e2) = _constants(smoothness)
    p0 = np.sqrt(2 * order * ROUNDING)
    p = jnp.sqrt(2 * order * (jnp.maximum(squared, 0.0) + ROUNDING))
    return -order * (e0 / p + e1 + e2 * p) * jnp.exp(p0 - p) / (1 + c1 * p0 + c2 * p0 * p0)


@matern.defjvp
def _matern_jvp(smoothness: Smoothness, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (squared,), (tangent,) = primals, tangents
    return matern(squared, smoothness), matern_slope(squared, smoothness) * tangent


def _constants(smoothness: Smoothness) -> tuple[np.ndarray, list[np.ndarray]]:
    """The orders, [1, H, 1, 1], and each column of `_MATERN` in that shape."""
    columns = np.asarray([_MATERN[twice] for twice in smoothness], np.float32)
    order = np.asarray(smoothness, np.float32) / 2
    return order[None, :, None, None], [column[None, :, None, None] for column in columns.T]


@full_precision
def scaled(
    squared: Float[Array, "batch slot row trial"], weights: Float[Array, "batch process slot"]
) -> Float[Array, "batch process row trial"]:
    """r^2 from d_s^2."""
    return jnp.einsum("bsij,bhs->bhij", squared, weights)


@full_precision
def decompose(
    kernel: Float[Array, "batch process trial trial"],
    hyperparameters: Hyperparameters,
    present: Bool[Array, "batch trial"],
    observed: Bool[Array, "batch trial"],
) -> tuple[
    Float[Array, "batch process trial trial"], Float[Array, "batch process trial trial"], Float[Array, "batch process"]
]:
    """Decomposes the covariance a k + n.

    Args:
      kernel: k of all pairs.
      hyperparameters: hyperparameters of the processes.
      present: bool [B, T], False for padding.
      observed: bool [B, T], trials with a value; the others have noise of variance `UNKNOWN`.

    Returns:
      L [B, H, T, T], with rows of the identity for padding; L^-1; and n plus jitter [B, H].
    """
    amplitude, eye = hyperparameters.amplitude, np.eye(kernel.shape[-1], dtype=np.float32)
    both = (present[:, :, None] & present[:, None, :])[:, None]
    covariance = jnp.where(both, amplitude[..., None, None] * kernel, 0.0)
    unknown = jnp.where(observed, 0.0, UNKNOWN)[:, None]

    def with_noise(noise: Array) -> Array:
        diagonal = jnp.where(present[:, None], noise[..., None] + unknown, 1.0)
        return covariance + diagonal[..., None] * eye[None, None]

    noise = hyperparameters.noise + JITTER * amplitude
    # A failed decomposition does not always give NaN.  In a correct one, no pivot is less than the noise.
    tried = cholesky(jax.lax.stop_gradient(with_noise(noise)))
    pivots = jnp.square(jnp.diagonal(tried, axis1=-2, axis2=-1))
    holds = (pivots > 0.5 * jnp.minimum(noise, 1.0)[..., None]).all(axis=-1)  # and false for NaN
    noise = noise + jnp.where(holds, 0.0, MORE_JITTER * amplitude)
    return *cholesky_and_inverse(with_noise(noise)), noise


def cholesky(covariance: Float[Array, "*batch trial trial"]) -> Float[Array, "*batch trial trial"]:
    """L of L L^T; on a CPU one matrix after the other.

    For several matrices at once, jaxlib 0.10 splits the call into tasks for the threads of XLA's pool, and waits for
    them on one of these threads.  Two such calls at the same time on two cores are a deadlock.
    """

    def one_by_one(matrices: Float[Array, "*batch trial trial"]) -> Float[Array, "*batch trial trial"]:
        size = matrices.shape[-2:]
        return jax.lax.map(jnp.linalg.cholesky, matrices.reshape(-1, *size)).reshape(matrices.shape)

    lower: Array = jax.lax.platform_dependent(covariance, cpu=one_by_one, default=jnp.linalg.cholesky)
    return lower


@jax.custom_vjp
def cholesky_and_inverse(
    covariance: Float[Array, "*batch trial trial"],
) -> tuple[Float[Array, "*batch trial trial"], Float[Array, "*batch trial trial"]]:
    """L and L^-1 of a covariance L L^T.  The custom gradient consists of products only."""
    lower = cholesky(covariance)
    return lower, inverse_of_lower(lower)


def _factors_forward(covariance: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    factors = cholesky_and_inverse(covariance)
    return factors, factors


@full_precision
def _factors_backward(factors: tuple[Array, Array], gradients: tuple[Array, Array]) -> tuple[Array]:
    lower, inverse = factors
    transposed = jnp.swapaxes(inverse, -1, -2)
    gradient = jnp.tril(gradients[0]) - jnp.tril(transposed @ jnp.tril(gradients[1]) @ transposed)
    inner = jnp.tril(jnp.swapaxes(lower, -1, -2) @ gradient)
    eye = jnp.eye(lower.shape[-1]).reshape((1,) * (lower.ndim - 2) + lower.shape[-2:])
    outer = transposed @ (inner * (1 - eye / 2)) @ inverse
    return ((outer + jnp.swapaxes(outer, -1, -2)) / 2,)


cholesky_and_inverse.defvjp(_factors_forward, _factors_backward)


@full_precision
def inverse_of_lower(lower: Float[Array, "*batch trial trial"]) -> Float[Array, "*batch trial trial"]:
    """Inverse of lower triangular matrices, from products of blocks that double in size.

    [[A, 0], [B, C]] has the inverse [[A^-1, 0], [-C^-1 B A^-1, C^-1]].
    """
    *batch, trials, _ = lower.shape
    size = 1 << (trials - 1).bit_length()
    missing = size - trials
    padded = jnp.pad(lower, [(0, 0)] * len(batch) + [(0, missing)] * 2)
    diagonal = jnp.diagonal(padded, axis1=-2, axis2=-1)
    diagonal = jnp.where((np.arange(size) < trials).reshape((1,) * len(batch) + (size,)), diagonal, 1.0)
    inverse = (1.0 / diagonal)[..., None, None]  # blocks [..., number of blocks, block, block]
    for block in (1 << level for level in range(size.bit_length() - 1)):
        first = np.arange(0, size, 2 * block)[:, None, None]
        rows, columns = first + block + np.arange(block)[None, :, None], first + np.arange(block)[None, None, :]
        a, c = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -(c @ padded[..., rows, columns] @ a)
        upper = jnp.concatenate([a, jnp.zeros_like(a)], axis=-1)
        inverse = jnp.concatenate([upper, jnp.concatenate([corner, c], axis=-1)], axis=-2)
    return inverse[..., 0, :trials, :trials]


@full_precision
def log_density_slopes(
    squared: Float[Array, "batch slot trial trial"],
    y: Float[Array, "batch trial"],
    known: Bool[Array, "batch trial"],
    hyperparameters: Hyperparameters,
    smoothness: Smoothness,
) -> Hyperparameters:
    """Gradient of the log density of the known values by log w, log a, log n, and m."""
    weights, amplitude, noise, mean = hyperparameters
    r2 = scaled(squared, weights)
    kernel = matern(r2, smoothness)
    _, inverse, total = decompose(kernel, hyperparameters, known, known)
    residual = jnp.where(known[:, None], y[:, None] - mean[..., None], 0.0)
    beta = jnp.einsum("bhji,bhj->bhi", inverse, jnp.einsum("bhij,bhj->bhi", inverse, residual))
    # With C the covariance including noise, d log p / dC is half of C^-1 (y - m) (y - m)^T C^-1 - C^-1.
    outer = beta[..., :, None] * beta[..., None, :] - jnp.einsum("bhki,bhkj->bhij", inverse, inverse)
    outer = 0.5 * jnp.where((known[:, :, None] & known[:, None, :])[:, None], outer, 0.0)
    by_distance = outer * amplitude[..., None, None] * matern_slope(r2, smoothness)
    trace = jnp.trace(outer, axis1=-2, axis2=-1)
    return Hyperparameters(
        weights * jnp.einsum("bhij,bsij->bhs", by_distance, squared),
        amplitude * (outer * kernel).sum(axis=(-2, -1)) + (total - noise) * trace,
        noise * trace,
        beta.sum(axis=-1),
    )


@full_precision
def fit(
    squared: Float[Array, "batch slot trial trial"],
    y: Float[Array, "batch trial"],
    present: Bool[Array, "batch trial"],
    observed: Bool[Array, "batch trial"],
    hyperparameters: Hyperparameters,
    smoothness: Smoothness,
) -> tuple[Fitted, Prediction]:
    """Fits all trials; also returns the prediction of each trial from those before it."""
    _, amplitude, _, mean = hyperparameters
    kernel = matern(scaled(squared, hyperparameters.weights), smoothness)
    lower, inverse, noise = decompose(kernel, hyperparameters, present, observed)
    residual = jnp.where(observed[:, None], y[:, None] - mean[..., None], 0.0)
    alpha = jnp.einsum("bhij,bhj->bhi", inverse, residual)
    earlier = jnp.where(np.tri(y.shape[1], k=-1, dtype=bool)[None, None], lower, 0.0)
    means = mean[..., None] + jnp.einsum("bhij,bhj->bhi", earlier, alpha)
    variance = _variance(jnp.square(earlier).sum(axis=-1), amplitude, noise)
    error = jnp.square(y[:, None] - means) / variance + jnp.log(2 * math.pi * variance)
    density = jnp.where(observed[:, None], -0.5 * error, 0.0)
    evidence, known = jnp.cumsum(density, axis=-1), jnp.cumsum(observed.astype(jnp.float32), axis=-1)
    fitted = Fitted(hyperparameters, noise, inverse, alpha, present, evidence[..., -1], known[..., -1])
    means, variance, before = (jnp.swapaxes(field, 1, 2) for field in (means, variance, evidence - density))
    return fitted, Prediction(means, variance, before, known - observed)


@full_precision
def predict(fitted: Fitted, squared: Float[Array, "batch slot candidate trial"], smoothness: Smoothness) -> Prediction:
    """Predicts each candidate as the next trial, given its squared distances to all trials."""
    weights, amplitude, _, mean = fitted.hyperparameters
    kernel = amplitude[..., None, None] * matern(scaled(squared, weights), smoothness)
    kernel = jnp.where(fitted.present[:, None, None], kernel, 0.0)
    row = jnp.einsum("bhnj,bhij->bhni", kernel, fitted.inverse)
    means = mean[..., None] + jnp.einsum("bhnt,bht->bhn", row, fitted.alpha)
    variance = _variance(jnp.square(row).sum(axis=-1), amplitude, fitted.noise)
    studies, processes, rows = means.shape
    return Prediction(
        jnp.swapaxes(means, 1, 2),
        jnp.swapaxes(variance, 1, 2),
        jnp.broadcast_to(fitted.evidence[:, None], (studies, rows, processes)),
        jnp.broadcast_to(fitted.known[:, None], (studies, rows)),
    )


def _variance(
    explained: Float[Array, "batch process row"],
    amplitude: Float[Array, "batch process"],
    noise: Float[Array, "batch process"],
) -> Float[Array, "batch process row"]:
    """Variance of a value including noise.  The explained variance is clipped to the amplitude because of rounding."""
    return jnp.maximum(amplitude[..., None] - explained, 0.0) + noise[..., None]
