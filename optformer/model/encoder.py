"""The metadata encoder: study text in, one vector per token and one summary per clause out.

Notation: B studies, S text tokens, D slots, d width.

A clause sees itself and the header, the header sees itself, positions count within a segment: the encoder cannot
tell in which order the clauses stand, so parameter order is no property of a study.

Positions within a segment are added to the text, once; T5's relative biases would be a lookup per pair of tokens and
study, which took a tenth of a training step on a CPU.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.layers import NEVER, Block, Keys, RelativeBias, RMSNorm, Rng, Table, attend
from optformer.serialization.batch import StudyBatch

MAX_POSITIONS = 64
"""Places in a segment that are told apart; what comes later shares the last."""


class MetadataEncoder(nnx.Module):
    """T5 1.1 encoder blocks over embedded text.

    With `config.shared_vocabulary`, the plain T5 arrangement: all tokens see each other, positions run through the
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
        """Encoded text; rows of padding are meaningless and must be masked by `batch.text_segments >= 0`."""
        if self.plain:
            bias = self.plain_bias(jnp.asarray(batch.text_segments))
        else:
            bias = segment_bias(jnp.asarray(batch.text_segments))
            embedded = embedded + self.positions(jnp.clip(jnp.asarray(batch.text_positions), 0, MAX_POSITIONS - 1))
        rows = embedded[:, :, None]
        for block in self.blocks:
            query, key, value = block.project(rows)
            rows = block.finish(rows, attend(query, shared=Keys(key[:, :, 0], value[:, :, 0], bias)))
        return self.norm(rows[:, :, 0])

    def plain_bias(self, segments: Int[Array, "batch text"]) -> Float[Array, "batch head text 1 text"]:
        valid = segments >= 0
        position = jnp.cumsum(valid, axis=1)
        rows = self.bias.two_way(position[:, None, :] - position[:, :, None])
        return masked_bias(self.bias(rows), jnp.broadcast_to(valid[:, None, :], rows.shape))


def segment_bias(segments: Int[Array, "batch text"]) -> Float[Array, "batch 1 text 1 text"]:
    """0 where a token may look: its own segment and the header."""
    same = segments[:, :, None] == segments[:, None, :]
    visible = (same | (segments[:, None, :] == 0)) & (segments[:, None, :] >= 0)
    return jnp.where(visible, 0.0, NEVER)[:, None, :, None, :]


def masked_bias(bias: Float[Array, "batch row key head"], visible: Array) -> Float[Array, "batch head row 1 key"]:
    bias = jnp.where(visible[..., None], bias, NEVER)
    return jnp.transpose(bias, (0, 3, 1, 2))[:, :, :, None, :]


def clause_summaries(
    encoded: Float[Array, "batch text width"], segments: Int[Array, "batch text"], slots: int
) -> tuple[Float[Array, "batch width"], Float[Array, "batch slot width"]]:
    """Mean of the encoded tokens of the header and of each slot's clause; zero where there are none."""
    member = jax.nn.one_hot(segments, slots + 1, axis=1, dtype=jnp.float32)
    count = jnp.maximum(jnp.sum(member, axis=2, keepdims=True), 1.0)
    means = jnp.einsum("bks,bsd->bkd", member, encoded.astype(jnp.float32)) / count
    return means[:, 0], means[:, 1:]
