"""Optuna's distributions as pyvizier parameters.

Does not use Optuna, because its classes change between versions, but stored data do not.  Optuna's spaces are defined
by run, so a parameter's distribution may differ between trials: ranges, grids and categories are united.
"""

import bisect
import collections
import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

from vizier import pyvizier as vz

from optformer.data.sources.records import UnusableError

MAX_GRID = 1000
"""A stepped range with more values than this becomes a plain range: the serialization has 1000 levels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Distribution:
    """One Optuna distribution.  Compared by identity: readers parse equal texts once per study.

    Attributes:
      kind: "float", "int" or "categorical".
      low, high: inclusive bounds of the numeric kinds.
      step: spacing of the grid that starts at `low`, or None for all values (for int: step 1).
      choices: JSON values of the categorical kind.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    def index(self, choice: object) -> int:
        """Position of a choice, where 1, 1.0, True and "1" are four different choices."""
        keys = [choice_key(known) for known in self.choices]
        try:
            return keys.index(choice_key(choice))
        except ValueError:
            raise UnusableError(f"category not in the space: {choice!r}") from None


def choice_key(choice: object) -> str:
    """Identity of a categorical choice; in Python, 1, 1.0 and True are equal."""
    return json.dumps(choice, sort_keys=True)


def parse_distribution(text: str) -> Distribution:
    """A distribution from the JSON that Optuna stores, of any version since 0.9.

    Raises:
      UnusableError: the text is not such JSON, the distribution is unknown, or its range is empty or not finite.
    """
    try:
        record = json.loads(text)
        name, fields = record["name"], record["attributes"]
        if name == "CategoricalDistribution":
            return checked(Distribution("categorical", choices=tuple(fields["choices"])))
        kind = {
            "FloatDistribution": "float",
            "UniformDistribution": "float",
            "LogUniformDistribution": "float",
            "DiscreteUniformDistribution": "float",
            "IntDistribution": "int",
            "IntUniformDistribution": "int",
            "IntLogUniformDistribution": "int",
        }[name]
        log = bool(fields.get("log", name in ("LogUniformDistribution", "IntLogUniformDistribution")))
        step = fields.get("step", fields.get("q"))
        return checked(Distribution(kind, fields["low"], fields["high"], log, step))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UnusableError):
            raise
        raise UnusableError(f"unknown distribution: {str(text)[:200]}") from error


def checked(distribution: Distribution) -> Distribution:
    """The distribution with plain types; raises UnusableError if its range is invalid."""
    if distribution.kind == "categorical":
        if not distribution.choices:
            raise UnusableError("impossible distribution: no choices")
        return distribution
    convert = int if distribution.kind == "int" else float
    low, high = float(distribution.low), float(distribution.high)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UnusableError(f"impossible distribution: range [{low}, {high}]")
    if distribution.log and low <= 0:
        raise UnusableError(f"impossible distribution: logarithmic range [{low}, {high}]")
    step = distribution.step
    if step is not None and (not step > 0 or distribution.log or (distribution.kind == "int" and step == 1)):
        step = None
    return dataclasses.replace(distribution, low=convert(distribution.low), high=convert(distribution.high), step=step)


def grid(distribution: Distribution) -> list[float]:
    """The values low, low + step, ... of a stepped range; floats are rounded to remove noise in the last digits."""
    low, step = distribution.low, distribution.step
    assert step is not None
    count = math.floor((distribution.high - low) / step + 1e-8) + 1
    if distribution.kind == "int":
        return [low + k * int(step) for k in range(count)]
    values = []
    for k in range(count):
        exact = low + k * step
        short = float(f"{exact:.12g}")
        values.append(short if abs(short - exact) <= 1e-6 * step else exact)
    return values


