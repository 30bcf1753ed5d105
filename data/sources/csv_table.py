"""Tables with one trial, or one step of a trial, a row: CSV (`.gz` or not) and Parquet, with a mapping file.

The mapping is JSON, in `<table>.mapping.json` beside the table or named by the user:

    {"study": "run_group", "trial": "run", "step": "epoch", "status": "state",
     "parameters": {"lr": {"type": "double", "range": [1e-5, 0.1], "scale": "log"}, "optimizer": {}},
     "objectives": {"val_loss": "minimize"}}

Only "parameters" (an object, or a list of columns) and "objectives" are needed.  What is not declared of a parameter
is inferred.  A whole table is in memory, because the rows of a study may stand anywhere.
"""

import collections
import csv
import dataclasses
import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from vizier import pyvizier as vz

from optformer.data.sources.inferred_space import Declared, parsed_trials
from optformer.data.sources.logged_study import LoggedStudy, LoggedTrial, Report, to_pyvizier
from optformer.data.sources.records import GOALS, Quarantined, SourceError, SourceOptions, UnusableError

PARQUET_HEADER: Final = b"PAR1"
KINDS: Final = ("double", "integer", "categorical", "boolean")
COLUMN_FIELDS: Final = ("study", "trial", "step", "status", "seconds")
STATES: Final = {
    "completed": ("completed", "complete", "finished", "succeeded", "success", "terminated", "done", "ok"),
    "infeasible": ("infeasible", "failed", "fail", "error", "errored", "killed", "crashed"),
    "stopped": ("stopped", "pruned", "early_stopped"),
    "active": ("active", "running", "pending", "in_progress"),
    "requested": ("requested", "waiting", "scheduled", "queued"),
}
_STATE_OF: Final = {word: state for state, words in STATES.items() for word in words}


class Row(NamedTuple):
    """One row: its number in the file (the header of a CSV is line 1) and its cells; empty ones are left out."""

    number: int
    cells: dict[str, object]


