"""The device mesh (data, fsdp, tensor), and the shardings of batches, parameters and optimizer states.

The trainer is written for global arrays, which XLA partitions by the shardings given here.  These change where numbers
are computed, not their values.  The devices may belong to several processes: each then reads only the rows of a batch
that its own devices hold.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from optformer.serialization.batch import StudyBatch
from optformer.train.config import ConfigError, MeshConfig

AXES = ("data", "fsdp", "tensor")

_Tree = TypeVar("_Tree")


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor over all devices of all processes (or those given).

    Raises:
      ConfigError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    data = config.data
    if data == -1:
        data = max(1, len(devices) // (config.fsdp * config.tensor))
    sizes = (data, config.fsdp, config.tensor)
    if math.prod(sizes) != len(devices):
        raise ConfigError(
            f"mesh data x fsdp x tensor = {' x '.join(map(str, sizes))} needs {math.prod(sizes)} devices, "
            f"but there are {len(devices)}: set mesh.data=-1, and fsdp x tensor to a divisor of {len(devices)}"
        )
    if devices[0].platform == "tpu":
        # Uses the torus of a pod: neighbours on an axis of the mesh are physically connected.
        return Mesh(mesh_utils.create_device_mesh(sizes, devices), AXES)
    # Elsewhere, devices are listed process by process, so that the last axes, which communicate most, stay within one.
    return Mesh(np.array(devices).reshape(sizes), AXES)


def batch_parts(mesh: Mesh | AbstractMesh) -> int:
    """Number of parts that the studies of a batch are split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raises `ConfigError` if the studies of a batch, or of each of its parts, do not divide evenly."""
    parts = batch_parts(mesh)
    if batch_size % (parts * accumulate):
        times = f" x accumulate = {accumulate}" if accumulate > 1 else ""
        least = parts * accumulate
        raise ConfigError(
            f"batch_size {batch_size} does not divide over {parts} devices (mesh data x fsdp){times}: "
            f"take {least * max(1, round(batch_size / least))}, or fewer devices (mesh.data=1, mesh.fsdp=1)"
        )


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Studies over data and fsdp; everything within a study stays on one device."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def part_sharding(mesh: Mesh | AbstractMesh, studies: int) -> NamedSharding:
    """Sharding of a part of a batch: like a batch if its studies divide evenly, else replicated."""
    return batch_sharding(mesh) if studies % batch_parts(mesh) == 0 else replicated(mesh)


def deal(batch: StudyBatch, count: int, mesh: Mesh | AbstractMesh) -> StudyBatch:
    """Reshapes [B, ...] to [count, B / count, ...], with the studies distributed cyclically, so that none changes its
    device."""
    place = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))

    def dealt(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(leaf.shape[0] // count, count, *leaf.shape[1:]).swapaxes(0, 1)

    return jax.lax.with_sharding_constraint(jax.tree.map(dealt, batch), place)


def place_batch(read: Callable[[range | None], StudyBatch], mesh: Mesh, studies: int) -> StudyBatch:
    """Reads studies on the host and puts them on the devices; each process reads those of its own devices.

    Args:
      read: function that returns the studies of these rows of the batch (None: of all rows) as numpy arrays.
      mesh: the devices.
      studies: number of rows of the batch.
    """
    sharding = part_sharding(mesh, studies)
    if sharding.is_fully_addressable:
        return jax.device_put(read(None), sharding)
    rows = local_rows(sharding, studies)
    local = read(rows)

    def placed(leaf: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(studies)
            return leaf[start - rows.start : stop - rows.start]

        return jax.make_array_from_callback((studies, *leaf.shape[1:]), sharding, shard)

    return jax.tree.map(placed, local)


def local_rows(sharding: NamedSharding, studies: int) -> range:
    """Rows of a batch that the devices of this process hold: from the first to the last of them."""
    indices: Any = sharding.addressable_devices_indices_map((studies,)).values()
    held = [index[0].indices(studies)[:2] for index in indices]
    return range(min(start for start, _ in held), max(stop for _, stop in held))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh | AbstractMesh, state: _Tree) -> _Tree:
    """Placement of each array of a training state (or of its shapes).

    In an array with two or more axes, the last axis is split over `tensor` if it divides evenly, and the largest other
    axis that divides evenly is split over `fsdp`.  Everything else is replicated.
    """

    def place(leaf: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        if len(leaf.shape) < 2:
            return replicated(mesh)
        axes: list[str | None] = [None] * len(leaf.shape)
        *others, last = leaf.shape
        if mesh.shape["tensor"] > 1 and last % mesh.shape["tensor"] == 0:
            axes[-1] = "tensor"
        fitting = [size if size % mesh.shape["fsdp"] == 0 else 0 for size in others]
        if mesh.shape["fsdp"] > 1 and max(fitting):
            axes[fitting.index(max(fitting))] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(place, state)
