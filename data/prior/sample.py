"""Studies of the prior, generated on the device: space x function x behaviour x what was known when.

Notation: B studies, T trials, D slots, N <= T trials of a study, n0 its known prefix; z, q, u as in `spaces.py`; y the
observed objective in arbitrary units, larger is better.

One study is written as pure functions of its key; `sample_batch` maps them over the batch under one `jit`.  Nothing
runs on the host, so generation overlaps with nothing and waits for nothing.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optformer.data.prior import behaviours, functions, spaces, text, warps
from optformer.data.prior import task as tasks
from optformer.data.prior.config import PriorConfig, Weights
from optformer.data.prior.draws import Draws
from optformer.data.shapes import BatchShape
from optformer.serialization import objective, tokens
from optformer.serialization.batch import StudyBatch


@functools.partial(jax.jit, static_argnames=("config", "batch_size", "shape"))
def sample_batch(key: PRNGKeyArray, config: PriorConfig, batch_size: int, shape: BatchShape) -> StudyBatch:
    """Draws a batch of studies on the device.

    Args:
      key: the batch is a pure function of it.
      config: the distribution (static).
      batch_size: B (static).
      shape: padded sizes (static).

    Returns:
      StudyBatch of jax arrays.  Metadata that does not fit `shape.text` loses whole clauses, the last ones first.

    Raises:
      ValueError: The config names a behaviour, family or output warp that does not exist.
    """
    _check_names("families", config.families, functions.FAMILIES)
    _check_names("output_warps", config.output_warps, warps.OUTPUT_WARPS)
    _check_names("behaviours", config.behaviours, behaviours.BEHAVIOURS)
    return jax.vmap(functools.partial(_sample_study, config=config, shape=shape))(jax.random.split(key, batch_size))


def _check_names(field: str, weights: Weights, known: Mapping[str, object]) -> None:
    for name, _ in weights:
        if name not in known:
            raise ValueError(f"PriorConfig.{field} names {name!r}; known are {', '.join(known)}.")


class Trials(NamedTuple):
    """What happened in one study.  `y` is meaningless where `infeasible`."""

    q: Int[Array, "trial slot"]
    y: Float[Array, " trial"]
    infeasible: Bool[Array, " trial"]


def _sample_study(key: PRNGKeyArray, config: PriorConfig, shape: BatchShape) -> StudyBatch:
    draws = Draws(key)
    space = spaces.sample_space(draws, config, shape.slots)
    task, landmark = tasks.sample_task(draws, space, config)
    trials, choice = _run(draws, task, landmark, config, shape)
    known = _observe(draws, trials, config, shape)

    directed = jnp.asarray([behaviours.BEHAVIOURS[name].directed for name, _ in config.behaviours])[choice]
    weight = jnp.where(directed, 1.0, config.undirected_policy_weight)
    policy_trials, policy_weights = _policy(draws, known, space, weight, shape)
    identities = jnp.argsort(draws.uniform((tokens.NUM_SLOT_IDENTITIES,)))
    metadata = text.write(draws, space, choice, config, shape)
    return StudyBatch(
        text_tokens=metadata.tokens,
        text_segments=metadata.segments,
        text_positions=metadata.positions,
        slot_kinds=space.kinds,
        slot_levels=space.levels,
        slot_identities=jnp.where(space.active, jnp.resize(identities, (shape.slots,)), 0).astype(jnp.int32),
        x_tokens=jnp.where(known.mask[:, None] & space.active[None, :], trials.q, tokens.PAD).astype(jnp.int32),
        y_tokens=known.y_tokens,
        trial_mask=known.mask,
        prefix_length=known.prefix_length,
        order_free=known.order_free,
        function_weights=known.function_weights,
        policy_trials=policy_trials,
        policy_weights=policy_weights,
    )


# --- The run: behaviour against task ---


def _run(
    draws: Draws, task: tasks.Task, landmark: Float[Array, " slot"], config: PriorConfig, shape: BatchShape
) -> tuple[Trials, Int[Array, ""]]:
    """T trials of a behaviour drawn from `config.behaviours`, and which one it was."""
    choice = draws.choice([weight for _, weight in config.behaviours])
    setting = behaviours.Setting(task.space, landmark, shape.trials)
    members = [behaviours.BEHAVIOURS[name] for name, _ in config.behaviours]
    plans = [member.plan(draws, setting) for member in members]
    disturbance = tasks.sample_disturbance(draws, task, shape.trials)
    distinct, fresh = draws.bernoulli(config.distinct_rate), draws.uniform((shape.trials, shape.slots))

    def trial(
        state: tuple[behaviours.History, Int[Array, "trial slot"]], t: Int[Array, ""]
    ) -> tuple[tuple[behaviours.History, Int[Array, "trial slot"]], Trials]:
        history, tried = state
        proposals = [member.propose(plan, history, t) for member, plan in zip(members, plans, strict=True)]
        z = jnp.stack(proposals)[choice]
        repeated = (tried == spaces.quantize(task.space, z)[None, :]).all(1).any()
        z = jnp.where(distinct & repeated, fresh[t], z)
        q = spaces.quantize(task.space, z)
        u, on = tasks.locate(task.space, q)
        y, infeasible = tasks.observe(task, config, jax.tree.map(lambda leaf: leaf[t], disturbance), u, on)
        history = behaviours.History(history.z.at[t].set(z), history.y.at[t].set(jnp.where(infeasible, -jnp.inf, y)))
        return (history, tried.at[t].set(q)), Trials(q, y, infeasible)

    empty = behaviours.History(jnp.zeros((shape.trials, shape.slots)), jnp.full((shape.trials,), -jnp.inf))
    untried = jnp.full((shape.trials, shape.slots), -1, jnp.int32)
    _, trials = jax.lax.scan(trial, (empty, untried), jnp.arange(shape.trials))
    # Units matter where nothing else gives a scale: with a single known value, whose size stands in for it.
    level = draws.normal() * draws.log_uniform(0.3, 30.0)
    return trials._replace(y=trials.y + level), choice


# --- The record: what was known, what carries loss ---


class Known(NamedTuple):
    """The record of one study as the model reads it."""

    mask: Bool[Array, " trial"]
    prefix_length: Int[Array, ""]
    order_free: Bool[Array, ""]
    y_tokens: Int[Array, " trial"]
    function_weights: Float[Array, " trial"]


def _observe(draws: Draws, trials: Trials, config: PriorConfig, shape: BatchShape) -> Known:
    """Cuts the study to N trials, scales the objective on its first n0, marks pending trials."""
    fewest = min(config.min_trials, shape.trials)
    count = draws.integer(fewest, shape.trials + 1)
    count = jnp.where(draws.bernoulli(config.full_rate), shape.trials, count)
    t = jnp.arange(shape.trials)
    mask = t < count

    share = jnp.power(draws.uniform(), config.prefix_power)
    prefix = jnp.minimum(2 + jnp.floor(share * (count - 2)).astype(jnp.int32), jnp.maximum(count - 1, 1))
    prefix = jnp.where(draws.bernoulli(config.single_prefix_rate), 1, prefix)

    pending_rate = draws.uniform((), 0.05, 0.3)
    pending_rate *= draws.bernoulli(config.pending_rate)
    pending = draws.bernoulli(pending_rate, (shape.trials,)) & (t < prefix)

    observed = mask & ~trials.infeasible & ~pending & jnp.isfinite(trials.y)
    in_prefix = observed & (t < prefix)
    scaling = objective.fit(trials.y, in_prefix, xp=jnp)
    bins = objective.to_bins(jnp.where(observed, trials.y, scaling.center), scaling, xp=jnp)
    y_tokens = jnp.where(observed, bins, tokens.INFEASIBLE)
    y_tokens = jnp.where(pending, tokens.PENDING, y_tokens)
    # Without a known value there is no scale, and the bins that follow mean nothing.
    weights = mask & (t >= prefix) & ~pending & (in_prefix.any() | trials.infeasible)
    return Known(
        mask=mask,
        prefix_length=prefix.astype(jnp.int32),
        order_free=draws.bernoulli(config.order_free_rate),
        y_tokens=jnp.where(mask, y_tokens, tokens.PAD).astype(jnp.int32),
        function_weights=weights.astype(jnp.float32),
    )


def _policy(
    draws: Draws, known: Known, space: spaces.Space, weight: Float[Array, ""], shape: BatchShape
) -> tuple[Int[Array, " policy_trial"], Float[Array, "policy_trial slot"]]:
    """Distinct random trials for the policy loss; in an order-free prefix a trial sees its future, and carries none."""
    t = jnp.arange(shape.trials)
    eligible = known.mask & ~(known.order_free & (t < known.prefix_length))
    priority = jnp.where(eligible, draws.uniform((shape.trials,), 1.0, 2.0), 0.0)
    highest, chosen = jax.lax.top_k(priority, shape.policy_trials)
    weights = weight * ((highest > 0.5)[:, None] & space.active[None, :])
    return chosen.astype(jnp.int32), weights.astype(jnp.float32)
