"""Converts Optuna's studies to the study format, with the united search space of `optuna_space`.

Shared by the readers of databases, journals and JSON lines, which only differ in how they find the records.  Optuna
does not record conditions between parameters; they are inferred from the trials.  Parameters that no condition explains
stay at the root of the space, and are missing in the trials that did not suggest them.
"""

import collections
import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from vizier import pyvizier as vz

from optformer.data.sources.local_times import LocalTimes
from optformer.data.sources.optuna_space import Distribution, Parameter
from optformer.data.sources.records import NAMESPACE, Quarantined, UnusableError, quarantined_study, usable_trials
from optformer.data.sources.study_json import StudyRecord, measurement_record
from optformer.serialization.branches import Branch, branched, infer_branches, unused
from optformer.serialization.optuna_constraints import (
    CONSTRAINTS,
    constraint_metric,
    constraint_values,
    safety_metric,
)

MAX_ATTRIBUTE_CHARACTERS = 1024
"""User attributes longer than this (stored predictions, whole configurations) are left out."""
MAX_REASON_CHARACTERS = 200
FINISHED: Final = ("COMPLETE", "PRUNED", "FAIL")
OLD_CONSTRAINTS: Final = ("nsga2:constraints", "botorch:constraints")
"""Key of Optuna 2 for the values that Optuna 3 stores under `CONSTRAINTS`."""


class OptunaTrial(NamedTuple):
    """A trial as stored, before the space is known.

    Attributes:
      params: (name, internal value, distribution) in the order suggested.
      values: the final objectives; None for missing values and NaN.
      intermediate: (step, values), one value per objective.
      start, complete: local time without a zone, as text.
      user_attributes: name -> JSON text.
      fixed: external values of an enqueued trial.
      constraints: system attributes with constraints on outcomes, with the names of Optuna 3.
      fault: an error found while reading, such as an invalid distribution, for which the trial will be quarantined.
    """

    number: int
    state: str
    params: Sequence[tuple[str, float | None, Distribution]]
    values: Sequence[float | None]
    intermediate: Sequence[tuple[Any, Sequence[float | None]]] = ()
    start: str | None = None
    complete: str | None = None
    user_attributes: Sequence[tuple[str, str]] = ()
    fixed: dict[str, Any] | None = None
    fail_reason: str | None = None
    constraints: Mapping[str, Any] = {}
    fault: UnusableError | None = None


@dataclasses.dataclass(frozen=True)
class OptunaStudy:
    """A study as stored.  `directions` are "MINIMIZE", "MAXIMIZE" or "NOT_SET", which Optuna treats as "MINIMIZE"."""

    source: str
    file_name: str
    name: str
    directions: Sequence[str]
    trials: Sequence[OptunaTrial]
    metric_names: Sequence[str] | None = None
    algorithm: str = ""
    user_attributes: Sequence[tuple[str, str]] = ()


def constraint_attributes(system: Mapping[str, Any]) -> dict[str, Any]:
    """The system attributes of a trial for `OptunaTrial.constraints`."""
    found = {key: value for key, value in system.items() if key == CONSTRAINTS or key.startswith(f"{CONSTRAINTS}:")}
    for key in OLD_CONSTRAINTS:
        if key in system:
            found.setdefault(CONSTRAINTS, system[key])
    return found


def to_records(study: OptunaStudy) -> Iterator[StudyRecord | Quarantined]:
    """Yields the trials that cannot be represented as quarantined, then the study; or the quarantined study.

    Trials are in the study format, which takes a fifth of the time of making pyvizier's objects.
    """
    try:
        if not study.trials:
            raise UnusableError("no trials")
        outcomes = _outcomes(study.trials)
        objectives = _objectives(study)
        metrics = _metrics(objectives, outcomes)
        parameters = _parameters(study.trials)
        if not parameters:
            raise UnusableError("no parameters: no trial suggested one before it ended")
    except UnusableError as error:
        numbers = [trial.number for trial in study.trials]
        yield from quarantined_study(study.source, study.name, numbers, error.reason, error.parameter)
        return

    problem = vz.ProblemStatement(metric_information=metrics)
    _describe(problem, study)
    names = [metric.name for metric in objectives]
    times = LocalTimes()
    trials = yield from usable_trials(
        study.source,
        study.name,
        ((stored.number, (stored, outcome)) for stored, outcome in zip(study.trials, outcomes, strict=True)),
        lambda pair: (pair[0], _trial(*pair, parameters, names, times)),
    )
    if trials:
        branches = _branches(parameters, trials)
        for config in branched([parameter.config for parameter in parameters.values()], branches):
            problem.search_space.add(config)
        if branches:
            problem.metadata.ns(NAMESPACE)["branches"] = "inferred"
        yield StudyRecord(problem, [record for _, record in trials])


