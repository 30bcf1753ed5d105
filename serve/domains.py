"""Parameters of other libraries' search spaces: their declaration for the model, and the conversion of values.

A value has three forms:
  the user's     as the user writes it.
  the domain's   an int, a float on its step, or the object of a choice itself (`own`).
  the model's    a number or a label, which JSON can store (`to_model`).
"""

import abc
import bisect
import dataclasses
import functools
import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from vizier import pyvizier as vz

from optformer.inference.beliefs import Belief
from optformer.inference.constraints import Constraint, LinearConstraint

MOST_VALUES: Final = 1000
"""Largest number of values that the model distinguishes; larger domains are searched as ranges and rounded."""

TOLERANCE: Final = 1e-9
"""Relative tolerance for values that were converted to text or divided."""

_MOST_STEPS: Final = 2.0**1000
"""A quotient beyond this may overflow."""

_Value = TypeVar("_Value")

ModelValue: TypeAlias = str | int | float


class Domain(abc.ABC):
    """One parameter."""

    @property
    def transformed(self) -> bool:
        """Whether the model's numbers differ from the user's."""
        return False

    @abc.abstractmethod
    def declared(self, name: str) -> vz.ParameterConfig:
        """The parameter of a search space."""

    @abc.abstractmethod
    def own(self, value: object) -> object:
        """The domain's own value that equals this one.

        Raises:
          ValueError: there is none; the message does not name the parameter, which the caller adds.
        """

    @abc.abstractmethod
    def to_model(self, own: Any) -> ModelValue:
        """The model's value for one of the domain's own."""

    @abc.abstractmethod
    def from_model(self, value: Any) -> object:
        """The domain's own value for one of the model's."""


@dataclasses.dataclass(frozen=True)
class Continuous(Domain):
    """Floats in [low, high].

    Attributes:
      mirrored: logarithmic in 1 - x, as for momentum close to 1: the model gets 1 - x.
    """

    low: float
    high: float
    log: bool = False
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"[{self.low!r}, {self.high!r}] is not a range of finite numbers")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs positive bounds, not [{self.low!r}, {self.high!r}]")
        if self.mirrored and self.high >= 1:
            raise ValueError(f"a reversed logarithmic range stays below 1, not [{self.low!r}, {self.high!r}]")

    @property
    def transformed(self) -> bool:
        return self.mirrored

    def declared(self, name: str) -> vz.ParameterConfig:
        low, high = (1.0 - self.high, 1.0 - self.low) if self.mirrored else (self.low, self.high)
        return float_range(name, low, high, _scale(self.log or self.mirrored))

    def own(self, value: object) -> float:
        number = _finite(value)
        slack = TOLERANCE * max(abs(self.low), abs(self.high))
        if not self.low - slack <= number <= self.high + slack:
            raise ValueError(f"{value!r} is outside [{self.low!r}, {self.high!r}]")
        return self._clipped(number)

    def to_model(self, own: Any) -> float:
        return 1.0 - own if self.mirrored else own

    def from_model(self, value: Any) -> float:
        return self._clipped(1.0 - value if self.mirrored else float(value))

    def _clipped(self, number: float) -> float:
        return min(max(float(number), self.low), self.high)


