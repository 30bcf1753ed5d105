"""Imports studies of any stores into one corpus file, and records everything that was left out.

Next to the corpus `<out>` are `<out>.quarantine.jsonl` (one record per line) and `<out>.summary.json`.  All three
appear only when the import is complete.  One study is in memory at a time.  Duplicates of an earlier study are left
out.
"""

import collections
import contextlib
import dataclasses
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vizier import pyvizier as vz

from optformer.data.sources import (
    Quarantined,
    SourceError,
    count_studies,
    detect_format,
    optuna_journal,
    optuna_lines,
    optuna_rdb,
    read,
    study_name,
)
from optformer.data.sources.anonymisation import Anonymiser
from optformer.data.sources.duplicates import Duplicates
from optformer.data.sources.locations import local_path
from optformer.data.sources.records import OF_A_QUARANTINED_STUDY, SourceOptions, quarantined_study
from optformer.data.sources.study_json import StudyRecord, plain_value
from optformer.data.sources.study_lines import StudyWriter
from optformer.serialization.errors import SerializationError
from optformer.serialization.space import StudySchema

if TYPE_CHECKING:
    from rich.table import Table

_RECORD_READERS: Final = {"optuna": optuna_rdb, "optuna-journal": optuna_journal, "optuna-lines": optuna_lines}


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress after every study: numbers of studies read so far, of studies in all inputs, and of trials."""

    source: str
    studies: int
    total_studies: int
    trials: int


@dataclasses.dataclass
class ImportSummary:
    """Summary of an import.

    Attributes:
      inputs: per input, its format and the numbers of studies and trials kept.
      studies_read, trials_read: numbers read, usable or not.  A line or study that cannot be parsed counts as one
        study; its trials count if their number is known.
      studies_kept, trials_kept: numbers in the corpus.
      quarantined_studies, quarantined_trials: category of reason -> number of records; the trials of a study that was
        refused completely have the category "of a quarantined study".
      seconds: wall time.
    """

    out: str
    inputs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    studies_read: int = 0
    studies_kept: int = 0
    trials_read: int = 0
    trials_kept: int = 0
    quarantined_studies: dict[str, int] = dataclasses.field(default_factory=dict)
    quarantined_trials: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def __rich__(self) -> "Table":
        """A table of what was kept of each input, then of what was left out by reason."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title="Import")
        table.add_column("")
        table.add_column("studies", justify="right")
        table.add_column("trials", justify="right")
        for entry in self.inputs:
            origin = escape(f"kept of {entry['path']} ({entry['format']})")
            table.add_row(origin, f"{entry['studies']:,}", f"{entry['trials']:,}")
        table.add_section()
        reasons = sorted({*self.quarantined_studies, *self.quarantined_trials})
        for reason in reasons:
            studies, trials = self.quarantined_studies.get(reason, 0), self.quarantined_trials.get(reason, 0)
            table.add_row(f"left out: {reason}", f"{studies:,}" if studies else "", f"{trials:,}" if trials else "")
        table.add_section()
        table.add_row("read", f"{self.studies_read:,}", f"{self.trials_read:,}")
        return table

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def import_corpus(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    format: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    mapping: str | os.PathLike[str] | None = None,
    metric: str | None = None,
    goal: str | None = None,
    anonymiser: Anonymiser | None = None,
) -> ImportSummary:
    """Reads the inputs and writes the corpus, its quarantine and its summary.

    Every study is serialized once to verify it.  What fails is quarantined: single trials if possible, else the study.

    Args:
      inputs: files or folders of any format that `read` knows.
      out: file of the corpus, JSON lines; compressed if the name ends in `.gz`.
      format: format of all inputs; "auto" recognizes each by its content.
      progress: called after every study.
      mapping, metric, goal: as in `read`, for inputs that do not record them.
      anonymiser: replaces names and texts in the corpus, the quarantine and the summary with hashes.

    Raises:
      SourceError: an input cannot be read or is the output itself, or no study can be kept.  Then nothing is written.
    """
    SourceOptions.of(mapping, metric, goal)
    out = Path(out)
    paths = [local_path(path) for path in inputs]
    if not paths:
        raise SourceError("no input; name at least one database, file or folder")
    if any(path.exists() and out.exists() and path.samefile(out) for path in paths):
        raise SourceError(f"{out}: is both input and output; choose another output")
    # Checks all inputs first, so that a wrong name at the end does not waste an hour.
    formats = [detect_format(path, mapping=mapping) if format == "auto" else format for path in paths]
    counted = zip(paths, formats, strict=True)
    total = sum(count_studies(path, one, mapping=mapping) for path, one in counted) if progress else 0

    summary = ImportSummary(out=str(out))
    started = time.perf_counter()
    quarantine = Path(f"{out}.quarantine.jsonl")
    first: Quarantined | None = None
    duplicates = Duplicates()
    with _fewer_collections(), StudyWriter(out) as corpus, StudyWriter(quarantine) as rejected:
        for path, path_format in zip(paths, formats, strict=True):
            before = summary.studies_kept, summary.trials_kept
            records = _records(path, path_format, mapping, metric, goal)
            for record in _unique(_verified(records, str(path), summary), str(path), duplicates):
                if isinstance(record, Quarantined):
                    first = first or record
                    rejected.write_record(dataclasses.asdict(anonymiser.quarantined(record) if anonymiser else record))
                    by_reason = summary.quarantined_studies if record.trial is None else summary.quarantined_trials
                    by_reason[record.category] = by_reason.get(record.category, 0) + 1
                else:
                    corpus.write_record(anonymiser.study(record) if anonymiser else record)
                    summary.studies_kept += 1
                    summary.trials_kept += len(record["trials"])
                if progress and not (isinstance(record, Quarantined) and record.trial is not None):
                    progress(Progress(str(path), summary.studies_read, total, summary.trials_read))
            kept = summary.studies_kept - before[0], summary.trials_kept - before[1]
            named = anonymiser.hashed("path", path) if anonymiser else str(path)
            summary.inputs.append({"path": named, "format": path_format, "studies": kept[0], "trials": kept[1]})
        summary.seconds = time.perf_counter() - started
        if not summary.studies_kept:
            reasons = collections.Counter(summary.quarantined_studies) + collections.Counter(summary.quarantined_trials)
            del reasons[OF_A_QUARANTINED_STUDY]  # the reason of the study says more
            commonest = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
            why = f"; the first is of {first.study!r}: {first.reason}" if first else ""
            raise SourceError(
                f"{', '.join(map(str, paths))}: no study can be used; {commonest or 'there is none'}{why}"
            )
        with StudyWriter(f"{out}.summary.json") as written:
            hidden = {"out": out.name} if anonymiser else {}
            written.write_record(summary.to_json() | hidden)
    return summary


