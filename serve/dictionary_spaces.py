"""Search spaces as plain dictionaries, for loops that know nothing of Vizier."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from vizier import pyvizier as vz

Space: TypeAlias = Mapping[str, Any]
"""name -> (low, high) of floats or of integers, (low, high, "log"), or a list of choices: strings and booleans, or
numbers, which are ordered; a single value is a constant."""


def search_space(space: Space) -> vz.SearchSpace:
    """The space with a parameter per entry, in order.

    Raises:
      ValueError: naming the parameter that cannot be read.
    """
    result = vz.SearchSpace()
    root = result.root
    for name, values in space.items():
        match values:
            case list():
                _add_choices(root, name, values)
            case (bool(), *_):
                raise ValueError(f"parameter {name!r}: {values!r} is no range; for a boolean give [False, True]")
            case (int() as low, int() as high):
                root.add_int_param(name, low, high)
            case (int() as low, int() as high, "log"):
                root.add_int_param(name, low, high, scale_type=vz.ScaleType.LOG)
            case (int() | float() as low, int() | float() as high):
                root.add_float_param(name, float(low), float(high))
            case (int() | float() as low, int() | float() as high, "log"):
                root.add_float_param(name, float(low), float(high), scale_type=vz.ScaleType.LOG)
            case str() | int() | float():
                _add_choices(root, name, [values])
            case _:
                raise ValueError(
                    f"parameter {name!r}: {values!r} is neither (low, high), (low, high, 'log'), a list of choices, "
                    "nor a constant"
                )
    return result


def _add_choices(root: vz.SearchSpaceSelector, name: str, choices: list[Any]) -> None:
    if not choices:
        raise ValueError(f"parameter {name!r}: an empty list of choices")
    if all(isinstance(choice, bool) for choice in choices):
        root.add_bool_param(name, list(choices))
    elif all(isinstance(choice, str) for choice in choices):
        root.add_categorical_param(name, list(choices))
    elif all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices):
        root.add_discrete_param(name, sorted(choices))
    else:
        raise ValueError(f"parameter {name!r}: choices are all strings, all booleans or all numbers, not {choices!r}")
