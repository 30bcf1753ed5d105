"""What the policy remembers of each parameter: attention over the earlier values of one slot, and copies of them.

In the pooled layout a trial is one vector, from which no parameter can be read back to a thousandth.  Most optimizers
do just that: a mutation keeps all parameters of its parent but one, a local search steps from the best, a grid goes on
from the last.  So the slot decoder looks the earlier values of the slot up, trial by trial.

Notation: B studies, P trials whose parameters are predicted, T known trials, D slots, H heads, K head width, V outputs,
F features of a trial as a step sees it.

A step of the slot decoder (trial p, slot k) scores trial t by what the trial's state and its value in slot k say, by
how long ago it was, by whether it is the best and how it ranks, and by how many of the slots before k the two trials
agree in: a parent agrees in all but one.
The pointer's weights are mixed into the distribution over levels, as in See et al. 2017, "Get to the point".

With `policy_succession`, a trial is also known by its predecessor.  Its key has the value that came before its own, so
that a step which has read the last value finds what followed it the last time (the induction heads of Olsson et al.
2022): what a counter does.  And a step is told about the trials that it looks at: in how many slots they differ so far
and how many slots are left, without which no gate can tell that the one change of a mutation has been made already.
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
"""Trials that differ in so many slots, or in more, are alike."""

FEATURES = (DIFFERENT + 2) + 2 + 2
"""Of a trial that a step looks at: its agreement, its quality, and two that depend on the slots that are left."""

_SHUT = -3.0
"""The gate of the copies begins at sigmoid of this."""


class Remembered(NamedTuple):
    """The known trials of studies, as the policy looks them up.

    Attributes:
      states: [B, T, d], of the decoder behind each trial.
      values: [B, T, D, w], embedded values.
      tokens: int32 [B, T, D].
      visible: bool [B, P, T], what each predicted trial sees; P may be 1.
      distance: int32 [B, P, T], how many trials ago; P may be 1.
      order_free: bool [B], all trials are equally long ago.
      quality: [B, P, T, 2], `quality_features` of each known trial as each predicted one sees it; P may be 1.
      left: [B, D], logarithm of the number of slots from each on, itself included; 0 in padding.
      header: [B, policy width], what the policy reads of the header; None where it does not.
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
    """Everything that steps of the slot decoder need to look earlier values up.

    Attributes:
      remembered: the known trials.
      recalled, pointed: keys (and values) of the two uses, [B, T, D, H, K].
      features: [B, P, D, T, F], how far each known trial agrees with what has been chosen before each step.
    """

    remembered: Remembered
    recalled: tuple[Array, ...]
    pointed: tuple[Array, ...]
    features: Array

    def of_slot(self, k: Array, features: Array) -> "Lookup":
        """For one step alone."""

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
    """A distribution over the levels of each step: its own, and copies of earlier values mixed into it.

    Attributes:
      logits: [B, P, D, V], of what is not copied.
      gate: [B, P, D], logit of the share that is.
      shares: [B, P, D, T], of the trials among the copies.
      tokens: int32 [B, T, D], what each trial has in each slot.
    """

    logits: Array
    gate: Array
    shares: Array
    tokens: Array

    def mixed(self) -> Float[Array, "batch group slot output"]:
        """The logarithm of the mixture, over all outputs."""
        return with_copies(self.logits, self.gate, spread(self.shares, self.tokens))

    def log_probability(self, target: Int[Array, "batch group slot"]) -> Float[Array, "batch group slot"]:
        """`mixed` of one output per step alone.  A tenth of its time: the other outputs are only normalised."""
        own = jnp.take_along_axis(self.logits, target[..., None], axis=-1)[..., 0]
        own = own - jax.nn.logsumexp(self.logits, axis=-1) + jax.nn.log_sigmoid(-self.gate)
        same = jnp.swapaxes(self.tokens, 1, 2)[:, None] == target[..., None]  # [B, P, D, T]
        copied = jnp.sum(jnp.where(same, self.shares, 0.0), axis=-1)
        has = copied > 0
        theirs = jnp.where(has, jnp.log(jnp.where(has, copied, 1.0)) + jax.nn.log_sigmoid(self.gate), NEVER)
        return jnp.logaddexp(own, theirs)


