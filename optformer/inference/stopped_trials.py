"""Prepares trials that were stopped early for the model: with an extrapolated final value, or only their reports."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from vizier import pyvizier as vz

from optformer.inference.stopped import final_values
from optformer.serialization.partial_trials import reports_of
from optformer.serialization.space import METADATA_NAMESPACE

STOPPED: Final = "stopped"
"""Metadata key of a stopped trial whose final measurement is its last report."""


def with_final_values(problem: vz.ProblemStatement, trials: Sequence[vz.Trial]) -> list[vz.Trial]:
    """The trials, with a predicted final measurement for each stopped one that has reported.

    A trial counts as stopped if it has a `stopping_reason` and no objective, or if its metadata has the key `STOPPED`.
    Reports are compared by `steps`, or by their order if steps are missing.  With several objectives, nothing is
    predicted.

    Args:
      problem: search space and metrics.
      trials: in order of time; they are not modified.
    """
    objectives = [metric for metric in problem.metric_information if metric.type.is_objective]
    if len(objectives) != 1:
        return list(trials)
    name, goal = objectives[0].name, objectives[0].goal
    stopped = [_was_stopped(trial, name) for trial in trials]
    if not any(stopped):
        return list(trials)
    finals = [None if cut else _final(trial, name) for trial, cut in zip(trials, stopped, strict=True)]
    used = [index for index, cut in enumerate(stopped) if cut or finals[index] is not None]
    values = final_values(
        [(reports_of(trials[index], name), finals[index]) for index in used], minimize=goal.is_minimize
    )
    completed = list(trials)
    for index, value in zip(used, values, strict=True):
        if stopped[index] and value is not None:
            final = trials[index].final_measurement
            measured = dict(final.metrics) if final is not None else {}
            completed[index] = _ended(trials[index], {**measured, name: value})
    return completed


def open_ended(problem: vz.ProblemStatement, trials: Sequence[vz.Trial]) -> list[vz.Trial]:
    """The trials; those with the key `STOPPED` lose their final measurement, which is only their last report."""
    names = [metric.name for metric in problem.metric_information if metric.type.is_objective]
    found = list(trials)
    for index, trial in enumerate(trials):
        if trial.final_measurement is not None and all(_was_stopped(trial, name) for name in names):
            found[index] = _ended(trial, {k: v for k, v in trial.final_measurement.metrics.items() if k not in names})
    return found


def _was_stopped(trial: vz.Trial, metric: str) -> bool:
    if trial.infeasible:
        return False
    if trial.metadata.ns(METADATA_NAMESPACE).get(STOPPED, default=""):
        return True
    return trial.stopping_reason is not None and _final(trial, metric) is None


def _final(trial: vz.Trial, metric: str) -> float | None:
    """The objective of the trial; None if it is missing or not finite."""
    measured = trial.final_measurement.metrics if trial.final_measurement is not None else {}
    if trial.infeasible or metric not in measured or not math.isfinite(measured[metric].value):
        return None
    return float(measured[metric].value)


def _ended(trial: vz.Trial, metrics: Mapping[str, float]) -> vz.Trial:
    ended = vz.Trial(
        id=trial.id, parameters=trial.parameters, metadata=trial.metadata, measurements=list(trial.measurements)
    )
    ended.stopping_reason = trial.stopping_reason or STOPPED
    return ended.complete(vz.Measurement(metrics=metrics))
