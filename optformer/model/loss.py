"""Cross-entropy of both heads on the observed tokens, and a separate one of the experts."""

import math
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.interface import Logits
from optformer.model.mixture import Mixture, log_feasible
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch

EXPERTS_WEIGHT: Final = 0.3
"""Weight of the experts' own cross-entropy, added to the function loss so that they learn even if the decoder is
better."""

FARTHEST: Final = -15.0
"""Smallest log mass of a bin in an expert's own loss, which bounds the loss."""


class Loss(NamedTuple):
    """Scalars, float32.

    Attributes:
      total: objective_weight * function + (1 - objective_weight) * policy, plus the z-loss weighted the same way.  With
        experts, `EXPERTS_WEIGHT` * experts is added to function.
      policy, function: mean cross-entropy in nats per weighted token, 0 where nothing has weight.
      policy_weight, function_weight: the sums of weights behind the means.
      experts: cross-entropy of the experts' own mixture in nats, over `function_weight`; None without experts.
    """

    total: Array
    policy: Array
    function: Array
    policy_weight: Array
    function_weight: Array
    experts: Array | None = None


def loss(logits: Logits, batch: StudyBatch, config: ModelConfig, totals: tuple[Array, Array] | None = None) -> Loss:
    """Loss of `model(batch)`.

    A token of positive weight that cannot be emitted (such as PENDING) costs about 1e9, so that the error is noticed.

    Args:
      logits: output of the model.
      batch: the batch.
      config: config of the model.
      totals: if the batch is part of a larger one, the function weight and the policy weight of the whole.  The losses
        are then the part's contributions to those of the whole batch, and the weights of the result are the totals.
    """
    of_function, of_policy = totals if totals is not None else (None, None)
    y, x = jnp.asarray(batch.y_tokens), jnp.asarray(batch.x_tokens)
    mean = _Mean.over(jnp.asarray(batch.function_weights), of_function)
    own = logits.function if logits.mixture is None else logits.mixture.logits
    function = mean(-log_probability(logits, y))
    function_z = mean(jnp.square(jax.nn.logsumexp(own.astype(jnp.float32), axis=-1)))
    experts = None if logits.mixture is None else mean(_experts_entropy(logits.mixture, y))
    chosen = jnp.take_along_axis(x, jnp.asarray(batch.policy_trials)[:, :, None], axis=1)
    policy_mean = _Mean.over(jnp.asarray(batch.policy_weights), of_policy)
    normalizer, entropy = _policy_cross_entropy(logits, chosen)
    policy, policy_z = policy_mean(entropy), policy_mean(jnp.square(normalizer))
    function_share, policy_share = config.objective_weight, 1.0 - config.objective_weight
    total = function_share * function + policy_share * policy
    if experts is not None:
        total = total + function_share * EXPERTS_WEIGHT * experts
    total = total + config.z_loss * (function_share * function_z + policy_share * policy_z)
    return Loss(total, policy, function, policy_mean.weight, mean.weight, experts)


def log_probability(logits: Logits, y: Int[Array, "batch trial"]) -> Float[Array, "batch trial"]:
    """Log-probability of each objective token, in nats."""
    if logits.mixture is not None:
        return logits.mixture.log_probability(jnp.minimum(y, logits.mixture.logits.shape[-1] - 1))
    return -_cross_entropy(logits.function, y)[1]


def log_density(logits: Logits, y: Int[Array, "batch trial"]) -> Float[Array, "batch trial"]:
    """Log density of each objective given that it is feasible, in nats above a uniform density over the bins."""
    own = logits.function if logits.mixture is None else logits.mixture.logits
    return log_probability(logits, y) - log_feasible(own.astype(jnp.float32)) + math.log(tokens.NUM_LEVELS)


def _experts_entropy(mixture: Mixture, y: Int[Array, "batch trial"]) -> Float[Array, "batch trial"]:
    """Cross-entropy of the experts alone, with their weights renormalized to 1; 0 for statuses."""
    shares = jax.nn.log_softmax(jax.lax.stop_gradient(mixture.log_shares[..., 1:]), axis=-1)
    masses = jnp.maximum(mixture.log_masses(y), FARTHEST)
    return jnp.where(y < tokens.NUM_LEVELS, -jax.nn.logsumexp(masses + shares, axis=-1), 0.0)


def _policy_cross_entropy(
    logits: Logits, target: Int[Array, "batch group slot"]
) -> tuple[Float[Array, "batch group slot"], Float[Array, "batch group slot"]]:
    """Log-normalizers and cross-entropies of the parameters.  Mixtures with copies are already normalized."""
    if logits.copies is None:
        return _cross_entropy(logits.policy, target)
    entropy = -logits.copies.log_probability(jnp.minimum(target, logits.copies.logits.shape[-1] - 1))
    return jnp.zeros_like(entropy), entropy


def _cross_entropy(
    logits: Float[Array, "*shape output"], target: Int[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Log-normalizers, and cross-entropies of the targets."""
    logits = logits.astype(jnp.float32)
    # Targets beyond the outputs (PAD, statuses that are never emitted) have no weight.
    target = jnp.minimum(target, logits.shape[-1] - 1)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    return normalizer, normalizer - jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]


class _Mean(NamedTuple):
    """Weighted means over the tokens of a batch, or the contribution of a part of the batch to them."""

    weights: Array
    weight: Array

    @classmethod
    def over(cls, weights: Array, total: Array | None) -> "_Mean":
        return cls(weights, jnp.sum(weights) if total is None else total)

    def __call__(self, values: Array) -> Array:
        # Positions without weight may have targets that cannot be emitted; their loss of 1e9 is removed first.
        values = jnp.where(self.weights > 0, values, 0.0)
        return jnp.sum(self.weights / jnp.where(self.weight > 0, self.weight, 1.0) * values)
