"""The candidates of each round of a search by acquisition, as genotypes [N, D].

The candidates of the first round cover the whole space.  Those of later rounds lie around the best so far, at shrinking
distances, except for a share of global ones.
"""

import numpy as np

from optformer.inference.candidates import SlotSpace, crossed, on_bounds, perturbed, quasi_random
from optformer.inference.settings import SearchSettings

_NEAR = np.array([0.2, 0.05, 0.01, 0.003])
"""Standard deviations of the steps from good trials, as shares of a parameter's range."""

_NEARER = np.array([0.1, 0.03, 0.01])
"""The same for the first round of refinement."""
_SHRINKING = 0.3
"""Factor on these from one round to the next."""


def first_candidates(
    rng: np.random.Generator,
    space: SlotSpace,
    settings: SearchSettings,
    samples: np.ndarray,
    believed: np.ndarray,
    good: np.ndarray,
) -> np.ndarray:
    """Genotypes of the first round.

    Args:
      rng: random generator.
      space: the search space.
      settings: settings of the search.
      samples: samples of the policy, [M, D].
      believed: draws from the user's belief, [M, D].
      good: good trials, the best first, [M, D].
    """
    total = settings.first_candidates
    parts = [samples[: total // 2], believed]
    if len(good):
        parts.append(on_bounds(rng, good, min(2 * space.slots + 16, total // 8), space))
        parts.append(crossed(rng, good, total // 10, space))
        parts.append(perturbed(rng, good, int(0.4 * total), space, _NEAR))
    known = sum(map(len, parts))
    spread = max(total - known, int(settings.global_share * total))
    # A new seed, so that the points differ from those of the cold start and of other calls.
    parts.append(quasi_random(space, 0, spread, int(rng.integers(2**31))))
    return np.concatenate(parts)[: total + spread]


def refined_candidates(
    rng: np.random.Generator, space: SlotSpace, settings: SearchSettings, best: np.ndarray, number: int
) -> np.ndarray:
    """Genotypes of a round of refinement.

    Args:
      rng: random generator.
      space: the search space.
      settings: settings of the search.
      best: genotypes to refine, the best first, [M, D].
      number: the round, from 0.
    """
    total = settings.round_candidates
    parts = [quasi_random(space, 0, int(settings.global_share * total), int(rng.integers(2**31)))]
    if len(best):
        parts.append(on_bounds(rng, best, min(2 * space.slots, total // 8), space))
        parts.append(crossed(rng, best, total // 8, space))
        scales = _NEARER * _SHRINKING**number
        parts.append(perturbed(rng, best, total - sum(map(len, parts)), space, scales))
    return np.concatenate(parts)
