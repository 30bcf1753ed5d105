"""Lossless conversion of a study to one JSON object and back.

    {"format": "optformer-study", "version": 1, "problem": {...}, "trials": [{...}, ...]}

Standard JSON: infinities and NaN are the strings "inf", "-inf", "nan" in numeric fields, and {"number": "nan"} as
values of parameters, which may be text.  Fields with their default value are omitted.  `docs/corpora.md` lists the
fields.

Vizier's own protobuf messages are not used: they lose defaults of zero, bounds of metrics, the UNIFORM_DISCRETE
scale, integer types of values, stopping reasons, and fractions of seconds.
"""

import base64
import datetime
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Self

from google.protobuf import any_pb2
from vizier import pyvizier as vz

from optformer.data.sources.records import Quarantined

FORMAT: Final = "optformer-study"
VERSION: Final = 1


# --- Problems to JSON -------------------------------------------------------------------------------------------------


class StudyRecord(NamedTuple):
    """A study whose trials are already in the study format.

    Making pyvizier's objects takes several times as long as the rest of an import, so readers for stores with millions
    of trials make these records instead.

    Attributes:
      problem: the pyvizier problem, whose metadata name the study.
      trials: each in the format of `trial_to_json`.
    """

    problem: vz.ProblemStatement
    trials: list[dict[str, Any]]

    @classmethod
    def of(cls, study: vz.ProblemAndTrials) -> Self:
        return cls(study.problem, [trial_to_json(trial) for trial in study.trials])

    def to_pyvizier(self) -> vz.ProblemAndTrials:
        return vz.ProblemAndTrials(problem=self.problem, trials=[trial_from_json(trial) for trial in self.trials])

    def to_json(self) -> dict[str, Any]:
        """The record of one line."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "problem": {
                "parameters": [_parameter_to_json(config) for config in self.problem.search_space.parameters],
                "metrics": [_metric_to_json(metric) for metric in self.problem.metric_information],
                **_present(metadata=_metadata_to_json(self.problem.metadata)),
            },
            "trials": self.trials,
        }


def to_studies(
    records: Iterable[StudyRecord | Quarantined],
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Converts the trials of records to pyvizier's objects."""
    for record in records:
        yield record if isinstance(record, Quarantined) else record.to_pyvizier()


def study_to_json(study: vz.ProblemAndTrials) -> dict[str, Any]:
    """The record of one line."""
    return StudyRecord.of(study).to_json()


def _present(**fields: object) -> dict[str, object]:
    """The fields that do not have their empty default."""
    return {name: value for name, value in fields.items() if value not in (None, [], {}, "") and value is not False}


def _parameter_to_json(config: vz.ParameterConfig) -> dict[str, Any]:
    record: dict[str, Any] = {"name": config.name, "type": config.type.name}
    if config.type in (vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER):
        record["bounds"] = list(config.bounds)
    elif config.type != vz.ParameterType.CUSTOM:
        record["values"] = list(config.feasible_values)
    if config.scale_type is not None:
        record["scale"] = config.scale_type.name
    if config.default_value is not None:
        record["default"] = _value_to_json(config.default_value)
    if config.external_type != vz.ExternalType.INTERNAL:
        record["external"] = config.external_type.name
    if config.fidelity_config is not None:
        fidelity = config.fidelity_config
        record["fidelity"] = {"mode": fidelity.mode.name, "cost_ratio": list(fidelity.cost_ratio)}
    children: list[dict[str, Any]] = []
    for value, space in config.subspaces():
        parameters = [_parameter_to_json(child) for child in space.parameters]
        same = [child for child in children if child["parameters"] == parameters]
        if same:
            same[0]["when"].append(value)
        elif parameters:
            children.append({"when": [value], "parameters": parameters})
    if children:
        record["children"] = children
    return record


