"""SeqIO feature converters, from the studies of a task to the inputs of a model.

`StudyFeatureConverter` makes the fields of `StudyBatch`, which this project's models read in both layouts.
`FlatFeatureConverter` makes the inputs of a T5 trainer: metadata as encoder tokens and `p_1 ... p_D * y |` per trial as
decoder tokens, in unified ids, with several studies packed into one row.

Both have separate loss weights for parameter tokens (policy) and objective tokens (function).

Notation, for one study: S metadata tokens, D slots, T trials.
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
    """Studies padded to a batch shape, one per row: the fields of `StudyBatch`."""

    TASK_FEATURES: ClassVar[Mapping[str, Any]] = _TASK_FEATURES
    MODEL_FEATURES: ClassVar[Mapping[str, Any]] = _TASK_FEATURES
    PACKING_FEATURE_DTYPES: ClassVar[Mapping[str, tf.DType]] = {}

    def __init__(self, policy_weight: float = 1.0, function_weight: float = 1.0):
        """
        Args:
          policy_weight, function_weight: factors on the loss weights of parameter tokens and of objective tokens.

        Raises:
          ValueError: a weight is negative.
        """
        super().__init__(pack=False)
        self._policy_weight, self._function_weight = _checked_weights(policy_weight, function_weight)

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int | None]) -> tf.data.Dataset:
        del task_feature_lengths  # the task has already padded to these lengths

        def convert(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            fields = {name: example[name] for name in StudyBatch._fields}
            fields["policy_weights"] *= self._policy_weight
            fields["function_weights"] *= self._function_weight
            return fields

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int | None]) -> dict[str, int | None]:
        return dict(task_feature_lengths)


class FlatFeatureConverter(seqio.FeatureConverter):
    """Studies as token sequences for an encoder-decoder, with several studies packed into a row if they fit.

    This format cannot represent order-free prefixes: use tasks with `Augmentation(order_free_rate=0.0)`.
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
        """
        Args:
          policy_weight, function_weight: factors on the loss weights of parameter tokens and of objective tokens; `*`
            and `|` have no weight.
          encoder_length: encoder tokens per row; default: S, one study of the largest size.
          decoder_length: decoder tokens per row; default: T (D + 3), one study of the largest size.
          pack: whether to pack several studies into a row.

        Raises:
          ValueError: a weight is negative.
        """
        super().__init__(pack=pack)
        self._policy_weight, self._function_weight = _checked_weights(policy_weight, function_weight)
        self._encoder_length, self._decoder_length = encoder_length, decoder_length

    def _lengths(self, task_feature_lengths: Mapping[str, int | None]) -> tuple[int, int]:
        """Encoder and decoder length of a row; raises ValueError if a study of the largest size would not fit."""
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
    """One study as sequences without padding.

    Args:
      study: the fields of `StudyBatch` without the batch axis.
      policy_weight, function_weight: factors on the loss weights.

    Returns:
      inputs: int32 [metadata tokens].
      targets: int32 [trials (slots + 3)], unified ids of `p_1 ... p_D * y |`.
      weights: float32, shape of targets; 0 for `*` and `|`.
    """
    trials, slots = int(study.trial_mask.sum()), int((study.slot_kinds > 0).sum())
    grid = np.empty((trials, slots + 3), np.int32)
    grid[:, :slots] = study.x_tokens[:trials, :slots]
    grid[:, slots], grid[:, slots + 1], grid[:, slots + 2] = tokens.STAR, study.y_tokens[:trials], tokens.BAR
    weights = np.zeros((trials, slots + 3), np.float32)
    # If a study has fewer than P trials, the other indices are padding without weight.
    inside = study.policy_trials < trials
    weights[study.policy_trials[inside], :slots] = policy_weight * study.policy_weights[inside, :slots]
    weights[:, slots + 1] = function_weight * study.function_weights[:trials]
    inputs = np.asarray(study.text_tokens[study.text_segments >= 0], np.int32)
    return inputs, grid.ravel() + np.int32(Vocabulary.default().decoder_offset), weights.ravel()


# SeqIO packs integers and treats 0 as padding, so weights are encoded as the bits of their float32, plus one.


def _weights_to_codes(weights: np.ndarray) -> np.ndarray:
    return weights.view(np.int32) + np.int32(1)


def _codes_to_weights(codes: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(tf.maximum(codes, 1) - 1, tf.float32)


def _checked_weights(*weights: float) -> tuple[float, ...]:
    if min(weights) < 0.0:
        raise ValueError(f"loss weights {weights}: none may be negative")
    return weights
