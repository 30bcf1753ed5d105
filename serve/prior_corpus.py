"""A corpus of earlier studies, in which a service finds those that are similar to a new one.

All studies are kept in memory and compared one by one: by the names and kinds of their parameters, by their ranges, and
by their metric.  The model reads only some of the studies that are found: `optformer.serialization.prior_studies`
chooses them by their values and their order.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from vizier import pyvizier as vz

FOUND: Final = 12
"""Largest number of studies that are found; the model reads at most four of them."""

LEAST: Final = 0.5
"""Smallest similarity of a study that is used."""

_NUMBERS: Final = (vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER, vz.ParameterType.DISCRETE)


class _Known(NamedTuple):
    """The compared properties of a study: its parameters by name, and its metrics."""

    study: vz.ProblemAndTrials
    parameters: dict[str, vz.ParameterConfig]
    metrics: frozenset[str]


class PriorCorpus:
    """Studies that are looked up by their search space."""

    def __init__(self, studies: Iterable[vz.ProblemAndTrials]):
        """Leaves out studies without a finished, failed or stopped trial."""
        self._studies = [
            _Known(each, _parameters(each.problem), frozenset(m.name for m in each.problem.metric_information))
            for each in studies
            if any(trial.status == vz.TrialStatus.COMPLETED for trial in each.trials)
        ]

    def __len__(self) -> int:
        return len(self._studies)

    def closest(self, problem: vz.ProblemStatement) -> list[vz.ProblemAndTrials]:
        """At most `FOUND` studies that are similar to a problem, the closest first.

        The similarity is the mean of a score over all parameters of the two studies.  The score is 0 if one study lacks
        the parameter or has it with another kind; else it is (1 + s) / 2, where s is the share of the two ranges that
        they have in common.  Ties are broken by a metric of the same name, then by the number of trials.
        """
        own = _parameters(problem)
        metrics = frozenset(metric.name for metric in problem.metric_information)
        found = []
        for number, known in enumerate(self._studies):
            if own.keys().isdisjoint(known.parameters):
                continue
            similarity = _similarity(own, known.parameters)
            if similarity >= LEAST:
                same = not metrics.isdisjoint(known.metrics)
                found.append((-similarity, not same, -len(known.study.trials), number))
        return [self._studies[number].study for *_, number in sorted(found)[:FOUND]]


def _parameters(problem: vz.ProblemStatement) -> dict[str, vz.ParameterConfig]:
    return {config.name: config for config in _every(problem.search_space.parameters)}


def _every(configs: Sequence[vz.ParameterConfig]) -> Iterator[vz.ParameterConfig]:
    """The parameters and all their descendants."""
    for config in configs:
        yield config
        for _, space in config.subspaces():
            yield from _every(space.parameters)


def _similarity(one: dict[str, vz.ParameterConfig], other: dict[str, vz.ParameterConfig]) -> float:
    """The similarity of two search spaces, in [0, 1]."""
    shared = one.keys() & other.keys()
    matching = sum(_matching(one[name], other[name]) for name in shared)
    return matching / len(one.keys() | other.keys())


def _matching(one: vz.ParameterConfig, other: vz.ParameterConfig) -> float:
    numbers = one.type in _NUMBERS
    if numbers != (other.type in _NUMBERS):
        return 0.0
    if not numbers:
        values, others = set(one.feasible_values), set(other.feasible_values)
        return 0.5 + 0.5 * len(values & others) / len(values | others)
    (low, high), (least, most) = one.bounds, other.bounds
    if one.scale_type == vz.ScaleType.LOG and min(low, least) > 0:
        low, high, least, most = map(math.log, (low, high, least, most))
    union = max(high, most) - min(low, least)
    common = min(high, most) - max(low, least)
    return 0.5 + 0.5 * (max(common, 0.0) / union if union > 0 else 1.0)
