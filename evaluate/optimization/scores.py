"""Scores of runs: regrets, ranks, shares of targets reached, and significance of differences.

Notation: P problems, O optimizers, S seeds, T trials.  All problems have the same weight, for any number of seeds.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from scipy import stats

from optformer.evaluate.optimization.problems import Scale
from optformer.evaluate.optimization.tuning import is_flat

TARGETS: Final = tuple(np.logspace(0, -4, 17))
"""Normalized regrets from 1 to 0.0001, for the share of targets reached (as COCO's, Hansen et al. 2021)."""

RESAMPLES: Final = 2000


@dataclasses.dataclass(frozen=True)
class Regrets:
    """Normalized regrets on the problems on which all optimizers ran.

    Attributes:
      problems: P names.
      families: P, the family of each.
      optimizers: O names.
      values: float64 [P, O, S, T], regret of the best trial so far: 0 at the best known value, 1 at the median of
        random points, and at most 1 as long as all trials were infeasible.
    """

    problems: list[str]
    families: list[str]
    optimizers: list[str]
    values: np.ndarray

    def only(self, family: str) -> "Regrets":
        """The regrets on one family of problems."""
        rows = [index for index, each in enumerate(self.families) if each == family]
        return dataclasses.replace(
            self,
            problems=[self.problems[row] for row in rows],
            families=[family] * len(rows),
            values=self.values[rows],
        )

    def mean(self, at: int) -> np.ndarray:
        """[P, O], the mean over seeds after `at` trials."""
        return np.asarray(self.values[..., at - 1].mean(axis=2))

    def ranks(self, at: int) -> np.ndarray:
        """[P, O], ranks averaged over seeds; 1 for the smallest regret, mean ranks for ties."""
        # Differences of less than a millionth of the scale do not matter in practice.
        rounded = np.round(self.values[..., at - 1], 6)
        return np.asarray(stats.rankdata(rounded, axis=1).mean(axis=2))

    def reached(self) -> np.ndarray:
        """[O, T], share of (problem, seed, target of `TARGETS`) that the best trial so far has reached."""
        shares = [(self.values <= target).mean(axis=(0, 2)) for target in TARGETS]
        return np.asarray(np.mean(shares, axis=0))


def regrets(
    curves: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
    maximized: Mapping[str, bool],
    families: Mapping[str, str],
    scales: Mapping[str, Scale],
    optimizers: Sequence[str],
    trials: int,
) -> Regrets:
    """Normalized regrets on the problems on which all of these optimizers have runs.

    Args:
      curves: problem -> optimizer -> for each seed, noiseless values [<= T], NaN if infeasible.  A run that ended early
        keeps its best.
      maximized: problem -> whether its goal is to maximize.
      families: problem -> its family.
      scales: problem -> its scale; a better value that any optimizer found replaces its best value.
      optimizers: O names.
      trials: T.
    """
    shared = [name for name, of in curves.items() if all(len(of.get(optimizer, ())) for optimizer in optimizers)]
    kept, values = [], []
    for name in shared:
        sign = -1.0 if maximized[name] else 1.0
        seeds = min(len(curves[name][optimizer]) for optimizer in optimizers)
        found = [sign * np.nanmin(sign * c) for of in curves[name].values() for c in of if np.isfinite(c).any()]
        best = sign * min(sign * value for value in [*found, scales[name].best])
        span = sign * (scales[name].reference - best)
        if span <= 0 or is_flat(best, scales[name].reference):
            continue
        rows = []
        for optimizer in optimizers:
            for curve in curves[name][optimizer][:seeds]:
                so_far = np.fmin.accumulate(sign * _extended(curve, trials))
                rows.append(np.where(np.isnan(so_far), 1.0, (so_far - sign * best) / span))
        kept.append(name)
        values.append(np.array(rows).reshape(len(optimizers), seeds, trials))
    seeds = min((each.shape[1] for each in values), default=0)
    stacked = np.stack([each[:, :seeds] for each in values]) if values else np.empty((0, len(optimizers), 0, trials))
    return Regrets(kept, [families[name] for name in kept], list(optimizers), stacked)


def _extended(curve: np.ndarray, trials: int) -> np.ndarray:
    curve = np.asarray(curve, dtype=float)[:trials]
    return np.concatenate([curve, np.full(trials - len(curve), np.nan)])


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over problems and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def over_problems(values: np.ndarray, seed: int = 0) -> list[Interval]:
    """[P, O] -> O means with percentile intervals; problems are drawn with replacement, the same for all optimizers."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975], axis=0)
    return [Interval(*map(float, each)) for each in zip(values.mean(axis=0), low, high, strict=True)]


def difference(values: np.ndarray, first: int, second: int, seed: int = 0) -> Interval:
    """Mean difference of two columns of [P, O], paired by problem."""
    return over_problems((values[:, first] - values[:, second])[:, None], seed)[0]


def paired(values: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean differences of the columns of [P, O] from the column `base`, and their standard errors; both [O].

    The standard errors are those of means of differences paired by problem; NaN for a single problem.
    """
    differences = values - values[:, [base]]
    count = len(values)
    errors = differences.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(values.shape[1], np.nan)
    return differences.mean(axis=0), errors


@dataclasses.dataclass(frozen=True)
class Significance:
    """Friedman's test over average ranks and Nemenyi's critical difference (Demšar 2006), at 5 %.

    Attributes:
      p: p-value of the hypothesis that all optimizers are equal.
      critical: smallest significant difference of two average ranks.
      cliques: maximal groups of optimizers (indices by rank) that do not differ significantly.
    """

    p: float
    critical: float
    cliques: list[list[int]]


def significance(ranks: np.ndarray) -> Significance | None:
    """The significance of ranks [P, O]; None for fewer than 3 optimizers or 2 problems, where there is no such test."""
    problems, count = ranks.shape
    if count < 3 or problems < 2:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        p = float(stats.friedmanchisquare(*ranks.T).pvalue)
    quantile = float(stats.studentized_range.ppf(0.95, count, np.inf)) / np.sqrt(2)
    critical = float(quantile * np.sqrt(count * (count + 1) / (6 * problems)))
    means = ranks.mean(axis=0)
    order = np.argsort(means, kind="stable")
    cliques: list[list[int]] = []
    for start in range(count):
        members = [int(each) for each in order[start:] if means[each] - means[order[start]] <= critical]
        if len(members) > 1 and not any(set(members) <= set(clique) for clique in cliques):
            cliques.append(members)
    return Significance(p, critical, cliques)


def wins(values: np.ndarray, first: int) -> list[tuple[int, int]]:
    """Numbers of problems on which the column `first` of [P, O] is better, and worse, than each other one."""
    others = [index for index in range(values.shape[1]) if index != first]
    return [
        (
            int((values[:, first] < values[:, other] - 1e-6).sum()),
            int((values[:, first] > values[:, other] + 1e-6).sum()),
        )
        for other in others
    ]


def traps(of_family: Mapping[str, Regrets], optimizer: str, baseline: str, at: Sequence[int]) -> list[str]:
    """Where the mean regret of an optimizer exceeds the baseline's: `family after n trials: .12 against .10`."""
    found = []
    for (family, each), trials in itertools.product(of_family.items(), at):
        mean = each.mean(trials).mean(axis=0)
        own, other = (mean[each.optimizers.index(name)] for name in (optimizer, baseline))
        if own > other + 1e-9:
            found.append(f"{family} after {trials} trials: {own:.3f} against {other:.3f}")
    return found
