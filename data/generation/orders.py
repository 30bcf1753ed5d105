"""Histories that no optimizer chose: random configurations, or rows of a measured table, in one of several orders.

| order | trials |
|---|---|
| `random_order` | any configurations |
| `good_last` | random ones, roughly from the worst to the best |
| `local_moves` | random ones, then more and more in steps of several sizes around the three best |

A model learns the objective from them, not how an optimizer chooses: all trials are marked as requested, and requested
trials do not train the policy.  On a measured table, the trials are its rows, each at most once.  If trials could be
any configurations, the nearest row would provide the value of unmeasured ones, and a model would learn that values
repeat near a trial.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems.disguises import DisguisedExperimenter
from optformer.data.problems.infeasible import InfeasibleExperimenter
from optformer.data.problems.tables import TableExperimenter
from optformer.inference.candidates import SlotSpace, configurations, from_unit_cube, perturbed
from optformer.serialization import tokens
from optformer.serialization.space import StudySchema

ORDERS: Final = ("random_order", "good_last", "local_moves")

_BEST: Final = 3
_FEWEST_FIRST: Final = 3
_LOCAL: Final = (0.5, 0.8, 0.95)
"""Possible shares of the trials after the first ones that are near one of the best; each history has one share."""
_STEPS: Final = np.array([0.03, 0.1, 0.3])
_JITTER: Final = 0.05
"""Noise added to the distances between rows, so that a random one of several similarly near rows is taken."""
_LOOSENESS: Final = (0.02, 0.4)
"""Noise on the position of trials in a sorted order, as a share of its length."""


def history(order: str, experimenter: experimenters.Experimenter, count: int, seed: int) -> list[vz.Trial]:
    """`count` completed trials, or fewer if a table has no more rows.

    Args:
      order: name in `ORDERS`.
      experimenter: a problem with one metric.
      count: number of trials, at least 1.
      seed: seed of the choices.
    """
    rng = np.random.default_rng([seed, 31])
    problem = experimenter.problem_statement()
    rows = measured(experimenter)
    source = _Space(rng, problem) if rows is None else _Rows(rng, problem, rows)
    metric = problem.metric_information.item()
    sign = 1.0 if metric.goal == vz.ObjectiveMetricGoal.MAXIMIZE else -1.0
    items: list[Any] = []
    trials: list[vz.Trial] = []
    scores: list[float] = []

    def add(more: Sequence[Any]) -> None:
        made = [vz.Trial(source.parameters(item), is_requested=True) for item in more]
        experimenter.evaluate(made)
        items.extend(more)
        trials.extend(made)
        scores.extend(_score(trial, metric.name, sign) for trial in made)

    if order == "local_moves":
        add(source.random(min(count, int(rng.integers(_FEWEST_FIRST, max(_FEWEST_FIRST, count // 2) + 1)))))
        local = float(rng.choice(_LOCAL))
        while len(trials) < count:
            best = np.argsort(-np.array(scores), kind="stable")[:_BEST]
            near = rng.random() < local and np.isfinite(np.array(scores)[best[0]])
            more = source.near(items[int(rng.choice(best))]) if near else source.random(1)
            if not len(more):
                break
            add(more)
    else:
        add(source.random(count))
    if order == "good_last":
        places = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
        loosely = places + rng.normal(size=len(scores)) * rng.uniform(*_LOOSENESS) * len(scores)
        trials = [trials[number] for number in np.argsort(loosely)]
    for number, trial in enumerate(trials, 1):
        trial.id = number
    return trials


def measured(experimenter: experimenters.Experimenter) -> list[Mapping[str, Any]] | None:
    """The measured configurations, with the parameter names of the problem, if trials must be among them; else None."""
    match experimenter:
        case TableExperimenter(rows_alone=True):
            return list(experimenter.table.rows)
        case InfeasibleExperimenter():
            return measured(experimenter.problem)
        case DisguisedExperimenter():
            rows = measured(experimenter.problem)
            hidden = None if rows is None else map(experimenter.disguise.hide, rows)
            return None if hidden is None else [row for row in hidden if row is not None]
    return None


def _score(trial: vz.Trial, metric: str, sign: float) -> float:
    """Larger is better; failed trials are worse than any."""
    if trial.infeasible or trial.final_measurement is None:
        return -np.inf
    value = sign * trial.final_measurement.metrics[metric].value
    return value if np.isfinite(value) else -np.inf


class _Source(Protocol):
    """Where configurations come from."""

    def random(self, count: int) -> Sequence[Any]:
        """`count` new random items, or fewer if there are no more."""

    def near(self, item: Any) -> Sequence[Any]:
        """A new item near another, or none."""

    def parameters(self, item: Any) -> Mapping[str, Any]:
        """Its values."""


class _Space:
    """Source of any configurations; items are genotypes, int32 [D]."""

    def __init__(self, rng: np.random.Generator, problem: vz.ProblemStatement):
        self._rng, self._schema = rng, StudySchema(problem)
        self._space = SlotSpace.of(self._schema)

    def random(self, count: int) -> Sequence[Any]:
        return list(from_unit_cube(self._rng.random((count, self._space.slots)), self._space))

    def near(self, item: Any) -> Sequence[Any]:
        return list(perturbed(self._rng, item[None], 1, self._space, _STEPS))

    def parameters(self, item: Any) -> Mapping[str, Any]:
        return self._schema.decode_parameters(configurations(item[None], self._space)[0]).as_dict()


class _Rows:
    """Source of the rows of a table, each once; items are their indices."""

    def __init__(self, rng: np.random.Generator, problem: vz.ProblemStatement, rows: Sequence[Mapping[str, Any]]):
        self._rng, self._rows = rng, rows
        schema = StudySchema(problem)
        levels = np.array([slot.levels for slot in schema.slots])
        encoded = schema.encode([vz.Trial(dict(row)) for row in rows])
        self._valued = encoded < tokens.NUM_LEVELS
        self._places = encoded / np.maximum(levels - 1, 1)
        self._categorical = np.array([slot.config.type == vz.ParameterType.CATEGORICAL for slot in schema.slots])
        self._left = rng.permutation(len(rows))

    def random(self, count: int) -> Sequence[Any]:
        taken, self._left = self._left[:count], self._left[count:]
        return taken.tolist()

    def near(self, item: Any) -> Sequence[Any]:
        if not len(self._left):
            return []
        gaps = np.abs(self._places[self._left] - self._places[item])
        gaps[:, self._categorical] = gaps[:, self._categorical] > 0
        active, own = self._valued[self._left], self._valued[item]
        gaps = np.where(active & own, gaps, active != own)
        place = int((gaps.sum(axis=1) + _JITTER * self._rng.random(len(self._left))).argmin())
        nearest = int(self._left[place])
        self._left = np.delete(self._left, place)
        return [nearest]

    def parameters(self, item: Any) -> Mapping[str, Any]:
        return self._rows[item]
