"""The optimizer: Muon for the matrices inside the network, AdamW for everything else.

Notation: G momentum of a matrix's gradient, G = U S V^T.

Muon (Jordan et al. 2024) replaces G with its nearest semi-orthogonal matrix U V^T, by a few Newton-Schulz iterations,
so that all directions of a matrix learn at the same rate.  The result is scaled by 0.2 sqrt(larger side), which gives
it the size of AdamW's updates (Liu et al. 2025, eq. 4).  Embedding tables, output heads, norms and biases are not maps
between hidden states, and use AdamW.  `transfer.py` scales learning rates with the width of the model.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from optformer.extras import from_extra
from optformer.model import Model, ModelConfig
from optformer.model.layers import Projection
from optformer.serialization.tokens import NUM_OUTPUTS
from optformer.train.config import OptimizerConfig
from optformer.train.transfer import Factors, rate_factors

with from_extra("train", user="training"):
    import optax
    from optax import contrib

_UPDATE_SIZE = 0.2
_MOMENTUM = 0.95


def learning_rate(config: OptimizerConfig, steps: int) -> Callable[[ArrayLike], Array]:
    """t -> learning rate: linear warm-up to the peak, then a cosine or a line to its floor at the last step."""

    def schedule(t: ArrayLike) -> Array:
        warm_up = (t + 1) / max(1, config.warmup_steps)
        progress = jnp.clip((t - config.warmup_steps) / max(1, steps - config.warmup_steps), 0.0, 1.0)
        left = 1 - progress if config.decay == "linear" else 0.5 * (1 + jnp.cos(math.pi * progress))
        decay = config.final_fraction + (1 - config.final_fraction) * left
        return config.learning_rate * jnp.minimum(warm_up, decay)

    return schedule


def make_optimizer(config: OptimizerConfig, steps: int, model: Model) -> optax.GradientTransformation:
    """Clips by global norm, then applies Muon and AdamW (to experts only AdamW); decays arrays of two or more axes.

    Args:
      config: see `OptimizerConfig`.
      steps: length of the schedule.
      model: real or abstract, for the axes of its matrices.
    """
    schedule = learning_rate(config, steps)
    factors: Factors = {}
    if config.measured_on is not None:
        muon = matrix_axes(model) if config.matrices == "muon" else {}
        measured = getattr(ModelConfig, config.measured_on)()
        by_rule = {rule: rate_factors(model, measured, muon=rule) for rule in (True, False)}
        factors = {path: by_rule[path in muon][path] for path in by_rule[False]}
    # As `optax.adamw`, with the factors before the weight decay.
    adamw = optax.chain(
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        *([_scaled(factors)] if factors else []),
        optax.add_decayed_weights(config.weight_decay, lambda params: jax.tree.map(lambda p: p.ndim >= 2, params)),
        optax.scale_by_learning_rate(schedule),
    )
    experts = optax.masked(
        optax.scale(config.experts_rate),
        lambda params: jax.tree_util.tree_map_with_path(lambda path, _: is_of(path, ("experts",)), params),
    )
    if config.matrices == "adamw":
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw, experts)

    axes = matrix_axes(model)
    share = config.matrix_learning_rate / config.learning_rate

    def axes_of(params: optax.Params) -> optax.Params:
        return jax.tree_util.tree_map_with_path(lambda path, _: axes[_key(path)], params)

    matrices = optax.chain(
        contrib.scale_by_muon(ns_steps=config.newton_schulz_steps, beta=_MOMENTUM, weight_dimension_numbers=axes_of),
        optax.stateless(lambda updates, _: jax.tree.map(_sized, updates, axes_of(updates), is_leaf=_is_axes)),
        *([_scaled(factors)] if factors else []),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(lambda t: share * schedule(t)),
    )

    def label(params: optax.Params) -> optax.Params:
        return jax.tree_util.tree_map_with_path(lambda path, _: "matrix" if _key(path) in axes else "other", params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.partition({"matrix": matrices, "other": adamw}, label),
        experts,
    )


def _scaled(factors: Factors) -> optax.GradientTransformation:
    """Multiplies the update of each kernel by its factor."""

    def scale(path: tuple[object, ...], update: Array) -> Array:
        return update * factors.get(_key(path), 1.0)

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def only(optimizer: optax.GradientTransformation, parts: Sequence[str] | None) -> optax.GradientTransformation:
    """An optimizer that only updates the parameters of some parts of the model; of all if `parts` is None."""
    if parts is None:
        return optimizer

    def label(params: optax.Params) -> optax.Params:
        return jax.tree_util.tree_map_with_path(lambda path, _: "trained" if is_of(path, parts) else "kept", params)

    return optax.partition({"trained": optimizer, "kept": optax.set_to_zero()}, label)


def is_of(path: tuple[object, ...], parts: Sequence[str]) -> bool:
    """Whether the parameter at a path belongs to one of these parts of the model."""
    return _key(path)[0] in parts


def matrix_axes(model: Model) -> dict[tuple[object, ...], contrib.MuonDimensionNumbers]:
    """Path of a kernel -> its contracted axes and its output axes.

    If a kernel holds several matrices side by side (query, key and value; gate and value of a feed-forward layer), each
    is orthogonalized separately.
    """
    axes: dict[tuple[object, ...], contrib.MuonDimensionNumbers] = {}
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


def _key(path: tuple[object, ...]) -> tuple[object, ...]:
    """The path of a parameter as `nnx.iter_graph` writes it."""
    return tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))


def _is_axes(node: object) -> bool:
    return isinstance(node, contrib.MuonDimensionNumbers)


def _sized(update: Array, axes: contrib.MuonDimensionNumbers) -> Array:
    rows = math.prod(update.shape[axis] for axis in axes.reduction_axis)
    columns = math.prod(update.shape[axis] for axis in axes.output_axis)
    return update * (_UPDATE_SIZE * math.sqrt(max(rows, columns)))
