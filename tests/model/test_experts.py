"""Experts: what they may see, that they stay finite, and that their kernels are positive semi-definite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optformer.model import ModelConfig, build_model
from optformer.model.embedding import slot_context
from optformer.model.experts import OWN_SHARE
from optformer.model.gaussian_process import matern, scaled
from optformer.serialization import tokens

PREFIX = 3


@pytest.fixture(scope="module")
def read(models, run):
    """What the experts say of a batch: (known trials, prediction of each trial)."""

    def parts(model, batch):
        batch = jax.tree.map(jnp.asarray, batch)
        slots, _, _ = model._metadata(batch)
        return model.experts.read(batch, model.values(batch.x_tokens, slots), slots)

    compiled = run.compiled(parts)
    return lambda batch: compiled(models["experts"], batch)


def assert_same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("order_free", [False, True])
def test_hyperparameters_depend_on_the_prefix_alone(read, run, order_free):
    batch = run.study(0, order_free=order_free)
    before = read(batch)[0].fitted.hyperparameters
    x, y = batch.x_tokens.copy(), batch.y_tokens.copy()
    x[:, PREFIX:] = (x[:, PREFIX:] + 1) % np.maximum(batch.slot_levels, 1)[:, None]
    y[:, PREFIX:] = (y[:, PREFIX:] + 100) % tokens.NUM_LEVELS
    assert_same(read(batch._replace(x_tokens=x, y_tokens=y))[0].fitted.hyperparameters, before)
    y = batch.y_tokens.copy()
    y[:, 0] = (y[:, 0] + 400) % tokens.NUM_LEVELS
    moved = read(batch._replace(y_tokens=y))[0].fitted.hyperparameters
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(moved, before, strict=True))


def test_each_prediction_depends_on_earlier_trials_and_its_own_configuration(read, run):
    batch = run.study(1)
    _, before = read(batch)
    for trial in range(PREFIX, batch.y_tokens.shape[1]):
        x, y = batch.x_tokens.copy(), batch.y_tokens.copy()
        x[:, trial + 1 :] = (x[:, trial + 1 :] + 1) % np.maximum(batch.slot_levels, 1)[:, None]
        for changed in ((y[:, trial:] + 311) % tokens.NUM_LEVELS, tokens.INFEASIBLE, tokens.PENDING):
            y[:, trial:] = changed
            _, after = read(batch._replace(x_tokens=x, y_tokens=y))
            upto = slice(PREFIX, trial + 1)
            assert_same([part[:, upto] for part in after], [part[:, upto] for part in before])


@pytest.mark.parametrize("order_free", [False, True])
def test_the_order_of_the_prefix_changes_nothing(read, run, order_free):
    batch = run.study(2, order_free=order_free)
    order = np.asarray([2, 0, 1, 3, 4, 5, 6])
    known, before = read(batch)
    shuffled, after = read(batch._replace(x_tokens=batch.x_tokens[:, order], y_tokens=batch.y_tokens[:, order]))
    assert_same(shuffled.fitted.hyperparameters, known.fitted.hyperparameters)
    assert_same([part[:, PREFIX:] for part in after], [part[:, PREFIX:] for part in before])


def test_a_model_that_was_just_given_experts_is_nearly_what_it_was(run):
    config = dataclasses.replace(ModelConfig.tiny(), text_vocabulary=128)
    plain, batch = build_model(config, seed=3), run.study(3)
    model = build_model(dataclasses.replace(config, experts=2), seed=3)
    given = dict(nnx.to_flat_state(nnx.state(plain, nnx.Param)))
    weights = nnx.to_flat_state(nnx.state(model, nnx.Param))
    nnx.update(model, nnx.from_flat_state([(path, given.get(path, leaf)) for path, leaf in weights]))
    before, after = run.forward(plain, batch), run.forward(model, batch)
    np.testing.assert_allclose(after.mixture.logits, before.function, atol=1e-5)
    np.testing.assert_allclose(np.exp(after.mixture.log_shares[..., 0]), OWN_SHARE, rtol=1e-5)
    np.testing.assert_allclose(after.policy, before.policy, atol=1e-5)


@pytest.mark.parametrize("order_free", [False, True])
def test_extreme_studies_stay_finite(models, run, order_free):
    """Each change is made to a study of its own; losses, gradients and predictions of candidates are finite."""
    model, plain = models["experts"], run.study(4, order_free=order_free)
    x, y, trials = plain.x_tokens, plain.y_tokens, plain.y_tokens.shape[1]
    first = np.broadcast_to(x[:, :1], x.shape)
    inactive = np.where(x < tokens.NUM_LEVELS, tokens.INACTIVE, x)
    weights = np.broadcast_to(np.arange(trials) >= PREFIX, y.shape).astype(np.float32)
    changes = {
        "equal configurations": {"x_tokens": first},
        "equal configurations and objectives": {"x_tokens": first, "y_tokens": np.full_like(y, 500)},
        "a plateau": {"y_tokens": np.full_like(y, 999)},
        "the worst alone": {"y_tokens": np.zeros_like(y)},
        "all failed": {"y_tokens": np.full_like(y, tokens.INFEASIBLE)},
        "all pending": {"y_tokens": np.full_like(y, tokens.PENDING), "function_weights": 0 * weights},
        "all inactive": {"x_tokens": inactive},
        "no prefix": {"prefix_length": np.zeros(2, np.int32)},
        "no trial": {"trial_mask": np.zeros_like(plain.trial_mask), "function_weights": 0 * weights},
        "one slot": {"slot_kinds": np.where(np.arange(4)[None] == 0, plain.slot_kinds, 0)},
    }
    for name, change in changes.items():
        fields = {"function_weights": plain.function_weights * (y != tokens.PENDING)} | change
        batch = plain._replace(**{key: np.asarray(value) for key, value in fields.items()})
        (_, losses), gradient = run.gradient(model, batch)
        assert np.isfinite(losses.total), name
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)), name
        logits = run.function(model, run.encode(model, batch), x[:, :2])
        assert np.isfinite(logits).all(), name


def test_one_trial(models, run):
    batch = run.study(5)
    alone = {name: getattr(batch, name)[:, :1] for name in ("x_tokens", "y_tokens", "trial_mask", "function_weights")}
    alone |= {"policy_trials": batch.policy_trials[:, :1], "policy_weights": batch.policy_weights[:, :1]}
    batch = batch._replace(**alone)._replace(
        prefix_length=np.zeros(2, np.int32), function_weights=np.ones((2, 1), np.float32)
    )
    (_, losses), gradient = run.gradient(models["experts"], batch)
    assert np.isfinite(losses.total)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_kernels_are_positive_semi_definite(models):
    """Of ordered and categorical slots with inactive and missing values, whatever similarity was learned."""
    distances = nnx.clone(models["experts"].experts.distances)
    distances.similarity.bias.set_value(jnp.full(1, 3.0))  # categories are as similar as their vectors
    rng = np.random.default_rng(0)
    kinds = np.asarray([[tokens.CONTINUOUS, tokens.CATEGORICAL, tokens.INTEGER, tokens.CATEGORICAL]], np.int32)
    levels = np.asarray([[1000, 5, 3, 2]], np.int32)
    x = rng.integers(0, levels[:, None], (1, 60, 4))
    x[rng.random(x.shape) < 0.3] = tokens.INACTIVE
    x[rng.random(x.shape) < 0.1] = tokens.MISSING
    model = models["experts"]
    descriptor = jnp.asarray(rng.normal(size=(1, 4, model.config.width)), jnp.float32)
    modulation = jnp.zeros((1, 4, model.config.slot_width))
    batch_like = type("Slots", (), {"slot_kinds": kinds, "slot_levels": levels})
    slots = slot_context(batch_like, modulation, modulation, descriptor)
    x = jnp.asarray(x)
    points = distances.points(x, model.values(x, slots), slots)
    squared = distances(points, points, slots)
    center = np.eye(60) - 1 / 60
    for slot in range(4):
        matrix = np.asarray(squared[0, slot], np.float64)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
        np.testing.assert_array_equal(np.diagonal(matrix), 0.0)
        # A matrix of squared distances of Euclidean points, doubly centered, is -2 times one of inner products.
        assert np.linalg.eigvalsh(-0.5 * center @ matrix @ center).min() > -1e-5
    weights = jnp.asarray(rng.uniform(0.1, 20, (1, 3, 4)), jnp.float32)
    gram = np.asarray(matern(scaled(squared, weights), (1, 3, 5)), np.float64)
    assert np.linalg.eigvalsh(gram).min() > -2e-5


def test_inactive_values_are_a_distance_of_their_own_apart(models):
    distances = models["experts"].experts.distances
    model, width = models["experts"], models["experts"].config.width
    kinds, levels = np.asarray([[tokens.CONTINUOUS]], np.int32), np.asarray([[1000]], np.int32)
    batch_like = type("Slots", (), {"slot_kinds": kinds, "slot_levels": levels})
    zeros = jnp.zeros((1, 1, model.config.slot_width))
    slots = slot_context(batch_like, zeros, zeros, jnp.ones((1, 1, width)))
    x = jnp.asarray([[[0], [999], [tokens.INACTIVE], [tokens.INACTIVE], [tokens.MISSING]]])
    points = distances.points(x, model.values(x, slots), slots)
    squared = np.asarray(distances(points, points, slots))[0, 0]
    assert squared[0, 1] == 1.0
    assert squared[2, 3] == squared[2, 4] == 0.0
    assert squared[0, 2] == squared[1, 2] > 0.25


def test_numbers_stay_float32_where_the_model_computes_in_bfloat16(run):
    config = dataclasses.replace(ModelConfig.tiny(), text_vocabulary=128, experts=2, dtype="bfloat16")
    model, batch = build_model(config, seed=1), run.study(6)
    logits = run.forward(model, batch)
    history = run.encode(model, batch)
    assert all(
        leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((logits, history.known.fitted._replace(present=None)))
    )


def test_only_the_pooled_layout_has_experts():
    with pytest.raises(ValueError, match="experts are for the pooled layout only"):
        ModelConfig(layout="flat", experts=4)
    with pytest.raises(ValueError, match="must not be negative"):
        ModelConfig(experts=-1)


def test_a_history_for_the_policy_alone_has_no_fitted_experts(models, run):
    model, batch = models["experts"], run.known(run.study(0), 4)
    history = jax.jit(lambda model, batch: model.encode(batch, objective=False))(model, batch)
    assert history.known is None
    whole = run.encode(model, batch)
    candidates = batch.x_tokens[:, :2]
    np.testing.assert_array_equal(run.policy(model, history, candidates), run.policy(model, whole, candidates))
    with pytest.raises(ValueError, match="for the policy only"):
        model.function_logits(history, candidates)
