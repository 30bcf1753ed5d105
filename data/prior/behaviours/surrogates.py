"""Behaviours that model the objective: a Gaussian process and a tree-structured Parzen estimator, on the device.

Notation, for one study: T trials, D slots, M candidates per trial; x the coordinates of a trial divided by length
scales, g its score: the normal quantile of its rank, so that no outlier and no warp of the objective matters
(Salinas et al. 2020); k the kernel, P = (K + s I)^-1 the precision of the scores so far, s their noise.

Both share one computation, since under `vmap` every study pays for both: the same candidates, ranks and distances, one
kernel, and two acquisition values of which one is used.  Hyperparameters are drawn, not fitted: it suffices that trials
first explore and then concentrate, and the draws give a range of cautious to bold optimizers.
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


class Surrogate(NamedTuple):
    """Plan of `gaussian_process` and `tpe`.

    Attributes:
      space: search space of the study.
      categorical: slots that are categorical.
      exploring: trials that are uniform.
      uniform: the points of these trials.
      fresh: uniform candidates.
      steps: steps of the other candidates from their parents.
      parents: index of each parent among the good trials, as a share of their number.
      length_scales: length scales of the kernel.
      parzen: whether to use densities of good and other trials, instead of a Gaussian process.
      smooth: whether the kernel is the squared exponential, instead of Matern 5/2.
      noise: variance of the noise of a score, s.
      improvement: whether to use expected improvement, instead of an upper confidence bound.
      boldness: standard deviations from the mean to that bound.
      good_share: share of the trials that count as good.
      dimension: number of parameters.
    """

    space: Space
    categorical: Bool[Array, " slot"]
    exploring: Bool[Array, "trial 1"]
    uniform: Float[Array, "trial slot"]
    fresh: Float[Array, "trial uniform slot"]
    steps: Float[Array, "trial near slot"]
    parents: Float[Array, "trial near"]
    length_scales: Float[Array, " slot"]
    parzen: Bool[Array, ""]
    smooth: Bool[Array, ""]
    noise: Float[Array, ""]
    improvement: Bool[Array, ""]
    boldness: Float[Array, ""]
    good_share: Float[Array, ""]
    dimension: Float[Array, ""]


class Memory(NamedTuple):
    """Coordinates x of the trials so far, and P of their scores (rows of trials that have not run are zero)."""

    x: Float[Array, "trial slot"]
    precision: Float[Array, "trial trial"]


def remember(trials: int, slots: int) -> Memory:
    """Nothing known."""
    return Memory(jnp.zeros((trials, slots)), jnp.zeros((trials, trials)))


def plan_gaussian_process(draws: Draws, setting: Setting) -> Surrogate:
    """Squared exponential or Matern 5/2 kernel; expected improvement, or an upper confidence bound."""
    dimension = jnp.sqrt(setting.space.active.sum().astype(jnp.float32))
    length_scale = draws.log_normal(0.35, 0.3) * dimension
    return _plan(draws, setting, length_scale, 0.8, plan_exploring(draws, setting, 0.25, 0.2), parzen=False)


def plan_tpe(draws: Draws, setting: Setting) -> Surrogate:
    """The multivariate estimator (Falkner et al. 2018), with a bandwidth per parameter."""
    bandwidth = draws.log_uniform(0.12, 0.35)
    return _plan(draws, setting, bandwidth, 0.6, plan_exploring(draws, setting, 0.35, 0.1), parzen=True)


def _plan(
    draws: Draws,
    setting: Setting,
    length_scale: Float[Array, ""],
    widest: float,
    exploring: Bool[Array, "trial 1"],
    parzen: bool,
) -> Surrogate:
    trials, slots = setting.trials, setting.space.kinds.shape[0]
    # Cubes of uniform numbers have heavy tails, so that a candidate takes a long step in one parameter and short ones
    # in others.  With widths over two decades, the same candidates serve early and late trials.
    width = draws.log_uniform(0.02, widest, (trials, _NEAR, 1))
    plan = Surrogate(
        space=setting.space,
        categorical=is_categorical(setting),
        exploring=exploring,
        uniform=draws.uniform((trials, slots)),
        fresh=draws.uniform((trials, _UNIFORM, slots)),
        steps=width * draws.uniform((trials, _NEAR, slots), -1.0, 1.0) ** 3,
        parents=draws.uniform((trials, _NEAR)),
        length_scales=length_scale * draws.log_normal(1.0, 0.3, (slots,)),
        parzen=jnp.asarray(parzen),
        smooth=draws.bernoulli(0.4) | parzen,
        noise=draws.log_uniform(3e-3, 0.1),
        improvement=draws.bernoulli(0.5),
        boldness=jnp.where(draws.bernoulli(0.5), 1.8, draws.log_uniform(0.3, 3.0)),
        good_share=draws.uniform((), 0.1, 0.3),
        dimension=setting.space.active.sum().astype(jnp.float32),
    )
    if setting.pinned is None:
        return plan
    # All candidates belong to the study of the trial.  Its slots of earlier studies are categories, so a long step sets
    # them to the fresh value.
    pinned = setting.pinned[:, None, :]
    return plan._replace(
        fresh=jnp.where(pinned >= 0.0, pinned, plan.fresh), steps=jnp.where(pinned >= 0.0, 1.0, plan.steps)
    )


def propose(
    plan: Surrogate, memory: Memory, history: History, t: Int[Array, ""]
) -> tuple[Float[Array, " slot"], Memory]:
    """The candidate with the highest acquisition value, or a uniform point."""
    index = jnp.arange(history.y.shape[0])
    last = jnp.maximum(t - 1, 0)
    x = memory.x.at[last].set(_coordinates(plan, history.z[last]))
    precision = jnp.where(t > 0, _extended(plan, memory.precision, x, last), 0.0)

    rank = _ranks(history, t)
    good = jnp.where(plan.parzen, jnp.clip(jnp.ceil(plan.good_share * t), 1.0, 25.0), jnp.clip(t, 1.0, 4.0))
    z = _candidates(plan, history, rank, good, t)
    coordinates = jax.vmap(lambda point: _coordinates(plan, point))(z)
    # Bandwidths shrink with the number of good trials (Scott's rule).
    narrowing = jnp.where(plan.parzen, jnp.power(good, 2.0 / (plan.dimension + 4.0)), 1.0)
    kernel = _kernel(plan.smooth, narrowing * _squared_distances(coordinates, x))
    kernel = jnp.where((index < t)[None, :], kernel, 0.0)
    ratio = _density_ratio(plan, kernel, rank, good, t)
    value = jnp.where(plan.parzen, ratio, _acquisition(plan, kernel, precision, rank, t))
    return jnp.where(plan.exploring[t], plan.uniform[t], z[jnp.argmax(value)]), Memory(x, precision)


def _coordinates(plan: Surrogate, z: Float[Array, " slot"]) -> Float[Array, " slot"]:
    """x of a point; inactive parameters contribute nothing."""
    q = spaces.quantize(plan.space, z)
    u = jnp.where(spaces.activity(plan.space, q), spaces.coordinate(plan.space, q), _OFF)
    return u / plan.length_scales


def _ranks(history: History, t: Int[Array, ""]) -> Int[Array, " trial"]:
    """0 for the best trial; of ties, the earlier comes first; trials that have not run come last."""
    index = jnp.arange(history.y.shape[0])
    y = jnp.where(index < t, history.y, -jnp.inf)
    before = (y[None, :] > y[:, None]) | ((y[None, :] == y[:, None]) & (index[None, :] < index[:, None]))
    return before.sum(1)


def _candidates(
    plan: Surrogate, history: History, rank: Int[Array, " trial"], good: Float[Array, ""], t: Int[Array, ""]
) -> Float[Array, "candidate slot"]:
    """Uniform points, then steps from the `good` best trials."""
    seat = jnp.floor(plan.parents[t] * good).astype(jnp.int32)
    parent = history.z[jnp.argmax(rank[None, :] == seat[:, None], axis=1)]
    fresh = jnp.resize(plan.fresh[t], (_NEAR, plan.fresh.shape[-1]))
    near = move(plan.categorical[None, :], parent, plan.steps[t], fresh)
    return jnp.concatenate([plan.fresh[t], near])


def _squared_distances(a: Float[Array, "one slot"], b: Float[Array, "other slot"]) -> Float[Array, "one other"]:
    squared = jnp.square(a).sum(1)[:, None] + jnp.square(b).sum(1)[None, :] - 2.0 * a @ b.T
    return jnp.maximum(squared, 0.0)


def _kernel(smooth: Bool[Array, ""], squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """Squared exponential, or Matern 5/2."""
    distance = jnp.sqrt(5.0 * squared)
    matern = 1.0 + distance + 5.0 / 3.0 * squared
    return jnp.where(smooth, 1.0, matern) * jnp.exp(jnp.where(smooth, -0.5 * squared, -distance))


def _extended(
    plan: Surrogate, precision: Float[Array, "trial trial"], x: Float[Array, "trial slot"], last: Int[Array, ""]
) -> Float[Array, "trial trial"]:
    """P with one more trial, by block inversion; avoids factorizations, which are slow in batches on a GPU."""
    before = jnp.arange(x.shape[0]) < last
    covariance = jnp.where(before, _kernel(plan.smooth, jnp.square(x - x[last][None, :]).sum(1)), 0.0)
    weights = precision @ covariance
    # The conditional variance of the new score; clipped to its noise, below which only rounding could take it.
    rest = jnp.maximum(1.0 + plan.noise - covariance @ weights, plan.noise)
    change = weights.at[last].set(-1.0)
    return precision + change[:, None] * change[None, :] / rest


def _acquisition(
    plan: Surrogate,
    covariance: Float[Array, "candidate trial"],
    precision: Float[Array, "trial trial"],
    rank: Int[Array, " trial"],
    t: Int[Array, ""],
) -> Float[Array, " candidate"]:
    """Acquisition of the Gaussian process."""
    quantile = 1.0 - (rank + 0.5) / jnp.maximum(t, 1)
    scores = jnp.where(quantile > 0.0, math.sqrt(2.0) * jax.lax.erf_inv(2.0 * jnp.maximum(quantile, 0.0) - 1.0), 0.0)
    mean = covariance @ (precision @ scores)
    variance = 1.0 - jnp.sum((covariance @ precision) * covariance, axis=1)
    deviation = jnp.sqrt(jnp.maximum(variance, 1e-4))
    bound = mean + plan.boldness * deviation
    return jnp.where(plan.improvement, _expected_improvement(mean, deviation, scores.max()), bound)


def _expected_improvement(
    mean: Float[Array, " candidate"], deviation: Float[Array, " candidate"], best: Float[Array, ""]
) -> Float[Array, " candidate"]:
    u = (mean - best) / deviation
    density = jnp.exp(-0.5 * jnp.square(u)) / math.sqrt(2.0 * math.pi)
    return deviation * (u * 0.5 * (1.0 + jax.lax.erf(u / math.sqrt(2.0))) + density)


def _density_ratio(
    plan: Surrogate,
    kernel: Float[Array, "candidate trial"],
    rank: Int[Array, " trial"],
    good: Float[Array, ""],
    t: Int[Array, ""],
) -> Float[Array, " candidate"]:
    """Log ratio of the density of good trials to that of the others (Bergstra et al. 2011)."""
    is_good = (rank < good).astype(jnp.float32)
    # Adds a uniform density over the cube: far from all trials, the ratio is then 1 instead of 0 / 0.
    flat = jnp.exp(-0.5 * plan.dimension)
    above = (kernel @ is_good + flat) / (good + 1.0)
    below = (kernel @ (1.0 - is_good) + flat) / (jnp.maximum(t - good, 0.0) + 1.0)
    return jnp.log(above) - jnp.log(below)
