"""Objective scaling: user values to 1000 bins and back, fitted on the trials known so far.

Notation
  y        objective in user units, with larger is better (the caller flips the sign to minimize)
  b, m     best and median of the known values (after leaving out one isolated outlier per side, see `fit`)
  r        good range, b - m
  u        (y - m) / r: 0 at the median, 1 at the best
  z = g(u) unit value in [0, 1], strictly increasing for |u| below 1e15
  q        bin, round((Q - 1) z), Q = 1000

The warp g is linear between the median and the best, where nearly all decisions are made, and logarithmic beyond:

  u >= 5          g = z4 + tail log(U / 4),  U = u - 1      up to U = 1e15
  1 <= u < 5      g = 0.70 + a log(1 + 4.4 U)               a = 0.39 / 4.4, so that the slope is continuous at the best
  0 <= u < 1      g = 0.31 + 0.39 u
  -40 < u < 0     g = 0.31 - c log(1 + 8 V),  V = -u        c = 0.39 / 8, so that the slope is continuous at the median
  u <= -40        g = z40 - tail log(V / 40)                down to V = 1e15

So 39 % of the bins lie between median and best, 26 % cover improvements of up to four good ranges, 28 % values below
the median, and about 7 % distinguish the orders of magnitude of all other finite numbers.

All functions take an array namespace: `np` (float64, on the host) or `jax.numpy` (float32, also inside `jit`).  Arrays
may have any leading axes.
"""

import math
import types
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from optformer.serialization.tokens import INFEASIBLE, MISSING, NUM_LEVELS

if TYPE_CHECKING:  # importing jax is slow, and scaling does not need it
    import jax

Array: TypeAlias = "np.ndarray | jax.Array"
"""A numpy or jax array, according to the namespace."""

MEDIAN_UNIT: Final = 0.31
BEST_UNIT: Final = 0.70
_SLOPE: Final = BEST_UNIT - MEDIAN_UNIT
_ABOVE_RATE, _ABOVE_KNOT = 4.4, 4.0
_BELOW_RATE, _BELOW_KNOT = 8.0, 40.0
_END: Final = 1e15
_ABOVE: Final = _SLOPE / _ABOVE_RATE
_BELOW: Final = _SLOPE / _BELOW_RATE
_ABOVE_KNOT_UNIT: Final = BEST_UNIT + _ABOVE * math.log1p(_ABOVE_RATE * _ABOVE_KNOT)
_BELOW_KNOT_UNIT: Final = MEDIAN_UNIT - _BELOW * math.log1p(_BELOW_RATE * _BELOW_KNOT)
_ABOVE_TAIL: Final = (1.0 - _ABOVE_KNOT_UNIT) / math.log(_END / _ABOVE_KNOT)
_BELOW_TAIL: Final = _BELOW_KNOT_UNIT / math.log(_END / _BELOW_KNOT)

OUTLIER_RATIO: Final = 1e4
"""An end value is an isolated outlier if it is this many times farther from the median than its neighbour."""
_MIN_KNOWN_FOR_OUTLIERS: Final = 4


class Scaling(NamedTuple):
    """Affine part of the scaler: u = (y - center) / scale.  Floats, or arrays with the leading axes of the values.

    Attributes:
      center: median m of the known values, in user units (larger is better).
      scale: good range r = b - m, in user units, always positive.
    """

    center: "Array | float"
    scale: "Array | float"


def fit(values: Array, known: Array, xp: types.ModuleType = np) -> Scaling:
    """Fits the scaler on the known values, over the last axis.

    Special cases, in this order:
      * no known value: center 0, scale 1;
      * all equal (or only one): center is that value b, scale |b|, or 1 if b = 0;
      * of four or more values, the largest is left out if it is more than 1e4 times farther from the median than the
        second largest, and likewise the smallest.  (If the neighbour ties with the median, the nearest value on the
        other side is used instead.)  This is done only once: several extreme values are handled by the order
        statistics;
      * four or more values, all equal but one: center is the common value, scale the distance of the other one.  This
        is the only choice that is invariant to affine maps and does not change if that one is an outlier;
      * the best ties with the median: the median of the distinct values takes its place, or, where rounding leaves no
        gap, the largest value below the best.

    Args:
      values: [..., T], objectives, larger is better; anything where not known.
      known: bool [..., T], the finite, feasible values to fit on (values that are not finite are left out in any case).
      xp: array namespace.

    Returns:
      Scaling with arrays [...].
    """
    values = xp.asarray(values, dtype=float)
    known = xp.asarray(known, dtype=bool) & xp.isfinite(values)
    if values.shape[-1] == 0:
        return Scaling(xp.zeros(values.shape[:-1]), xp.ones(values.shape[:-1]))
    with np.errstate(over="ignore", invalid="ignore"):
        return _fit(xp.sort(xp.where(known, values, np.inf), axis=-1), known.sum(axis=-1), xp)


