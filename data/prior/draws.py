"""Random numbers of one study, as slices of a few large blocks.

Each call of `jax.random` adds a copy of the threefry generator to the compiled program, and the prior makes hundreds of
draws: with a key for each, generators took four fifths of the compile time.  `Draws` is a cursor over blocks of
numbers.  It moves while the program is traced, so the compiled program has slices at fixed positions.

A block is written by a loop, because XLA does not fuse loops into their consumers.  A plain expression, with the
inverse error function for normal numbers, would be copied into every consumer.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

_BLOCK = 8192
"""Numbers per block, for uniform and for normal numbers."""
_PARTS = 2
"""Iterations of the loop that writes a block; XLA would unroll a loop of one."""


class _Block:
    """A block of numbers, and how many of them are used."""

    def __init__(self) -> None:
        self.numbers: Array = jnp.zeros((0,))
        self.used = 0

    def take(self, size: int) -> Array | None:
        """The next numbers; None if too few are left."""
        if self.used + size > self.numbers.shape[0]:
            return None
        self.used += size
        return self.numbers[self.used - size : self.used]


class Draws:
    """Random draws of one study, which depend only on its key.  Create one per traced function and pass it down."""

    def __init__(self, key: PRNGKeyArray, block: int = _BLOCK) -> None:
        """Starts the streams of a key; `block` is the number of numbers generated at a time."""
        self._key = key
        self._size = block
        self._blocks = 0
        self._uniform = _Block()
        self._normal = _Block()

    def uniform(self, shape: tuple[int, ...] = (), low: float | Array = 0.0, high: float | Array = 1.0) -> Array:
        """Uniform in [low, high)."""
        size = math.prod(shape)
        drawn = self._uniform.take(size)
        if drawn is None:
            drawn = self._refill(self._uniform, size, lambda uniform: uniform)
        return low + (high - low) * drawn.reshape(shape)

    def normal(self, shape: tuple[int, ...] = ()) -> Array:
        """Standard normal, by inversion; limited to 5.2 standard deviations."""
        size = math.prod(shape)
        drawn = self._normal.take(size)
        if drawn is None:
            drawn = self._refill(self._normal, size, _to_normal)
        return drawn.reshape(shape)

    def _refill(self, block: _Block, size: int, transform: Callable[[Array], Array]) -> Array:
        part = max(self._size, size + size % _PARTS) // _PARTS
        keys = jax.random.split(jax.random.fold_in(self._key, self._blocks), _PARTS)

        def write(index: Array, numbers: Array) -> Array:
            return jax.lax.dynamic_update_slice(
                numbers, transform(jax.random.uniform(keys[index], (part,))), (index * part,)
            )

        block.numbers = jax.lax.fori_loop(0, _PARTS, write, jnp.zeros((_PARTS * part,)))
        block.used = size
        self._blocks += 1
        return block.numbers[:size]

    def bernoulli(self, rate: float | Array, shape: tuple[int, ...] = ()) -> Array:
        """True with probability `rate`."""
        return self.uniform(shape) < rate

    def integer(self, low: int | Array, high: int | Array, shape: tuple[int, ...] = ()) -> Array:
        """Uniform over low ... high - 1, int32."""
        drawn = low + jnp.floor(self.uniform(shape) * (high - low)).astype(jnp.int32)
        return jnp.minimum(drawn, high - 1)

    def log_uniform(self, low: float, high: float, shape: tuple[int, ...] = ()) -> Array:
        """Log-uniform between low and high."""
        return jnp.exp(self.uniform(shape, math.log(low), math.log(high)))

    def log_normal(self, median: float, deviation: float | Array, shape: tuple[int, ...] = ()) -> Array:
        """exp(N(log median, deviation^2))."""
        return median * jnp.exp(deviation * self.normal(shape))

    def choice(self, weights: Float[Array, " option"] | list[float], shape: tuple[int, ...] = ()) -> Array:
        """Index of an option, with probability proportional to its weight, int32."""
        if isinstance(weights, list):
            ends = np.cumsum(np.asarray(weights, np.float32))
            drawn = self.uniform(shape) * ends[-1]
            # Rounding may move a draw to the end: never choose an option after the last one of positive weight.
            return sum((drawn >= end for end in ends[ends < ends[-1]]), jnp.zeros(shape, jnp.int32))
        climbed = jnp.cumsum(weights.astype(jnp.float32))
        drawn = self.uniform((*shape, 1)) * climbed[-1]
        below = drawn >= climbed.reshape((1,) * len(shape) + (-1,))
        return jnp.minimum(below.sum(-1), jnp.sum(climbed < climbed[-1])).astype(jnp.int32)


def _to_normal(uniform: Array) -> Array:
    return math.sqrt(2.0) * jax.lax.erf_inv((2.0 - 4e-7) * uniform - (1.0 - 2e-7))
