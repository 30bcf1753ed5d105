"""Builds the cached corpus: converts pyvizier studies to the token arrays of `corpus/store.py`.

Building needs Vizier; reading the cache does not.
"""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz

from optformer.data.corpus.store import (
    CLAUSE_VARIANTS,
    COLUMNS,
    HEADER_VARIANTS,
    CorpusError,
    Field,
    write_store,
)
from optformer.data.sources import Quarantined, SourceError, read, study_name
from optformer.serialization import tokens
from optformer.serialization.metadata import MetadataOptions, metadata_segments
from optformer.serialization.partial_trials import of_study, reports_of
from optformer.serialization.space import METADATA_NAMESPACE, OBSERVED, StudySchema, larger_is_better

LOGGED: Final = "logged"
MIN_VALUES: Final = 2
"""A record needs this many observed values: one for the scale, one to predict."""
_OFFSETS: Final = ("slot_offsets", "cell_offsets", "value_offsets", "report_offsets", "segment_offsets")


@dataclasses.dataclass(frozen=True)
class BuildSummary:
    """What a build kept and what it left out.

    Attributes:
      studies, records, trials: numbers kept; a record is one objective of a study.
      skipped: study, trial (None: the whole study or objective) and reason of everything left out.
    """

    studies: int
    records: int
    trials: int
    skipped: tuple[dict[str, Any], ...]


def build(
    studies: Iterable[vz.ProblemAndTrials | Quarantined],
    directory: str | os.PathLike[str],
    *,
    source_digest: str | None = None,
) -> BuildSummary:
    """Writes the cache of some studies; the folder appears when it is complete.

    Left out and listed are trials that do not fit their search space; studies without parameters, without objectives,
    or that cannot be serialized; and objectives with fewer than two observed values.

    Args:
      studies: in any order; records that a source quarantined are listed as skipped.
      directory: folder of the cache; an existing cache is replaced.
      source_digest: SHA-256 of the source file, by which `Corpus.open` recognizes a stale cache.
    """
    builder = Builder()
    for study in studies:
        if isinstance(study, Quarantined):
            builder.skip(study.study, study.trial, study.reason)
        else:
            builder.add(study)
    return builder.write(Path(directory), source_digest)


def build_from_file(
    path: str | os.PathLike[str], directory: str | os.PathLike[str], *, source_digest: str | None = None
) -> BuildSummary:
    """Writes the cache of a file of studies, of any format that `optformer.data.sources` reads.

    Raises:
      CorpusError: the file is empty or not a store of studies, or the cache cannot be written.
    """
    if Path(path).stat().st_size == 0:
        raise CorpusError(f"{path} is empty: it holds no usable study")
    try:
        return build(read(path), directory, source_digest=source_digest)
    except SourceError as error:
        raise CorpusError(str(error)) from error
    except PermissionError as error:
        raise CorpusError(
            f"the cache of {path} cannot be written to {directory} ({error}): name another folder, as in "
            "Corpus.open(path, cache=FOLDER)"
        ) from error


def study_group(problem: vz.ProblemStatement, schema: StudySchema) -> str:
    """Key of the group of dependent studies: the repository or problem if it is recorded, else the search space."""
    facts = problem.metadata.ns(METADATA_NAMESPACE)
    for kind, key in (("repo", "repo"), ("problem", "group")):
        if named := facts.get(key):
            return f"{kind} {named}"
    # Without bounds, which reruns often change.
    signature = sorted((slot.name, slot.kind) for slot in schema.slots)
    return f"space {hashlib.sha256(repr(signature).encode()).hexdigest()[:16]}"


def study_family(problem: vz.ProblemStatement) -> str:
    """The family of problems of a generated study; "logged" for logged studies."""
    facts = problem.metadata.ns(METADATA_NAMESPACE)
    return facts.get("source", default=LOGGED) if facts.get("problem") else LOGGED


