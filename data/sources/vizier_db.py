"""The SQLite database of a Vizier service: tables `studies` and `trials` that hold protobuf messages.

Read without a running service.  Conditional search spaces, measurements, metadata and times are kept.
"""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from vizier import pyvizier as vz
from vizier.service import pyvizier as service_vz
from vizier.service.protos import study_pb2

from optformer.data.sources import sqlite
from optformer.data.sources.records import MALFORMED, NAMESPACE, Quarantined, SourceError, error_text, quarantined_study


def recognizes(tables: dict[str, set[str]]) -> bool:
    """Whether an SQLite file with these tables is a Vizier service's."""
    return "serialized_study" in tables.get("studies", ()) and "serialized_trial" in tables.get("trials", ())


def read(path: Path, source: str, study: str | None = None) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Every study of the file, or the one named ("owners/.../studies/..." or its display name).

    Raises:
      SourceError: the file is no Vizier database, or is truncated or corrupt.
    """
    with sqlite.opened(path) as connection:
        tables = sqlite.columns(connection)
        if not recognizes(tables):
            raise SourceError(f"{path}: an SQLite file, but no Vizier database; its tables are {sorted(tables)}")
        for (name,) in list(connection.execute("SELECT study_name FROM studies ORDER BY rowid")):
            with sqlite.snapshot(connection):
                row = connection.execute(
                    "SELECT owner_id, study_id, serialized_study FROM studies WHERE study_name = ?", (name,)
                ).fetchone()
                trials = []
                if row is not None:
                    query = "SELECT trial_id, serialized_trial FROM trials WHERE owner_id = ? AND study_id = ?"
                    trials = connection.execute(query + " ORDER BY trial_id", row[:2]).fetchall()
            if row is None:
                continue  # deleted by the service since the names were listed
            try:
                proto = study_pb2.Study.FromString(_blob(row[2]))
            except DecodeError:
                if study is None or study == name:
                    reason = "damaged record: the study's message cannot be parsed"
                    yield from quarantined_study(source, name, [trial_id for trial_id, _ in trials], reason)
                continue
            if study is None or study in (name, proto.display_name):
                yield from _study(proto, name, trials, source, path.name)


def _study(
    proto: study_pb2.Study, name: str, rows: list[tuple[int, bytes]], source: str, file_name: str
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    try:
        problem = problem_of(service_vz.StudyConfig.from_proto(proto.study_spec))
        _restore_zero_defaults(problem.search_space.parameters, proto.study_spec.parameters)
    except MALFORMED as error:
        reason = f"study cannot be represented: {error_text(error)}"
        yield from quarantined_study(source, name, [trial_id for trial_id, _ in rows], reason)
        return
    facts = problem.metadata.ns(NAMESPACE)
    facts["study_id"], facts["source"] = name, file_name
    if proto.display_name and "title" not in facts:
        facts["title"] = proto.display_name

    types: dict[str, set[vz.ParameterType]] = {}
    for config in problem.search_space.root.select_all():
        types.setdefault(config.name, set()).add(config.type)
    trials = []
    for trial_id, blob in rows:
        try:
            trials.append(_trial(study_pb2.Trial.FromString(_blob(blob)), types))
        except DecodeError:
            yield Quarantined(source, name, trial_id, None, "damaged record: the trial's message cannot be parsed")
        except MALFORMED as error:
            reason = f"trial cannot be represented: {error_text(error)}"
            yield Quarantined(source, name, trial_id, None, reason)
    if rows and not trials:
        yield Quarantined(source, name, None, None, "no usable trials")
        return
    yield vz.ProblemAndTrials(problem=problem, trials=trials)


def problem_of(config: service_vz.StudyConfig) -> vz.ProblemStatement:
    """The problem of a service's study; algorithm and noise, which only the service's class has, as metadata."""
    problem = config.to_problem()
    algorithm = config.algorithm
    if algorithm and algorithm != "ALGORITHM_UNSPECIFIED":
        problem.metadata.ns(NAMESPACE)["algorithm"] = algorithm.lower()
    if config.observation_noise != service_vz.ObservationNoise.OBSERVATION_NOISE_UNSPECIFIED:
        problem.metadata.ns("vizier")["observation_noise"] = config.observation_noise.name
    return problem


def _restore_zero_defaults(configs: list[vz.ParameterConfig], protos: Any) -> None:
    # Vizier's converter treats a default of 0 or "" as missing.  Parameters have the same order on both sides.
    for config, proto in zip(configs, protos, strict=True):
        spec = getattr(proto, proto.WhichOneof("parameter_value_spec"))
        if spec.HasField("default_value") and config.default_value is None:
            config._default_value = spec.default_value.value
        for conditional in proto.conditional_parameter_specs:
            condition = getattr(conditional, conditional.WhichOneof("parent_value_condition"))
            for value in condition.values:
                child = config.subspace(value).get(conditional.parameter_spec.parameter_id)
                _restore_zero_defaults([child], [conditional.parameter_spec])


def _trial(proto: study_pb2.Trial, types: dict[str, set[vz.ParameterType]]) -> vz.Trial:
    trial = service_vz.TrialConverter.from_proto(proto)
    if proto.HasField("end_time") and trial.completion_time in (None, trial.creation_time):
        # The converter reads the end of succeeded trials only.
        trial.completion_time = proto.end_time.ToDatetime(tzinfo=datetime.UTC)
    for name, value in list(trial.parameters.items()):
        # Protobuf has one kind of number.
        if types.get(name) == {vz.ParameterType.INTEGER} and float(value.value).is_integer():
            trial.parameters[name] = int(value.value)
    return trial


def _blob(value: bytes | str) -> bytes:
    # The column is declared as text; rows hold bytes, except where a tool has rewritten the table.
    return value.encode("latin-1", "replace") if isinstance(value, str) else value
