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
from optformer.train.transfer import WIDTHS

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


def test_a_linear_decay_reaches_the_same_floor_by_a_line():
    schedule = learning_rate(OptimizerConfig(learning_rate=2.0, warmup_steps=4, final_fraction=0.1, decay="linear"), 24)
    rates = np.array([float(schedule(t)) for t in range(3, 25)])
    assert rates[:2] == pytest.approx([2.0, 2.0])
    np.testing.assert_allclose(np.diff(rates[1:]), -1.8 / 20, rtol=1e-4)
    assert rates[-1] == pytest.approx(0.2)


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


WIDE = dataclasses.replace(ModelConfig.tiny(), **{name: 4 * getattr(ModelConfig.tiny(), name) for name in WIDTHS})
WIDE = dataclasses.replace(WIDE, head_width=16, decoder_layers=1)


def test_rates_of_the_same_widths_are_as_they_are(params):
    plain = OptimizerConfig(**FIRST_STEP)
    gradient = random_gradient(params)
    before = first_update(plain, params, gradient)
    after = first_update(dataclasses.replace(plain, measured_on="tiny"), params, gradient)
    for path in before:
        np.testing.assert_array_equal(before[path], after[path])


@pytest.mark.parametrize("matrices", ["muon", "adamw"])
def test_an_update_changes_what_a_layer_puts_out_by_as_much_at_any_width(matrices):
    """Outputs' root mean square, for inputs of size 1 along the gradient that updates follow, as the rule promises."""
    config = OptimizerConfig(matrices=matrices, measured_on="tiny", weight_decay=0.0, **FIRST_STEP)

    def change(model_config, path, axes):
        model = build_model(model_config, seed=0)
        params = nnx.state(model, nnx.Param)
        rng = np.random.default_rng(0)
        directions = {}

        def aligned(tree_path, leaf):
            key = tuple(entry.key for entry in tree_path if isinstance(entry, jax.tree_util.DictKey))
            if key != path:
                return jnp.zeros_like(leaf)
            rows = rng.choice([-1.0, 1.0], leaf.shape[:axes])
            directions[path] = rows
            return jnp.asarray(
                rows.reshape(*rows.shape, *[1] * (leaf.ndim - axes)) * rng.choice([-1, 1], leaf.shape[axes:])
            )

        gradient = jax.tree_util.tree_map_with_path(aligned, params)
        optimizer = make_optimizer(config, 10, model)
        update = optimizer.update(gradient, optimizer.init(params), params)[0]
        found = dict(nnx.to_flat_state(update))[path].get_value()
        put_out = np.tensordot(directions[path], np.asarray(found), axes)
        return np.sqrt(np.mean(np.square(put_out)))

    for path, axes in (
        (("blocks", 0, "feed_forward", "down", "kernel"), 1),
        (("blocks", 0, "self_out", "kernel"), 2),
        (("function_head", "free", "kernel"), 1),
        (("values", "tokens", "numeric", "kernel"), 1),
    ):
        np.testing.assert_allclose(
            change(WIDE, path, axes), change(ModelConfig.tiny(), path, axes), rtol=0.02, err_msg=str(path)
        )


def test_decay_of_weights_does_not_depend_on_the_width():
    config = OptimizerConfig(measured_on="tiny", weight_decay=0.5, **FIRST_STEP)
    params = nnx.state(build_model(WIDE, seed=0), nnx.Param)
    optimizer = make_optimizer(config, 10, abstract_model(WIDE))
    update = dict(
        nnx.to_flat_state(optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0])
    )
    for path, rate in ((("blocks", 0, "self_qkv", "kernel"), 0.02), (("function_head", "free", "kernel"), 2e-3)):
        weights = dict(nnx.to_flat_state(params))[path].get_value()
        np.testing.assert_allclose(update[path].get_value(), -0.5 * rate * np.asarray(weights), rtol=1e-5)
