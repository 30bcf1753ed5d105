"""Search spaces and metrics as plain Python, for programs that do not use Vizier."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from vizier import pyvizier as vz

from optformer.inference.costs import checked_value
from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.domains import (
    Choices,
    Continuous,
    Domain,
    Numbers,
    Steps,
    certain_numbers,
    integer_range,
    unequal,
)

Space: TypeAlias = Mapping[str, Any]
"""name -> (low, high) of floats or of integers, (low, high, "log"), (low, high, step), or a list of choices of any kind
(numbers among themselves are ordered, and may also be a set); a single value is a constant."""


def domains(space: Space) -> dict[str, Domain]:
    """A domain per entry, in order.

    Raises:
      ValueError: an entry cannot be read; the message names the parameter.
      TypeError: the space is not a dictionary.
    """
    if not isinstance(space, Mapping):
        raise TypeError(
            f"a search space is a dictionary, such as {{'rate': (1e-5, 0.1, 'log')}}, not of type "
            f"{type(space).__name__}"
        )
    found: dict[str, Domain] = {}
    for name, values in space.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"parameter {name!r}: the name must be a string that is not empty")
        try:
            found[name] = _domain(_plain_values(values))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"parameter {name!r}: {error}") from error
    return found


def plain(value: Any) -> Any:
    """A NumPy number as a Python number; anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _plain_values(values: Any) -> Any:
    return type(values)(map(plain, values)) if type(values) in (list, tuple, set, frozenset) else plain(values)


def _domain(values: Any) -> Domain:
    match values:
        case list():
            return _choices(values)
        case set() | frozenset():
            if not all(map(_is_number, values)):
                raise ValueError(f"{values!r} is a set, whose order is not fixed; give a list")
            return _Values(tuple(sorted(unequal(list(values)))))
        case tuple() if any(isinstance(value, bool) for value in values):
            raise ValueError(f"{values!r} is not a range; for a boolean give [False, True]")
        case tuple((int() | float() as low, int() | float() as high, *rest)):
            return _range(values, low, high, rest)
        case int() | float() if _is_number(values):
            return _Values((values,))
        case str() | bool() | None:
            return Choices((values,))
        case _:
            raise ValueError(
                f"{values!r} is neither (low, high), (low, high, 'log'), (low, high, step), a list of choices, nor a "
                "constant"
            )


def _range(values: tuple[Any, ...], low: float, high: float, rest: list[Any]) -> Domain:
    if not (_is_number(low) and _is_number(high)):
        raise ValueError(f"{values!r} is not a range of finite numbers")
    if low > high:
        raise ValueError(f"{values!r} is reversed: {low!r} is more than {high!r}")
    integral = isinstance(low, int) and isinstance(high, int)
    match rest:
        case []:
            return _Integers(low, high, 1, integral=True) if integral else Continuous(float(low), float(high))
        case ["log"]:
            if integral:
                return Steps(low, high, 1, log=True, integral=True)
            return Continuous(float(low), float(high), log=True)
        case [int() | float() as step]:
            return Steps(low, high, step, integral=integral and isinstance(step, int), origin=low)
        case _:
            raise ValueError(f"{values!r} is neither (low, high), (low, high, 'log') nor (low, high, step)")


def _choices(values: list[Any]) -> Domain:
    if not values:
        raise ValueError("an empty list of choices")
    if not all(map(_is_number, values)):
        return Choices(tuple(values))
    ordered: list[float] = sorted(unequal(values))
    if len(ordered) == 2 and any(isinstance(value, float) for value in ordered):
        low, high = ordered
        raise ValueError(
            f"is the range ({low!r}, {high!r}) meant? {values!r} is a list, which holds choices; for a choice of these "
            f"two numbers give the set {{{low!r}, {high!r}}}"
        )
    return _Values(tuple(ordered))


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


class _Integers(Steps):
    """A range of integers without a declared scale.  The model takes the scale from the ratio of the bounds."""

    def declared(self, name: str) -> vz.ParameterConfig:
        return integer_range(name, self.low, self.high, None)


class _Values(Numbers):
    """A list of numbers without a declared scale."""

    def declared(self, name: str) -> vz.ParameterConfig:
        return certain_numbers(name, self.values, vz.ScaleType.LINEAR)


def problem_over(
    space: vz.SearchSpace,
    metric: str,
    title: str | None,
    goal: str,
    at_most: Mapping[str, float],
    at_least: Mapping[str, float],
) -> vz.ProblemStatement:
    """A problem with one objective, and constraints on outcomes.

    Args:
      space: the search space.
      metric: name of the objective.
      title: what is tuned; the model reads it.
      goal: `minimize` or `maximize`.
      at_most: metric -> upper limit of its value.
      at_least: metric -> lower limit of its value.

    Raises:
      ValueError: a metric has two limits, is the objective, or its limit is not a finite number; the message names it.
    """
    metrics = [vz.MetricInformation(metric, goal=vz.ObjectiveMetricGoal[goal.upper()])]
    for limits, side in (at_most, vz.ObjectiveMetricGoal.MINIMIZE), (at_least, vz.ObjectiveMetricGoal.MAXIMIZE):
        for name, limit in limits.items():
            if name in [each.name for each in metrics]:
                raise ValueError(f"metric {name!r} has a limit already, or is the objective, which cannot have one")
            limit = _number("the constraints on outcomes", name, limit)
            if not math.isfinite(limit):
                raise ValueError(f"the limit of metric {name!r} is {limit}; it must be a finite number")
            metrics.append(vz.MetricInformation(name, goal=side, safety_threshold=limit))
    problem = vz.ProblemStatement(space, metric_information=metrics)
    if title:
        problem.metadata.ns(METADATA_NAMESPACE)["title"] = title
    return problem


def measured_values(
    problem: vz.ProblemStatement, which: str, value: float | Mapping[str, float], cost: str | None = None
) -> dict[str, float]:
    """The values of all metrics of a trial, and its cost if it is given.

    Args:
      problem: the problem with these metrics.
      which: the trial, for messages.
      value: value of the only metric, or a dictionary of all metrics and the cost.
      cost: name of the cost.

    Raises:
      ValueError: a metric is missing, unknown or not finite, or the cost is not positive; begins with `which`.
    """
    metrics = [metric.name for metric in problem.metric_information]
    if isinstance(value, Mapping):
        values = {str(name): measured_number(which, name, number) for name, number in value.items()}
    elif len(metrics) == 1:
        values = {metrics[0]: measured_number(which, metrics[0], value)}
    else:
        raise ValueError(f"{which}: the value must be a dictionary of {', '.join(metrics)}")
    for name in metrics:
        if name not in values:
            raise ValueError(f"{which}: the metric {name!r} is missing")
    for name in values:
        if name not in metrics and name != cost:
            raise ValueError(f"{which}: the study has no metric {name!r}")
    if cost is not None and cost in values:
        checked_value(values[cost], cost, which)
    return values


def measured_number(which: str, metric: str, value: object) -> float:
    """The value of a metric.  Raises ValueError, which begins with `which`, where it is not a finite number."""
    number = _number(which, metric, value)
    if not math.isfinite(number):
        raise ValueError(f"{which}: {metric!r} is {number}, not a finite number; tell None for a trial that failed")
    return number


def _number(which: str, metric: str, value: object) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{which}: {metric!r} is {value!r}, not a number; tell None for a trial that failed") from None
