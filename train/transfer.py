"""Learning rates that were found with a small model, rescaled for a model of other widths.

Notation: a inputs and b outputs of a matrix here, a' and b' of the same one in the model that was measured.

A step should change what a layer puts out by as much at any width.  For that, the spectral norm of a matrix's update
has to follow sqrt(b / a) (Yang, Simon and Bernstein 2023, arXiv 2310.17813; Tensor Programs V, arXiv 2203.03466).
Muon's update has the norm .2 sqrt(max(a, b)) for its rate, so the rate is multiplied by
sqrt(max(a', b') / max(a, b)) * sqrt((b / b') / (a / a')).
An entry of Adam's update is as large as its rate, and the entries add up over the inputs: its rate for a matrix is
multiplied by a' / a, less than 1 for a wider output head and 1 where the inputs stay the same.  Tables, norms and
biases have no inputs that grow: theirs stays.

Weight decay is left out of it and is the same per step at any width: weights then settle at sizes that follow their
updates (Wang and Aitchison 2024, arXiv 2405.13698).  Initial weights need no rule of their own: their spread is
1 / sqrt(a) already, and heads begin at a tenth of it.  Attention divides by the square root of a head's width, where
the rule would divide by the width; in `small` heads are as wide as in `nano`, in `base` twice that.  The number of
layers is not in it.
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
"""Fields of `ModelConfig` in which the measured model may differ from the one that is trained."""

Factors = dict[tuple[object, ...], float]
"""By the path of a kernel: what its learning rate is multiplied by."""


def rate_factors(model: Model, measured: ModelConfig, *, muon: bool) -> Factors:
    """For the kernels of all projections of a model, by the rule of Muon or of Adam.

    Args:
      model: the one that is trained, real or abstract.
      measured: the one that the rates are of; only its widths are read.
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
