"""Warps of inputs and outputs: tuned functions are seldom stationary, and seldom Gaussian in their values.

Notation: u a coordinate in [0, 1], s a standardised value (mean 0, standard deviation 1 over random points), larger is
better, a > 0 the strength of a warp.  Every warp is increasing, so it never moves an optimum along the values.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import pick


class InputWarp(NamedTuple):
    """Kumaraswamy distribution function per slot, 1 - (1 - u^a)^b."""

    a: Float[Array, " slot"]
    b: Float[Array, " slot"]


def sample_input_warp(draws: Draws, slots: int, config: PriorConfig) -> InputWarp:
    """Exponents around 1; exactly 1 in the studies that are not warped (Snoek et al. 2014)."""
    deviation = 0.6 * draws.bernoulli(config.input_warp_rate)
    return InputWarp(draws.log_normal(1.0, deviation, (slots,)), draws.log_normal(1.0, deviation, (slots,)))


def warp_input(warp: InputWarp, u: Float[Array, " slot"]) -> Float[Array, " slot"]:
    """Coordinates above 1 are categories out of the usual range; order means nothing to them, so they stay."""
    within = jnp.clip(u, 0.0, 1.0)
    # exp and log in place of `power`, which compiles to much more; log(0) is -inf, and its power 0.
    below = jnp.exp(warp.a * jnp.log(within))
    return jnp.where(u > 1.0, u, 1.0 - jnp.exp(warp.b * jnp.log(1.0 - below)))


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
