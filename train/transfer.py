"""Rescales learning rates that were tuned on a small model for a model of other widths.

Notation: a inputs and b outputs of a matrix in the trained model, a' and b' of the same matrix in the measured model.

A step should change the output of a layer by the same amount at any width.  For that, the spectral norm of a matrix's
update must scale with sqrt(b / a) (Yang, Simon and Bernstein 2023, arXiv 2310.17813; Tensor Programs V, arXiv
2203.03466).
Muon's update has the norm .2 sqrt(max(a, b)) for its rate, so the rate is multiplied by
sqrt(max(a', b') / max(a, b)) * sqrt((b / b') / (a / a')).
An entry of Adam's update is as large as its rate, and the entries add up over the inputs: its rate for a matrix is
multiplied by a' / a, less than 1 for a wider output head and 1 where the inputs stay the same.  Tables, norms and
biases have no inputs that grow: theirs stays.

Weight decay is not rescaled and is the same per step at any width; weights then settle at sizes proportional to their
updates (Wang and Aitchison 2024, arXiv 2405.13698).  Initial weights need no rescaling: their standard deviation is
already 1 / sqrt(a), and a tenth of that for heads.  Attention divides by the square root of a head's width, where the
theory would divide by the width; heads of `small` are as wide as those of `nano`, heads of `base` twice as wide.  The
number of layers is not considered.
"""

import dataclasses
import math
from typing import Final

from flax import nnx

from optformer.model import Model, ModelConfig, abstract_model
from optformer.model.layers import Projection

WIDTHS: Final = (
    *("width", "heads", "head_width", "feed_forward", "slot_width", "slot_feed_forward"),
    *("policy_width", "policy_heads", "policy_feed_forward"),
)
"""Fields of `ModelConfig` in which the measured model may differ from the trained one."""

Factors = dict[tuple[object, ...], float]
"""Path of a kernel -> factor on its learning rate."""


def rate_factors(model: Model, measured: ModelConfig, *, muon: bool) -> Factors:
    """Factors for the kernels of all projections of a model.

    Args:
      model: the trained model, real or abstract.
      measured: config of the model for which the rates were tuned; only its widths are used.
      muon: whether to use the rule for Muon, instead of that for Adam.
    """
    same = dataclasses.replace(model.config, **{name: getattr(measured, name) for name in WIDTHS})
    before = dict(_sizes(abstract_model(same)))
    return {path: _factor(sizes, before[path], muon) for path, sizes in _sizes(model)}


def _factor(here: tuple[int, int], there: tuple[int, int], muon: bool) -> float:
    inputs, outputs = (now / then for now, then in zip(here, there, strict=True))
    return math.sqrt(max(there) / max(here) * outputs / inputs) if muon else 1 / inputs


def _sizes(model: Model) -> list[tuple[tuple[object, ...], tuple[int, int]]]:
    """Inputs and outputs of each matrix of a kernel."""
    found: list[tuple[tuple[object, ...], tuple[int, int]]] = []
    for path, node in nnx.iter_graph(model):
        if isinstance(node, Projection):
            shape, first = node.kernel.shape, node.contracted + node.stacked
            found.append(((*path, "kernel"), (math.prod(shape[: node.contracted]), math.prod(shape[first:]))))
    return found
