"""Logged studies as cached token arrays, and training batches of them, without TensorFlow."""

from optformer.data.corpus.augmentation import Augmentation
from optformer.data.corpus.batches import Corpus, Coverage
from optformer.data.corpus.store import CorpusError

__all__ = ["Augmentation", "Corpus", "CorpusError", "Coverage"]
