"""Random functions, the objectives of the prior: one or two members of `families`, and the effect of a category.

Notation, for one study: D slots, K families, u the coordinates of a trial, h the coordinate of one categorical slot,
m_1 and m_2 the values of two members, each standardized over random points.

  m_i = member_i(u + shift(h)),     f = gain(h) * combine(m_1, m_2; h) + level(h)

`combine` is m_1 alone, a weighted sum, the maximum, the minimum, or the one of the two that h picks.  shift, gain and
level are waves in h: since the coordinates of categories are random, each category has a random value.

Every family is evaluated for every study, and the members are picked afterwards.  Under `vmap`, a switch would do the
same.  All thirteen families together take 0.04 ms per study of 32 trials (`benchmarks/prior.py --families`), and the
second member costs nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families import FAMILIES, Domain
from optformer.data.prior.families.family import pick, wave

_FLATTEST = 1e-3
"""Smallest standard deviation used to standardize a member: a flatter function stays flat."""
SINGLE, _SUM, _MAXIMUM, _MINIMUM, _PICKED = range(5)
_COMBINATION_WEIGHTS = [0.5, 0.25, 0.25]
"""Weights of sum, maximum, minimum."""


class Categories(NamedTuple):
    """The effect of the category in one slot on the function of the others.

    Attributes:
      slot: one-hot vector of that slot; zero if the function has none.
      shift: amplitude of the shift per slot.
      gain: amplitude of the logarithm of the gain.
      level: amplitude of the level.
      cycles, phases: of the waves in h; the last three are those of gain, level and pick.
    """

    slot: Float[Array, " slot"]
    shift: Float[Array, " slot"]
    gain: Float[Array, ""]
    level: Float[Array, ""]
    cycles: Float[Array, " wave"]
    phases: Float[Array, " wave"]


class Function(NamedTuple):
    """One function.  `members` has a draw of every family, `axes` their common axes, `chosen` the two that are used."""

    members: tuple[Any, ...]
    axes: Float[Array, "slot slot"]
    chosen: Int[Array, " two"]
    mean: Float[Array, " two"]
    deviation: Float[Array, " two"]
    how: Int[Array, ""]
    share: Float[Array, ""]
    categories: Categories


def sample_function(
    draws: Draws, domain: Domain, config: PriorConfig, points: Float[Array, "point slot"]
) -> tuple[Function, Float[Array, " point"]]:
    """Draws a function of `config.families`, with members standardized over `points`; also returns its values there."""
    weights = [weight for _, weight in config.families]
    categories = _sample_categories(draws, domain, config)
    single = jnp.where(draws.bernoulli(config.combination_rate), 1 + draws.choice(_COMBINATION_WEIGHTS), SINGLE)
    picked = (categories.slot.sum() > 0.0) & draws.bernoulli(config.category_pick_rate)
    function = Function(
        members=tuple(FAMILIES[name].sample(draws, domain, config) for name, _ in config.families),
        axes=domain.axes,
        chosen=draws.choice(weights, (2,)),
        mean=jnp.zeros((2,)),
        deviation=jnp.ones((2,)),
        how=jnp.where(picked, _PICKED, single),
        share=draws.uniform((), 0.2, 0.8),
        categories=categories,
    )
    values = jax.vmap(lambda u: _members(function, config, u))(points)
    function = function._replace(mean=values.mean(0), deviation=jnp.maximum(values.std(0), _FLATTEST))
    return function, jax.vmap(lambda value, u: _combine(function, value, u))(values, points)


def evaluate(function: Function, config: PriorConfig, u: Float[Array, " slot"]) -> Float[Array, ""]:
    """f at one point."""
    return _combine(function, _members(function, config, u), u)


def _members(function: Function, config: PriorConfig, u: Float[Array, " slot"]) -> Float[Array, " two"]:
    """Values of the two members that are used, at the shifted point."""
    categories = function.categories
    h = u @ categories.slot
    slots = u.shape[0]
    u = u + categories.shift * wave(h * categories.cycles[:slots] + categories.phases[:slots])
    v = function.axes @ u
    members = zip(config.families, function.members, strict=True)
    values = [FAMILIES[name].evaluate(member, u, v) for (name, _), member in members]
    return jnp.stack([pick(function.chosen[0], values), pick(function.chosen[1], values)])


def _combine(function: Function, values: Float[Array, " two"], u: Float[Array, " slot"]) -> Float[Array, ""]:
    first, second = (values - function.mean) / function.deviation
    categories = function.categories
    gain, level, side = wave((u @ categories.slot) * categories.cycles[-3:] + categories.phases[-3:])
    combined = pick(
        function.how,
        [
            first,
            function.share * first + (1.0 - function.share) * second,
            jnp.maximum(first, second),
            jnp.minimum(first, second),
            jnp.where(side > 0.0, first, second),
        ],
    )
    return jnp.exp(categories.gain * gain) * combined + categories.level * level


def _sample_categories(draws: Draws, domain: Domain, config: PriorConfig) -> Categories:
    """Draws the effects of a category for a share of `config.category_rate` of the studies with a relevant categorical
    slot; each effect occurs with probability 1/2."""
    slots = domain.relevant.shape[0]
    candidates = domain.relevant & domain.categorical
    there = candidates.any() & draws.bernoulli(config.category_rate)
    slot = (jnp.arange(slots) == draws.choice(candidates.astype(jnp.float32))) & candidates & there
    moved: Bool[Array, " slot"] = domain.relevant & ~domain.categorical
    shift = draws.log_uniform(0.1, 0.5) * draws.bernoulli(0.5)
    return Categories(
        slot=slot.astype(jnp.float32),
        shift=jnp.where(moved & slot.any(), shift, 0.0),
        gain=jnp.where(slot.any() & draws.bernoulli(0.5), draws.log_uniform(0.2, 1.0), 0.0),
        level=jnp.where(slot.any() & draws.bernoulli(0.5), draws.log_uniform(0.2, 2.0), 0.0),
        cycles=draws.uniform((slots + 3,), 1.5, 4.0),
        phases=draws.uniform((slots + 3,)),
    )
