"""Reads logged studies of any store, one after the other, as pyvizier studies.

    for record in read("tuning.db"):
        if isinstance(record, Quarantined):
            print(record.study, record.trial, record.reason)
        else:
            print(study_name(record), len(record.trials))

Formats: Optuna's SQLite storage of any version since 0.19 ("optuna") and its journal file ("optuna-journal"), a Vizier
service's SQLite database ("vizier"), this project's JSON lines ("study-lines"), Optuna studies as JSON lines
("optuna-lines"), CSV and Parquet ("table"), result folders of Ray Tune ("ray"), Syne Tune ("syne-tune") and Keras
Tuner ("keras-tuner"), MLflow's tracking store ("mlflow") and HPO-B's files ("hpob").
"""

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optformer.data.sources.locations import local_path
from optformer.data.sources.records import NAMESPACE, Quarantined, SourceError, SourceOptions, study_name

if TYPE_CHECKING:
    from vizier import pyvizier as vz

    Study = vz.ProblemAndTrials

__all__ = [
    "FORMATS",
    "NAMESPACE",
    "Quarantined",
    "SourceError",
    "SourceOptions",
    "Study",
    "count_studies",
    "detect_format",
    "read",
    "read_study",
    "study_name",
    "write_studies",
]

FORMATS: Final = (
    "optuna",
    "optuna-journal",
    "vizier",
    "study-lines",
    "optuna-lines",
    "table",
    "ray",
    "syne-tune",
    "mlflow",
    "keras-tuner",
    "hpob",
)
_MODULES: Final = {
    "optuna": "optuna_rdb",
    "optuna-journal": "optuna_journal",
    "vizier": "vizier_db",
    "study-lines": "study_lines",
    "optuna-lines": "optuna_lines",
    "table": "csv_table",
    "ray": "ray_results",
    "syne-tune": "syne_tune_results",
    "mlflow": "mlflow_store",
    "keras-tuner": "keras_tuner_results",
    "hpob": "hpob_logs",
}
_WITH_OPTIONS: Final = ("table", "ray", "syne-tune", "mlflow", "keras-tuner")
_FOLDERS: Final = ("ray", "syne-tune", "mlflow", "keras-tuner", "hpob")
_DATABASES: Final = ("optuna", "vizier")
_LINES_LOOKED_AT = 20
_FOLDERS_NAMED = 5


def __getattr__(name: str) -> Any:
    """Imports `Study` and `write_studies`, which need Vizier, on first use."""
    if name == "Study":
        from vizier import pyvizier

        return pyvizier.ProblemAndTrials
    if name == "write_studies":
        from optformer.data.sources.study_lines import write_studies

        return write_studies
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def read(
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    study: str | None = None,
    mapping: str | os.PathLike[str] | None = None,
    metric: str | Sequence[str] | None = None,
    goal: str | Sequence[str] | None = None,
) -> "Iterator[vz.ProblemAndTrials | Quarantined]":
    """Yields every study of a store, and records of what could not be used, with one study in memory at a time.

    An unusable trial is quarantined, and the other trials of its study are kept.  A study that cannot be represented is
    quarantined completely.  The file is never written to, and never locked for longer than one query.  Journals, tables
    and MLflow's experiments are loaded completely.

    Args:
      path: a database (optionally with the prefix `sqlite:///`), a file of JSON lines, a table, or a folder of results.
      format: one of `FORMATS`; "auto" recognizes it by the content.
      study: read only the study of this name.
      mapping: for a table, the JSON file with the roles of its columns; default: `<path>.mapping.json`.
      metric: name of the objective, or several separated by commas, for stores that do not record it.
      goal: "minimize" or "maximize", or one for each metric.

    Raises:
      SourceError: the file does not exist, is not a study store, or is truncated or corrupt; or the objective is
        neither recorded nor given.  May be raised while iterating, if damage is found later.
    """
    path, source = _existing(path), str(path)
    options = SourceOptions.of(mapping, metric, goal)
    format = detect_format(path, mapping=mapping) if format == "auto" else format
    if mapping is not None and format != "table" and not Path(mapping).exists():
        raise SourceError(f"{mapping}: no such file")
    reader = _reader(path, format)
    if format in _WITH_OPTIONS:
        return reader.read(path, source, study, options)
    return reader.read(path, source, study)


def read_study(
    path: str | os.PathLike[str], study: str | None = None, format: str = "auto"
) -> "tuple[vz.ProblemAndTrials, list[Quarantined]]":
    """The only study of a store, or the one with this name, and its trials that could not be used.

    Raises:
      SourceError: there is no such study, there are several and `study` is None, or the file cannot be read.
    """
    studies, quarantined = [], []
    for record in read(path, format, study=study):
        if isinstance(record, Quarantined):
            quarantined.append(record)
        else:
            studies.append(record)
        if len(studies) > 1:
            break
    if len(studies) == 1:
        return studies[0], [record for record in quarantined if record.study == study_name(studies[0])]
    if studies:
        first = ", ".join(repr(study_name(known)) for known in studies)
        raise SourceError(f"{path}: holds several studies ({first}, ...); name one (--study NAME on the command line)")
    named = f"no study {study!r}" if study is not None else "no study"
    whole = [record for record in quarantined if record.trial is None and study in (None, record.study)]
    why = f"; {whole[0].study!r} cannot be used: {whole[0].reason}" if whole else ""
    if study is not None and not whole:
        why = f"; `optformer studies {path}` lists all studies"
    raise SourceError(f"{path}: {named} that can be used{why}")


