"""A larger model that begins as a trained smaller one.

A model can be given parts that it lacks, more decoder layers, and more experts.  What it then computes changes little
or not at all, so training goes on from what the smaller one has learned:

  - New parts have random weights.  Those of the policy and the first experts are made so that they change nothing.
  - A new layer is a copy of the layer before it whose three output matrices are 0, so it passes its input on (block
    expansion: Wu et al., *LLaMA Pro*, ACL 2024).  New layers are spread evenly between the old ones.
  - A new expert has the weights that a new model would give it, and nothing that was there reads it yet.  Its initial
    share in the mixture is a few percent of that of an old one.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from optformer.model import Model, ModelConfig, build_model

GROWN: Final[Mapping[str, Any]] = {
    "policy_recall": False,
    "policy_succession": False,
    "policy_header": False,
    "experts": 0,
}
"""Parts that can be added to a model: config field -> its value without the part."""

LARGER: Final = ("decoder_layers", "experts")
"""Fields of the config that may be larger than those of the trained model."""

NEW_SHARE: Final = -3.0
"""Initial score of a new expert in the mixture, relative to that of a new model."""

Path = tuple[Any, ...]


def is_growth(before: ModelConfig, after: ModelConfig) -> bool:
    """Whether `grow` can turn a model of the first config into one of the second."""
    small, large = before.to_dict(), after.to_dict()
    differing = {name for name in large if small[name] != large[name]}
    added = {name for name in differing if name in GROWN and small[name] == GROWN[name]}
    return all(name in added or (name in LARGER and large[name] > small[name]) for name in differing)


def grow(model: Model, config: ModelConfig, seed: int = 0) -> Model:
    """A model of the given config that begins as the trained one.

    Args:
      model: the trained model.
      config: the larger config; the same as that of the model returns the model itself.
      seed: seed of new weights.

    Raises:
      ValueError: the config is not a growth of that of the model.
    """
    if config == model.config:
        return model
    if not is_growth(model.config, config):
        raise ValueError(f"the model differs from the trained one in more than {', '.join({*GROWN, *LARGER})}")
    larger = build_model(config, seed=seed)
    known = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    layers, more = model.config.decoder_layers, config.experts != model.config.experts > 0
    weights = []
    for path, leaf in nnx.to_flat_state(nnx.state(larger, nnx.Param)):
        source, is_new = _source(path, layers, config.decoder_layers)
        if source in known:
            value = known[source].get_value()
            if is_new and _is_output(path):
                value = jnp.zeros_like(value)
            elif more and path[0] == "experts":
                value = _with_more_experts(path, value, leaf.get_value(), model.config, config)
            leaf = leaf.replace(value)
        weights.append((path, leaf))
    nnx.update(larger, nnx.from_flat_state(weights))
    return larger


def _source(path: Path, before: int, after: int) -> tuple[Path, bool]:
    """Path of the weights that a weight begins as, and whether it belongs to a new layer."""
    if path[0] != "blocks":
        return path, False
    index = path[1] * before // after
    return ("blocks", index, *path[2:]), path[1] > 0 and (path[1] - 1) * before // after == index


def _is_output(path: Path) -> bool:
    return path[2] in ("self_out", "cross_out") or path[2:4] == ("feed_forward", "down")


def _with_more_experts(path: Path, old: Array, new: Array, before: ModelConfig, after: ModelConfig) -> Array:
    """The weights of a layer of the experts: old ones in their places, and those of new experts.

    Layers with one or several columns per expert have them group by group, as in `Layout`.
    """
    name, kind = path[-2], path[-1]
    inputs, outputs = _layout(path)
    value = np.array(new)
    if kind == "kernel" and inputs is not None:
        value[:] = 0.0  # new experts are not read
        fixed = old.shape[0] - before.experts * inputs[0] - inputs[1]
        value[_columns(fixed, *inputs, before.experts, after.experts)] = old
    elif outputs is not None:
        value[..., _columns(outputs[0], outputs[1], 0, before.experts, after.experts)] = old
    else:
        return old
    if name == "shares" and kind == "bias":
        # Initial shares of experts are divided by their number; old ones keep theirs.
        value[1 : 1 + before.experts] += math.log(after.experts / before.experts)
        value[1 + before.experts :] = NEW_SHARE
    return jnp.asarray(value)


def _layout(path: Path) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Of a layer of the experts: columns of its inputs (groups with one per expert, others behind them), and of its
    outputs (others before them, groups with one per expert).  None where the number of experts does not matter."""
    layouts: Mapping[tuple[Any, ...], tuple[tuple[int, int] | None, tuple[int, int] | None]] = {
        ("guess", "weights"): (None, (0, 1)),
        ("guess", "study_out"): (None, (0, 3)),
        ("refinements", "study_hidden"): ((9, 1), None),
        ("refinements", "study_out"): (None, (0, 3)),
        ("experts", "correction_up"): ((4, 1), None),
        ("experts", "share_hidden"): ((4, 1), None),
        ("experts", "shares"): (None, (1, 1)),
    }
    named = [part for part in path if isinstance(part, str)]
    return layouts.get((named[-3], named[-2]), (None, None))


def _columns(ahead: int, groups: int, behind: int, before: int, after: int) -> np.ndarray:
    """Places, among the columns for `after` experts, of those for `before` experts.

    The columns are some ahead, groups of one per expert, and some behind.
    """
    grouped = ahead + np.arange(groups)[:, None] * after + np.arange(before)[None]
    return np.concatenate([np.arange(ahead), grouped.ravel(), ahead + groups * after + np.arange(behind)])
