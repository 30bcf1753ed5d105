"""Several objectives as one, by random hypervolume scalarizations.

Source: Zhang and Golovin 2020, "Random hypervolume scalarizations for provable multi-objective black box optimization".

Notation: T trials, K objectives, v [T, K] objectives with larger is better, z [K] the reference point below them all,
w [K] a direction of the positive unit sphere.

    s_w(v) = min_i max(0, (v_i - z_i) / w_i)

Averaged over directions, the best s_w^K of a set of trials is the hypervolume that it dominates, so suggesting under
a new direction each time spreads over the front.  The power K is left out: it changes no order.
"""

from typing import Final

import numpy as np
from jaxtyping import Float

MARGIN: Final = 0.1
"""The reference point lies this share of each objective's range below its worst value."""


def random_direction(rng: np.random.Generator, objectives: int) -> Float[np.ndarray, " objective"]:
    """Uniform on the positive part of the unit sphere, kept off its faces."""
    direction = np.maximum(np.abs(rng.normal(size=objectives)), 1e-3)
    return direction / np.linalg.norm(direction)


def scalarize(
    values: Float[np.ndarray, "trial objective"], direction: Float[np.ndarray, " objective"]
) -> Float[np.ndarray, " trial"]:
    """s_w of every trial; NaN for trials of which an objective is not finite.

    Each objective is first scaled to [0, 1] by the range of its finite values, from the 5th percentile up: one
    disaster must not flatten all else.
    """
    known = np.all(np.isfinite(values), axis=-1)
    result = np.full(len(values), np.nan)
    if not known.any():
        return result
    # By powers of two, which lose nothing: differences of huge values would overflow.
    _, exponents = np.frexp(np.abs(values[known]).max(axis=0))
    finite = np.ldexp(values[known], -exponents[None])
    low, high = np.quantile(finite, 0.05, axis=0), finite.max(axis=0)
    scale = np.where(high > low, high - low, 1.0)
    unit = (finite - low[None]) / scale[None] + MARGIN
    result[known] = (np.maximum(unit, 0.0) / direction[None]).min(axis=-1)
    return result
