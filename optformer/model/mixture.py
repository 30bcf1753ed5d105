"""Distribution of an objective as a mixture: the decoder's own histogram, and normal distributions of experts.

Notation: B studies, R rows, H experts, V outputs, Q = 1000 bins, z = q / (Q - 1) the position of bin q.

    p(q) = s_0 p_0(q) + (1 - p_0(infeasible)) sum_h s_h N_h(q)        p(infeasible) = p_0(infeasible)

N_h(q) is the integral over bin q of a normal density truncated to the range.  With a the distance of the bin's centre
from the mean and b the bin's width, in standard deviations, it is close to phi(a) b (1 + b^2 (a^2 - 1) / 24) for b <=
1, which takes one exponential per bin.  The masses add up to 1 within 1e-3 for a distribution as narrow as a bin at the
end of the range, and within 1e-5 for one three times as wide.
"""

import math
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optformer.serialization import tokens

BIN: Final = 1 / (tokens.NUM_LEVELS - 1)
"""Width of a bin, which is also the smallest standard deviation of an expert."""


class Mixture(NamedTuple):
    """Distributions of objectives.

    Attributes:
      logits: [B, R, V], the decoder's own histogram.
      log_shares: [B, R, H + 1], logarithm of s: first the decoder's, then the experts'.
      mean: [B, R, H], in z, in [0, 1].
      deviation: [B, R, H], at least `BIN`.
    """

    logits: Array
    log_shares: Array
    mean: Array
    deviation: Array

    def log_probabilities(self) -> Float[Array, "batch row output"]:
        """Log-probability of every output; for statuses, that of the decoder."""
        own = jax.nn.log_softmax(self.logits, axis=-1)
        z = (jnp.arange(tokens.NUM_LEVELS) * BIN)[None, None]
        shares = jnp.exp(self.log_shares)
        heights = shares[..., 1:] * jnp.exp(self._log_height() + self._log_feasible()[..., None])
        probability = shares[..., :1] * jnp.exp(own[..., : tokens.NUM_LEVELS])
        # Expert by expert, which XLA fuses into one loop; a sum over an axis takes twice the time.
        for expert in range(heights.shape[-1]):
            mean, deviation, height = (x[..., expert, None] for x in (self.mean, self.deviation, heights))
            squared = jnp.square((z - mean) / deviation)
            probability = probability + height * jnp.exp(-0.5 * squared) * self._correction(squared, deviation)
        bins = jnp.log(jnp.maximum(probability, jnp.finfo(jnp.float32).tiny))
        return jnp.concatenate([bins, own[..., tokens.NUM_LEVELS :]], axis=-1)

    def log_probability(self, token: Int[Array, "batch row"]) -> Float[Array, "batch row"]:
        """Log-probability of one output per row, without computing the others."""
        own = jnp.take_along_axis(jax.nn.log_softmax(self.logits, axis=-1), token[..., None], axis=-1)[..., 0]
        experts = jax.nn.logsumexp(self.log_masses(token) + self.log_shares[..., 1:], axis=-1)
        mixed = jnp.logaddexp(own + self.log_shares[..., 0], experts + self._log_feasible())
        return jnp.where(token < tokens.NUM_LEVELS, mixed, own)

    def log_masses(self, token: Int[Array, "batch row"]) -> Float[Array, "batch row expert"]:
        """Logarithm of N_h at one bin per row; statuses count as the last bin."""
        z = jnp.minimum(token, tokens.NUM_LEVELS - 1) * BIN
        squared = jnp.square((z[..., None] - self.mean) / self.deviation)
        return self._log_height() - 0.5 * squared + jnp.log(self._correction(squared, self.deviation))

    @staticmethod
    def _correction(squared: Array, deviation: Array) -> Array:
        return 1.0 + jnp.square(BIN / deviation) * (squared - 1.0) / 24

    def _log_height(self) -> Float[Array, "batch row expert"]:
        """Logarithm of a bin's mass at the mean, without the correction term."""
        upper, lower = (jax.scipy.special.ndtr((end - self.mean) / self.deviation) for end in (1 + BIN / 2, -BIN / 2))
        return math.log(BIN / math.sqrt(2 * math.pi)) - jnp.log(self.deviation) - jnp.log(upper - lower)

    def _log_feasible(self) -> Float[Array, "batch row"]:
        return log_feasible(self.logits)


def log_feasible(logits: Float[Array, "*rows output"]) -> Float[Array, "*rows"]:
    """Logarithm of the total probability of the bins."""
    return jax.nn.logsumexp(logits[..., : tokens.NUM_LEVELS], axis=-1) - jax.nn.logsumexp(logits, axis=-1)
