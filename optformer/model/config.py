"""Size and arrangement of a model: one frozen dataclass, five named sizes.

Parameter counts are for the default text vocabulary (2,048 pieces); `tests/model/test_model_config.py` checks them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import jax.numpy as jnp

Layout = Literal["pooled", "flat"]
CrossAttention = Literal["metadata", "summaries"]
DType = Literal["float32", "bfloat16"]

REMOVED: Final[Mapping[str, Any]] = {
    "policy_label_sigma": 0.0,
    "function_label_sigma": 0.0,
    "slot_pooling": "sum",
    "slot_description": "clause",
}
"""Fields of earlier releases -> the only value of each that is still supported."""


_MOST_PARTS: Final = 1000
"""Largest number of layers of a kind, or of experts."""
_LARGEST: Final = 2**20
"""Largest value of every other size, so that a damaged config is refused before anything is built from it."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that a checkpoint needs to rebuild its model.

    Attributes:
      layout: `pooled` (one decoder position per trial) or `flat` (one per token, as in Chen et al. 2022).
      width: d, of the encoder's and the decoder's residual stream.
      heads, head_width: attention heads and the width of each; their product need not be `width`.
      feed_forward: hidden width of the gated feed-forward layers.
      encoder_layers, decoder_layers: layers of the metadata encoder and of the decoder over trials.
      text_vocabulary: rows of the embedding table of text pieces.
      slot_width, slot_feed_forward: widths of the network that runs once per parameter value, B * T * D times per
        batch, and is therefore narrow.  `slot_feed_forward` is for the pooled layout only.
      policy_width, policy_heads, policy_feed_forward, policy_layers: sizes of the slot decoder (pooled layout only);
        `policy_heads` must divide `policy_width`.
      numeric_features: whether tokens of ordered parameters and objectives also enter as numbers, not only as rows of
        the embedding table.
      head_cosines: number of cosines in the series that the output heads add to their free weights; 0 for none (not
        with a shared vocabulary).
      shared_vocabulary: 0, or the rows of one table for text and values, as in Chen et al. 2022.  Then tokens are
        embedded plainly, positions are counted in tokens, and the output layer covers the whole table (flat only).
      relative_buckets, relative_max_distance: T5's relative position buckets; the second half is logarithmic.
      objective_weight: share of the function loss in the total; the rest is the policy loss.
      z_loss: coefficient of the squared log-normalizer, which keeps logits from drifting (1e-4 in T5X).
      cross_attention: the keys of the decoder's cross-attention: `metadata`, every token of the text, or `summaries`,
        one key per parameter and one for the header.
      policy_recall: whether the slot decoder looks up the earlier values of each parameter, and may copy them (pooled
        layout only; the flat one attends to every value anyway).
      policy_succession: whether the lookup also sees the predecessor of each earlier value, and how earlier trials
        differ from what has been chosen so far (with `policy_recall` only).
      policy_header: whether the slot decoder attends to the header of the metadata, which names the optimizer to
        imitate (with `policy_recall` only).
      experts: number of Gaussian processes whose predictions are mixed into those of the function head; 0 for none
        (pooled layout only).
      dtype: type of matrix products.  Parameters, the residual stream, norms, softmax and logits stay float32.
    """

    layout: Layout = "pooled"
    width: int = 128
    heads: int = 4
    head_width: int = 32
    feed_forward: int = 320
    encoder_layers: int = 1
    decoder_layers: int = 4
    text_vocabulary: int = 2048
    slot_width: int = 48
    slot_feed_forward: int = 96
    policy_width: int = 64
    policy_heads: int = 2
    policy_feed_forward: int = 128
    policy_layers: int = 2
    numeric_features: bool = True
    head_cosines: int = 32
    shared_vocabulary: int = 0
    relative_buckets: int = 32
    relative_max_distance: int = 128
    objective_weight: float = 0.5
    z_loss: float = 1e-4
    cross_attention: CrossAttention = "summaries"
    policy_recall: bool = False
    policy_succession: bool = False
    policy_header: bool = False
    experts: int = 0
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool)):
                raise ValueError(f"ModelConfig.{field.name} must be an integer, not {value!r}.")
            if field.type is float and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"ModelConfig.{field.name} must be a number, not {value!r}.")
            if field.type is bool and not isinstance(value, bool):
                raise ValueError(f"ModelConfig.{field.name} must be true or false, not {value!r}.")
            if (
                field.type is int
                and value < 1
                and field.name not in ("shared_vocabulary", "encoder_layers", "head_cosines", "experts")
            ):
                raise ValueError(f"ModelConfig.{field.name} must be at least 1, not {value}.")
            most = _MOST_PARTS if field.name.endswith("_layers") or field.name == "experts" else _LARGEST
            if field.type is int and value > most:
                raise ValueError(f"ModelConfig.{field.name} must be at most {most}, not {value}.")
        if self.layout not in get_args(Layout):
            raise ValueError(f"ModelConfig.layout must be one of {get_args(Layout)}, not {self.layout!r}.")
        if self.cross_attention not in get_args(CrossAttention):
            raise ValueError(
                f"ModelConfig.cross_attention must be one of {get_args(CrossAttention)}, not {self.cross_attention!r}."
            )
        if self.policy_recall and self.layout != "pooled":
            raise ValueError("policy_recall is for the pooled layout only: the flat one attends to every value anyway.")
        if self.policy_succession and not self.policy_recall:
            raise ValueError("policy_succession needs policy_recall=True: it extends the lookup of earlier values.")
        if self.policy_header and not self.policy_recall:
            raise ValueError("policy_header needs policy_recall=True: it is an input of the lookup.")
        if self.experts and self.layout != "pooled":
            raise ValueError("experts are for the pooled layout only: they correct one state per trial.")
        if self.dtype not in get_args(DType):
            raise ValueError(f"ModelConfig.dtype must be one of {get_args(DType)}, not {self.dtype!r}.")
        if self.policy_width % self.policy_heads:
            raise ValueError(f"policy_heads = {self.policy_heads} does not divide policy_width = {self.policy_width}.")
        if self.relative_buckets < 4 or self.relative_buckets % 4:
            raise ValueError(f"relative_buckets must be a multiple of 4, not {self.relative_buckets}.")
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError("relative_max_distance must exceed half of relative_buckets: the rest is logarithmic.")
        if self.encoder_layers < 0 or self.head_cosines < 0 or self.experts < 0:
            raise ValueError("encoder_layers, head_cosines and experts must not be negative.")
        if self.z_loss < 0:
            raise ValueError("z_loss must not be negative.")
        if not 0.0 <= self.objective_weight <= 1.0:
            raise ValueError(f"objective_weight must lie in [0, 1], not {self.objective_weight}.")
        if self.shared_vocabulary:
            if self.layout != "flat" or self.numeric_features:
                raise ValueError("A shared vocabulary needs layout='flat' and numeric_features=False.")
            if self.cross_attention != "metadata":
                raise ValueError("A shared vocabulary needs cross_attention='metadata': it has no embeddings of slots.")
            if self.shared_vocabulary < self.text_vocabulary + 1008:
                raise ValueError(
                    f"shared_vocabulary = {self.shared_vocabulary} must hold text_vocabulary = {self.text_vocabulary} "
                    "pieces and 1,008 decoder tokens."
                )

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @classmethod
    def tiny(cls) -> "ModelConfig":
        """0.2M parameters, for tests."""
        return cls(
            width=32,
            heads=2,
            head_width=16,
            feed_forward=64,
            encoder_layers=1,
            decoder_layers=2,
            slot_width=24,
            slot_feed_forward=32,
            policy_width=32,
            policy_heads=2,
            policy_feed_forward=48,
            policy_layers=1,
        )

    @classmethod
    def nano(cls) -> "ModelConfig":
        """2M parameters: trains on two CPU cores in an hour or two."""
        return cls()

    @classmethod
    def small(cls) -> "ModelConfig":
        """9M parameters: serves on a laptop CPU."""
        return cls(
            width=256,
            heads=8,
            head_width=32,
            feed_forward=640,
            encoder_layers=2,
            decoder_layers=6,
            slot_width=96,
            slot_feed_forward=192,
            policy_width=128,
            policy_heads=4,
            policy_feed_forward=320,
            dtype="bfloat16",
        )

    @classmethod
    def base(cls) -> "ModelConfig":
        """25M parameters: for one accelerator."""
        return cls(
            width=384,
            heads=6,
            head_width=64,
            feed_forward=1024,
            encoder_layers=2,
            decoder_layers=8,
            slot_width=128,
            slot_feed_forward=256,
            policy_width=192,
            policy_heads=3,
            policy_feed_forward=512,
            dtype="bfloat16",
        )

    @classmethod
    def paper(cls) -> "ModelConfig":
        """249M parameters: T5 1.1 base with the 33,152-row table of Chen et al. 2022, for pods."""
        return cls(
            layout="flat",
            width=768,
            heads=12,
            head_width=64,
            feed_forward=2048,
            encoder_layers=12,
            decoder_layers=12,
            text_vocabulary=32_128,
            numeric_features=False,
            shared_vocabulary=33_152,
            cross_attention="metadata",
            dtype="bfloat16",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        """The config with these fields, as any release wrote them; those left out keep their defaults.

        Raises:
          ValueError: an unknown field, a removed one that asks for what the model no longer has, or a value that is out
            of range.
        """
        fields = without_removed(fields)
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(
                f"Unknown field(s) of ModelConfig: {', '.join(unknown)}.  A later release may have written them.  "
                f"Known: {', '.join(known)}."
            )
        return cls(**fields)


def without_removed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the fields of `REMOVED`.

    Raises:
      ValueError: a removed field has a value that is no longer supported.
    """
    for name, only in REMOVED.items():
        if fields.get(name, only) != only:
            raise ValueError(
                f"ModelConfig.{name} was removed: {fields[name]!r} is no longer supported, only {only!r}; "
                "use the release of optformer that wrote it."
            )
    return {name: value for name, value in fields.items() if name not in REMOVED}
