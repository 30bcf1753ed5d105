"""Soft-label cross-entropy of both heads.

Notation: q target token, L levels, j token, z_j = j / (L - 1), s label standard deviation in z, V outputs.

Label of an ordered token: p_j ∝ exp(-(z_j - z_q)^2 / (2 s^2)) over j < L.  A bin's neighbours are nearly as right
as the bin itself, and one-hot labels would make the model learn a thousand unrelated classes from few examples.
Categories and statuses are one-hot.
"""

import math
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


def label_window(sigma: float) -> int:
    """Bins on either side of the target that its label reaches: five standard deviations, of the finest grid."""
    return math.ceil(5.0 * sigma * (tokens.NUM_LEVELS - 1))


def window_labels(
    target: Int[Array, "*shape"], levels: Int[Array, "*shape"], ordered: Bool[Array, "*shape"], sigma: float
) -> tuple[Int[Array, "*shape tap"], Float[Array, "*shape tap"]]:
    """The tokens on which the label of a target has mass, and that mass.

    Args:
      target: q.
      levels: L.
      ordered: whether the target's neighbours are near it.
      sigma: s; 0 for one-hot labels.
    """
    reach = label_window(sigma)
    token = target[..., None] + jnp.expand_dims(jnp.arange(-reach, reach + 1), range(target.ndim))
    levels = levels[..., None]
    offset = (token - target[..., None]).astype(jnp.float32)
    distance = offset / jnp.maximum(levels - 1, 1).astype(jnp.float32)
    smooth = ordered[..., None] & (target[..., None] < levels)
    inside = jnp.where(smooth, (token >= 0) & (token < levels), offset == 0)
    mass = jnp.where(inside, jnp.exp(-0.5 * jnp.square(distance / sigma)) if sigma else 1.0, 0.0)
    return jnp.where(inside, token, target[..., None]), mass / jnp.sum(mass, axis=-1, keepdims=True)


@jax.custom_vjp
def cross_entropy(
    logits: Float[Array, "*shape output"], token: Int[Array, "*shape tap"], mass: Float[Array, "*shape tap"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Cross-entropy in nats against labels with `mass` on `token`, and the log-normaliser of the logits.

    The gradient is written out: one pass over the outputs, and a scatter of the labels' few bins.  Labels as wide as
    the outputs cost a CPU more than the softmax itself.
    """
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    return normaliser - jnp.sum(mass * jnp.take_along_axis(logits, token, axis=-1), axis=-1), normaliser


def _cross_entropy_forward(logits: Array, token: Array, mass: Array) -> tuple[tuple[Array, Array], tuple]:
    entropy, normaliser = cross_entropy(logits, token, mass)
    return (entropy, normaliser), (logits, token, mass, normaliser)


def _cross_entropy_backward(residuals: tuple, gradients: tuple[Array, Array]) -> tuple[Array, None, None]:
    logits, token, mass, normaliser = residuals
    of_entropy, of_normaliser = (gradient[..., None] for gradient in gradients)
    gradient = jnp.exp(logits - normaliser[..., None]) * (of_entropy + of_normaliser)
    outputs = logits.shape[-1]
    rows = jnp.arange(math.prod(token.shape[:-1]))[:, None]
    flat = gradient.reshape(-1, outputs)
    flat = flat.at[rows, token.reshape(-1, token.shape[-1])].add(-(mass * of_entropy).reshape(-1, token.shape[-1]))
    return flat.reshape(logits.shape), None, None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def loss(logits: Logits, batch: StudyBatch, config: ModelConfig, totals: tuple[Array, Array] | None = None) -> Loss:
    """Loss of `model(batch)`.

    A token of positive weight that can never be emitted (say PENDING) costs about 1e9, which no run overlooks.

    Args:
      totals: of a part of a larger batch, the function and the policy weight of the whole.  The losses are then what
        the part adds to those of the whole batch, and the weights of the result are the totals.
    """
    of_function, of_policy = totals if totals is not None else (None, None)
    y = jnp.asarray(batch.y_tokens)
    function = _head_loss(
        logits.function,
        window_labels(y, jnp.full_like(y, tokens.NUM_LEVELS), jnp.ones_like(y, bool), config.function_label_sigma),
        jnp.asarray(batch.function_weights),
        of_function,
    )
    x = jnp.take_along_axis(jnp.asarray(batch.x_tokens), jnp.asarray(batch.policy_trials)[:, :, None], axis=1)
    levels = jnp.broadcast_to(jnp.asarray(batch.slot_levels)[:, None], x.shape)
    ordered = jnp.broadcast_to(ordered_kind(jnp.asarray(batch.slot_kinds))[:, None], x.shape)
    policy = _head_loss(
        logits.policy,
        window_labels(x, levels, ordered, config.policy_label_sigma),
        jnp.asarray(batch.policy_weights),
        of_policy,
    )
    function_share, policy_share = config.objective_weight, 1.0 - config.objective_weight
    total = function_share * function[0] + policy_share * policy[0]
    total = total + config.z_loss * (function_share * function[1] + policy_share * policy[1])
    return Loss(total, policy[0], function[0], policy[2], function[2])


def _head_loss(
    logits: Array, labels: tuple[Array, Array], weights: Array, total: Array | None
) -> tuple[Array, Array, Array]:
    """Mean cross-entropy, mean squared log-normaliser, and the weight that the means are over."""
    token, mass = labels
    # PAD and the statuses that are never emitted stand beyond the outputs; they have no weight.
    entropy, normaliser = cross_entropy(logits.astype(jnp.float32), jnp.minimum(token, logits.shape[-1] - 1), mass)
    # Weightless positions may hold targets that cannot be emitted; they must not even multiply their 1e9 by 0.
    counted = weights > 0
    entropy, square = jnp.where(counted, entropy, 0.0), jnp.where(counted, jnp.square(normaliser), 0.0)
    weight = jnp.sum(weights) if total is None else total
    share = weights / jnp.where(weight > 0, weight, 1.0)
    return jnp.sum(share * entropy), jnp.sum(share * square), weight
