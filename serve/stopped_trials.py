"""Vizier's trials that were stopped early: they count with the final values that their reports predict."""

import math
from collections.abc import Sequence
from typing import Final

from vizier import pyvizier as vz

from optformer.facade import METADATA_NAMESPACE
from optformer.inference.stopped import final_values

STOPPED: Final = "stopped"
"""Metadata of a trial that was told to stop and has its last report as its final measurement."""


def with_final_values(problem: vz.ProblemStatement, trials: Sequence[vz.Trial]) -> list[vz.Trial]:
    """The trials, those that were stopped with a predicted final measurement as far as they have reported anything.

    A trial was stopped if it says so (`stopping_reason`, which those that are told to stop have, too) and lacks the
    objective, or if its metadata do (`STOPPED`).  Reports are compared by `steps`, or by their order where steps are
    not told.  Where there are several objectives, nothing is predicted.

    Args:
      problem: with the objective.
      trials: in the order of time; they are not changed.
    """
    objectives = [metric for metric in problem.metric_information if metric.type.is_objective]
    if len(objectives) != 1:
        return list(trials)
    name, goal = objectives[0].name, objectives[0].goal
    stopped = [_was_stopped(trial, name) for trial in trials]
    if not any(stopped):
        return list(trials)
    finals = [None if cut else _final(trial, name) for trial, cut in zip(trials, stopped, strict=True)]
    told = [index for index, cut in enumerate(stopped) if cut or finals[index] is not None]
    values = final_values([(_reports(trials[index], name), finals[index]) for index in told], minimize=goal.is_minimize)
    answered = list(trials)
    for index, value in zip(told, values, strict=True):
        if stopped[index] and value is not None:
            answered[index] = _ended(trials[index], name, value)
    return answered


def _was_stopped(trial: vz.Trial, metric: str) -> bool:
    if trial.infeasible:
        return False
    if trial.metadata.ns(METADATA_NAMESPACE).get(STOPPED, default=""):
        return True
    return trial.stopping_reason is not None and _final(trial, metric) is None


def _final(trial: vz.Trial, metric: str) -> float | None:
    """Its objective; None where it has none, or one that is no number."""
    measured = trial.final_measurement.metrics if trial.final_measurement is not None else {}
    if trial.infeasible or metric not in measured or not math.isfinite(measured[metric].value):
        return None
    return float(measured[metric].value)


def _reports(trial: vz.Trial, metric: str) -> dict[int, float]:
    """Step -> value."""
    told = [measurement for measurement in trial.measurements if metric in measurement.metrics]
    steps = [int(measurement.steps) for measurement in told]
    if len(set(steps)) < len(steps) or steps == [0]:
        steps = list(range(1, len(told) + 1))
    return {step: measurement.metrics[metric].value for step, measurement in zip(steps, told, strict=True)}


def _ended(trial: vz.Trial, metric: str, value: float) -> vz.Trial:
    ended = vz.Trial(id=trial.id, parameters=trial.parameters, metadata=trial.metadata)
    ended.stopping_reason = trial.stopping_reason or STOPPED
    return ended.complete(vz.Measurement(metrics={metric: value}))