@contextlib.contextmanager
def _fewer_collections() -> Iterator[None]:
    """Makes Python's garbage collector run after 200,000 new objects instead of 700.

    A study is tens of thousands of objects without cycles, which reference counting frees.  Collecting after every 700
    objects would take a quarter of the time.
    """
    before = gc.get_threshold()
    if before[0]:  # 0 means that the collector is disabled
        gc.set_threshold(max(before[0], 200_000), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _records(
    path: Path, format: str, mapping: str | os.PathLike[str] | None, metric: str | None, goal: str | None
) -> Iterator[vz.ProblemAndTrials | StudyRecord | Quarantined]:
    """The results of `read`; as records if the reader of the format provides them, which is faster."""
    studies = read(path, format, mapping=mapping, metric=metric, goal=goal)  # refuses what no reader can open
    reader = _RECORD_READERS.get(format)
    return reader.read_records(path, str(path)) if reader else studies


def _unique(
    records: Iterator[StudyRecord | Quarantined], source: str, duplicates: Duplicates
) -> Iterator[dict[str, Any] | Quarantined]:
    """Yields studies as JSON; quarantines those that equal an earlier one, with their trials."""
    for record in records:
        if isinstance(record, Quarantined):
            yield record
            continue
        stored, name = record.to_json(), study_name(record.problem)
        first = duplicates.seen_before(stored, name, source)
        if first is None:
            yield stored
        else:
            reason = f"duplicate study: the same space, trials and values as {first}"
            yield from quarantined_study(source, name, [trial["id"] for trial in record.trials], reason)


def _verified(
    records: Iterator[vz.ProblemAndTrials | StudyRecord | Quarantined], source: str, summary: ImportSummary
) -> Iterator[StudyRecord | Quarantined]:
    """Yields the records, quarantines studies and trials that cannot be serialized, and counts what was read."""
    for record in records:
        if isinstance(record, Quarantined):
            if record.trial is None:
                summary.studies_read += 1
            else:
                summary.trials_read += 1
            yield record
            continue
        summary.studies_read += 1
        summary.trials_read += len(record.trials)
        yield from verify(record, source)


def verify(study: vz.ProblemAndTrials | StudyRecord, source: str = "") -> Iterator[StudyRecord | Quarantined]:
    """Yields the trials that cannot be serialized as quarantined, then the study without them; or the quarantined
    study."""
    record = study if isinstance(study, StudyRecord) else StudyRecord.of(study)
    name = study_name(record.problem)

    def whole(reason: str, parameter: str | None = None) -> Iterator[Quarantined]:
        return quarantined_study(source, name, [trial["id"] for trial in record.trials], reason, parameter)

    if not record.trials:
        yield from whole("no trials")
        return
    try:
        schema = StudySchema(record.problem)
    except ValueError as error:
        parameter, details = _explained(error)
        yield from whole(f"search space cannot be serialized: {details}", parameter)
        return
    if not schema.metrics:
        yield from whole("no objective: the study has no metric to optimize")
        return
    if not len(schema):
        yield from whole("nothing to tune: every parameter has a single value")
        return
    try:
        schema.encode([trial["parameters"] for trial in record.trials])
        yield record
        return
    except ValueError:
        pass  # at least one trial cannot be serialized, or written as JSON: found one by one below
    usable = []
    for trial in record.trials:
        try:
            schema.encode([{parameter: plain_value(value) for parameter, value in trial["parameters"].items()}])
            usable.append(trial)
        except ValueError as error:
            parameter, details = _explained(error)
            yield Quarantined(source, name, trial["id"], parameter, f"value not in the search space: {details}")
    if usable:
        yield StudyRecord(record.problem, usable)
    else:
        yield Quarantined(source, name, None, None, "no usable trials")


def _explained(error: ValueError) -> tuple[str | None, str]:
    """The parameter at fault, if it is known, and the reason."""
    if isinstance(error, SerializationError) and error.parameter is not None:
        return error.parameter, error.reason
    return None, str(error)
