"""Behaviours that model the objective: a Gaussian process and a tree-structured Parzen estimator, on the device.

Notation, for one study: T trials, D slots, M candidates per trial; x the coordinates of a trial divided by length
scales, g its score: the normal quantile of its rank, so that no outlier and no warp of the objective matters
(Salinas et al. 2020); k the kernel, P = (K + s I)^-1 the precision of the scores so far, s their noise.

Hyperparameters are drawn, not fitted: what matters is that trials explore first and then concentrate, and the draws
give a range of optimizers from timid to bold.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior import spaces
from optformer.data.prior.behaviours.interface import (
    History,
    Setting,
    is_categorical,
    move,
    plan_exploring,
)
from optformer.data.prior.draws import Draws
from optformer.data.prior.spaces import Space

_UNIFORM, _NEAR = 10, 22
"""Candidates per trial: uniform ones, and steps from good trials."""
_OFF = 0.5


class Candidates(NamedTuple):
    """Noise of the candidates of every trial."""

    space: Space
    categorical: Bool[Array, " slot"]
    length_scales: Float[Array, " slot"]
    fresh: Float[Array, "trial uniform slot"]
    steps: Float[Array, "trial near slot"]
    parents: Float[Array, "trial near"]


def _plan_candidates(draws: Draws, setting: Setting, length_scales: Float[Array, " slot"], widest: float) -> Candidates:
    trials, slots = setting.trials, setting.space.kinds.shape[0]
    # Cubes of uniform numbers: heavy tails, so that one candidate takes a long step in one parameter and short ones in
    # others; with widths over two decades the same candidates serve early and late trials.
    width = draws.log_uniform(0.02, widest, (trials, _NEAR, 1))
    steps = width * draws.uniform((trials, _NEAR, slots), -1.0, 1.0) ** 3
    return Candidates(
        space=setting.space,
        categorical=is_categorical(setting),
        length_scales=length_scales,
        fresh=draws.uniform((trials, _UNIFORM, slots)),
        steps=steps,
        parents=draws.uniform((trials, _NEAR)),
    )


def _candidates(
    plan: Candidates, history: History, rank: Int[Array, " trial"], good: Float[Array, ""], t: Int[Array, ""]
) -> Float[Array, "candidate slot"]:
    """Uniform points, then steps from the `good` best trials."""
    seat = jnp.floor(plan.parents[t] * good).astype(jnp.int32)
    parent = history.z[jnp.argmax(rank[None, :] == seat[:, None], axis=1)]
    fresh = jnp.resize(plan.fresh[t], (_NEAR, plan.fresh.shape[-1]))
    near = move(plan.categorical[None, :], parent, plan.steps[t], fresh)
    return jnp.concatenate([plan.fresh[t], near])


def _features(plan: Candidates, z: Float[Array, " slot"]) -> Float[Array, " slot"]:
    """x of a point; a parameter that it does not have counts for nothing."""
    q = spaces.quantize(plan.space, z)
    u = jnp.where(spaces.activity(plan.space, q), spaces.coordinate(plan.space, q), _OFF)
    return u / plan.length_scales


def _squared_distances(a: Float[Array, "one slot"], b: Float[Array, "other slot"]) -> Float[Array, "one other"]:
    squared = jnp.square(a).sum(1)[:, None] + jnp.square(b).sum(1)[None, :] - 2.0 * a @ b.T
    return jnp.maximum(squared, 0.0)


def _ranks(history: History, t: Int[Array, ""]) -> Int[Array, " trial"]:
    """0 for the best trial; of equals the earlier comes first; trials ahead come last."""
    index = jnp.arange(history.y.shape[0])
    y = jnp.where(index < t, history.y, -jnp.inf)
    before = (y[None, :] > y[:, None]) | ((y[None, :] == y[:, None]) & (index[None, :] < index[:, None]))
    return before.sum(1)


def _absorbed(
    plan: Candidates, x: Float[Array, "trial slot"], history: History, t: Int[Array, ""]
) -> Float[Array, "trial slot"]:
    """The features with those of the last trial, t - 1, written into their row."""
    last = jnp.maximum(t - 1, 0)
    return x.at[last].set(_features(plan, history.z[last]))


# --- Gaussian process ---


class GaussianProcess(NamedTuple):
    """Plan of `gaussian_process`."""

    candidates: Candidates
    exploring: Bool[Array, "trial 1"]
    uniform: Float[Array, "trial slot"]
    smooth: Bool[Array, ""]
    noise: Float[Array, ""]
    improvement: Bool[Array, ""]
    boldness: Float[Array, ""]


class Precision(NamedTuple):
    """Features of the trials so far, and P of their scores (zero rows for trials ahead)."""

    x: Float[Array, "trial slot"]
    precision: Float[Array, "trial trial"]


def remember_precision(trials: int, slots: int) -> Precision:
    """Nothing known."""
    return Precision(jnp.zeros((trials, slots)), jnp.zeros((trials, trials)))


def plan_gaussian_process(draws: Draws, setting: Setting) -> GaussianProcess:
    """Squared exponential or Matern 5/2 kernel; expected improvement, or an upper confidence bound."""
    dimension = jnp.sqrt(setting.space.active.sum().astype(jnp.float32))
    per_slot = draws.log_normal(1.0, 0.3, (setting.space.kinds.shape[0],))
    boldness = jnp.where(draws.bernoulli(0.5), 1.8, draws.log_uniform(0.3, 3.0))
    return GaussianProcess(
        candidates=_plan_candidates(draws, setting, draws.log_normal(0.35, 0.3) * per_slot * dimension, 0.8),
        exploring=plan_exploring(draws, setting, 0.25, 0.2),
        uniform=draws.uniform((setting.trials, setting.space.kinds.shape[0])),
        smooth=draws.bernoulli(0.4),
        noise=draws.log_uniform(3e-3, 0.1),
        improvement=draws.bernoulli(0.5),
        boldness=boldness,
    )


def propose_gaussian_process(
    plan: GaussianProcess, memory: Precision, history: History, t: Int[Array, ""]
) -> tuple[Float[Array, " slot"], Precision]:
    """The candidate of highest acquisition value."""
    index = jnp.arange(history.y.shape[0])
    x = _absorbed(plan.candidates, memory.x, history, t)
    last = jnp.maximum(t - 1, 0)
    precision = jnp.where(t > 0, _extended(plan, memory.precision, x, last), memory.precision)

    rank = _ranks(history, t)
    quantile = 1.0 - (rank + 0.5) / jnp.maximum(t, 1)
    scores = jnp.where(index < t, math.sqrt(2.0) * jax.lax.erf_inv(2.0 * jnp.clip(quantile, 0.0, 1.0) - 1.0), 0.0)

    z = _candidates(plan.candidates, history, rank, jnp.clip(t, 1.0, 4.0), t)
    features = jax.vmap(lambda point: _features(plan.candidates, point))(z)
    covariance = jnp.where((index < t)[None, :], _kernel(plan.smooth, _squared_distances(features, x)), 0.0)
    mean = covariance @ (precision @ scores)
    variance = 1.0 - jnp.sum((covariance @ precision) * covariance, axis=1)
    deviation = jnp.sqrt(jnp.maximum(variance, 1e-4))
    best = jnp.max(jnp.where(index < t, scores, -jnp.inf), initial=-5.0)
    value = jnp.where(plan.improvement, _expected_improvement(mean, deviation, best), mean + plan.boldness * deviation)
    return jnp.where(plan.exploring[t], plan.uniform[t], z[jnp.argmax(value)]), Precision(x, precision)


def _kernel(smooth: Bool[Array, ""], squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """Squared exponential, or Matern 5/2."""
    distance = jnp.sqrt(5.0 * squared)
    matern = 1.0 + distance + 5.0 / 3.0 * squared
    return jnp.where(smooth, 1.0, matern) * jnp.exp(jnp.where(smooth, -0.5 * squared, -distance))


def _extended(
    plan: GaussianProcess, precision: Float[Array, "trial trial"], x: Float[Array, "trial slot"], last: Int[Array, ""]
) -> Float[Array, "trial trial"]:
    """P with one more trial, by the inverse of a block matrix: no factorisation, which batches badly on a GPU."""
    before = jnp.arange(x.shape[0]) < last
    covariance = jnp.where(before, _kernel(plan.smooth, jnp.square(x - x[last][None, :]).sum(1)), 0.0)
    weights = precision @ covariance
    # The conditional variance of the new score; rounding must not take it below its noise.
    rest = jnp.maximum(1.0 + plan.noise - covariance @ weights, plan.noise)
    change = weights.at[last].set(-1.0)
    return precision + change[:, None] * change[None, :] / rest


def _expected_improvement(
    mean: Float[Array, " candidate"], deviation: Float[Array, " candidate"], best: Float[Array, ""]
) -> Float[Array, " candidate"]:
    u = (mean - best) / deviation
    density = jnp.exp(-0.5 * jnp.square(u)) / math.sqrt(2.0 * math.pi)
    return deviation * (u * 0.5 * (1.0 + jax.lax.erf(u / math.sqrt(2.0))) + density)


# --- Tree-structured Parzen estimator ---


class ParzenEstimator(NamedTuple):
    """Plan of `tpe`."""

    candidates: Candidates
    exploring: Bool[Array, "trial 1"]
    uniform: Float[Array, "trial slot"]
    good_share: Float[Array, ""]
    dimension: Float[Array, ""]


def remember_points(trials: int, slots: int) -> Float[Array, "trial slot"]:
    """Features of the trials so far."""
    return jnp.zeros((trials, slots))


def plan_tpe(draws: Draws, setting: Setting) -> ParzenEstimator:
    """The multivariate estimator (Falkner et al. 2018), with a bandwidth per parameter."""
    per_slot = draws.log_normal(1.0, 0.3, (setting.space.kinds.shape[0],))
    return ParzenEstimator(
        candidates=_plan_candidates(draws, setting, draws.log_uniform(0.12, 0.35) * per_slot, 0.6),
        exploring=plan_exploring(draws, setting, 0.35, 0.1),
        uniform=draws.uniform((setting.trials, setting.space.kinds.shape[0])),
        good_share=draws.uniform((), 0.1, 0.3),
        dimension=setting.space.active.sum().astype(jnp.float32),
    )


def propose_tpe(
    plan: ParzenEstimator, memory: Float[Array, "trial slot"], history: History, t: Int[Array, ""]
) -> tuple[Float[Array, " slot"], Float[Array, "trial slot"]]:
    """The candidate with the highest ratio of densities, of the good trials to the others (Bergstra et al. 2011)."""
    x = _absorbed(plan.candidates, memory, history, t)
    rank = _ranks(history, t)
    good = jnp.clip(jnp.ceil(plan.good_share * t), 1.0, 25.0)
    z = _candidates(plan.candidates, history, rank, good, t)
    features = jax.vmap(lambda point: _features(plan.candidates, point))(z)

    # Bandwidths shrink with the number of good trials (Scott's rule).
    narrowing = jnp.power(good, 2.0 / (plan.dimension + 4.0))
    kernel = jnp.exp(-0.5 * narrowing * _squared_distances(features, x))
    is_good = rank < good
    is_other = ~is_good & (jnp.arange(rank.shape[0]) < t)
    # One more kernel that is flat over the cube: where no trial lies, the ratio is 1 and not 0 / 0.
    flat = jnp.exp(-0.5 * plan.dimension)
    above = (kernel @ is_good.astype(jnp.float32) + flat) / (good + 1.0)
    below = (kernel @ is_other.astype(jnp.float32) + flat) / (jnp.maximum(t - good, 0.0) + 1.0)
    chosen = z[jnp.argmax(jnp.log(above) - jnp.log(below))]
    return jnp.where(plan.exploring[t], plan.uniform[t], chosen), x
