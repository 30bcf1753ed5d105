"""Lookup of earlier parameter values by the policy: attention over the earlier values of one slot, and copies of them.

In the pooled layout, a trial is one vector, from which a parameter cannot be recovered to a thousandth.  But most
optimizers reuse exact values: a mutation keeps all parameters of its parent except one, a local search steps from the
best trial, a grid search continues from the last one.  So the slot decoder attends to the earlier values of the slot.

Notation: B studies, P trials whose parameters are predicted, T known trials, D slots, H heads, K head width, V outputs,
F features of a known trial relative to a step.

A step of the slot decoder (trial p, slot k) scores trial t by the state of trial t and its value in slot k, by how long
ago it was, by its rank and whether it is the best, and by the number of slots before k in which the two trials agree: a
parent agrees in all but one.  The attention weights are mixed into the distribution over levels as a pointer network,
as in See et al. 2017, "Get to the point".

With `policy_succession`, the key of a trial also contains the value of the trial before it.  So a step that has read
the last value can find what followed the same value earlier, as the induction heads of Olsson et al. 2022 do; this
imitates counters.  A step also receives features of the trials that it attends to: the number of slots in which they
differ so far, and the number of slots left.  Without these, the gate could not tell whether the one change of a
mutation has already been made.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.layers import NEVER, Projection, RelativeBias, RMSNorm, Rng, joint_softmax, normal, unstack
from optformer.serialization import tokens

DIFFERENT = 3
"""Differences in this many slots or more share one feature."""

FEATURES = (DIFFERENT + 2) + 2 + 2
"""Features of a trial that a step attends to: agreement, quality, and two that depend on the number of slots left."""

_SHUT = -3.0
"""Initial logit of the gate of the copies."""


class Remembered(NamedTuple):
    """The known trials of studies, as the policy looks them up.

    Attributes:
      states: [B, T, d], states of the decoder after each trial.
      values: [B, T, D, w], embedded values.
      tokens: int32 [B, T, D], parameter tokens.
      visible: bool [B, P, T], whether each predicted trial sees each known one; P may be 1.
      distance: int32 [B, P, T], number of trials between them; P may be 1.
      order_free: bool [B], whether all distances are the same.
      quality: [B, P, T, 2], `quality_features` of the known trials that each predicted one sees; P may be 1.
      left: [B, D], logarithm of the number of slots from each slot on, itself included; 0 for padding.
      header: [B, policy width], output of `HeaderReading`; None without it.
    """

    states: Array
    values: Array
    tokens: Array
    visible: Array
    distance: Array
    order_free: Array
    quality: Array
    left: Array
    header: Array | None = None


class Lookup(NamedTuple):
    """Everything that the steps of the slot decoder need to look up earlier values.

    Attributes:
      remembered: the known trials.
      recalled, pointed: keys (and values) for recall and for copies, [B, T, D, H, K].
      features: [B, P, D, T, F], agreement of each known trial with what has been chosen before each step.
    """

    remembered: Remembered
    recalled: tuple[Array, ...]
    pointed: tuple[Array, ...]
    features: Array

    def of_slot(self, k: Array, features: Array) -> "Lookup":
        """The part for one step."""

        def slot(field: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(field, k, 1, axis=2)

        return Lookup(
            self.remembered._replace(
                tokens=slot(self.remembered.tokens),
                left=jax.lax.dynamic_slice_in_dim(self.remembered.left, k, 1, axis=1),
            ),
            tuple(map(slot, self.recalled)),
            tuple(map(slot, self.pointed)),
            features,
        )


class Copies(NamedTuple):
    """The distribution over the levels of each step: a mixture of generated values and copies of earlier values.

    Attributes:
      logits: [B, P, D, V], logits of generated values.
      gate: [B, P, D], logit of the probability of a copy.
      shares: [B, P, D, T], distribution of copies over the known trials.
      tokens: int32 [B, T, D], tokens of the known trials.
    """

    logits: Array
    gate: Array
    shares: Array
    tokens: Array

    def mixed(self) -> Float[Array, "batch group slot output"]:
        """The logarithm of the mixture, over all outputs."""
        return with_copies(self.logits, self.gate, spread(self.shares, self.tokens))

    def log_probability(self, target: Int[Array, "batch group slot"]) -> Float[Array, "batch group slot"]:
        """`mixed` for one output per step, in a tenth of the time: the other outputs are only normalized."""
        own = jnp.take_along_axis(self.logits, target[..., None], axis=-1)[..., 0]
        own = own - jax.nn.logsumexp(self.logits, axis=-1) + jax.nn.log_sigmoid(-self.gate)
        same = jnp.swapaxes(self.tokens, 1, 2)[:, None] == target[..., None]  # [B, P, D, T]
        copied = jnp.sum(jnp.where(same, self.shares, 0.0), axis=-1)
        has = copied > 0
        theirs = jnp.where(has, jnp.log(jnp.where(has, copied, 1.0)) + jax.nn.log_sigmoid(self.gate), NEVER)
        return jnp.logaddexp(own, theirs)


class Recall(nnx.Module):
    """Attention of the slot decoder's steps over the earlier values of their slot, for recall or for copies."""

    def __init__(self, config: ModelConfig, *, copies: bool, rng: Rng):
        """
        Args:
          config: config of the model.
          copies: whether the attention weights are used as a pointer, instead of gathering values.
          rng: generator of the initial values.
        """
        width, dtype = config.policy_width, config.compute_dtype
        self.copies = copies
        head = (config.policy_heads, width // config.policy_heads)
        parts = 1 if copies else 2
        self.norm = RMSNorm(width)
        self.state_norm = RMSNorm(config.width)
        self.query = Projection((width,), head, dtype=dtype, rng=rng)
        self.of_state = Projection((config.width,), (parts, *head), dtype=dtype, rng=rng, stacked=True)
        self.of_value = Projection((config.slot_width,), (parts, *head), dtype=dtype, rng=rng, stacked=True)
        self.bias = RelativeBias(
            config.relative_buckets, config.relative_max_distance, config.policy_heads, special=1, rng=rng
        )
        self.agreement = normal(rng, (DIFFERENT + 2, config.policy_heads), 0.1)
        self.quality = normal(rng, (2, config.policy_heads), 0.1)
        # Small initial weights, so that adding this module to a trained model hardly changes its outputs.
        self.out = None if copies else Projection(head, (width,), dtype=dtype, rng=rng, gain=0.1)
        self.gate = Projection((width,), (1,), dtype=None, rng=rng, gain=0.1) if copies else None
        self.succession = Succession(config, parts, copies=copies, rng=rng) if config.policy_succession else None

    def keys(self, remembered: Remembered) -> tuple[Array, ...]:
        """Keys, and for recall also values, [B, T, D, H, K]."""
        of_state = unstack(self.of_state(self.state_norm(remembered.states)), axis=2)
        of_value = unstack(self.of_value(remembered.values), axis=3)
        own = tuple(state[:, :, None] + value for state, value in zip(of_state, of_value, strict=True))
        if self.succession is None:
            return own
        return tuple(map(jnp.add, own, self.succession.keys(remembered)))

    def scores(
        self,
        rows: Float[Array, "batch group slot width"],
        key: Float[Array, "batch trial slot head k"],
        lookup: Lookup,
    ) -> Float[Array, "batch group slot head trial"]:
        """Attention scores before the softmax; `NEVER` if a trial is not visible."""
        remembered = lookup.remembered
        query = self.query(self.norm(rows))
        score = jnp.einsum("bpkhc,btkhc->bpkht", query, key, preferred_element_type=jnp.float32)
        distance = jnp.where(
            remembered.order_free[:, None, None], self.bias.buckets, self.bias.one_way(remembered.distance)
        )
        score = score * query.shape[-1] ** -0.5 + jnp.swapaxes(self.bias(distance), 2, 3)[:, :, None]
        score = score + jnp.einsum("bpktf,fh->bpkht", lookup.features, self.agreement[...])
        if self.succession is not None:
            alike = jnp.einsum("bpktf,fh->bpkht", lookup.features[..., :2], self.succession.alike[...])
            score = score + alike * remembered.left[:, None, :, None, None]
        quality = jnp.einsum("bptf,fh->bpht", remembered.quality, self.quality[...])
        return jnp.where(remembered.visible[:, :, None, None], score + quality[:, :, None], NEVER)

    def gathered(self, rows: Float[Array, "batch group slot width"], lookup: Lookup) -> Array:
        """Attention output, which is added to the rows of the steps."""
        assert self.out is not None
        key, value = lookup.recalled
        (weights,) = joint_softmax([self.scores(rows, key, lookup)])
        mixed = jnp.einsum("bpkht,btkhc->bpkhc", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        found = self.out(mixed).astype(jnp.float32)
        return found if self.succession is None else found + self.succession.averaged_features(weights, lookup)

    def pointed(
        self, rows: Float[Array, "batch group slot width"], levels: Int[Array, "batch slot"], lookup: Lookup
    ) -> tuple[Float[Array, "batch group slot trial"], Float[Array, "batch group slot"]]:
        """Distribution of copies over the trials (0 for a trial without a value in the slot), and logit of the gate."""
        assert self.gate is not None
        scores = self.scores(rows, lookup.pointed[0], lookup).mean(axis=3)
        chosen = lookup.remembered.tokens
        valued = jnp.swapaxes(chosen, 1, 2) < levels[..., None]  # [B, K, T]
        (shares,) = joint_softmax([jnp.where(valued[:, None], scores, NEVER)])
        gate = self.gate(self.norm(rows))[..., 0].astype(jnp.float32) + _SHUT
        if self.succession is not None:
            gate = gate + self.succession.averaged_features(shares[:, :, :, None], lookup)[..., 0]
        return shares, jnp.where(shares.sum(axis=-1) > 0, gate, NEVER)


class Succession(nnx.Module):
    """Keys from each trial's predecessor, and features of the trials that a step attends to.

    All weights are zero-initialized, so adding this module to a trained model does not change its outputs.
    """

    def __init__(self, config: ModelConfig, parts: int, *, copies: bool, rng: Rng):
        width, heads = config.policy_width, config.policy_heads
        head = (heads, width // heads)
        self.of_before = Projection(
            (config.slot_width,), (parts, *head), dtype=config.compute_dtype, rng=rng, gain=0.0, stacked=True
        )
        self.of_repeat = normal(rng, (parts, *head), 0.0)
        self.alike = normal(rng, (2, heads), 0.0)
        # Copies have one distribution over trials for all heads, and need one number, for the gate.
        self.features = normal(rng, (1, FEATURES, 1) if copies else (heads, FEATURES, width), 0.0)

    def keys(self, remembered: Remembered) -> tuple[Array, ...]:
        """Additions to `Recall.keys`; zero for first trials and in order-free studies."""
        ordered = ~remembered.order_free[:, None, None]  # [B, 1, 1]
        before = jnp.pad(remembered.values[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0))) * ordered[..., None]
        repeated = remembered.tokens[:, 1:] == remembered.tokens[:, :-1]
        repeated = jnp.pad(repeated, ((0, 0), (1, 0), (0, 0))) & ordered
        of_before = unstack(self.of_before(before), axis=3)
        of_repeat = repeated[..., None, None, None] * self.of_repeat[...][None, None, None]  # [B, T, D, parts, H, K]
        return tuple(value + of_repeat[..., part, :, :].astype(value.dtype) for part, value in enumerate(of_before))

    def averaged_features(
        self, weights: Float[Array, "batch group slot head trial"], lookup: Lookup
    ) -> Float[Array, "batch group slot width"]:
        """Projection of the trials' features, averaged with the attention weights of each head."""
        agreement = jnp.einsum("bpkht,bpktf->bpkhf", weights, lookup.features)
        quality = jnp.einsum("bpkht,bptf->bpkhf", weights, lookup.remembered.quality)
        alike = agreement[..., :2] * lookup.remembered.left[:, None, :, None, None]
        features = jnp.concatenate([agreement, quality, alike], axis=-1)
        return jnp.einsum("bpkhf,hfw->bpkw", features, self.features[...])


def slots_left(mask: Bool[Array, "batch slot"]) -> Float[Array, "batch slot"]:
    """Logarithm of the number of slots from each on, itself included; 0 in padding."""
    count = jnp.sum(mask, axis=-1, keepdims=True) - np.arange(mask.shape[-1])[None]
    return jnp.log(jnp.maximum(count, 1).astype(jnp.float32))


def quality_features(
    y: Int[Array, "batch trial"], visible: Bool[Array, "batch group trial"]
) -> Float[Array, "batch group trial 2"]:
    """Per trial: whether no visible trial is better, and the share of visible trials that are not better.

    Both are 0 for trials without an objective.
    """
    valued = (y < tokens.NUM_LEVELS)[:, None] & visible
    others = valued[:, :, None, :]
    not_better = (y[:, None, :] <= y[:, :, None])[:, None] & others  # [B, P, T, T']
    count = jnp.sum(others, axis=-1)
    share = jnp.sum(not_better, axis=-1) / jnp.maximum(count, 1)
    best = (share == 1.0).astype(jnp.float32)
    return jnp.where(valued[..., None], jnp.stack([best, share], axis=-1), 0.0)


def agreement_features(
    different: Int[Array, "*rows trial"], before: Int[Array, "*#rows #trial"] | Int[np.ndarray, "*#rows #trial"]
) -> Float[Array, "*rows trial feature"]:
    """One-hot number of differing slots, and log of the number of agreeing ones, among the slots before a step."""
    count = jax.nn.one_hot(jnp.minimum(different, DIFFERENT), DIFFERENT + 1)
    agreeing = jnp.log1p((before - different).astype(jnp.float32))
    return jnp.concatenate([count, agreeing[..., None]], axis=-1)


def teacher_forced_features(
    x: Int[Array, "batch group slot"], known: Int[Array, "batch trial slot"], mask: Bool[Array, "batch slot"]
) -> Float[Array, "batch group slot trial feature"]:
    """`agreement_features` of every step, for trials with given values."""
    unlike = (x[:, :, :, None] != jnp.swapaxes(known, 1, 2)[:, None]) & mask[:, None, :, None]
    different = jnp.cumsum(unlike, axis=2) - unlike  # of the slots before
    return agreement_features(different, np.arange(x.shape[2])[None, None, :, None])


def with_copies(
    logits: Float[Array, "*rows output"], gate: Float[Array, "*rows"], copied: Float[Array, "*rows output"]
) -> Float[Array, "*rows output"]:
    """Log of (1 - g) softmax(logits) + g * copied, with g = sigmoid(gate).  `NEVER` stays if nothing is copied."""
    own = jax.nn.log_softmax(logits, axis=-1) + jax.nn.log_sigmoid(-gate)[..., None]
    has = copied > 0
    theirs = jnp.where(has, jnp.log(jnp.where(has, copied, 1.0)) + jax.nn.log_sigmoid(gate)[..., None], NEVER)
    return jnp.where(logits <= NEVER / 2, NEVER, jnp.logaddexp(own, theirs))


def spread(
    shares: Float[Array, "batch group slot trial"], chosen: Int[Array, "batch trial slot"]
) -> Float[Array, "batch group slot output"]:
    """Sums the shares of trials by their token in the slot."""
    studies, groups, slots, _ = shares.shape
    token = jnp.minimum(jnp.swapaxes(chosen, 1, 2), tokens.NUM_OUTPUTS - 1)[:, None]
    at = [
        jnp.arange(size).reshape(shape)
        for size, shape in ((studies, (-1, 1, 1, 1)), (groups, (-1, 1, 1)), (slots, (-1, 1)))
    ]
    empty = jnp.zeros((studies, groups, slots, tokens.NUM_OUTPUTS), jnp.float32)
    return empty.at[at[0], at[1], at[2], token].add(shares)
