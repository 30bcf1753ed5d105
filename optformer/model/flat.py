"""The flat layout: one decoder position per token, `p_1 ... p_D * y |` per trial, as in Chen et al. 2022.

Notation: B studies, T trials, D slots, W = D + 3 positions per trial, L = 1 + T * W positions, P trials with policy
loss, N candidates, I = D + 1 positions of a candidate (its parameters and `*`), d width, Q/K rows and keys.

Every position predicts the next token; a start token precedes the first trial.  So the objective is predicted at `*`,
the first parameter at the preceding `|` (or the start), and every other parameter at the one before it.  Padded slots
keep their positions and are masked as keys.

Tokens are embedded in one of two ways:
- by default, parameters are embedded as in the pooled layout (numeric features, modulated by their slot), relative
  positions are counted in trials, and each position also receives the descriptor of the next slot, because the encoder
  does not know the order of clauses;
- with `config.shared_vocabulary`, as in plain T5 1.1: one table for text and values, relative positions in tokens.

In `order_free` studies, the trials of the prefix attend to each other in both directions, all at one distance; within a
trial, attention stays causal.  A trial of the prefix then sees its own objective through the others, so function and
policy weights inside the prefix must be 0.  After the prefix, everything is causal.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.embedding import memory_rows
from optformer.model.encoder import MetadataEncoder
from optformer.model.flat_tokens import PlainTokens, SlotTokens, trial_of_position
from optformer.model.heads import BinHead
from optformer.model.interface import (
    History,
    Logits,
    SlotContext,
    batched_legality,
    check_candidates,
    choose,
    known_trials,
    mask_function,
    mask_policy,
)
from optformer.model.layers import NEVER, Block, Caches, Keys, Projection, RMSNorm, Rng, attend
from optformer.serialization import tokens
from optformer.serialization.batch import Legality, StudyBatch


class FlatModel(nnx.Module):
    """Metadata encoder and one decoder over all tokens."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        width, dtype = config.width, config.compute_dtype
        self.config = config
        self.encoder = MetadataEncoder(config, rng=rng)
        self.sequence = PlainTokens(config, rng=rng) if config.shared_vocabulary else SlotTokens(config, rng=rng)
        self.blocks = nnx.List(
            Block(width, config.heads, config.head_width, config.feed_forward, cross=True, dtype=dtype, rng=rng)
            for _ in range(config.decoder_layers)
        )
        self.norm = RMSNorm(width)
        self.head: Projection | BinHead = (
            Projection((width,), (config.shared_vocabulary,), dtype=dtype, rng=rng, gain=0.1)
            if config.shared_vocabulary
            else BinHead(width, config, rng=rng)
        )

    def __call__(self, batch: StudyBatch) -> Logits:
        """Logits of every objective, [B, T, V], and of the parameters of the policy trials, [B, P, D, V]."""
        batch = StudyBatch(*map(jnp.asarray, batch))
        slots, memory = self._metadata(batch)
        rows, _ = self._decode(batch, slots, memory)
        trials, slot_count = batch.x_tokens.shape[1:]
        stars = np.arange(trials) * (slot_count + 3) + slot_count + 1
        function = mask_function(self._logits(rows[:, stars]))
        # Slot 0 is predicted at the position before its trial, slot k at slot k - 1.
        policy_trials = jnp.asarray(batch.policy_trials)
        positions = policy_trials[:, :, None] * (slot_count + 3) + np.arange(slot_count)[None, None]
        read = jnp.take_along_axis(rows, positions.reshape(rows.shape[0], -1)[:, :, None], axis=1)
        policy = self._logits(read).reshape(*positions.shape, -1)
        return Logits(function, mask_policy(policy, slots.levels))

    def encode(self, batch: StudyBatch, objective: bool = True) -> History:
        """Encodes the known trials (`trial_mask`, padding last) and the metadata, against which candidates are scored.

        Args:
          batch: the studies.
          objective: ignored, since both heads read the same history; see `PooledModel.encode`.
        """
        batch = StudyBatch(*map(jnp.asarray, batch))
        slots, memory = self._metadata(batch)
        rows, prefix = self._decode(batch, slots, memory)
        length = known_trials(jnp.asarray(batch.trial_mask))
        last = length * (batch.x_tokens.shape[2] + 3)
        return History(
            slots=slots,
            memory=memory,
            prefix=prefix,
            visible=visible_positions(jnp.asarray(batch.trial_mask), slots.mask),
            length=length,
            order_free=jnp.asarray(batch.order_free),
            state=jnp.take_along_axis(rows, last[:, None, None], axis=1)[:, 0],
        )

    def function_logits(
        self, history: History, candidates: Int[Array, "batch candidate slot"]
    ) -> Float[Array, "batch candidate output"]:
        """Logits of the objective of each candidate as the next trial; candidates do not see each other."""
        rows = self._candidates(history, jnp.asarray(candidates))
        return mask_function(self._logits(rows[:, :, -1])[..., : tokens.NUM_OUTPUTS])

    def policy_logits(
        self, history: History, candidates: Int[Array, "batch candidate slot"]
    ) -> Float[Array, "batch candidate slot output"]:
        """Logits of each parameter of each candidate as the next trial, given the parameters before it."""
        rows = self._candidates(history, jnp.asarray(candidates))
        first = jnp.broadcast_to(history.state[:, None, None], (*rows.shape[:2], 1, rows.shape[3]))
        rows = jnp.concatenate([first, rows[:, :, :-2]], axis=2)
        return mask_policy(self._logits(rows)[..., : tokens.NUM_OUTPUTS], history.slots.levels)

    def sample(
        self,
        history: History,
        legality: Legality,
        key: Array,
        count: int,
    ) -> Int[Array, "batch count slot"]:
        """Samples `count` legal next trials from the policy, slot by slot; as `PooledModel.sample`."""
        slots = history.slots
        studies, steps = slots.levels.shape
        legality = batched_legality(legality, studies, steps)
        positions = jnp.arange(steps)
        own_bias = self._own_bias(slots, steps)  # [B, H, 1, D, D]
        shared_bias = self._shared_bias(history, steps)  # [B, H, 1, D | 1, C]

        def step(carry: tuple[Array, Array, Caches], k: Array) -> tuple[tuple[Array, Array, Caches], None]:
            chosen, state, caches = carry
            logits = self._logits(state)[..., : tokens.NUM_OUTPUTS]
            chosen = choose(logits, k, chosen, legality, jax.random.fold_in(key, k))
            rows = jax.lax.dynamic_slice_in_dim(self.sequence.parameters(chosen, slots), k, 1, axis=2)
            own = jax.lax.dynamic_slice_in_dim(own_bias, k, 1, axis=3)
            own = jnp.where(positions <= k, own, NEVER)
            shared = shared_bias
            if shared.shape[3] > 1:
                shared = jax.lax.dynamic_slice_in_dim(shared, k, 1, axis=3)
            kept = []
            for block, text, prefix, (keys, values) in zip(
                self.blocks, history.memory, history.prefix, caches, strict=True
            ):
                query, new_key, new_value = block.project(rows)
                keys = jax.lax.dynamic_update_slice_in_dim(keys, new_key, k, axis=2)
                values = jax.lax.dynamic_update_slice_in_dim(values, new_value, k, axis=2)
                kept.append((keys, values))
                rows = block.finish(rows, attend(query, Keys(*prefix, shared), Keys(keys, values, own)), text)
            return (chosen, rows[:, :, 0], tuple(kept)), None

        nothing = jnp.full((studies, count, steps), tokens.PAD, jnp.int32)
        state = jnp.broadcast_to(history.state[:, None], (studies, count, history.state.shape[1]))
        head = (self.config.heads, self.config.head_width)
        cache = jnp.zeros((studies, count, steps, *head), self.config.compute_dtype)
        caches = tuple((cache, cache) for _ in self.blocks)
        (chosen, _, _), _ = jax.lax.scan(step, (nothing, state, caches), positions)
        return chosen

    def _metadata(self, batch: StudyBatch) -> tuple[SlotContext, tuple[Keys, ...]]:
        encoded = self.encoder(self.sequence.text(jnp.asarray(batch.text_tokens)), batch)
        slots = self.sequence.slots(encoded, batch)
        rows, bias = memory_rows(encoded, slots, batch, self.config)
        return slots, tuple(block.memory(rows, bias) for block in self.blocks)

    def _decode(
        self, batch: StudyBatch, slots: SlotContext, memory: tuple[Keys, ...]
    ) -> tuple[Float[Array, "batch position width"], tuple[tuple[Array, Array], ...]]:
        """Runs all positions through all blocks; returns the states, and keys and values per block."""
        rows = self.sequence(jnp.asarray(batch.x_tokens), jnp.asarray(batch.y_tokens), slots)[:, :, None]
        bias = self.sequence.bias_among(slots, jnp.asarray(batch.order_free), batch.x_tokens.shape[1])
        visible = causal_positions(batch) & visible_positions(jnp.asarray(batch.trial_mask), slots.mask)[:, None]
        bias = jnp.where(visible[:, None], bias, NEVER)[:, :, :, None]
        prefix = []
        for block, text in zip(self.blocks, memory, strict=True):
            query, key, value = block.project(rows)
            prefix.append((key[:, :, 0], value[:, :, 0]))
            rows = block.finish(rows, attend(query, Keys(*prefix[-1], bias)), text)
        return rows[:, :, 0], tuple(prefix)

    def _candidates(self, history: History, candidates: Array) -> Float[Array, "batch candidate position width"]:
        """Runs the D + 1 positions of each candidate (its parameters and `*`) through all blocks."""
        check_candidates(candidates, history)
        slots = history.slots
        rows = jnp.concatenate(
            [self.sequence.parameters(candidates, slots), self.sequence.stars(*candidates.shape[:2])], axis=2
        )
        count = rows.shape[2]
        shared, own = self._shared_bias(history, count), self._own_bias(slots, count)
        for block, text, prefix in zip(self.blocks, history.memory, history.prefix, strict=True):
            query, key, value = block.project(rows)
            rows = block.finish(rows, attend(query, Keys(*prefix, shared), Keys(key, value, own)), text)
        return rows

    def _shared_bias(self, history: History, count: int) -> Float[Array, "batch head 1 row key"]:
        bias = self.sequence.bias_to_history(history, count)
        return jnp.where(history.visible[:, None, None], bias, NEVER)[:, :, None]

    def _own_bias(self, slots: SlotContext, count: int) -> Float[Array, "batch head 1 row row"]:
        """Causal bias among the first `count` positions of a candidate: its parameters, then `*`."""
        visible = jnp.pad(slots.mask, ((0, 0), (0, 1)), constant_values=True)[:, None, :count]
        visible = visible & jnp.asarray(np.tri(count, dtype=bool))[None]
        return jnp.where(visible[:, None], self.sequence.bias_within(slots, count), NEVER)[:, :, None]

    def _logits(self, rows: Float[Array, "*rows width"]) -> Float[Array, "*rows output"]:
        """Logits of states; with a shared vocabulary, the columns of the decoder's tokens come first."""
        logits = self.head(self.norm(rows)).astype(jnp.float32)
        if self.config.shared_vocabulary:
            offset = self.config.text_vocabulary
            logits = jnp.concatenate([logits[..., offset:], logits[..., :offset]], axis=-1)
        return logits


def visible_positions(
    trial_mask: Bool[Array, "batch trial"], slot_mask: Bool[Array, "batch slot"]
) -> Bool[Array, "batch position"]:
    """False at the positions of padded trials and slots."""
    within = jnp.pad(slot_mask, ((0, 0), (0, 3)), constant_values=True)
    grid = (trial_mask[:, :, None] & within[:, None, :]).reshape(trial_mask.shape[0], -1)
    return jnp.pad(grid, ((0, 0), (1, 0)), constant_values=True)


def causal_positions(batch: StudyBatch) -> Bool[Array, "batch row key"]:
    """Which positions each position may attend to, before padding is masked."""
    trials, slots = batch.x_tokens.shape[1:]
    trial = trial_of_position(trials, slots)
    causal = jnp.asarray(np.tri(trial.size, dtype=bool))[None]
    in_prefix = jnp.asarray(trial >= 0)[None] & (jnp.asarray(trial)[None] < jnp.asarray(batch.prefix_length)[:, None])
    together = jnp.asarray(batch.order_free)[:, None, None] & in_prefix[:, :, None] & in_prefix[:, None, :]
    return causal | (together & jnp.asarray(trial[:, None] != trial[None, :])[None])
