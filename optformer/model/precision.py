"""Numeric precision: 32-bit mode for this package's jax code, and float32 products with factors rounded to bfloat16.

The mode must not depend on the calling program, because Vizier's service switches the whole process to 64 bits.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

_P = ParamSpec("_P")
_T = TypeVar("_T")


def single_precision(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorator: runs with `jax_enable_x64` off, in the calling thread only.

    In 64-bit mode, random numbers differ, and so would weights, suggestions and losses.
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return wrapped


FAST_BFLOAT16: Final = frozenset({"amx_bf16", "avx512_bf16"})
"""Flags of processors that multiply bfloat16 matrices faster than float32 ones.

Figures: docs/decisions/0059-bfloat16-products.md."""


def has_fast_bfloat16(processor: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether `rounded_product` is faster than a float32 product on the default device.

    False on devices other than CPUs, and if the flags of the processor cannot be read.

    Args:
      processor: the file in which Linux lists the flags.
    """
    if jax.default_backend() != "cpu":
        return False
    try:
        lines = processor.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(not FAST_BFLOAT16.isdisjoint(line.split()) for line in lines if line.startswith("flags"))


@jax.custom_vjp
def rounded_product(x: Float[Array, "row input"], kernel: Float[Array, "input output"]) -> Float[Array, "row output"]:
    """x @ kernel with float32 factors rounded to bfloat16 and summed in float32.

    The two products of the gradient are rounded in the same way.  Processors with bfloat16 units compute these several
    times faster.
    """
    return _rounded_forward(x, kernel)[0]


def _rounded_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return jax.lax.dot(x, kernel, preferred_element_type=jnp.float32), (x, kernel)


def _rounded_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    gradient = gradient.astype(jnp.bfloat16)
    of_x = jax.lax.dot_general(gradient, kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    # Copied to a new memory layout: XLA's fast product on CPUs does not accept a transposed left factor.
    turned = with_layout_constraint(x.T, Layout(major_to_minor=(0, 1)))
    return of_x, jax.lax.dot(turned, gradient, preferred_element_type=jnp.float32)


rounded_product.defvjp(_rounded_forward, _rounded_backward)
