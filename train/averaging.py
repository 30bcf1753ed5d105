"""Weighted mean of the weights of a checkpoint and of one fine-tuned from it.

Fine-tuning for one purpose loses some earlier abilities; interpolated weights often keep most of both (Wortsman et al.,
*Robust fine-tuning of zero-shot models*, CVPR 2022).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from optformer.model import Model, load_checkpoint
from optformer.model.checkpoint import CheckpointError, read_checkpoint_info
from optformer.train.initial import GROWN


def average(start: Path, trained: Path, share: float) -> tuple[Model, dict[str, Any]]:
    """The model with the mean weights, and the card of the trained model without its scores, which no longer apply.

    Weights that training did not change stay exactly the same; parts that only `trained` has (`GROWN`) are copied.

    Args:
      start: directory of the checkpoint that training started from.
      trained: directory of the checkpoint that training produced.
      share: weight of `trained` in the mean, above 0 and below 1.

    Raises:
      ValueError: `share` is not between 0 and 1.
      CheckpointError: a checkpoint cannot be read, or the models or vocabularies of the two differ.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share}: the trained weights' share must be above 0 and below 1")
    after, card = load_checkpoint(trained)
    before, card_before = load_checkpoint(start, vocabulary=read_checkpoint_info(trained).vocabulary)
    grown = {name: getattr(after.config, name) for name in GROWN if not getattr(before.config, name)}
    if dataclasses.replace(before.config, **grown) != after.config:
        raise CheckpointError(f"{trained} was not trained from {start}: their models differ in more than {GROWN}")
    known = dict(nnx.to_flat_state(nnx.state(before, nnx.Param)))
    mean = [
        (path, leaf.replace(_mean(known[path].get_value(), leaf.get_value(), share)) if path in known else leaf)
        for path, leaf in nnx.to_flat_state(nnx.state(after, nnx.Param))
    ]
    nnx.update(after, nnx.from_flat_state(mean))
    facts = {name: card_before[name] for name in ("name", "date", "steps") if name in card_before}
    kept = {name: value for name, value in card.items() if not name.startswith("metrics")}
    return after, kept | {"average": {"share": share, "with": facts}}


def _mean(before: jnp.ndarray, after: jnp.ndarray, share: float) -> jnp.ndarray:
    # Because of rounding, the weighted mean of two equal numbers may differ from them.
    return jnp.where(before == after, after, (1 - share) * before + share * after)
