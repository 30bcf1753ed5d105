"""Embeddings of value tokens, slots, trials and objectives.

Notation: B studies, T trials (or any rows), D slots, d width, w slot width, q token, L levels, z = q / (L - 1).

An embedding table does not represent the order of bins: 999 and 998 would be as different as two categories.  So a
token of an ordered slot also enters as features of z, which its row of the table only refines.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.encoder import clause_summaries
from optformer.model.interface import SlotContext
from optformer.model.layers import NEVER, Projection, RMSNorm, Rng, Table, gate
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch

OCTAVES = 7
"""Number of sines in z, of period 2, 1, 1/2, ... 1/32."""
FEATURES = 2 + 2 * OCTAVES
TABLE_STD = 0.5
ORDERED_ROW = 0.2
"""Initial scale of the embedding rows of ordered tokens: at first, their numeric features dominate."""


def ordered_kind(kinds: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Whether the tokens of each kind of slot are ordered."""
    return (kinds == tokens.CONTINUOUS) | (kinds == tokens.INTEGER) | (kinds == tokens.DISCRETE)


def numeric_features(
    token: Int[Array, "*shape"], levels: Int[Array, "*shape"], ordered: Bool[Array, "*shape"]
) -> Float[Array, "*shape feature"]:
    """1, 2z - 1, and sine and cosine of pi 2^k z for k < OCTAVES; all zero for statuses and unordered tokens.

    `levels` and `ordered` may have axes of size 1 where `token` has more.  Higher octaves come from the
    double-angle formulas: one sine and one cosine per token instead of seven.
    """
    is_number = ordered & (token < jnp.minimum(levels, tokens.NUM_LEVELS))
    z = token.astype(jnp.float32) / jnp.maximum(levels - 1, 1).astype(jnp.float32)
    z = jnp.where(is_number, z, 0.0)
    sine, cosine = jnp.sin(math.pi * z), jnp.cos(math.pi * z)
    columns = [jnp.ones_like(z), 2.0 * z - 1.0]
    for _ in range(OCTAVES):
        columns += [sine, cosine]
        sine, cosine = 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine
    return jnp.where(is_number[..., None], jnp.stack(columns, axis=-1), 0.0)