@dataclasses.dataclass(frozen=True)
class Mapping:
    """What the columns of a table are; `columns` are those named by "study", "trial" and so on."""

    columns: dict[str, str]
    parameters: dict[str, Declared]
    objectives: dict[str, str]
    title: str = ""
    algorithm: str = ""

    @classmethod
    def load(cls, path: Path) -> "Mapping":
        """Reads the JSON file.

        Raises:
          SourceError: it cannot be read, or a field of it is unknown, missing or of the wrong kind.
        """
        try:
            record = json.loads(path.read_text())
        except OSError as error:
            raise SourceError(f"{path}: mapping cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise SourceError(f"{path}: mapping is no JSON ({error})") from error
        if not isinstance(record, dict):
            raise SourceError(f"{path}: mapping is no JSON object")
        unknown = set(record) - {*COLUMN_FIELDS, "parameters", "objectives", "title", "algorithm"}
        if unknown:
            known = ", ".join((*COLUMN_FIELDS, "parameters", "objectives", "title", "algorithm"))
            raise SourceError(f"{path}: unknown field {sorted(unknown)[0]!r}; known: {known}")
        parameters = record.get("parameters")
        if isinstance(parameters, list):
            parameters = {name: {} for name in parameters if isinstance(name, str)}
        if not isinstance(parameters, dict) or not parameters:
            raise SourceError(f'{path}: "parameters" must name at least one column')
        objectives = record.get("objectives")
        if not isinstance(objectives, dict) or not objectives:
            raise SourceError(f'{path}: "objectives" must name at least one column, as in {{"loss": "minimize"}}')
        for name, goal in objectives.items():
            if str(goal).lower() not in GOALS:
                raise SourceError(f"{path}: unknown goal {goal!r} of objective {name!r}; known: minimize, maximize")
        texts = {key: record.get(key, "") for key in (*COLUMN_FIELDS, "title", "algorithm")}
        for key, text in texts.items():
            if not isinstance(text, str):
                raise SourceError(f"{path}: {key!r} must be text, not {text!r}")
        return cls(
            {key: texts[key] for key in COLUMN_FIELDS if texts[key]},
            {name: _declared(path, name, declaration) for name, declaration in parameters.items()},
            {name: GOALS[str(goal).lower()] for name, goal in objectives.items()},
            texts["title"],
            texts["algorithm"],
        )

    def check(self, path: Path, found: Iterable[str]) -> None:
        """Raises SourceError if the table at `path`, which has the columns `found`, lacks one of these."""
        found = list(found)
        missing = [c for c in (*self.columns.values(), *self.parameters, *self.objectives) if c not in found]
        if missing:
            raise SourceError(
                f"{path}: no column {', '.join(map(repr, missing))}, which the mapping names; columns: "
                + ", ".join(map(str, found))
            )


def _declared(path: Path, name: str, declaration: Any) -> Declared:
    def refuse(why: str) -> SourceError:
        return SourceError(f"{path}: parameter {name!r}: {why}")

    if not isinstance(declaration, dict):
        raise refuse(f'must be an object such as {{"type": "double"}}, not {declaration!r}')
    unknown = set(declaration) - {"type", "range", "scale", "values"}
    if unknown:
        raise refuse(f"unknown field {sorted(unknown)[0]!r}; known: type, range, scale, values")
    kind, scale, bounds, values = map(declaration.get, ("type", "scale", "range", "values"))
    if kind not in (None, *KINDS):
        raise refuse(f"unknown type {kind!r}; known: {', '.join(KINDS)}")
    if scale not in (None, "log", "linear"):
        raise refuse(f"unknown scale {scale!r}; known: linear, log")
    if bounds is not None:
        if not (
            isinstance(bounds, list)
            and len(bounds) == 2
            and all(isinstance(b, int | float) and not isinstance(b, bool) and math.isfinite(b) for b in bounds)
            and bounds[0] <= bounds[1]
        ):
            raise refuse(f"range must be two numbers in order, not {bounds!r}")
        if scale == "log" and bounds[0] <= 0:
            raise refuse(f"a log scale needs a positive range, not {bounds!r}")
        if kind in ("categorical", "boolean"):
            raise refuse(f"a {kind} parameter has no range")
        kind = kind or ("integer" if all(isinstance(bound, int) for bound in bounds) else "double")
        bounds = (bounds[0], bounds[1])
    if values is not None:
        if not isinstance(values, list) or not values or kind not in (None, "categorical"):
            raise refuse("values must be a list of categories, of a categorical parameter")
        kind = "categorical"
        values = tuple(dict.fromkeys(None if value in ("", None) else str(value) for value in values))
    return Declared(kind, bounds, None if scale is None else scale == "log", values)


def mapping_path(path: Path, options: SourceOptions) -> Path:
    """The mapping of a table: the one given, else the file beside it, which may not exist."""
    return Path(options.mapping) if options.mapping is not None else path.with_name(path.name + ".mapping.json")


def recognizes(path: Path) -> bool:
    """Whether a file is a table: Parquet by its content, CSV by its name or because a mapping lies beside it."""
    if is_parquet(path):
        return True
    name = path.name.removesuffix(".gz")
    return name.endswith((".csv", ".tsv")) or mapping_path(path, SourceOptions()).exists()


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PARQUET_HEADER)) == PARQUET_HEADER


