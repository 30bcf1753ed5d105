"""Inputs and outputs shared by both layouts.

Notation: B studies, S text tokens, T trials, D slots, P trials with policy loss, N candidates, V outputs, H heads,
K head width, C positions of the known history.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from optformer.model.gaussian_process import Known
from optformer.model.layers import NEVER, Keys
from optformer.model.mixture import Mixture
from optformer.model.recall import Copies, Remembered
from optformer.serialization import tokens
from optformer.serialization.batch import Legality


class Logits(NamedTuple):
    """Unnormalized log-probabilities, float32.  Tokens that are never valid at a position have -1e9.

    Attributes:
      function: [B, T, V], for each trial's objective, given its parameters and the trials before it.
      policy: [B, P, D, V], for the parameters of the trials `policy_trials`, each given those before it.
      mixture: the components of `function`, for models with experts.  The loss is computed from these, so that XLA
        drops the computation of `function` when both are compiled together.
      copies: the components of `policy`, for models with recall; used in the same way.

    V is `tokens.NUM_OUTPUTS`; with a shared vocabulary it is the whole table, with the decoder's tokens first.
    """

    function: Array
    policy: Array
    mixture: Mixture | None = None
    copies: Copies | None = None


class SlotContext(NamedTuple):
    """The slots of a study, independent of any value.

    Attributes:
      scale, shift: [B, D, slot width], modulation of the value embeddings of a slot.
      descriptor: [B, D, d], normalized vector of a slot: its clause, identity and kind.
      levels, kinds: int32 [B, D].
      mask: bool [B, D], False for padding.
    """

    scale: Array
    shift: Array
    descriptor: Array
    levels: Array
    kinds: Array
    mask: Array


class History(NamedTuple):
    """An encoded study, against which any number of candidates can be scored; a pytree of arrays.

    Attributes:
      slots: the slots of the study.
      memory: per decoder layer, keys and values of the metadata for cross-attention.
      prefix: per decoder layer, keys and values [B, C, H, K] of the known trials.
      visible: bool [B, C], False for the positions of padding.
      length: int32 [B], number of known trials, pending ones included; a candidate is the trial with this index.
      order_free: bool [B], as in `StudyBatch`.
      state: [B, d], the decoder's last position, from which the first parameter of the next trial is predicted.
      remembered: the known trials as the policy looks them up, for models with recall.
      known: the known trials as fitted by the experts, for models with experts.
    """

    slots: SlotContext
    memory: tuple[Keys, ...]
    prefix: tuple[tuple[Array, Array], ...]
    visible: Array
    length: Array
    order_free: Array
    state: Array
    remembered: Remembered | None = None
    known: Known | None = None


def mask_function(logits: Float[Array, "*rows output"]) -> Float[Array, "*rows output"]:
    """Masks all outputs that an objective cannot be: the statuses other than INFEASIBLE."""
    token = jnp.arange(logits.shape[-1])
    legal = (token <= tokens.INFEASIBLE) | (token >= tokens.NUM_OUTPUTS)
    return jnp.where(jnp.expand_dims(legal, range(logits.ndim - 1)), logits, NEVER)


def mask_policy(
    logits: Float[Array, "batch group slot output"], levels: Int[Array, "batch slot"]
) -> Float[Array, "batch group slot output"]:
    """Masks all outputs that are not a level of the slot.  INACTIVE is never predicted: it follows from the parent."""
    token = jnp.arange(logits.shape[-1])[None, None, None, :]
    legal = token < jnp.maximum(levels, 1)[:, None, :, None]
    return jnp.where(legal | (token >= tokens.NUM_OUTPUTS), logits, NEVER)


def batched_legality(legality: Legality, studies: int, slots: int) -> Legality:
    """Adds an axis of studies and pads to the model's number of slots; padded slots have 0 levels."""
    levels, parents, active_when = (jnp.asarray(field) for field in legality)
    if levels.ndim == 1:
        levels, parents, active_when = (
            jnp.broadcast_to(field[None], (studies, *field.shape)) for field in (levels, parents, active_when)
        )
    missing = slots - levels.shape[1]
    if missing < 0:
        raise ValueError(f"The legality has {levels.shape[1]} slots, the encoded history only {slots}.")
    return Legality(
        jnp.pad(levels, ((0, 0), (0, missing))),
        jnp.pad(parents, ((0, 0), (0, missing)), constant_values=-1),
        jnp.pad(active_when, ((0, 0), (0, missing), (0, 0)), constant_values=True),
    )


