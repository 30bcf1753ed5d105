"""A larger model that begins as a trained smaller one."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from optformer.model import build_model, load_checkpoint, save_checkpoint
from optformer.model.layers import normal
from optformer.train.averaging import average
from optformer.train.config import ConfigError
from optformer.train.growth import grow, is_growth
from optformer.train.initial import with_initial_model
from optformer.train.mesh import make_mesh
from optformer.train.step import TRAINING, make_steps

pytestmark = pytest.mark.integration


@pytest.fixture
def small(config):
    """Sizes of a model of two layers."""
    return dataclasses.replace(config.model, decoder_layers=2)


@pytest.fixture
def batch(config):
    return make_steps(config, make_mesh(config.mesh)).draw_prior(TRAINING, 0)


def stirred(config, seed=0):
    """A model none of whose weights is zero, as after training."""
    model = build_model(config, seed=seed)
    rng = np.random.default_rng(seed)
    state = [
        (path, leaf.replace(leaf.get_value() + normal(rng, leaf.get_value().shape, 0.02)[...]))
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    ]
    nnx.update(model, nnx.from_flat_state(state))
    return model


def weights_of(model):
    return {path: np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.parametrize("layers", [3, 5])
def test_more_layers_do_not_change_outputs(small, batch, layers):
    model = stirred(small)
    deeper = grow(model, dataclasses.replace(small, decoder_layers=layers))
    before, after = nnx.jit(model)(batch), nnx.jit(deeper)(batch)
    np.testing.assert_allclose(after.function, before.function, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after.policy, before.policy, rtol=1e-5, atol=1e-5)
    # New layers are spread, and each is a copy of the one before but for its outputs.
    found, passed_on = weights_of(deeper), 0
    for index in range(layers):
        is_new = not found["blocks", index, "self_out", "kernel"].any()
        passed_on += is_new
        if is_new:
            for part in ("cross_out", "feed_forward"):
                down = ("down",) if part == "feed_forward" else ()
                assert not found[("blocks", index, part, *down, "kernel")].any()
            here, earlier = (found["blocks", at, "self_qkv", "kernel"] for at in (index, index - 1))
            np.testing.assert_array_equal(here, earlier)
    assert passed_on == layers - small.decoder_layers
    assert found["blocks", 0, "self_out", "kernel"].any()


def test_old_experts_keep_their_predictions_and_shares(small, batch):
    two = dataclasses.replace(small, experts=2)
    model = stirred(two)
    more = grow(model, dataclasses.replace(two, experts=4))
    before, after = nnx.jit(model)(batch).mixture, nnx.jit(more)(batch).mixture
    for old, new in ((before.mean, after.mean), (before.deviation, after.deviation)):
        np.testing.assert_allclose(new[..., :2], old, rtol=1e-4, atol=1e-4)
    # New experts are small, and the old ones keep their proportions to the decoder and to each other, up to what the
    # features of the new evidence add.
    shares = np.exp(after.log_shares)
    assert shares[..., 3:].sum(-1).max() < 0.05
    np.testing.assert_allclose(
        after.log_shares[..., 1:3] - after.log_shares[..., :1],
        before.log_shares[..., 1:] - before.log_shares[..., :1],
        atol=0.1,
    )


def test_what_is_no_growth_is_refused(small):
    model = build_model(small, seed=0)
    assert grow(model, small) is model
    fewer, wider = (dataclasses.replace(small, **change) for change in ({"decoder_layers": 1}, {"width": 64}))
    for other in (fewer, wider):
        assert not is_growth(small, other)
        with pytest.raises(ValueError, match="differs from the trained one"):
            grow(model, other)
    four = dataclasses.replace(small, experts=4)
    assert is_growth(small, four)
    assert not is_growth(four, dataclasses.replace(four, experts=2))


def test_init_asks_for_more_layers(config, small, tmp_path):
    save_checkpoint(tmp_path / "start", build_model(small, seed=3), {"name": "start"})
    asked = dataclasses.replace(config, init=str(tmp_path / "start"))
    deeper = dataclasses.replace(small, decoder_layers=small.decoder_layers + 1)
    assert with_initial_model(dataclasses.replace(asked, model=deeper)).model == deeper
    again = with_initial_model(dataclasses.replace(asked, model=deeper))
    assert with_initial_model(again) == again
    shallower = dataclasses.replace(small, decoder_layers=1)
    with pytest.raises(ConfigError, match="determines the model"):
        with_initial_model(dataclasses.replace(asked, model=shallower))


def test_the_mean_with_a_larger_model_is_that_with_the_grown_one(small, tmp_path):
    before = stirred(small, seed=1)
    deeper = dataclasses.replace(small, decoder_layers=small.decoder_layers + 1)
    trained = stirred(deeper, seed=2)
    save_checkpoint(tmp_path / "small", before, {"name": "small"}, dtype="float32")
    save_checkpoint(tmp_path / "trained", trained, {"name": "trained"}, dtype="float32")
    mean = weights_of(average(tmp_path / "small", tmp_path / "trained", 0.25)[0])
    start = weights_of(grow(load_checkpoint(tmp_path / "small")[0], deeper))
    for path, value in weights_of(trained).items():
        np.testing.assert_allclose(mean[path], 0.75 * start[path] + 0.25 * value, rtol=1e-5, atol=1e-6)
