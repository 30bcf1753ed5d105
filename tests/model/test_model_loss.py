"""Soft labels and the loss against brute force."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optformer.model import Logits, ModelConfig
from optformer.model.loss import cross_entropy, window_labels
from optformer.serialization import tokens


def brute_force_label(target, levels, ordered, sigma, outputs=tokens.NUM_OUTPUTS):
    label = np.zeros(outputs)
    if sigma == 0 or not ordered or target >= levels:
        label[target] = 1
        return label
    for token in range(levels):
        label[token] = np.exp(-0.5 * ((token - target) / (levels - 1) / sigma) ** 2)
    return label / label.sum()


CASES = [
    (500, 1000, True),  # in the middle
    (0, 1000, True),  # at a bound: half of the Gaussian, renormalised
    (999, 1000, True),
    (3, 8, True),
    (1, 2, True),
    (5, 12, False),  # categorical
    (tokens.INFEASIBLE, 1000, True),
    (tokens.INACTIVE, 7, True),
]


@pytest.mark.parametrize("sigma", [0.0, 0.002, 0.05])
def test_soft_labels(run, sigma):
    targets, levels, ordered = (jnp.asarray(column) for column in zip(*CASES, strict=True))
    token, mass = run.compiled(window_labels, static_argnums=3)(targets, levels, ordered, sigma)
    labels = np.zeros((len(CASES), tokens.NUM_OUTPUTS), np.float32)
    np.add.at(labels, (np.arange(len(CASES))[:, None], np.asarray(token)), np.asarray(mass))
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-5)
    for label, case in zip(labels, CASES, strict=True):
        np.testing.assert_allclose(label, brute_force_label(*case, sigma), atol=1e-6)


def random_logits(batch, outputs=tokens.NUM_OUTPUTS):
    rng = np.random.default_rng(0)
    function = rng.standard_normal((*batch.y_tokens.shape, outputs)).astype(np.float32)
    policy = rng.standard_normal((*batch.policy_weights.shape, outputs)).astype(np.float32)
    return Logits(jnp.asarray(function), jnp.asarray(policy))


def test_loss_is_the_weighted_mean_cross_entropy(run):
    config = dataclasses.replace(
        ModelConfig.tiny(), policy_label_sigma=0.01, function_label_sigma=0.004, objective_weight=0.7, z_loss=1e-3
    )
    batch = run.study(0)
    trials = np.asarray([[3, 5], [0, 6]], np.int32)
    weights = np.random.default_rng(1).uniform(0, 2, (2, 2, 4)).astype(np.float32)
    weights[1, :, 3] = 0  # padding
    batch = batch._replace(policy_trials=trials, policy_weights=weights, function_weights=batch.function_weights * 1.5)
    logits = random_logits(batch)

    def head(rows):
        total = square = weight = 0.0
        for logit, w, label in rows:
            normaliser = np.log(np.exp(np.asarray(logit, np.float64)).sum())
            total += w * -(label * (logit - normaliser)).sum()
            square += w * normaliser**2
            weight += w
        return total / weight, square / weight, weight

    function = head(
        (logits.function[b, t], w, brute_force_label(batch.y_tokens[b, t], 1000, True, 0.004))
        for (b, t), w in np.ndenumerate(batch.function_weights)
        if w
    )
    policy = head(
        (
            logits.policy[b, p, k],
            w,
            brute_force_label(
                batch.x_tokens[b, trials[b, p], k],
                batch.slot_levels[b, k],
                batch.slot_kinds[b, k] != tokens.CATEGORICAL,
                0.01,
            ),
        )
        for (b, p, k), w in np.ndenumerate(weights)
        if w
    )
    result = run.loss(logits, batch, config)
    np.testing.assert_allclose(result.function, function[0], rtol=1e-5)
    np.testing.assert_allclose(result.policy, policy[0], rtol=1e-5)
    np.testing.assert_allclose(result.function_weight, function[2], rtol=1e-5)
    np.testing.assert_allclose(result.policy_weight, policy[2], rtol=1e-5)
    total = 0.7 * (function[0] + 1e-3 * function[1]) + 0.3 * (policy[0] + 1e-3 * policy[1])
    np.testing.assert_allclose(result.total, total, rtol=1e-5)


def test_the_gradient_is_that_of_the_brute_force(run):
    logits = np.random.default_rng(3).standard_normal((len(CASES), tokens.NUM_OUTPUTS)).astype(np.float32)
    targets, levels, ordered = (jnp.asarray(column) for column in zip(*CASES, strict=True))

    def total(logits):
        entropy, normaliser = cross_entropy(logits, *window_labels(targets, levels, ordered, 0.01))
        return jnp.sum(weight * entropy) + 0.1 * jnp.sum(normaliser**2)

    weight = jnp.asarray(np.random.default_rng(4).uniform(0, 2, len(CASES)), jnp.float32)
    gradient = np.asarray(run.compiled(jax.grad(total))(logits))
    normaliser = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))
    share = np.exp(logits - normaliser)
    labels = np.stack([brute_force_label(*case, 0.01) for case in CASES])
    expected = np.asarray(weight)[:, None] * (share - labels) + 0.2 * normaliser * share
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_weightless_tokens_cost_nothing(run):
    batch = run.study(1)
    logits = random_logits(batch)
    masked = Logits(jnp.full_like(logits.function, -1e9), jnp.full_like(logits.policy, -1e9))
    nothing = batch._replace(
        function_weights=np.zeros_like(batch.function_weights), policy_weights=np.zeros_like(batch.policy_weights)
    )
    for values in (logits, masked):
        result = run.loss(values, nothing, ModelConfig.tiny())
        assert [float(field) for field in result] == [0, 0, 0, 0, 0]


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
