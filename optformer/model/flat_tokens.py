"""The two ways in which the flat layout embeds tokens and counts positions.

Notation as in `flat.py`: B studies, T trials, D slots, D + 3 positions per trial, C positions of the known history.

Both classes have the same methods: `text` (embedded metadata), `slots`, `__call__` (all positions of known trials),
`parameters` and `stars` (the positions of candidates), and the relative position biases among the known trials, from a
candidate to them, and within a candidate.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.embedding import ObjectiveEmbedding, SlotEmbedding, ValueEmbedding, slot_context
from optformer.model.interface import History, SlotContext
from optformer.model.layers import Projection, RelativeBias, Rng, Table, normal
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch

# Special rows of the relative position table, after the distance buckets.
START, ORDER_FREE = 0, 1


def trial_of_position(trials: int, slots: int) -> np.ndarray:
    """int [L]: the trial of each position, -1 for the start."""
    return np.concatenate([[-1], np.repeat(np.arange(trials), slots + 3)])


class SlotTokens(nnx.Module):
    """Tokens embedded by their slot; positions counted in trials."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        width, dtype = config.width, config.compute_dtype
        self.text = Table(config.text_vocabulary, width, std=1.0, rng=rng)
        self.slots = SlotEmbedding(config, rng=rng)
        self.values = ValueEmbedding(config, rng=rng)
        self.value_out = Projection((config.slot_width,), (width,), dtype=dtype, rng=rng)
        self.objectives = ObjectiveEmbedding(config, rng=rng)
        self.next_slot = Projection((width,), (width,), dtype=dtype, rng=rng)
        self.start = normal(rng, (width,), 1.0)
        self.star = normal(rng, (width,), 1.0)
        self.bar = normal(rng, (width,), 1.0)
        self.bias = RelativeBias(
            config.relative_buckets, config.relative_max_distance, config.heads, special=2, rng=rng
        )

    def __call__(
        self, x: Int[Array, "batch trial slot"], y: Int[Array, "batch trial"], slots: SlotContext
    ) -> Float[Array, "batch position width"]:
        studies, trials = y.shape
        first = self.next_slot(slots.descriptor[:, :1]).astype(jnp.float32)  # [B, 1, d]
        bars = jnp.broadcast_to((first + self.bar[...][None, None])[:, None], (studies, trials, 1, first.shape[-1]))
        grid = jnp.concatenate(
            [self.parameters(x, slots), self.stars(studies, trials), self.objectives(y)[:, :, None], bars], axis=2
        )
        start = first + self.start[...][None, None]
        return jnp.concatenate([start, grid.reshape(studies, -1, grid.shape[-1])], axis=1)

    def parameters(self, x: Int[Array, "batch row slot"], slots: SlotContext) -> Float[Array, "batch row slot width"]:
        """Embedded values, each plus the descriptor of the next slot (nothing before `*`)."""
        value = self.value_out(self.values(x, slots)).astype(jnp.float32)
        following = self.next_slot(slots.descriptor[:, 1:]).astype(jnp.float32) * slots.mask[:, 1:, None]
        return value + jnp.pad(following, ((0, 0), (0, 1), (0, 0)))[:, None]

    def stars(self, studies: int, rows: int) -> Float[Array, "batch row 1 width"]:
        return jnp.broadcast_to(self.star[...][None, None, None], (studies, rows, 1, self.star.shape[0]))

    def bias_among(
        self, slots: SlotContext, order_free: Bool[Array, " batch"], trials: int
    ) -> Float[Array, "batch head row key"]:
        """Bias over all pairs of positions."""
        width = slots.mask.shape[1] + 3
        trial = np.arange(-1, trials)
        distance = trial[:, None] - trial[None, :]
        rows = self._rows(jnp.asarray(distance)[None], order_free, jnp.asarray(trial < 0)[None, None])
        bias = jnp.transpose(self.bias(rows), (0, 3, 1, 2))  # [B, H, 1 + T, 1 + T]
        # Repeats whole axes, whose gradient is a sum; gathering positions would have a scatter as its gradient.
        for axis in (2, 3):
            start, known = jnp.split(bias, [1], axis=axis)
            known = jnp.repeat(known, width, axis=axis, total_repeat_length=trials * width)
            bias = jnp.concatenate([start, known], axis=axis)
        return bias

    def bias_to_history(self, history: History, count: int) -> Float[Array, "batch head 1 key"]:
        """Bias from the positions of a candidate, which form one trial, to those of the history."""
        del count
        slots = history.slots.mask.shape[1]
        trial = trial_of_position((history.visible.shape[1] - 1) // (slots + 3), slots)
        distance = history.length[:, None, None] - jnp.asarray(trial)[None, None]
        rows = self._rows(distance, history.order_free, jnp.asarray(trial < 0)[None, None])
        return jnp.transpose(self.bias(rows), (0, 3, 1, 2))

    def bias_within(self, slots: SlotContext, count: int) -> Float[Array, "1 head 1 1"]:
        """Bias among the positions of one trial."""
        del slots, count
        return self.bias(jnp.zeros((1, 1, 1), jnp.int32)).transpose((0, 3, 1, 2))

    def _rows(self, distance: Array, order_free: Array, to_start: Array) -> Array:
        """Rows of the table for distances in trials; negative ones occur only where masked or order-free."""
        free = order_free[:, None, None] & (distance != 0)
        rows = jnp.where(free, self.bias.buckets + ORDER_FREE, self.bias.one_way(distance))
        return jnp.where(to_start, self.bias.buckets + START, rows)


class PlainTokens(nnx.Module):
    """One table for text and values, positions counted in tokens, as in T5 1.1.

    The start is row 0 (T5 starts decoding with its padding token).  In `order_free` studies, other trials and the start
    use the farthest bucket, so that no parameters are added to T5's.
    """

    def __init__(self, config: ModelConfig, *, rng: Rng):
        self.offset = config.text_vocabulary
        self.table = Table(config.shared_vocabulary, config.width, std=1.0, rng=rng)
        self.bias = RelativeBias(
            config.relative_buckets, config.relative_max_distance, config.heads, special=0, rng=rng
        )

    def text(self, ids: Int[Array, "batch text"]) -> Float[Array, "batch text width"]:
        return self.table(ids)

    def slots(self, encoded: Array, batch: StudyBatch) -> SlotContext:
        nothing = jnp.zeros((*batch.slot_kinds.shape, 0))
        return slot_context(batch, scale=nothing, shift=nothing, descriptor=nothing)

    def __call__(
        self, x: Int[Array, "batch trial slot"], y: Int[Array, "batch trial"], slots: SlotContext
    ) -> Float[Array, "batch position width"]:
        star, bar = jnp.full_like(y, tokens.STAR), jnp.full_like(y, tokens.BAR)
        grid = jnp.concatenate([x, jnp.stack([star, y, bar], axis=2)], axis=2).reshape(y.shape[0], -1)
        return self.table(jnp.pad(grid + self.offset, ((0, 0), (1, 0))))

    def parameters(self, x: Int[Array, "batch row slot"], slots: SlotContext) -> Float[Array, "batch row slot width"]:
        return self.table(x + self.offset)

    def stars(self, studies: int, rows: int) -> Float[Array, "batch row 1 width"]:
        return self.table(jnp.full((studies, rows, 1), tokens.STAR + self.offset))

    def bias_among(
        self, slots: SlotContext, order_free: Bool[Array, " batch"], trials: int
    ) -> Float[Array, "batch head row key"]:
        position = token_positions(slots.mask, trials)
        trial = trial_of_position(trials, slots.mask.shape[1])
        other = jnp.asarray(trial[:, None] != trial[None, :])[None]
        return self._bias(position[:, :, None] - position[:, None, :], order_free, other)

    def bias_to_history(self, history: History, count: int) -> Float[Array, "batch head row key"]:
        mask = history.slots.mask
        trials = (history.visible.shape[1] - 1) // (mask.shape[1] + 3)
        key = token_positions(mask, trials)
        row = 1 + history.length[:, None] * (jnp.sum(mask, axis=1, keepdims=True) + 3) + self._within(mask, count)
        return self._bias(row[:, :, None] - key[:, None, :], history.order_free, jnp.ones((1, 1, 1), bool))

    def bias_within(self, slots: SlotContext, count: int) -> Float[Array, "batch head row key"]:
        within = self._within(slots.mask, count)
        near = jnp.zeros((1, 1, 1), bool)
        return self._bias(within[:, :, None] - within[:, None, :], jnp.zeros(within.shape[0], bool), near)

    def _within(self, mask: Bool[Array, "batch slot"], count: int) -> Int[Array, "batch row"]:
        return positions_in_trial(mask)[:, :count]

    def _bias(self, distance: Array, order_free: Array, other_trial: Array) -> Array:
        far = order_free[:, None, None] & other_trial
        rows = jnp.where(far, self.bias.buckets - 1, self.bias.one_way(distance))
        return jnp.transpose(self.bias(rows), (0, 3, 1, 2))


def positions_in_trial(mask: Bool[Array, "batch slot"]) -> Int[Array, "batch position"]:
    """Position of each of a trial's D + 3 tokens in a trial without padding; padded slots share that of `*`."""
    inner = jnp.minimum(jnp.arange(mask.shape[1])[None], jnp.sum(mask, axis=1, keepdims=True))
    after = jnp.sum(mask, axis=1, keepdims=True) + jnp.arange(3)[None]
    return jnp.concatenate([inner, after], axis=1)


def token_positions(mask: Bool[Array, "batch slot"], trials: int) -> Int[Array, "batch position"]:
    """Index of each position in the sequence without padding; the start is 0."""
    within = positions_in_trial(mask)
    starts = 1 + jnp.arange(trials)[None] * (jnp.sum(mask, axis=1, keepdims=True) + 3)
    grid = (starts[:, :, None] + within[:, None, :]).reshape(mask.shape[0], -1)
    return jnp.pad(grid, ((0, 0), (1, 0)))
