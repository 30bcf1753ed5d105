"""What turns gradients into updates: Muon for the matrices inside the network, AdamW for all else.

Notation: G momentum of a matrix's gradient, G = U S V^T; eta learning rate; p spectral exponent.

Muon (Jordan et al. 2024) replaces G by its nearest semi-orthogonal matrix U V^T, by a few Newton-Schulz iterations, so
that every direction of a matrix learns at the same pace.  The result is scaled by 0.2 sqrt(larger side), which gives it
the size of AdamW's updates (Liu et al. 2025, eq. 4).  Tables, output heads, norms and biases are no maps between hidden
states, and stay with AdamW.

With a spectral schedule the update is U S^p V^T instead, S relative to its root mean square and p moving linearly over
the run: from positive (strong directions first) to zero or below (weak ones catch up).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from optax import contrib

from optformer.model import Model
from optformer.model.layers import Projection
from optformer.serialization.tokens import NUM_OUTPUTS
from optformer.train.config import OptimizerConfig

_UPDATE_SIZE = 0.2
_MOMENTUM = 0.95


def learning_rate(config: OptimizerConfig, steps: int) -> Callable[[Any], Any]:
    """t -> learning rate: linear warm-up to the peak, then a cosine to its floor at the last step."""

    def schedule(t: Any) -> Any:
        warm_up = (t + 1) / max(1, config.warmup_steps)
        progress = jnp.clip((t - config.warmup_steps) / max(1, steps - config.warmup_steps), 0.0, 1.0)
        cosine = config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + jnp.cos(math.pi * progress))
        return config.learning_rate * jnp.minimum(warm_up, cosine)

    return schedule


def make_optimizer(config: OptimizerConfig, steps: int, model: Model) -> optax.GradientTransformation:
    """Clipping by global norm, then Muon and AdamW; weight decay on arrays of two or more axes.

    Args:
      config: see `OptimizerConfig`.
      steps: length of the schedule.
      model: real or abstract, for the axes of its matrices.
    """
    schedule = learning_rate(config, steps)
    adamw = optax.adamw(
        schedule,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim >= 2, params),
    )
    if config.matrices == "adamw":
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)

    axes = matrix_axes(model)
    share = config.matrix_learning_rate / config.learning_rate

    def axes_of(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: axes[_key(path)], params)

    if config.spectral_exponents == (0.0, 0.0):
        orthogonal = contrib.scale_by_muon(
            ns_steps=config.newton_schulz_steps, beta=_MOMENTUM, weight_dimension_numbers=axes_of
        )
    else:
        orthogonal = scale_by_spectrum(config.spectral_exponents, steps, axes_of)
    matrices = optax.chain(
        orthogonal,
        contrib.scale_by_shape(axes_of, consistent_rms=_UPDATE_SIZE),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(lambda t: share * schedule(t)),
    )

    def label(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: "matrix" if _key(path) in axes else "other", params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.partition({"matrix": matrices, "other": adamw}, label),
    )


def matrix_axes(model: Model) -> dict[tuple[Any, ...], contrib.MuonDimensionNumbers]:
    """By the path of a kernel: which of its axes are contracted, and which replace them.

    A kernel that holds several matrices side by side (query, key and value; gate and value of a feed-forward layer)
    has each of them made orthogonal by itself.
    """
    axes = {}
    for path, node in nnx.iter_graph(model):
        if not isinstance(node, Projection) or _is_output_head(node):
            continue
        first = node.contracted + node.stacked
        axes[(*path, "kernel")] = contrib.MuonDimensionNumbers(
            tuple(range(node.contracted)), tuple(range(first, node.kernel.ndim))
        )
    return axes


def _is_output_head(projection: Projection) -> bool:
    return projection.kernel.shape[-1] >= NUM_OUTPUTS


def _key(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The path of a parameter as `nnx.iter_graph` writes it."""
    return tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))


class SpectrumState(NamedTuple):
    """Steps so far, and the momentum."""

    count: Int[Array, ""]
    momentum: Any


def scale_by_spectrum(
    exponents: tuple[float, float], steps: int, axes_of: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """U S^p V^T of Nesterov momentum, p from the first to the second exponent; by eigenvalues of the smaller Gram matrix.

    Costs an eigendecomposition per matrix and step: for studies of the schedule, not for large models.
    """
    first, last = exponents

    def init(params: Any) -> SpectrumState:
        return SpectrumState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: SpectrumState, params: Any = None) -> tuple[Any, SpectrumState]:
        del params
        momentum = jax.tree.map(lambda m, g: _MOMENTUM * m + (1 - _MOMENTUM) * g, state.momentum, updates)
        ahead = jax.tree.map(lambda m, g: _MOMENTUM * m + (1 - _MOMENTUM) * g, momentum, updates)
        exponent = first + (last - first) * jnp.clip(state.count / max(1, steps), 0.0, 1.0)

        def reshaped(x: Array, dims: contrib.MuonDimensionNumbers) -> Array:
            order = [*_others(x, dims), *dims.reduction_axis, *dims.output_axis]
            moved = jnp.transpose(x, order)
            rows = math.prod(x.shape[axis] for axis in dims.reduction_axis)
            columns = math.prod(x.shape[axis] for axis in dims.output_axis)
            powered = spectral_power(moved.reshape(-1, rows, columns), exponent)
            return jnp.transpose(powered.reshape(moved.shape), [order.index(axis) for axis in range(x.ndim)])

        is_axes = lambda node: isinstance(node, contrib.MuonDimensionNumbers)  # noqa: E731
        powered = jax.tree.map(reshaped, ahead, axes_of(updates), is_leaf=is_axes)
        return powered, SpectrumState(state.count + 1, momentum)

    return optax.GradientTransformation(init, update)


def _others(x: Array, dims: contrib.MuonDimensionNumbers) -> list[int]:
    return [axis for axis in range(x.ndim) if axis not in (*dims.reduction_axis, *dims.output_axis)]


def spectral_power(matrices: Float[Array, "stack row column"], exponent: Array) -> Float[Array, "stack row column"]:
    """U S^p V^T of each matrix, with singular values relative to their root mean square; root mean square 1 again.

    Directions far below the others are held at a thousandth of the mean, which a negative exponent would blow up.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    smaller = matrices if wide else jnp.swapaxes(matrices, 1, 2)
    gram = smaller @ jnp.swapaxes(smaller, 1, 2)
    values, vectors = jnp.linalg.eigh(gram)
    mean = jnp.maximum(jnp.mean(values, axis=-1, keepdims=True), 1e-30)
    relative = jnp.sqrt(jnp.maximum(values / mean, 1e-6))  # singular values
    factor = jnp.power(relative, exponent - 1.0) / jnp.sqrt(mean)
    powered = jnp.einsum("sij,sj,skj->sik", vectors, factor, vectors) @ smaller
    size = jnp.sqrt(jnp.mean(jnp.power(relative, 2.0 * exponent), axis=-1))[:, None, None]
    powered = powered / size
    return powered if wide else jnp.swapaxes(powered, 1, 2)
