"""The pooled layout: one decoder position per trial.

Notation: B studies, T trials, D slots, P trials with policy loss, N candidates, C = T + 1 contexts, d width.

Contexts: a learned start, then one per trial from its parameters and its objective, c_0 ... c_{T-1}; context t + 1
of the array is c_t.  Queries: one per trial from its parameters only, q_0 ... q_{T-1}.  Contexts and queries are rows
of one sequence, which all pass the same weights.  A row attends to the contexts strictly before it and to itself, so
there are T + 1 shared keys and one own key per row, instead of 2T + 1 keys.

The objective of trial t is predicted from q_t, its parameters from c_{t-1} by a small decoder over the slots.

In `order_free` studies, all trials have the same learned distance, and contexts inside the prefix attend to all others
of the prefix, later ones included.  A query inside the prefix then sees its own objective through them.  So its loss
weight must be 0, and so must the policy weights of all trials of the prefix.  After the prefix, everything is causal.
The hyperparameters of experts depend on the prefix: with experts, the loss weights of its objectives must be 0 in every
study.

In a study with an empty prefix, queries see no trial: each objective is predicted as that of a first trial.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.embedding import ObjectiveEmbedding, SlotEmbedding, TrialEmbedding, ValueEmbedding, memory_rows
from optformer.model.encoder import MetadataEncoder
from optformer.model.experts import Experts
from optformer.model.gaussian_process import Known, Prediction
from optformer.model.header import HeaderReading
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
from optformer.model.layers import (
    NEVER,
    Block,
    Caches,
    Keys,
    Projection,
    RelativeBias,
    RMSNorm,
    Rng,
    Table,
    attend,
    normal,
)
from optformer.model.mixture import Mixture
from optformer.model.recall import (
    Copies,
    Lookup,
    Recall,
    Remembered,
    agreement_features,
    quality_features,
    slots_left,
    teacher_forced_features,
)
from optformer.serialization import tokens
from optformer.serialization.batch import Legality, StudyBatch

# Special rows of the relative position table, after the distance buckets.
SELF, START, ORDER_FREE = 0, 1, 2


class PooledModel(nnx.Module):
    """Metadata encoder, decoder over trials, function head and slot decoder."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        width, dtype = config.width, config.compute_dtype
        self.config = config
        self.text = Table(config.text_vocabulary, width, std=1.0, rng=rng)
        self.encoder = MetadataEncoder(config, rng=rng)
        self.slots = SlotEmbedding(config, rng=rng)
        self.values = ValueEmbedding(config, rng=rng)
        self.trials = TrialEmbedding(config, rng=rng)
        self.objectives = ObjectiveEmbedding(config, rng=rng)
        self.start = normal(rng, (width,), 1.0)
        self.unknown = normal(rng, (width,), 1.0)
        self.bias = RelativeBias(
            config.relative_buckets, config.relative_max_distance, config.heads, special=3, rng=rng
        )
        self.blocks = nnx.List(
            Block(width, config.heads, config.head_width, config.feed_forward, cross=True, dtype=dtype, rng=rng)
            for _ in range(config.decoder_layers)
        )
        self.norm = RMSNorm(width)
        self.function_head = BinHead(width, config, rng=rng)
        self.policy = SlotDecoder(config, rng=rng)
        self.experts = Experts(config, rng=rng) if config.experts else None

    def __call__(self, batch: StudyBatch) -> Logits:
        """Logits of every objective, [B, T, 1004], and of the parameters of the policy trials, [B, P, D, 1004]."""
        batch = StudyBatch(*map(jnp.asarray, batch))
        slots, memory, header = self._metadata(batch)
        contexts, queries = self._embed(batch, slots)
        rows = jnp.concatenate([contexts, queries], axis=1)
        contexts_count = contexts.shape[1]
        rows, _ = self._decode(rows, contexts_count, self._rows_bias(batch, with_queries=True), memory)
        _, prediction = self._read(batch, slots)
        function, mixture = self._function(rows[:, contexts_count:], prediction)
        policy_trials = batch.policy_trials
        states = jnp.take_along_axis(rows[:, :contexts_count], policy_trials[:, :, None], axis=1)
        x = jnp.take_along_axis(batch.x_tokens, policy_trials[:, :, None], axis=1)
        distance = jnp.asarray(policy_trials)[:, :, None] - jnp.arange(contexts_count - 1)[None, None]
        visible = (distance > 0) & jnp.asarray(batch.trial_mask)[:, None]
        remembered = self._remembered(rows[:, 1:contexts_count], batch, slots, header, visible, distance)
        policy = self._policy(states, x, slots, remembered)
        if isinstance(policy, Copies):
            return Logits(function, policy.mixed(), mixture, policy)
        return Logits(function, policy, mixture)

    def encode(self, batch: StudyBatch, objective: bool = True) -> History:
        """Encodes the known trials (`trial_mask`, padding last) and the metadata, against which candidates are scored.

        Args:
          batch: the studies.
          objective: whether the experts are fitted (`fit`), which `function_logits` needs.
        """
        batch = StudyBatch(*map(jnp.asarray, batch))
        slots, memory, header = self._metadata(batch)
        contexts, _ = self._embed(batch, slots)
        rows, prefix = self._decode(contexts, contexts.shape[1], self._rows_bias(batch, with_queries=False), memory)
        length = known_trials(jnp.asarray(batch.trial_mask))
        return History(
            slots=slots,
            memory=memory,
            prefix=prefix,
            visible=jnp.pad(batch.trial_mask, ((0, 0), (1, 0)), constant_values=True),
            length=length,
            order_free=jnp.asarray(batch.order_free),
            state=jnp.take_along_axis(rows, length[:, None, None], axis=1)[:, 0],
            remembered=self._remembered(
                rows[:, 1:],
                batch,
                slots,
                header,
                jnp.asarray(batch.trial_mask)[:, None],
                (length[:, None] - jnp.arange(rows.shape[1] - 1)[None])[:, None],
            ),
            known=self.fit(batch, slots) if objective else None,
        )

    def fit(self, batch: StudyBatch, slots: SlotContext) -> Known | None:
        """The known trials as fitted by the experts; None for a model without experts.

        Args:
          batch: the studies.
          slots: the slots of their history.
        """
        return self._read(batch, slots)[0]

    def function_logits(
        self, history: History, candidates: Int[Array, "batch candidate slot"]
    ) -> Float[Array, "batch candidate output"]:
        """Logits of the objective of each candidate as the next trial; candidates do not see each other."""
        candidates = jnp.asarray(candidates)
        check_candidates(candidates, history)
        values = self.values(candidates, history.slots)
        rows = self.trials(values, history.slots.mask) + self.unknown[...][None, None]
        contexts = history.visible.shape[1]
        distance = history.length[:, None] - jnp.arange(contexts - 1)[None]
        bias = self._bias(distance[:, None], history.order_free)  # [B, H, 1, C]
        bias = jnp.where(history.visible[:, None, None], bias, NEVER)[:, :, :, None]
        shared = [Keys(key, value, bias) for key, value in history.prefix]
        rows = rows[:, :, None]
        for block, keys, text in zip(self.blocks, shared, history.memory, strict=True):
            query, key, value = block.project(rows)
            own = Keys(key, value, self._self_bias())
            rows = block.finish(rows, attend(query, keys, own), text)
        prediction = None
        if self.experts is not None:
            if history.known is None:
                raise ValueError("The history was encoded for the policy only: encode it with objective=True.")
            prediction = self.experts.predict(history.known, candidates, values, history.slots)
        return self._function(rows[:, :, 0], prediction)[0]

    def policy_logits(
        self, history: History, candidates: Int[Array, "batch candidate slot"]
    ) -> Float[Array, "batch candidate slot output"]:
        """Logits of each parameter of each candidate as the next trial, given the parameters before it."""
        candidates = jnp.asarray(candidates)
        check_candidates(candidates, history)
        states = jnp.broadcast_to(history.state[:, None], (*candidates.shape[:2], history.state.shape[-1]))
        policy = self._policy(states, candidates, history.slots, history.remembered)
        return policy.mixed() if isinstance(policy, Copies) else policy

    def sample(
        self,
        history: History,
        legality: Legality,
        key: Array,
        count: int,
    ) -> Int[Array, "batch count slot"]:
        """Samples `count` legal next trials from the policy, slot by slot.

        Slots are sampled in their order, in which parents come first.  Inactive slots are INACTIVE, padded ones PAD.
        """
        return self.policy.sample(self.values, history, legality, key, count)

    def _metadata(self, batch: StudyBatch) -> tuple[SlotContext, tuple[Keys, ...], Array | None]:
        encoded = self.encoder(self.text(jnp.asarray(batch.text_tokens)), batch)
        slots = self.slots(encoded, batch)
        rows, bias = memory_rows(encoded, slots, batch, self.config)
        header = None if self.policy.header is None else self.policy.header(encoded, batch)
        return slots, tuple(block.memory(rows, bias) for block in self.blocks), header

    def _embed(self, batch: StudyBatch, slots: SlotContext) -> tuple[Array, Array]:
        """Contexts [B, T + 1, d] and queries [B, T, d]."""
        trials = self.trials(self.values(jnp.asarray(batch.x_tokens), slots), slots.mask)
        contexts = trials + self.objectives(jnp.asarray(batch.y_tokens))
        start = jnp.broadcast_to(self.start[...][None, None], (trials.shape[0], 1, trials.shape[2]))
        return jnp.concatenate([start, contexts], axis=1), trials + self.unknown[...][None, None]

    def _decode(
        self, rows: Float[Array, "batch row width"], contexts: int, bias: Array, memory: tuple[Keys, ...]
    ) -> tuple[Float[Array, "batch row width"], tuple[tuple[Array, Array], ...]]:
        """Runs rows through all blocks; the first `contexts` rows are the shared keys.

        Returns:
          The rows, and per block the keys and values of the contexts.
        """
        prefix = []
        rows = rows[:, :, None]
        for block, text in zip(self.blocks, memory, strict=True):
            query, key, value = block.project(rows)
            prefix.append((key[:, :contexts, 0], value[:, :contexts, 0]))
            own = Keys(key, value, self._self_bias())
            rows = block.finish(rows, attend(query, Keys(*prefix[-1], bias), own), text)
        return rows[:, :, 0], tuple(prefix)

    def _rows_bias(self, batch: StudyBatch, *, with_queries: bool) -> Float[Array, "batch head row 1 context"]:
        """Bias and mask over the contexts, of contexts and then queries; excludes a row's own key."""
        trials = batch.trial_mask.shape[1]
        distance = np.arange(trials)[:, None] - np.arange(trials)[None, :]
        bias = self._bias(jnp.asarray(distance)[None], jnp.asarray(batch.order_free))  # [B, H, T, C]
        earlier = jnp.asarray(distance > 0)[None] & batch.trial_mask[:, None, :]
        in_prefix = jnp.arange(trials)[None] < batch.prefix_length[:, None]
        together = batch.order_free[:, None, None] & in_prefix[:, :, None] & in_prefix[:, None, :]
        both_ways = earlier | (together & jnp.asarray(distance != 0)[None] & batch.trial_mask[:, None, :])

        def masked(visible: Bool[Array, "batch trial trial"]) -> Array:
            visible = jnp.pad(visible, ((0, 0), (0, 0), (1, 0)), constant_values=True)  # the start
            return jnp.where(visible[:, None], bias, NEVER)

        start = jnp.full((*bias.shape[:2], 1, trials + 1), NEVER)
        to_queries = earlier & (batch.prefix_length > 0)[:, None, None]
        parts = [start, masked(both_ways)] + ([masked(to_queries)] if with_queries else [])
        return jnp.concatenate(parts, axis=2)[:, :, :, None]

    def _bias(
        self, distance: Int[Array, "batch row trial"], order_free: Bool[Array, " batch"]
    ) -> Float[Array, "batch head row context"]:
        """Relative position bias over the start and the trials, before masking; `distance` may have B = 1."""
        special = self.bias.buckets + np.asarray([START, ORDER_FREE])
        start, free = self.bias(jnp.asarray(special))[:, None, :, None, None]
        by_distance = jnp.transpose(self.bias(self.bias.one_way(distance)), (0, 3, 1, 2))
        by_distance = jnp.where(order_free[:, None, None, None], free, by_distance)
        start = jnp.broadcast_to(start, (*by_distance.shape[:3], 1))
        return jnp.concatenate([start, by_distance], axis=3)

    def _self_bias(self) -> Float[Array, "1 head 1 1 1"]:
        return self.bias(jnp.asarray(self.bias.buckets + SELF))[None, :, None, None, None]

    def _read(self, batch: StudyBatch, slots: SlotContext) -> tuple[Known | None, Prediction | None]:
        """The known trials as fitted by the experts, and their prediction of each trial from those before it."""
        if self.experts is None:
            return None, None
        return self.experts.read(batch, self.values(jnp.asarray(batch.x_tokens), slots), slots)

    def _function(
        self, rows: Float[Array, "batch row width"], prediction: Prediction | None
    ) -> tuple[Float[Array, "batch row output"], Mixture | None]:
        """Logits of the objective, and their components."""
        if self.experts is None or prediction is None:
            return mask_function(self.function_head(self.norm(rows))), None
        logits = mask_function(self.function_head(self.norm(self.experts.corrected(rows, prediction))))
        mixture = self.experts.mixture(logits, rows, prediction)
        return mixture.log_probabilities(), mixture

    def _policy(self, states: Array, x: Array, slots: SlotContext, remembered: Remembered | None) -> Array | Copies:
        return self.policy(states, x, self.values(x, slots), slots, remembered)

    def _remembered(
        self,
        states: Array,
        batch: StudyBatch,
        slots: SlotContext,
        header: Array | None,
        visible: Array,
        distance: Array,
    ) -> Remembered | None:
        if not self.config.policy_recall:
            return None
        known, order_free = jnp.asarray(batch.x_tokens), jnp.asarray(batch.order_free)
        quality = quality_features(jnp.asarray(batch.y_tokens), visible)
        left = slots_left(slots.mask)
        values = self.values(known, slots)
        return Remembered(states, values, known, visible, distance, order_free, quality, left, header)


