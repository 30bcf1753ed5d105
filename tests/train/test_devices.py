"""Eight devices in any arrangement compute what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

LOSSES = """
import dataclasses, importlib.util, json, sys
import jax, numpy as np
spec = importlib.util.spec_from_file_location("shared_config", sys.argv[1])
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
from optformer.train.config import MeshConfig
from optformer.train.mesh import make_mesh, part_sharding
from optformer.train.step import TRAINING, make_steps

config = dataclasses.replace(shared.make_config(None), corpus_fraction=0.0, batch_size=8)
config = dataclasses.replace(config, model=dataclasses.replace(config.model, experts=2))
assert jax.device_count() == 8
batches, seen = None, {}
for sizes in ((1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 4, 2)):
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    steps = make_steps(config, mesh)
    batches = batches or [jax.device_get(steps.draw_prior(TRAINING, t)) for t in range(4)]
    state, losses = steps.init(), []
    for batch in batches:
        state, metrics = steps.train(state, jax.device_put(batch, part_sharding(mesh, 8)), None)
        losses.append([float(metrics[name]) for name in ("loss", "gradient_norm")])
    held = {shard.data.size for leaf in jax.tree.leaves(state.optimizer) for shard in leaf.addressable_shards[:1]}
    seen["x".join(map(str, sizes))] = {"losses": losses, "largest": max(held)}
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen():
    flags = "--xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", LOSSES, str(Path(__file__).parent / "conftest.py")]
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["8x1x1", "2x2x2", "1x4x2"])
def test_a_mesh_of_eight_devices_has_the_losses_of_one(seen, mesh):
    np.testing.assert_allclose(seen[mesh]["losses"], seen["1x1x1"]["losses"], rtol=2e-4)


@pytest.mark.slow
def test_optimizer_state_is_split_over_fsdp_and_tensor(seen):
    whole = seen["1x1x1"]["largest"]
    assert [whole // seen[mesh]["largest"] for mesh in ("8x1x1", "2x2x2", "1x4x2")] == [1, 4, 8]
