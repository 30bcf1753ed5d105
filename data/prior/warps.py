"""Warps of inputs and outputs: tuned functions are seldom stationary, and seldom Gaussian in their values.

Notation: u a coordinate in [0, 1], s a standardised value (mean 0, standard deviation 1 over random points), larger is
better, a > 0 the strength of a warp.  No warp decreases, so it never moves an optimum along the values.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import pick
from optformer.serialization import tokens

_MOST_STEPS = 12.0


class InputWarp(NamedTuple):
    """Kumaraswamy distribution function per slot, 1 - (1 - u^a)^b, rounded to `steps` values where that is positive."""

    a: Float[Array, " slot"]
    b: Float[Array, " slot"]
    steps: Float[Array, " slot"] | None = None


def sample_input_warp(draws: Draws, kinds: Int[Array, " slot"], config: PriorConfig) -> InputWarp:
    """Exponents around 1; exactly 1 in the studies that are not warped (Snoek et al. 2014).

    Steps are for ordered slots: each second one of `config.step_rate` of the studies.
    """
    slots = kinds.shape[0]
    deviation = 0.6 * draws.bernoulli(config.input_warp_rate)
    warp = InputWarp(draws.log_normal(1.0, deviation, (slots,)), draws.log_normal(1.0, deviation, (slots,)))
    if not config.step_rate:
        return warp
    stepped = (kinds != tokens.CATEGORICAL) & draws.bernoulli(config.step_rate) & draws.bernoulli(0.5, (slots,))
    steps = jnp.floor(draws.log_uniform(2.0, _MOST_STEPS + 1.0, (slots,)))
    return warp._replace(steps=jnp.where(stepped, steps, 0.0))


def warp_input(warp: InputWarp, u: Float[Array, " slot"]) -> Float[Array, " slot"]:
    """The warped point.

    Coordinates above 1 are categories out of the usual range; order means nothing to them, so they stay."""
    within = jnp.clip(u, 0.0, 1.0)
    # exp and log in place of `power`, which compiles to much more; log(0) is -inf, and its power 0.
    below = jnp.exp(warp.a * jnp.log(within))
    unordered = u > 1.0
    warped = 1.0 - jnp.exp(warp.b * jnp.log(1.0 - below))
    if warp.steps is not None:
        # Cells of equal width, the first at 0 and the last at 1.
        cell = jnp.minimum(jnp.floor(warped * warp.steps), warp.steps - 1.0)
        warped = jnp.where(warp.steps > 0.0, cell / jnp.maximum(warp.steps - 1.0, 1.0), warped)
    return jnp.where(unordered, u, warped)


# Each takes (s, a).
OUTPUT_WARPS: dict[str, Callable[[Float[Array, ""], Float[Array, ""]], Float[Array, ""]]] = {
    "identity": lambda s, a: s,
    # A few points are far better than all others.
    "exponential": lambda s, a: jnp.expm1(jnp.clip(a * s, -20.0, 20.0)) / a,
    # Accuracies: a ceiling and a floor.
    "saturating": lambda s, a: jnp.tanh(a * s) / a,
    # A ceiling that many points come near, and no floor.
    "ceiling": lambda s, a: -jax.nn.softplus(-2.0 * a * s) / a,
    "power": lambda s, a: jnp.sign(s) * jnp.exp(jnp.clip(a, 0.4, 2.5) * jnp.log(jnp.abs(s) + 1e-6)),
    # Losses: flat near the best, a cliff of huge values far from it.
    "logarithmic": lambda s, a: -jnp.expm1(jnp.clip(-a * s, -20.0, 20.0)) / a,
    # Losses whose worst values are orders of magnitude away: the tenth that is worst leaves the others behind.
    "outlying": lambda s, a: s - 10.0 * a * jnp.clip(-1.3 - s, 0.0, 20.0) ** 3,
    # Values that are ranks, or nearly: even over random points if those are Gaussian.
    "ranks": lambda s, a: jax.lax.erf(jnp.clip(s, -4.0, 4.0) / jnp.sqrt(2.0)) + 1e-3 * s,
    # A few good regions, and the same bad value everywhere else: a model that learns nothing, a time-out.
    "floored": lambda s, a: jnp.maximum(s, 1.2 - a),
    # A score that cannot be exceeded, reached in a part of the space.
    "capped": lambda s, a: jnp.minimum(s, a - 0.8),
}


class OutputWarp(NamedTuple):
    """Which warp, and how strong."""

    choice: Array
    strength: Float[Array, ""]


def sample_output_warp(draws: Draws, config: PriorConfig) -> OutputWarp:
    """Draws from `config.output_warps`."""
    choice = draws.choice([weight for _, weight in config.output_warps])
    return OutputWarp(choice, draws.log_normal(0.8, 0.5))


def warp_output(warp: OutputWarp, config: PriorConfig, s: Float[Array, ""]) -> Float[Array, ""]:
    """The warped value of a standardised one."""
    return pick(warp.choice, [OUTPUT_WARPS[name](s, warp.strength) for name, _ in config.output_warps])
