"""Soft-label cross-entropy of both heads.

Notation: q target token, L levels, j token, z_j = j / (L - 1), s label standard deviation in z, V outputs.

Label of an ordered token: p_j ∝ exp(-(z_j - z_q)^2 / (2 s^2)) over j < L.  A bin's neighbours are nearly as right
as the bin itself, and one-hot labels would make the model learn a thousand unrelated classes from few examples.
Categories and statuses are one-hot.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.embedding import ordered_kind
from optformer.model.interface import Logits
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch


class Loss(NamedTuple):
    """Scalars, float32.

    Attributes:
      total: objective_weight * function + (1 - objective_weight) * policy, plus the z-loss weighted the same way.
      policy, function: mean cross-entropy in nats per weighted token, 0 where nothing has weight.
      policy_weight, function_weight: the sums of weights behind the means.
    """

    total: Array
    policy: Array
    function: Array
    policy_weight: Array
    function_weight: Array


def soft_labels(
    target: Int[Array, "*shape"],
    levels: Int[Array, "*shape"],
    ordered: Bool[Array, "*shape"],
    sigma: float,
    outputs: int,
) -> Float[Array, "*shape output"]:
    """Label distribution of each target; `sigma` in units of z, 0 for one-hot."""
    token = jnp.expand_dims(jnp.arange(outputs), range(target.ndim))
    target, levels = target[..., None], levels[..., None]
    one_hot = (token == target).astype(jnp.float32)
    if sigma == 0.0:
        return one_hot
    distance = (token - target).astype(jnp.float32) / jnp.maximum(levels - 1, 1).astype(jnp.float32)
    mass = jnp.where(token < levels, jnp.exp(-0.5 * jnp.square(distance / sigma)), 0.0)
    total = jnp.sum(mass, axis=-1, keepdims=True)
    smooth = ordered[..., None] & (target < levels)
    return jnp.where(smooth, mass / jnp.where(total > 0, total, 1.0), one_hot)


def cross_entropy(
    logits: Float[Array, "*shape output"], labels: Float[Array, "*shape output"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Cross-entropy in nats, and the log-normaliser of the logits."""
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    return normaliser - jnp.sum(labels * logits, axis=-1), normaliser


def loss(logits: Logits, batch: StudyBatch, config: ModelConfig) -> Loss:
    """Loss of `model(batch)`.

    A token of positive weight that can never be emitted (say PENDING) costs about 1e9, which no run overlooks.
    """
    y = jnp.asarray(batch.y_tokens)
    y_levels = jnp.full_like(y, tokens.NUM_LEVELS)
    function = _head_loss(
        logits.function,
        soft_labels(y, y_levels, jnp.ones_like(y, bool), config.function_label_sigma, logits.function.shape[-1]),
        jnp.asarray(batch.function_weights),
    )
    x = jnp.take_along_axis(jnp.asarray(batch.x_tokens), jnp.asarray(batch.policy_trials)[:, :, None], axis=1)
    levels = jnp.broadcast_to(jnp.asarray(batch.slot_levels)[:, None], x.shape)
    ordered = jnp.broadcast_to(ordered_kind(jnp.asarray(batch.slot_kinds))[:, None], x.shape)
    policy = _head_loss(
        logits.policy,
        soft_labels(x, levels, ordered, config.policy_label_sigma, logits.policy.shape[-1]),
        jnp.asarray(batch.policy_weights),
    )
    function_share, policy_share = config.objective_weight, 1.0 - config.objective_weight
    total = function_share * function[0] + policy_share * policy[0]
    total = total + config.z_loss * (function_share * function[1] + policy_share * policy[1])
    return Loss(total, policy[0], function[0], policy[2], function[2])


def _head_loss(logits: Array, labels: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Mean cross-entropy, mean squared log-normaliser, sum of weights."""
    entropy, normaliser = cross_entropy(logits.astype(jnp.float32), labels)
    # Weightless positions may hold targets that cannot be emitted; they must not even multiply their 1e9 by 0.
    counted = weights > 0
    entropy, square = jnp.where(counted, entropy, 0.0), jnp.where(counted, jnp.square(normaliser), 0.0)
    weight = jnp.sum(weights)
    share = weights / jnp.where(weight > 0, weight, 1.0)
    return jnp.sum(share * entropy), jnp.sum(share * square), weight