def _fit(ordered: Array, count: Array, xp: types.ModuleType) -> Scaling:
    """`ordered`: the known values ascending, then +inf."""
    length = ordered.shape[-1]
    index = xp.arange(length).reshape((1,) * (ordered.ndim - 1) + (length,))

    def at(position: Array) -> Array:
        position = xp.clip(position, 0, length - 1)
        return xp.take_along_axis(ordered, position[..., None], axis=-1)[..., 0]

    def smallest(mask: Array) -> Array:
        return xp.where(mask, ordered, np.inf).min(axis=-1)

    def largest(mask: Array) -> Array:
        return xp.where(mask, ordered, -np.inf).max(axis=-1)

    # Halves before adding, since the sum of two huge values would overflow; also exactly symmetric in sign.
    def median(first: Array, last: Array) -> Array:
        return 0.5 * at((first + last) // 2) + 0.5 * at((first + last + 1) // 2)

    last = count - 1
    lowest, second_lowest = at(xp.zeros_like(count)), at(xp.ones_like(count))
    second_highest, highest = at(last - 1), at(last)
    middle = median(xp.zeros_like(count), last)
    in_range = index < count[..., None]
    nearest_above = smallest(in_range & (ordered > middle[..., None])) - middle
    nearest_below = middle - largest(in_range & (ordered < middle[..., None]))
    second_above, second_below = second_highest - middle, middle - second_lowest
    yard_above = xp.where(second_above > 0, second_above, nearest_below)
    yard_below = xp.where(second_below > 0, second_below, nearest_above)
    enough = count >= _MIN_KNOWN_FOR_OUTLIERS
    drop_above = enough & (highest - middle > OUTLIER_RATIO * yard_above)
    drop_below = enough & (middle - lowest > OUTLIER_RATIO * yard_below)

    first, last = drop_below.astype(count.dtype), last - drop_above.astype(count.dtype)
    best, center = at(last), median(first, last)

    inside = (index >= first[..., None]) & (index <= last[..., None])
    previous = xp.concatenate([xp.full_like(ordered[..., :1], -np.inf), ordered[..., :-1]], axis=-1)
    new = inside & ((ordered != previous) | (index == first[..., None]))
    rank = xp.cumsum(new, axis=-1)
    distinct = rank[..., -1]

    def distinct_value(order: Array) -> Array:
        return at(xp.argmax(new & (rank == order[..., None] + 1), axis=-1))

    distinct_median = 0.5 * distinct_value((distinct - 1) // 2) + 0.5 * distinct_value(distinct // 2)
    below_best = largest(inside & (ordered < best[..., None]))
    center = xp.where(center < best, center, xp.where(distinct_median < best, distinct_median, below_best))
    scale = best - center

    # The different value is still included: against a tie, it is never left out as an outlier.
    low, high = at(first), at(last)
    odd_one = (
        (last - first + 1 >= _MIN_KNOWN_FOR_OUTLIERS)
        & (distinct == 2)
        & ((low == at(last - 1)) | (at(first + 1) == high))
    )
    center = xp.where(odd_one, xp.where(low == at(last - 1), low, high), center)
    scale = xp.where(odd_one, high - low, scale)

    constant = (count > 0) & (lowest == highest)
    center = xp.where(constant, best, center)
    scale = xp.where(constant, xp.where(best == 0, 1.0, xp.abs(best)), scale)
    center = xp.where(count > 0, center, 0.0)
    scale = xp.where(count > 0, scale, 1.0)
    # A subnormal or infinite scale would lead to a division by zero or NaN.
    limits = np.finfo(ordered.dtype)
    return Scaling(center, xp.clip(scale, 8 * float(limits.tiny), float(limits.max)))


def in_good_ranges(y: "Array | float", scaling: Scaling, xp: types.ModuleType = np) -> Array:
    """u = (y - m) / r, infinite on overflow; arguments as in `to_unit`."""
    values = xp.asarray(y, dtype=float)
    center, scale = _aligned(scaling, values.ndim, xp)
    with np.errstate(over="ignore"):
        # Halves, so that the difference of two huge values of opposite sign does not overflow.
        return (0.5 * values - 0.5 * center) / (0.5 * scale)


def to_unit(y: "Array | float", scaling: Scaling, xp: types.ModuleType = np) -> Array:
    """z = g((y - m) / r) in [0, 1].

    Args:
      y: [..., *more], user units, larger is better; infinities go to the ends, NaN stays NaN.
      scaling: arrays [...]: the leading axes of `y`, or scalars.
      xp: array namespace.
    """
    u = in_good_ranges(y, scaling, xp)
    above, below = u - 1.0, -u
    return (
        MEDIAN_UNIT
        + _SLOPE * xp.clip(u, 0.0, 1.0)
        + _ABOVE * xp.log1p(_ABOVE_RATE * xp.clip(above, 0.0, _ABOVE_KNOT))
        + _ABOVE_TAIL * xp.log(xp.clip(above, _ABOVE_KNOT, _END) / _ABOVE_KNOT)
        - _BELOW * xp.log1p(_BELOW_RATE * xp.clip(below, 0.0, _BELOW_KNOT))
        - _BELOW_TAIL * xp.log(xp.clip(below, _BELOW_KNOT, _END) / _BELOW_KNOT)
    )


def from_unit(z: Array, scaling: Scaling, xp: types.ModuleType = np) -> Array:
    """The inverse of `to_unit`: user units for z in [0, 1] (clipped), shapes as there."""
    z = xp.asarray(z, dtype=float)
    center, scale = _aligned(scaling, z.ndim, xp)
    with np.errstate(over="ignore"):
        y = center + scale * _warp_inverse(z, xp)
    largest = float(np.finfo(y.dtype).max)
    return xp.clip(y, -largest, largest)


def _warp_inverse(z: Array, xp: types.ModuleType) -> Array:
    return (
        xp.clip(z - MEDIAN_UNIT, 0.0, _SLOPE) / _SLOPE
        + xp.expm1(xp.clip(z - BEST_UNIT, 0.0, _ABOVE_KNOT_UNIT - BEST_UNIT) / _ABOVE) / _ABOVE_RATE
        + xp.expm1(xp.clip(z - _ABOVE_KNOT_UNIT, 0.0, 1.0 - _ABOVE_KNOT_UNIT) / _ABOVE_TAIL) * _ABOVE_KNOT
        - xp.expm1(xp.clip(MEDIAN_UNIT - z, 0.0, MEDIAN_UNIT - _BELOW_KNOT_UNIT) / _BELOW) / _BELOW_RATE
        - xp.expm1(xp.clip(_BELOW_KNOT_UNIT - z, 0.0, _BELOW_KNOT_UNIT) / _BELOW_TAIL) * _BELOW_KNOT
    )


def _aligned(scaling: Scaling, ndim: int, xp: types.ModuleType) -> tuple[Array, Array]:
    """Center and scale with trailing axes of length one, up to `ndim` axes."""

    def align(numbers: "Array | float") -> Array:
        array = xp.asarray(numbers, dtype=float)
        return array.reshape(array.shape + (1,) * (ndim - array.ndim)) if array.ndim else array

    return align(scaling.center), align(scaling.scale)


def to_bins(y: "Array | float", scaling: Scaling, xp: types.ModuleType = np) -> Array:
    """Bins 0 ... 999 of values that are not NaN, int32, shapes as in `to_unit`."""
    z = to_unit(y, scaling, xp)
    return xp.clip(xp.rint((NUM_LEVELS - 1) * z), 0, NUM_LEVELS - 1).astype(np.int32)


class ObjectiveTokens(NamedTuple):
    """Objectives of studies on the model's scale; numpy arrays with the axes of the values.

    Attributes:
      tokens: int32 [..., T], bins where there is a value, else statuses.
      scaling: scaling of each study.
      weights: float32 [..., T], loss weight of each token.
    """

    tokens: np.ndarray
    scaling: Scaling
    weights: np.ndarray


FEWEST_FINAL: Final = 2
"""With at least this many final values, a study is scaled on final values only."""


def objective_tokens(
    values: np.ndarray, statuses: Array, known: np.ndarray, final: np.ndarray | None = None
) -> ObjectiveTokens:
    """Objective tokens and function weights of studies, each scaled on its known trials.

    Args:
      values: float64 [..., T], larger is better, NaN where there is none.
      statuses: int32 [..., T], the token where there is no value; below 0: MISSING.
      known: bool [..., T], the known trials: in training the prefix, in suggesting the trials that the model reads.
        A study without a known trial is scaled on all of its values: from it, the model learns how a trial compares
        with the others of its study before any of them is known.
      final: bool [..., T], which values are final, not intermediate reports; default: all.  With at least
        `FEWEST_FINAL` of them, a study is scaled on final values only.

    Returns:
      The tokens, with weight 1 for values and failures that are not known.  If trials are known but have no value,
      there is no scale: then values have weight 0, and failures still have weight 1.
    """
    observed = np.isfinite(values)
    scaled_on = observed & (known | ~known.any(axis=-1, keepdims=True))
    if final is not None:
        scaled_on = to_scale_on(scaled_on, final)
    scaling = fit(values, scaled_on)
    bins = to_bins(np.where(observed, values, 0.0), scaling)
    tokens = np.where(observed, bins, np.where(statuses < 0, MISSING, statuses)).astype(np.int32)
    scaled = scaled_on.any(axis=-1, keepdims=True)
    weights = ~known & ((observed & scaled) | np.equal(statuses, INFEASIBLE))
    return ObjectiveTokens(tokens, scaling, weights.astype(np.float32))


def to_scale_on(observed: Array, final: Array) -> Array:
    """Which known values give the scale: the final ones if there are at least `FEWEST_FINAL` of them, else all.

    Arguments and result are bool [..., T], of either array namespace.
    """
    both = observed & final
    return both | (observed & (both.sum(axis=-1, keepdims=True) < FEWEST_FINAL))


_UNIT_EDGES: Final = np.concatenate([[0.0], (np.arange(1, NUM_LEVELS) - 0.5) / (NUM_LEVELS - 1), [1.0]])
_EDGES: Final = _warp_inverse(_UNIT_EDGES, np)
_CENTERS: Final = _warp_inverse(np.arange(NUM_LEVELS) / (NUM_LEVELS - 1), np)
_LOG_WIDTHS: Final = np.log(np.diff(_EDGES))


def _per_bin(scaling: Scaling, table: Array, xp: types.ModuleType) -> tuple[Array, Array, Array]:
    """Center and scale [..., 1] and a table [1, ..., 1, bins] of the same rank."""
    rank = max(np.ndim(scaling.center), np.ndim(scaling.scale)) + 1
    center, scale = _aligned(scaling, rank, xp)
    return center, scale, xp.asarray(table.reshape((1,) * (rank - 1) + (-1,)), dtype=float)


def bin_edges(scaling: Scaling, xp: types.ModuleType = np) -> Array:
    """Edges of the bins in user units, [..., 1001]; the outermost at 1e15 good ranges (clipped to finite numbers)."""
    center, scale, edges = _per_bin(scaling, _EDGES, xp)
    with np.errstate(over="ignore"):
        y = center + scale * edges
    largest = float(np.finfo(y.dtype).max)
    return xp.clip(y, -largest, largest)


def bin_centers(scaling: Scaling, xp: types.ModuleType = np) -> Array:
    """The value that represents each bin, in user units, [..., 1000]: exactly z = q / 999."""
    center, scale, centers = _per_bin(scaling, _CENTERS, xp)
    with np.errstate(over="ignore"):
        y = center + scale * centers
    largest = float(np.finfo(y.dtype).max)
    return xp.clip(y, -largest, largest)


def log_bin_widths(scaling: Scaling, xp: types.ModuleType = np) -> Array:
    """Log of each bin's width in user units, [..., 1000].

    Computed from widths in u, because the edges in user units may round to the same number if the center is large.
    """
    _, scale, widths = _per_bin(scaling, _LOG_WIDTHS, xp)
    return xp.log(scale) + widths


def log_density(log_probabilities: Array, y: Array, scaling: Scaling, xp: types.ModuleType = np) -> Array:
    """Log density of y, in nats per user unit, under a histogram over the bins that is uniform within each bin.

    Args:
      log_probabilities: [..., 1000], log of the probability of each bin (normalized by the caller).
      y: [...], user units, larger is better.
      scaling: arrays [...] or scalars.
      xp: array namespace.
    """
    bins = to_bins(y, scaling, xp)
    log_probability = xp.take_along_axis(xp.asarray(log_probabilities), bins[..., None], axis=-1)[..., 0]
    widths = xp.asarray(_LOG_WIDTHS, dtype=float)[bins]
    _, scale = _aligned(scaling, bins.ndim, xp)
    return log_probability - widths - xp.log(scale)
