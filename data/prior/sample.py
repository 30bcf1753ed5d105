"""Studies of the prior, generated on the device: space x function x behaviour x what was known when.

Notation: B studies, T trials, D slots, N <= T trials of a study, n0 its known prefix; z, q, u as in `spaces.py`; y the
observed objective in arbitrary units, larger is better.

One study is written as pure functions of its key, mapped over the batch under one `jit`; only the run itself
(`run.py`) knows of the batch.  Nothing runs on the host, so generation overlaps with nothing and waits for nothing.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optformer.data.prior import behaviours, spaces, text, warps
from optformer.data.prior.config import PriorConfig, Weights
from optformer.data.prior.draws import Draws
from optformer.data.prior.earlier import Earlier
from optformer.data.prior.families import FAMILIES
from optformer.data.prior.partial import Rows, lay_out, with_slot
from optformer.data.prior.run import Study, Trials, run
from optformer.data.prior.task import FAILURES
from optformer.serialization import objective, tokens
from optformer.serialization.batch import BatchShape, StudyBatch


class Record(NamedTuple):
    """What a batch was written from, [B, ...]: enough to write the same studies by other means, as the tests do.

    Attributes:
      space: search spaces.
      behaviour: place of each study's behaviour in `config.behaviours`.
      trials: values and outcomes, of all T trials.
      lost: values that were not recorded.
      pending: trials that were still running when the record was made.
      wording: the words of the metadata.
      earlier: earlier studies, whose slots are among those of `space`; None where the config has none.
      rows: the rows of `trials`, some of which are reports on the way, with a slot that is among those of `space`; None
        where the config has no curves.
    """

    space: spaces.Space
    behaviour: Int[Array, " study"]
    trials: Trials
    lost: Bool[Array, "study trial slot"]
    pending: Bool[Array, "study trial"]
    wording: text.Wording
    earlier: Earlier | None
    rows: Rows | None


@functools.partial(jax.jit, static_argnames=("config", "batch_size", "shape"))
def sample_batch(key: PRNGKeyArray, config: PriorConfig, batch_size: int, shape: BatchShape) -> StudyBatch:
    """Draws a batch of studies on the device.

    Args:
      key: the batch is a pure function of it.
      config: the distribution (static).
      batch_size: B (static).
      shape: padded sizes (static).

    Returns:
      StudyBatch of jax arrays.  Metadata that does not fit `shape.text` loses names, then parts of the header, then
      whole clauses, the last ones first.

    Raises:
      ValueError: The config names a behaviour, family or output warp that does not exist.
    """
    return draw_record(key, config, batch_size, shape)[0]


def draw_record(
    key: PRNGKeyArray, config: PriorConfig, batch_size: int, shape: BatchShape
) -> tuple[StudyBatch, Record]:
    """The batch that `sample_batch` draws, and what it was written from.  Arguments and errors as there."""
    _check_names("families", config.families, FAMILIES)
    _check_names("output_warps", config.output_warps, warps.OUTPUT_WARPS)
    _check_names("failures", config.failures, dict.fromkeys(FAILURES))
    _check_names("behaviours", config.behaviours, behaviours.BEHAVIOURS)
    keys = jax.random.split(key, batch_size)
    studies, trials = run(keys, config, shape)
    return jax.vmap(functools.partial(_write, config=config, shape=shape))(keys, studies, trials)


def _check_names(field: str, weights: Weights, known: Mapping[str, object]) -> None:
    for name, _ in weights:
        if name not in known:
            raise ValueError(f"PriorConfig.{field} names {name!r}; known are {', '.join(known)}.")


def _write(
    key: PRNGKeyArray, study: Study, trials: Trials, config: PriorConfig, shape: BatchShape
) -> tuple[StudyBatch, Record]:
    """The tokens of one study."""
    draws = Draws(jax.random.fold_in(key, 2), block=1024)
    space, earlier = study.space, study.earlier
    trials = trials._replace(y=trials.y + study.level)
    if earlier is not None:
        trials = trials._replace(y=jnp.where(earlier.flipped, -trials.y, trials.y))
    count, prefix, blind = _extent(draws, earlier, config, shape)
    rows = None
    if study.shows_curves is not None:
        space, slot = with_slot(space, study.shows_curves)
        rows, trials = lay_out(key, study.shows_curves, slot, study.space, trials, prefix)
    known, pending = _observe(draws, trials, count, prefix, blind, earlier, rows, config, shape)
    lost_rate = draws.uniform((), 0.02, 0.2) * draws.bernoulli(config.lost_rate)
    lost = draws.bernoulli(lost_rate, trials.q.shape)
    if earlier is not None:
        lost &= ~earlier.slots[None, :]
    q = trials.q
    if rows is not None:
        q, lost = jnp.where(rows.slot[None, :], rows.left[:, None], q), lost & ~rows.slot[None, :]
    x_tokens = jax.vmap(lambda q, gone: spaces.write_tokens(space, q, gone))(q, lost)
    x_tokens = jnp.where(known.mask[:, None], x_tokens, tokens.PAD)

    directed = jnp.asarray([behaviours.BEHAVIOURS[name].directed for name, _ in config.behaviours])[study.choice]
    weight = jnp.where(directed, 1.0, config.undirected_policy_weight)
    policy_trials, policy_weights = _policy(draws, known, x_tokens, weight, earlier, rows, shape)
    identities = jnp.argsort(draws.uniform((tokens.NUM_SLOT_IDENTITIES,)))
    metadata, wording = text.write(draws, space, earlier, rows, study.choice, config, shape)
    batch = StudyBatch(
        text_tokens=metadata.tokens,
        text_segments=metadata.segments,
        text_positions=metadata.positions,
        slot_kinds=space.kinds,
        slot_levels=space.levels,
        slot_identities=jnp.where(space.active, jnp.resize(identities, (shape.slots,)), 0).astype(jnp.int32),
        x_tokens=x_tokens.astype(jnp.int32),
        y_tokens=known.y_tokens,
        trial_mask=known.mask,
        prefix_length=known.prefix_length,
        order_free=known.order_free,
        function_weights=known.function_weights,
        policy_trials=policy_trials,
        policy_weights=policy_weights,
    )
    return batch, Record(space, study.choice, trials, lost, pending, wording, earlier, rows)


# --- The record: what was known, what carries loss ---


class Known(NamedTuple):
    """The record of one study as the model reads it."""

    mask: Bool[Array, " trial"]
    prefix_length: Int[Array, ""]
    order_free: Bool[Array, ""]
    y_tokens: Int[Array, " trial"]
    function_weights: Float[Array, " trial"]


def _extent(
    draws: Draws, earlier: Earlier | None, config: PriorConfig, shape: BatchShape
) -> tuple[Int[Array, ""], Int[Array, ""], Bool[Array, ""]]:
    """N, n0, and whether no trial of the study at hand is known; those of earlier studies are among the n0."""
    fewest: int | Int[Array, ""] = min(config.min_trials, shape.trials)
    if earlier is not None:
        fewest = jnp.maximum(fewest, earlier.fewest_of_all)
    count = draws.integer(fewest, shape.trials + 1)
    count = jnp.where(draws.bernoulli(config.full_rate), shape.trials, count)

    before = 0 if earlier is None else earlier.trials
    own = count - before
    share = jnp.power(draws.uniform(), config.prefix_power)
    prefix = jnp.minimum(2 + jnp.floor(share * (own - 2)).astype(jnp.int32), jnp.maximum(own - 1, 1))
    prefix = jnp.where(draws.bernoulli(config.single_prefix_rate), 1, prefix)
    if config.blind_rate:  # no draw for a rate of 0, so that the studies of older configs stay what they were
        prefix = jnp.where(draws.bernoulli(config.blind_rate), 0, prefix)
    if earlier is not None:
        prefix = jnp.where(earlier.blind, 0, prefix)
    return count, (before + prefix).astype(jnp.int32), prefix == 0


def _observe(
    draws: Draws,
    trials: Trials,
    count: Int[Array, ""],
    prefix: Int[Array, ""],
    blind: Bool[Array, ""],
    earlier: Earlier | None,
    rows: Rows | None,
    config: PriorConfig,
    shape: BatchShape,
) -> tuple[Known, Bool[Array, " trial"]]:
    """Cuts the study to N trials, scales the objective on its first n0, says which were still running.

    Each earlier study has a scale of its own.
    """
    t = jnp.arange(shape.trials)
    mask = t < count
    before = 0 if earlier is None else earlier.trials

    pending_rate = draws.uniform((), 0.05, 0.3)
    pending_rate *= draws.bernoulli(config.pending_rate)
    pending = draws.bernoulli(pending_rate, (shape.trials,)) & (t < prefix) & (t >= before)

    infeasible = trials.infeasible | ~jnp.isfinite(trials.y)
    observed = mask & ~infeasible & ~trials.stopped & ~pending
    # As `objective.objective_tokens` has it.
    in_prefix = observed & ((t < prefix) | blind)
    if rows is not None:
        in_prefix = jnp.asarray(objective.to_scale_on(in_prefix, rows.left == 0))
    if earlier is None:
        scaling = objective.fit(trials.y, in_prefix, xp=jnp)
    else:
        scaling = earlier.fit(trials.y, in_prefix)
        in_prefix &= t >= before
    bins = objective.to_bins(jnp.where(observed, trials.y, scaling.center), scaling, xp=jnp)
    y_tokens = jnp.where(observed, bins, tokens.MISSING)
    # A trial that failed has reported all there is, so that it cannot have been stopped.
    y_tokens = jnp.where(infeasible, tokens.INFEASIBLE, y_tokens)
    y_tokens = jnp.where(pending, tokens.PENDING, y_tokens)
    # Without a known value there is no scale, and the bins that follow mean nothing.
    weights = mask & (t >= prefix) & ((observed & in_prefix.any()) | infeasible)
    if earlier is not None:
        # Of a study without a known trial, its values give the scale: they are not shown where another is predicted.
        weights &= ~(blind & (before > 0)) | (t == before)
    known = Known(
        mask=mask,
        prefix_length=prefix.astype(jnp.int32),
        order_free=draws.bernoulli(config.order_free_rate),
        y_tokens=jnp.where(mask, y_tokens, tokens.PAD).astype(jnp.int32),
        function_weights=weights.astype(jnp.float32),
    )
    return known, pending


def _policy(
    draws: Draws,
    known: Known,
    x_tokens: Int[Array, "trial slot"],
    weight: Float[Array, ""],
    earlier: Earlier | None,
    rows: Rows | None,
    shape: BatchShape,
) -> tuple[Int[Array, " policy_trial"], Float[Array, "policy_trial slot"]]:
    """Distinct random trials for the policy loss; in an order-free prefix a trial sees its future, and carries none."""
    t = jnp.arange(shape.trials)
    eligible = known.mask & ~(known.order_free & (t < known.prefix_length))
    if earlier is not None:
        eligible &= t >= earlier.trials
    if rows is not None:
        eligible &= rows.new
    priority = jnp.where(eligible, draws.uniform((shape.trials,), 1.0, 2.0), 0.0)
    highest, chosen = jax.lax.top_k(priority, shape.policy_trials)
    # Nothing was chosen for a parameter that is off, and what was lost nobody can imitate.
    choices = x_tokens[chosen] < tokens.NUM_LEVELS
    if earlier is not None:
        choices &= ~earlier.slots[None, :]
    if rows is not None:
        choices &= ~rows.slot[None, :]
    weights = weight * ((highest > 0.5)[:, None] & choices)
    return chosen.astype(jnp.int32), weights.astype(jnp.float32)
