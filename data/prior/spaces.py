"""Random search spaces: how many parameters, of which kinds, and where each value lies in the unit cube.

Notation, for one study (`sample_batch` maps over studies): D slots, L the levels of a slot, C the most feasible
values of a discrete or categorical slot.
  z in [0, 1]^D   a point as a behaviour proposes it
  q in {0..L-1}^D its value tokens
  u in [0, 1]^D   where functions live: the coordinate of token q
Continuous: u = q / (L - 1).  Integer on a log scale: u grows with log(1 + q), since the tokens of an integer are even
in its value.  Discrete and categorical: u is looked up, increasing for discrete values, in no order for categories.
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
    """

    kinds: Int[Array, " slot"]
    levels: Int[Array, " slot"]
    log_scale: Bool[Array, " slot"]
    locations: Float[Array, "slot value"]

    @property
    def active(self) -> Bool[Array, " slot"]:
        """Slots that are parameters and not padding."""
        return self.kinds > tokens.NO_SLOT


def sample_space(draws: Draws, config: PriorConfig, slots: int) -> Space:
    """One search space with at most `slots` parameters."""
    active = jnp.arange(slots) < _slot_count(draws, config, slots)
    kinds = tokens.CONTINUOUS + draws.choice(list(config.kind_weights), (slots,))
    kinds = jnp.where(draws.bernoulli(config.single_kind_rate), tokens.CONTINUOUS, kinds)
    kinds = jnp.where(active, kinds, tokens.NO_SLOT).astype(jnp.int32)

    log_scale = draws.bernoulli(config.log_rate, (slots,))
    log_scale &= (kinds == tokens.CONTINUOUS) | (kinds == tokens.INTEGER)
    levels = _levels(draws, kinds, config)
    return Space(kinds=kinds, levels=levels, log_scale=log_scale, locations=_locations(draws, kinds, levels, config))


def quantize(space: Space, z: Float[Array, " slot"]) -> Int[Array, " slot"]:
    """Value tokens of a proposed point; padding gives 0.

    Continuous values round to the nearest level, as the serializer does.  The others have cells of equal width, so
    that a uniform z is uniform over the values and the two ends are not drawn half as often.
    """
    levels = jnp.maximum(space.levels, 1)
    nearest = jnp.round(z * (levels - 1))
    cell = jnp.floor(_log_warp(space, z) * levels)
    q = jnp.where(space.kinds == tokens.CONTINUOUS, nearest, cell)
    return jnp.clip(q.astype(jnp.int32), 0, levels - 1)


def coordinate(space: Space, q: Int[Array, " slot"]) -> Float[Array, " slot"]:
    """Where a value token lies for the function; padding gives 0."""
    span = jnp.maximum(space.levels - 1, 1).astype(jnp.float32)
    even = q / span
    logarithmic = jnp.log1p(q.astype(jnp.float32)) / jnp.log1p(span)
    ordered = jnp.where((space.kinds == tokens.INTEGER) & space.log_scale, logarithmic, even)
    index = jnp.minimum(q, space.locations.shape[1] - 1)
    looked_up = jnp.take_along_axis(space.locations, index[:, None], axis=1)[:, 0]
    return jnp.where(space.kinds >= tokens.DISCRETE, looked_up, ordered)


def _log_warp(space: Space, z: Float[Array, " slot"]) -> Float[Array, " slot"]:
    """Moves a z that is even in the logarithm to the even cells of an integer's tokens."""
    levels = jnp.maximum(space.levels, 1).astype(jnp.float32)
    warped = jnp.expm1(z * jnp.log1p(levels)) / levels
    return jnp.where((space.kinds == tokens.INTEGER) & space.log_scale, warped, z)


def _slot_count(draws: Draws, config: PriorConfig, slots: int) -> Int[Array, ""]:
    log_stay = math.log(max(1.0 - 1.0 / config.slots_mean, 1e-6))
    # Inversion of the geometric distribution truncated to 1 ... slots: no clump at the upper end.
    reach = 1.0 - math.exp(slots * log_stay)
    geometric = 1 + jnp.floor(jnp.log1p(-draws.uniform() * reach) / log_stay).astype(jnp.int32)
    even = draws.integer(1, slots + 1)
    count = jnp.where(draws.bernoulli(config.uniform_slots_rate), even, geometric)
    return jnp.clip(count, 1, slots)


def _levels(draws: Draws, kinds: Int[Array, " slot"], config: PriorConfig) -> Int[Array, " slot"]:
    """Log-uniform numbers of levels: 2 ... Q for integers, 2 ... max for discrete and categorical slots."""
    largest = jnp.asarray([1, 1, tokens.NUM_LEVELS, config.max_discrete, config.max_categories], jnp.float32)[kinds]
    drawn = jnp.floor(2.0 * jnp.exp(draws.uniform(kinds.shape) * jnp.log((largest + 1.0) / 2.0))).astype(jnp.int32)
    drawn = jnp.clip(drawn, 2, jnp.maximum(largest, 2).astype(jnp.int32))
    levels = jnp.where(kinds == tokens.CONTINUOUS, tokens.NUM_LEVELS, drawn)
    return jnp.where(kinds == tokens.NO_SLOT, 0, levels).astype(jnp.int32)


def _locations(
    draws: Draws, kinds: Int[Array, " slot"], levels: Int[Array, " slot"], config: PriorConfig
) -> Float[Array, "slot value"]:
    shape = (kinds.shape[0], max(config.max_discrete, config.max_categories))
    # A category's neighbours mean nothing: twice the usual range makes most pairs of categories independent.
    free = draws.uniform(shape, 0.0, 2.0)
    # Feasible values of a discrete parameter: evenly spaced in half of the cases, else with random gaps.
    spread = jnp.maximum(draws.uniform((shape[0], 1), -1.0), 0.0)
    gaps = jnp.exp(spread * draws.normal(shape))
    position = jnp.arange(shape[1])[None, :]
    used = (position > 0) & (position < levels[:, None])
    climbed = jnp.cumsum(jnp.where(used, gaps, 0.0), axis=1)
    increasing = climbed / jnp.maximum(climbed[:, -1:], 1e-6)
    return jnp.where((kinds == tokens.CATEGORICAL)[:, None], free, increasing)
