"""Warps of inputs and outputs: real objectives are rarely stationary, and their values are rarely Gaussian.

Notation: u a coordinate in [0, 1], s a standardized value (mean 0, standard deviation 1 over random points), larger is
better, a > 0 the strength of a warp.  Warps are non-decreasing, so they do not move optima.
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
    """Kumaraswamy distribution function per slot, 1 - (1 - u^a)^b, rounded to `steps` values if that is positive."""

    a: Float[Array, " slot"]
    b: Float[Array, " slot"]
    steps: Float[Array, " slot"] | None = None


def sample_input_warp(draws: Draws, kinds: Int[Array, " slot"], config: PriorConfig) -> InputWarp:
    """Draws exponents around 1; exactly 1 in studies without warps (Snoek et al. 2014).

    In a share of `config.step_rate` of the studies, half of the ordered slots have steps.
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

    Coordinates above 1 belong to categories, which have no order, and are not changed.
    """
    within = jnp.clip(u, 0.0, 1.0)
    # exp and log, because `power` compiles to much more code; log(0) is -inf, which gives 0.
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
    # A few points are far better than the others.
    "exponential": lambda s, a: jnp.expm1(jnp.clip(a * s, -20.0, 20.0)) / a,
    # Accuracies: an upper and a lower limit.
    "saturating": lambda s, a: jnp.tanh(a * s) / a,
    # An upper limit that many points approach, and no lower limit.
    "ceiling": lambda s, a: -jax.nn.softplus(-2.0 * a * s) / a,
    "power": lambda s, a: jnp.sign(s) * jnp.exp(jnp.clip(a, 0.4, 2.5) * jnp.log(jnp.abs(s) + 1e-6)),
    # Losses: flat near the best, huge values far from it.
    "logarithmic": lambda s, a: -jnp.expm1(jnp.clip(-a * s, -20.0, 20.0)) / a,
    # Losses whose worst tenth is orders of magnitude away from the others.
    "outlying": lambda s, a: s - 10.0 * a * jnp.clip(-1.3 - s, 0.0, 20.0) ** 3,
    # Values that are nearly ranks: uniform over random points if these are Gaussian.
    "ranks": lambda s, a: jax.lax.erf(jnp.clip(s, -4.0, 4.0) / jnp.sqrt(2.0)) + 1e-3 * s,
    # A few good regions, and the same bad value everywhere else: a model that learns nothing, a time-out.
    "floored": lambda s, a: jnp.maximum(s, 1.2 - a),
    # A score that cannot be exceeded, reached in a part of the space.
    "capped": lambda s, a: jnp.minimum(s, a - 0.8),
}


class OutputWarp(NamedTuple):
    """Index and strength of a warp."""

    choice: Array
    strength: Float[Array, ""]


def sample_output_warp(draws: Draws, config: PriorConfig) -> OutputWarp:
    """Draws from `config.output_warps`."""
    choice = draws.choice([weight for _, weight in config.output_warps])
    return OutputWarp(choice, draws.log_normal(0.8, 0.5))


def warp_output(warp: OutputWarp, config: PriorConfig, s: Float[Array, ""]) -> Float[Array, ""]:
    """The warped value of a standardized one."""
    return pick(warp.choice, [OUTPUT_WARPS[name](s, warp.strength) for name, _ in config.output_warps])