def _metric_to_json(metric: vz.MetricInformation) -> dict[str, object]:
    record: dict[str, object] = {"name": metric.name, "goal": metric.goal.name}
    optional = {
        "safety_threshold": metric.safety_threshold,
        "safety_std_threshold": metric.safety_std_threshold,
        "desired_min_safe_trials_fraction": metric.desired_min_safe_trials_fraction,
        "min_value": None if metric.min_value == -math.inf else metric.min_value,
        "max_value": None if metric.max_value == math.inf else metric.max_value,
    }
    return record | {name: _float_to_json(value) for name, value in optional.items() if value is not None}


def _metadata_to_json(metadata: vz.Metadata) -> list[list[object]]:
    """[[namespace components, {key: text, or {"type_url", "value"} of a packed message}], ...]."""
    spaces: list[list[object]] = []
    for namespace in metadata.namespaces():
        entries: dict[str, object] = {}
        for key, value in metadata.abs_ns(namespace).items():
            if not isinstance(value, str):
                packed = value
                if not isinstance(value, any_pb2.Any):
                    packed = any_pb2.Any()
                    packed.Pack(value)
                value = {"type_url": packed.type_url, "value": base64.b64encode(packed.value).decode()}
            entries[key] = value
        spaces.append([list(namespace), entries])
    return spaces


def _float_to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _value_to_json(value: float | int | str | bool) -> float | int | str | dict[str, str]:
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value


# --- Trials to JSON ---------------------------------------------------------------------------------------------------


def trial_to_json(trial: vz.Trial) -> dict[str, object]:
    final = trial.final_measurement
    record: dict[str, object] = {
        "id": trial.id,
        "parameters": {name: _value_to_json(value.value) for name, value in trial.parameters.items()},
    }
    if final is not None:
        record["final"] = _measurement_to_json(final)
    if trial.infeasibility_reason is not None:
        record["infeasible"] = trial.infeasibility_reason
    if trial.stopping_reason is not None:
        record["stopping_reason"] = trial.stopping_reason
    if trial.description is not None:
        record["description"] = trial.description
    if trial.assigned_worker is not None:
        record["worker"] = trial.assigned_worker
    return record | _present(
        requested=trial.is_requested,
        measurements=[_measurement_to_json(measurement) for measurement in trial.measurements],
        created=trial.creation_time and trial.creation_time.isoformat(),
        completed=trial.completion_time and trial.completion_time.isoformat(),
        links=dict(trial.related_links),
        metadata=_metadata_to_json(trial.metadata),
    )


def _measurement_to_json(measurement: vz.Measurement) -> dict[str, object]:
    metrics = {
        name: metric.value if metric.std is None else (metric.value, metric.std)
        for name, metric in measurement.metrics.items()
    }
    return measurement_record(
        metrics,
        steps=measurement.steps,
        elapsed=measurement.elapsed_secs,
        checkpoint_path=measurement.checkpoint_path,
    )


def measurement_record(
    metrics: Mapping[str, float | tuple[float, float]],
    *,
    steps: int = 0,
    elapsed: float = 0.0,
    checkpoint_path: str = "",
) -> dict[str, object]:
    """A measurement; `metrics` are values or pairs of value and standard deviation; `elapsed` is in seconds."""
    record: dict[str, object] = {
        "metrics": {
            name: list(map(_float_to_json, value)) if isinstance(value, tuple) else _float_to_json(value)
            for name, value in metrics.items()
        }
    }
    if steps:
        record["steps"] = steps
    if elapsed:
        record["elapsed_secs"] = elapsed
    if checkpoint_path:
        record["checkpoint_path"] = checkpoint_path
    return record


# --- JSON to studies --------------------------------------------------------------------------------------------------


def study_from_json(record: dict[str, Any]) -> vz.ProblemAndTrials:
    """Converts the record of one line to a study; raises one of `MALFORMED` if the record is invalid."""
    problem = problem_from_json(record)
    return vz.ProblemAndTrials(problem=problem, trials=[trial_from_json(trial) for trial in record["trials"]])


