"""Random search spaces: number and kinds of parameters, conditions, and the coordinate of each value.

Notation, for one study (`sample_batch` maps over studies): D slots, L the levels of a slot, C the most feasible
values of a discrete or categorical slot.
  z in [0, 1]^D   a point as a behaviour proposes it
  q in {0..L-1}^D its value tokens
  u in [0, 1]^D   where functions live: the coordinate of token q
  on in {0, 1}^D  which parameters are active: all roots, and the children whose parent has one of certain values
Continuous: u = q / (L - 1).  Integer on a log scale: u grows with log(1 + q), since the tokens of an integer are even
in its value.  Discrete and categorical: u is looked up, increasing for discrete values (but in a disordered study), in
no order for categories.

Conditional parameters form trees, root, child, grandchild, in any order in which parents come before their children.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.serialization import tokens


class Space(NamedTuple):
    """A search space with D padded slots.

    Attributes:
      kinds: `tokens.CONTINUOUS` ... `tokens.CATEGORICAL`, 0 for padding.
      levels: value tokens per slot, 0 for padding.
      log_scale: continuous or integer slots with a log scale.
      locations: the coordinate u of each feasible value of a discrete or categorical slot.
      parents: the slot on which this one depends, always an earlier one with at most C levels; -1 for none.
      active_when: whether the slot is active, by level of the parent; all True without a parent.
    """

    kinds: Int[Array, " slot"]
    levels: Int[Array, " slot"]
    log_scale: Bool[Array, " slot"]
    locations: Float[Array, "slot value"]
    parents: Int[Array, " slot"]
    active_when: Bool[Array, "slot value"]

    @property
    def active(self) -> Bool[Array, " slot"]:
        """Slots that are parameters and not padding."""
        return self.kinds > tokens.NO_SLOT


def sample_space(draws: Draws, config: PriorConfig, slots: int, reserved: Int[Array, ""] | None = None) -> Space:
    """Draws a search space with at most `slots - reserved` parameters."""
    count = _slot_count(draws, config, slots)
    if reserved is not None:
        # Larger numbers wrap around to 1; clipping would make one number too frequent.
        count = 1 + (count - 1) % (slots - reserved)
    slot = jnp.arange(slots)
    kinds = tokens.CONTINUOUS + draws.choice(list(config.kind_weights), (slots,))
    kinds = jnp.where(draws.bernoulli(config.single_kind_rate), tokens.CONTINUOUS, kinds)
    if config.grid_rate:
        few = jnp.where(draws.bernoulli(draws.uniform(), (slots,)), tokens.DISCRETE, tokens.CATEGORICAL)
        kinds = jnp.where(draws.bernoulli(config.grid_rate), few, kinds)
    # In a conditional space, some of the first parameters have few values, so that others can depend on them.
    conditional = draws.bernoulli(config.conditional_rate) & (count > 1)
    switch = conditional & (slot == draws.integer(0, jnp.maximum(count // 2, 1)))
    further = conditional & draws.bernoulli(0.15, (slots,))
    kinds = jnp.where(switch | further, tokens.CATEGORICAL - draws.bernoulli(0.1, (slots,)), kinds)
    kinds = jnp.where(slot < count, kinds, tokens.NO_SLOT).astype(jnp.int32)

    log_scale = draws.bernoulli(config.log_rate, (slots,))
    log_scale &= (kinds == tokens.CONTINUOUS) | (kinds == tokens.INTEGER)
    levels = _levels(draws, kinds, config)
    locations = _locations(draws, kinds, levels, config)
    parents = jnp.where(conditional, _parents(draws, kinds, levels, switch, locations.shape[1]), -1)
    return Space(kinds, levels, log_scale, locations, parents, _conditions(draws, levels, parents, locations.shape[1]))


def quantize(space: Space, z: Float[Array, " slot"]) -> Int[Array, " slot"]:
    """Value tokens of a proposed point; padding gives 0.

    Continuous values are rounded to the nearest level, as in the serializer.  The other kinds have cells of equal
    width, so that a uniform z is uniform over the values, including the two ends.
    """
    levels = jnp.maximum(space.levels, 1)
    nearest = jnp.round(z * (levels - 1))
    cell = jnp.floor(_log_warp(space, z) * levels)
    q = jnp.where(space.kinds == tokens.CONTINUOUS, nearest, cell)
    return jnp.clip(q.astype(jnp.int32), 0, levels - 1)


def coordinate(space: Space, q: Int[Array, " slot"]) -> Float[Array, " slot"]:
    """Coordinates u of value tokens; padding gives 0."""
    span = jnp.maximum(space.levels - 1, 1).astype(jnp.float32)
    even = q / span
    logarithmic = jnp.log1p(q.astype(jnp.float32)) / jnp.log1p(span)
    ordered = jnp.where((space.kinds == tokens.INTEGER) & space.log_scale, logarithmic, even)
    index = jnp.minimum(q, space.locations.shape[1] - 1)
    looked_up = jnp.take_along_axis(space.locations, index[:, None], axis=1)[:, 0]
    return jnp.where(space.kinds >= tokens.DISCRETE, looked_up, ordered)


def activity(space: Space, q: Int[Array, " slot"]) -> Bool[Array, " slot"]:
    """Which parameters are active, given the value tokens of a trial; tokens of inactive parameters are ignored."""
    root, parent = space.parents < 0, jnp.maximum(space.parents, 0)
    holds = space.active & (root | _condition(space, q[parent]))
    # Trees have two levels below the root, so it suffices to check a slot's condition and its parent's.
    return holds & (root | holds[parent])


def write_tokens(space: Space, q: Int[Array, " slot"], lost: Bool[Array, " slot"]) -> Int[Array, " slot"]:
    """Parameter tokens of a trial with some lost values, as `StudySchema.encode` writes them.

    Inactive children are INACTIVE; if the value of the parent was lost, they are MISSING, since that is then unknown.
    """
    root, parent = space.parents < 0, jnp.maximum(space.parents, 0)
    recorded = jnp.where(lost, tokens.MISSING, q)
    present = activity(space, q) & ~lost
    written = recorded
    for _ in range(2):  # children, then grandchildren
        above = written[parent]
        conditional = jnp.where(_condition(space, above), recorded, tokens.INACTIVE)
        written = jnp.where(
            root, recorded, jnp.where(above == tokens.MISSING, jnp.where(present, q, tokens.MISSING), conditional)
        )
    return jnp.where(space.active, written, tokens.PAD)


def _condition(space: Space, above: Int[Array, " slot"]) -> Bool[Array, " slot"]:
    """Whether each slot is active if its parent has the token `above`."""
    values = space.active_when.shape[1]
    holds = jnp.take_along_axis(space.active_when, jnp.minimum(above, values - 1)[:, None], axis=1)[:, 0]
    return holds & (above < values)


def _log_warp(space: Space, z: Float[Array, " slot"]) -> Float[Array, " slot"]:
    """Maps a z that is uniform in the logarithm to the evenly spaced tokens of an integer."""
    levels = jnp.maximum(space.levels, 1).astype(jnp.float32)
    warped = jnp.expm1(z * jnp.log1p(levels)) / levels
    return jnp.where((space.kinds == tokens.INTEGER) & space.log_scale, warped, z)


def _slot_count(draws: Draws, config: PriorConfig, slots: int) -> Int[Array, ""]:
    log_stay = math.log(max(1.0 - 1.0 / config.slots_mean, 1e-6))
    # Inverts the geometric distribution truncated to 1 ... slots, which has no extra mass at the upper end.
    reach = 1.0 - math.exp(slots * log_stay)
    geometric = 1 + jnp.floor(jnp.log1p(-draws.uniform() * reach) / log_stay).astype(jnp.int32)
    even = draws.integer(1, slots + 1)
    count = jnp.where(draws.bernoulli(config.uniform_slots_rate), even, geometric)
    return jnp.clip(count, 1, slots)


def _levels(draws: Draws, kinds: Int[Array, " slot"], config: PriorConfig) -> Int[Array, " slot"]:
    """Draws numbers of levels: log-uniform in 2 ... Q for integers; in 2 ... max by `values_power` for the others."""
    largest = jnp.asarray([1, 1, tokens.NUM_LEVELS, config.max_discrete, config.max_categories], jnp.float32)[kinds]
    exponent = draws.uniform(kinds.shape)
    if config.values_power != 1.0:
        exponent = jnp.where(kinds >= tokens.DISCRETE, jnp.power(exponent, config.values_power), exponent)
    drawn = jnp.floor(2.0 * jnp.exp(exponent * jnp.log((largest + 1.0) / 2.0))).astype(jnp.int32)
    drawn = jnp.clip(drawn, 2, jnp.maximum(largest, 2).astype(jnp.int32))
    levels = jnp.where(kinds == tokens.CONTINUOUS, tokens.NUM_LEVELS, drawn)
    return jnp.where(kinds == tokens.NO_SLOT, 0, levels).astype(jnp.int32)


def _locations(
    draws: Draws, kinds: Int[Array, " slot"], levels: Int[Array, " slot"], config: PriorConfig
) -> Float[Array, "slot value"]:
    shape = (kinds.shape[0], max(config.max_discrete, config.max_categories))
    # Categories have no order: coordinates over twice the usual range make most pairs of categories independent.
    free = draws.uniform(shape, 0.0, 2.0)
    # Feasible values of a discrete parameter: evenly spaced in half of the cases, else with random gaps.
    spread = jnp.maximum(draws.uniform((shape[0], 1), -1.0), 0.0)
    gaps = jnp.exp(spread * draws.normal(shape))
    position = jnp.arange(shape[1])[None, :]
    used = (position > 0) & (position < levels[:, None])
    climbed = jnp.cumsum(jnp.where(used, gaps, 0.0), axis=1)
    increasing = climbed / jnp.maximum(climbed[:, -1:], 1e-6)
    if config.disorder_rate:
        # For sizes of blocks or tiles, divisibility matters as much as order.
        share = draws.uniform((shape[0], 1)) * draws.bernoulli(config.disorder_rate)
        increasing += share * (draws.uniform(shape) - increasing)
    return jnp.where((kinds == tokens.CATEGORICAL)[:, None], free, increasing)


def _parents(
    draws: Draws, kinds: Int[Array, " slot"], levels: Int[Array, " slot"], switch: Bool[Array, " slot"], values: int
) -> Int[Array, " slot"]:
    """Draws parents: roots, children, and grandchildren, each with a random earlier parent of at most C levels."""
    slots = kinds.shape[0]
    possible = (kinds > tokens.CONTINUOUS) & (levels <= values)
    depth = draws.bernoulli(draws.uniform((), 0.3, 1.0), (slots,)) * (1 + draws.bernoulli(0.4, (slots,)))
    depth = jnp.where(switch, 0, depth)
    score = draws.uniform((slots, slots), 1.0, 2.0)
    earlier = jnp.tril(jnp.ones((slots, slots), bool), -1)

    def chosen(candidate: Bool[Array, " slot"]) -> Int[Array, " slot"]:
        scores = jnp.where(earlier & (candidate & possible)[None, :], score, 0.0)
        return jnp.where(scores.max(1) > 0.0, jnp.argmax(scores, axis=1), -1)

    under_root = chosen(depth == 0)
    under_child = chosen((depth == 1) & (under_root >= 0))
    parents = jnp.where((depth == 2) & (under_child >= 0), under_child, under_root)
    return jnp.where((depth > 0) & (kinds > tokens.NO_SLOT), parents, -1).astype(jnp.int32)


def _conditions(
    draws: Draws, levels: Int[Array, " slot"], parents: Int[Array, " slot"], values: int
) -> Bool[Array, "slot value"]:
    """Draws the values of the parent that make a slot active: one or several, never all."""
    count = jnp.where(parents < 0, values, levels[jnp.maximum(parents, 0)])[:, None]
    value = jnp.arange(values)[None, :]
    first = draws.integer(0, count, (levels.shape[0], 1))
    more = jnp.where(draws.bernoulli(0.6, (levels.shape[0], 1)), 0.0, 0.35)
    when = (value == first) | draws.bernoulli(more, (levels.shape[0], values))
    everywhere = (when | (value >= count)).all(1, keepdims=True)
    when &= (value < count) & ~(everywhere & (value == (first + 1) % count))
    return when | (parents < 0)[:, None]
