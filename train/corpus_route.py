"""The studies of a batch that come from the corpus: its training and held-out parts, prefetched by a thread."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from jax.sharding import Mesh

from optformer.data.corpus import Corpus
from optformer.serialization.batch import StudyBatch
from optformer.train.config import TrainConfig
from optformer.train.mesh import batch_parts, place_batch


class CorpusParts(NamedTuple):
    """The corpus and its two parts.  If it cannot be split, `training` is the whole corpus and `validation` is None."""

    whole: Corpus
    training: Corpus
    validation: Corpus | None


def open_corpus(config: TrainConfig) -> CorpusParts | None:
    """The corpus of a config; None if it has none.  Raises `CorpusError` if it cannot be read."""
    if config.corpus is None:
        return None
    whole = Corpus.open(config.corpus)
    training, validation = whole.split("train"), whole.split("validation")
    if not 0 < fitting(validation, config) < fitting(training, config):
        # With few groups of related studies, either none of them or most of the corpus would be held out.
        return CorpusParts(whole, whole, None)
    return CorpusParts(whole, training, validation)


def fitting(corpus: Corpus, config: TrainConfig) -> int:
    """Number of studies that have no more parameters than a batch has slots."""
    coverage = corpus.coverage(config.shape)
    return coverage.records - coverage.too_many_slots


def corpus_batch(corpus: Corpus, seed: int, step: int, config: TrainConfig, mesh: Mesh) -> StudyBatch:
    """The studies of the corpus in a batch, on the devices; each process reads the rows of its own devices."""

    def read(rows: range | None) -> StudyBatch:
        return corpus.batch(seed, step, config.corpus_studies, config.shape, config.augmentation, rows)

    return place_batch(read, mesh, config.corpus_studies)


def read_ahead(read: Callable[[int], StudyBatch | None], steps: range, depth: int = 2) -> Generator[StudyBatch | None]:
    """`read(step)` for each step in order, by a thread that stays up to `depth` steps ahead."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="corpus") as pool:
        todo = iter(steps)
        waiting: deque[Future[StudyBatch | None]] = deque(pool.submit(read, s) for s in itertools.islice(todo, depth))
        while waiting:
            part = waiting.popleft().result()
            waiting.extend(pool.submit(read, s) for s in itertools.islice(todo, 1))
            yield part


def remarks(corpus: CorpusParts, config: TrainConfig, mesh: Mesh) -> Iterator[str]:
    """Remarks on studies that are not used, and on inefficient reading, each with the reason."""
    coverage = corpus.whole.coverage(config.shape)
    if coverage.too_many_slots:
        yield (
            f"{coverage.too_many_slots} of the corpus' {coverage.records} studies have more than {config.shape.slots} "
            "parameters and are left out: raise shape.slots to train on them"
        )
    if corpus.validation is None:
        yield "the corpus has too few groups of studies to hold some out for validation: all are used for training"
    if mesh.is_multi_process and config.corpus_studies % batch_parts(mesh):
        yield (
            f"{config.corpus_studies} studies of the corpus do not divide over {batch_parts(mesh)} devices, so every "
            "process reads all of them; choose another corpus_fraction or batch_size to avoid that"
        )
