"""The metadata encoder: from the text of a study to one vector per token and one summary per clause.

Notation: B studies, S text tokens, D slots, d width.

A clause attends to itself and to the header; the header attends to itself; positions are counted within a segment.  So
the encoder is equivariant to the order of the clauses, and the order of parameters does not matter.

Absolute positions within a segment are added to the embedded text once.  T5's relative biases need a lookup per pair of
tokens, which took a tenth of a training step on a CPU.

In a long text, nearly all pairs of tokens are masked.  There, each block of tokens attends only to the header, itself
and its two neighbours, so that the cost is linear in S and not quadratic.
"""

from typing import Final

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.layers import NEVER, Block, Keys, RelativeBias, RMSNorm, Rng, Table, attend
from optformer.serialization.batch import StudyBatch

MAX_POSITIONS = 64
"""Number of distinct positions in a segment; later tokens share the last one."""

BLOCK: Final = 64
"""Tokens of a block.  No clause is longer (`MetadataOptions`), so a clause lies in at most two adjacent blocks."""

HEADER: Final = 128
"""The header lies within this many first tokens."""

LONG: Final = 512
"""Longer texts are processed in blocks."""


class MetadataEncoder(nnx.Module):
    """T5 1.1 encoder blocks over embedded text.

    With `config.shared_vocabulary`, as in plain T5: all tokens attend to each other, with relative positions over the
    whole text.
    """

    def __init__(self, config: ModelConfig, *, rng: Rng):
        self.plain = config.shared_vocabulary > 0
        if self.plain:
            self.bias = RelativeBias(
                config.relative_buckets, config.relative_max_distance, config.heads, special=0, rng=rng
            )
        else:
            self.positions = Table(MAX_POSITIONS, config.width, std=0.5, rng=rng)
        self.blocks = nnx.List(
            Block(
                config.width,
                config.heads,
                config.head_width,
                config.feed_forward,
                cross=False,
                dtype=config.compute_dtype,
                rng=rng,
            )
            for _ in range(config.encoder_layers)
        )
        self.norm = RMSNorm(config.width)

    def __call__(
        self, embedded: Float[Array, "batch text width"], batch: StudyBatch
    ) -> Float[Array, "batch text width"]:
        """Encoded text.  Rows of padding are meaningless: mask them with `batch.text_segments >= 0`."""
        if self.plain:
            bias = self.plain_bias(jnp.asarray(batch.text_segments))
        else:
            embedded = embedded + self.positions(jnp.clip(jnp.asarray(batch.text_positions), 0, MAX_POSITIONS - 1))
            if embedded.shape[1] > LONG and embedded.shape[1] % BLOCK == 0:
                return self._in_blocks(embedded, jnp.asarray(batch.text_segments))
            bias = segment_bias(jnp.asarray(batch.text_segments))
        rows = embedded[:, :, None]
        for block in self.blocks:
            query, key, value = block.project(rows)
            rows = block.finish(rows, attend(query, shared=Keys(key[:, :, 0], value[:, :, 0], bias)))
        return self.norm(rows[:, :, 0])

    def _in_blocks(
        self, embedded: Float[Array, "batch text width"], segments: Int[Array, "batch text"]
    ) -> Float[Array, "batch text width"]:
        """The same in blocks.  Segments must be in order, and none may be longer than a block."""
        studies, text, width = embedded.shape
        rows = embedded.reshape(studies, text // BLOCK, BLOCK, width)
        of_rows = segments.reshape(studies, -1, BLOCK)
        of_keys = with_neighbours(of_rows, empty=-1)  # [B, N, 3 BLOCK]
        same = (of_rows[..., None] == of_keys[:, :, None]) & (of_keys[:, :, None] > 0)
        to_header = jnp.where(segments[:, :HEADER] == 0, 0.0, NEVER)[:, None, None, None]
        to_clause = jnp.where(same, 0.0, NEVER)[:, None]
        for block in self.blocks:
            query, key, value = block.project(rows)
            first_key, first_value = (part.reshape(studies, text, *part.shape[3:])[:, :HEADER] for part in (key, value))
            header = Keys(first_key, first_value, to_header)
            own = Keys(with_neighbours(key), with_neighbours(value), to_clause)
            rows = block.finish(rows, attend(query, header, own))
        return self.norm(rows.reshape(studies, text, width))

    def plain_bias(self, segments: Int[Array, "batch text"]) -> Float[Array, "batch head text 1 text"]:
        valid = segments >= 0
        position = jnp.cumsum(valid, axis=1)
        rows = self.bias.two_way(position[:, None, :] - position[:, :, None])
        return masked_bias(self.bias(rows), jnp.broadcast_to(valid[:, None, :], rows.shape))


def segment_bias(segments: Int[Array, "batch text"]) -> Float[Array, "batch 1 text 1 text"]:
    """0 where a token may attend (its own segment and the header), `NEVER` elsewhere."""
    same = segments[:, :, None] == segments[:, None, :]
    visible = (same | (segments[:, None, :] == 0)) & (segments[:, None, :] >= 0)
    return jnp.where(visible, 0.0, NEVER)[:, None, :, None, :]


def with_neighbours(blocks: Array, empty: int = 0) -> Array:
    """Each block of [B, N, I, ...] with its previous and its next block: [B, N, 3 I, ...]."""
    edge = jnp.full_like(blocks[:, :1], empty)
    before = jnp.concatenate([edge, blocks[:, :-1]], axis=1)
    behind = jnp.concatenate([blocks[:, 1:], edge], axis=1)
    return jnp.concatenate([before, blocks, behind], axis=2)


def masked_bias(bias: Float[Array, "batch row key head"], visible: Array) -> Float[Array, "batch head row 1 key"]:
    bias = jnp.where(visible[..., None], bias, NEVER)
    return jnp.transpose(bias, (0, 3, 1, 2))[:, :, :, None, :]


def clause_summaries(
    encoded: Float[Array, "batch text width"], segments: Int[Array, "batch text"], slots: int
) -> tuple[Float[Array, "batch width"], Float[Array, "batch slot width"]]:
    """Mean of the encoded tokens of the header, and of the clause of each slot; zero without tokens."""
    member = jax.nn.one_hot(segments, slots + 1, axis=1, dtype=jnp.float32)
    count = jnp.maximum(jnp.sum(member, axis=2, keepdims=True), 1.0)
    means = jnp.einsum("bks,bsd->bkd", member, encoded.astype(jnp.float32)) / count
    return means[:, 0], means[:, 1:]
