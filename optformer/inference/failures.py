"""Where the trials of a study have failed: a guard against a model that does not recognize the failing region.

The model predicts for each candidate how probably its trial fails.  In some studies these predictions stay too low
around the best trial, however many trials fail there, and the search repeats its mistake.  So once a trial has failed,
the expected improvement is also multiplied by the share of successful trials near the candidate.

Notation: N candidates, T trials, D slots.
"""

from typing import Final

import numpy as np
from jaxtyping import Float, Int

from optformer.serialization import tokens
from optformer.serialization.space import OBSERVED
from optformer.serialization.study import EncodedStudy

RADIUS: Final = 0.2
"""Standard deviation of the weight of a trial by its distance, where the range of each parameter has length 1."""

MOST: Final = 1000
"""Number of trials that count, the newest ones."""


def nearby_success(
    study: EncodedStudy, candidates: Int[np.ndarray, "candidate slot"]
) -> Float[np.ndarray, " candidate"]:
    """The weighted share of the trials near each candidate that did not fail, with one successful trial added.

    Two different categories, and a parameter that only one of the two has, count as a distance of 1.

    Args:
      study: with T trials; only those that have succeeded or failed count.
      candidates: tokens [N, D].

    Returns:
      In (0, 1]; 1 far from all failed trials.
    """
    known = np.flatnonzero((study.statuses == OBSERVED) | (study.statuses == tokens.INFEASIBLE))[-MOST:]
    succeeded = study.statuses[known] == OBSERVED
    trials = study.x_tokens[known]
    squares = np.zeros((len(candidates), len(trials)))
    for slot, (kind, levels) in enumerate(zip(study.schema.slot_kinds, study.schema.slot_levels, strict=True)):
        one, other = candidates[:, slot, None], trials[None, :, slot]
        different = (one != other).astype(float)
        if kind == tokens.CATEGORICAL:
            squares += different
        else:
            ranged = (one < tokens.NUM_LEVELS) & (other < tokens.NUM_LEVELS)
            squares += np.where(ranged, ((one - other) / max(int(levels) - 1, 1)) ** 2, different)
    weights = np.exp(-squares / (2.0 * RADIUS**2))
    return (1.0 + weights @ succeeded) / (1.0 + weights.sum(axis=1))
