"""Several objectives: expected hypervolume improvement of a trial, and random scalarizations.

Source: Zhang and Golovin 2020, "Random hypervolume scalarizations for provable multi-objective black box optimization".

Notation: T trials, N candidates, K objectives, v [T, K] objectives with larger is better, z [K] the reference point,
w [K] a direction of the positive unit sphere, W of them.

    s_w(v) = min_k max(0, (v_k - z_k) / w_k)

Averaged over directions, the best s_w^K of a set of trials is, up to a constant factor, the hypervolume that the set
dominates.  So the expected gain of a candidate whose objectives have the distributions F_k is the mean over directions
of

    E[max(0, s_w^K - b_w^K)] = integral from b_w to infinity of K t^(K-1) prod_k (1 - F_k(z_k + t w_k)) dt

where b_w is the best s_w so far.  No samples of the objectives are needed.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

MARGIN: Final = 0.1
"""The reference point lies below each objective's range by this share of the range."""

DIRECTIONS: Final = 128
_NODES: Final = 16
"""Nodes of the integral of a direction: denser near its lower end, and jittered, so that the mean over directions is
unbiased."""


def random_directions(
    rng: np.random.Generator, count: int, objectives: int
) -> Float[np.ndarray, "direction objective"]:
    """Directions uniform on the positive part of the unit sphere, at a small distance from its faces."""
    directions = np.maximum(np.abs(rng.normal(size=(count, objectives))), 1e-3)
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def scalarize(
    values: Float[np.ndarray, "trial objective"], direction: Float[np.ndarray, " objective"]
) -> Float[np.ndarray, " trial"]:
    """s_w of every trial; NaN for trials with an objective that is not finite.

    Each objective is first scaled to [0, 1] by the range of its finite values above the 5th percentile, so that a
    single very bad value does not flatten the others.
    """
    known = np.all(np.isfinite(values), axis=-1)
    result = np.full(len(values), np.nan)
    if not known.any():
        return result
    # Scaling by powers of two is exact, and keeps differences of huge values from overflowing.
    _, exponents = np.frexp(np.abs(values[known]).max(axis=0))
    finite = np.ldexp(values[known], -exponents[None])
    low, high = np.quantile(finite, 0.05, axis=0), finite.max(axis=0)
    scale = np.where(high > low, high - low, 1.0)
    unit = (finite - low[None]) / scale[None] + MARGIN
    result[known] = (np.maximum(unit, 0.0) / direction[None]).min(axis=-1)
    return result


def undominated(values: Float[np.ndarray, "trial objective"]) -> list[int]:
    """Indices of the Pareto-optimal rows of [T, K]; larger is better."""
    if not len(values):
        return []
    # The first row in lexicographic order is not dominated by any later one.
    waiting = np.lexsort(values.T[::-1])[::-1]
    best = []
    while len(waiting):
        first, *_ = waiting
        best.append(int(first))
        worse = np.all(values[waiting] <= values[first], axis=1) & np.any(values[waiting] < values[first], axis=1)
        worse[0] = True  # itself
        waiting = waiting[~worse]
    return best


def reference_point(front: Float[np.ndarray, "trial objective"]) -> Float[np.ndarray, " objective"]:
    """A point [K] below all trials of the front and below the median trial, which is 0 on the model's scale."""
    low, high = np.minimum(front.min(axis=0, initial=0.0), 0.0), front.max(axis=0, initial=1.0)
    return low - MARGIN * (high - low)


def improvement(
    points: Float[np.ndarray, "candidate objective"],
    front: Float[np.ndarray, "trial objective"],
    reference: Float[np.ndarray, " objective"],
    directions: Float[np.ndarray, "direction objective"],
) -> Float[np.ndarray, " candidate"]:
    """Mean over directions of s_w(point) - b_w.  Negative if a point adds nothing, and lower the farther away it is."""
    best = best_scalarized(front, reference, directions)
    return (_scalarized(points, reference, directions) - best[None]).mean(axis=-1)


def best_scalarized(
    front: Float[np.ndarray, "trial objective"],
    reference: Float[np.ndarray, " objective"],
    directions: Float[np.ndarray, "direction objective"],
) -> Float[np.ndarray, " direction"]:
    """b_w of each direction, [W]; 0 without trials."""
    return _scalarized(front, reference, directions).max(axis=0, initial=0.0)


def _scalarized(
    points: Float[np.ndarray, "point objective"],
    reference: Float[np.ndarray, " objective"],
    directions: Float[np.ndarray, "direction objective"],
) -> Float[np.ndarray, "point direction"]:
    """min_k (v_k - z_k) / w_k, below 0 where a point is not above the reference."""
    found: np.ndarray = ((points[:, None] - reference) / directions[None]).min(axis=-1)
    return found


def probability_of_improvement(
    survival: Sequence[Float[np.ndarray, "edge candidate"]],
    edges: Float[np.ndarray, " edge"],
    front: Float[np.ndarray, "trial objective"],
    reference: Float[np.ndarray, " objective"],
    directions: Float[np.ndarray, "direction objective"],
) -> Float[np.ndarray, " candidate"]:
    """Mean over directions of P(s_w > b_w), [N]; arguments as in `expected_improvement`."""
    best = best_scalarized(front, reference, directions)
    return _joint_survival(survival, edges, reference + best[:, None] * directions).mean(axis=0)


def expected_improvement(
    survival: Sequence[Float[np.ndarray, "edge candidate"]],
    edges: Float[np.ndarray, " edge"],
    front: Float[np.ndarray, "trial objective"],
    reference: Float[np.ndarray, " objective"],
    limit: Float[np.ndarray, " objective"],
    directions: Float[np.ndarray, "direction objective"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " candidate"]:
    """Expected hypervolume improvement of each candidate, [N], up to a constant factor.

    Args:
      survival: per objective, probability that each candidate exceeds each of the `edges`; beyond the last edge, that
        of the last edge.
      edges: ascending.
      front: [T, K], the Pareto-optimal trials so far.
      reference: z [K].
      limit: [K], larger values count as these.
      directions: [W, K], over which the mean is taken.
      rng: jitters the nodes of the integrals.
    """
    best = best_scalarized(front, reference, directions)
    top = np.maximum(((limit - reference)[None] / directions).min(axis=-1), best)
    place = (np.arange(_NODES)[None] + rng.random((len(directions), _NODES))) / _NODES
    t = best[:, None] + (top - best)[:, None] * place**2
    objectives = len(reference)
    weights = objectives * t ** (objectives - 1) * (top - best)[:, None] * 2 * place
    points = reference + t[..., None] * directions[:, None]
    return (weights.ravel() / t.size).astype(np.float32) @ _joint_survival(
        survival, edges, points.reshape(-1, objectives)
    )


def _joint_survival(
    survival: Sequence[Float[np.ndarray, "edge candidate"]],
    edges: Float[np.ndarray, " edge"],
    points: Float[np.ndarray, "point objective"],
) -> Float[np.ndarray, "point candidate"]:
    """Probability that a candidate exceeds a point in all objectives, assuming that these are independent."""
    joint = np.ones((len(points), survival[0].shape[1]), np.float32)
    for curve, at in zip(survival, points.T, strict=True):
        right = np.clip(np.searchsorted(edges, at), 1, len(edges) - 1)
        joint *= curve[np.where(at - edges[right - 1] < edges[right] - at, right - 1, right)]
    return joint
