"""Output heads: from a hidden state to logits over the values 0 ... 999 and the statuses.

Notation: d width, K cosines, V = 1004 outputs, z = q / 999 the position of bin q.
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from optformer.model.config import ModelConfig
from optformer.model.layers import Projection, Rng
from optformer.serialization import tokens


def cosines(count: int) -> Float[np.ndarray, "cosine output"]:
    """cos(pi k z) for k = 0 ... K - 1 over the bins, zero over the statuses."""
    z = np.arange(tokens.NUM_LEVELS) / (tokens.NUM_LEVELS - 1)
    basis = np.zeros((count, tokens.NUM_OUTPUTS), np.float32)
    basis[:, : tokens.NUM_LEVELS] = np.cos(math.pi * np.arange(count)[:, None] * z[None, :])
    return basis


class BinHead(nnx.Module):
    """x (W + C B): free weights for every output, plus a cosine series over the bins with coefficients x C.

    Free weights alone would learn a thousand outputs one by one.  The series changes whole regions of bins at once,
    which covers most of a prediction; the free weights add details narrower than its shortest wave.
    """

    def __init__(self, width: int, config: ModelConfig, *, rng: Rng):
        dtype = config.compute_dtype
        self.free = Projection((width,), (tokens.NUM_OUTPUTS,), dtype=dtype, rng=rng, gain=0.1)
        self.series = (
            Projection((width,), (config.head_cosines,), dtype=dtype, rng=rng, gain=0.1)
            if config.head_cosines
            else None
        )

    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows output"]:
        if self.series is None:
            return self.free(x).astype(jnp.float32)
        # The series is folded into the weights first, so that the rows need one product only.
        kernel = self.free.kernel[...] + self.series.kernel[...] @ jnp.asarray(cosines(self.series.kernel.shape[1]))
        rows = x.astype(self.free.dtype).reshape(-1, x.shape[-1])
        product = self.free.product(rows, kernel.astype(self.free.dtype))
        return product.reshape(*x.shape[:-1], -1).astype(jnp.float32)
