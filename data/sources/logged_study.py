"""Studies of stores that do not record a search space, such as tables and result folders, as pyvizier.

A reader fills in a `LoggedStudy`; `to_pyvizier` infers what is not declared and converts the trials.
"""

import contextlib
import dataclasses
import datetime
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from vizier import pyvizier as vz

from optformer.data.sources.inferred_space import Declared, InferredSpace
from optformer.data.sources.records import NAMESPACE, Quarantined, UnusableError, quarantined_study, usable_trials
from optformer.serialization.branches import Branch, branched, infer_branches, unused

MAX_REASON_CHARACTERS = 200


class Report(NamedTuple):
    """Metrics at one step of a trial.

    Attributes:
      step: at least 0.
      metrics: name -> value, which may be NaN or infinite.
      seconds: seconds since the start of the trial; 0 if unknown.
    """

    step: int
    metrics: Mapping[str, float]
    seconds: float = 0.0


class LoggedTrial(NamedTuple):
    """A trial as stored, before the space is known.

    Attributes:
      parameters: typed values; a parameter that is absent was not used.
      state: "completed", "infeasible", "stopped" (ended before its objective was measured), "active" or "requested".
      reports: in order of steps; the last one with all objectives gives the final values unless `final` does.
      final: final metrics, if the store has them separately from the reports.
      reason: why the trial is infeasible or was stopped.
      metadata: key -> text, kept in the namespace of the store.
      fault: an error found while reading, for which the trial will be quarantined.
    """

    number: int
    parameters: Mapping[str, object]
    state: str
    reports: Sequence[Report] = ()
    final: Mapping[str, float] | None = None
    seconds: float = 0.0
    created: datetime.datetime | None = None
    completed: datetime.datetime | None = None
    reason: str = ""
    metadata: Mapping[str, str] = {}
    fault: UnusableError | None = None


@dataclasses.dataclass(frozen=True)
class LoggedStudy:
    """A study as stored.

    Attributes:
      source, file_name: name of the store, as given by the caller and as written to the facts.
      store: namespace of the metadata that is specific to this kind of store.
      objectives: name -> "MINIMIZE" or "MAXIMIZE".
      declared: declared properties of the parameters.
      facts: title, description, algorithm and so on; empty ones are left out.
      metadata: key -> text, kept in the namespace of the store.
      branches: conditions of parameters, as values of the inferred space; values of inactive parameters are kept only
        as metadata of the trial.
    """

    source: str
    file_name: str
    store: str
    name: str
    objectives: Mapping[str, str]
    trials: Sequence[LoggedTrial]
    declared: Mapping[str, Declared] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    branches: Mapping[str, Branch] = dataclasses.field(default_factory=dict)