def problem_from_json(record: dict[str, Any]) -> vz.ProblemStatement:
    if record.get("format") != FORMAT:
        raise ValueError(f"not an {FORMAT} record")
    if record.get("version") != VERSION:
        raise ValueError(f"version {record.get('version')} of the format; this program reads version {VERSION}")
    stored = record["problem"]
    problem = vz.ProblemStatement(
        metric_information=vz.MetricsConfig([_metric_from_json(metric) for metric in stored["metrics"]])
    )
    for parameter in stored["parameters"]:
        problem.search_space.add(_parameter_from_json(parameter))
    _fill_metadata(problem.metadata, stored.get("metadata", ()))
    return problem


def _parameter_from_json(record: dict[str, Any]) -> vz.ParameterConfig:
    fidelity = record.get("fidelity")
    bounds = tuple(record["bounds"]) if "bounds" in record else None
    if bounds and record["type"] == "DOUBLE":
        bounds = tuple(map(float, bounds))  # other programs may write 1.0 as 1
    config = vz.ParameterConfig.factory(
        record["name"],
        bounds=bounds,
        feasible_values=record.get("values"),
        scale_type=vz.ScaleType[record["scale"]] if "scale" in record else None,
        default_value=plain_value(record.get("default")),
        external_type=vz.ExternalType[record.get("external", "INTERNAL")],
        fidelity_config=vz.FidelityConfig(fidelity["mode"], cost_ratio=fidelity["cost_ratio"]) if fidelity else None,
    )
    if config.type.name != record["type"]:
        raise ValueError(f"parameter {record['name']!r} says {record['type']} but describes a {config.type.name}")
    for group in record.get("children", ()):
        for value in group["when"]:
            for child in group["parameters"]:
                config.subspace(value).add(_parameter_from_json(child))
    return config


def _metric_from_json(record: dict[str, Any]) -> vz.MetricInformation:
    fields = {name: float(value) for name, value in record.items() if name not in ("name", "goal")}
    return vz.MetricInformation(record["name"], goal=vz.ObjectiveMetricGoal[record["goal"]], **fields)


def _fill_metadata(metadata: vz.Metadata, spaces: Iterable[Any]) -> None:
    for namespace, entries in spaces:
        into = metadata.abs_ns(namespace)
        for key, value in entries.items():
            if isinstance(value, dict):
                value = any_pb2.Any(type_url=value["type_url"], value=base64.b64decode(value["value"]))
            elif not isinstance(value, str):
                raise TypeError(f"metadata {key!r} is neither text nor a packed message")
            into[key] = value


def plain_value(value: Any) -> Any:
    """A parameter's value as a Python number or text."""
    return float(value["number"]) if isinstance(value, dict) else value


def trial_from_json(record: dict[str, Any]) -> vz.Trial:
    final, created, completed = record.get("final"), record.get("created"), record.get("completed")
    metadata = vz.Metadata()
    _fill_metadata(metadata, record.get("metadata", ()))
    trial = vz.Trial(
        id=record["id"],
        parameters={name: plain_value(value) for name, value in record["parameters"].items()},
        metadata=metadata,
        is_requested=record.get("requested", False),
        assigned_worker=record.get("worker"),
        stopping_reason=record.get("stopping_reason"),
        infeasibility_reason=record.get("infeasible"),
        description=record.get("description"),
        related_links=record.get("links", {}),
        final_measurement=_measurement_from_json(final) if final is not None else None,
        measurements=[_measurement_from_json(measurement) for measurement in record.get("measurements", ())],
        creation_time=datetime.datetime.fromisoformat(created) if created else None,
        completion_time=datetime.datetime.fromisoformat(completed) if completed else None,
    )
    if completed is None and trial.completion_time is not None:
        trial.completion_time = None  # pyvizier fills it in on construction
    return trial


def _measurement_from_json(record: dict[str, Any]) -> vz.Measurement:
    metrics = {
        name: vz.Metric(float(value[0]), std=float(value[1])) if isinstance(value, list) else vz.Metric(float(value))
        for name, value in record["metrics"].items()
    }
    return vz.Measurement(
        metrics=metrics,
        steps=record.get("steps", 0),
        elapsed_secs=record.get("elapsed_secs", 0.0),
        checkpoint_path=record.get("checkpoint_path", ""),
    )
