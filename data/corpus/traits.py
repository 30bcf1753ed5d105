"""Traits of the task behind a study: numbers that are comparable between tasks with any space and any metric.

    traits = measure(Task.of(EncodedStudy(problem, trials)), np.random.default_rng(0))

They are meant for randomly drawn trials; trials chosen by an optimizer are concentrated where values are good.  All but
the moments depend only on the order of the values, so that monotone transformations of a metric do not matter.

Notation: N trials (without repeats), D slots, q their tokens, v values, larger is better, r their normal scores: the
normal distribution's quantiles at the values' ranks, ties sharing a rank, scaled to mean 0 and variance 1.

  distance of two trials   mean over slots of |q - q'| / (L - 1); 0 or 1 for a category, or if one of them is inactive
  correlation at a distance   1 - mean (r - r')^2 / 2 over the pairs of that distance (one minus the variogram)
  main effect of a slot   share of the variance of r between groups of its values, corrected for chance (epsilon
                          squared; Kelley 1935); groups are categories, or five intervals of an ordered slot
  neighbouring values     of an ordered slot of few values with a main effect: 1 - (g_1 - g_0) / (g - g_0), where g is
                          mean (r - r')^2 over pairs of trials: g_0 with the same value, g_1 one value apart, g all
"""

import itertools
from typing import Final, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import stats

from optformer.serialization import tokens
from optformer.serialization.space import OBSERVED
from optformer.serialization.study import EncodedStudy