class Parameter:
    """One parameter of a study: its pyvizier config, and the conversion of internal values of each distribution."""

    def __init__(self, name: str, uses: collections.Counter[Distribution]):
        """`uses` counts the trials under each distribution, in order of first appearance."""
        if not name:
            raise UnusableError("parameter without a name", name)
        categorical = sum(count for d, count in uses.items() if d.kind == "categorical")
        first = next(iter(uses)).kind == "categorical"
        numeric = uses.total() - categorical
        self.name = name
        self.is_categorical = categorical > numeric or (categorical == numeric and first)
        self.distributions = [d for d in uses if (d.kind == "categorical") == self.is_categorical]
        self.feasible: list[float] = []
        self._low, self._high, self._whole = (
            math.inf,
            -math.inf,
            False,
        )  # bounds of a plain range; empty for other kinds
        if self.is_categorical:
            self.config = self._categorical()
        else:
            self.config = self._numeric(uses)

    def _categorical(self) -> vz.ParameterConfig:
        union: dict[str, Any] = {}
        for distribution in self.distributions:
            union |= {choice_key(choice): choice for choice in distribution.choices if choice_key(choice) not in union}
        labels = [choice if isinstance(choice, str) else str(choice) for choice in union.values()]
        if len(set(labels)) < len(labels):
            # Collisions such as 1 and "1".  All labels change, so that a label does not depend on which ones collide.
            labels = [repr(choice) for choice in union.values()]
        self._label = dict(zip(union, labels, strict=True))
        # By index in each distribution, which is what the database stores.
        self._labels = {d: [self._label[choice_key(choice)] for choice in d.choices] for d in self.distributions}
        only_booleans = all(isinstance(choice, bool) for choice in union.values())
        external = vz.ExternalType.BOOLEAN if only_booleans else vz.ExternalType.INTERNAL
        return vz.ParameterConfig.factory(self.name, feasible_values=labels, external_type=external)

    def _numeric(self, uses: collections.Counter[Distribution]) -> vz.ParameterConfig:
        low, high = min(d.low for d in self.distributions), max(d.high for d in self.distributions)
        whole = all(d.kind == "int" for d in self.distributions)
        logarithmic = sum(uses[d] if d.log else -uses[d] for d in self.distributions) > 0 and low > 0
        if all(d.step is not None for d in self.distributions):
            size = sum((d.high - d.low) / d.step + 1 for d in self.distributions if d.step)
            if size <= MAX_GRID:
                self.feasible = _united([grid(d) for d in self.distributions])
                gaps = [b - a for a, b in itertools.pairwise(self.feasible)]
                self._tolerance = 1e-6 * min(gaps, default=max(1.0, abs(low)))
                return vz.ParameterConfig.factory(
                    self.name,
                    feasible_values=self.feasible,
                    scale_type=vz.ScaleType.UNIFORM_DISCRETE,
                    external_type=vz.ExternalType.INTEGER if whole else vz.ExternalType.FLOAT,
                )
        bounds = (int(low), int(high)) if whole else (float(low), float(high))
        scale = vz.ScaleType.LOG if logarithmic else vz.ScaleType.LINEAR
        (self._low, self._high), self._whole = bounds, whole
        return vz.ParameterConfig.factory(self.name, bounds=bounds, scale_type=scale)

    def value(self, internal: float | None, distribution: Distribution) -> str | int | float:
        """The pyvizier value of a stored internal value: a number, or for categories the index of the choice.

        Raises:
          UnusableError: the value is not in the united space, or its distribution has another kind than most.
        """
        if type(internal) is float and self._low <= internal <= self._high and distribution.kind != "categorical":
            # Fast path, equivalent to the checks below.
            if not self._whole:
                return internal
            if internal.is_integer():
                return int(internal)
        # SQLite allows text in a numeric column.
        if not isinstance(internal, (int, float)) or not math.isfinite(internal):
            raise UnusableError(f"value is not a number: {internal}", self.name)
        if (distribution.kind == "categorical") != self.is_categorical:
            most = "categorical" if self.is_categorical else "numeric"
            reason = f"kind of parameter differs from most trials: {distribution.kind}, mostly {most}"
            raise UnusableError(reason, self.name)
        if self.is_categorical:
            labels = self._labels[distribution]
            if not (0 <= internal < len(labels) and internal == int(internal)):
                raise UnusableError(f"category not in the space: index {internal} of {len(labels)} choices", self.name)
            return labels[int(internal)]
        if self.feasible:
            return self._nearest_feasible(internal)
        low, high = self._low, self._high
        if not low <= internal <= high:
            # Because of rounding, samples on a log scale may exceed a bound in the last digits.
            tolerance = 1e-9 * max(abs(low), abs(high))
            if not low - tolerance <= internal <= high + tolerance:
                raise UnusableError(f"value outside its range: {internal} is not in [{low}, {high}]", self.name)
        if self._whole:
            if abs(internal - round(internal)) > 1e-6:
                raise UnusableError(f"value outside its range: {internal} is not an integer", self.name)
            return min(max(round(internal), low), high)
        return min(max(float(internal), low), high)

    def external(self, choice: object) -> str | int | float:
        """The pyvizier value of an external value, as seen by the user's code; raises UnusableError as `value` does."""
        if self.is_categorical:
            try:
                return self._label[choice_key(choice)]
            except (KeyError, TypeError):
                raise UnusableError(f"category not in the space: {choice!r}", self.name) from None
        if isinstance(choice, bool) or not isinstance(choice, int | float):
            raise UnusableError(f"value is not a number: {choice!r}", self.name)
        return self.value(choice, self.distributions[0])

    def _nearest_feasible(self, internal: float) -> float:
        values = self.feasible
        position = bisect.bisect_left(values, internal)
        if position < len(values) and values[position] == internal:
            return values[position]
        nearest = min(values[max(position - 1, 0) : position + 1], key=lambda value: abs(value - internal))
        if abs(nearest - internal) > self._tolerance:
            reason = f"value outside its range: {internal} is not on the grid {values[0]} ... {values[-1]}"
            raise UnusableError(reason, self.name)
        return nearest


def _united(grids: Sequence[Sequence[float]]) -> list[float]:
    """Sorted union of grids; values that only differ by rounding are merged."""
    spacing = min((b - a for values in grids for a, b in itertools.pairwise(values)), default=0.0)
    united: list[float] = []
    for value in sorted({value for values in grids for value in values}):
        if not united or value - united[-1] > 1e-6 * spacing:
            united.append(value)
    return united
