"""Whether the model predicts a study well enough to be followed.

Notation: T trials, V = 1004 outputs.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, Int32

from optformer.inference.prediction import UNIT, Prediction
from optformer.serialization import tokens

NEWEST: Final = 8
"""Most trials that the model is tested on; and at most a third of the history."""

FEWEST: Final = 4
"""Below this many, nothing is proved."""


def tested_trials(known: int) -> int:
    """How many of the newest of `known` trials the model is to be tested on; 0 for none."""
    count = min(NEWEST, known // 3)
    return count if count >= FEWEST else 0


def gains(
    logits: Float[np.ndarray, "newest output"], bins: Int32[np.ndarray, " newest"], before: Int32[np.ndarray, " trial"]
) -> Float[np.ndarray, " newest"]:
    """How much better the newest trials are predicted than by the marginal of those before them, in nats.

    Args:
      logits: of the newest trials, given those before.
      bins: what came of them.
      before: objective bins of the trials before.
    """
    own = Prediction.from_logits(logits, UNIT, 1.0).log_probabilities[np.arange(len(bins)), bins]
    return np.asarray(own - np.log(marginal(before)[bins]))


def predicts(gain: Float[np.ndarray, " newest"]) -> bool:
    """Whether the newest trials are predicted no worse, up to the standard error of the mean gain."""
    return bool(gain.mean() + gain.std(ddof=1) / np.sqrt(len(gain)) >= 0.0)


def marginal(bins: Int32[np.ndarray, " trial"]) -> Float[np.ndarray, " bin"]:
    """What objectives alone say of the next one: a smoothed histogram of the bins, with a tenth spread evenly."""
    width = max(1.06 * float(bins.std()) * len(bins) ** -0.2, 5.0)  # Silverman's rule
    kernels = np.exp(-0.5 * ((np.arange(tokens.NUM_LEVELS)[None] - bins[:, None]) / width) ** 2)
    kernels /= kernels.sum(axis=-1, keepdims=True)
    return 0.9 * kernels.mean(axis=0) + 0.1 / tokens.NUM_LEVELS
