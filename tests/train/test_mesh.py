"""Placement on devices: what fits, what does not, and what the message says."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from optformer.train.config import ConfigError, MeshConfig
from optformer.train.mesh import check_batch_size, deal, local_rows, make_mesh, part_sharding, state_shardings


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


class Held:
    """The placement of 8 rows on two hosts' devices, as the second host sees it."""

    def __init__(self, *slices):
        self._slices = slices

    def addressable_devices_indices_map(self, shape):
        return dict(enumerate((part,) for part in self._slices))


def test_a_process_reads_the_rows_of_its_devices():
    assert local_rows(Held(slice(4, 6), slice(6, 8)), 8) == range(4, 8)
    assert local_rows(Held(slice(4, 8), slice(4, 8)), 8) == range(4, 8)  # the tensor axis lies within the host
    assert local_rows(Held(slice(None)), 8) == range(8)


def test_parts_of_a_batch_are_dealt_within_devices():
    mesh = make_mesh(MeshConfig())
    studies = jax.device_put(jnp.arange(8), part_sharding(mesh, 8))
    parts = jax.jit(lambda leaf: deal(leaf, 2, mesh))(studies)
    assert parts.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [shard.data.tolist() for shard in parts.addressable_shards] == [[[0, 2], [1, 3]], [[4, 6], [5, 7]]]
    with pytest.raises(ConfigError, match=r"2 devices \(mesh data x fsdp\) x accumulate = 4: take 16"):
        check_batch_size(mesh, 12, accumulate=4)
