"""Placement on devices: what fits, what does not, and what the message says."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from optformer.train.config import ConfigError, MeshConfig
from optformer.train.mesh import check_batch_size, make_mesh, part_sharding, state_shardings


def test_the_data_axis_takes_the_devices_that_are_left():
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 2, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshConfig(fsdp=2)).shape) == {"data": 1, "fsdp": 2, "tensor": 1}
    assert dict(make_mesh(MeshConfig(), jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("config", [MeshConfig(data=3), MeshConfig(fsdp=3), MeshConfig(data=1)])
def test_axes_that_do_not_multiply_to_the_devices(config):
    with pytest.raises(ConfigError, match="there are 2"):
        make_mesh(config)


def test_a_batch_that_cannot_be_dealt_out():
    with pytest.raises(ConfigError, match="batch_size 5 does not divide over 2 devices"):
        check_batch_size(make_mesh(MeshConfig()), 5)


def test_matrices_are_split_where_they_divide_and_vectors_never():
    state = {"matrix": jnp.zeros((4, 6)), "odd": jnp.zeros((3, 6)), "stack": jnp.zeros((5, 4, 6)), "scale": jnp.ones(4)}
    split = state_shardings(make_mesh(MeshConfig(fsdp=2)), state)
    assert split["matrix"].spec == PartitionSpec("fsdp", None)
    assert split["odd"].spec == PartitionSpec(None, None)
    assert split["stack"].spec == PartitionSpec(None, "fsdp", None)
    assert split["scale"].spec == PartitionSpec()
    assert state_shardings(make_mesh(MeshConfig(tensor=2)), state)["odd"].spec == PartitionSpec(None, "tensor")


def test_a_part_of_a_batch_is_split_only_if_even():
    mesh = make_mesh(MeshConfig())
    assert part_sharding(mesh, 4).spec == PartitionSpec(("data", "fsdp"))
    assert part_sharding(mesh, 3).spec == PartitionSpec()