def to_pyvizier(study: LoggedStudy) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Yields the trials that cannot be represented as quarantined, then the study; or the quarantined study."""
    try:
        if not study.trials:
            raise UnusableError("no trials")
        if (first := study.trials[0]).fault and all(trial.fault for trial in study.trials):
            raise UnusableError(f"no usable trials: trial {first.number}: {first.fault.reason}", first.fault.parameter)
        _check_objectives(study)
        study, space = _with_space(study)
        if not space.varied:
            if space.free_texts:
                raise next(iter(space.free_texts.values()))
            if any(trial.parameters for trial in study.trials):
                raise UnusableError("nothing to tune: every parameter has a single value")
            raise UnusableError("no parameters: no trial records one")
    except UnusableError as error:
        numbers = [trial.number for trial in study.trials]
        yield from quarantined_study(study.source, study.name, numbers, error.reason, error.parameter)
        return

    problem = vz.ProblemStatement(
        metric_information=vz.MetricsConfig(
            [vz.MetricInformation(name, goal=vz.ObjectiveMetricGoal[goal]) for name, goal in study.objectives.items()]
        )
    )
    branches = {name: branch for name, branch in study.branches.items() if {name, branch.parent} <= set(space.names)}
    if not study.branches and (branches := _inferred_branches(study, space)):
        problem.metadata.ns(NAMESPACE)["branches"] = "inferred"
    for config in branched(space.configs, branches):
        problem.search_space.add(config)
    _describe(problem, study, space)
    names = list(study.objectives)
    trials = yield from usable_trials(
        study.source,
        study.name,
        ((stored.number, stored) for stored in study.trials),
        lambda stored: _trial(stored, space, names, study.store, branches),
    )
    if trials:
        yield vz.ProblemAndTrials(problem=problem, trials=trials)


def _with_space(study: LoggedStudy) -> tuple[LoggedStudy, InferredSpace]:
    """Infers the space; trials without any of its parameters, such as runs of another program, get a fault."""
    while True:
        space = InferredSpace([trial.parameters for trial in study.trials if not trial.fault], study.declared)
        trials = [
            trial._replace(fault=_no_part(trial))
            if not trial.fault and space.varied.isdisjoint(trial.parameters)
            else trial
            for trial in study.trials
        ]
        if all(trial.fault for trial in trials) or all(map(operator.is_, trials, study.trials)):
            return study, space
        study = dataclasses.replace(study, trials=trials)


def _no_part(trial: LoggedTrial) -> UnusableError:
    own = ", ".join(map(repr, list(trial.parameters)[:5])) or "none"
    return UnusableError(f"no parameters: it has none of those that the study varies (it has: {own})")


def _check_objectives(study: LoggedStudy) -> None:
    completed = any(trial.state == "completed" and not trial.fault for trial in study.trials)
    reported = sorted({key for trial in study.trials for metrics in _all_metrics(trial) for key in metrics})
    for name in study.objectives:
        if name not in reported and (completed or reported):
            known = f"; reported: {', '.join(reported[:10])}" if reported else ""
            raise UnusableError(f"no objective: no trial reports the metric {name!r}{known}")


def _all_metrics(trial: LoggedTrial) -> Iterator[Mapping[str, float]]:
    if trial.final is not None:
        yield trial.final
    yield from (report.metrics for report in trial.reports)


def _describe(problem: vz.ProblemStatement, study: LoggedStudy, space: InferredSpace) -> None:
    facts = problem.metadata.ns(NAMESPACE)
    facts["study_id"] = study.name
    facts["source"] = study.file_name
    if space.inferred:
        facts["space"] = "inferred"
    if not space.auto_log:
        facts["auto_log"] = "off"
    for key, text in study.facts.items():
        if text:
            facts[key] = text
    for key, text in space.constants.items():
        facts.ns("constants")[key] = text
    for key, text in study.metadata.items():
        problem.metadata.ns(study.store)[key] = text


def _inferred_branches(study: LoggedStudy, space: InferredSpace) -> dict[str, Branch]:
    """Infers conditions; every trial is complete, since these stores record its whole configuration at its start."""
    values, ended = [], []
    for trial in study.trials:
        if not trial.fault and trial.state != "requested":
            with contextlib.suppress(UnusableError):
                values.append(space.values(trial.parameters))
                ended.append(trial.state == "completed" or bool(trial.reports))
    if all(len(one) == len(space.names) for one in values):
        return {}
    return infer_branches(space.configs, values, ended)


def _trial(
    stored: LoggedTrial,
    space: InferredSpace,
    objectives: Sequence[str],
    store: str,
    branches: Mapping[str, Branch],
) -> vz.Trial:
    if stored.fault:
        raise stored.fault
    metadata = vz.Metadata()
    for key, text in stored.metadata.items():
        metadata.ns(store)[key] = text
    for name in space.free_texts:
        if name in stored.parameters:
            metadata.ns(store).ns("free_text")[name] = str(stored.parameters[name])
    values = space.values(stored.parameters)
    for name in unused(values, branches):
        metadata.ns(store).ns("unused_values")[name] = str(values.pop(name))
    trial = vz.Trial(
        id=stored.number,
        parameters=values,
        metadata=metadata,
        creation_time=stored.created,
        completion_time=stored.completed,
        measurements=[
            vz.Measurement(metrics=dict(report.metrics), steps=report.step, elapsed_secs=max(report.seconds, 0.0))
            for report in stored.reports
        ],
    )
    if stored.state in ("active", "requested"):
        trial.is_requested = stored.state == "requested"
        return trial
    if stored.state == "infeasible":
        return _infeasible(trial, stored, stored.reason or "failed", None)
    if stored.state == "stopped":
        trial.final_measurement = vz.Measurement(elapsed_secs=max(stored.seconds, 0.0))
        trial.stopping_reason = (stored.reason or "stopped")[:MAX_REASON_CHARACTERS]
        return trial
    if stored.state != "completed":
        raise UnusableError(f"unknown trial state: {stored.state!r}")
    final, seconds = _final(stored, objectives)
    missing = [name for name in objectives if name not in final]
    if missing:
        # Ended successfully but has no objective: treated as stopped.
        trial.final_measurement = vz.Measurement(elapsed_secs=seconds)
        trial.stopping_reason = f"no value of {missing[0]}"[:MAX_REASON_CHARACTERS]
        return trial
    finite = {name: value for name, value in final.items() if math.isfinite(value)}
    measurement = vz.Measurement(metrics=finite, elapsed_secs=seconds)
    odd = [name for name in objectives if name not in finite]
    if odd:
        value = final[odd[0]]
        reason = f"{odd[0]} is {'not a number' if math.isnan(value) else value}"
        return _infeasible(trial, stored, reason, measurement if finite else None)
    trial.final_measurement = measurement
    return trial


def _final(stored: LoggedTrial, objectives: Sequence[str]) -> tuple[Mapping[str, float], float]:
    """The final metrics and the seconds until then."""
    if stored.final is not None:
        return stored.final, max(stored.seconds, 0.0)
    for report in reversed(stored.reports):
        if all(name in report.metrics for name in objectives):
            return report.metrics, max(stored.seconds or report.seconds, 0.0)
    latest: dict[str, float] = {}
    for report in stored.reports:
        latest |= report.metrics
    return latest, max(stored.seconds, 0.0)


def _infeasible(trial: vz.Trial, stored: LoggedTrial, reason: str, measurement: vz.Measurement | None) -> vz.Trial:
    trial.complete(measurement, infeasibility_reason=reason[:MAX_REASON_CHARACTERS])
    trial.completion_time = stored.completed or stored.created  # `complete` sets the current time
    return trial


def time_from_seconds(seconds: object) -> datetime.datetime | None:
    """Converts seconds since 1970 to a time; None if invalid."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return None
    try:
        return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    except (OverflowError, OSError, ValueError):
        return None


def time_from_text(text: object) -> datetime.datetime | None:
    """Parses ISO 8601; local time without a zone.  None if invalid."""
    try:
        return datetime.datetime.fromisoformat(str(text)).astimezone() if text else None
    except (OverflowError, OSError, ValueError):
        return None


def numbers_of(record: Mapping[str, object], left_out: Iterable[str] = ()) -> dict[str, float]:
    """The entries that are numbers, as floats; booleans are excluded."""
    hidden = set(left_out)
    return {
        str(name): float(value)
        for name, value in record.items()
        if name not in hidden and isinstance(value, int | float) and not isinstance(value, bool)
    }