class Recall(nnx.Module):
    """Attention of the slot decoder's steps over the earlier values of their slot; one of its two uses."""

    def __init__(self, config: ModelConfig, *, copies: bool, rng: Rng):
        """
        Args:
          config: of the model.
          copies: whether the weights themselves are wanted, and not what they gather.
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
        # Small: a model that has just been given this is nearly the model that it was.
        self.out = None if copies else Projection(head, (width,), dtype=dtype, rng=rng, gain=0.1)
        self.gate = Projection((width,), (1,), dtype=None, rng=rng, gain=0.1) if copies else None
        self.succession = Succession(config, parts, copies=copies, rng=rng) if config.policy_succession else None

    def keys(self, remembered: Remembered) -> tuple[Array, ...]:
        """Keys, and values where they are wanted, [B, T, D, H, K]."""
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
        """Before the softmax, `NEVER` where a trial is not seen."""
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
        """What the steps remember, to be added to their rows."""
        assert self.out is not None
        key, value = lookup.recalled
        (weights,) = joint_softmax([self.scores(rows, key, lookup)])
        mixed = jnp.einsum("bpkht,btkhc->bpkhc", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        found = self.out(mixed).astype(jnp.float32)
        return found if self.succession is None else found + self.succession.averaged_features(weights, lookup)

    def pointed(
        self, rows: Float[Array, "batch group slot width"], levels: Int[Array, "batch slot"], lookup: Lookup
    ) -> tuple[Float[Array, "batch group slot trial"], Float[Array, "batch group slot"]]:
        """Share of each trial in the copies, 0 where it has no value in the slot, and the logit of their gate."""
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
    """What a trial came after, and what a step is told of the trials it looks at.

    All weights begin at zero: a model that has just been given this is exactly the model that it was.
    """

    def __init__(self, config: ModelConfig, parts: int, *, copies: bool, rng: Rng):
        width, heads = config.policy_width, config.policy_heads
        head = (heads, width // heads)
        self.of_before = Projection(
            (config.slot_width,), (parts, *head), dtype=config.compute_dtype, rng=rng, gain=0.0, stacked=True
        )
        self.of_repeat = normal(rng, (parts, *head), 0.0)
        self.alike = normal(rng, (2, heads), 0.0)
        # The copies have one distribution over trials for all heads, and want one number, for their gate.
        self.features = normal(rng, (1, FEATURES, 1) if copies else (heads, FEATURES, width), 0.0)

    def keys(self, remembered: Remembered) -> tuple[Array, ...]:
        """What is added to `Recall.keys`: nothing for first trials, and where trials have no order."""
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
        """The features of the trials, averaged by the weights of each head, as a vector."""
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
    """Of each trial: whether no visible one is better, and the share of the visible ones that are not better.

    Zeros for trials without an objective.
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
    """Of two trials that differ in so many of the slots before: one-hot, and the logarithm of how many agree."""
    count = jax.nn.one_hot(jnp.minimum(different, DIFFERENT), DIFFERENT + 1)
    agreeing = jnp.log1p((before - different).astype(jnp.float32))
    return jnp.concatenate([count, agreeing[..., None]], axis=-1)


def teacher_forced_features(
    x: Int[Array, "batch group slot"], known: Int[Array, "batch trial slot"], mask: Bool[Array, "batch slot"]
) -> Float[Array, "batch group slot trial feature"]:
    """`agreement_features` of every step of trials whose values are given."""
    unlike = (x[:, :, :, None] != jnp.swapaxes(known, 1, 2)[:, None]) & mask[:, None, :, None]
    different = jnp.cumsum(unlike, axis=2) - unlike  # of the slots before
    return agreement_features(different, np.arange(x.shape[2])[None, None, :, None])


def with_copies(
    logits: Float[Array, "*rows output"], gate: Float[Array, "*rows"], copied: Float[Array, "*rows output"]
) -> Float[Array, "*rows output"]:
    """Log of (1 - g) softmax(logits) + g * copied, g the sigmoid of `gate`; `NEVER` stays where nothing is copied."""
    own = jax.nn.log_softmax(logits, axis=-1) + jax.nn.log_sigmoid(-gate)[..., None]
    has = copied > 0
    theirs = jnp.where(has, jnp.log(jnp.where(has, copied, 1.0)) + jax.nn.log_sigmoid(gate)[..., None], NEVER)
    return jnp.where(logits <= NEVER / 2, NEVER, jnp.logaddexp(own, theirs))


def spread(
    shares: Float[Array, "batch group slot trial"], chosen: Int[Array, "batch trial slot"]
) -> Float[Array, "batch group slot output"]:
    """The shares of trials, added up by the token that each has in the slot."""
    studies, groups, slots, _ = shares.shape
    token = jnp.minimum(jnp.swapaxes(chosen, 1, 2), tokens.NUM_OUTPUTS - 1)[:, None]
    at = [
        jnp.arange(size).reshape(shape)
        for size, shape in ((studies, (-1, 1, 1, 1)), (groups, (-1, 1, 1)), (slots, (-1, 1)))
    ]
    empty = jnp.zeros((studies, groups, slots, tokens.NUM_OUTPUTS), jnp.float32)
    return empty.at[at[0], at[1], at[2], token].add(shares)
