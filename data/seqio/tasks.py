"""Corpora as SeqIO tasks and mixtures: the same studies as the trainer's cache, for programs that use `seqio`.

    add_corpus_task("wild", "datasets/study_corpus/wild/1.0.0")
    add_corpus_task("bbob", "datasets/study_corpus/bbob/1.0.0")
    add_corpus_mixture("all", {"wild": 3.0, "bbob": 1.0})
    for batch in study_batches("all", BatchShape(), batch_size=32, seed=0): ...

A task reads studies from a prepared `study_corpus` (train and validation share no group of studies), serializes them
with `corpus.building`, and draws one example of each with `Corpus.batch`, which also makes the trainer's own batches.
So the two only differ in the order of the studies.  Needs the extra `data`; the import takes seconds.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import seqio
import tensorflow as tf

from optformer.data.corpus import Augmentation, Corpus
from optformer.data.corpus.batches import DEFAULT_AUGMENTATION
from optformer.data.corpus.building import Builder
from optformer.data.corpus.store import COLUMNS, Store
from optformer.data.seqio.converters import StudyFeatureConverter
from optformer.data.seqio.features import (
    batch_shape,
    feature_shapes,
    feature_types,
    output_features,
    task_feature_lengths,
)
from optformer.data.sources.study_json import study_from_json
from optformer.data.tfds.reading import open_splits
from optformer.serialization.batch import BatchShape, StudyBatch

SHUFFLE_BUFFER: Final = 256
"""Size of the shuffle buffer in examples.  Records are already read in random order, so it only needs to separate the
objectives of one study."""

KEPT_IN_MEMORY: Final = 10_000
"""Splits of at most this many studies are kept in memory after serialization, about ten kilobytes per study."""

Preprocessor = Callable[..., tf.data.Dataset]


# --- Source -----------------------------------------------------------------------------------------------------------


def corpus_source(directory: str | os.PathLike[str]) -> seqio.FunctionDataSource:
    """The studies of a dataset folder, read with random access if they are shuffled.

    Raises:
      SourceError: no such dataset folder, or a damaged one.
    """
    splits = open_splits(directory)

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        records = splits[split]
        order = np.arange(len(records))
        if shuffle_files:
            order = np.random.default_rng(seed).permutation(order)

        def fetch(index: np.int64) -> tuple[bytes, bytes, np.int64]:
            record = records[int(index)]
            return record["study"], record["id"], np.int64(record["group_records"])

        def read(index: tf.Tensor) -> dict[str, tf.Tensor]:
            study, name, group_records = tf.numpy_function(fetch, [index], [tf.string, tf.string, tf.int64])
            example = {"study": study, "id": name, "group_records": group_records}
            return {key: tf.ensure_shape(value, []) for key, value in example.items()}

        return tf.data.Dataset.from_tensor_slices(order).map(read, num_parallel_calls=tf.data.AUTOTUNE)

    return seqio.FunctionDataSource(
        dataset, splits=tuple(splits), num_input_examples={split: len(records) for split, records in splits.items()}
    )


# --- Preprocessors ----------------------------------------------------------------------------------------------------


def study_columns(study: bytes | str) -> dict[str, np.ndarray]:
    """The token arrays of one study, given as JSON: the columns (`corpus/store.py`) of a corpus with only this study.

    They have no records if the study has no objective with two observed values.
    """
    builder = Builder()
    builder.add(study_from_json(json.loads(study)))
    return {name: np.asarray(builder._joined(name), dtype) for name, dtype in COLUMNS.items()}


def serialize(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Converts studies to token arrays: one example per objective, with the study's columns and the number `record`.

    The result is kept in memory if there are few studies.
    """

    def columns(study: bytes) -> list[np.ndarray]:
        return list(study_columns(study).values())

    def arrays(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        given = tf.numpy_function(columns, [example["study"]], [tf.as_dtype(dtype) for dtype in COLUMNS.values()])
        kept = {name: example[name] for name in ("id", "group_records")}
        for name, array in zip(COLUMNS, given, strict=True):
            kept[name] = tf.ensure_shape(array, [None, None] if name == "headers" else [None])
        return kept

    def records(study: dict[str, tf.Tensor]) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(tf.shape(study["record_studies"], out_type=tf.int64)[0])
        return numbers.map(lambda record: study | {"record": record})

    serialized = dataset.map(arrays, num_parallel_calls=tf.data.AUTOTUNE).flat_map(records)
    # Serialization takes nearly all of the time, and everything random comes after it, so it is cached.
    known = dataset.cardinality().numpy()
    return serialized.cache() if 0 <= known <= KEPT_IN_MEMORY else serialized


def balance_groups(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Keeps a record of a group of n records with probability 1 / sqrt(n), to match the weights of `Corpus.batch`."""

    @seqio.map_over_dataset(num_seeds=1)
    def draw(example: dict[str, tf.Tensor], seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        share = 1.0 / tf.sqrt(tf.cast(tf.maximum(example["group_records"], 1), tf.float32))
        return example, tf.random.stateless_uniform([], tf.stack(seed)) < share

    return draw(dataset).filter(lambda _, kept: kept).map(lambda example, _: example)


@seqio.map_over_dataset(num_seeds=1)
def add_keys(example: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Adds `key`, int64 [3], to each example: the seed, step and row with which `Corpus.batch` draws it."""
    return example | {"key": tf.stack([tf.cast(seed[0], tf.int64), tf.cast(seed[1], tf.int64), tf.zeros([], tf.int64)])}


def augment(augmentation: Augmentation = DEFAULT_AUGMENTATION) -> Preprocessor:
    """Augments each example: draws trials, prefix, order of slots and metadata fields, and scales the objective.

    The result has the fields of `StudyBatch`, padded to the shape given by `sequence_length`, and its origin: `id`,
    `record` and `key`.  Studies with more parameters than the shape has slots are dropped.
    """

    def preprocess(
        dataset: tf.data.Dataset, sequence_length: Mapping[str, int | None] | None = None
    ) -> tf.data.Dataset:
        shape = batch_shape(sequence_length)
        shapes, types = feature_shapes(shape), feature_types()

        def row(record: np.int64, key: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
            store = Store(Path("study"), {}, dict(zip(COLUMNS, columns, strict=True)))
            seed, step, place = map(int, key)
            corpus = Corpus(store, np.array([record]))
            batch = corpus.batch(seed, step, place + 1, shape, augmentation, rows=range(place, place + 1))
            return [np.asarray(field[0]) for field in batch]

        def draw(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            given = [example["record"], example["key"], *(example[name] for name in COLUMNS)]
            arrays = tf.numpy_function(row, given, [types[name] for name in StudyBatch._fields])
            drawn = {
                name: tf.ensure_shape(array, shapes[name])
                for name, array in zip(StudyBatch._fields, arrays, strict=True)
            }
            return drawn | {name: example[name] for name in ("id", "record", "key")}

        fitting = dataset.filter(lambda example: tf.shape(example["slot_kinds"])[0] <= shape.slots)
        return fitting.map(draw, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


# --- Tasks and mixtures -----------------------------------------------------------------------------------------------


def add_corpus_task(
    name: str,
    directory: str | os.PathLike[str],
    *,
    augmentation: Augmentation = DEFAULT_AUGMENTATION,
    balanced: bool = True,
) -> seqio.Task:
    """Registers a task over one corpus.

    Args:
      name: name of the task; letters, digits, `.`, `:`, `_` and `#`.
      directory: dataset folder of `study_corpus`.
      augmentation: rates of the augmentations, which are drawn again in every epoch.
      balanced: whether reruns of one study weigh less, as in the trainer; otherwise, every record occurs once per
        epoch.

    Raises:
      SourceError: there is no such dataset folder.
      ValueError: the name is taken or invalid.
    """
    preprocessors: list[Preprocessor] = [serialize, seqio.CacheDatasetPlaceholder()]
    preprocessors += [balance_groups] if balanced else []
    preprocessors += [add_keys, augment(augmentation)]
    return seqio.TaskRegistry.add(
        name,
        source=corpus_source(directory),
        output_features=output_features(),
        preprocessors=preprocessors,
        shuffle_buffer_size=SHUFFLE_BUFFER,
    )


def add_corpus_mixture(name: str, rates: Mapping[str, float]) -> seqio.Mixture:
    """Registers a mixture of tasks, which are sampled in proportion to their rates.

    Raises:
      ValueError: no task, an unknown one, a rate that is not positive, or a name that is taken.
    """
    if not rates:
        raise ValueError(f"the mixture {name!r} needs a rate for at least one task")
    for task, rate in rates.items():
        if not 0.0 < rate < float("inf"):
            raise ValueError(f"the mixture {name!r} gives {task!r} the rate {rate}; it must be positive")
    return seqio.MixtureRegistry.add(name, list(rates.items()))


def study_batches(
    name: str,
    shape: BatchShape,
    batch_size: int,
    *,
    split: str = "train",
    seed: int | None = None,
    shuffle: bool = True,
    num_epochs: int | None = None,
    shard: tuple[int, int] = (0, 1),
    policy_weight: float = 1.0,
    function_weight: float = 1.0,
) -> Iterator[StudyBatch]:
    """Yields batches of a task or mixture, in the format that the model reads (numpy).

    Args:
      name: name of a registered task or mixture.
      shape: padded sizes.
      batch_size: B; an incomplete last batch is dropped.
      split: `train` or `validation`.
      seed: seed of order and augmentation; None: a random one.
      shuffle: whether to shuffle; otherwise, the order is that of the corpus.
      num_epochs: number of epochs; None: endless.
      shard: index and number of processes that read disjoint parts.
      policy_weight, function_weight: factors on the loss weights of parameter and of objective tokens.
    """
    index, count = shard
    dataset = seqio.get_dataset(
        name,
        task_feature_lengths(shape),
        StudyFeatureConverter(policy_weight, function_weight),
        dataset_split=split,
        shuffle=shuffle,
        num_epochs=num_epochs,
        shard_info=seqio.ShardInfo(index, count) if count > 1 else None,
        verbose=False,
        seed=seed,
    )
    for batch in dataset.batch(batch_size, drop_remainder=True).as_numpy_iterator():
        yield StudyBatch(**batch)
