"""Converts values of one parameter to levels and back.

Notation: L levels, at most Q = 1000; z the position of a value in its scaled range; q = round(z (L - 1)).

  DOUBLE                           L = Q, evenly spaced after scaling
  INTEGER of at most Q values      by index (value - low), exactly, whatever the scale
  INTEGER of more values           L = Q, evenly spaced after scaling, rounded to integers
  DISCRETE, CATEGORICAL            by index among the feasible values

Scales, for bounds a < b (as in Vizier):
  LINEAR, UNIFORM_DISCRETE         z = (x - a) / (b - a)
  LOG                              z = log(x / a) / log(b / a)
  REVERSE_LOG                      z = 1 - log((a + b - x) / a) / log(b / a)
  LOG, REVERSE_LOG with b/a - 1 below 1e-9: as LINEAR, which is the same within the precision of floats

Both bounds are exactly levels.  The code of Chen et al. 2022 decodes the centres of Q equal cells, which can never
suggest a bound.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, TypeGuard

import numpy as np
from vizier import pyvizier as vz

from optformer.serialization import tokens

AUTO_LOG_RATIO: Final = 1e3
"""Ranges with a larger ratio of their bounds are logarithmic unless a scale is declared."""
TOLERANCE: Final = 1e-9
"""Values outside the bounds by less than this (relative) are clipped, since they come from rounding."""
_EXACT_FLOAT: Final = 2**53
_STRAIGHT: Final = 1e-9
"""Below this relative width of a range, its logarithm is linear and too coarse in floats."""

ParameterValue: TypeAlias = float | int | str
"""A value of the parameter's internal type."""


