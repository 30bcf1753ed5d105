"""Optuna's studies as pyvizier: frozen trials to trials, in the space that `optuna_space` unites.

Shared by the database reader and the JSON-lines reader, which differ only in how they find the records.  The space is
flat: Optuna does not record which parameter depends on which, so a value that a trial did not suggest is simply absent.
"""

import collections
import contextlib
import dataclasses
import datetime
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vizier import pyvizier as vz

from optformer.data.sources.optuna_space import Distribution, Parameter, UnusableError
from optformer.data.sources.records import MALFORMED, NAMESPACE, Quarantined, quarantined_study, told

MAX_ATTRIBUTE_CHARACTERS = 1024
"""User attributes longer than this (stored predictions, whole configurations) are left out."""


class OptunaTrial(NamedTuple):
    """A trial as stored, before the space is known.

    Attributes:
      params: (name, internal value, distribution) in the order suggested.
      values: the final objectives; None where none was stored, and for a NaN.
      intermediate: (step, values), one value per objective.
      start, complete: local time without a zone, as text.
      user_attributes: name to JSON text.
      fixed: external values that an enqueued trial shall take.
      fault: found while reading, such as a distribution that cannot be parsed; the trial will be quarantined.
    """

    number: int
    state: str
    params: Sequence[tuple[str, float | None, Distribution]]
    values: Sequence[float | None]
    intermediate: Sequence[tuple[int, Sequence[float | None]]] = ()
    start: str | None = None
    complete: str | None = None
    user_attributes: Sequence[tuple[str, str]] = ()
    fixed: dict[str, Any] | None = None
    fail_reason: str | None = None
    fault: UnusableError | None = None


@dataclasses.dataclass(frozen=True)
class OptunaStudy:
    """A study as stored; `directions` are "MINIMIZE", "MAXIMIZE" or "NOT_SET", which Optuna treats as minimize."""

    source: str
    file_name: str
    name: str
    directions: Sequence[str]
    trials: Sequence[OptunaTrial]
    metric_names: Sequence[str] | None = None
    algorithm: str = ""
    user_attributes: Sequence[tuple[str, str]] = ()


def to_pyvizier(study: OptunaStudy) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """The study, if it can be represented, before it the trials that cannot."""
    try:
        if not study.trials:
            raise UnusableError("no trials")
        metrics = _metrics(study)
        parameters = _parameters(study.trials)
        if not parameters:
            raise UnusableError("no parameters: no trial got as far as suggesting one")
    except UnusableError as error:
        numbers = [trial.number for trial in study.trials]
        yield from quarantined_study(study.source, study.name, numbers, error.reason, error.parameter)
        return

    problem = vz.ProblemStatement(metric_information=metrics)
    for parameter in parameters.values():
        problem.search_space.add(parameter.config)
    _describe(problem, study)
    names = [metric.name for metric in metrics]
    trials = []
    for stored in study.trials:
        try:
            trials.append(_trial(stored, parameters, names))
        except UnusableError as error:
            yield Quarantined(study.source, study.name, stored.number, error.parameter, error.reason)
        except MALFORMED as error:
            reason = f"trial cannot be represented: {told(error)}"
            yield Quarantined(study.source, study.name, stored.number, None, reason)
    if not trials:
        yield Quarantined(study.source, study.name, None, None, "no usable trials")
        return
    yield vz.ProblemAndTrials(problem=problem, trials=trials)


def _metrics(study: OptunaStudy) -> vz.MetricsConfig:
    count = len(study.directions)
    if not count:
        raise UnusableError("no objective: the study has no direction")
    names = list(study.metric_names or ())
    if len(set(names)) != count or not all(isinstance(name, str) and name for name in names):
        names = ["objective"] if count == 1 else [f"objective_{index}" for index in range(count)]
    goals = {
        "MINIMIZE": vz.ObjectiveMetricGoal.MINIMIZE,
        "MAXIMIZE": vz.ObjectiveMetricGoal.MAXIMIZE,
        "NOT_SET": vz.ObjectiveMetricGoal.MINIMIZE,
    }
    unknown = [direction for direction in study.directions if direction not in goals]
    if unknown:
        raise UnusableError(f"unknown direction: {unknown[0]!r}")
    return vz.MetricsConfig(
        [vz.MetricInformation(name, goal=goals[d]) for name, d in zip(names, study.directions, strict=True)]
    )


