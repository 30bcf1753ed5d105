"""`optformer checkpoint average`: the mean of the weights of a checkpoint and of what it was trained into.

A model that was trained on for one purpose loses some of what it could before; weights on the line between both often
keep most of either (Wortsman et al., *Robust fine-tuning of zero-shot models*, CVPR 2022).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from optformer.model import Model, load_checkpoint, save_checkpoint
from optformer.model.checkpoint import CheckpointError, read_checkpoint_info
from optformer.model.config import DType
from optformer.pretrained import checkpoint_path
from optformer.train.initial import GROWN


def run_average(start: str, trained: str, out: str, share: float = 0.5, dtype: DType = "bfloat16") -> int:
    """Writes the mean of two checkpoints to `out` and says so.

    Args:
      start: name or directory of the checkpoint that training began with.
      trained: name or directory of what it ended with.
      out: directory; a checkpoint that is there is replaced.
      share: of the trained weights, above 0 and below 1.
      dtype: of the written weights.

    Returns:
      0.

    Raises:
      ValueError: `share` is out of its range, or there is no checkpoint of a name.
      CheckpointError: one cannot be read, or their models or vocabularies differ.
    """
    first, last = checkpoint_path(start), checkpoint_path(trained)
    model, card = average(first, last, share)
    card["name"] = Path(out).name
    save_checkpoint(out, model, card, read_checkpoint_info(last).vocabulary, dtype=dtype)
    print(f"{out}: {share:.0%} of the weights of {last}, the rest of {first}")
    return 0


def average(start: Path, trained: Path, share: float) -> tuple[Model, dict[str, Any]]:
    """The model of mean weights, and its card: the trained one's, without the scores, which are of other weights.

    Weights that training left alone stay the same to the bit, and parts that `start` has not (`GROWN`) are `trained`'s.

    Raises:
      ValueError: `share` is not between 0 and 1.
      CheckpointError: one cannot be read, or their models or vocabularies differ.
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
    # The sum of two shares of one number is not always that number.
    return jnp.where(before == after, after, (1 - share) * before + share * after)
