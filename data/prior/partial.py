"""Learning curves of a study of the prior: some trials are stopped, and intermediate reports are included.

The run of a study only has final values.  This module rearranges its trials as rows: known trials, finished or stopped;
further reports of these; then the rows to predict, final values of stopped trials and of new ones.  The slot of the
budget (`serialization.partial_trials`) follows the parameters.

Curves are powers of the budget, exponentials or hyperbolas.  They start at a distance below their end that depends on
the parameters, or all at the same level.  They may cross; some decrease again (overfitting), some jump (as when a
learning rate is reduced), and reports are noisy.

Notation, for one study: T trials and T rows, D slots, n0 known rows, s the used share of the budget.
"""

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.earlier import Earlier
from optformer.data.prior.spaces import Space
from optformer.data.stopping import LOOSENESS, REPORT_RATE, RUNG_RATE, RUNGS, RUNNING_RATE, STOPPED, WORSE_RATE
from optformer.serialization.batch import BatchShape
from optformer.serialization.partial_trials import KIND, LEVELS, SPAN

if TYPE_CHECKING:
    from optformer.data.prior.run import Trials

_TRIALS_SHARE: Final = (0.35, 1.0)
"""Range of the share of the known rows that are trials; the others are reports."""
_DISTANCE: Final = (0.1, 10.0)
"""Distance from the start of a curve to its end, in standard deviations of the final values."""
_POWER_START: Final = 1.0 / 64.0
"""Share of the budget at which powers have this distance from the end."""


class Rows(NamedTuple):
    """The rows of one study.

    Attributes:
      slot: mask of the slot of the budget; all False in a study without curves.
      source: the trial of each row.
      left: level of the remaining budget, 0 for final values.
      new: rows that are the final value of a new trial.
    """

    slot: Bool[Array, " slot"]
    source: Int[Array, " trial"]
    left: Int[Array, " trial"]
    new: Bool[Array, " trial"]


def sample_shown(
    key: PRNGKeyArray, config: PriorConfig, earlier: Earlier | None, shape: BatchShape
) -> Bool[Array, ""] | None:
    """Draws whether a study has curves: `config.partial_rate` of those without earlier studies; None if none has."""
    if not config.partial_rate or shape.slots < 2:
        return None
    shown = Draws(jax.random.fold_in(key, 4), block=8).bernoulli(config.partial_rate)
    return shown if earlier is None else shown & (earlier.studies == 0)


def with_slot(space: Space, shown: Bool[Array, ""]) -> tuple[Space, Bool[Array, " slot"]]:
    """Adds the slot of the budget to a space, which must have room for it; also returns the mask of that slot."""
    slot = shown & (jnp.arange(space.kinds.shape[0]) == space.active.sum())
    kinds, levels = jnp.where(slot, KIND, space.kinds), jnp.where(slot, LEVELS, space.levels)
    return space._replace(kinds=kinds, levels=levels), slot


