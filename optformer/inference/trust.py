"""Whether to follow the suggestions of the model: it predicts the study well enough, and its scale is not degenerate.

Notation: T trials, V = 1004 outputs.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, Int32

from optformer.inference.prediction import UNIT, Prediction
from optformer.serialization import tokens

NEWEST: Final = 8
"""The model is tested on at most this many trials, and on at most a third of the history."""

FEWEST: Final = 4
"""With fewer trials than this, the test would not be conclusive."""

TESTED_EVERY: Final = 4
"""The model is tested after so many further trials, finished or not."""

PLATEAU: Final = 1e-3
"""A study is on a plateau if its median is closer to its best value than this share of its whole range ..."""

NEARLY_EQUAL: Final = 1e-2
"""... and than this share of the median itself: ordinary values beside a penalty such as 1e6 are not a plateau."""
FEWEST_ON_PLATEAU, MOST_ON_PLATEAU = 3, 39
"""Numbers of values with which a study can be on a plateau; a longer study may have converged."""


def on_plateau(values: Float[np.ndarray, " trial"]) -> bool:
    """Whether a short study has hardly any difference between its median and its best value.

    This difference is the scale on which improvements count.  If it is tiny, such as when most trials are equally bad,
    the search would only look for tiny improvements.  It counts as tiny if it is far below both the range of the values
    and the median.

    Args:
      values: float64 [T], finite.
    """
    if not FEWEST_ON_PLATEAU <= len(values) <= MOST_ON_PLATEAU:
        return False
    values = 0.25 * values  # so that sums and differences of huge values do not overflow
    best, median, worst = values.max(), np.median(values), values.min()
    return bool(worst < best and best - median < min(PLATEAU * (best - worst), NEARLY_EQUAL * abs(median)))


def tested_trials(known: int) -> int:
    """How many of the newest of `known` trials the model is tested on; 0 for none."""
    count = min(NEWEST, known // 3)
    return count if count >= FEWEST else 0


def gains(
    logits: Float[np.ndarray, "newest output"], bins: Int32[np.ndarray, " newest"], before: Int32[np.ndarray, " trial"]
) -> Float[np.ndarray, " newest"]:
    """By how many nats the model predicts each of the newest trials better than the marginal of those before them.

    Args:
      logits: [N, V], for the newest trials, given those before.
      bins: int32 [N], their observed bins.
      before: int32 [T], objective bins of the trials before.
    """
    own = Prediction.from_logits(logits, UNIT, 1.0).log_probabilities[np.arange(len(bins)), bins]
    return np.asarray(own - np.log(marginal(before)[bins]))


def predicts(gain: Float[np.ndarray, " newest"]) -> bool:
    """Whether the mean gain is not negative by more than its standard error."""
    return bool(gain.mean() + gain.std(ddof=1) / np.sqrt(len(gain)) >= 0.0)


def marginal(bins: Int32[np.ndarray, " trial"]) -> Float[np.ndarray, " bin"]:
    """Prediction of the next objective from the objectives alone: a smoothed histogram, plus a tenth spread evenly."""
    width = max(1.06 * float(bins.std()) * len(bins) ** -0.2, 5.0)  # Silverman's rule
    kernels = np.exp(-0.5 * ((np.arange(tokens.NUM_LEVELS)[None] - bins[:, None]) / width) ** 2)
    kernels /= kernels.sum(axis=-1, keepdims=True)
    return 0.9 * kernels.mean(axis=0) + 0.1 / tokens.NUM_LEVELS