def read(
    path: Path,
    source: str,
    study: str | None = None,
    options: SourceOptions = SourceOptions(),  # noqa: B008, immutable
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Every study of the table, or the one with that name; without a study column the table is one study.

    Raises:
      SourceError: no mapping, a column that it names is missing, or the table cannot be read.
    """
    mapping_file = mapping_path(path, options)
    if not mapping_file.exists():
        raise SourceError(
            f"{path}: a table needs a mapping that says which columns are parameters and objectives; write "
            f"{mapping_file.name} beside it or give --mapping FILE"
        )
    mapping = Mapping.load(mapping_file)
    columns, rows = _parquet(path, mapping) if is_parquet(path) else _csv(path, source, mapping)
    mapping.check(path, columns)
    studies: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row, Quarantined):
            yield row
            continue
        name = str(row.cells.get(mapping.columns["study"], "")) if "study" in mapping.columns else path.name
        if not name:
            yield Quarantined(source, f"line {row.number}", None, None, "no study: the cell of the study is empty")
        elif study is None or study == name:
            studies.setdefault(name, []).append(row)
    for name, own in studies.items():
        facts = {"title": mapping.title or (name if "study" in mapping.columns else ""), "algorithm": mapping.algorithm}
        trials = _trials(own, mapping)
        yield from to_pyvizier(
            LoggedStudy(source, path.name, "table", name, mapping.objectives, trials, mapping.parameters, facts)
        )


def count(path: Path, options: SourceOptions) -> int:
    """How many studies the table holds; 1 if it cannot be told, which reading will explain."""
    try:
        mapping = Mapping.load(mapping_path(path, options))
        if "study" not in mapping.columns:
            return 1
        _, rows = _parquet(path, mapping) if is_parquet(path) else _csv(path, str(path), mapping)
        column = mapping.columns["study"]
        return len({row.cells.get(column) for row in rows if isinstance(row, Row)})
    except SourceError:
        return 1


def _csv(path: Path, source: str, mapping: Mapping) -> tuple[list[str], Iterator[Row | Quarantined]]:
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open if compressed else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            first = file.readline()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path}: the compressed file is truncated or corrupt ({error})") from error
    delimiter = max(",\t;", key=first.count)
    header = next(csv.reader([first], delimiter=delimiter), [])
    repeated = [name for name, times in collections.Counter(header).items() if times > 1]
    used = {*mapping.columns.values(), *mapping.parameters, *mapping.objectives}
    if used & set(repeated):
        raise SourceError(f"{path}: the column {sorted(used & set(repeated))[0]!r} is there twice")

    def rows() -> Iterator[Row | Quarantined]:
        line = 1
        try:
            with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
                reader = csv.reader(file, delimiter=delimiter)
                next(reader)
                for cells in reader:
                    line = reader.line_num
                    if not any(cells):
                        continue
                    if len(cells) != len(header):
                        reason = f"unreadable line: {len(cells)} cells, and the header has {len(header)}"
                        yield Quarantined(source, f"line {line}", None, None, reason)
                        continue
                    yield Row(line, {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell})
        except (EOFError, gzip.BadGzipFile, zlib.error, csv.Error) as error:
            reason = f"file ends early: after line {line} ({error})"
            yield Quarantined(source, f"line {line + 1}", None, None, reason)

    return header, rows()


def _parquet(path: Path, mapping: Mapping) -> tuple[list[str], Iterator[Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SourceError(f"{path}: a Parquet file needs pyarrow; install it with `pip install pyarrow`") from error
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: the Parquet file is truncated or corrupt ({error})") from error
    names = list(file.schema_arrow.names)
    used = [c for c in (*mapping.columns.values(), *mapping.parameters, *mapping.objectives) if c in names]

    def rows() -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(columns=list(dict.fromkeys(used))):
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(number, {name: cell for name, cell in cells.items() if cell is not None})
        except (pyarrow.ArrowException, OSError) as error:
            raise SourceError(f"{path}: the Parquet file is corrupt after row {number} ({error})") from error

    return names, rows()


def _trials(rows: list[Row], mapping: Mapping) -> list[LoggedTrial]:
    """The trials, of one row each, or of all rows with the same trial id in the order of their steps."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        key = row.cells.get(mapping.columns["trial"]) if "trial" in mapping.columns else row.number
        groups.setdefault(("no trial id", row.number) if key is None else key, []).append(row)
    numbers = _numbers(list(groups)) if "trial" in mapping.columns else list(range(1, len(groups) + 1))
    parameters = [
        {name: row.cells[name] for row in reversed(own) for name in mapping.parameters if name in row.cells}
        for own in groups.values()
    ]
    parsed = _parsed(parameters, mapping)
    return [
        _trial(number, own, values, mapping)
        for number, own, values in zip(numbers, groups.values(), parsed, strict=True)
    ]


def _numbers(keys: list[object]) -> list[int]:
    """Trial ids where all are whole numbers, else the order of appearance."""
    try:
        numbers = [int(str(key)) for key in keys]
    except ValueError:
        return list(range(1, len(keys) + 1))
    return numbers if len(set(numbers)) == len(numbers) and min(numbers) >= 0 else list(range(1, len(keys) + 1))


def _parsed(trials: list[dict[str, object]], mapping: Mapping) -> list[dict[str, object]]:
    """Cells of a CSV as typed values; declared categories stay text, and so do the typed cells of Parquet."""
    texts = [{name: v for name, v in trial.items() if isinstance(v, str)} for trial in trials]
    typed = parsed_trials(texts)
    for name, declaration in mapping.parameters.items():
        if _lists_empty_cells(name, declaration, trials):
            for trial in trials:
                if trial:
                    trial.setdefault(name, None)
        for trial, one, source in zip(trials, typed, texts, strict=True):
            if name not in trial:
                continue
            if trial[name] is None:
                one[name] = None
            elif declaration.kind == "categorical":
                one[name] = str(trial[name])
            elif declaration.kind == "boolean" and name in source:
                one[name] = _converted(source[name], "boolean")
            elif name not in source:
                one[name] = trial[name]
            elif declaration.kind is not None and isinstance(text := one[name], str):
                one[name] = _converted(text, declaration.kind)
    return typed


def _lists_empty_cells(name: str, declaration: Declared, trials: list[dict[str, object]]) -> bool:
    """Whether an empty cell of the column is a category of its own.

    It is if the mapping says so, or if a value of a category is all that there is beside empty cells.
    """
    if declaration.values is not None:
        return None in declaration.values
    found = {str(trial[name]) for trial in trials if name in trial}
    return len(found) == 1 and declaration.bounds is None and any(trial and name not in trial for trial in trials)


def _converted(text: str, kind: str) -> bool | int | float | str:
    """A cell of a column that is not of its declared type throughout; what cannot be converted stays as it is."""
    if kind == "boolean":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        return float(text)
    except ValueError:
        return text


def _trial(number: int, rows: list[Row], parameters: dict[str, object], mapping: Mapping) -> LoggedTrial:
    fault: UnusableError | None = None
    reports: list[Report] = []
    if "step" in mapping.columns:
        rows = sorted(rows, key=lambda row: _float(row.cells.get(mapping.columns["step"])) or 0.0)
    seconds = 0.0
    for row in rows:
        metrics = {}
        for name in mapping.objectives:
            if name in row.cells:
                value = _float(row.cells[name])
                if value is None:
                    fault = UnusableError(f"objective is not a number: {row.cells[name]!r} in {name!r}")
                else:
                    metrics[name] = value
        recorded = _float(row.cells.get(mapping.columns.get("seconds", "")))
        seconds = max(seconds, recorded) if recorded is not None and math.isfinite(recorded) else seconds
        step = _float(row.cells.get(mapping.columns.get("step", ""), len(reports)))
        if step is None or step < 0 or step != step // 1:
            fault = UnusableError(f"step is no whole number: {row.cells[mapping.columns['step']]!r}")
        elif metrics:
            reports.append(Report(int(step), metrics, seconds))
    if "trial" in mapping.columns and mapping.columns["trial"] not in rows[0].cells:
        fault = UnusableError("no trial id: the cell is empty")
    if "trial" in mapping.columns and "step" not in mapping.columns and len(rows) > 1:
        fault = UnusableError(f"several rows of one trial: {len(rows)}, and the mapping names no column for the step")
    word = str(rows[-1].cells.get(mapping.columns.get("status", ""), "completed")).strip().lower().replace(" ", "_")
    state = _STATE_OF.get(word)
    if state is None:
        fault = UnusableError(f"unknown trial state: {word!r}")
    if state == "completed" and "status" not in mapping.columns and not reports:
        state = "active"
    final = dict(reports[-1].metrics) if reports and "step" not in mapping.columns else None
    reason = word if state in ("infeasible", "stopped") else ""
    return LoggedTrial(
        number,
        parameters,
        state or "completed",
        reports if "step" in mapping.columns else (),
        final,
        seconds,
        reason=reason,
        fault=fault,
    )


def _float(cell: Any) -> float | None:
    try:
        return None if cell is None or isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
