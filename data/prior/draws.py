"""Random numbers of one study, cut from a few large blocks.

Each call of `jax.random` puts its own copy of the threefry generator into the compiled program, and the prior makes
more than a hundred draws: with a key for each, four fifths of the compile time went into generators.  `Draws` is a
cursor over blocks of uniform numbers; it moves while the program is traced, so the compiled program sees slices at
fixed places.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

_BLOCK = 8192


class Draws:
    """Draws for one study, all a function of its key.  Create one per traced function and pass it down."""

    def __init__(self, key: PRNGKeyArray) -> None:
        self._key = key
        self._blocks = 0
        self._block: Array = jnp.zeros((0,))
        self._used = 0

    def uniform(self, shape: tuple[int, ...] = (), low: float | Array = 0.0, high: float | Array = 1.0) -> Array:
        """Uniform in [low, high)."""
        size = math.prod(shape)
        if self._used + size > self._block.shape[0]:
            self._block = jax.random.uniform(jax.random.fold_in(self._key, self._blocks), (max(_BLOCK, size),))
            self._blocks += 1
            self._used = 0
        drawn = self._block[self._used : self._used + size].reshape(shape)
        self._used += size
        return low + (high - low) * drawn

    def normal(self, shape: tuple[int, ...] = ()) -> Array:
        """Standard normal, by inversion: within 5.2 standard deviations."""
        return math.sqrt(2.0) * jax.lax.erf_inv(self.uniform(shape, -1.0 + 2e-7, 1.0))

    def bernoulli(self, rate: float | Array, shape: tuple[int, ...] = ()) -> Array:
        """True with probability `rate`."""
        return self.uniform(shape) < rate

    def integer(self, low: int | Array, high: int | Array, shape: tuple[int, ...] = ()) -> Array:
        """Uniform over low ... high - 1, int32."""
        drawn = low + jnp.floor(self.uniform(shape) * (high - low)).astype(jnp.int32)
        return jnp.minimum(drawn, high - 1)

    def log_uniform(self, low: float, high: float, shape: tuple[int, ...] = ()) -> Array:
        """Uniform in the logarithm between low and high."""
        return jnp.exp(self.uniform(shape, math.log(low), math.log(high)))

    def log_normal(self, median: float, deviation: float | Array, shape: tuple[int, ...] = ()) -> Array:
        """exp(N(log median, deviation^2))."""
        return median * jnp.exp(deviation * self.normal(shape))

    def choice(self, weights: Float[Array, " option"] | list[float], shape: tuple[int, ...] = ()) -> Array:
        """Index of an option, with probability proportional to its weight, int32."""
        climbed = jnp.cumsum(jnp.asarray(weights, jnp.float32))
        drawn = self.uniform((*shape, 1)) * climbed[-1]
        below = drawn >= climbed.reshape((1,) * len(shape) + (-1,))
        # Rounding may put a draw at the very end: never choose an option beyond the last of positive weight.
        last = jnp.sum(climbed < climbed[-1])
        return jnp.minimum(below.sum(-1), last).astype(jnp.int32)
