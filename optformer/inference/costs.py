"""The cost of trials, such as seconds: predicted by the model, and used to prefer cheap candidates.

An acquisition is divided by the predicted median cost to the power of alpha, which decays from 1 towards 0: first cheap
trials, later the best ones (Lee et al. 2020, "Cost-aware Bayesian Optimization", where alpha depends on the budget).

The logarithm of the cost is a second study of the same trials, under the name of its metric.  Only trials with an
objective count: those that failed or were stopped early have other costs than complete ones.

Notation: N candidates, D slots, n finished trials.
"""

import functools
import logging
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
"""Key in the namespace `optformer` of a problem's metadata: the name of the cost, which travels with the study."""

ACQUISITIONS: Final = ("ei", "pi")
"""Acquisitions that can be divided by a cost: the others may be negative or do not compare candidates."""

FEWEST: Final = 3
"""With fewer known costs than this, costs are ignored."""

_MANY: Final = 10
"""If none of so many finished trials reports the cost, its name is probably misspelt: a warning says so once."""

_COOLING: Final = 20.0
"""Finished trials after which alpha is 1/2."""


_LOG = logging.getLogger(__name__)


def attach(problem: vz.ProblemStatement, cost: str) -> None:
    """Writes the name of the cost into the problem's metadata, which every backend reads."""
    problem.metadata.ns(METADATA_NAMESPACE)[METADATA_KEY] = cost


def attached(problem: vz.ProblemStatement) -> str | None:
    """The name of the cost in the problem's metadata."""
    name = problem.metadata.ns(METADATA_NAMESPACE).get(METADATA_KEY)
    return None if name is None else str(name)


def alpha(finished: int) -> float:
    """Exponent of the cost by the number of finished trials: 1 at first, 1/2 after 20, 1/3 after 40."""
    return 1.0 / (1.0 + finished / _COOLING)


def check_cost(cost: str | None, acquisition: str) -> str | None:
    """Returns `cost` if it can be used with the acquisition.

    Raises:
      ValueError: `cost` is not a name, or the acquisition cannot be divided by a cost.
    """
    if cost is None:
        return None
    if not isinstance(cost, str) or not cost:
        raise ValueError(f"cost must be the name of a metric that trials report, not {cost!r}")
    if acquisition not in ACQUISITIONS:
        raise ValueError(f"a cost needs the acquisition {' or '.join(map(repr, ACQUISITIONS))}, not {acquisition!r}")
    return cost


def check_no_objective(cost: str, problem: vz.ProblemStatement, where: str) -> None:
    """Raises ValueError, beginning with `where`, if the cost has the name of an objective.  A constraint may be one."""
    if cost in {metric.name for metric in problem.metric_information.of_type(vz.MetricType.OBJECTIVE)}:
        raise ValueError(f"{where}: the cost {cost!r} has the name of an objective; choose another name")


def checked_value(value: Any, cost: str, where: str) -> float:
    """The cost of a trial as a float.

    Raises:
      ValueError: the value is not a positive, finite number; the message begins with `where`.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{where}: its cost {cost!r} is {value!r}; a cost is a positive, finite number")
    return number


def usable_value(value: Any, cost: str, where: str) -> float | None:
    """The cost of a finished trial; None, with a warning once, if it is not a positive, finite number."""
    try:
        return checked_value(value, cost, where)
    except ValueError as error:
        _warn_once(f"{error}; the trial counts as one without a cost")
        return None


def cost_study(study: EncodedStudy, cost: str) -> EncodedStudy | None:
    """The study with the logarithm of the cost as its only metric; None if fewer than `FEWEST` costs are known.

    Raises ValueError if the cost has the name of an objective.
    """
    check_no_objective(cost, study.schema.problem, f"study {study.schema.study!r}")
    trials = []
    for trial, status in zip(study.trials, study.statuses, strict=True):
        measured = trial.final_measurement.metrics if trial.final_measurement is not None else {}
        if cost not in measured:
            continue
        if status == OBSERVED and trial.stopping_reason is None:
            value = usable_value(measured[cost].value, cost, f"study {study.schema.study!r}, trial {trial.id}")
            if value is None:
                continue
            copy = vz.Trial(id=trial.id, parameters=trial.parameters)
            trials.append(copy.complete(vz.Measurement(metrics={cost: math.log(value)})))
    if not trials and int((study.statuses == OBSERVED).sum()) >= _MANY:
        _warn_once(
            f"study {study.schema.study!r}: none of its trials reports the cost {cost!r}, so costs have no influence"
        )
    if len(trials) < FEWEST:
        return None
    problem = study.schema.problem
    metric = vz.MetricInformation(cost, goal=vz.ObjectiveMetricGoal.MINIMIZE)
    cost_problem = vz.ProblemStatement(problem.search_space, metadata=problem.metadata, metric_information=[metric])
    return EncodedStudy(cost_problem, trials)


@functools.lru_cache(1000)
def _warn_once(message: str) -> None:
    _LOG.warning("%s", message)


class PredictedCosts:
    """Costs of candidates."""

    def __init__(self, search: "Search"):
        """`search`: the search of a `cost_study`."""
        self._search = search
        known = search.study.values[:, 0] * search.study.sign(0)
        self._range, self._middle = (float(known.min()), float(known.max())), float(np.median(known))

    def of(self, rows: "Tokens") -> Float[np.ndarray, " candidate"]:
        """Predicted median costs, clipped to the range of the known ones, beyond which the model may be wrong."""
        return np.asarray(np.exp(self._log(rows)))

    def log_ratio(self, rows: "Tokens") -> Float[np.ndarray, " candidate"]:
        """Log of the predicted median cost relative to the median of the known costs, so that no unit matters."""
        return self._log(rows) - self._middle

    def _log(self, rows: "Tokens") -> Float[np.ndarray, " candidate"]:
        return np.asarray(np.clip(self._search.predict(rows).quantile(0.5), *self._range))
