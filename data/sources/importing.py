"""Import: studies of any stores into one corpus file, with everything left out written down and counted.

Beside the corpus `<out>` lie `<out>.quarantine.jsonl` (one record a line) and `<out>.summary.json`.  All three appear
only when the import is complete.  One study is in memory at a time.  A study that equals an earlier one is left out.
"""

import ast
import collections
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vizier import pyvizier as vz

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, read, study_name
from optformer.data.sources.anonymisation import Anonymiser
from optformer.data.sources.duplicates import Duplicates
from optformer.data.sources.records import SourceOptions, quarantined_study
from optformer.data.sources.study_json import study_to_json
from optformer.data.sources.study_lines import StudyWriter
from optformer.serialization.space import StudySchema


@dataclasses.dataclass(frozen=True)
class Progress:
    """Told after every study: studies seen in all inputs so far, of how many, and trials."""

    source: str
    studies: int
    total_studies: int
    trials: int


@dataclasses.dataclass
class ImportSummary:
    """What came in and what was kept.

    Attributes:
      inputs: by input, the format, and studies and trials kept of it.
      studies_read, trials_read: everything seen, usable or not.  A line or study that cannot be parsed counts as one
        study; its trials count where their number is known.
      studies_kept, trials_kept: what the corpus holds.
      quarantined_studies, quarantined_trials: how many records by category of reason; the trials of a study that was
        refused whole are "of a quarantined study".
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

    def __rich__(self) -> Any:
        from optformer.data.commands import render_summary

        return render_summary(self)

    def to_json(self) -> dict[str, Any]:
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

    Every study that is kept has been serialized once: what fails is quarantined, by trial where a trial is at fault.

    Args:
      inputs: files or folders of any format that `read` knows.
      out: JSON lines; compressed if the name ends in `.gz`.
      format: of all inputs; "auto" tells each by its content.
      progress: called after every study.
      mapping, metric, goal: as in `read`, for inputs that do not record them.
      anonymiser: replaces names and texts in the corpus, the quarantine and the summary by hashes.

    Raises:
      SourceError: an input cannot be read, or is the output itself, or nothing at all could be kept.  Nothing is
        written then.
    """
    SourceOptions.of(mapping, metric, goal)
    out = Path(out)
    paths = [Path(path) for path in inputs]
    if not paths:
        raise SourceError("no input; name at least one database, file or folder")
    if any(path.exists() and out.exists() and path.samefile(out) for path in paths):
        raise SourceError(f"{out}: is both input and output; choose another output")
    # All inputs are looked at first, so that a wrong name at the end does not cost an hour.
    formats = [detect_format(path, mapping=mapping) if format == "auto" else format for path in paths]
    counted = zip(paths, formats, strict=True)
    total = sum(count_studies(path, one, mapping=mapping) for path, one in counted) if progress else 0

    summary = ImportSummary(out=str(out))
    started = time.perf_counter()
    quarantine = Path(f"{out}.quarantine.jsonl")
    duplicates = Duplicates()
    with StudyWriter(out) as corpus, StudyWriter(quarantine) as rejected:
        for path, path_format in zip(paths, formats, strict=True):
            before = summary.studies_kept, summary.trials_kept
            records = read(path, path_format, mapping=mapping, metric=metric, goal=goal)
            for record in _unique(_verified(records, str(path), summary), str(path), duplicates):
                if isinstance(record, Quarantined):
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
            told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
            raise SourceError(f"{', '.join(map(str, paths))}: no study can be used; {told or 'there is none'}")
        with StudyWriter(f"{out}.summary.json") as written:
            hidden = {"out": out.name} if anonymiser else {}
            written.write_record(summary.to_json() | hidden)
    return summary


def _unique(
    records: Iterator[vz.ProblemAndTrials | Quarantined], source: str, duplicates: Duplicates
) -> Iterator[dict[str, Any] | Quarantined]:
    """Studies as JSON, those that equal an earlier one quarantined with their trials."""
    for record in records:
        if isinstance(record, Quarantined):
            yield record
            continue
        stored, name = study_to_json(record), study_name(record)
        first = duplicates.seen_before(stored, name, source)
        if first is None:
            yield stored
        else:
            reason = f"duplicate study: the same space, trials and values as {first}"
            yield from quarantined_study(source, name, [trial.id for trial in record.trials], reason)