def lay_out(
    key: PRNGKeyArray,
    shown: Bool[Array, ""],
    slot: Bool[Array, " slot"],
    space: Space,
    trials: "Trials",
    known: Int[Array, ""],
) -> tuple[Rows, "Trials"]:
    """Draws the rows of a study, and arranges its trials as these rows.

    Args:
      key: random key.
      shown, slot: from `sample_shown` and `with_slot`.
      space: the search space without the slot of the budget.
      trials: the trials of the study.
      known: n0.
    """
    draws = Draws(jax.random.fold_in(key, 5), block=1024)
    count = trials.y.shape[0]
    row = jnp.arange(count)
    first = jnp.round(known * draws.uniform((), *_TRIALS_SHARE)).astype(jnp.int32)
    first = jnp.where(shown, jnp.clip(first, jnp.minimum(known, 1), known), known)

    finished = (row < first) & ~trials.infeasible & ~trials.stopped & jnp.isfinite(trials.y)
    better = (trials.y[None, :] > trials.y[:, None]) & finished[None, :]
    place = better.sum(1) / jnp.maximum(finished.sum(), 1) + LOOSENESS * draws.normal((count,))
    score = jnp.where(draws.bernoulli(WORSE_RATE), place, draws.uniform((count,)))
    stopped = shown & finished & (score > 1.0 - draws.uniform((), *STOPPED))

    rungs = draws.integer(1, LEVELS, (RUNGS,))
    by_rungs = draws.bernoulli(RUNG_RATE)
    ends = jnp.where(by_rungs, rungs[draws.integer(0, RUNGS, (count,))], draws.integer(1, LEVELS, (count,)))
    ends = jnp.where(stopped, ends, 0)

    source = jnp.where(row < first, row, draws.integer(0, jnp.maximum(first, 1), (count,)))
    rung = rungs[draws.integer(0, RUNGS, (count,))]
    anywhere = draws.integer(ends[source] + 1, LEVELS + 1, (count,))
    before = jnp.minimum(jnp.where(by_rungs & (rung > ends[source]), rung, anywhere), LEVELS - 1)
    left = jnp.where(row < first, ends[row], before)

    # The rows to predict.
    to_come = row >= known
    order = jnp.argsort(jnp.where(stopped, draws.uniform((count,)), 2.0))
    wanted = to_come & draws.bernoulli(RUNNING_RATE, (count,))
    number = jnp.cumsum(wanted) - 1
    running = wanted & (number < stopped.sum())
    new = to_come & ~running
    later = jnp.where(running, order[jnp.clip(number, 0, count - 1)], first + jnp.cumsum(new) - 1)
    latest = jnp.where(running, ends[later % count], LEVELS)
    report = draws.integer(1, jnp.maximum(latest, 2), (count,)) * draws.bernoulli(REPORT_RATE, (count,))
    source = jnp.where(to_come, later, source)
    left = jnp.where(to_come, report, left)

    source, left = jnp.where(shown, source, row), jnp.where(shown, left, 0).astype(jnp.int32)
    moved = jnp.where(left > 0, jnp.nan_to_num(_early(draws, space, trials, left, source)), 0.0)
    laid_out = jax.tree.map(lambda leaf: leaf[source], trials)
    rows = Rows(slot, source, left, jnp.where(shown, new & (left == 0), True))
    return rows, laid_out._replace(y=laid_out.y + moved)


class Curves(NamedTuple):
    """The learning curves of the trials of one study.

    Attributes:
      weights, phases: of three waves over the parameters: the rate of the curves, the distance from their start to
        their end, and how far they fall again.
      rate: amplitude of the logarithm of the rate.
      power, decay, bend: of a power of the budget, an exponential and a hyperbola.
      shape: which of these three.
      step, height: share of the budget from which the remaining distance is multiplied by `height`.
      jumps: whether it is.
      distance: from start to end, in standard deviations of the final values.
      varied: amplitude of the logarithm of the distance.
      one_level: whether all curves start at the same level.
      falls: by how much curves fall again; 0 for none.
      noise: standard deviation of the noise of reports; 0 for none.
    """

    weights: Float[Array, "wave slot"]
    phases: Float[Array, " wave"]
    rate: Float[Array, ""]
    power: Float[Array, ""]
    decay: Float[Array, ""]
    bend: Float[Array, ""]
    shape: Int[Array, ""]
    step: Float[Array, ""]
    height: Float[Array, ""]
    jumps: Bool[Array, ""]
    distance: Float[Array, ""]
    varied: Float[Array, ""]
    one_level: Bool[Array, ""]
    falls: Float[Array, ""]
    noise: Float[Array, ""]