def _branches(
    parameters: dict[str, Parameter], trials: Sequence[tuple[OptunaTrial, dict[str, Any]]]
) -> dict[str, Branch]:
    """Infers conditions; removes enqueued values that can never be used from the records."""
    if all(len(record["parameters"]) == len(parameters) for _, record in trials):
        return {}
    begun = [(stored, record["parameters"]) for stored, record in trials if stored.state != "WAITING"]
    # Trials that failed, are running, or were pruned before their first report may not have made all suggestions.
    finished = [s.state == "COMPLETE" or (s.state == "PRUNED" and len(s.intermediate) > 0) for s, _ in begun]
    configs = [parameter.config for parameter in parameters.values()]
    branches = infer_branches(configs, [values for _, values in begun], finished)
    for stored, record in trials:
        if stored.state == "WAITING" and branches:
            _without_unused(record, branches)
    return branches


def _without_unused(record: dict[str, Any], branches: dict[str, Branch]) -> None:
    """Moves values of inactive parameters to the metadata, since the user's program would not read them."""
    values = record["parameters"]
    left_out = {name: str(values[name]) for name in values if name in unused(values, branches)}
    if left_out:
        record["parameters"] = {name: value for name, value in values.items() if name not in left_out}
        record.setdefault("metadata", []).append([["optuna", "unused_values"], left_out])


_Outcome: TypeAlias = dict[str, float] | UnusableError


def _outcomes(trials: Sequence[OptunaTrial]) -> list[_Outcome]:
    """Per finished trial, the values of its constraints by name, or why they cannot be used.

    The values of `constraints_func` have no names.  If trials have different numbers of them, they cannot be matched,
    so only trials with the most common number are usable.
    """
    outcomes: list[_Outcome] = [{}] * len(trials)
    numbers: collections.Counter[int] = collections.Counter()
    measured = [index for index, trial in enumerate(trials) if trial.constraints and trial.state in FINISHED]
    for index in measured:
        try:
            outcomes[index] = constraint_values(trials[index].constraints)
            numbers[len(trials[index].constraints.get(CONSTRAINTS) or ())] += 1
        except ValueError as error:
            outcomes[index] = UnusableError(str(error))
    del numbers[0]
    if len(numbers) > 1:
        most = max(numbers, key=lambda number: (numbers[number], number))
        for index in measured:
            given = trials[index].constraints.get(CONSTRAINTS) or ()
            if not isinstance(outcomes[index], UnusableError) and len(given) not in (0, most):
                reason = f"number of constraints differs from most trials: {len(given)}, mostly {most}"
                outcomes[index] = UnusableError(reason)
    return outcomes


def _metrics(objectives: Sequence[vz.MetricInformation], outcomes: Sequence[_Outcome]) -> list[vz.MetricInformation]:
    """The objectives, and a safety metric for each constraint in the order of their first appearance."""
    known = dict.fromkeys(name for each in outcomes if not isinstance(each, UnusableError) for name in each)
    metrics = [*objectives, *map(safety_metric, known)]
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UnusableError(f"metric cannot be told apart: {twice!r} is an objective and a constraint")
    return metrics


def _objectives(study: OptunaStudy) -> list[vz.MetricInformation]:
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
    return [vz.MetricInformation(name, goal=goals[d]) for name, d in zip(names, study.directions, strict=True)]


def _parameters(trials: Sequence[OptunaTrial]) -> dict[str, Parameter]:
    uses: dict[str, collections.Counter[Distribution]] = {}
    for trial in trials:
        if trial.fault:
            continue
        for name, _, distribution in trial.params:
            counter = uses.get(name)
            if counter is None:
                counter = uses[name] = collections.Counter()
            counter[distribution] += 1
    parameters = {}
    for name, counter in uses.items():
        try:
            parameters[name] = Parameter(name, counter)
        except UnusableError:
            raise
        except ValueError as error:  # raised by pyvizier, such as for bounds that it cannot represent
            raise UnusableError(f"parameter cannot be represented: {error}", name) from error
    return parameters


