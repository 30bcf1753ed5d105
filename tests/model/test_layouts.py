"""Properties that every layout has: cached = uncached, causality, order-freedom, padding, legality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optformer.model import Logits
from optformer.model.interface import batched_legality
from optformer.serialization import tokens
from optformer.serialization.batch import Legality, StudyBatch

pytestmark = pytest.mark.integration

LAYOUTS = ["pooled", "recall", "experts", "flat", "plain"]
layouts = pytest.mark.parametrize("layout", LAYOUTS)
order_freedom = pytest.mark.parametrize("order_free", [False, True])


def used(batch: StudyBatch) -> np.ndarray:
    """bool [B, D]: slots that are no padding."""
    return batch.slot_kinds != tokens.NO_SLOT


def assert_close(actual, expected, mask=None):
    actual, expected = np.asarray(actual), np.asarray(expected)
    if mask is not None:
        actual, expected = actual[mask], expected[mask]
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def decoder_columns(logits: Logits) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(logits.function)[..., : tokens.NUM_OUTPUTS], np.asarray(logits.policy)[..., : tokens.NUM_OUTPUTS]


@layouts
@order_freedom
def test_cached_equals_uncached(models, run, layout, order_free):
    """Padding is in both studies' trials and text, and in the second study's slots."""
    model, batch = models[layout], run.study(0, order_free=order_free)
    function, policy = decoder_columns(run.forward(model, batch))
    for trials in (3, 5):
        history = run.encode(model, run.known(batch, trials))
        assert history.length.tolist() == [trials, trials]
        candidates = batch.x_tokens[:, trials:][:, :2]
        assert_close(run.function(model, history, candidates)[:, 0], function[:, trials])
        actual = np.asarray(run.policy(model, history, candidates))[:, 0]
        assert_close(actual, policy[:, trials], mask=used(batch))


@layouts
def test_candidates_do_not_see_each_other(models, run, layout):
    model, batch = models[layout], run.study(1)
    history = run.encode(model, run.known(batch, 4))
    pair = batch.x_tokens[:, 4:6]
    swapped = pair[:, ::-1]
    assert_close(run.function(model, history, swapped)[:, ::-1], run.function(model, history, pair))
    assert np.abs(np.diff(run.function(model, history, pair), axis=1)).max() > 1e-4


@layouts
def test_an_empty_history_predicts(models, run, layout):
    model, batch = models[layout], run.study(2)._replace(prefix_length=np.zeros(2, np.int32))
    function, policy = decoder_columns(run.forward(model, batch))
    history = run.encode(model, run.known(batch, 0))
    assert_close(run.function(model, history, batch.x_tokens[:, :2])[:, 0], function[:, 0])
    actual = np.asarray(run.policy(model, history, batch.x_tokens[:, :2]))[:, 0]
    assert_close(actual, policy[:, 0], mask=used(batch))


@layouts
@order_freedom
def test_no_position_sees_its_own_or_a_later_objective(models, run, layout, order_free):
    model, batch = models[layout], run.study(3, order_free=order_free)
    function, policy = decoder_columns(run.forward(model, batch))
    # Inside the prefix of an order-free study weights are 0, and of any study with experts those of objectives are.
    first = 3 if order_free or layout == "experts" else 0
    for trial in range(first, batch.y_tokens.shape[1]):
        y, x = batch.y_tokens.copy(), batch.x_tokens.copy()
        y[:, trial:] = (y[:, trial:] + 311) % tokens.NUM_LEVELS
        x[:, trial + 1 :] = (x[:, trial + 1 :] + 1) % np.maximum(batch.slot_levels, 1)[:, None]
        changed_function, changed_policy = decoder_columns(run.forward(model, batch._replace(x_tokens=x, y_tokens=y)))
        assert_close(changed_function[:, first : trial + 1], function[:, first : trial + 1])
        visible = np.broadcast_to(used(batch)[:, None], x.shape)[:, first : trial + 1]
        assert_close(changed_policy[:, first : trial + 1], policy[:, first : trial + 1], mask=visible)
        if trial + 1 < y.shape[1]:
            assert np.abs(changed_function[:, trial + 1] - function[:, trial + 1]).max(axis=-1).min() > 1e-5


@layouts
def test_no_parameter_sees_itself_or_a_later_one(models, run, layout):
    model, batch = models[layout], run.study(4)
    _, policy = decoder_columns(run.forward(model, batch))
    x = batch.x_tokens.copy()
    x[:, 5, 2:] = (x[:, 5, 2:] + 1) % np.maximum(batch.slot_levels, 1)[:, 2:]
    _, changed = decoder_columns(run.forward(model, batch._replace(x_tokens=x)))
    assert_close(changed[:, 5, :3], policy[:, 5, :3])
    assert np.abs(changed[0, 5, 3] - policy[0, 5, 3]).max() > 1e-5


@layouts
def test_order_free_predictions_do_not_depend_on_the_order_of_the_history(models, run, layout):
    model, batch = models[layout], run.study(5, order_free=True)
    order = np.asarray([3, 0, 4, 1, 2, 5, 6])
    shuffled = batch._replace(x_tokens=batch.x_tokens[:, order], y_tokens=batch.y_tokens[:, order])
    candidates = batch.x_tokens[:, 5:]
    for order_free, expected in ((True, True), (False, False)):
        flag = np.full(2, order_free)
        outputs = []
        for study in (batch, shuffled):
            study = run.known(study, 5)._replace(prefix_length=np.full(2, 5, np.int32), order_free=flag)
            outputs.append(np.asarray(run.function(model, run.encode(model, study), candidates)))
        assert np.allclose(*outputs, atol=1e-5) == expected
        if expected:
            assert_close(*outputs)


@layouts
def test_trials_after_an_order_free_prefix_see_all_of_it(models, run, layout):
    """Predictions after the prefix are those of the shuffled study, in training as in inference."""
    model, batch = models[layout], run.study(6, order_free=True)
    order = np.asarray([2, 0, 1, 3, 4, 5, 6])
    shuffled = batch._replace(x_tokens=batch.x_tokens[:, order], y_tokens=batch.y_tokens[:, order])
    function, _ = decoder_columns(run.forward(model, batch))
    changed, _ = decoder_columns(run.forward(model, shuffled))
    assert_close(changed[:, 3:], function[:, 3:])


@layouts
@order_freedom
def test_more_padding_changes_nothing(models, run, layout, order_free):
    model, batch = models[layout], run.study(7, order_free=order_free)
    function, policy = decoder_columns(run.forward(model, batch))

    def pad(values: np.ndarray, axes: dict[int, int], fill: int | bool) -> np.ndarray:
        widths = [(0, axes.get(axis, 0)) for axis in range(values.ndim)]
        return np.pad(values, widths, constant_values=fill)

    padded = batch._replace(
        text_tokens=pad(batch.text_tokens, {1: 3}, 9),
        text_segments=pad(batch.text_segments, {1: 3}, -1),
        text_positions=pad(batch.text_positions, {1: 3}, 1),
        slot_kinds=pad(batch.slot_kinds, {1: 2}, tokens.NO_SLOT),
        slot_levels=pad(batch.slot_levels, {1: 2}, 0),
        slot_identities=pad(batch.slot_identities, {1: 2}, 63),
        x_tokens=pad(batch.x_tokens, {1: 2, 2: 2}, 5),
        y_tokens=pad(batch.y_tokens, {1: 2}, 5),
        trial_mask=pad(batch.trial_mask, {1: 2}, False),
        function_weights=pad(batch.function_weights, {1: 2}, 0),
        policy_weights=pad(batch.policy_weights, {2: 2}, 0),
    )
    padded_function, padded_policy = decoder_columns(run.forward(model, padded))
    assert_close(padded_function[:, :7], function)
    mask = np.broadcast_to(used(batch)[:, None], batch.x_tokens.shape)
    assert_close(padded_policy[:, :, :4], policy, mask=mask)


@layouts
def test_impossible_outputs_are_masked(models, run, layout):
    model, batch = models[layout], run.study(8)
    function, policy = decoder_columns(run.forward(model, batch))
    assert np.all(function[..., [tokens.PENDING, tokens.MISSING, tokens.INACTIVE]] <= -1e8)
    assert np.all(function[..., : tokens.INFEASIBLE + 1] > -1e3)
    for study, slot in zip(*np.nonzero(used(batch)), strict=True):
        levels = batch.slot_levels[study, slot]
        assert np.all(policy[study, :, slot, levels:] <= -1e8)
        assert np.all(policy[study, :, slot, :levels] > -1e3)


@layouts
def test_gradients_reach_every_parameter_and_are_finite(models, run, layout):
    """All statuses occur as inputs; the study of padding only contributes nothing."""
    batch = run.study(9)
    x, y = batch.x_tokens.copy(), batch.y_tokens.copy()
    x[0, 2, 1], x[0, 3, 2], y[1, 2], y[1, 3] = tokens.INACTIVE, tokens.MISSING, tokens.MISSING, tokens.PENDING
    weights = batch.policy_weights * (x < tokens.NUM_LEVELS)
    function_weights = batch.function_weights * (y <= tokens.INFEASIBLE)
    batch = batch._replace(
        x_tokens=x, y_tokens=y, policy_weights=weights, function_weights=function_weights.astype(np.float32)
    )
    (value, _), gradient = run.gradient(models[layout], batch)
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)
        assert np.any(np.asarray(leaf) != 0), jax.tree_util.keystr(path)
    empty = batch._replace(
        trial_mask=np.zeros_like(batch.trial_mask),
        text_segments=np.full_like(batch.text_segments, -1),
        slot_kinds=np.zeros_like(batch.slot_kinds),
        slot_levels=np.zeros_like(batch.slot_levels),
        function_weights=np.zeros_like(batch.function_weights),
        policy_weights=np.zeros_like(batch.policy_weights),
    )
    (value, _), gradient = run.gradient(models[layout], empty)
    assert value == 0
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


def conditional(batch: StudyBatch) -> Legality:
    """Both studies: slot 2 is active for value 0 of slot 1 (the first study's categorical), slot 3 for odd slot 2."""
    active_when = np.ones((2, 4, tokens.NUM_LEVELS), bool)
    active_when[:, 2, 1:] = False
    active_when[:, 3, ::2] = False
    return Legality(batch.slot_levels, np.asarray([[-1, -1, 1, 2]] * 2, np.int32), active_when)


DRAWS = 800


@layouts
def test_samples_are_legal(models, run, layout):
    model, batch = models[layout], run.study(10)
    history = run.encode(model, run.known(batch, 4))
    legality = conditional(batch)
    drawn, again, other = (
        np.asarray(run.sample(model, history, legality, jax.random.key(seed), DRAWS))[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(drawn, again)
    assert np.any(drawn != other)
    assert np.all((drawn[:, :2] >= 0) & (drawn[:, :2] < batch.slot_levels[0, :2]))
    off = drawn[:, 1] != 0
    assert 0 < off.sum() < DRAWS
    assert np.all((drawn[:, 2] == tokens.INACTIVE) == off)
    assert np.all(drawn[~off, 2] < batch.slot_levels[0, 2])
    child_on = ~off & (drawn[:, 2] % 2 == 1)
    assert np.all((drawn[:, 3] == tokens.INACTIVE) == ~child_on)


@layouts
def test_sampling_follows_the_policy(models, run, layout):
    """As often as the uncached logits say, of a model that is sure enough for another history to show."""
    graph, state = nnx.split(models[layout])
    model, batch = nnx.merge(graph, jax.tree.map(jnp.array, state)), run.study(11)
    norm = model.norm if layout in ("flat", "plain") else model.policy.norm
    norm.scale.set_value(20 * norm.scale[...])
    history = run.encode(model, run.known(batch, 4))
    legality = conditional(batch)._replace(parents=np.full((2, 4), -1, np.int32))
    drawn = np.asarray(run.sample(model, history, legality, jax.random.key(0), DRAWS))
    assert np.all(drawn[1, :, 3] == tokens.PAD)
    log_p = np.asarray(jax.nn.log_softmax(run.policy(model, history, drawn)), np.float64)
    # The log-probability of what is drawn has the mean and the spread that its distribution says.
    chosen = np.take_along_axis(log_p, np.minimum(drawn, tokens.NUM_LEVELS)[..., None], axis=-1)[..., 0]
    mean = (np.exp(log_p) * log_p).sum(axis=-1)
    variance = (np.exp(log_p) * log_p**2).sum(axis=-1) - mean**2
    error, mask = np.sqrt(variance.mean(axis=1) / DRAWS), used(batch)
    assert error[mask].min() > 0.005, "else the test would see nothing"
    assert np.all(np.abs((chosen - mean).mean(axis=1)) < 4 * error, where=mask)
    # Slot 0 is continuous, slot 1 categorical: its frequencies are its softmax, averaged over what slot 0 was.
    levels = batch.slot_levels[0, 1]
    frequencies = np.bincount(drawn[0, :, 1], minlength=levels) / DRAWS
    np.testing.assert_allclose(frequencies, np.exp(log_p[0, :, 1, :levels]).mean(axis=0), atol=0.06)


def test_one_legality_for_all_studies(models, run):
    """Without an axis of studies, and without the padding of slots."""
    batch = run.study(10)
    padded = batched_legality(Legality(*(field[0, :3] for field in conditional(batch))), 2, 4)
    assert padded.levels.tolist() == [[*batch.slot_levels[0, :3], 0]] * 2
    assert padded.parents.tolist() == [[-1, -1, 1, -1]] * 2
    assert padded.active_when.shape == (2, 4, tokens.NUM_LEVELS)


def test_wrong_shapes_are_named(models, run):
    model, batch = models["pooled"], run.study(12)
    history = run.encode(model, run.known(batch, 4))
    with pytest.raises(ValueError, match=r"shape \[2, N, 4\], not \[2, 3\]"):
        model.function_logits(history, np.zeros((2, 3), np.int32))
    wide = Legality(np.full(5, 3), np.full(5, -1), np.ones((5, tokens.NUM_LEVELS), bool))
    with pytest.raises(ValueError, match="5 slots, the encoded history only 4"):
        model.sample(history, wide, jax.random.key(0), 1)
