"""A corpus of earlier studies, in which a service finds those that are similar to a new one.

All studies are held in memory and compared one by one: by the names and kinds of their parameters, by their ranges, and
by their metric.  Which of those found the model is shown, their values and their order decide
(`optformer.serialization.prior_studies`).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from vizier import pyvizier as vz

FOUND: Final = 12
"""Studies that are found, of which the model is shown four."""

LEAST: Final = 0.5
"""Least similarity of a study that is used."""

_NUMBERS: Final = (vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER, vz.ParameterType.DISCRETE)


class _Known(NamedTuple):
    """The compared properties of a study: its parameters by name, and its metrics."""

    study: vz.ProblemAndTrials
    parameters: dict[str, vz.ParameterConfig]
    metrics: frozenset[str]


class PriorCorpus:
    """Studies that are looked up by their search space."""

    def __init__(self, studies: Iterable[vz.ProblemAndTrials]):
        """Those without a trial that has ended are left out."""
        self._studies = [
            _Known(each, _parameters(each.problem), frozenset(m.name for m in each.problem.metric_information))
            for each in studies
            if any(trial.status == vz.TrialStatus.COMPLETED for trial in each.trials)
        ]

    def __len__(self) -> int:
        return len(self._studies)

    def closest(self, problem: vz.ProblemStatement) -> list[vz.ProblemAndTrials]:
        """At most `FOUND` studies that are similar to a problem, the closest first.

        Resemblance is the mean over the parameters of both of how well each is matched: 0 where one of the two lacks
        it or it is of another kind, else half, and half for the share of the two ranges that they have in common.  Of
        equals those with a metric of the same name come first, then those with more trials.
        """
        own = _parameters(problem)
        metrics = frozenset(metric.name for metric in problem.metric_information)
        found = []
        for number, known in enumerate(self._studies):
            if own.keys().isdisjoint(known.parameters):
                continue
            resemblance = _resemblance(own, known.parameters)
            if resemblance >= LEAST:
                same = not metrics.isdisjoint(known.metrics)
                found.append((-resemblance, not same, -len(known.study.trials), number))
        return [self._studies[number].study for *_, number in sorted(found)[:FOUND]]


def _parameters(problem: vz.ProblemStatement) -> dict[str, vz.ParameterConfig]:
    return {config.name: config for config in _every(problem.search_space.parameters)}


def _every(configs: Sequence[vz.ParameterConfig]) -> Iterator[vz.ParameterConfig]:
    """With their children."""
    for config in configs:
        yield config
        for _, space in config.subspaces():
            yield from _every(space.parameters)


def _resemblance(one: dict[str, vz.ParameterConfig], other: dict[str, vz.ParameterConfig]) -> float:
    """Between 0 and 1."""
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
