"""SeqIO feature converters: a task's studies as one of the two decoder layouts reads them.

`StudyFeatureConverter` gives the fields of `StudyBatch`, which this project's models read in both layouts.
`FlatFeatureConverter` gives what a T5 trainer reads: metadata as encoder tokens and `p_1 ... p_D * y |` per trial as
decoder tokens, in unified ids, with several studies packed into one row.

Both take the two loss weights apart: parameter tokens (policy) and objective tokens (function).

Notation: S metadata tokens, D slots, T trials, all of one study.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import seqio
import tensorflow as tf

from optformer.data.seqio.features import batch_shape, output_features
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch
from optformer.serialization.vocabulary import Vocabulary

_FeatureSpec = seqio.FeatureConverter.FeatureSpec
_TASK_FEATURES: Final = {
    name: _FeatureSpec(dtype=feature.dtype, rank=feature.rank) for name, feature in output_features().items()
}


class StudyFeatureConverter(seqio.FeatureConverter):
    """Studies padded to a batch shape, one a row: the fields of `StudyBatch`."""

    TASK_FEATURES: ClassVar[Mapping[str, Any]] = _TASK_FEATURES
    MODEL_FEATURES: ClassVar[Mapping[str, Any]] = _TASK_FEATURES
    PACKING_FEATURE_DTYPES: ClassVar[Mapping[str, tf.DType]] = {}

    def __init__(self, policy_weight: float = 1.0, function_weight: float = 1.0):
        """Factors on the loss weights of parameter tokens and of objective tokens.

        Raises:
          ValueError: one of them is negative.
        """
        super().__init__(pack=False)
        self._policy_weight, self._function_weight = _checked_weights(policy_weight, function_weight)

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int | None]) -> tf.data.Dataset:
        del task_feature_lengths  # the task has padded to them

        def convert(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            fields = {name: example[name] for name in StudyBatch._fields}
            fields["policy_weights"] *= self._policy_weight
            fields["function_weights"] *= self._function_weight
            return fields

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int | None]) -> dict[str, int | None]:
        return dict(task_feature_lengths)


class FlatFeatureConverter(seqio.FeatureConverter):
    """Studies as token sequences for an encoder-decoder, packed: rows of several studies where they fit.

    Whether a prefix is free of order cannot be told in this layout: tasks for it take
    `Augmentation(order_free_rate=0.0)`.
    """

    TASK_FEATURES: ClassVar[Mapping[str, Any]] = _TASK_FEATURES
    MODEL_FEATURES: ClassVar[Mapping[str, Any]] = {
        "encoder_input_tokens": _FeatureSpec(dtype=tf.int32),
        "decoder_target_tokens": _FeatureSpec(dtype=tf.int32),
        "decoder_input_tokens": _FeatureSpec(dtype=tf.int32),
        "decoder_loss_weights": _FeatureSpec(dtype=tf.float32),
    }
    PACKING_FEATURE_DTYPES: ClassVar[Mapping[str, tf.DType]] = {
        "encoder_segment_ids": tf.int32,
        "encoder_positions": tf.int32,
        "decoder_segment_ids": tf.int32,
        "decoder_positions": tf.int32,
    }

    def __init__(
        self,
        policy_weight: float = 1.0,
        function_weight: float = 1.0,
        *,
        encoder_length: int | None = None,
        decoder_length: int | None = None,
        pack: bool = True,
    ):
        """Loss weights and lengths of a row in tokens.

        Args:
          policy_weight, function_weight: factors on the loss weights of parameter tokens and of objective tokens; `*`
            and `|` have none.
          encoder_length: default: S, one study of the largest size.
          decoder_length: default: T (D + 3), likewise.
          pack: False: one study a row.

        Raises:
          ValueError: a weight is negative.
        """
        super().__init__(pack=pack)
        self._policy_weight, self._function_weight = _checked_weights(policy_weight, function_weight)
        self._encoder_length, self._decoder_length = encoder_length, decoder_length

    def _lengths(self, task_feature_lengths: Mapping[str, int | None]) -> tuple[int, int]:
        """Raises `ValueError` where a study of the largest size would be cut."""
        shape = batch_shape(task_feature_lengths)
        largest = shape.text, shape.trials * (shape.slots + 3)
        lengths = self._encoder_length or largest[0], self._decoder_length or largest[1]
        if lengths[0] < largest[0] or lengths[1] < largest[1]:
            raise ValueError(
                f"rows of {lengths[0]} encoder and {lengths[1]} decoder tokens cannot hold a study of {shape}, which "
                f"has up to {largest[0]} and {largest[1]}"
            )
        return lengths

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int | None]) -> tf.data.Dataset:
        encoder_length, decoder_length = self._lengths(task_feature_lengths)

        def flatten(*fields: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            study = StudyBatch(*fields)
            inputs, targets, weights = flat_study(study, self._policy_weight, self._function_weight)
            return inputs, targets, _weights_to_codes(weights)

        def convert(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            flat = tf.numpy_function(flatten, [example[name] for name in StudyBatch._fields], [tf.int32] * 3)
            names = ("inputs", "targets", "codes")
            return {name: tf.ensure_shape(array, [None]) for name, array in zip(names, flat, strict=True)}

        def model_features(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            segments = row.get("targets_segment_ids")
            features = {
                "encoder_input_tokens": row["inputs"],
                "decoder_target_tokens": row["targets"],
                "decoder_input_tokens": seqio.autoregressive_inputs(row["targets"], sequence_id=segments),
                "decoder_loss_weights": _codes_to_weights(row["codes"]),
            }
            if self.pack:
                features["encoder_segment_ids"] = row["inputs_segment_ids"]
                features["encoder_positions"] = row["inputs_positions"]
                features["decoder_segment_ids"] = segments
                features["decoder_positions"] = row["targets_positions"]
            return features

        ds = ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
        ds = self._pack_or_pad(ds, {"inputs": encoder_length, "targets": decoder_length, "codes": decoder_length})
        return ds.map(model_features, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int | None]) -> dict[str, int]:
        encoder_length, decoder_length = self._lengths(task_feature_lengths)
        names = [*self.MODEL_FEATURES, *(self.PACKING_FEATURE_DTYPES if self.pack else ())]
        return {name: encoder_length if name.startswith("encoder") else decoder_length for name in names}


def flat_study(
    study: StudyBatch, policy_weight: float = 1.0, function_weight: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One study as sequences, its padding left out.

    Args:
      study: fields without the batch axis.
      policy_weight, function_weight: factors on the loss weights.

    Returns:
      inputs: int32 [metadata tokens].
      targets: int32 [trials (slots + 3)], unified ids of `p_1 ... p_D * y |`.
      weights: float32, like targets; 0 for `*` and `|`.
    """
    trials, slots = int(study.trial_mask.sum()), int((study.slot_kinds > 0).sum())
    grid = np.empty((trials, slots + 3), np.int32)
    grid[:, :slots] = study.x_tokens[:trials, :slots]
    grid[:, slots], grid[:, slots + 1], grid[:, slots + 2] = tokens.STAR, study.y_tokens[:trials], tokens.BAR
    weights = np.zeros((trials, slots + 3), np.float32)
    # Where a study has fewer trials than P, the rest are padded ones without weight.
    inside = study.policy_trials < trials
    weights[study.policy_trials[inside], :slots] = policy_weight * study.policy_weights[inside, :slots]
    weights[:, slots + 1] = function_weight * study.function_weights[:trials]
    inputs = np.asarray(study.text_tokens[study.text_segments >= 0], np.int32)
    return inputs, grid.ravel() + np.int32(Vocabulary.default().decoder_offset), weights.ravel()


# SeqIO packs integers, and takes a zero for padding: a weight travels as the bits of its float32, plus one.


def _weights_to_codes(weights: np.ndarray) -> np.ndarray:
    return weights.view(np.int32) + np.int32(1)


def _codes_to_weights(codes: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(tf.maximum(codes, 1) - 1, tf.float32)


def _checked_weights(*weights: float) -> tuple[float, ...]:
    if min(weights) < 0.0:
        raise ValueError(f"loss weights {weights}: none may be negative")
    return weights