class Builder:
    """Collects the columns study by study."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [0] if name in _OFFSETS else [] for name in COLUMNS}
        self._groups: dict[str, int] = {}
        self._families: list[str] = []
        self._segments: dict[tuple[int, ...], int] = {}
        self._names: list[str] = []
        self._skipped: list[dict[str, Any]] = []
        self._trials = 0

    def skip(self, study: str, trial: int | None, reason: str) -> None:
        self._skipped.append({"study": study, "trial": trial, "reason": reason})

    def add(self, study: vz.ProblemAndTrials) -> None:
        name = study_name(study) or f"study {len(self._names) + len(self._skipped)}"
        try:
            schema = StudySchema(study.problem, name)
        except ValueError as error:
            return self.skip(name, None, str(error))
        if not schema.slots:
            return self.skip(name, None, "its search space has no parameter with more than one feasible value")
        trials, x_tokens = self._encoded(schema, name, study.trials)
        values, statuses = schema.objectives(trials)
        enough = np.isfinite(values).sum(axis=0) >= MIN_VALUES
        for metric, usable in zip(schema.metrics, enough.tolist(), strict=True):
            if not usable:
                self.skip(name, None, f"objective {metric.name!r} has fewer than {MIN_VALUES} observed values")
        if not len(schema.metrics):
            self.skip(name, None, "it has no objective metric")
        if enough.any():
            self._add_study(schema, name, x_tokens)
            requested = np.array([trial.is_requested for trial in trials], bool)
            # For the policy, trials that violate a constraint count as failed, but a record only has objectives.  So
            # trials after the first violation do not train the policy.
            broken = ~schema.holds(schema.safety_values(trials))
            requested[1:] |= np.logical_or.accumulate(broken)[:-1]
            for objective in np.flatnonzero(enough).tolist():
                self._add_record(schema, objective, values[:, objective], statuses, requested)
                self._add_reports(schema.metrics[objective], trials)

    def _encoded(self, schema: StudySchema, name: str, trials: Sequence[vz.Trial]) -> tuple[list[vz.Trial], np.ndarray]:
        """The trials that fit the search space, with their tokens."""
        try:
            return list(trials), schema.encode(trials)
        except ValueError:
            kept, rows = [], []
        for trial in trials:
            try:
                rows.append(schema.encode([trial]))
                kept.append(trial)
            except ValueError as error:
                self.skip(name, trial.id, str(error))
        return kept, np.concatenate(rows) if rows else np.empty((0, len(schema)), np.int32)

    def _add_study(self, schema: StudySchema, name: str, x_tokens: np.ndarray) -> None:
        column = self._columns
        self._names.append(name)
        self._trials += len(x_tokens)
        column["slot_kinds"].append(schema.slot_kinds)
        column["slot_levels"].append(schema.slot_levels)
        column["slot_parents"].append(schema.legality.parents)
        column["slot_offsets"].append(column["slot_offsets"][-1] + len(schema))
        column["x_tokens"].append(x_tokens.ravel())
        column["cell_offsets"].append(column["cell_offsets"][-1] + x_tokens.size)
        group = study_group(schema.problem, schema)
        if group not in self._groups:
            self._groups[group] = len(self._groups)
            self._families.append(study_family(schema.problem))
        column["study_groups"].append(self._groups[group])

        # The clauses of a study are consecutive, so that one index finds them all; they are not shared between studies.
        column["first_clauses"].append(len(column["segment_offsets"]) - 1)
        for variant in range(CLAUSE_VARIANTS):
            for clause in metadata_segments(schema, options=_options(Field(variant)))[1:]:
                self._add_segment(clause)

    def _add_record(
        self, schema: StudySchema, objective: int, values: np.ndarray, statuses: np.ndarray, requested: np.ndarray
    ) -> None:
        column = self._columns
        column["record_studies"].append(len(self._names) - 1)
        column["record_minimize"].append(schema.metrics[objective].goal.is_minimize)
        column["values"].append(values)
        # A trial that has this objective but lacks another has a value here; its status is not read.
        column["statuses"].append(np.where(statuses == OBSERVED, tokens.MISSING, statuses))
        column["requested"].append(requested)
        column["value_offsets"].append(column["value_offsets"][-1] + len(values))
        column["headers"].append(self._headers(schema, objective))

    def _add_reports(self, metric: vz.MetricInformation, trials: Sequence[vz.Trial]) -> None:
        column = self._columns
        curves = [reports_of(trial, metric.name) for trial in trials]
        for each in of_study(curves, larger_is_better(metric)):
            column["report_levels"].append(each.levels)
            column["report_values"].append(each.values)
            column["report_offsets"].append(column["report_offsets"][-1] + len(each))

    def _headers(self, schema: StudySchema, objective: int) -> list[int]:
        """Segment of each of the 64 variants; variants that differ in a field that the study lacks share a segment."""
        metadata = schema.problem.metadata.ns(METADATA_NAMESPACE)
        telling = Field.METRIC
        for field, key in ((Field.TITLE, "title"), (Field.DESCRIPTION, "description"), (Field.ALGORITHM, "algorithm")):
            telling |= field if metadata.get(key) else Field(0)
        telling |= Field.NAMES | Field.RANGES if schema.fixed else Field(0)
        written: dict[int, int] = {}
        for variant in range(HEADER_VARIANTS):
            shown = variant & telling
            if shown not in written:
                header = metadata_segments(schema, options=_options(Field(shown)), objective=objective)[0]
                known = self._segments.get(tuple(header))
                written[shown] = self._add_segment(header) if known is None else known
                self._segments[tuple(header)] = written[shown]
        return [written[variant & telling] for variant in range(HEADER_VARIANTS)]

    def _add_segment(self, segment: Sequence[int]) -> int:
        offsets = self._columns["segment_offsets"]
        self._columns["text_tokens"].append(segment)
        offsets.append(offsets[-1] + len(segment))
        return len(offsets) - 2

    def write(self, directory: Path, source_digest: str | None) -> BuildSummary:
        columns = {name: self._joined(name) for name in COLUMNS}
        index = {
            "source_digest": source_digest,
            "studies": self._names,
            "groups": list(self._groups),
            "families": self._families,
            "trials": self._trials,
            "skipped": self._skipped,
        }
        write_store(directory, columns, index)
        return BuildSummary(len(self._names), len(columns["record_studies"]), self._trials, tuple(self._skipped))

    def _joined(self, name: str) -> np.ndarray:
        parts, dtype = self._columns[name], COLUMNS[name]
        if name == "headers":
            return np.array(parts, dtype).reshape(-1, HEADER_VARIANTS)
        if name == "text_tokens":
            return np.fromiter(itertools.chain.from_iterable(parts), dtype)
        if parts and isinstance(parts[0], np.ndarray):
            return np.concatenate(parts).astype(dtype)
        return np.array(parts, dtype)


def _options(shown: Field) -> MetadataOptions:
    return MetadataOptions(
        title=Field.TITLE in shown,
        description=Field.DESCRIPTION in shown,
        algorithm=Field.ALGORITHM in shown,
        metric=Field.METRIC in shown,
        names=Field.NAMES in shown,
        ranges=Field.RANGES in shown,
    )