def _verified(
    records: Iterator[vz.ProblemAndTrials | Quarantined], source: str, summary: ImportSummary
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """The records, with studies and trials that cannot be serialized quarantined; counts what was read."""
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


def verify(study: vz.ProblemAndTrials, source: str = "") -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """The study without the trials that cannot be serialized; before it, those trials, or the study itself."""
    name = study_name(study)

    def whole(reason: str, parameter: str | None = None) -> Iterator[Quarantined]:
        return quarantined_study(source, name, [trial.id for trial in study.trials], reason, parameter)

    if not study.trials:
        yield from whole("no trials")
        return
    try:
        schema = StudySchema(study.problem)
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
        schema.encode(study.trials)
        yield study
        return
    except ValueError:
        pass  # at least one trial is at fault: found one by one
    usable = []
    for trial in study.trials:
        try:
            schema.encode([trial])
            usable.append(trial)
        except ValueError as error:
            parameter, details = _explained(error)
            yield Quarantined(source, name, trial.id, parameter, f"value not in the search space: {details}")
    if usable:
        yield vz.ProblemAndTrials(problem=study.problem, trials=usable)
    else:
        yield Quarantined(source, name, None, None, "no usable trials")


def _explained(error: ValueError) -> tuple[str | None, str]:
    """Parameter and reason of the serialization's messages, "study 'a', trial 3, parameter 'b': reason"."""
    found = re.match(
        r"study .*?parameter (?P<name>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"): (?P<why>.*)", str(error), re.S
    )
    if not found:
        return None, str(error)
    return ast.literal_eval(found["name"]), found["why"]


@dataclasses.dataclass
class CorpusInfo:
    """Counts and distributions of a corpus.

    Attributes:
      studies, trials: totals of what is usable.
      quarantined: records that reading refused, by category.
      parameters_per_study, trials_per_study: quantiles 0, 25, 50, 75 and 100 %.
      kinds, scales: parameters by type and by scale, over all studies and all levels of conditional spaces.
      statuses: trials by status: completed, stopped (no objective), infeasible, active, requested.
      goals: objectives by direction.
      objectives: studies by number of objectives.
      algorithms: studies by the algorithm recorded; "" where none was.
      conditional: studies with a conditional space.
    """

    path: str
    studies: int = 0
    trials: int = 0
    conditional: int = 0
    quarantined: dict[str, int] = dataclasses.field(default_factory=dict)
    parameters_per_study: list[float] = dataclasses.field(default_factory=list)
    trials_per_study: list[float] = dataclasses.field(default_factory=list)
    kinds: dict[str, int] = dataclasses.field(default_factory=dict)
    scales: dict[str, int] = dataclasses.field(default_factory=dict)
    statuses: dict[str, int] = dataclasses.field(default_factory=dict)
    goals: dict[str, int] = dataclasses.field(default_factory=dict)
    objectives: dict[int, int] = dataclasses.field(default_factory=dict)
    algorithms: dict[str, int] = dataclasses.field(default_factory=dict)

    def __rich__(self) -> Any:
        from optformer.data.commands import render_info

        return render_info(self)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def corpus_info(path: str | os.PathLike[str], format: str = "auto") -> CorpusInfo:
    """Describes a corpus, or any store that `read` knows.

    Raises:
      SourceError: the file cannot be read.
    """
    counts: dict[str, collections.Counter[Any]] = collections.defaultdict(collections.Counter)
    parameters: list[int] = []
    trials: list[int] = []
    conditional = 0
    for record in read(path, format):
        if isinstance(record, Quarantined):
            counts["quarantined"][record.category] += 1
            continue
        problem = record.problem
        configs = list(problem.search_space.root.select_all())
        conditional += problem.search_space.is_conditional
        parameters.append(len(configs))
        trials.append(len(record.trials))
        counts["kinds"].update(config.type.name for config in configs)
        counts["scales"].update(config.scale_type.name if config.scale_type else "none" for config in configs)
        metrics = problem.metric_information.of_type(vz.MetricType.OBJECTIVE)
        counts["goals"].update(metric.goal.name for metric in metrics)
        counts["objectives"][len(metrics)] += 1
        counts["algorithms"][problem.metadata.ns("optformer").get("algorithm", default="")] += 1
        names = [metric.name for metric in metrics]
        counts["statuses"].update(_status(trial, names) for trial in record.trials)
    return CorpusInfo(
        path=str(path),
        studies=len(trials),
        trials=sum(trials),
        conditional=conditional,
        parameters_per_study=_quantiles(parameters),
        trials_per_study=_quantiles(trials),
        **{name: dict(counter.most_common()) for name, counter in counts.items()},
    )


def _status(trial: vz.Trial, metrics: Sequence[str]) -> str:
    if trial.infeasible:
        return "infeasible"
    if trial.final_measurement is not None:
        return "completed" if all(name in trial.final_measurement.metrics for name in metrics) else "stopped"
    if trial.stopping_reason is not None:
        return "stopped"
    return "requested" if trial.is_requested else "active"


def _quantiles(counts: Sequence[int]) -> list[float]:
    ordered = sorted(counts)
    return [float(ordered[round(q * (len(ordered) - 1))]) for q in (0, 0.25, 0.5, 0.75, 1)] if ordered else []
