"""The task of one study: everything that turns a proposed point into an observation.

Notation, for one study: D slots, z in [0, 1]^D a proposed point, q its value tokens, u their coordinates (`spaces.py`),
on in {0, 1}^D the slots that count in this trial, f the latent function of (u, on), s = (f - mean) / deviation its
standardised value, y the observed objective in arbitrary units, larger is better.

  y = round(warp(s) + noise),   or a failure in a region of the space or by chance.

A slot that does not count in a trial (padding, a conditional parameter that is off) is put at a coordinate drawn once
per function, here and nowhere else: families and warps never see that it is off.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior import behaviours, functions, spaces, warps
from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.serialization import tokens

_REFERENCE_POINTS = 48
"""Random points that standardise the function and from which the search for a landmark starts."""
_LANDMARK_ROUNDS = (0.2, 0.06)
"""Step sizes of the rounds that improve the landmark."""
_LANDMARK_POINTS = 16
_REGION_FEATURES = 16
_MIN_INTEREST = 1e-6


class Task(NamedTuple):
    """Everything that turns a proposed point into an observation."""

    space: spaces.Space
    function: functions.Mixture
    input_warp: warps.InputWarp
    output_warp: warps.OutputWarp
    neutral: Float[Array, " slot"]
    region: functions.FourierFunction
    f_mean: Float[Array, ""]
    f_deviation: Float[Array, ""]
    noise: Float[Array, ""]
    resolution: Float[Array, ""]
    region_threshold: Float[Array, ""]
    crash_rate: Float[Array, ""]


class Disturbance(NamedTuple):
    """What chance adds to the trials of a study; index it by trial for `observe`."""

    noise: Float[Array, "*trial"]
    crashed: Bool[Array, "*trial"]


def locate(space: spaces.Space, q: Int[Array, " slot"]) -> tuple[Float[Array, " slot"], Bool[Array, " slot"]]:
    """Coordinates of value tokens, and which slots count in this trial."""
    return spaces.coordinate(space, q), space.active


def sample_task(draws: Draws, space: spaces.Space, config: PriorConfig) -> tuple[Task, Float[Array, " slot"]]:
    """A task, standardised on random points, and a good point z of it (the landmark)."""
    slots = space.kinds.shape[0]
    reference = draws.uniform((_REFERENCE_POINTS, slots))
    u, on = jax.vmap(lambda z: locate(space, spaces.quantize(space, z)))(reference)

    noise = draws.log_uniform(*config.noise_range) * draws.bernoulli(config.noise_rate)
    resolution = draws.log_uniform(2.0, 60.0) * draws.bernoulli(config.rounded_rate)

    region = functions.sample_fourier(draws, space.active, dataclasses.replace(config, features=_REGION_FEATURES))
    heights = jax.vmap(lambda point: functions.evaluate_fourier(region, point))(u)
    fails, by_region = draws.bernoulli(config.infeasible_rate), draws.bernoulli(0.6)
    threshold = jnp.quantile(heights, 1.0 - draws.uniform((), 0.05, 0.45))

    task = Task(
        space=space,
        function=functions.sample_function(draws, space.active, config),
        input_warp=warps.sample_input_warp(draws, slots, config),
        output_warp=warps.sample_output_warp(draws, config),
        neutral=jnp.zeros((slots,)),
        region=region,
        f_mean=jnp.zeros(()),
        f_deviation=jnp.ones(()),
        noise=noise,
        resolution=resolution,
        region_threshold=jnp.where(fails & by_region, threshold, jnp.inf),
        crash_rate=jnp.where(fails & ~by_region, draws.log_uniform(0.02, 0.3), 0.0),
    )
    f = jax.vmap(lambda point, counts: latent(task, config, point, counts))(u, on)
    task = task._replace(f_mean=f.mean(), f_deviation=jnp.maximum(f.std(), _MIN_INTEREST))
    # Noise and resolution are relative to the spread of the warped values.
    v = jax.vmap(lambda value: warps.warp_output(task.output_warp, config, value))((f - task.f_mean) / task.f_deviation)
    spread = jnp.maximum(v.std(), _MIN_INTEREST)
    task = task._replace(noise=task.noise * spread, resolution=task.resolution / spread)
    return task, _landmark(draws, task, config, reference[jnp.argmax(f)], f.max())


def latent(
    task: Task, config: PriorConfig, u: Float[Array, " slot"], on: Bool[Array, " slot"] | None = None
) -> Float[Array, ""]:
    """f at one point; `on` are the slots that count in this trial, by default all parameters of the space."""
    counts = task.space.active if on is None else on
    u = jnp.where(counts, u, task.neutral)
    return functions.evaluate(task.function, config, warps.warp_input(task.input_warp, u))


def _landmark(
    draws: Draws, task: Task, config: PriorConfig, z: Float[Array, " slot"], value: Float[Array, ""]
) -> Float[Array, " slot"]:
    """Improves a point by a few rounds of random steps on the noiseless function."""
    categorical = (task.space.kinds == tokens.CATEGORICAL)[None, :]
    shape = (_LANDMARK_POINTS, z.shape[0])
    for scale in _LANDMARK_ROUNDS:
        step = jnp.where(draws.bernoulli(0.5, shape), scale * draws.normal(shape), 0.0)
        points = behaviours.move(categorical, z[None, :], step, draws.uniform(shape))
        u, on = jax.vmap(lambda point: locate(task.space, spaces.quantize(task.space, point)))(points)
        f = jax.vmap(lambda point, counts: latent(task, config, point, counts))(u, on)
        better = f.max() > value
        z, value = jnp.where(better, points[jnp.argmax(f)], z), jnp.maximum(value, f.max())
    return z


def sample_disturbance(draws: Draws, task: Task, trials: int) -> Disturbance:
    """Noise and chance failures of all trials at once, so that the scan over trials draws no random numbers."""
    noise = task.noise * draws.normal((trials,))
    return Disturbance(noise, draws.bernoulli(task.crash_rate, (trials,)))


def observe(
    task: Task,
    config: PriorConfig,
    disturbance: Disturbance,
    u: Float[Array, " slot"],
    on: Bool[Array, " slot"] | None = None,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """The observed objective of one trial, and whether it failed (then the objective means nothing).

    Args:
      task: from `sample_task`.
      config: the distribution (static).
      disturbance: of this trial: `jax.tree.map(lambda leaf: leaf[t], ...)` of what `sample_disturbance` gave.
      u: coordinates of the trial.
      on: slots that count in it; by default all parameters of the space.
    """
    standard = (latent(task, config, u, on) - task.f_mean) / task.f_deviation
    y = warps.warp_output(task.output_warp, config, standard) + disturbance.noise
    rounded = jnp.round(y * task.resolution) / jnp.maximum(task.resolution, _MIN_INTEREST)
    y = jnp.where(task.resolution > 0.0, rounded, y)
    counts = task.space.active if on is None else on
    height = functions.evaluate_fourier(task.region, jnp.where(counts, u, task.neutral))
    return y, disturbance.crashed | (height > task.region_threshold)