@dataclasses.dataclass(frozen=True)
class Quantizer(abc.ABC):
    """Levels of one parameter.

    Attributes:
      kind: `tokens.CONTINUOUS` ... `tokens.CATEGORICAL`.
      scale: the scale in effect; None for categorical parameters.
      values: the value of each level, of the internal type (float, int, float, str).
    """

    kind: int
    scale: vz.ScaleType | None
    values: tuple[ParameterValue, ...]

    @abc.abstractmethod
    def encode(self, column: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
        """Levels, int32 [T], and whether values are infeasible, bool [T]; both arbitrary where the column is None."""

    @abc.abstractmethod
    def complaint(self, value: object) -> str:
        """Why the value is not feasible."""

    def exact_level(self, value: object) -> int:
        """The level that represents only this value, for conditions on it.

        Raises:
          ValueError: there is no such level; the message is the reason without the place.
        """
        levels, bad = self.encode([value])
        if bad[0]:
            raise ValueError(f"has children under {value!r}, but {self.complaint(value)}")
        return int(levels[0])


@dataclasses.dataclass(frozen=True)
class NumericQuantizer(Quantizer):
    """DOUBLE and INTEGER: bounds and a scale."""

    low: float
    high: float
    integral: bool

    @property
    def by_index(self) -> bool:
        """Whether each value has its own level."""
        return self.integral and len(self.values) == self.high - self.low + 1

    def exact_level(self, value: object) -> int:
        if not self.by_index:
            raise ValueError(
                f"has children, but more than {tokens.NUM_LEVELS} values, so that {value!r} has no token of its own; "
                "split it into a categorical parameter and a range"
            )
        return super().exact_level(value)

    def encode(self, column: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.low, self.high
        if self.by_index and max(abs(low), abs(high)) >= _EXACT_FLOAT:
            # Large neighbouring integers are equal in float64; their distances from the bound are not.
            column = [int(value) - int(low) if is_number(value) and math.isfinite(value) else value for value in column]
            low, high = 0, high - low
        x, wrong_type = _floats(column)
        if self.scale in _LOGARITHMIC:
            slack_low, slack_high = TOLERANCE * abs(low), TOLERANCE * abs(high)
        else:
            slack_low = slack_high = TOLERANCE * max(abs(low), abs(high))
        bad = wrong_type | ~((x >= low - slack_low) & (x <= high + slack_high))
        if self.integral:
            x = np.where(bad, low, x)
            bad |= np.abs(x - np.rint(x)) > TOLERANCE * np.maximum(np.abs(x), 1)
        x = np.clip(np.where(bad, low, x), low, high)
        if self.by_index:
            return np.rint(x - low).astype(np.int32), bad
        z = _to_unit(x, float(low), float(high), self.scale)
        return np.clip(np.rint(z * (len(self.values) - 1)), 0, len(self.values) - 1).astype(np.int32), bad

    def complaint(self, value: object) -> str:
        if not is_number(value):
            return f"{value!r} is not a number"
        if not math.isfinite(value):
            return f"{value!r} is not a finite number"
        if not self.low <= value <= self.high:
            return f"{value!r} is outside its bounds [{self.low!r}, {self.high!r}]"
        return f"{value!r} is not an integer"


@dataclasses.dataclass(frozen=True)
class DiscreteQuantizer(Quantizer):
    """DISCRETE: ascending feasible numbers."""

    def encode(self, column: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
        x, wrong_type = _floats(column)
        feasible = np.asarray(self.values, float)
        upper = np.clip(np.searchsorted(feasible, x), 1, len(feasible) - 1)
        nearest = np.where(x - feasible[upper - 1] <= feasible[upper] - x, upper - 1, upper)
        bad = wrong_type | ~(np.abs(x - feasible[nearest]) <= TOLERANCE * np.abs(feasible[nearest]))
        return nearest.astype(np.int32), bad

    def complaint(self, value: object) -> str:
        return f"{value!r} is none of its {len(self.values)} feasible values {_abbreviated(self.values)}"


@dataclasses.dataclass(frozen=True)
class CategoricalQuantizer(Quantizer):
    """CATEGORICAL: strings; booleans also as Python bools, or as numbers, to which Vizier's service converts them."""

    level_of: Mapping[object, int]

    def encode(self, column: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
        levels = np.array([self._level(value) for value in column], np.int32).reshape(len(column))
        return np.maximum(levels, 0), levels < 0

    def _level(self, value: object) -> int:
        try:
            return self.level_of.get(value, -1)
        except TypeError:  # unhashable
            return -1

    def complaint(self, value: object) -> str:
        return f"{value!r} is none of its {len(self.values)} categories {_abbreviated(self.values)}"


def quantizer(config: vz.ParameterConfig, auto_log: bool = True) -> Quantizer:
    """The quantizer of a parameter with at least two feasible values.

    Args:
      config: the parameter, of any type except CUSTOM.
      auto_log: whether positive ranges of at least three decades without a declared scale count as LOG.

    Raises:
      ValueError: more than Q discrete values or categories; LOG or REVERSE_LOG over bounds that are not positive.  The
        message is the reason without the place, which the caller adds.
    """
    if config.type in (vz.ParameterType.DISCRETE, vz.ParameterType.CATEGORICAL):
        feasible = config.feasible_values
        if len(feasible) > tokens.NUM_LEVELS:
            what = "categories" if config.type == vz.ParameterType.CATEGORICAL else "discrete values"
            raise ValueError(
                f"{len(feasible)} {what}, but each needs a token of its own and there are "
                f"{tokens.NUM_LEVELS}; use a numeric range, or split the parameter"
            )
        if config.type == vz.ParameterType.DISCRETE:
            scale = config.scale_type or vz.ScaleType.LINEAR
            return DiscreteQuantizer(tokens.DISCRETE, scale, tuple(float(value) for value in feasible))
        return CategoricalQuantizer(
            tokens.CATEGORICAL, None, tuple(feasible), category_levels(feasible, config.external_type)
        )

    low, high = config.bounds
    integral = config.type == vz.ParameterType.INTEGER
    by_index = integral and high - low + 1 <= tokens.NUM_LEVELS
    declared = config.scale_type
    undeclared = declared is None or (declared == vz.ScaleType.LINEAR and not integral)
    scale = declared or vz.ScaleType.LINEAR
    if auto_log and undeclared and not by_index and low > 0 and high / low >= AUTO_LOG_RATIO * (1 - TOLERANCE):
        scale = vz.ScaleType.LOG
    if scale in _LOGARITHMIC and low <= 0 and not by_index:
        raise ValueError(
            f"scale {scale.name} needs positive bounds, got [{low!r}, {high!r}]; raise the lower bound or use LINEAR"
        )
    kind = tokens.INTEGER if integral else tokens.CONTINUOUS
    if by_index:
        return NumericQuantizer(kind, scale, tuple(range(low, high + 1)), low, high, integral)
    z = np.arange(tokens.NUM_LEVELS) / (tokens.NUM_LEVELS - 1)
    inner = np.clip(_from_unit(z, float(low), float(high), scale), low, high).tolist()[1:-1]
    if integral:
        values: tuple[ParameterValue, ...] = (low, *(min(max(round(value), low), high) for value in inner), high)
    else:
        values = (float(low), *inner, float(high))
    return NumericQuantizer(kind, scale, values, low, high, integral)


def category_levels(feasible: Sequence[str], external_type: vz.ExternalType) -> dict[object, int]:
    """Value -> level; for a boolean parameter, Python bools and 0 and 1 are also keys."""
    levels: dict[object, int] = {value: level for level, value in enumerate(feasible)}
    for name, value in (("True", True), ("False", False)):
        # True and 1 are the same key, so numbers are accepted only if the parameter is declared boolean.
        if name in levels and external_type == vz.ExternalType.BOOLEAN:
            levels[value] = levels[name]
    return levels


_LOGARITHMIC: Final = (vz.ScaleType.LOG, vz.ScaleType.REVERSE_LOG)


def _is_curved(low: float, high: float, scale: vz.ScaleType | None) -> bool:
    return scale in _LOGARITHMIC and high - low > _STRAIGHT * low


def _to_unit(x: np.ndarray, low: float, high: float, scale: vz.ScaleType | None) -> np.ndarray:
    if _is_curved(low, high, scale):
        if scale == vz.ScaleType.LOG:
            return (np.log(x) - math.log(low)) / (math.log(high) - math.log(low))
        return 1 - (np.log(high - x + low) - math.log(low)) / (math.log(high) - math.log(low))
    if math.isfinite(high - low):
        return (x - low) / (high - low)
    # Halves, so that the range of two huge bounds of opposite sign stays finite.
    return (0.5 * x - 0.5 * low) / (0.5 * high - 0.5 * low)


def _from_unit(z: np.ndarray, low: float, high: float, scale: vz.ScaleType | None) -> np.ndarray:
    if _is_curved(low, high, scale):
        if scale == vz.ScaleType.LOG:
            return np.exp((1 - z) * math.log(low) + z * math.log(high))
        return high - (np.exp(z * math.log(low) + (1 - z) * math.log(high)) - low)
    return low * (1 - z) + high * z


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, of Python's or numpy's scalar types."""
    return isinstance(value, (int, float, np.integer, np.floating, np.bool_))


def _floats(column: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
    """The column as float64, with NaN for values that are not numbers (None included), and which values those are."""
    numeric = {float, int, bool, type(None)}
    if not set(map(type, column)) <= numeric:
        wrong = np.array([value is not None and not is_number(value) for value in column], bool)
        column = [None if bad else value for value, bad in zip(column, wrong, strict=True)]
    else:
        wrong = np.zeros(len(column), bool)
    return np.array(column, dtype=float).reshape(len(column)), wrong


def _abbreviated(values: Sequence[object]) -> str:
    return str(list(values)) if len(values) <= 12 else f"{list(values[:10])[:-1]}"[:-1] + f", ..., {values[-1]!r}]"
