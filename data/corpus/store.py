"""The corpus on disk: ragged arrays, one `.npy` file per column, and a JSON index.

A *study* is a search space with trials.  A *record* is one objective of a study (a study with two objectives gives
two); batches consist of records.  Metadata is stored in *variants*: each header and clause as the serializer writes it
with and without the fields that augmentation drops, so that batches are the same as if the studies were serialized
anew.

    index.json         version, fingerprint, source, names of studies and groups, the family of each group, what was
                       skipped and why
    slot_offsets       [studies + 1]  slots of study i: slot_offsets[i] ... slot_offsets[i + 1]; likewise below
    slot_kinds, slot_levels, slot_parents      [slots]   as in `StudySchema` and `Legality`
    cell_offsets       [studies + 1]  into x_tokens
    x_tokens           [cells]        trial by trial, slot by slot
    study_groups       [studies]      group of the study; splits never separate a group, which shares one weight
    first_clauses      [studies]      segment of slot 0 with neither names nor ranges
    record_studies     [records]
    record_minimize    [records]      the goal as the user wrote it (values are larger-is-better in any case)
    value_offsets      [records + 1]
    values, statuses   [values]       objective (NaN: none), and its token if there is none
    requested          [values]       whether the trial is excluded from training the policy: the study's algorithm did
                                      not suggest it, or an earlier trial violates a constraint on outcomes
    report_offsets     [values + 1]   intermediate reports of each value's trial, at most eight
    report_levels      [reports]      levels of the remaining budget (`serialization.partial_trials`), descending
    report_values      [reports]      larger is better
    headers            [records, 64]  segment of the header, by the bits of `Field` that it contains
    segment_offsets    [segments + 1] into text_tokens
    text_tokens        [tokens]

The folder appears under its name only when it is complete.
"""

import dataclasses
import enum
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from optformer.files import new_folder
from optformer.serialization.partial_trials import Reports
from optformer.serialization.vocabulary import Vocabulary

VERSION: Final = 4
"""Version of the format above *and* of the serialization that it caches: increase it if either changes."""
INDEX: Final = "index.json"


class CorpusError(ValueError):
    """A corpus cannot be opened or used; the message names it and says what to do."""


class Field(enum.IntFlag):
    """Fields of the metadata that augmentation drops; goal, kinds, scales and numbers of levels always stay."""

    NAMES = 1
    RANGES = 2
    TITLE = 4
    DESCRIPTION = 8
    ALGORITHM = 16
    METRIC = 32


HEADER_VARIANTS: Final = 64
CLAUSE_VARIANTS: Final = 4
"""Variants of a clause, by the bits NAMES and RANGES."""

COLUMNS: Final = {
    "slot_offsets": np.int64,
    "slot_kinds": np.int8,
    "slot_levels": np.int16,
    "slot_parents": np.int16,
    "cell_offsets": np.int64,
    "x_tokens": np.int16,
    "study_groups": np.int32,
    "first_clauses": np.int64,
    "record_studies": np.int32,
    "record_minimize": np.bool_,
    "value_offsets": np.int64,
    "values": np.float64,
    "statuses": np.int16,
    "requested": np.bool_,
    "report_offsets": np.int64,
    "report_levels": np.int16,
    "report_values": np.float64,
    "headers": np.int64,
    "segment_offsets": np.int64,
    "text_tokens": np.int32,
}


@dataclasses.dataclass(frozen=True)
class Record:
    """One objective of one study: views into the columns.

    Attributes:
      kinds, levels, parents: int [D], as in `StudySchema` and `Legality`.
      x_tokens: int16 [T, D].
      values: float64 [T], larger is better; NaN where there is none.
      statuses: int16 [T], the token where `values` is NaN.
      requested: bool [T], trials that were not suggested by the study's algorithm, or that follow one that violates a
        constraint on outcomes.
      minimize: whether the user's goal is to minimize.
      headers: int64 [64], segment of each variant.
      first_clause: segment of slot 0 in variant 0.
    """

    kinds: np.ndarray
    levels: np.ndarray
    parents: np.ndarray
    x_tokens: np.ndarray
    values: np.ndarray
    statuses: np.ndarray
    requested: np.ndarray
    minimize: bool
    headers: np.ndarray
    first_clause: int


