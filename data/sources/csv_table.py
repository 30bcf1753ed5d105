"""Tables with one trial, or one step of a trial, per row: CSV (`.gz` or not) and Parquet, with a mapping file.

The mapping is a JSON file, `<table>.mapping.json` next to the table or named by the user:

    {"study": "run_group", "trial": "run", "step": "epoch", "status": "state",
     "parameters": {"lr": {"type": "double", "range": [1e-5, 0.1], "scale": "log"}, "optimizer": {}},
     "objectives": {"val_loss": "minimize"}}

Only "parameters" (an object, or a list of columns) and "objectives" are required.  Undeclared properties of parameters
are inferred.  A table is loaded completely, because the rows of a study may be anywhere.
"""

import codecs
import csv
import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from vizier import pyvizier as vz

from optformer.data.sources import exported_tables
from optformer.data.sources.inferred_space import Declared, InferredSpace, parsed_trials
from optformer.data.sources.logged_study import LoggedStudy, LoggedTrial, Report, time_from_text, to_pyvizier
from optformer.data.sources.records import Quarantined, SourceError, SourceOptions, UnusableError
from optformer.data.sources.table_mapping import Mapping, needed
from optformer.serialization.branches import infer_branches

PARQUET_HEADER: Final = b"PAR1"
STATES: Final = {
    "completed": ("completed", "complete", "finished", "succeeded", "success", "terminated", "done", "ok"),
    "infeasible": ("infeasible", "failed", "fail", "error", "errored", "crashed", "timeout", "memoryout"),
    "stopped": ("stopped", "pruned", "early_stopped", "killed", "preempted", "preempting", "abandoned"),
    "active": ("active", "running", "pending", "in_progress"),
    "requested": ("requested", "waiting", "scheduled", "queued", "candidate", "staged"),
}
_STATE_OF: Final = {word: state for state, words in STATES.items() for word in words}
_EXPONENT: Final = r"([eE][+-]?\d+)?"
_COMMA: Final = re.compile(rf"[+-]?\d*,\d+{_EXPONENT}")
_POINT: Final = re.compile(rf"[+-]?\d*\.\d+{_EXPONENT}")
_THOUSANDS: Final = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
"""1,000 may be a thousand; 0,001 is not."""


class Row(NamedTuple):
    """One row: its line number in the file (the header of a CSV is line 1) and its non-empty cells."""

    number: int
    cells: dict[str, object]


def mapping_path(path: Path, options: SourceOptions) -> Path:
    """Path of the mapping of a table: the given one, else the one next to the table, which may not exist."""
    return Path(options.mapping) if options.mapping is not None else path.with_name(path.name + ".mapping.json")


def recognizes(path: Path) -> bool:
    """Whether a file is a table: Parquet by its content, CSV by its name or by a mapping next to it."""
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
    mapping = Mapping.load(mapping_file) if mapping_file.exists() else None
    columns, rows = _parquet(path, mapping) if is_parquet(path) else _csv(path, source)
    if mapping is None:
        kept = [_unfolded(row, source) for row in rows]
        cells = [row.cells for row in kept if isinstance(row, Row)]
        columns = list(dict.fromkeys([*columns, *(name for row in cells for name in row)]))
        rows, mapping = iter(kept), exported_tables.mapping_of(path, columns, cells, options)
        if mapping is None:
            raise needed(path, mapping_file, columns, options)
    mapping.check(path, columns)
    _refuse_repeated(path, columns, mapping)
    if not is_parquet(path):
        rows = iter(_with_decimal_points(list(rows), mapping))
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
            LoggedStudy(
                source,
                path.name,
                "table",
                name,
                {mapping.names.get(column, column): goal for column, goal in mapping.objectives.items()},
                trials,
                {mapping.names.get(column, column): declared for column, declared in mapping.parameters.items()},
                facts,
            )
        )