class SlotDecoder(nnx.Module):
    """The policy head: an autoregressive decoder over the slots of a trial.

    Step k sees the state of the history, the descriptor of slot k, and the steps before it with the values chosen
    there.  There are no position embeddings: the order of slots does not matter, only which of them are chosen.
    """

    def __init__(self, config: ModelConfig, *, rng: Rng):
        width, dtype = config.policy_width, config.compute_dtype
        self.state_norm = RMSNorm(config.width)
        self.state = Projection((config.width,), (width,), dtype=dtype, rng=rng)
        self.descriptor = Projection((config.width,), (width,), dtype=dtype, rng=rng)
        self.previous = Projection((config.slot_width,), (width,), dtype=dtype, rng=rng)
        self.start = normal(rng, (width,), 1.0)
        self.blocks = nnx.List(
            Block(
                width,
                config.policy_heads,
                width // config.policy_heads,
                config.policy_feed_forward,
                cross=False,
                dtype=dtype,
                rng=rng,
            )
            for _ in range(config.policy_layers)
        )
        self.norm = RMSNorm(width)
        self.head = BinHead(width, config, rng=rng)
        self.recall = Recall(config, copies=False, rng=rng) if config.policy_recall else None
        self.pointer = Recall(config, copies=True, rng=rng) if config.policy_recall else None
        self.header = HeaderReading(config, rng=rng) if config.policy_header else None

    def __call__(
        self,
        states: Float[Array, "batch group width"],
        x: Int[Array, "batch group slot"],
        values: Float[Array, "batch group slot w"],
        slots: SlotContext,
        remembered: Remembered | None,
    ) -> Float[Array, "batch group slot output"] | Copies:
        """Teacher-forced logits of all slots, given the tokens `x` and their embeddings `values`."""
        previous = self.previous(values[:, :, :-1]).astype(jnp.float32)
        start = jnp.broadcast_to(self.start[...][None, None, None], (*values.shape[:2], 1, self.start.shape[0]))
        rows = (
            self._states(states, remembered)[:, :, None]
            + self._descriptors(slots)
            + jnp.concatenate([start, previous], axis=2)
        )
        steps = np.arange(values.shape[2])
        bias = jnp.asarray(np.where(steps[None, :] <= steps[:, None], 0.0, NEVER), jnp.float32)[None, None, None]
        lookup = None
        if remembered is not None:
            lookup = self._lookup(remembered, teacher_forced_features(x, remembered.tokens, slots.mask))
        for number, block in enumerate(self.blocks):
            query, key, value = block.project(rows)
            rows = block.finish(rows, attend(query, own=Keys(key, value, bias)))
            if number == 0:
                rows = self._recalled(rows, lookup)
        return self._emitted(rows, slots.levels, lookup)

    def sample(
        self,
        embed: ValueEmbedding,
        history: History,
        legality: Legality,
        key: Array,
        count: int,
    ) -> Int[Array, "batch count slot"]:
        """Implements `PooledModel.sample`: one step per slot, with cached keys and values of the steps before it."""
        slots = history.slots
        studies, steps = slots.levels.shape
        legality = batched_legality(legality, studies, steps)
        state = self._states(history.state[:, None], history.remembered)[:, :, None]  # [B, 1, 1, policy width]
        descriptors = self._descriptors(slots)
        start = jnp.broadcast_to(self.start[...][None, None, None], (studies, count, 1, self.start.shape[0]))
        remembered = history.remembered
        trials = 0 if remembered is None else remembered.tokens.shape[1]
        different = jnp.zeros((studies, count, trials), jnp.int32)
        every = None if remembered is None else self._lookup(remembered, different)
        kernel = self.blocks[0].self_qkv.kernel
        cache = jnp.zeros((studies, count, steps, *kernel.shape[2:]), self.blocks[0].self_qkv.dtype)

        def step(k: Array, carry: tuple[Array, Array, Array, Caches]) -> tuple[Array, Array, Array, Caches]:
            chosen, previous, different, caches = carry
            rows = state + jax.lax.dynamic_slice_in_dim(descriptors, k, 1, axis=2) + previous
            bias = jnp.where(jnp.arange(steps) <= k, 0.0, NEVER)[None, None, None, None]
            kept = []
            lookup = None if every is None else every.of_slot(k, agreement_features(different, k)[:, :, None])
            for number, (block, (keys, values)) in enumerate(zip(self.blocks, caches, strict=True)):
                query, new_key, new_value = block.project(rows)
                keys = jax.lax.dynamic_update_slice_in_dim(keys, new_key, k, axis=2)
                values = jax.lax.dynamic_update_slice_in_dim(values, new_value, k, axis=2)
                kept.append((keys, values))
                rows = block.finish(rows, attend(query, own=Keys(keys, values, bias)))
                if number == 0:
                    rows = self._recalled(rows, lookup)
            emitted = self._emitted(rows, jax.lax.dynamic_slice_in_dim(slots.levels, k, 1, axis=1), lookup)
            logits = emitted.mixed() if isinstance(emitted, Copies) else emitted
            chosen = choose(logits[:, :, 0], k, chosen, legality, jax.random.fold_in(key, k))
            # Embeds one slot as if it were the only one of the study.
            slot = jax.tree.map(lambda field: jax.lax.dynamic_slice_in_dim(field, k, 1, axis=1), slots)
            token = jax.lax.dynamic_slice_in_dim(chosen, k, 1, axis=2)
            if lookup is not None:
                known = jnp.swapaxes(lookup.remembered.tokens, 1, 2)
                different = different + ((token != known) & slot.mask[:, :, None])
            return chosen, self.previous(embed(token, slot)).astype(jnp.float32), different, tuple(kept)

        nothing = jnp.full((studies, count, steps), tokens.PAD, jnp.int32)
        caches = tuple((cache, cache) for _ in self.blocks)
        # Padded slots are last, and already PAD.
        return jax.lax.fori_loop(0, slots.mask.sum(axis=1).max(), step, (nothing, start, different, caches))[0]

    def _states(
        self, states: Float[Array, "batch group width"], remembered: Remembered | None
    ) -> Float[Array, "batch group policy"]:
        found = self.state(self.state_norm(states)).astype(jnp.float32)
        return found if remembered is None or remembered.header is None else found + remembered.header[:, None]

    def _descriptors(self, slots: SlotContext) -> Float[Array, "batch 1 slot policy"]:
        return self.descriptor(slots.descriptor)[:, None].astype(jnp.float32)

    def _lookup(self, remembered: Remembered, features: Array) -> Lookup:
        assert self.recall is not None
        assert self.pointer is not None
        return Lookup(remembered, self.recall.keys(remembered), self.pointer.keys(remembered), features)

    def _recalled(self, rows: Array, lookup: Lookup | None) -> Array:
        return rows if self.recall is None or lookup is None else rows + self.recall.gathered(rows, lookup)

    def _emitted(self, rows: Array, levels: Int[Array, "batch slot"], lookup: Lookup | None) -> Array | Copies:
        """Logits [B, P, D, V], or their components."""
        logits = mask_policy(self.head(self.norm(rows)), levels)
        if self.pointer is None or lookup is None:
            return logits
        shares, gate = self.pointer.pointed(rows, levels, lookup)
        return Copies(logits, gate, shares, lookup.remembered.tokens)