def _describe(problem: vz.ProblemStatement, study: OptunaStudy) -> None:
    facts = problem.metadata.ns(NAMESPACE)
    facts["study_id"] = study.name
    facts["source"] = study.file_name
    if not study.name.startswith("no-name-"):  # Optuna's placeholder for unnamed studies
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


def _trial(
    stored: OptunaTrial,
    outcome: _Outcome,
    parameters: dict[str, Parameter],
    metrics: Sequence[str],
    times: LocalTimes,
) -> dict[str, Any]:
    """The trial as `study_json.trial_to_json` would write it; `metrics` are the objectives."""
    if stored.fault:
        raise stored.fault
    if isinstance(outcome, UnusableError):
        raise outcome
    constraints = {constraint_metric(name): value for name, value in outcome.items()}
    values = {name: parameters[name].value(internal, dist) for name, internal, dist in stored.params}
    created, completed, elapsed = times(stored.start, stored.complete)
    kept: dict[str, str] = {}
    if stored.start and created is None:
        kept["datetime_start"] = str(stored.start)  # an invalid time is kept as text
    if stored.complete and completed is None:
        kept["datetime_complete"] = str(stored.complete)
    measurements = _measurements(stored, metrics, kept) if stored.intermediate else None
    finite = {m: v for m, v in zip(metrics, stored.values, strict=False) if v is not None and math.isfinite(v)}

    record: dict[str, Any] = {"id": stored.number, "parameters": values}
    if stored.state == "COMPLETE":
        if len(finite) == len(metrics):
            record["final"] = measurement_record(finite | constraints, elapsed=elapsed)
        else:
            if finite or constraints:
                record["final"] = measurement_record(finite | constraints, elapsed=elapsed)
            missing = next(index for index, metric in enumerate(metrics) if metric not in finite)
            value = stored.values[missing] if missing < len(stored.values) else None
            reason = f"{metrics[missing]} is {'not a number' if value is None or math.isnan(value) else value}"
            record["infeasible"] = reason[:MAX_REASON_CHARACTERS]
            completed = completed or created
    elif stored.state == "FAIL":
        if constraints:
            record["final"] = measurement_record(constraints, elapsed=elapsed)
        reason = "failed" + (f": {stored.fail_reason}" if stored.fail_reason else "")
        record["infeasible"] = reason[:MAX_REASON_CHARACTERS]
        completed = completed or created
    elif stored.state == "PRUNED":
        # Completed without an objective: the last report may be of a lower fidelity.
        record["final"] = measurement_record(constraints, elapsed=elapsed)
        record["stopping_reason"] = "pruned"
        kept["state"] = "PRUNED"
        if finite:
            kept["value"] = json.dumps(list(finite.values()))
    elif stored.state == "WAITING":
        record["requested"] = True
        for name, choice in (stored.fixed or {}).items():
            if name in parameters and name not in values:
                values[name] = parameters[name].external(choice)
    elif stored.state != "RUNNING":
        raise UnusableError(f"unknown trial state: {stored.state!r}")

    if measurements:
        record["measurements"] = measurements
    if created:
        record["created"] = created
    if completed:
        record["completed"] = completed
    metadata: list[list[Any]] = [[["optuna"], kept]] if kept else []
    if stored.user_attributes:
        attributes = {key: text for key, text in stored.user_attributes if len(text) <= MAX_ATTRIBUTE_CHARACTERS}
        if attributes:
            metadata.append([["optuna", "user_attributes"], attributes])
    if metadata:
        record["metadata"] = metadata
    return record


def _measurements(stored: OptunaTrial, metrics: Sequence[str], kept: dict[str, str]) -> list[dict[str, Any]]:
    measurements = []
    for step, values in stored.intermediate:
        reported = {m: math.nan if v is None else v for m, v in zip(metrics, values, strict=False)}
        if step < 0:  # pyvizier has no negative steps
            kept[f"intermediate {step}"] = json.dumps(reported)
            continue
        steps = int(step)
        if steps >= 2**64:  # nor these
            raise UnusableError("trial cannot be represented: a step of more than 64 bits")
        measurements.append(measurement_record(reported, steps=steps))
    return measurements