PAIRS: Final = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Distance classes as shares of all pairs, the closest first."""
TRIALS: Final = 100
"""Largest number of trials used, the same for all tasks, since most traits depend on it."""
FEWEST: Final = 20
"""With fewer values a trait is NaN."""
NAN: Final = float("nan")
_GROUPS: Final = 5
_NEAREST: Final = 5
_FEWEST_FAILED: Final = 5
_SIGNIFICANT: Final = 0.01
_FEW_VALUES: Final = (5, 32)
_FEWEST_PAIRS: Final = 20


class Task(NamedTuple):
    """The trials of one study.

    Attributes:
      kinds, levels: int [D], kinds and numbers of levels of the slots.
      q: int [N, D], parameter tokens; INACTIVE where a slot is inactive.
      v: float64 [N], objectives, larger is better; NaN where unknown.
      failed: bool [N], trials that ran and failed.
    """

    kinds: Int[np.ndarray, " slot"]
    levels: Int[np.ndarray, " slot"]
    q: Int[np.ndarray, "trial slot"]
    v: Float64[np.ndarray, " trial"]
    failed: Bool[np.ndarray, " trial"]

    @classmethod
    def of(cls, study: EncodedStudy) -> Self:
        """The task of the first objective of a study."""
        values = np.where(study.statuses == OBSERVED, study.values[:, 0], np.nan)
        failed = study.statuses == tokens.INFEASIBLE
        return cls(study.schema.slot_kinds, study.schema.slot_levels, study.x_tokens, values, failed)


class Traits(NamedTuple):
    """The traits of one task.  NaN where the trials are not sufficient.

    Attributes:
      distinct: distinct values per trial.
      commonest: share of the trials that have the most common value.
      skew: L-skewness of the values, in [-1, 1]: above 0 if a few trials are far better than the others.
      tails: L-kurtosis, in [-1/4, 1]: .12 for a normal distribution.
      lead: distance from the median to the best, divided by that between the 10 % and 90 % quantiles.
      main_effects: sum of the slots' main effects, at most 1.
      relevant: slots with a main effect (Kruskal and Wallis, at the 1 % level).
      strongest: the largest main effect over the sum of all.
      neighbouring: similarity of neighbouring values of these, see above: near 1 for a smooth effect, 0 if the order of
        values has no meaning, below 0 if effects alternate.
      correlations: one per distance class, see `PAIRS`.
      equal_neighbours: share of the closest class's pairs whose values are equal.
      failed: share of the trials that failed.
      failed_together: probability that a failed trial has a larger share of failures among its five nearest trials
        than a successful one; 1/2 if failures occur anywhere.
      repeats: pairs of a trial and its next repeat.
      repeats_differ: share of these whose values differ.
      noise: standard deviation of a value between repeats, over that between trials.
    """

    distinct: float = NAN
    commonest: float = NAN
    skew: float = NAN
    tails: float = NAN
    lead: float = NAN
    main_effects: float = NAN
    relevant: float = NAN
    strongest: float = NAN
    neighbouring: float = NAN
    correlations: Float64[np.ndarray, " distance"] = np.full(len(PAIRS) - 1, NAN)
    equal_neighbours: float = NAN
    failed: float = NAN
    failed_together: float = NAN
    repeats: int = 0
    repeats_differ: float = NAN
    noise: float = NAN


def measure(task: Task, rng: np.random.Generator) -> Traits:
    """The traits of a task from at most `TRIALS` distinct trials, chosen at random if there are more.

    Raises:
      ValueError: no trial has a value or failed.
    """
    known = np.isfinite(task.v) | task.failed
    if not known.any():
        raise ValueError("no trial has a value or failed, so there is nothing to measure")
    task = task._replace(q=task.q[known], v=task.v[known], failed=task.failed[known])
    repeats, differ, noise = _repeats(task)
    _, first = np.unique(task.q, axis=0, return_index=True)
    first = rng.permutation(first)[:TRIALS]
    q, v, failed = task.q[first], task.v[first], task.failed[first]
    traits = Traits(
        failed=float(failed.mean()),
        failed_together=_failed_together(_distances(task, q), failed, rng),
        repeats=repeats,
        repeats_differ=differ,
        noise=noise,
    )
    q, v = q[~failed], v[~failed]
    if len(v) < FEWEST:
        return traits
    counts = np.unique(v, return_counts=True)[1]
    traits = traits._replace(distinct=len(counts) / len(v), commonest=counts.max() / len(v))
    if len(counts) == 1:
        return traits
    low, middle, high = np.quantile(v, [0.1, 0.5, 0.9])
    skew, tails = _l_moments(v)
    r = _normal_scores(v)
    effects, significant = zip(*(_main_effect(task, slot, q[:, slot], r) for slot in range(q.shape[1])), strict=True)
    positive = sum(max(effect, 0.0) for effect in effects)
    correlations, equal = _by_distance(_distances(task, q), v, r, rng)
    return traits._replace(
        skew=skew,
        tails=tails,
        lead=float((v.max() - middle) / (high - low)) if high > low else NAN,
        main_effects=min(max(sum(effects), 0.0), 1.0),
        relevant=sum(significant),
        strongest=max(effects) / positive if any(significant) else NAN,
        neighbouring=_neighbouring(task, np.flatnonzero(significant), q, r),
        correlations=correlations,
        equal_neighbours=equal,
    )


def _normal_scores(v: Float64[np.ndarray, " trial"]) -> Float64[np.ndarray, " trial"]:
    scores = stats.norm.ppf((stats.rankdata(v) - 0.5) / len(v))
    return (scores - scores.mean()) / scores.std()


def _l_moments(v: Float64[np.ndarray, " trial"]) -> tuple[float, float]:
    """L-skewness and L-kurtosis (Hosking 1990): bounded, and more robust than the moments of third and fourth order.

    Computed from unbiased probability-weighted moments b_k = mean of binom(i, k) / binom(N - 1, k) * (i-th smallest
    value).
    """
    v = np.sort(v)
    v = (v - v.mean()) / np.abs(v - v.mean()).max()
    count, place = len(v), np.arange(len(v))
    weight = np.ones(count)
    b = []
    for k in range(4):
        b.append((weight * v).mean())
        weight = weight * (place - k) / (count - 1 - k)
    second = 2 * b[1] - b[0]
    return (
        float((6 * b[2] - 6 * b[1] + b[0]) / second),
        float((20 * b[3] - 30 * b[2] + 12 * b[1] - b[0]) / second),
    )


def _distances(task: Task, q: Int[np.ndarray, "trial slot"]) -> Float64[np.ndarray, "trial trial"]:
    total = np.zeros((len(q), len(q)))
    for kind, levels, at in zip(task.kinds, task.levels, q.T, strict=True):
        unlike = at[:, None] != at[None, :]
        if kind == tokens.CATEGORICAL:
            total += unlike
            continue
        there = at < tokens.NUM_LEVELS
        both = there[:, None] & there[None, :]
        total += np.where(both, np.abs(at[:, None] - at[None, :]) / max(levels - 1, 1), unlike)
    return total / q.shape[1]


def _by_distance(
    distances: Float64[np.ndarray, "trial trial"],
    v: Float64[np.ndarray, " trial"],
    r: Float64[np.ndarray, " trial"],
    rng: np.random.Generator,
) -> tuple[Float64[np.ndarray, " distance"], float]:
    left, right = np.triu_indices(len(v), 1)
    # Pairs of equal distance, as in grids, are assigned to classes at random.
    order = np.lexsort((rng.random(len(left)), distances[left, right]))
    left, right = left[order], right[order]
    alike = 1.0 - 0.5 * np.square(r[left] - r[right])
    ends = np.round(np.asarray(PAIRS) * len(left)).astype(int)
    correlations = np.array([alike[begin:end].mean() for begin, end in itertools.pairwise(ends)])
    return correlations, float((v[left] == v[right])[: ends[1]].mean())


def _main_effect(
    task: Task, slot: int, q: Int[np.ndarray, " trial"], r: Float64[np.ndarray, " trial"]
) -> tuple[float, bool]:
    """Main effect of a slot, and whether it is significant.

    Computed among the trials in which the slot is active, as a share of the variance of all trials.  The effect of
    being active belongs to the parent.
    """
    there = q < tokens.NUM_LEVELS
    values, value = np.unique(q[there], return_inverse=True)
    r_there, count = r[there], int(there.sum())
    if len(values) < 2 or count < FEWEST:
        return 0.0, False
    if task.kinds[slot] != tokens.CATEGORICAL and len(values) > _GROUPS:
        # Equal values stay in one group.
        edges = np.quantile(q[there], np.linspace(0.0, 1.0, _GROUPS + 1)[1:-1])
        value = np.searchsorted(edges, q[there], side="right")
    groups = [r_there[value == each] for each in np.unique(value)]
    if len(groups) < 2 or len(groups) > count // 2 or r_there.min() == r_there.max():
        return 0.0, False
    within = sum(float(np.square(group - group.mean()).sum()) for group in groups)
    total = float(np.square(r_there - r_there.mean()).sum())
    between = total - within - (len(groups) - 1) * within / (count - len(groups))
    return between / float(np.square(r).sum()), bool(stats.kruskal(*groups).pvalue < _SIGNIFICANT)


def _neighbouring(
    task: Task, slots: Int[np.ndarray, " some_slot"], q: Int[np.ndarray, "trial slot"], r: Float64[np.ndarray, " trial"]
) -> float:
    by_all, by_one = 0.0, 0.0
    left, right = np.triu_indices(len(r), 1)
    unlike = np.square(r[left] - r[right])
    for slot in slots:
        if task.kinds[slot] == tokens.CATEGORICAL or not _FEW_VALUES[0] <= task.levels[slot] <= _FEW_VALUES[1]:
            continue
        there = (q[left, slot] < tokens.NUM_LEVELS) & (q[right, slot] < tokens.NUM_LEVELS)
        apart = np.where(there, np.abs(q[left, slot] - q[right, slot]), -1)
        if min((apart == 0).sum(), (apart == 1).sum()) < _FEWEST_PAIRS:
            continue
        by_all += float(unlike[there].mean() - unlike[apart == 0].mean())
        by_one += float(unlike[apart == 1].mean() - unlike[apart == 0].mean())
    return 1.0 - by_one / by_all if by_all > 0.0 else NAN


def _failed_together(
    distances: Float64[np.ndarray, "trial trial"], failed: Bool[np.ndarray, " trial"], rng: np.random.Generator
) -> float:
    """ROC AUC of predicting failure from the nearest trials, leaving one out."""
    if min(failed.sum(), (~failed).sum()) < _FEWEST_FAILED:
        return float("nan")
    apart = distances + 1e-9 * rng.random(distances.shape)
    np.fill_diagonal(apart, np.inf)
    votes = failed[np.argsort(apart, axis=1)[:, :_NEAREST]].mean(1)
    above = votes[failed][:, None] - votes[~failed][None, :]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def _repeats(task: Task) -> tuple[int, float, float]:
    """Over pairs of a trial and its next repeat, both with a value: number, share that differ, and the noise."""
    _, place = np.unique(task.q, axis=0, return_inverse=True)
    place = np.where(np.isfinite(task.v), place.ravel(), -1)
    order = np.argsort(place, kind="stable")
    v, same = task.v[order], (np.diff(place[order]) == 0) & (place[order][1:] >= 0)
    differences = np.diff(v)[same]
    spread = np.nanstd(task.v) if np.isfinite(task.v).any() else 0.0
    if not len(differences) or spread == 0.0:
        return len(differences), NAN, NAN
    return (
        len(differences),
        float((differences != 0.0).mean()),
        float(np.sqrt(np.square(differences).mean() / 2) / spread),
    )
