"""Optuna's constraints on outcomes as Vizier's safety metrics.

Optuna stores their values in the system attributes of a trial.  A constraint is satisfied if its value is at most 0.
"""

import math
import reprlib
from collections.abc import Mapping
from typing import Any, Final

from vizier import pyvizier as vz

CONSTRAINTS: Final = "constraints"
"""System attribute with the values of `constraints_func`; followed by a colon and a name, with one value of
`Trial.set_constraint`.  Optuna and its dashboard read these attributes."""


def constraint_values(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Name -> value of each constraint; those of `constraints_func` are numbered from 0.

    Args:
      attributes: system attributes of a trial.

    Raises:
      ValueError: the values are not a list, or one is NaN or not a number; the message is the reason without the place.
    """
    numbered = attributes.get(CONSTRAINTS)  # None: `constraints_func` has raised an exception
    if not isinstance(numbered, list | tuple | None):
        raise ValueError(f"constraints are not a list: {reprlib.repr(numbered)}")
    values = {str(number): value for number, value in enumerate(numbered or ())}
    prefix = f"{CONSTRAINTS}:"
    values |= {key.removeprefix(prefix): value for key, value in attributes.items() if key.startswith(prefix)}
    return {name: _number(name, value) for name, value in values.items()}


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"constraint is not a number: {name!r} is {reprlib.repr(value)}")
    return number


def constraint_metric(name: str) -> str:
    """Name of the metric of a constraint, which no objective should have."""
    return f"constraint {name}"


def safety_metric(name: str) -> vz.MetricInformation:
    """The safety metric of a constraint, with the threshold 0."""
    return vz.MetricInformation(constraint_metric(name), goal=vz.ObjectiveMetricGoal.MINIMIZE, safety_threshold=0.0)