def _parameters(trials: Sequence[OptunaTrial]) -> dict[str, Parameter]:
    uses: dict[str, collections.Counter[Distribution]] = {}
    for trial in trials:
        if trial.fault:
            continue
        for name, _, distribution in trial.params:
            uses.setdefault(name, collections.Counter())[distribution] += 1
    parameters = {}
    for name, counter in uses.items():
        try:
            parameters[name] = Parameter(name, counter)
        except UnusableError:
            raise
        except ValueError as error:  # pyvizier's own objections, such as bounds it cannot hold
            raise UnusableError(f"parameter cannot be represented: {error}", name) from error
    return parameters


def _describe(problem: vz.ProblemStatement, study: OptunaStudy) -> None:
    facts = problem.metadata.ns(NAMESPACE)
    facts["study_id"] = study.name
    facts["source"] = study.file_name
    if not study.name.startswith("no-name-"):  # Optuna's placeholder for a study nobody named
        facts["title"] = study.name
    if study.algorithm:
        facts["algorithm"] = study.algorithm
    kept = problem.metadata.ns("optuna").ns("user_attributes")
    for key, text in study.user_attributes:
        prefix, _, fact = key.partition(":")
        if prefix == NAMESPACE and fact in ("title", "description", "algorithm"):
            with contextlib.suppress(ValueError):
                value = json.loads(text)
                facts[fact] = value if isinstance(value, str) else text
        elif len(text) <= MAX_ATTRIBUTE_CHARACTERS:
            kept[key] = text


def _trial(stored: OptunaTrial, parameters: dict[str, Parameter], metrics: Sequence[str]) -> vz.Trial:
    if stored.fault:
        raise stored.fault
    values = {name: parameters[name].value(internal, dist) for name, internal, dist in stored.params}
    metadata = vz.Metadata()
    kept = metadata.ns("optuna")
    start, complete = _time(stored.start), _time(stored.complete)
    for key, text, time in (("datetime_start", stored.start, start), ("datetime_complete", stored.complete, complete)):
        if text and time is None:
            kept[key] = str(text)  # not a time that can be parsed: kept as it stands
    elapsed = (complete - start).total_seconds() if start and complete else 0.0
    trial = vz.Trial(
        id=stored.number,
        parameters=values,
        metadata=metadata,
        creation_time=start,
        completion_time=complete,
        measurements=_measurements(stored, metrics, kept),
    )
    for key, text in stored.user_attributes:
        if len(text) <= MAX_ATTRIBUTE_CHARACTERS:
            metadata.ns("optuna").ns("user_attributes")[key] = text

    finite = {m: v for m, v in zip(metrics, stored.values, strict=False) if v is not None and math.isfinite(v)}
    measurement = vz.Measurement(metrics=finite, elapsed_secs=max(elapsed, 0.0))
    if stored.state == "COMPLETE":
        if len(finite) == len(metrics):
            trial.final_measurement = measurement
        else:
            missing = next(index for index, metric in enumerate(metrics) if metric not in finite)
            value = stored.values[missing] if missing < len(stored.values) else None
            told = "not a number" if value is None or math.isnan(value) else value
            _set_infeasible(trial, f"{metrics[missing]} is {told}", measurement if finite else None)
    elif stored.state == "FAIL":
        _set_infeasible(trial, "failed" + (f": {stored.fail_reason}" if stored.fail_reason else ""), None)
    elif stored.state == "PRUNED":
        # Completed, but the objective was never measured: the last report is of a lower fidelity.
        trial.final_measurement = vz.Measurement(elapsed_secs=max(elapsed, 0.0))
        trial.stopping_reason = "pruned"
        kept["state"] = "PRUNED"
        if finite:
            kept["value"] = json.dumps(list(finite.values()))
    elif stored.state == "WAITING":
        trial.is_requested = True
        for name, choice in (stored.fixed or {}).items():
            if name in parameters and name not in values:
                trial.parameters[name] = parameters[name].external(choice)
    elif stored.state != "RUNNING":
        raise UnusableError(f"unknown trial state: {stored.state!r}")
    return trial


def _set_infeasible(trial: vz.Trial, reason: str, measurement: vz.Measurement | None) -> None:
    completed = trial.completion_time or trial.creation_time
    trial.complete(measurement, infeasibility_reason=reason[:200])
    trial.completion_time = completed  # `complete` sets the present time


def _measurements(stored: OptunaTrial, metrics: Sequence[str], kept: vz.Metadata) -> list[vz.Measurement]:
    measurements = []
    for step, values in stored.intermediate:
        reported = {m: math.nan if v is None else v for m, v in zip(metrics, values, strict=False)}
        if step < 0:  # pyvizier has no negative steps
            kept[f"intermediate {step}"] = json.dumps(reported)
            continue
        measurements.append(vz.Measurement(metrics=reported, steps=step))
    return measurements


def _time(text: str | None) -> datetime.datetime | None:
    if not text:
        return None
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
