"""Memory told before compilation, against what placement gives, and for the largest model against XLA's count."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from optformer.model import ModelConfig
from optformer.train.config import TrainConfig
from optformer.train.memory import estimate
from optformer.train.mesh import AXES, make_mesh
from optformer.train.step import make_steps

pytestmark = pytest.mark.integration

SCALE = Path(__file__).parents[2] / "benchmarks" / "scale.py"


def on(*sizes: int) -> AbstractMesh:
    return AbstractMesh(sizes, AXES)


def test_state_is_counted_as_it_is_placed(config):
    mesh = make_mesh(config.mesh)
    state = make_steps(config, mesh).init()
    expected = estimate(config, mesh)
    for counted, leaves in zip(expected[:3], (state.params, state.optimizer, state.average), strict=True):
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(leaves))
        assert counted == held
    assert expected.gradient == expected.parameters
    assert expected.gathered == 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert estimate(config, on(2, 1, 1)).gathered == 0
    assert expected.total == expected.state + expected.gradient + expected.gathered + expected.activations


def test_activations_go_down_with_devices_parts_and_recomputation(config):
    whole = estimate(config, on(1, 1, 1)).activations
    assert estimate(config, on(2, 1, 1)).activations == pytest.approx(whole / 2, rel=0.02)
    parts = estimate(dataclasses.replace(config, accumulate=2), on(1, 1, 1))
    assert parts.activations == pytest.approx(whole / 2, rel=0.02)
    assert parts.gradient == 2 * parts.parameters
    again = dataclasses.replace(config, remat=True)
    assert estimate(again, on(1, 1, 1)).activations < whole / 5


def test_the_paper_model_is_split_over_eight_devices():
    config = TrainConfig(model=dataclasses.replace(ModelConfig.paper(), encoder_layers=1, decoder_layers=1), remat=True)
    alone, split = (estimate(config, on(*sizes)) for sizes in ((1, 1, 1), (1, 4, 2)))
    assert split.state == pytest.approx(alone.state / 8, rel=0.01)


@pytest.mark.slow
def test_the_paper_model_compiles_for_four_by_two_devices_in_the_memory_estimated():
    command = [sys.executable, str(SCALE), "--size", "paper", "--mesh", "1x4x2", "--batch", "8", "--remat", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["parameters"] == 249_150_720
    state = sum(seen[f"estimated_{part}_bytes"] for part in ("parameters", "optimizer", "average"))
    assert seen["compiled_arguments_bytes"] == pytest.approx(state, rel=0.01)
    assert seen["compiled_donated_bytes"] == pytest.approx(state, rel=0.01)
    assert seen["estimated_total_bytes"] / 2 < seen["compiled_total_bytes"] < 2 * seen["estimated_total_bytes"]