class TokenEmbedding(nnx.Module):
    """Embedding of value tokens, [..., w]: table row plus projection of the numeric features."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        self.table = Table(tokens.DECODER_VOCABULARY, config.slot_width, std=TABLE_STD, rng=rng)
        self.numeric = (
            Projection((FEATURES,), (config.slot_width,), dtype=None, rng=rng) if config.numeric_features else None
        )

    def __call__(
        self, token: Int[Array, "*shape"], levels: Int[Array, "*shape"], ordered: Bool[Array, "*shape"]
    ) -> Float[Array, "*shape width"]:
        row = self.table(token)
        if self.numeric is None:
            return row
        features = numeric_features(token, levels, ordered)
        is_number = features[..., :1]
        return row * (1.0 + (ORDERED_ROW - 1.0) * is_number) + self.numeric(features)


def slot_context(batch: StudyBatch, scale: Array, shift: Array, descriptor: Array) -> SlotContext:
    """A `SlotContext` with the kinds, levels and mask of the batch."""
    kinds = jnp.asarray(batch.slot_kinds)
    return SlotContext(scale, shift, descriptor, jnp.asarray(batch.slot_levels), kinds, kinds != tokens.NO_SLOT)


class SlotEmbedding(nnx.Module):
    """Embedding of a slot from the summary of its clause, its identity and its kind, and the modulation of its values.

    Identities are drawn at random per study, so that slots differ even if all names are dropped.
    """

    def __init__(self, config: ModelConfig, *, rng: Rng):
        width = config.width
        self.clause = Projection((width,), (width,), dtype=None, rng=rng)
        self.identity = Table(tokens.NUM_SLOT_IDENTITIES, width, std=1.0, rng=rng)
        self.kind = Table(tokens.NUM_SLOT_KINDS, width, std=1.0, rng=rng)
        self.norm = RMSNorm(width)
        self.modulation = Projection((width,), (2, config.slot_width), dtype=None, rng=rng, stacked=True)

    def __call__(self, encoded: Float[Array, "batch text width"], batch: StudyBatch) -> SlotContext:
        kinds = jnp.asarray(batch.slot_kinds)
        _, summaries = clause_summaries(encoded, jnp.asarray(batch.text_segments), kinds.shape[1])
        identity = self.identity(jnp.asarray(batch.slot_identities) % tokens.NUM_SLOT_IDENTITIES)
        descriptor = self.norm(identity + self.kind(kinds) + self.clause(summaries))
        modulation = self.modulation(descriptor)
        return slot_context(batch, modulation[..., 0, :], modulation[..., 1, :], descriptor)


def memory_rows(
    encoded: Float[Array, "batch text width"], slots: SlotContext, batch: StudyBatch, config: ModelConfig
) -> tuple[Float[Array, "batch key width"], Float[Array, "batch 1 1 1 key"]]:
    """The rows of the metadata that the decoder's cross-attention reads, and the bias that masks padding.

    Either all S encoded tokens, or D + 1 rows: the summary of the header and the descriptors of the slots.
    """
    segments = jnp.asarray(batch.text_segments)
    if config.cross_attention == "metadata":
        rows, visible = encoded, segments >= 0
    else:
        header, _ = clause_summaries(encoded, segments, slots.mask.shape[1])
        rows = jnp.concatenate([header[:, None], slots.descriptor], axis=1)
        visible = jnp.pad(slots.mask, ((0, 0), (1, 0)), constant_values=True)
    return rows, jnp.where(visible, 0.0, NEVER)[:, None, None, None]


class ValueEmbedding(nnx.Module):
    """Embedding of values, [B, rows, D, w]: the token embedding, scaled and shifted by the slot."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        self.tokens = TokenEmbedding(config, rng=rng)

    def __call__(self, x: Int[Array, "batch row slot"], slots: SlotContext) -> Float[Array, "batch row slot width"]:
        embedded = self.tokens(x, slots.levels[:, None, :], ordered_kind(slots.kinds)[:, None, :])
        return embedded * (1.0 + slots.scale[:, None]) + slots.shift[:, None]


class TrialEmbedding(nnx.Module):
    """The parameters of a trial as one vector: each value passes a gated layer, and the results are summed over slots.

    The second half of the feed-forward layer is linear, so it is applied once per trial, after the sum.  Dividing the
    sum by the square root of the number of slots keeps its variance the same for 2 and for 40 parameters.
    """

    def __init__(self, config: ModelConfig, *, rng: Rng):
        dtype = config.compute_dtype
        self.up = Projection((config.slot_width,), (2, config.slot_feed_forward), dtype=dtype, rng=rng, stacked=True)
        self.down = Projection((config.slot_feed_forward,), (config.width,), dtype=dtype, rng=rng)

    def __call__(
        self, values: Float[Array, "batch row slot width"], mask: Bool[Array, "batch slot"]
    ) -> Float[Array, "batch row width"]:
        share = mask / jnp.sqrt(jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1))
        hidden = gate(self.up(values))
        pooled = jnp.einsum("btdf,bd->btf", hidden, share.astype(hidden.dtype), preferred_element_type=jnp.float32)
        return self.down(pooled).astype(jnp.float32)


class ObjectiveEmbedding(nnx.Module):
    """Embedding of objective tokens (bins or statuses), [..., d]: a table, numeric features, and a gated layer."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        dtype = config.compute_dtype
        self.tokens = TokenEmbedding(config, rng=rng)
        self.up = Projection((config.slot_width,), (2, config.slot_feed_forward), dtype=dtype, rng=rng, stacked=True)
        self.down = Projection((config.slot_feed_forward,), (config.width,), dtype=dtype, rng=rng)

    def __call__(self, y: Int[Array, "batch trial"]) -> Float[Array, "batch trial width"]:
        levels = jnp.full((1, 1), tokens.NUM_LEVELS, jnp.int32)
        embedded = self.tokens(y, levels, jnp.ones((1, 1), bool))
        return self.down(gate(self.up(embedded))).astype(jnp.float32)
