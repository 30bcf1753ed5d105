"""The vocabulary as a SeqIO vocabulary, and the features of a task: the fields of `StudyBatch`."""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape, StudyBatch, blank_batch
from optformer.serialization.vocabulary import Vocabulary

# --- Vocabulary -------------------------------------------------------------------------------------------------------


class StudyVocabulary(seqio.Vocabulary):
    """The shipped vocabulary in unified ids: text pieces and keywords, then the decoder's values and statuses.

    Text is never encoded to keywords or values; those are inserted by id (`Vocabulary.keyword`, `value_id`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._vocabulary = Vocabulary.default()

    @property
    def bos_id(self) -> int | None:
        return None

    @property
    def eos_id(self) -> int | None:
        return None

    @property
    def unk_id(self) -> int | None:
        # Every byte has a piece, so nothing is unknown.
        return None

    @property
    def _base_vocab_size(self) -> int:
        return len(self._vocabulary)

    def _encode(self, s: str) -> list[int]:
        return self._vocabulary.encode(s)

    def _decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        """Ids of a scalar string, int32 [number of tokens]."""

        def encode(text: bytes | np.ndarray) -> np.ndarray:
            # `text` is bytes inside a graph, and an array of bytes outside.
            return np.array(self._encode(np.asarray(text).item().decode("utf-8", "replace")), np.int32)

        ids = tf.numpy_function(encode, [s], tf.int32)
        return tf.ensure_shape(ids, [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Strings [...] of ids, int32 [..., tokens]."""

        def decode(given: np.ndarray) -> np.ndarray:
            rows = given.reshape(-1, given.shape[-1])
            return np.array([self._decode(row).encode() for row in rows], object).reshape(given.shape[:-1])

        return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), ids.shape[:-1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StudyVocabulary) and self._vocabulary.fingerprint == other._vocabulary.fingerprint

    def __hash__(self) -> int:
        return hash(self._vocabulary.fingerprint)


# --- Features ---------------------------------------------------------------------------------------------------------


def feature_shapes(shape: BatchShape) -> dict[str, tuple[int, ...]]:
    """Shapes of the fields of `StudyBatch` without the batch axis, padded to `shape`."""
    return {name: array.shape[1:] for name, array in blank_batch(1, shape)._asdict().items()}


def task_feature_lengths(shape: BatchShape) -> dict[str, int | None]:
    """SeqIO's `sequence_length` for a batch shape: the first axis of every feature; None for scalars."""
    return {name: axes[0] if axes else None for name, axes in feature_shapes(shape).items()}


def batch_shape(lengths: Mapping[str, int | None] | None) -> BatchShape:
    """The batch shape of such lengths; None gives the default `BatchShape`.

    Raises:
      ValueError: a length that determines the shape is missing.
    """
    if lengths is None:
        return BatchShape()
    sizes = {
        "trials": lengths.get("y_tokens"),
        "slots": lengths.get("slot_kinds"),
        "text": lengths.get("text_tokens"),
        "policy_trials": lengths.get("policy_trials"),
    }
    missing = [name for name, size in sizes.items() if size is None]
    if missing:
        raise ValueError(
            f"the lengths {dict(lengths)} do not give {', '.join(missing)} of a batch: make them with "
            "task_feature_lengths(BatchShape(...))"
        )
    return BatchShape(**{name: size for name, size in sizes.items() if size is not None})


def feature_types() -> dict[str, tf.DType]:
    """Types of the fields of `StudyBatch`."""
    return {name: tf.as_dtype(array.dtype) for name, array in blank_batch(1, BatchShape())._asdict().items()}


def output_features() -> dict[str, seqio.Feature]:
    """One feature for every field of `StudyBatch`: text in the vocabulary's ids, values in the decoder's own."""
    shapes, types = feature_shapes(BatchShape()), feature_types()
    text, decoder = StudyVocabulary(), seqio.PassThroughVocabulary(tokens.DECODER_VOCABULARY)
    return {
        name: seqio.Feature(
            vocabulary=text if name == "text_tokens" else decoder,
            add_eos=False,
            dtype=types[name],
            rank=len(shapes[name]),
        )
        for name in StudyBatch._fields
    }
