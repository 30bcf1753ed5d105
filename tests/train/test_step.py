"""The step: schedule, average, weight decay, what is measured, and that nothing compiles twice."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optformer.model import Logits, Loss
from optformer.train.config import MeshConfig, OptimizerConfig
from optformer.train.mesh import make_mesh, part_sharding
from optformer.train.optimizer import learning_rate
from optformer.train.step import TRAINING, VALIDATION, join, make_steps, measure

pytestmark = pytest.mark.integration


def parts_of(config, t):
    """A batch as the loop would pass it, with studies of the prior in place of the corpus."""
    mesh = make_mesh(config.mesh)
    steps = make_steps(config, mesh)
    corpus = jax.device_put(
        jax.device_get(steps.draw_prior(TRAINING, 100 + t)), part_sharding(mesh, config.corpus_studies)
    )
    return steps.draw_prior(TRAINING, t), corpus


def losses_on(config, mesh, batches):
    steps = make_steps(config, mesh)
    state, losses = steps.init(), []
    for parts in batches:
        state, metrics = steps.train(state, *jax.device_put(parts, part_sharding(mesh, config.corpus_studies)))
        losses.append(float(metrics["loss"]))
    assert steps.train._cache_size() == 1
    return losses


def test_descent_on_one_batch_lowers_its_loss_and_compiles_once(config):
    steps = make_steps(config, make_mesh(config.mesh))
    state, parts = steps.init(), parts_of(config, 0)
    seen = []
    for _ in range(12):
        state, metrics = steps.train(state, *parts)
        seen.append(jax.device_get(metrics))
    assert seen[-1]["loss"] < seen[0]["loss"] - 0.3
    assert all(metrics["gradient_norm"] > config.optimizer.clip_norm / 100 for metrics in seen)
    rates = [metrics["learning_rate"] for metrics in seen]
    assert rates == pytest.approx(
        [float(learning_rate(config.optimizer, config.steps)(t)) for t in range(12)], rel=1e-4
    )
    assert steps.train._cache_size() == 1


with_and_without_experts = pytest.mark.parametrize("experts", [0, 2])


def given(config, experts):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, experts=experts))


@with_and_without_experts
def test_placement_on_devices_does_not_change_the_losses(config, experts):
    config = given(config, experts)
    batches = [jax.device_get(parts_of(config, t)) for t in range(3)]
    alone = losses_on(config, make_mesh(MeshConfig(), jax.devices()[:1]), batches)
    np.testing.assert_allclose(losses_on(config, make_mesh(config.mesh), batches), alone, rtol=2e-5)


def test_rounded_products_are_for_training_alone(config):
    batches = [jax.device_get(parts_of(config, t)) for t in range(3)]
    mesh, rounding = make_mesh(config.mesh), dataclasses.replace(config, products="bfloat16")
    exact, close = losses_on(config, mesh, batches), losses_on(rounding, mesh, batches)
    assert close != exact
    np.testing.assert_allclose(close, exact, rtol=1e-3)
    steps = [make_steps(each, mesh) for each in (config, rounding)]
    measured = [each.validate(each.init().average, each.draw_prior(VALIDATION, 0))["loss"] for each in steps]
    assert measured[0] == measured[1]


def test_the_average_starts_short_and_follows_the_weights(config):
    steps = make_steps(config, make_mesh(config.mesh))
    state = steps.init()
    before = jax.device_get(jax.tree.leaves(state.average))
    state, _ = steps.train(state, *parts_of(config, 0))
    after = jax.device_get(jax.tree.leaves(state.params))
    # min(0.999, 1 / 10) at the first step.
    for old, new, average in zip(before, after, jax.tree.leaves(state.average), strict=True):
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-7)
    assert int(state.step) == 1


def test_every_step_has_its_own_studies_and_validation_has_others(config):
    steps = make_steps(config, make_mesh(config.mesh))
    draws = [steps.draw_prior(stream, t) for stream in (TRAINING, VALIDATION) for t in (0, 1)]
    assert len({np.asarray(draw.x_tokens).tobytes() for draw in draws}) == 4
    again = make_steps(config, make_mesh(config.mesh)).draw_prior(TRAINING, 1)
    jax.tree.map(np.testing.assert_array_equal, again, draws[1])
    other_seed = make_steps(dataclasses.replace(config, seed=1), make_mesh(config.mesh)).draw_prior(TRAINING, 0)
    assert (np.asarray(other_seed.x_tokens) != np.asarray(draws[0].x_tokens)).any()


def test_the_studies_of_several_steps_are_drawn_together_and_dealt_out(config):
    one = make_steps(dataclasses.replace(config, corpus_fraction=0.0, batch_size=4), make_mesh(config.mesh))
    two = dataclasses.replace(config, corpus_fraction=0.0, batch_size=2, prior_steps=2)
    steps = make_steps(two, make_mesh(config.mesh))
    # A run that is resumed within a block goes on with the studies that it would have had.
    odd = steps.draw_prior(TRAINING, 3)
    parts = [steps.draw_prior(TRAINING, t) for t in range(4)]
    jax.tree.map(np.testing.assert_array_equal, odd, parts[3])
    for block in range(2):
        whole = jax.device_get(one.draw_prior(TRAINING, block))
        both = jax.tree.map(lambda *leaves: np.concatenate(leaves), *jax.device_get(parts[2 * block : 2 * block + 2]))
        jax.tree.map(np.testing.assert_array_equal, whole, both)


def test_a_batch_is_the_studies_of_both_parts(config):
    prior, corpus = parts_of(config, 0)
    batch = join(prior, corpus)
    assert batch.y_tokens.shape[0] == 4
    np.testing.assert_array_equal(batch.y_tokens[2:], corpus.y_tokens)
    assert join(None, corpus) is corpus
    with pytest.raises(ValueError, match="needs studies"):
        join(None, None)


def test_without_the_prior_nothing_is_drawn(config):
    steps = make_steps(dataclasses.replace(config, corpus_fraction=1.0), make_mesh(config.mesh))
    assert steps.draw_prior(TRAINING, 0) is None


def test_density_is_nats_above_uniform_of_the_true_bins(config):
    steps = make_steps(config, make_mesh(config.mesh))
    batch = steps.draw_prior(TRAINING, 3)
    uniform = Logits(jnp.zeros((*batch.y_tokens.shape, 1004)), jnp.zeros((1,)))
    losses = Loss(*map(jnp.float32, (1.5, 2.0, 3.0, 4.0, 5.0)))
    metrics = jax.device_get(measure(uniform, losses, batch))
    assert metrics["function_density"] == pytest.approx(0.0, abs=1e-3)
    certain = jax.nn.one_hot(batch.y_tokens, 1004) * 100.0
    metrics = jax.device_get(measure(uniform._replace(function=certain), losses, batch))
    numbers = np.asarray(batch.function_weights) * (np.asarray(batch.y_tokens) < 1000)
    assert metrics["function_density_weight"] == numbers.sum() > 0
    assert metrics["function_density"] / numbers.sum() == pytest.approx(math.log(1000), rel=1e-4)
    assert metrics["policy_loss"] == 8.0
    assert metrics["function_loss"] == 15.0
    trials, slots = np.asarray(batch.trial_mask).sum(1), (np.asarray(batch.slot_kinds) > 0).sum(1)
    assert metrics["tokens"] == (trials * (slots + 3)).sum()


@with_and_without_experts
def test_parts_and_recomputation_change_no_loss(config, experts):
    config = given(config, experts)
    batches = [jax.device_get(parts_of(config, t)) for t in range(3)]
    mesh = make_mesh(config.mesh)
    runs = []
    for changes in ({}, {"accumulate": 2}, {"accumulate": 2, "remat": True}):
        steps = make_steps(dataclasses.replace(config, **changes), mesh)
        state, seen = steps.init(), []
        for prior, corpus in batches:
            # Most of the weight in one part of the two: a mean of the parts' means would be wrong.
            corpus = corpus._replace(function_weights=corpus.function_weights * np.array([[9.0], [1.0]]))
            state, metrics = steps.train(state, *jax.device_put((prior, corpus), part_sharding(mesh, 2)))
            seen.append(jax.device_get(metrics))
        runs.append(seen)
    for other in runs[1:]:
        for whole, parts in zip(runs[0], other, strict=True):
            assert whole.keys() == parts.keys()
            for name in whole:
                np.testing.assert_allclose(parts[name], whole[name], rtol=2e-4, err_msg=name)


def test_a_step_without_a_finite_gradient_changes_no_weight(config):
    steps = make_steps(config, make_mesh(config.mesh))
    state, (prior, corpus) = steps.init(), parts_of(config, 0)
    state, metrics = steps.train(state, prior, corpus)
    assert metrics["skipped_steps"] == 0
    before = jax.device_get((state.params, state.optimizer))
    heavy = np.where(np.asarray(corpus.function_weights) > 0, np.inf, 0.0).astype(np.float32)
    state, metrics = steps.train(state, prior, corpus._replace(function_weights=heavy))
    assert metrics["skipped_steps"] == 1
    assert metrics["gradient_norm"] == 0
    assert state.step == 2
    jax.tree.map(np.testing.assert_array_equal, jax.device_get((state.params, state.optimizer)), before)


def test_the_step_consumes_its_state(config):
    steps = make_steps(config, make_mesh(config.mesh))
    state = steps.init()
    following, _ = steps.train(state, *parts_of(config, 0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(following))


def test_bfloat16_descends(config):
    model = dataclasses.replace(config.model, dtype="bfloat16")
    config = dataclasses.replace(config, model=model, optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2))
    steps = make_steps(config, make_mesh(config.mesh))
    state, parts = steps.init(), parts_of(config, 0)
    losses = []
    for _ in range(12):
        state, metrics = steps.train(state, *parts)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.3
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.params, state.average)))
