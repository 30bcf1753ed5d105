"""From value tokens to vectors: what a slot is, and what a value in it means.

Notation: B studies, T trials (or any rows), D slots, d width, w slot width, q token, L levels, z = q / (L - 1).

Bins are ordered, and a table of rows does not know it: the numbers 999 and 998 would be as foreign to each other as
two categories.  So a token of an ordered slot also enters as features of z, and its table row only refines them.
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
"""Sines of period 2, 1, 1/2, ... 1/32 in z: the shortest turns from crest to trough within 1/64."""
FEATURES = 2 + 2 * OCTAVES
TABLE_STD = 0.5
ORDERED_ROW = 0.2
"""Factor on the table rows of ordered tokens, so that at first neighbours are told apart by their features alone."""


def ordered_kind(kinds: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Kinds whose tokens stand in an order."""
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
    """Table row plus projection of the numeric features, [..., w]."""

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
    """With the study's own kinds, levels and mask."""
    kinds = jnp.asarray(batch.slot_kinds)
    return SlotContext(scale, shift, descriptor, jnp.asarray(batch.slot_levels), kinds, kinds != tokens.NO_SLOT)


class SlotEmbedding(nnx.Module):
    """What a slot is: its clause's summary, its identity, its kind; and the modulation of values that follows.

    Identities are drawn at random per study, so that the slots differ even where all names are dropped.
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
    """What the decoder's cross-attention reads of the metadata, and the bias that hides padding.

    Either every encoded token, or the header's summary and the slots' descriptors: D + 1 keys in place of S.
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
    """A value in its slot: token embedding, scaled and shifted by the slot; [B, rows, D, w]."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        self.tokens = TokenEmbedding(config, rng=rng)

    def __call__(self, x: Int[Array, "batch row slot"], slots: SlotContext) -> Float[Array, "batch row slot width"]:
        embedded = self.tokens(x, slots.levels[:, None, :], ordered_kind(slots.kinds)[:, None, :])
        return embedded * (1.0 + slots.scale[:, None]) + slots.shift[:, None]


class TrialEmbedding(nnx.Module):
    """A trial's parameters as one vector: each value through a gated layer, summed over the slots.

    The second half of the feed-forward layer is linear and so is done once per trial, after the sum.  The sum is
    divided by the square root of the number of slots, which keeps its spread the same for 2 and for 40 parameters.
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
    """An objective token (bin or status) as a vector: its own table and features, and a gated layer; [..., d]."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        dtype = config.compute_dtype
        self.tokens = TokenEmbedding(config, rng=rng)
        self.up = Projection((config.slot_width,), (2, config.slot_feed_forward), dtype=dtype, rng=rng, stacked=True)
        self.down = Projection((config.slot_feed_forward,), (config.width,), dtype=dtype, rng=rng)

    def __call__(self, y: Int[Array, "batch trial"]) -> Float[Array, "batch trial width"]:
        levels = jnp.full((1, 1), tokens.NUM_LEVELS, jnp.int32)
        embedded = self.tokens(y, levels, jnp.ones((1, 1), bool))
        return self.down(gate(self.up(embedded))).astype(jnp.float32)
