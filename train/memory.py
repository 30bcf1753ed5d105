"""Estimates the device memory of a training step, without compiling it.

Notation: P parameters, A parts of a batch (`accumulate`), b = B / (data x fsdp x A) studies of a part on one device.

State and gradient are counted exactly, from the shardings that the step uses.  Activations are the residuals that JAX
keeps of the forward pass of b studies for the backward pass, as traced, including the effect of `remat`.  XLA keeps
less where it fuses, and needs additional buffers: compare with the figure of a compiled step (`benchmarks/scale.py`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jax.typing import DTypeLike

from optformer.serialization.batch import StudyBatch, blank_batch
from optformer.train.config import TrainConfig
from optformer.train.mesh import batch_parts
from optformer.train.step import Params, make_forward, make_steps


class Memory(NamedTuple):
    """Bytes of one device.

    Attributes:
      parameters: float32, 4 P over fsdp x tensor.
      optimizer: optimizer state; AdamW's two moments take 8 P over fsdp x tensor.
      average: the running average of the weights, as `parameters`.
      gradient: as `parameters`; twice as much with gradient accumulation.
      gathered: the full weights while they are used, and their full gradient until it is sharded, 8 P; 0 if they are
        not sharded.
      activations: activations of b studies.
    """

    parameters: int
    optimizer: int
    average: int
    gradient: int
    gathered: int
    activations: int

    @property
    def state(self) -> int:
        """Bytes that stay between steps."""
        return self.parameters + self.optimizer + self.average

    @property
    def total(self) -> int:
        return sum(self)


def estimate(config: TrainConfig, mesh: Mesh | AbstractMesh) -> Memory:
    """Memory of a step of `config` on each device of `mesh`, which may be an abstract mesh."""
    state = make_steps(config, mesh).abstract_state
    parameters, optimizer, average = map(_held_bytes, (state.params, state.optimizer, state.average))
    studies = max(1, config.batch_size // (batch_parts(mesh) * config.accumulate))
    # The difference is what grows with the batch; the rest is short-lived copies of weights in another type.
    activations = kept_bytes(config, 2 * studies) - kept_bytes(config, studies)
    gradient = parameters * (2 if config.accumulate > 1 else 1)
    whole = sum(_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state.params))
    gathered = 2 * whole if parameters < whole else 0
    return Memory(parameters, optimizer, average, gradient, gathered, activations)


def kept_bytes(config: TrainConfig, studies: int) -> int:
    """Bytes that JAX keeps between the forward and the backward pass of a batch on one device."""
    params, _, forward = make_forward(config)
    batch = abstract_batch(config, studies)

    def kept(params: Params, batch: StudyBatch) -> Callable[[jax.Array], object]:
        return jax.vjp(lambda params: forward(params, batch)[0], params)[1]

    return sum(_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(jax.eval_shape(kept, params, batch)))


def abstract_batch(config: TrainConfig, studies: int) -> StudyBatch:
    """Shapes and types of a batch."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), blank_batch(studies, config.shape))


def _held_bytes(tree: object) -> int:
    """Largest number of bytes on one device."""
    return sum(_bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree))


def _bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * jnp.dtype(dtype).itemsize