@dataclasses.dataclass(frozen=True)
class Store:
    """An opened corpus: the columns, memory-mapped, and the index."""

    directory: Path
    index: dict[str, Any]
    columns: dict[str, np.ndarray]

    @property
    def num_records(self) -> int:
        return len(self.columns["record_studies"])

    def record(self, number: int) -> Record:
        """The record with this number, 0 ... num_records - 1."""
        column = self.columns
        study = column["record_studies"][number]
        slots = slice(*column["slot_offsets"][study : study + 2])
        cells = slice(*column["cell_offsets"][study : study + 2])
        values = slice(*column["value_offsets"][number : number + 2])
        return Record(
            kinds=column["slot_kinds"][slots],
            levels=column["slot_levels"][slots],
            parents=column["slot_parents"][slots],
            x_tokens=column["x_tokens"][cells].reshape(-1, slots.stop - slots.start),
            values=column["values"][values],
            statuses=column["statuses"][values],
            requested=column["requested"][values],
            minimize=bool(column["record_minimize"][number]),
            headers=column["headers"][number],
            first_clause=int(column["first_clauses"][study]),
        )

    def reports(self, number: int) -> list[Reports]:
        """The reports of each trial of a record; an empty list if no trial has any."""
        start, end = self.columns["value_offsets"][number : number + 2]
        offsets = self.columns["report_offsets"][start : end + 1]
        if offsets[0] == offsets[-1]:
            return []
        levels, reported = self.columns["report_levels"], self.columns["report_values"]
        return [
            Reports(levels[start:end].astype(np.int32), reported[start:end])
            for start, end in itertools.pairwise(offsets.tolist())
        ]


def fingerprint(columns: dict[str, np.ndarray]) -> str:
    """A digest of the content, independent of the path."""
    digest = hashlib.sha256(f"optformer corpus {VERSION}".encode())
    for name in COLUMNS:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(columns[name]).view(np.uint8).data)
    return digest.hexdigest()


def write_store(directory: Path, columns: dict[str, np.ndarray], index: Mapping[str, object]) -> None:
    """Writes the folder atomically, replacing an existing one."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(directory) as folder:
        columns = {name: np.ascontiguousarray(columns[name], dtype) for name, dtype in COLUMNS.items()}
        for name, column in columns.items():
            np.save(folder / f"{name}.npy", column)
        head: dict[str, object] = {"format": "optformer-corpus", "version": VERSION, "vocabulary": vocabulary_digest()}
        index = head | {"fingerprint": fingerprint(columns)} | dict(index)
        (folder / INDEX).write_text(json.dumps(index, indent=1))


def read_index(directory: Path) -> dict[str, Any] | None:
    """The index of a corpus folder, of any version; None if the folder has no readable index."""
    try:
        index = json.loads((directory / INDEX).read_text())
    except (OSError, ValueError):
        return None
    return index if isinstance(index, dict) and index.get("format") == "optformer-corpus" else None


def stale(index: Mapping[str, object]) -> bool:
    """Whether the corpus was written by another version of the format or with another vocabulary."""
    return index.get("version") != VERSION or index.get("vocabulary") != vocabulary_digest()


@functools.cache
def vocabulary_digest() -> str:
    """A digest of the default vocabulary, without which text ids have no meaning."""
    vocabulary = Vocabulary.default()
    pieces = "\n".join(vocabulary.decode([index]) for index in range(vocabulary.size))
    return hashlib.sha256(pieces.encode()).hexdigest()[:16]


def open_store(directory: Path) -> Store:
    """Opens a corpus folder and maps its columns into memory.

    Raises:
      CorpusError: the folder is not a corpus, has another version, or has missing or truncated columns.
    """
    index = read_index(directory)
    if index is None:
        raise CorpusError(
            f"{directory} holds no corpus: expected {INDEX} and array files as `building.build` writes them; "
            "give a JSON-lines corpus file, or such a folder"
        )
    if stale(index):
        raise CorpusError(
            f"{directory} is a corpus cache of version {index.get('version')} or of another vocabulary, this program "
            f"uses version {VERSION}: open the JSON-lines file it was built from, which rebuilds it"
        )
    columns = {}
    for name, dtype in COLUMNS.items():
        path = directory / f"{name}.npy"
        try:
            # Plain views of the mapped file: slicing `np.memmap` objects is several times slower.
            column = np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None))
        except (OSError, ValueError) as error:
            raise CorpusError(
                f"{path} is missing or damaged ({error}): delete {directory} and build it again"
            ) from None
        if column.dtype != dtype:
            raise CorpusError(f"{path} holds {column.dtype}, expected {np.dtype(dtype)}: delete {directory}")
        columns[name] = column
    return Store(directory, index, columns)
