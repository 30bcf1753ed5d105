"""What trials cost, such as seconds: predicted as a history of its own, and what the search makes of it.

An acquisition is divided by the predicted median cost to the power of alpha, which cools from 1 towards 0: cheap trials
first, what is best later (Lee et al. 2020, "Cost-aware Bayesian Optimization", which cools with a known budget).

The model is told the logarithm of the cost under the name of its metric.  Only trials that have come to their objective
count: one that failed or was stopped early cost something else than a whole one.

Notation: N candidates, D slots, n finished trials.
"""

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float
from vizier import pyvizier as vz

from optformer.serialization.space import METADATA_NAMESPACE, OBSERVED
from optformer.serialization.study import EncodedStudy

if TYPE_CHECKING:
    from optformer.inference.candidates import Tokens
    from optformer.inference.search import Search

METADATA_KEY: Final = "cost"
"""In the namespace `optformer` of a problem's metadata: the name of the cost, for studies that travel."""

ACQUISITIONS: Final = ("ei", "pi")
"""That can be divided by a cost: the others may be negative, or compare nothing."""

FEWEST: Final = 3
"""Known costs, below which candidates are not compared by them."""

_COOLING: Final = 20.0
"""Finished trials after which the cost counts half."""


def attach(problem: vz.ProblemStatement, cost: str) -> None:
    """Writes the name of the cost into the problem's metadata, where every backend finds it."""
    problem.metadata.ns(METADATA_NAMESPACE)[METADATA_KEY] = cost


def attached(problem: vz.ProblemStatement) -> str | None:
    """The name of the cost in the problem's metadata."""
    name = problem.metadata.ns(METADATA_NAMESPACE).get(METADATA_KEY)
    return None if name is None else str(name)


def alpha(finished: int) -> float:
    """The power of the cost after so many finished trials: 1, 1/2 after 20, 1/3 after 40."""
    return 1.0 / (1.0 + finished / _COOLING)


def check_cost(cost: str | None, acquisition: str) -> str | None:
    """The name itself.

    Raises:
      ValueError: it is no name, or the acquisition cannot be divided by a cost.
    """
    if cost is None:
        return None
    if not isinstance(cost, str) or not cost:
        raise ValueError(f"cost is the name of a metric that trials report, not {cost!r}")
    if acquisition not in ACQUISITIONS:
        raise ValueError(f"a cost needs the acquisition {' or '.join(map(repr, ACQUISITIONS))}, not {acquisition!r}")
    return cost


def checked_value(value: Any, cost: str, where: str) -> float:
    """The cost of a trial.  Raises ValueError, which begins with `where`: not positive, not finite, or no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{where}: its cost {cost!r} is {value!r}; a cost is a positive, finite number")
    return number


def cost_study(study: EncodedStudy, cost: str) -> EncodedStudy | None:
    """The study's trials with the logarithm of their cost as the only metric; None where fewer than `FEWEST` are known.

    Raises:
      ValueError: a cost that is not positive or not finite (names study and trial).
    """
    trials = []
    for trial, status in zip(study.trials, study.statuses, strict=True):
        measured = trial.final_measurement.metrics if trial.final_measurement is not None else {}
        if cost not in measured:
            continue
        value = checked_value(measured[cost].value, cost, f"study {study.schema.study!r}, trial {trial.id}")
        if status == OBSERVED and trial.stopping_reason is None:
            told = vz.Trial(id=trial.id, parameters=trial.parameters)
            trials.append(told.complete(vz.Measurement(metrics={cost: math.log(value)})))
    if len(trials) < FEWEST:
        return None
    problem = study.schema.problem
    metric = vz.MetricInformation(cost, goal=vz.ObjectiveMetricGoal.MINIMIZE)
    told = vz.ProblemStatement(problem.search_space, metadata=problem.metadata, metric_information=[metric])
    return EncodedStudy(told, trials)


class PredictedCosts:
    """Costs of candidates."""

    def __init__(self, search: "Search"):
        """`search`: of a `cost_study`."""
        self._search = search
        known = search.study.values[:, 0] * search.study.sign(0)
        self._range, self._middle = (float(known.min()), float(known.max())), float(np.median(known))

    def of(self, rows: "Tokens") -> Float[np.ndarray, " candidate"]:
        """Predicted medians, in the unit of the cost, within those that are known: the model may be wrong beyond."""
        return np.asarray(np.exp(self._log(rows)))

    def log_ratio(self, rows: "Tokens") -> Float[np.ndarray, " candidate"]:
        """Log of the predicted median by the median of the known costs, so that no unit matters."""
        return self._log(rows) - self._middle

    def _log(self, rows: "Tokens") -> Float[np.ndarray, " candidate"]:
        return np.asarray(np.clip(self._search.predict(rows).quantile(0.5), *self._range))