def choose(
    logits: Float[Array, "batch group output"],
    slot: Array,
    chosen: Int[Array, "batch group slot"],
    legality: Legality,
    key: Array,
) -> Int[Array, "batch group slot"]:
    """Writes the token of `slot` into `chosen`: a sample of the legal values, or INACTIVE by the parent's value.

    `legality` is batched; padded slots get PAD.
    """
    levels = jax.lax.dynamic_index_in_dim(legality.levels, slot, axis=1, keepdims=False)[:, None]
    parent = jax.lax.dynamic_index_in_dim(legality.parents, slot, axis=1, keepdims=False)[:, None]
    active_when = jax.lax.dynamic_index_in_dim(legality.active_when, slot, axis=1, keepdims=False)
    legal = jnp.arange(logits.shape[-1])[None, None, :] < jnp.maximum(levels, 1)[..., None]
    drawn = draw(jnp.where(legal, logits.astype(jnp.float32), NEVER), key)
    parent_token = jnp.take_along_axis(chosen, jnp.maximum(parent, 0)[..., None], axis=2)[..., 0]
    valued = parent_token < tokens.NUM_LEVELS  # else the parent is itself inactive
    active = valued & jnp.take_along_axis(active_when, jnp.where(valued, parent_token, 0), axis=1)
    token = jnp.where((parent < 0) | active, drawn, tokens.INACTIVE)
    token = jnp.where(levels > 0, token, tokens.PAD)
    return jax.lax.dynamic_update_index_in_dim(chosen, token, slot, axis=2)


def draw(logits: Float[Array, "*rows output"], key: Array) -> Int[Array, "*rows"]:
    """Samples one index per row, with probability proportional to exp(logit).

    Inverts the cumulative distribution, first over blocks and then within one.  This takes one random number per row;
    the Gumbel-max trick takes one per output, which is four fifths of the time of sampling a trial on a CPU.
    """
    size = math.isqrt(logits.shape[-1] - 1) + 1
    mass = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    mass = jnp.pad(mass, [(0, 0)] * (logits.ndim - 1) + [(0, size * size - logits.shape[-1])])
    mass = mass.reshape(*logits.shape[:-1], size, size)
    upper = jnp.asarray(np.triu(np.ones((size, size), np.float32)))
    # Cumulative sums as matrix products, which are fast everywhere; in full precision, since TF32 has only ten bits.
    cumulative = functools.partial(jnp.matmul, b=upper, precision=jax.lax.Precision.HIGHEST)
    blocks = cumulative(mass.sum(axis=-1))
    target = jax.random.uniform(key, logits.shape[:-1]) * blocks[..., -1]
    block = last_with_mass(mass.sum(axis=-1), (blocks <= target[..., None]).sum(axis=-1))
    inside = jnp.take_along_axis(mass, block[..., None, None], axis=-2)[..., 0, :]
    before = jnp.take_along_axis(blocks, block[..., None], axis=-1)[..., 0] - inside.sum(axis=-1)
    rest = (target - before)[..., None]
    return (block * size + last_with_mass(inside, (cumulative(inside) <= rest).sum(axis=-1))).astype(jnp.int32)


def last_with_mass(mass: Float[Array, "*rows output"], index: Int[Array, "*rows"]) -> Int[Array, "*rows"]:
    """The index, or the last index with any mass if rounding has led beyond it."""
    positions = jnp.arange(mass.shape[-1])
    return jnp.minimum(index, jnp.where(mass > 0.0, positions, 0).max(axis=-1))


def check_candidates(candidates: Array, history: History) -> None:
    """Raises ValueError unless candidates are [B, N, D] with the history's B and D."""
    studies, slots = history.slots.levels.shape
    if candidates.ndim != 3 or candidates.shape[0] != studies or candidates.shape[2] != slots:
        raise ValueError(f"Candidates must have the shape [{studies}, N, {slots}], not {list(candidates.shape)}.")


def known_trials(trial_mask: Bool[Array, "batch trial"]) -> Int[Array, " batch"]:
    """Number of known trials; padding must be last."""
    return jnp.sum(jnp.asarray(trial_mask), axis=1).astype(jnp.int32)
