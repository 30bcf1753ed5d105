"""The width of numbers is ours, not the program's: Vizier's service switches the whole process to 64 bits."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

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
