"""The schedule, what Muon takes and what AdamW."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optformer.model import ModelConfig, abstract_model, build_model
from optformer.train.config import OptimizerConfig
from optformer.train.optimizer import learning_rate, make_optimizer, matrix_axes

pytestmark = pytest.mark.integration

FIRST_STEP = {"warmup_steps": 0, "final_fraction": 1.0}


def test_learning_rate_rises_falls_and_ends_at_its_floor():
    schedule = learning_rate(OptimizerConfig(learning_rate=2.0, warmup_steps=4, final_fraction=0.1), steps=24)
    rates = [float(schedule(t)) for t in range(25)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[14] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[24] == pytest.approx(0.2)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert float(learning_rate(OptimizerConfig(learning_rate=2.0, warmup_steps=0), steps=1)(0)) == 2.0


@pytest.fixture(scope="module")
def params():
    return nnx.state(build_model(ModelConfig.tiny(), seed=0), nnx.Param)


def first_update(config, params, gradient):
    optimizer = make_optimizer(config, 10, abstract_model(ModelConfig.tiny()))
    update = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])(gradient, params)
    return {tuple(path[:-1]): np.asarray(leaf.get_value()) for path, leaf in _variables(update)}


def _variables(state):
    return [((*path, None), variable) for path, variable in nnx.to_flat_state(state)]


def random_gradient(params, scale=1.0):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.standard_normal(p.shape), jnp.float32), params)


def test_weight_decay_is_on_arrays_of_two_axes_only(params):
    config = OptimizerConfig(learning_rate=0.1, matrix_learning_rate=0.2, weight_decay=0.5, **FIRST_STEP)
    update = first_update(config, params, jax.tree.map(jnp.zeros_like, params))
    table, kernel = ("text", "embedding"), ("blocks", 0, "self_qkv", "kernel")
    weights = {path[:-1]: np.asarray(variable.get_value()) for path, variable in _variables(params)}
    np.testing.assert_allclose(update[table], -0.05 * weights[table], rtol=1e-5)
    np.testing.assert_allclose(update[kernel], -0.1 * weights[kernel], rtol=1e-5)
    assert np.all(update[("norm", "scale")] == 0)


@pytest.mark.parametrize("matrices", ["muon", "adamw"])
def test_experts_have_a_rate_of_their_own(matrices):
    model = build_model(dataclasses.replace(ModelConfig.tiny(), experts=2), seed=0)
    params = nnx.state(model, nnx.Param)
    gradient, updates = random_gradient(params), []
    for rate in (1.0, 10.0):
        config = OptimizerConfig(matrices=matrices, experts_rate=rate, **FIRST_STEP)
        optimizer = make_optimizer(config, 10, model)
        update = jax.jit(lambda g, p, o=optimizer: o.update(g, o.init(p), p)[0])(gradient, params)
        updates.append(dict(nnx.to_flat_state(update)))
    plain, faster = updates
    for path, update in plain.items():
        factor = 10.0 if path[0] == "experts" else 1.0
        np.testing.assert_allclose(faster[path].get_value(), factor * update.get_value(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("matrices", ["muon", "adamw"])
def test_the_gradient_is_clipped(params, matrices):
    config = OptimizerConfig(matrices=matrices, weight_decay=0.0, **FIRST_STEP)
    small, large = (first_update(config, params, random_gradient(params, scale)) for scale in (1e3, 1e6))
    for path in small:
        np.testing.assert_allclose(small[path], large[path], rtol=1e-3, atol=1e-6)


def test_muon_takes_every_map_between_hidden_states():
    model = abstract_model(ModelConfig.tiny())
    axes = matrix_axes(model)
    kernels = {path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)) if path[-1] == "kernel"}
    assert kernels - set(axes) == {("function_head", "free", "kernel"), ("policy", "head", "free", "kernel")}
    assert axes[("blocks", 0, "self_qkv", "kernel")] == ((0,), (2, 3))  # query, key and value apart
    assert axes[("blocks", 0, "cross_query", "kernel")] == ((0,), (1, 2))
    assert axes[("blocks", 1, "self_out", "kernel")] == ((0, 1), (2,))
    assert axes[("blocks", 1, "feed_forward", "up", "kernel")] == ((0,), (2,))
    assert axes[("blocks", 1, "feed_forward", "down", "kernel")] == ((0,), (1,))


def test_muon_moves_every_direction_of_a_matrix_alike(params):
    config = OptimizerConfig(matrix_learning_rate=0.05, weight_decay=0.0, **FIRST_STEP)
    update = first_update(config, params, random_gradient(params))
    qkv = update[("blocks", 0, "self_qkv", "kernel")]  # [width, 3, heads, head width]
    for part in range(3):
        matrix = qkv[:, part].reshape(qkv.shape[0], -1)
        singular = np.linalg.svd(matrix, compute_uv=False) / (0.05 * 0.2 * np.sqrt(max(matrix.shape)))
        # Newton-Schulz lifts all but the very smallest to about 1.
        assert 0.6 < np.quantile(singular, 0.1) < singular.max() < 1.3
    heads = update[("function_head", "free", "kernel")]
    np.testing.assert_allclose(np.median(np.abs(heads)), config.learning_rate, rtol=1e-3)  # AdamW's first step