def detect_format(path: str | os.PathLike[str], *, mapping: str | os.PathLike[str] | None = None) -> str:
    """Recognizes the format of a file or folder, one of `FORMATS`, by its content; CSV by its name or its mapping.

    Raises:
      SourceError: the file does not exist, is empty, or has no known format.
    """
    path = _existing(path)
    if path.is_dir():
        return _detect_folder(path)
    from optformer.data.sources import foreign_formats, sqlite

    if sqlite.is_sqlite(path):
        from optformer.data.sources import mlflow_store, optuna_rdb

        with sqlite.opened(path) as connection:
            tables = sqlite.columns(connection)
        if optuna_rdb.recognizes(tables):
            return "optuna"
        if mlflow_store.recognizes(tables):
            return "mlflow"
        if "serialized_study" in tables.get("studies", ()):
            return "vizier"
        if why := foreign_formats.explained_tables(tables):
            raise SourceError(f"{path}: {why}")
        found = ", ".join(sorted(tables)) or "none"
        raise SourceError(
            f"{path}: an SQLite database, but no study store (neither Optuna's nor Vizier's); its tables: {found}"
        )
    if why := foreign_formats.explained(path):
        raise SourceError(f"{path}: {why}")
    from optformer.data.sources import csv_table, hpob_logs, keras_tuner_results

    if keras_tuner_results.recognizes(path):
        return "keras-tuner"
    if csv_table.recognizes(path):
        return "table"
    if hpob_logs.recognizes(path):
        return "hpob"
    try:
        return _detect_lines(path)
    except SourceError:
        if mapping is not None:
            return "table"
        raise


def _detect_folder(path: Path) -> str:
    from optformer.data.sources import foreign_formats

    if format := _folder_format(path):
        return format
    if why := foreign_formats.explained(path):
        raise SourceError(f"{path}: {why}")
    below = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir() and _folder_format(folder)]
    further = f"; folders in it do: {', '.join(below[:_FOLDERS_NAMED])}" if below else ""
    raise SourceError(
        f"{path}: a folder; name the database or JSON-lines file in it (it holds no results of Ray Tune, Syne Tune, "
        f"MLflow or Keras Tuner, and no HPO-B{further})"
    )


def _folder_format(path: Path) -> str | None:
    from optformer.data.sources import hpob_logs, keras_tuner_results, mlflow_store, ray_results, syne_tune_results

    if syne_tune_results.recognizes(path):
        return "syne-tune"
    if ray_results.recognizes(path):
        return "ray"
    if mlflow_store.recognizes_folder(path):
        return "mlflow"
    if keras_tuner_results.recognizes(path):
        return "keras-tuner"
    return "hpob" if hpob_logs.recognizes(path) else None


def _detect_lines(path: Path) -> str:
    import gzip
    import zlib

    from optformer.data.sources import optuna_journal, optuna_lines
    from optformer.data.sources.study_json import FORMAT
    from optformer.data.sources.study_lines import is_gzip

    looked_at = 0
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                looked_at += 1
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                if isinstance(record, dict) and record.get("format") == FORMAT:
                    return "study-lines"
                if isinstance(record, dict) and optuna_lines.recognizes(record):
                    return "optuna-lines"
                if isinstance(record, dict) and optuna_journal.recognizes(record):
                    return "optuna-journal"
                if looked_at == _LINES_LOOKED_AT:
                    break
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path}: the compressed file is truncated or corrupt ({error})") from error
    raise SourceError(
        f"{path}: no study store: neither an SQLite database (Optuna, Vizier) nor JSON lines with a study (lines "
        f"looked at: {looked_at})"
    )


def count_studies(
    path: str | os.PathLike[str], format: str = "auto", *, mapping: str | os.PathLike[str] | None = None
) -> int:
    """Approximate number of studies in a store, without building them; for progress bars."""
    path = _existing(path)
    format = detect_format(path, mapping=mapping) if format == "auto" else format
    if format in _DATABASES:
        from optformer.data.sources import sqlite

        with sqlite.opened(path) as connection:
            return int(connection.execute("SELECT count(*) FROM studies").fetchone()[0])
    reader = _reader(path, format)
    if format == "table":
        return int(reader.count(path, SourceOptions(mapping=mapping)))
    if hasattr(reader, "count"):
        return int(reader.count(path))
    from optformer.data.sources.study_lines import count_lines

    return count_lines(path)


def _existing(path: str | os.PathLike[str]) -> Path:
    path = local_path(path)
    if path.is_dir():
        return path
    if not path.exists():
        raise SourceError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise SourceError(f"{path}: empty file")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    return path


def _reader(path: Path, format: str) -> Any:
    """The module that reads a format; checks that the path is a file or a folder as the format requires."""
    if format not in FORMATS:
        raise SourceError(f"unknown format {format!r}; known: auto, {', '.join(FORMATS)}")
    from optformer.data.sources import sqlite

    if path.is_dir() and format not in _FOLDERS:
        raise SourceError(f"{path}: is a folder, but format {format!r} needs a file")
    if not path.is_dir() and format in ("ray", "syne-tune"):
        raise SourceError(f"{path}: is a file, but format {format!r} needs a folder")
    if format in (*_DATABASES, "mlflow") and not path.is_dir() and not sqlite.is_sqlite(path):
        raise SourceError(f"{path}: is not an SQLite database, which format {format!r} needs")
    return importlib.import_module(f"{__name__}.{_MODULES[format]}")
