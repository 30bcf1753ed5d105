"""Cross-entropy of both heads, against the token that is there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.interface import Logits
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


def loss(logits: Logits, batch: StudyBatch, config: ModelConfig, totals: tuple[Array, Array] | None = None) -> Loss:
    """Loss of `model(batch)`.

    A token of positive weight that can never be emitted (say PENDING) costs about 1e9, which no run overlooks.

    Args:
      totals: of a part of a larger batch, the function and the policy weight of the whole.  The losses are then what
        the part adds to those of the whole batch, and the weights of the result are the totals.
    """
    of_function, of_policy = totals if totals is not None else (None, None)
    y, x = jnp.asarray(batch.y_tokens), jnp.asarray(batch.x_tokens)
    function = _mean(*_cross_entropy(logits.function, y), jnp.asarray(batch.function_weights), of_function)
    chosen = jnp.take_along_axis(x, jnp.asarray(batch.policy_trials)[:, :, None], axis=1)
    policy = _mean(*_policy_cross_entropy(logits, chosen), jnp.asarray(batch.policy_weights), of_policy)
    function_share, policy_share = config.objective_weight, 1.0 - config.objective_weight
    total = function_share * function[0] + policy_share * policy[0]
    total = total + config.z_loss * (function_share * function[1] + policy_share * policy[1])
    return Loss(total, policy[0], function[0], policy[2], function[2])


def _policy_cross_entropy(
    logits: Logits, target: Int[Array, "batch group slot"]
) -> tuple[Float[Array, "batch group slot"], Float[Array, "batch group slot"]]:
    """Log-normalisers and cross-entropies; a mixture of distributions is normalised as it is."""
    if logits.copies is None:
        return _cross_entropy(logits.policy, target)
    entropy = -logits.copies.log_probability(jnp.minimum(target, logits.copies.logits.shape[-1] - 1))
    return jnp.zeros_like(entropy), entropy


def _cross_entropy(
    logits: Float[Array, "*shape output"], target: Int[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Log-normalisers, and cross-entropies of the targets."""
    logits = logits.astype(jnp.float32)
    # PAD and the statuses that are never emitted stand beyond the outputs; they have no weight.
    target = jnp.minimum(target, logits.shape[-1] - 1)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    return normaliser, normaliser - jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]


def _mean(
    normaliser: Float[Array, "*shape"],
    entropy: Float[Array, "*shape"],
    weights: Float[Array, "*shape"],
    total: Array | None,
) -> tuple[Array, Array, Array]:
    """Mean cross-entropy, mean squared log-normaliser, and the weight that the means are over."""
    # Weightless positions may hold targets that cannot be emitted; they must not even multiply their 1e9 by 0.
    counted = weights > 0
    entropy, square = jnp.where(counted, entropy, 0.0), jnp.where(counted, jnp.square(normaliser), 0.0)
    weight = jnp.sum(weights) if total is None else total
    share = weights / jnp.where(weight > 0, weight, 1.0)
    return jnp.sum(share * entropy), jnp.sum(share * square), weight