def _with_decimal_points(rows: list[Row | Quarantined], mapping: Mapping) -> list[Row | Quarantined]:
    """Replaces decimal commas, which spreadsheets write in many countries.

    A table has them if none of its numbers has a point, and a cell cannot be read in another way: 0,5 in any column of
    numbers; 1,5 in a column of an objective, since a parameter may be a list.
    """
    columns = {name for name, declared in mapping.parameters.items() if declared.kind not in ("categorical", "boolean")}
    columns |= {*mapping.objectives, mapping.columns.get("seconds", "")}
    cells = [(name, str(row.cells[name])) for row in rows if isinstance(row, Row) for name in columns & set(row.cells)]
    commas = [(name, text) for name, text in cells if _COMMA.fullmatch(text) and not _THOUSANDS.fullmatch(text)]
    sure = any(name in mapping.objectives or text.lstrip("+-").startswith("0,") for name, text in commas)
    if not sure or any(_POINT.fullmatch(text) for _, text in cells):
        return rows
    return [
        row._replace(
            cells={
                name: str(cell).replace(",", ".") if name in columns and _COMMA.fullmatch(str(cell)) else cell
                for name, cell in row.cells.items()
            }
        )
        if isinstance(row, Row)
        else row
        for row in rows
    ]


def _unfolded(row: Row | Quarantined, source: str) -> Row | Quarantined:
    if isinstance(row, Quarantined):
        return row
    try:
        return row._replace(cells=exported_tables.unfolded(row.cells))
    except UnusableError as error:
        return Quarantined(source, f"line {row.number}", None, None, error.reason)


def count(path: Path, options: SourceOptions) -> int:
    """Number of studies in the table; 1 if the table cannot be read, which `read` will explain."""
    try:
        mapping = Mapping.load(mapping_path(path, options))
        if "study" not in mapping.columns:
            return 1
        _, rows = _parquet(path, mapping) if is_parquet(path) else _csv(path, str(path))
        column = mapping.columns["study"]
        return len({row.cells.get(column) for row in rows if isinstance(row, Row)})
    except SourceError:
        return 1


def _refuse_repeated(path: Path, columns: Sequence[str], mapping: Mapping) -> None:
    for name in mapping.used:
        if columns.count(name) > 1:
            raise SourceError(f"{path}: there are two columns {name!r}")


def _csv(path: Path, source: str) -> tuple[list[str], Iterator[Row | Quarantined]]:
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open if compressed else open
    encoding = _encoding(path, opened)
    try:
        with opened(path, "rt", encoding=encoding, errors="replace", newline="") as file:
            first = file.readline()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path}: the compressed file is truncated or corrupt ({error})") from error
    delimiter = max(",\t;", key=first.count)
    # Tables with aligned columns have spaces around names and cells.
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])]

    def rows() -> Iterator[Row | Quarantined]:
        line = 1
        try:
            with opened(path, "rt", encoding=encoding, errors="replace", newline="") as file:
                reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
                next(reader)
                for cells in reader:
                    line = reader.line_num
                    if not any(map(str.strip, cells)):
                        continue
                    if len(cells) != len(header):
                        reason = f"unreadable line: {len(cells)} cells, but the header has {len(header)}"
                        yield Quarantined(source, f"line {line}", None, None, reason)
                        continue
                    # A column without a name is the index of a pandas data frame.
                    named = zip(header, cells, strict=True)
                    yield Row(line, {name: text for name, cell in named if name and (text := cell.strip())})
        except (EOFError, gzip.BadGzipFile, zlib.error, csv.Error) as error:
            reason = f"file ends early: after line {line} ({error})"
            yield Quarantined(source, f"line {line + 1}", None, None, reason)

    return header, rows()