@dataclasses.dataclass(frozen=True)
class Steps(Domain):
    """The values `origin + k * step` in [low, high]; integers where `integral`."""

    low: float
    high: float
    step: float
    log: bool = False
    integral: bool = False
    origin: float = 0

    def __post_init__(self) -> None:
        if not (self.step > 0 and math.isfinite(self.step)):
            raise ValueError(f"the step must be positive, not {self.step!r}")
        if not self.integral and not self._divides():
            raise ValueError(f"[{self.low!r}, {self.high!r}] cannot be divided into steps of {self.step!r} in floats")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self._first <= self._last):
            raise ValueError(f"no {self._what} lies in [{self.low!r}, {self.high!r}]")
        if self.log and self._at(self._first) <= 0:
            raise ValueError(f"a logarithmic range needs positive values, not [{self.low!r}, {self.high!r}]")

    def _divides(self) -> bool:
        """Whether floats can distinguish and count the values; bounds that are not finite are not checked."""
        ends = [end for end in (self.low, self.high) if math.isfinite(end)]
        counts = all(abs(end / 2 - self.origin / 2) <= self.step / 2 * _MOST_STEPS for end in ends)
        return counts and self.step >= sys.float_info.min and all(self.step >= math.ulp(end) for end in ends)

    @property
    def _what(self) -> str:
        if self.integral and self.step == 1:
            return "integer"
        return f"multiple of {self.step!r}" + (f" from {self.origin!r} on" if self.origin else "")

    @functools.cached_property
    def _first(self) -> int:
        return self._index(self.low, math.ceil)

    @functools.cached_property
    def _last(self) -> int:
        return self._index(self.high, math.floor)

    @property
    def count(self) -> int:
        """Number of values."""
        return self._last - self._first + 1

    def values(self) -> list[float]:
        """All values, ascending."""
        return [self._at(index) for index in range(self._first, self._last + 1)]

    def _index(self, bound: float, rounded: Callable[[float], int]) -> int:
        if self.integral:
            # With integers: a quotient of floats would lose the last digits of large numbers.
            distance, step = int(bound) - int(self.origin), int(self.step)
            return -(-distance // step) if rounded is math.ceil else distance // step
        # Halved: the distance of two huge bounds would overflow.
        quotient = (bound / 2 - self.origin / 2) / (self.step / 2)
        nearest = round(quotient)
        return nearest if math.isclose(quotient, nearest, rel_tol=TOLERANCE) else rounded(quotient)

    def _at(self, index: int) -> float:
        if self.integral:
            return int(self.origin) + index * int(self.step)
        # A product may leave the bounds by its rounding: 3 * 0.1 > 0.3.
        return float(min(max(self.origin + index * self.step, self.low), self.high))

    def declared(self, name: str) -> vz.ParameterConfig:
        low, high = self._at(self._first), self._at(self._last)
        if self.count <= MOST_VALUES and not (self.integral and self.step == 1):
            return certain_numbers(name, self.values(), _discrete_scale(self.log))
        return (integer_range if self.integral else float_range)(name, low, high, _scale(self.log))

    def own(self, value: object) -> float:
        number = _finite(value)
        index = self._nearest(number)
        off = abs(self.origin + index * self.step - number) > TOLERANCE * max(abs(number), self.step)
        if off or not self._first <= index <= self._last:
            raise ValueError(f"{value!r} is no {self._what} in [{self._at(self._first)!r}, {self._at(self._last)!r}]")
        return self._at(index)

    def to_model(self, own: Any) -> float:
        return own

    def from_model(self, value: Any) -> float:
        return self._at(min(max(self._nearest(value), self._first), self._last))

    def _nearest(self, value: float) -> int:
        if isinstance(value, int) and self.integral:
            step = int(self.step)
            return (2 * (value - int(self.origin)) + step) // (2 * step)
        return round((value / 2 - self.origin / 2) / (self.step / 2))


@dataclasses.dataclass(frozen=True)
class Numbers(Domain):
    """A list of numbers, ascending."""

    values: tuple[float, ...]
    log: bool = False

    def __post_init__(self) -> None:
        if not self.values or any(a >= b for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError(f"values must be ascending numbers, not {_abbreviated(self.values)}")
        if self.log and self.values[0] <= 0:
            raise ValueError(f"a logarithmic range needs positive values, not {_abbreviated(self.values)}")

    def declared(self, name: str) -> vz.ParameterConfig:
        if len(self.values) <= MOST_VALUES:
            return certain_numbers(name, self.values, _discrete_scale(self.log))
        return float_range(name, self.values[0], self.values[-1], _scale(self.log))

    def own(self, value: object) -> float:
        number = _finite(value)
        nearest = self.values[0] if self.log and number <= 0 else self.from_model(number)
        if not math.isclose(nearest, number, rel_tol=TOLERANCE):
            raise ValueError(f"{value!r} is none of {_abbreviated(self.values)}")
        return nearest

    def to_model(self, own: Any) -> float:
        return own

    def from_model(self, value: Any) -> float:
        upper = min(bisect.bisect_left(self.values, value), len(self.values) - 1)
        neighbours = self.values[max(upper - 1, 0) : upper + 1]
        # The nearest on the domain's scale, which may be logarithmic.
        place = math.log if self.log else float
        return min(neighbours, key=lambda each: abs(place(each) - place(value)))


@dataclasses.dataclass(frozen=True, eq=False)
class Choices(Domain):
    """Any objects; the model gets their labels, or their positions if they are `ordered`.

    Equal objects (1, 1.0 and True) are one choice, the first of them.
    """

    values: tuple[object, ...]
    ordered: bool = False

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("the list of choices is empty")
        object.__setattr__(self, "values", tuple(unequal(self.values)))
        if len(self.values) > MOST_VALUES:
            raise ValueError(f"{len(self.values)} choices; the model supports at most {MOST_VALUES}")

    @functools.cached_property
    def labels(self) -> list[str]:
        """One distinct string per choice, the same in every process."""
        printed = [_printed(value) for value in self.values]
        if len(set(printed)) == len(printed) and all(printed):
            return printed
        # Some labels are equal, as of 1 and "1".  All labels change, so that none depends on which others are equal.
        represented = [repr(value) for value in self.values]
        if len(set(represented)) == len(represented) and not any(map(_has_address, represented)):
            return represented
        return [f"{number}: {label}" for number, label in enumerate(printed)]

    @property
    def transformed(self) -> bool:
        return self.ordered

    def declared(self, name: str) -> vz.ParameterConfig:
        if self.ordered:
            return integer_range(name, 0, len(self.values) - 1, vz.ScaleType.LINEAR)
        return vz.ParameterConfig.factory(name, feasible_values=sorted(self.labels))

    def own(self, value: object) -> object:
        return self.values[self._position(value)]

    def to_model(self, own: object) -> ModelValue:
        position = self._position(own)
        return position if self.ordered else self.labels[position]

    def from_model(self, value: Any) -> object:
        return self.values[int(value) if self.ordered else self.labels.index(value)]

    def _position(self, value: object) -> int:
        # First the identical object, then an equal one of the same type (1 is not True), then any equal one.
        tests = (
            lambda choice: choice is value,
            lambda choice: type(choice) is type(value) and _equal(choice, value),
            lambda choice: _equal(choice, value),
        )
        for test in tests:
            for position, choice in enumerate(self.values):
                if test(choice):
                    return position
        raise ValueError(f"{value!r} is none of {_abbreviated(self.values)}")


def search_space(domains: Mapping[str, Domain]) -> vz.SearchSpace:
    """The space with a parameter per domain, in order."""
    space = vz.SearchSpace()
    for name, domain in domains.items():
        space.add(domain.declared(name))
    return space


# Not by `space.root.add_float_param` and the like: they log through absl, which gives the program's root logger a
# handler.  From then on, a program that has a handler of its own would print its messages twice.


def float_range(name: str, low: float, high: float, scale: vz.ScaleType | None) -> vz.ParameterConfig:
    """A parameter of floats."""
    return vz.ParameterConfig.factory(name, bounds=(float(low), float(high)), scale_type=scale)


def integer_range(name: str, low: float, high: float, scale: vz.ScaleType | None) -> vz.ParameterConfig:
    """A parameter of integers."""
    return vz.ParameterConfig.factory(name, bounds=(int(low), int(high)), scale_type=scale)


def certain_numbers(name: str, values: Sequence[float], scale: vz.ScaleType) -> vz.ParameterConfig:
    """A parameter of these numbers; they are returned as integers if all are whole numbers."""
    external = vz.ExternalType.INTEGER if all(value == round(value) for value in values) else vz.ExternalType.FLOAT
    return vz.ParameterConfig.factory(name, feasible_values=sorted(values), scale_type=scale, external_type=external)


def own_values(
    domains: Mapping[str, Domain], values: Mapping[str, object], which: str, partial: bool = False
) -> dict[str, object]:
    """The domains' own values for the user's, in the order of the domains.

    Args:
      domains: domain of each parameter.
      values: the user's value of each parameter.
      which: the trial or point with these values, for messages.
      partial: whether some may be missing.

    Raises:
      ValueError: a parameter is missing or unknown, or its value is outside its domain; the message names it.
    """
    for name in values:
        if name not in domains:
            raise ValueError(f"{which}: the search space has no parameter {name!r}; it has {', '.join(domains)}")
    own = {}
    for name, domain in domains.items():
        if name not in values:
            if partial:
                continue
            raise ValueError(f"{which}: parameter {name!r} is missing")
        try:
            own[name] = domain.own(values[name])
        except ValueError as error:
            raise ValueError(f"{which}: parameter {name!r}: {error}") from error
    return own


def constraints_over(domains: Mapping[str, Domain], constraints: Sequence[Constraint]) -> list[Constraint]:
    """The constraints, for the values that the user gets, which may lie on finer steps than the model's levels."""
    if not constraints:
        return []

    def hold(parameters: Mapping[str, ModelValue]) -> bool:
        values: dict[str, Any] = {
            name: domain.from_model(parameters[name]) for name, domain in domains.items() if name in parameters
        }
        return all(constraint(values) for constraint in constraints)

    # Linear constraints are only kept if the model's numbers are the user's; the predicate covers the others.
    transformed = {name for name, domain in domains.items() if domain.transformed}
    linear = [each for each in constraints if isinstance(each, LinearConstraint)]
    return [*(each for each in linear if transformed.isdisjoint(each.coefficients)), hold]


def belief_over(domains: Mapping[str, Domain], belief: Mapping[str, Belief]) -> dict[str, Belief]:
    """The belief about the parameters of these domains, with the model's values instead of the user's.

    Raises:
      ValueError: a weight of a value outside the parameter's domain, or a density over a parameter whose numbers differ
        for the model (`transformed`); the message names the parameter.
    """
    converted: dict[str, Belief] = {}
    for name, each in belief.items():
        if name not in domains:
            continue
        domain = domains[name]
        if not isinstance(each, Mapping):
            if domain.transformed:
                raise ValueError(f"parameter {name!r}: the belief must give weights by value, not {each!r}")
            converted[name] = each
            continue
        try:
            converted[name] = {domain.to_model(domain.own(value)): weight for value, weight in each.items()}
        except ValueError as error:
            raise ValueError(f"parameter {name!r}: a belief: {error}") from error
    return converted


def unequal(values: Sequence[_Value]) -> list[_Value]:
    """The values without repetitions, in order; of equal ones the first."""
    found: list[_Value]
    try:
        found = list(dict.fromkeys(values))
    except TypeError:  # some cannot be hashed
        found = []
        for value in values:
            if not any(_equal(value, known) for known in found):
                found.append(value)
    nans = [value for value in found if _is_nan(value)]
    return [value for value in found if not _is_nan(value) or value is nans[0]]


def _scale(log: bool) -> vz.ScaleType:
    return vz.ScaleType.LOG if log else vz.ScaleType.LINEAR


def _discrete_scale(log: bool) -> vz.ScaleType:
    return vz.ScaleType.LOG if log else vz.ScaleType.UNIFORM_DISCRETE


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _equal(one: object, other: object) -> bool:
    try:
        return bool(one == other) or (_is_nan(one) and _is_nan(other))
    except (ValueError, TypeError):  # arrays compare element by element
        return False


def _is_nan(value: object) -> bool:
    return isinstance(value, numbers.Real) and math.isnan(value)


def _has_address(text: str) -> bool:
    return " at 0x" in text


def _printed(value: object) -> str:
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    # An address differs between processes.
    return type(value).__name__ if _has_address(str(value)) else str(value)


def _abbreviated(values: tuple[object, ...]) -> str:
    return str(list(values)) if len(values) <= 12 else f"[{', '.join(map(repr, values[:9]))}, ..., {values[-1]!r}]"
