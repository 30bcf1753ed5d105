"""The width of numbers: 32 bits, whatever the program has set; and products of float32 factors rounded to bfloat16.

The width is ours, not the program's: Vizier's service switches the whole process to 64 bits.
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
    """Runs with `jax_enable_x64` off, whatever the program has set, in the calling thread only.

    With it on, random numbers are drawn at another width and differ, and so would weights, suggestions and losses.
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
    """Whether `rounded_product` is faster than a product in float32 on the CPU that programs run on.

    False on other devices, and where the flags of the processor cannot be read.

    Args:
      processor: the file in which Linux lists them.
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
    """x @ kernel of float32 factors that are rounded to bfloat16, summed up in float32.

    So are the two products of its gradient.  Processors with bfloat16 units take these several times faster.
    """
    return _rounded_forward(x, kernel)[0]


def _rounded_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return jax.lax.dot(x, kernel, preferred_element_type=jnp.float32), (x, kernel)


def _rounded_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    gradient = gradient.astype(jnp.bfloat16)
    of_x = jax.lax.dot_general(gradient, kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    # Laid out anew in memory: XLA's fast product on CPUs takes no transposed left factor.
    turned = with_layout_constraint(x.T, Layout(major_to_minor=(0, 1)))
    return of_x, jax.lax.dot(turned, gradient, preferred_element_type=jnp.float32)


rounded_product.defvjp(_rounded_forward, _rounded_backward)
