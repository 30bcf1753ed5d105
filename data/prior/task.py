"""The task of one study: it turns a proposed point into an observation.

Notation, for one study: D slots, z in [0, 1]^D a proposed point, q its value tokens, u their coordinates (`spaces.py`),
on in {0, 1}^D the slots that count in this trial, f the latent function of (u, on), s = (f - mean) / deviation its
standardized value, y the observed objective in arbitrary units, larger is better, r the risk of failure.

  y = round(warp(s) + noise(u, s)),   or a failure if r(u, s) > threshold, or by chance.

Slots that do not count in a trial (padding, inactive parameters) get a fixed coordinate, drawn once per function.  This
happens only in this module: families and warps do not know about inactive slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior import behaviours, functions, spaces, warps
from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families import FAMILIES, Domain, sample_domain
from optformer.data.prior.families.family import pick, wave
from optformer.serialization import tokens

_REFERENCE_POINTS = 48
"""Number of random points that standardize the function, and from which the search for a landmark starts."""
_LANDMARK_ROUNDS = (0.2, 0.06)
"""Step sizes of the rounds that improve the landmark."""
_LANDMARK_POINTS = 16
_REGION_WAVES = 4
_MIN_INTEREST = 1e-6
_STUDENT_DEGREES = 3

FAILURES = ("region", "memory", "divergence", "chance", "corner")
"""Causes of failures: an arbitrary region of the space; a product of parameters above a limit (the sum of their
logarithmic coordinates); values below a limit, as for diverging training; none; one to three parameters that are all
beyond a limit."""
_WIDEST_CORNER = 0.5
"""Largest share of a corner whose parameters have too few values for the requested share."""


class Corner(NamedTuple):
    """A corner of the space: the minimum over slots of start + slope * u is the depth of a point inside it.

    Irrelevant slots have slope 0 and a start that is never the minimum.
    """

    start: Float[Array, " slot"]
    slope: Float[Array, " slot"]

    def depth(self, point: Float[Array, " slot"]) -> Float[Array, ""]:
        return (self.start + self.slope * point).min()


class Failures(NamedTuple):
    """Which trials fail: those whose risk exceeds the threshold, and some by chance.

    Attributes:
      kind: index into `FAILURES`.
      region, phases: directions and phases of a few waves, in cycles, whose sum is the risk of `region`.
      load: weights of the sum that is the risk of `memory`.
      threshold: the threshold; inf if no trial fails by its risk.
      chance: rate of random failures.
      corner: the corner whose depth is the risk of `corner`; None if the config has none.
    """

    kind: Int[Array, ""]
    region: Float[Array, "slot wave"]
    phases: Float[Array, " wave"]
    load: Float[Array, " slot"]
    threshold: Float[Array, ""]
    chance: Float[Array, ""]
    corner: Corner | None = None


class Noise(NamedTuple):
    """Standard deviation of the observation noise: deviation * exp(by_value * -s + by_place * wave(u)).

    Attributes:
      deviation: standard deviation at s = 0.
      by_value: above 0 if worse points are noisier.
      by_place: above 0 if the noise varies over the space, as a wave along `direction`.
      direction, phase: direction and phase of that wave, in cycles.
      repeatable: whether the noise is a function of the point, as with a fixed random seed, so that a repeated trial
        has the same value.
      heavy_tailed: whether the noise has Student's distribution instead of the normal one.
      outliers: rate of trials that are far worse than the function's value.
    """

    deviation: Float[Array, ""]
    by_value: Float[Array, ""]
    by_place: Float[Array, ""]
    direction: Float[Array, " slot"]
    phase: Float[Array, ""]
    repeatable: Bool[Array, ""]
    heavy_tailed: Bool[Array, ""]
    outliers: Float[Array, ""]


class Task(NamedTuple):
    """The task of one study.

    Attributes:
      neutral: coordinates of slots that do not count in a trial.
      tilt: slope of f along the risk of `memory`.
      f_mean, f_deviation: mean and standard deviation of f over random points.
      spread: standard deviation of the warped values over random points, which is the unit of noise and outliers.
      resolution: steps of the rounded objective per unit; 0 if it is not rounded.
    """

    space: spaces.Space
    function: functions.Function
    input_warp: warps.InputWarp
    output_warp: warps.OutputWarp
    neutral: Float[Array, " slot"]
    tilt: Float[Array, ""]
    failures: Failures
    f_mean: Float[Array, ""]
    f_deviation: Float[Array, ""]
    spread: Float[Array, ""]
    noise: Noise
    resolution: Float[Array, ""]


class Disturbance(NamedTuple):
    """Random effects on the trials of a study; index it by trial for `observe`.

    Attributes:
      noise: noise of unit variance, or with Student's tails.
      outlier: amount subtracted from the values of outliers; 0 for other trials.
      crashed: trials that fail by chance.
    """

    noise: Float[Array, "*trial"]
    outlier: Float[Array, "*trial"]
    crashed: Bool[Array, "*trial"]


def locate(space: spaces.Space, q: Int[Array, " slot"]) -> tuple[Float[Array, " slot"], Bool[Array, " slot"]]:
    """Coordinates of value tokens, and which slots count in this trial."""
    return spaces.coordinate(space, q), spaces.activity(space, q)


def sample_task(draws: Draws, space: spaces.Space, config: PriorConfig) -> tuple[Task, Float[Array, " slot"]]:
    """Draws a task, standardized on random points, and finds a good point z of it (the landmark)."""
    slots = space.kinds.shape[0]
    reference = draws.uniform((_REFERENCE_POINTS, slots))
    u, on = jax.vmap(lambda z: locate(space, spaces.quantize(space, z)))(reference)
    neutral = draws.uniform((slots,))
    input_warp = warps.sample_input_warp(draws, space.kinds, config)
    points = jax.vmap(lambda u, on: warps.warp_input(input_warp, jnp.where(on, u, neutral)))(u, on)

    domain = sample_domain(draws, space, config)
    function, f = functions.sample_function(draws, domain, config, points)
    failures = _sample_failures(draws, domain, function, config)
    # If memory is the limit, larger parameters are often better, so the best trials are next to those that fail.
    tilt = jnp.where(failures.kind == FAILURES.index("memory"), draws.log_uniform(0.3, 3.0), 0.0)
    tilt = jnp.where(jnp.isfinite(failures.threshold), tilt * draws.bernoulli(0.6), 0.0)
    f += tilt * (points @ failures.load)
    mean, deviation = f.mean(), jnp.maximum(f.std(), _MIN_INTEREST)
    s = (f - mean) / deviation

    risk = jax.vmap(lambda point, value: _risk(failures, point, value))(points, s)
    # Until here, `threshold` is the share of trials that fail.
    limit = jnp.quantile(risk, 1.0 - failures.threshold)
    if failures.corner is not None:
        limit = jnp.where(failures.kind == FAILURES.index("corner"), _corner_limit(risk, limit), limit)
    failures = failures._replace(threshold=jnp.where(jnp.isfinite(failures.threshold), limit, jnp.inf))

    output_warp = warps.sample_output_warp(draws, config)
    # Noise and resolution are relative to the spread of the warped values.
    spread = jnp.maximum(jax.vmap(lambda value: warps.warp_output(output_warp, config, value))(s).std(), _MIN_INTEREST)
    task = Task(
        space=space,
        function=function,
        input_warp=input_warp,
        output_warp=output_warp,
        neutral=neutral,
        tilt=tilt,
        failures=failures,
        f_mean=mean,
        f_deviation=deviation,
        spread=spread,
        noise=_sample_noise(draws, domain, spread, config),
        resolution=draws.log_uniform(2.0, 60.0) * draws.bernoulli(config.rounded_rate) / spread,
    )
    works = jnp.where(risk > failures.threshold, -jnp.inf, s)
    return task, _landmark(draws, task, config, reference[jnp.argmax(works)], works.max())


def _sample_failures(draws: Draws, domain: Domain, function: functions.Function, config: PriorConfig) -> Failures:
    """Draws failures; `threshold` is still the share of random trials that fail, or inf for none."""
    names = [name for name, _ in config.failures]
    kind = jnp.asarray([FAILURES.index(name) for name in names])[
        draws.choice([weight for _, weight in config.failures])
    ]
    fails = draws.bernoulli(config.infeasible_rate)
    # Functions of a family with a cliff have an additional rate of failures beyond the cliff.
    cliff = jnp.asarray([FAMILIES[name].cliff for name, _ in config.families])[function.chosen[0]]
    diverges = cliff & (function.how == functions.SINGLE) & draws.bernoulli(config.cliff_failure_rate)
    kind = jnp.where(diverges, FAILURES.index("divergence"), kind)
    fails |= diverges

    shape = (domain.importance.shape[0], _REGION_WAVES)
    load = domain.importance * draws.bernoulli(0.6, domain.importance.shape) * ~domain.categorical
    load = jnp.where(load.any(), load, domain.importance)
    by_chance = kind == FAILURES.index("chance")
    failures = Failures(
        kind=kind,
        region=draws.log_uniform(0.3, 1.5)
        * draws.normal(shape)
        * (domain.importance / jnp.sqrt(domain.dimension))[:, None],
        phases=draws.uniform((_REGION_WAVES,)),
        load=load / load.sum(),
        threshold=jnp.where(fails & ~by_chance, draws.uniform((), *config.failing_range), jnp.inf),
        chance=jnp.where(fails & by_chance, draws.log_uniform(0.02, 0.3), 0.0),
    )
    return failures._replace(corner=_sample_corner(draws, domain)) if "corner" in names else failures


def _sample_corner(draws: Draws, domain: Domain) -> Corner:
    """Draws a corner of one to three relevant slots, each at one of its ends; categories are ordered by coordinate."""
    order = jnp.where(domain.relevant, draws.uniform(domain.relevant.shape), -1.0)
    chosen = domain.relevant & ((order[None, :] > order[:, None]).sum(1) < draws.integer(1, 4))
    upwards = draws.bernoulli(0.5, chosen.shape)
    slope = jnp.where(upwards, 1.0, -1.0) / jnp.where(domain.categorical, 2.0, 1.0)
    return Corner(jnp.where(chosen, jnp.where(upwards, 0.0, 1.0), 2.0), jnp.where(chosen, slope, 0.0))


def _corner_limit(risk: Float[Array, " point"], limit: Float[Array, ""]) -> Float[Array, ""]:
    """Lowers the limit so that some points exceed it, if their risks have few distinct values."""
    largest = risk.max()
    below = jnp.where(risk < largest, risk, -jnp.inf).max()
    return jnp.where((limit >= largest) & ((risk >= largest).mean() <= _WIDEST_CORNER), below, limit)


def _sample_noise(draws: Draws, domain: Domain, spread: Float[Array, ""], config: PriorConfig) -> Noise:
    deviation = draws.log_uniform(*config.noise_range) * draws.bernoulli(config.noise_rate) * spread
    return Noise(
        deviation=deviation,
        by_value=draws.log_uniform(0.2, 1.5) * draws.bernoulli(config.noise_by_value_rate),
        by_place=draws.log_uniform(0.5, 2.0) * draws.bernoulli(config.noise_by_place_rate),
        direction=0.7 * draws.normal(domain.importance.shape) * domain.importance / jnp.sqrt(domain.dimension),
        phase=draws.uniform(),
        repeatable=draws.bernoulli(config.repeatable_rate),
        heavy_tailed=draws.bernoulli(config.student_rate),
        outliers=draws.bernoulli(config.outlier_rate) * draws.uniform((), 0.02, 0.15),
    )


def latent(
    task: Task, config: PriorConfig, u: Float[Array, " slot"], on: Bool[Array, " slot"] | None = None
) -> Float[Array, ""]:
    """f at one point; `on` are the slots that count in this trial, by default all parameters of the space."""
    return _latent_at(task, config, _point(task, u, on))


def _point(task: Task, u: Float[Array, " slot"], on: Bool[Array, " slot"] | None) -> Float[Array, " slot"]:
    """Warped coordinates, with neutral ones in slots that do not count; the input of all parts of a task."""
    counts = task.space.active if on is None else on
    return warps.warp_input(task.input_warp, jnp.where(counts, u, task.neutral))


def _latent_at(task: Task, config: PriorConfig, point: Float[Array, " slot"]) -> Float[Array, ""]:
    return functions.evaluate(task.function, config, point) + task.tilt * (point @ task.failures.load)


def _risk(failures: Failures, point: Float[Array, " slot"], s: Float[Array, ""]) -> Float[Array, ""]:
    height = wave(point @ failures.region + failures.phases).sum()
    risks = [height, point @ failures.load, -s, jnp.zeros(())]
    if failures.corner is not None:
        risks.append(failures.corner.depth(point))
    return pick(failures.kind, risks)


def _landmark(
    draws: Draws, task: Task, config: PriorConfig, z: Float[Array, " slot"], value: Float[Array, ""]
) -> Float[Array, " slot"]:
    """Improves a point by a few rounds of random steps on the noiseless function, among the points that do not fail."""
    categorical = (task.space.kinds == tokens.CATEGORICAL)[None, :]
    shape = (len(_LANDMARK_ROUNDS), _LANDMARK_POINTS, z.shape[0])
    scales = jnp.asarray(_LANDMARK_ROUNDS)[:, None, None]
    steps = jnp.where(draws.bernoulli(0.5, shape), scales * draws.normal(shape), 0.0)

    def value_of(z: Float[Array, " slot"]) -> Float[Array, ""]:
        point = _point(task, *locate(task.space, spaces.quantize(task.space, z)))
        s = (_latent_at(task, config, point) - task.f_mean) / task.f_deviation
        return jnp.where(_risk(task.failures, point, s) > task.failures.threshold, -jnp.inf, s)

    def improve(
        best: tuple[Float[Array, " slot"], Float[Array, ""]],
        round_of: tuple[Float[Array, "point slot"], Float[Array, "point slot"]],
    ) -> tuple[tuple[Float[Array, " slot"], Float[Array, ""]], None]:
        z, value = best
        step, fresh = round_of
        points = behaviours.move(categorical, z[None, :], step, fresh)
        values = jax.vmap(value_of)(points)
        better = values.max() > value
        return (jnp.where(better, points[jnp.argmax(values)], z), jnp.maximum(value, values.max())), None

    # A scan, so that the function is compiled once for all rounds.
    (z, _), _ = jax.lax.scan(improve, (z, value), (steps, draws.uniform(shape)))
    return z


def sample_disturbance(draws: Draws, task: Task, trials: int) -> Disturbance:
    """Draws noise and random failures of all trials at once, so that the scan over trials draws no random numbers."""
    normal = draws.normal((trials,))
    chi2 = jnp.square(draws.normal((trials, _STUDENT_DEGREES))).sum(1)
    # The floor limits the tails to 17 standard deviations of the central part.
    student = normal / jnp.sqrt(jnp.maximum(chi2 / _STUDENT_DEGREES, 0.05))
    size = draws.log_uniform(2.0, 300.0) * draws.log_uniform(0.5, 2.0, (trials,))
    return Disturbance(
        noise=jnp.where(task.noise.heavy_tailed, student, normal),
        outlier=jnp.where(draws.bernoulli(task.noise.outliers, (trials,)), size, 0.0),
        crashed=draws.bernoulli(task.failures.chance, (trials,)),
    )


def observe(
    task: Task,
    config: PriorConfig,
    disturbance: Disturbance,
    u: Float[Array, " slot"],
    on: Bool[Array, " slot"] | None = None,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """The observed objective of one trial, and whether it failed (then the objective is meaningless).

    Args:
      task: from `sample_task`.
      config: the distribution (static).
      disturbance: that of this trial: `jax.tree.map(lambda leaf: leaf[t], ...)` of the result of `sample_disturbance`.
      u: coordinates of the trial.
      on: slots that count in the trial; by default all parameters of the space.
    """
    point = _point(task, u, on)
    s = (_latent_at(task, config, point) - task.f_mean) / task.f_deviation
    noise = task.noise
    standard = jnp.where(noise.repeatable, _hashed_normal(point), disturbance.noise)
    y = warps.warp_output(task.output_warp, config, s)
    y += noise_deviation(noise, point, s) * standard - task.spread * disturbance.outlier
    rounded = jnp.round(y * task.resolution) / jnp.maximum(task.resolution, _MIN_INTEREST)
    y = jnp.where(task.resolution > 0.0, rounded, y)
    return y, disturbance.crashed | (_risk(task.failures, point, s) > task.failures.threshold)


def noise_deviation(noise: Noise, point: Float[Array, " slot"], s: Float[Array, ""]) -> Float[Array, ""]:
    """Standard deviation of the noise at a point of standardized value s."""
    place = wave(point @ noise.direction + noise.phase)
    return noise.deviation * jnp.exp(noise.by_place * place - noise.by_value * jnp.clip(s, -3.0, 3.0))


def _hashed_normal(point: Float[Array, " slot"]) -> Float[Array, ""]:
    """A standard normal number that is a hash of the bits of a point."""
    words = jax.lax.bitcast_convert_type(point.astype(jnp.float32), jnp.uint32)
    slot = jnp.arange(point.shape[0], dtype=jnp.uint32)
    mixed = ((words ^ (words >> 15)) * jnp.uint32(0x9E3779B1) + slot * jnp.uint32(0x85EBCA77)) * (2 * slot + 1)
    word = mixed.sum(dtype=jnp.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = (word ^ (word >> shift)) * jnp.uint32(factor)
    word ^= word >> 16
    uniform = (word >> 8).astype(jnp.float32) / 2.0**24
    return jnp.sqrt(2.0) * jax.lax.erf_inv(jnp.clip(2.0 * uniform - 1.0, -1.0 + 2e-7, 1.0 - 2e-7))