def sample_curves(draws: Draws, slots: int) -> Curves:
    """Draws the learning curves of one study with D slots."""

    def wave() -> tuple[Float[Array, " slot"], Float[Array, ""]]:
        weights = draws.normal((slots,)) * draws.log_uniform(0.5, 6.0) / math.sqrt(slots)
        return weights, draws.uniform((), 0.0, 2.0 * math.pi)

    rate = draws.uniform((), 0.0, 1.5)
    rate_wave = wave()
    power, decay, bend = draws.log_uniform(0.1, 1.5), draws.log_uniform(1.0, 30.0), draws.log_uniform(0.1, 50.0)
    shape = draws.integer(0, 3)
    step, height = draws.uniform((), 0.2, 0.9), draws.uniform((), 0.2, 1.0)
    jumps = draws.bernoulli(0.15)
    distance = draws.log_uniform(*_DISTANCE)
    varied = draws.uniform((), 0.0, 1.0)
    distance_wave = wave()
    one_level = draws.bernoulli(0.4)
    falls = draws.log_uniform(0.05, 3.0) * draws.bernoulli(0.2)
    weights, phases = zip(rate_wave, distance_wave, wave(), strict=True)
    return Curves(
        weights=jnp.stack(weights),
        phases=jnp.stack(phases),
        rate=rate,
        power=power,
        decay=decay,
        bend=bend,
        shape=shape,
        step=step,
        height=height,
        jumps=jumps,
        distance=distance,
        varied=varied,
        one_level=one_level,
        falls=falls,
        noise=draws.log_uniform(1e-3, 0.5) * draws.bernoulli(0.7),
    )


def middle_and_spread(final: Float[Array, " trial"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Median and (robust) standard deviation of the final values of a study, NaN where a trial has none."""
    middle = jnp.nan_to_num(jnp.nanmedian(final))
    return middle, 1.5 * jnp.nan_to_num(jnp.nanmedian(jnp.abs(final - middle)))


def report_difference(
    curves: Curves,
    points: Float[Array, "report slot"],
    final: Float[Array, " report"],
    middle: Float[Array, ""],
    spread: Float[Array, ""],
    share: Float[Array, " report"],
    noise: Float[Array, " report"],
) -> Float[Array, " report"]:
    """Reports of trials, less their final values.

    Args:
      curves: of the study.
      points: values of the parameters as shares of their range.
      final: final values of the trials.
      middle, spread: of the final values of the study (`middle_and_spread`).
      share: used share of the budget.
      noise: standard normal numbers.
    """
    rate, varied, falling = jnp.sin(curves.weights @ points.T + curves.phases[:, None])  # each between -1 and 1
    rate = curves.rate * rate
    power, decay, bend = curves.power * jnp.exp(rate), curves.decay * jnp.exp(rate), curves.bend * jnp.exp(rate)
    shapes = (
        jnp.expm1(-power * jnp.log(share)) / jnp.expm1(-power * math.log(_POWER_START)),
        (jnp.exp(-decay * share) - jnp.exp(-decay)) / -jnp.expm1(-decay),
        (1.0 - share) / (1.0 + bend * share),
    )
    remaining = jnp.stack(shapes)[curves.shape]
    lowered = curves.jumps & (share >= curves.step)
    remaining = jnp.minimum(remaining, 4.0) * jnp.where(lowered, curves.height, 1.0)

    distance = curves.distance * spread
    own = distance * jnp.exp(curves.varied * varied)
    from_one_level = final - (middle - distance)
    gap = jnp.where(curves.one_level, from_one_level, own) * remaining
    falls = curves.falls * jnp.maximum(falling, 0.0)
    return spread * (4.0 * falls * share * (1.0 - share) + curves.noise * noise) - gap


def _early(
    draws: Draws, space: Space, trials: "Trials", left: Int[Array, " trial"], source: Int[Array, " trial"]
) -> Float[Array, " trial"]:
    """Difference between the report of each row's trial at its level of the budget and the trial's final value."""
    final = jnp.where(trials.infeasible | trials.stopped, jnp.nan, trials.y)
    points = jnp.where(trials.on, trials.q / jnp.maximum(space.levels - 1, 1)[None, :], 0.0)
    curves = sample_curves(draws, points.shape[1])
    share = jnp.exp(-(left - 1) / (LEVELS - 2) * math.log(SPAN))
    middle, spread = middle_and_spread(final)
    return report_difference(curves, points[source], final[source], middle, spread, share, draws.normal(left.shape))
