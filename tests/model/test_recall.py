"""Copies of earlier values: the mixture, the agreement of trials, and that a parent can be found and copied."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import special

from optformer.model import ModelConfig, build_model, loss
from optformer.model.layers import NEVER
from optformer.model.recall import (
    DIFFERENT,
    Lookup,
    Remembered,
    Succession,
    agreement_features,
    quality_features,
    slots_left,
    spread,
    teacher_forced_features,
    with_copies,
)
from optformer.serialization import tokens


def test_the_mixture_is_a_distribution_of_own_and_copied_values():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, tokens.NUM_OUTPUTS)).astype(np.float32)
    logits[..., 20:] = NEVER
    copied = np.zeros_like(logits)
    copied[..., [4, 7]] = [0.25, 0.75]
    gate = np.array([[-1.0, 0.0, NEVER]] * 2, np.float32)
    mixed = np.exp(np.asarray(with_copies(jnp.asarray(logits), jnp.asarray(gate), jnp.asarray(copied))))
    g = special.expit(gate[..., None].astype(float))
    expected = (1 - g) * np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True) + g * copied
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(mixed.sum(axis=-1), 1.0, rtol=1e-5)


def test_shares_are_added_up_by_token():
    chosen = np.array([[[5, 0], [5, 1], [tokens.INACTIVE, 2]]])  # [1, T = 3, D = 2]
    shares = np.array([[[[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]]], np.float32)
    found = np.asarray(spread(jnp.asarray(shares), jnp.asarray(chosen)))
    assert found.shape == (1, 1, 2, tokens.NUM_OUTPUTS)
    assert found[0, 0, 0, 5] == pytest.approx(0.8)
    assert found[0, 0, 1, :3] == pytest.approx([0.2, 0.2, 0.6])
    assert found.sum() == pytest.approx(2.0)


def test_trials_agree_in_the_slots_before_the_one_that_is_predicted():
    x = np.array([[[1, 2, 3, 4, 9]]])
    known = np.array([[[1, 2, 3, 4, 9], [1, 0, 3, 0, 0], [0, 0, 0, 0, 0]]])
    mask = np.array([[True, True, True, True, False]])
    found = np.asarray(teacher_forced_features(jnp.asarray(x), jnp.asarray(known), jnp.asarray(mask)))[0, 0]
    different = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 1, 3], [0, 2, 4]]
    assert found[..., :-1].argmax(axis=-1).tolist() == np.minimum(different, DIFFERENT).tolist()
    agreeing = np.arange(5)[:, None] - np.array(different)
    np.testing.assert_allclose(found[..., -1], np.log1p(agreeing), rtol=1e-6)
    # One step at a time, as in sampling.
    stepwise = agreement_features(jnp.asarray([[different[3]]]), jnp.asarray(3))
    np.testing.assert_allclose(stepwise[0, 0], found[3])


def test_the_best_of_the_visible_trials_is_known_as_such():
    y = np.array([[10, 500, tokens.INFEASIBLE, 500, 900]])
    visible = np.array([[[True] * 4 + [False], [True, False, False, False, False], [False] * 5]])
    found = np.asarray(quality_features(jnp.asarray(y), jnp.asarray(visible)))[0]
    np.testing.assert_allclose(found[0], [[0, 1 / 3], [1, 1], [0, 0], [1, 1], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(found[1], [[1, 1]] + [[0, 0]] * 4)
    assert (found[2] == 0).all()


def test_the_slots_that_are_left_are_counted_without_padding():
    mask = np.array([[True] * 4, [True, True, False, False]])
    left = [[np.log(4), np.log(3), np.log(2), 0], [np.log(2), 0, 0, 0]]
    np.testing.assert_allclose(slots_left(jnp.asarray(mask)), left, rtol=1e-6)


@pytest.mark.parametrize("copies", [True, False])
def test_a_step_is_told_of_the_trials_it_looks_at(copies):
    config = dataclasses.replace(ModelConfig.tiny(), policy_recall=True, policy_succession=True)
    part = Succession(config, 1, copies=copies, rng=np.random.default_rng(0))
    part.features.set_value(np.random.default_rng(0).normal(size=part.features.shape).astype(np.float32))
    rng = np.random.default_rng(1)
    heads = 1 if copies else config.policy_heads
    weights = rng.random((2, 3, 4, heads, 5)).astype(np.float32)
    features = rng.random((2, 3, 4, 5, DIFFERENT + 2)).astype(np.float32)
    quality = rng.random((2, 1, 5, 2)).astype(np.float32)
    left = rng.random((2, 4)).astype(np.float32)
    fields = dict.fromkeys(Remembered._fields) | {"quality": jnp.asarray(quality), "left": jnp.asarray(left)}
    found = part.averaged_features(jnp.asarray(weights), Lookup(Remembered(**fields), (), (), jnp.asarray(features)))
    expected = np.zeros(found.shape)
    for b, p, k, t in np.ndindex(2, 3, 4, 5):
        seen = features[b, p, k, t]
        row = np.concatenate([seen, quality[b, 0, t], left[b, k] * seen[:2]])
        for h in range(heads):
            expected[b, p, k] += weights[b, p, k, h, t] * (row @ np.asarray(part.features[...])[h])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_trials_without_order_have_no_predecessors():
    config = dataclasses.replace(ModelConfig.tiny(), policy_recall=True, policy_succession=True)
    part = Succession(config, 2, copies=False, rng=np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for node in (part.of_before.kernel, part.of_repeat):
        node.set_value(rng.normal(size=node.shape).astype(np.float32))
    chosen = np.array([[[5], [5], [6]]] * 2)
    values = rng.normal(size=(2, 3, 1, config.slot_width)).astype(np.float32)
    values[:, 1] = values[:, 0]
    fields = dict.fromkeys(Remembered._fields) | {
        "values": jnp.asarray(values),
        "tokens": jnp.asarray(chosen),
        "order_free": jnp.array([False, True]),
    }
    for number, key in enumerate(part.keys(Remembered(**fields))):
        before = np.einsum("tw,whc->thc", values[0, :2, 0], np.asarray(part.of_before.kernel[...])[:, number])
        # The second trial repeats the first one's value, the third does not.
        expected = np.stack([np.zeros_like(before[0]), before[0] + np.asarray(part.of_repeat[...])[number], before[1]])
        np.testing.assert_allclose(key[0, :, 0], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(key[1], 0.0)


@pytest.mark.slow
def test_it_learns_to_keep_all_but_one_parameter_of_the_best_trial(run):
    """What no pooled model without recall can do: values of a thousand levels, read back exactly."""
    config = dataclasses.replace(ModelConfig.tiny(), text_vocabulary=128, policy_recall=True)
    model = build_model(config, seed=0)
    graph, params = nnx.split(model, nnx.Param)
    optimizer = optax.adam(5e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        def policy_loss(params):
            return loss(nnx.merge(graph, params)(batch), batch, config).policy

        value, gradient = jax.value_and_grad(policy_loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    def hill_climbs(seed):
        rng = np.random.default_rng(seed)
        batch = run.study(0)
        studies = [run.study(0) for _ in range(8)]
        fields = {name: np.concatenate([getattr(s, name)[:1] for s in studies]) for name in batch._fields}
        fields["slot_kinds"][:], fields["slot_levels"][:] = tokens.CONTINUOUS, tokens.NUM_LEVELS
        x = rng.integers(0, tokens.NUM_LEVELS, (8, 7, 4))
        y = rng.integers(0, tokens.NUM_LEVELS, (8, 7))
        for trial in range(1, 7):
            parent = x[np.arange(8), y[:, :trial].argmax(axis=1)]
            changed = rng.integers(0, 4, 8)
            new = x[np.arange(8), trial, changed].copy()
            x[:, trial] = parent
            x[np.arange(8), trial, changed] = new
        weights = np.ones((8, 7, 4), np.float32)
        weights[:, 0] = 0
        return batch._replace(
            **fields | {"x_tokens": x.astype(np.int32), "y_tokens": y.astype(np.int32), "policy_weights": weights}
        )

    for seed in range(250):
        params, state, _ = step(params, state, hill_climbs(seed))
    _, _, fresh = step(params, state, hill_climbs(10_000))
    # A quarter of the values is uniform over a thousand; which quarter is unknown.
    best = 0.25 * np.log(1000) + 0.56
    assert best - 0.3 < float(fresh) < 0.5 * np.log(1000)
