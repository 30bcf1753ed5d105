"""Validation of what callers send to the service: limits on sizes, and consistency with the study."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.protobuf.message import Message
from vizier import pyvizier as vz
from vizier._src.service import study_pb2
from vizier.service import pyvizier as svz

from optformer.terminal import CONTROL

LONGEST_NAME: Final = 200
"""Largest number of characters of the name of an owner, study, client or metric."""
_LONGEST_PARAMETER: Final = 1000
"""Largest number of characters of the name of a parameter."""
EXACT: Final = 2**53
"""Largest integer: the service stores numbers as doubles, which cannot represent all larger integers."""
_KINDS: Final = ("number_value", "string_value", "bool_value")
_DEPTH: Final = 32
"""Largest number of levels of conditional parameters."""


class LimitError(RuntimeError):
    """A caller exceeds a limit of the server."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on what callers may store.

    Attributes:
      studies: number of studies per owner.
      trials: number of trials per study.
      suggestions: number of suggestions per call.
      parameters: number of parameters per study, conditional ones included.
      values: number of values of all discrete and categorical parameters of a study.
      metrics: number of metrics per study.
      record_bytes: size of a study without its trials, or of a trial, each with its metadata and measurements.
      study_bytes: size of all trials of a study.
    """

    studies: int = 1000
    trials: int = 10_000
    suggestions: int = 100
    parameters: int = 1000
    values: int = 20_000
    metrics: int = 100
    record_bytes: int = 2 * 2**20
    study_bytes: int = 64 * 2**20


def check_name(what: str, name: str, longest: int = LONGEST_NAME) -> None:
    """Raises ValueError if a name is empty or has control characters, and `LimitError` if it is too long."""
    if not name:
        raise ValueError(f"{what} has no name")
    if len(name) > longest:
        raise LimitError(f"{what} {name[:50]!r}... has {len(name)} characters; at most {longest} are allowed")
    if CONTROL.search(name):
        raise ValueError(f"{what} {name!r} has control characters in its name")


def check_study(study: study_pb2.Study, limits: Limits) -> None:
    """Checks the size of a study, its names and its integers, before anything else is read.

    Raises:
      LimitError: the study is too large.
      ValueError: a name or an integer cannot be stored.
    """
    check_name("the study", study.display_name)
    where = f"study {study.display_name!r}"
    check_record(study, where, limits)
    _check_count(f"{where} has", len(study.study_spec.metrics), "metrics", limits.metrics)
    for metric in study.study_spec.metrics:
        check_name(f"{where}: a metric", metric.metric_id)
    _check_count(f"{where} has", len(study.study_spec.parameters), "parameters", limits.parameters)
    values = 0
    for number, (parameter, depth) in enumerate(_parameters(study.study_spec.parameters), 1):
        if depth > _DEPTH:
            raise LimitError(f"{where} has more than {_DEPTH} levels of conditional parameters")
        check_name(f"{where}: a parameter", parameter.parameter_id, _LONGEST_PARAMETER)
        low, high = parameter.integer_value_spec.min_value, parameter.integer_value_spec.max_value
        if max(abs(low), abs(high)) > EXACT:
            raise ValueError(
                f"{where}, parameter {parameter.parameter_id!r}: integers in [{low}, {high}] cannot be stored "
                "exactly; the largest is 2**53: use a float parameter"
            )
        values += len(parameter.discrete_value_spec.values) + len(parameter.categorical_value_spec.values)
        _check_count(f"{where} has", number, "parameters", limits.parameters)
        _check_count(f"{where} has", values, "discrete and categorical values", limits.values)


def _parameters(
    top: Iterable[study_pb2.StudySpec.ParameterSpec],
) -> Iterator[tuple[study_pb2.StudySpec.ParameterSpec, int]]:
    """All parameters of a conditional space with their depth, from 1."""
    waiting = [(parameter, 1) for parameter in top]
    while waiting:
        parameter, depth = waiting.pop()
        yield parameter, depth
        waiting += [(child.parameter_spec, depth + 1) for child in parameter.conditional_parameter_specs]


def _check_count(where: str, count: int, what: str, most: int) -> None:
    if count > most:
        raise LimitError(f"{where} more than {most} {what}")


def check_record(record: Message, where: str, limits: Limits) -> None:
    """Raises `LimitError` if a study or trial is too large; it is written again with each change."""
    size = record.ByteSize()
    if size > limits.record_bytes:
        raise LimitError(
            f"{where} would have {size} bytes, with its metadata and measurements; at most {limits.record_bytes} are "
            "allowed"
        )


# Consistency with the study.


def active(space: vz.SearchSpace, values: Mapping[str, object]) -> Iterator[vz.ParameterConfig]:
    """The parameters that exist under these values (of any representation), parents first."""
    waiting = list(reversed(space.parameters))
    while waiting:
        config = waiting.pop()
        yield config
        value = values.get(config.name)
        boolean = config.external_type == vz.ExternalType.BOOLEAN and isinstance(value, bool)
        kept = str(value) if boolean else value
        for condition, children in config.subspaces():
            if kept == condition:
                waiting += reversed(children.parameters)


def read_trial(trial: study_pb2.Trial, where: str) -> vz.Trial:
    """A trial as a `pyvizier` object.

    Raises ValueError for a trial that could be stored but not read again, for example with a date that does not exist.
    All later suggestions for the study would fail.
    """
    for parameter in trial.parameters:
        if parameter.value.WhichOneof("kind") not in _KINDS:
            named = f"{where} sets parameter {parameter.parameter_id!r}"
            raise ValueError(f"{named} to a value that is not a number, a string or a boolean")
    for measurement in (trial.final_measurement, *trial.measurements):
        if min(measurement.elapsed_duration.seconds, measurement.step_count) < 0:
            raise ValueError(f"{where} has a measurement with a negative time or step")
        names = [metric.metric_id for metric in measurement.metrics]
        for name in names:
            check_name(f"{where}: a metric", name)
        if len(names) > len(set(names)):
            raise ValueError(f"{where} has a measurement with two values of one metric, {sorted(names)[:5]}")
    try:
        return svz.TrialConverter.from_proto(trial)
    except Exception as error:  # Vizier's converter raises errors of several types
        raise ValueError(f"{where} cannot be read: {error}") from error


def check_parameters(parameters: vz.ParameterDict, space: vz.SearchSpace, study: str) -> list[str]:
    """The parameters that a trial lacks.

    Raises ValueError for a trial outside the space.  (`SearchSpace.contains` does not support conditional spaces.)
    """
    values = {name: value.value for name, value in parameters.items()}
    known = {parameter.name: parameter for parameter in active(space, values)}
    for name in values:
        if name not in known:
            under = " under its other values" if space.is_conditional else ""
            raise ValueError(f"a trial of {study} sets {name!r}, which is not a parameter of the study{under}")
    for name, value in values.items():
        if not known[name].contains(value):
            raise ValueError(f"a trial of {study} sets parameter {name!r} to {value!r}, outside its range")
    return [name for name in known if name not in values]


def check_measurement(measurement: study_pb2.Measurement, config: svz.StudyConfig, trial: str) -> None:
    """Raises ValueError for a final measurement that lacks a metric or has one that is not a finite number."""
    given = {metric.metric_id for metric in measurement.metrics}
    missing = [metric.name for metric in config.metric_information if metric.name not in given]
    if missing:
        raise ValueError(f"the final measurement of {trial} lacks {', '.join(map(repr, missing))}")
    check_numbers(measurement, trial)


def check_numbers(measurement: study_pb2.Measurement, trial: str) -> None:
    """Raises ValueError for a metric that is not a finite number."""
    for metric in measurement.metrics:
        if not math.isfinite(metric.value):
            raise ValueError(
                f"{metric.metric_id!r} of {trial} is {metric.value}; complete a trial that failed as infeasible instead"
            )
