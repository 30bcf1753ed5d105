"""Reads studies from a prepared `study_corpus`, without TensorFlow.

A *dataset folder* is the output of `tfds build` for one corpus: `DATA_DIR/study_corpus/NAME/VERSION`.
"""

import heapq
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optformer.data.sources import SourceError
from optformer.extras import from_extra

if TYPE_CHECKING:
    from vizier import pyvizier as vz

    Records = Sequence[Mapping[str, Any]]

NAME = "study_corpus"


def is_dataset(directory: str | os.PathLike[str]) -> bool:
    """Whether the folder is a dataset folder, of any TFDS dataset."""
    return (Path(directory) / "dataset_info.json").is_file()


def open_splits(directory: str | os.PathLike[str]) -> "dict[str, Records]":
    """The records of each split, with random access: `open_splits(folder)["train"][0]["study"]` is JSON as bytes.

    Raises:
      SourceError: the folder is not a dataset folder, has another dataset, or is damaged.
      ModuleNotFoundError: TFDS or ArrayRecord is not installed.
    """
    if not is_dataset(directory):
        raise SourceError(
            f"{directory}: not a dataset folder; give the output of `tfds build`, DATA_DIR/{NAME}/NAME/VERSION, which "
            "has a file dataset_info.json"
        )
    with from_extra("data", user=f"reading {directory}"):
        import tensorflow_datasets as tfds
    from google.protobuf import json_format

    try:
        builder = tfds.builder_from_directory(os.fspath(directory))
        name = builder.info.name
        records = {split: builder.as_data_source(split=split) for split in sorted(builder.info.splits)}
    except (ValueError, OSError, LookupError, RuntimeError, json_format.Error) as error:
        raise SourceError(f"{directory}: the dataset cannot be read ({error})") from error
    if name != NAME:
        raise SourceError(f"{directory}: holds the dataset {name}, not {NAME}")
    return records


def read_studies(directory: str | os.PathLike[str], split: str | None = None) -> "Iterator[vz.ProblemAndTrials]":
    """Yields the studies of one split, or of all splits in the order of the corpus they were built from.

    Raises:
      SourceError: as in `open_splits`; also if there is no such split, or, while iterating, for a damaged file.
    """
    from optformer.data.sources.study_json import study_from_json

    splits = open_splits(directory)
    if split is not None and split not in splits:
        raise SourceError(f"{directory}: no split {split!r}; it has {', '.join(splits)}")
    chosen = list(splits.values()) if split is None else [splits[split]]
    # Each split keeps the order of the corpus, so merging them restores it with one record per split in memory.
    for record in heapq.merge(
        *(_each(records, directory) for records in chosen), key=lambda record: int(record["position"])
    ):
        yield study_from_json(json.loads(record["study"]))


def _each(records: "Records", directory: str | os.PathLike[str]) -> Iterator[Mapping[str, Any]]:
    for index in range(len(records)):
        try:
            yield records[index]
        except (RuntimeError, OSError) as error:
            raise SourceError(
                f"{directory}: record {index} cannot be read, build the dataset again ({error})"
            ) from error
