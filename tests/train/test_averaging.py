"""The mean of a checkpoint and of what it was trained into."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optformer.cli import main
from optformer.model import build_model, load_checkpoint, save_checkpoint
from optformer.model.checkpoint import CheckpointError
from optformer.train.averaging import average

pytestmark = pytest.mark.integration


def weights_of(model):
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.fixture
def two(config, tmp_path):
    """Folders of a model and of the same with a header-reading policy, whose policy alone has moved."""
    recalling = dataclasses.replace(config.model, policy_recall=True)
    before = build_model(recalling, seed=0)
    after = build_model(dataclasses.replace(recalling, policy_header=True), seed=5)
    known = dict(nnx.to_flat_state(nnx.state(before, nnx.Param)))
    moved = [
        (
            path,
            leaf if path not in known else known[path].replace(known[path].get_value() + (0.5 * ("slot" in path[0]))),
        )
        for path, leaf in nnx.to_flat_state(nnx.state(after, nnx.Param))
    ]
    nnx.update(after, nnx.from_flat_state(moved))
    save_checkpoint(tmp_path / "before", before, {"name": "mine", "date": "2026-01-02", "metrics": {"loss": 3.0}})
    save_checkpoint(tmp_path / "after", after, {"name": "mine", "steps": 7, "metrics": {"loss": 2.0}})
    return tmp_path / "before", tmp_path / "after", weights_of(before), weights_of(after)


def test_common_weights_are_averaged_equal_ones_stay_and_new_ones_are_taken(two, tmp_path, capsys):
    first, last, before, after = two
    command = ["checkpoint", "average", str(first), str(last), "--out", str(tmp_path / "mean"), "--share", "0.7"]
    assert main([*command, "--dtype", "float32"]) == 0
    assert "70% of the weights of" in capsys.readouterr().out
    model, card = load_checkpoint(tmp_path / "mean")
    mean = weights_of(model)
    assert mean.keys() == after.keys()
    assert len(mean) > len(before)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert moved != set(before)
    for name, value in mean.items():
        if name in moved:
            np.testing.assert_allclose(value, 0.3 * before[name] + 0.7 * after[name], rtol=1e-5, atol=1e-6)
        else:
            assert jnp.array_equal(value, after[name]), name
    # The scores of the trained weights are not those of the mean.
    assert card == {
        "name": "mean",
        "steps": 7,
        "average": {"share": 0.7, "with": {"name": "mine", "date": "2026-01-02"}},
    }


def test_models_that_differ_in_more_than_a_part_and_shares_beyond_the_line_are_refused(two, config, tmp_path, capsys):
    first, last, *_ = two
    with pytest.raises(CheckpointError, match="was not trained from"):
        average(last, first, 0.5)
    other = build_model(dataclasses.replace(config.model, slot_feed_forward=24), seed=0)
    save_checkpoint(tmp_path / "other", other, {})
    with pytest.raises(CheckpointError, match="was not trained from"):
        average(first, tmp_path / "other", 0.5)
    command = ["checkpoint", "average", str(first), str(last), "--out", str(tmp_path / "m"), "--share"]
    for share in ("0", "1", "nan"):
        assert main([*command, share]) == 2
        assert "must be above 0 and below 1" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
