"""The loss against brute force."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optformer.model import Logits, ModelConfig, loss
from optformer.serialization import tokens


def random_logits(batch, outputs=tokens.NUM_OUTPUTS):
    rng = np.random.default_rng(0)
    function = rng.standard_normal((*batch.y_tokens.shape, outputs)).astype(np.float32)
    policy = rng.standard_normal((*batch.policy_weights.shape, outputs)).astype(np.float32)
    return Logits(jnp.asarray(function), jnp.asarray(policy))


def test_loss_is_the_weighted_mean_cross_entropy(run):
    config = dataclasses.replace(ModelConfig.tiny(), objective_weight=0.7, z_loss=1e-3)
    batch = run.study(0)
    trials = np.asarray([[3, 5], [0, 6]], np.int32)
    weights = np.random.default_rng(1).uniform(0, 2, (2, 2, 4)).astype(np.float32)
    weights[1, :, 3] = 0  # padding
    batch = batch._replace(policy_trials=trials, policy_weights=weights, function_weights=batch.function_weights * 1.5)
    logits = random_logits(batch)

    def head(rows):
        total = square = weight = 0.0
        for logit, w, token in rows:
            normalizer = np.log(np.exp(np.asarray(logit, np.float64)).sum())
            total += w * (normalizer - logit[token])
            square += w * normalizer**2
            weight += w
        return total / weight, square / weight, weight

    function = head(
        (logits.function[b, t], w, batch.y_tokens[b, t]) for (b, t), w in np.ndenumerate(batch.function_weights) if w
    )
    policy = head(
        (logits.policy[b, p, k], w, batch.x_tokens[b, trials[b, p], k]) for (b, p, k), w in np.ndenumerate(weights) if w
    )
    result = run.loss(logits, batch, config)
    np.testing.assert_allclose(result.function, function[0], rtol=1e-5)
    np.testing.assert_allclose(result.policy, policy[0], rtol=1e-5)
    np.testing.assert_allclose(result.function_weight, function[2], rtol=1e-5)
    np.testing.assert_allclose(result.policy_weight, policy[2], rtol=1e-5)
    total = 0.7 * (function[0] + 1e-3 * function[1]) + 0.3 * (policy[0] + 1e-3 * policy[1])
    np.testing.assert_allclose(result.total, total, rtol=1e-5)


def test_weightless_tokens_cost_nothing(run):
    batch = run.study(1)
    logits = random_logits(batch)
    masked = Logits(jnp.full_like(logits.function, -1e9), jnp.full_like(logits.policy, -1e9))
    nothing = batch._replace(
        function_weights=np.zeros_like(batch.function_weights), policy_weights=np.zeros_like(batch.policy_weights)
    )
    for values in (logits, masked):
        result = run.loss(values, nothing, ModelConfig.tiny())
        assert [float(field) for field in result[:5]] == [0, 0, 0, 0, 0]


def test_a_target_that_cannot_be_emitted_is_loud(models, run):
    """A pipeline that gives PENDING a weight must not go unnoticed."""
    batch = run.study(2)
    assert batch.y_tokens[0, 4] == tokens.PENDING
    weights = batch.function_weights.copy()
    weights[0, 4] = 1
    logits = run.forward(models["pooled"], batch)
    assert run.loss(logits, batch, ModelConfig.tiny()).function < 20
    assert run.loss(logits, batch._replace(function_weights=weights), ModelConfig.tiny()).function > 1e6


def test_whole_table_of_a_shared_vocabulary(models, run):
    """The text pieces take part in the softmax, as in 2022."""
    model, batch = models["plain"], run.study(3)
    logits = run.forward(model, batch)
    assert logits.function.shape[-1] == 1200
    result = run.loss(logits, batch, model.config)
    np.testing.assert_allclose(result.function, np.log(1200 - 3), atol=0.1)


@pytest.mark.parametrize("name", ["recall", "succession", "header"])
def test_copies_cost_what_their_whole_mixture_costs(models, run, name):
    """By the parts that the loss reads, and by the logits of every output."""
    model, batch = models[name], run.study(2, studies=3)

    def value_and_gradient(dense):
        def total(model):
            logits = model(batch)
            return loss(logits._replace(copies=None) if dense else logits, batch, model.config).total

        return jax.jit(nnx.value_and_grad(total))(model)

    (parts, gradient), (whole, expected) = value_and_gradient(False), value_and_gradient(True)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    for got, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)