def _encoding(path: Path, opened: Any) -> str:
    """UTF-8; or UTF-16 or Latin-1, which spreadsheets also write."""
    try:
        with opened(path, "rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                return "utf-16"
        with opened(path, "rt", encoding="utf-8") as file:
            for _ in file:
                pass
    except UnicodeDecodeError:
        return "latin-1"
    except (EOFError, gzip.BadGzipFile, zlib.error):  # what can be read is read
        pass
    return "utf-8-sig"


def _parquet(path: Path, mapping: Mapping | None) -> tuple[list[str], Iterator[Row]]:
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
    used = [column for column in mapping.used if column in names] if mapping else names

    def rows() -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(columns=used):
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(number, {name: cell for name, cell in cells.items() if cell is not None})
        except (pyarrow.ArrowException, OSError) as error:
            raise SourceError(f"{path}: the Parquet file is corrupt after row {number} ({error})") from error

    return names, rows()


def _trials(rows: list[Row], mapping: Mapping) -> list[LoggedTrial]:
    """The trials: one per row, or one per trial id with its rows in the order of steps."""
    groups: dict[object, list[Row]] = {}
    if mapping.times[0] and "trial" not in mapping.columns:
        rows = sorted(rows, key=lambda row: str(row.cells.get(mapping.times[0], "")))
    for row in rows:
        key = row.cells.get(mapping.columns["trial"]) if "trial" in mapping.columns else row.number
        groups.setdefault(("no trial id", row.number) if key is None else key, []).append(row)
    numbers = _numbers(list(groups)) if "trial" in mapping.columns else list(range(1, len(groups) + 1))
    parameters = [
        {name: row.cells[name] for row in reversed(own) for name in mapping.parameters if name in row.cells}
        for own in groups.values()
    ]
    for values, own in zip(parameters, groups.values(), strict=True):
        if not values and mapping.enqueued in own[-1].cells:
            known = exported_tables.enqueued(own[-1].cells[mapping.enqueued])
            values |= {name: value if value is None else str(value) for name, value in known.items()}
    parsed = [
        {mapping.names.get(column, column): value for column, value in values.items()}
        for values in _parsed(parameters, [_state(own, mapping)[1] for own in groups.values()], mapping)
    ]
    return [
        _trial(number, own, values, mapping)
        for number, own, values in zip(numbers, groups.values(), parsed, strict=True)
    ]


def _numbers(keys: list[object]) -> list[int]:
    """Numbers of trials: their ids if all are integers, else their order."""
    try:
        numbers = [int(str(key)) for key in keys]
    except ValueError:
        return list(range(1, len(keys) + 1))
    return numbers if len(set(numbers)) == len(numbers) and min(numbers) >= 0 else list(range(1, len(keys) + 1))


def _state(rows: list[Row], mapping: Mapping) -> tuple[str, str | None]:
    """The text of a trial's status, and the state that it means; None if it is unknown."""
    word = str(rows[-1].cells.get(mapping.columns.get("status", ""), "completed")).strip().lower().replace(" ", "_")
    return word, _STATE_OF.get(word)


def _parsed(trials: list[dict[str, object]], states: Sequence[str | None], mapping: Mapping) -> list[dict[str, object]]:
    """Converts cells of a CSV to typed values; declared categories stay text, and cells of Parquet stay as they are."""
    texts = [{name: v for name, v in trial.items() if isinstance(v, str)} for trial in trials]
    typed = parsed_trials(texts)
    if mapping.empty_choices:
        _whole_again(typed)
    ended = [state in ("completed", "stopped") for state in states]
    choices = _empty_choices(typed, ended) if mapping.empty_choices else set()
    for name, declaration in mapping.parameters.items():
        if name in choices or (not mapping.empty_choices and _lists_empty_cells(name, declaration, trials)):
            for trial, finished in zip(trials, ended, strict=True):
                if trial and (finished or not mapping.empty_choices):
                    trial.setdefault(name, None)
        for trial, one, source in zip(trials, typed, texts, strict=True):
            if name not in trial:
                continue
            if trial[name] is None:
                one[name] = None
            elif declaration.kind == "categorical":
                one[name] = _choice(str(trial[name]), declaration.values or ())
            elif declaration.kind == "boolean" and name in source:
                one[name] = _converted(source[name], "boolean")
            elif name not in source:
                one[name] = trial[name]
            elif declaration.kind is not None and isinstance(text := one[name], str):
                one[name] = _converted(text, declaration.kind)
    return typed


def _whole_again(trials: list[dict[str, object]]) -> None:
    """Converts floats such as 2.0 to integers in columns with empty cells, where pandas stores integers as floats."""
    columns: dict[str, list[object]] = {}
    for trial in trials:
        for name, value in trial.items():
            columns.setdefault(name, []).append(value)
    for name, values in columns.items():
        if len(values) < len(trials) and all(isinstance(value, float) and value.is_integer() for value in values):
            for trial in trials:
                if isinstance(value := trial.get(name), float):
                    trial[name] = int(value)


def _empty_choices(trials: list[dict[str, object]], ended: Sequence[bool]) -> set[str]:
    """The columns of texts or booleans with empty cells that no condition explains."""
    space = InferredSpace(trials)
    values = [space.values(trial) for trial in trials]
    branches = infer_branches(space.configs, values, ended)
    finished = [one for one, over in zip(values, ended, strict=True) if over and one]
    return {
        config.name
        for config in space.configs
        if config.type == vz.ParameterType.CATEGORICAL
        and config.name not in branches
        and any(config.name not in one for one in finished)
    }


def _lists_empty_cells(name: str, declaration: Declared, trials: list[dict[str, object]]) -> bool:
    """Whether an empty cell of the column counts as a category.

    It does if the mapping says so, or if there is only one value besides empty cells.
    """
    if declaration.values is not None:
        return None in declaration.values
    found = {str(trial[name]) for trial in trials if name in trial}
    return len(found) == 1 and declaration.bounds is None and any(trial and name not in trial for trial in trials)


def _choice(text: str, declared: Sequence[object]) -> str:
    """The declared category of a cell, else the cell.  3.0 matches 3: pandas writes integers with gaps so."""
    number = _float(text)
    if text in declared or number is None:
        return text
    return next((str(value) for value in declared if _float(value) == number), text)


def _converted(text: str, kind: str) -> bool | int | float | str:
    """Converts a cell of a column in which not all cells have the declared type; else returns it unchanged."""
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
                    metrics[mapping.names.get(name, name)] = value
        recorded = _float(row.cells.get(mapping.columns.get("seconds", "")))
        seconds = max(seconds, recorded) if recorded is not None and math.isfinite(recorded) else seconds
        step = _float(row.cells.get(mapping.columns.get("step", ""), len(reports)))
        if step is None or step < 0 or step != step // 1:
            fault = UnusableError(f"step is not a whole number: {row.cells[mapping.columns['step']]!r}")
        elif metrics:
            reports.append(Report(int(step), metrics, seconds))
    if "trial" in mapping.columns and mapping.columns["trial"] not in rows[0].cells:
        fault = UnusableError("no trial id: the cell is empty")
    if "trial" in mapping.columns and "step" not in mapping.columns and len(rows) > 1:
        fault = UnusableError(f"several rows of one trial: {len(rows)}, but the mapping names no column for the step")
    word, state = _state(rows, mapping)
    if state is None:
        fault = UnusableError(f"unknown trial state: {word!r}")
    if state == "completed" and "status" not in mapping.columns and not reports:
        word, state = "no objective", mapping.unmeasured
    final = dict(reports[-1].metrics) if reports and "step" not in mapping.columns else None
    reason = word if state in ("infeasible", "stopped") else ""
    created, completed = (time_from_text(rows[-1].cells.get(column)) for column in mapping.times)
    if created and completed and not seconds:
        seconds = (completed - created).total_seconds()
    return LoggedTrial(
        number,
        parameters,
        state or "completed",
        reports if "step" in mapping.columns else (),
        final,
        seconds,
        created=created,
        completed=completed,
        reason=reason,
        metadata={key: str(cell) for column, key in mapping.kept.items() if (cell := rows[-1].cells.get(column))},
        fault=fault,
    )


def _float(cell: Any) -> float | None:
    try:
        return None if cell is None or isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
