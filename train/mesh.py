"""The device mesh (data, fsdp, tensor), and where batches, parameters and optimizer states lie on it.

The trainer is written for one array of everything; XLA splits it by the placements given here.  They change where
numbers are computed, never which.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optformer.train.config import ConfigError, MeshConfig


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor over all devices (or those given).

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
            f"and there are {len(devices)}: set mesh.data=-1 and let fsdp x tensor divide {len(devices)}"
        )
    return Mesh(np.array(devices).reshape(sizes), ("data", "fsdp", "tensor"))


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Raises `ConfigError` where the studies of a batch cannot be dealt out evenly."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ConfigError(
            f"batch_size {batch_size} does not divide over {parts} devices (mesh data x fsdp): "
            f"take {parts * max(1, round(batch_size / parts))}, or fewer devices (mesh.data=1, mesh.fsdp=1)"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Studies over data and fsdp; everything within a study stays on one device."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def part_sharding(mesh: Mesh, studies: int) -> NamedSharding:
    """Of a part of a batch: split like a batch where its studies can be dealt out evenly, else on every device."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return batch_sharding(mesh) if studies % parts == 0 else replicated(mesh)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Placement of each array of a training state (or of its shapes).

    Of arrays with two or more axes, the last is split over `tensor` and the one before over `fsdp`, each where it
    divides evenly; everything else is on every device.
    """

    def place(leaf: Any) -> NamedSharding:
        if len(leaf.shape) < 2:
            return replicated(mesh)
        axes: list[str | None] = [None] * len(leaf.shape)
        for position, axis in ((-1, "tensor"), (-2, "fsdp")):
            if mesh.shape[axis] > 1 and leaf.shape[position] % mesh.shape[axis] == 0:
                axes[position] = axis
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(place, state)
