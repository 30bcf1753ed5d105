"""Histogram of an objective as a mixture: the decoder's own, and normal distributions of experts.

Notation: B studies, R rows, H experts, V outputs, Q = 1000 bins, z = q / (Q - 1) the place of bin q.

    p(q) = s_0 p_0(q) + (1 - p_0(infeasible)) sum_h s_h N_h(q)        p(infeasible) = p_0(infeasible)

N_h(q) is the integral over bin q of a normal density that is cut off at the ends of the range.  It is taken by two
Gauss points, which is positive and exact to a relative error of 1e-3 in any tail that matters; the masses add up to 1
within 2e-4 where a distribution is as narrow as a bin and stands at the end of the range, and within 1e-6 elsewhere.
"""

import math
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optformer.serialization import tokens

BIN: Final = 1 / (tokens.NUM_LEVELS - 1)
"""Width of a bin, and the least standard deviation of an expert."""

_GAUSS_POINT: Final = 1 / (2 * math.sqrt(3))
"""Distance from the middle of the two points of Gauss and Legendre, in widths."""


class Mixture(NamedTuple):
    """Distributions of objectives.

    Attributes:
      logits: [B, R, V], of the decoder's own histogram.
      log_shares: [B, R, H + 1], logarithm of s: first the decoder's, then the experts'.
      mean: [B, R, H], in z, from 0 to 1.
      deviation: [B, R, H], at least `BIN`.
    """

    logits: Array
    log_shares: Array
    mean: Array
    deviation: Array

    def log_probabilities(self) -> Float[Array, "batch row output"]:
        """Of every output.  Those that can never be emitted stay where the decoder's logits have them."""
        own = jax.nn.log_softmax(self.logits, axis=-1)
        z = (jnp.arange(tokens.NUM_LEVELS) * BIN)[None, None, None]
        offset = (z - self.mean[..., None]) / self.deviation[..., None]
        shift = _GAUSS_POINT * BIN / self.deviation[..., None]
        masses = jnp.exp(-0.5 * jnp.square(offset + shift)) + jnp.exp(-0.5 * jnp.square(offset - shift))
        factor = jnp.exp(self.log_shares[..., 1:] + self._log_height())
        experts = jnp.log(jnp.maximum((factor[..., None] * masses).sum(axis=-2), 1e-37))
        bins = jnp.logaddexp(
            own[..., : tokens.NUM_LEVELS] + self.log_shares[..., :1], experts + self._log_feasible()[..., None]
        )
        return jnp.concatenate([bins, own[..., tokens.NUM_LEVELS :]], axis=-1)

    def log_probability(self, token: Int[Array, "batch row"]) -> Float[Array, "batch row"]:
        """Of one output per row: what `log_probabilities` has there, without making the others."""
        own = jnp.take_along_axis(jax.nn.log_softmax(self.logits, axis=-1), token[..., None], axis=-1)[..., 0]
        experts = jax.nn.logsumexp(self.log_masses(token) + self.log_shares[..., 1:], axis=-1)
        mixed = jnp.logaddexp(own + self.log_shares[..., 0], experts + self._log_feasible())
        return jnp.where(token < tokens.NUM_LEVELS, mixed, own)

    def log_masses(self, token: Int[Array, "batch row"]) -> Float[Array, "batch row expert"]:
        """Logarithm of N_h at one bin per row; statuses are taken for the last bin."""
        z = jnp.minimum(token, tokens.NUM_LEVELS - 1) * BIN
        offset, shift = (z[..., None] - self.mean) / self.deviation, _GAUSS_POINT * BIN / self.deviation
        masses = jnp.logaddexp(-0.5 * jnp.square(offset + shift), -0.5 * jnp.square(offset - shift))
        return masses + self._log_height()

    def _log_height(self) -> Float[Array, "batch row expert"]:
        """Logarithm of what the two exponentials of a bin are multiplied by: half the height of the density."""
        upper, lower = (jax.scipy.special.ndtr((end - self.mean) / self.deviation) for end in (1 + BIN / 2, -BIN / 2))
        return math.log(BIN / 2) - 0.5 * math.log(2 * math.pi) - jnp.log(self.deviation) - jnp.log(upper - lower)

    def _log_feasible(self) -> Float[Array, "batch row"]:
        return log_feasible(self.logits)


def log_feasible(logits: Float[Array, "*rows output"]) -> Float[Array, "*rows"]:
    """Logarithm of the share of the bins among all outputs."""
    return jax.nn.logsumexp(logits[..., : tokens.NUM_LEVELS], axis=-1) - jax.nn.logsumexp(logits, axis=-1)
