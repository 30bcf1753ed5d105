"""Figures of merit per data set and history length, with bootstrap intervals over groups of studies.

Notation: S studies, G groups of studies, R bootstrap resamples, m trials of a study, c class confidences, a whether the
class was right.

All studies have the same weight, whatever their number of trials.  In calibration errors and histograms, all trials
have the same weight, as in the paper.  Resampling draws whole groups, since studies of one repository are not
independent.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from optformer.evaluate.calibration.prediction import MODEL, StudyScores

CONFIDENCE_BINS: Final = 10
PIT_BINS: Final = 20
COVERAGES: Final = (0.5, 0.8, 0.9, 0.95)
RESAMPLES: Final = 1000
INTERVAL: Final = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PredictorSummary:
    """One predictor on one data set at one history length.

    Attributes:
      log_density: mean over studies, nats per unit of each objective.
      relative: the same relative to the uniform density over the study's range.
      relative_median: median over trials of the relative log density.
      class_log_score: mean over studies of the log probability of the right class of 100, relative to the uniform.
      calibration_error: expected calibration error, 100 classes that the known objectives fix, 10 bins, in [0, 1].
      hindsight_error: the same with classes of the whole study's range, as in Chen et al. 2022; above 0 even for a
        correct predictor.
      chance_error: the calibration error that a perfectly calibrated predictor has by chance, with these confidences
        and as many independent trials; errors of this size are not significant.
      coverage: nominal -> share of trials inside the central interval.
      rmse: root mean square over studies of the mean's error, in ranges of the study.
      median_error: mean over studies of the median's absolute error, in ranges of the study.
      rank_correlation: Spearman's, of mean and outcome, mean over studies with at least three predicted trials and
        outcomes that differ; 0 for a constant prediction.  NaN where there is no such study.
      pit_histogram: [20], shares.
      reliability: [10, 3], per bin of confidence: share of trials, mean confidence, accuracy.
    """

    log_density: Estimate
    relative: Estimate
    relative_median: Estimate
    class_log_score: Estimate
    calibration_error: Estimate
    hindsight_error: Estimate
    chance_error: float
    coverage: dict[float, Estimate]
    rmse: Estimate
    median_error: Estimate
    rank_correlation: Estimate
    pit_histogram: np.ndarray
    reliability: np.ndarray


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The model against one baseline.

    Attributes:
      difference: difference of log density, mean over studies, in nats; positive if the model is better.
      share_ahead: share of studies with a larger mean log density under the model.
    """

    difference: Estimate
    share_ahead: Estimate


@dataclasses.dataclass(frozen=True)
class Summary:
    """All predictors on one data set at one history length."""

    data_set: str
    history: int
    studies: int
    groups: int
    trials: int
    predictors: dict[str, PredictorSummary]
    against: dict[str, Comparison]


def summarize(scores: Sequence[StudyScores], seed: int = 0) -> Summary:
    """The figures of the studies of one data set at one history length.

    Raises:
      ValueError: there are no studies, or studies of several data sets or histories.
    """
    kinds = {(score.data_set, score.history) for score in scores}
    if len(kinds) != 1:
        raise ValueError(f"summarize expects studies of one data set and history, got {sorted(kinds) or 'none'}")
    ((data_set, history),) = kinds
    resampling = Resampling([score.group for score in scores], seed)
    return Summary(
        data_set=data_set,
        history=history,
        studies=len(scores),
        groups=resampling.groups,
        trials=sum(len(score.observed) for score in scores),
        predictors={name: _summarize_predictor(scores, name, resampling) for name in scores[0].scored},
        against={
            name: _compare(scores, name, resampling)
            for name in scores[0].scored
            if name != MODEL and MODEL in scores[0].scored
        },
    )


class Resampling:
    """How often each group is drawn in each of R resamples; the first "resample" is the data itself."""

    def __init__(self, groups: Sequence[str], seed: int = 0):
        names, self.group_of = np.unique(np.asarray(groups), return_inverse=True)
        self.groups = len(names)
        drawn = np.random.default_rng(seed).multinomial(self.groups, np.full(self.groups, 1 / self.groups), RESAMPLES)
        self.weights = np.concatenate([np.ones((1, self.groups)), drawn])[:, self.group_of]  # [1 + R, S]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """[1 + R], mean over studies of values [S]; studies without one (NaN) are left out."""
        known = ~np.isnan(values)
        total = self.weights @ known.astype(float)
        # An infinite value times weight 0 is 0 here, not NaN.
        finite = np.isfinite(values)
        sums = self.weights @ np.where(finite, values, 0.0)
        for sign in (-np.inf, np.inf):
            hit = self.weights @ (values == sign).astype(float) > 0
            sums = np.where(hit, sign, sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, sums / total, np.nan)

    def median(self, values: np.ndarray, study: np.ndarray) -> np.ndarray:
        """[1 + R], median over trials of values [M]; `study` [M] is the index of each trial's study."""
        order = np.argsort(values, kind="stable")
        cumulative = np.cumsum(self.weights[:, study[order]], axis=1)
        half = 0.5 * cumulative[:, -1:]
        position = np.minimum((cumulative < half).sum(axis=1), len(values) - 1)
        return values[order][position]

    @staticmethod
    def estimate(figures: np.ndarray) -> Estimate:
        """The first figure, with the interval of the others."""
        resampled = figures[1:][~np.isnan(figures[1:])]
        if not len(resampled):
            return Estimate(float(figures[0]), math.nan, math.nan)
        # Order statistics without interpolation, which is undefined between a finite and an infinite figure.
        tail = (1 - INTERVAL) / 2
        low, high = np.quantile(resampled, [tail, 1 - tail], method="closest_observation")
        return Estimate(float(figures[0]), float(low), float(high))


def _summarize_predictor(scores: Sequence[StudyScores], name: str, resampling: Resampling) -> PredictorSummary:
    scored = [score.scored[name] for score in scores]
    study = np.repeat(np.arange(len(scores)), [len(score.observed) for score in scores])
    offsets = [math.log(score.span) for score in scores]
    relative = np.concatenate([s.log_density + offset for s, offset in zip(scored, offsets, strict=True)])
    pit = np.concatenate([s.pit for s in scored])

    def over_studies(values: Sequence[ArrayLike]) -> Estimate:
        return resampling.estimate(resampling.mean(np.asarray(values, dtype=float)))

    squares = [
        float(np.mean(((s.mean - score.observed) / score.span) ** 2)) for s, score in zip(scored, scores, strict=True)
    ]
    bins = np.stack([_bin_sums(s.confidence, s.correct) for s in scored])  # [S, 10, 3]
    hindsight_bins = np.stack([_bin_sums(s.hindsight_confidence, s.hindsight_correct) for s in scored])
    return PredictorSummary(
        log_density=over_studies([s.log_density.mean() for s in scored]),
        relative=over_studies([s.log_density.mean() + offset for s, offset in zip(scored, offsets, strict=True)]),
        relative_median=resampling.estimate(resampling.median(relative, study)),
        class_log_score=over_studies([s.class_log_score.mean() for s in scored]),
        calibration_error=resampling.estimate(_calibration_errors(bins, resampling)),
        hindsight_error=resampling.estimate(_calibration_errors(hindsight_bins, resampling)),
        chance_error=chance_calibration_error(np.concatenate([s.confidence for s in scored])),
        coverage={
            nominal: over_studies([np.mean(np.abs(s.pit - 0.5) <= nominal / 2) for s in scored])
            for nominal in COVERAGES
        },
        rmse=resampling.estimate(np.sqrt(resampling.mean(np.asarray(squares)))),
        median_error=over_studies(
            [np.mean(np.abs(s.median - score.observed)) / score.span for s, score in zip(scored, scores, strict=True)]
        ),
        rank_correlation=over_studies(
            [rank_correlation(s.mean, score.observed) for s, score in zip(scored, scores, strict=True)]
        ),
        pit_histogram=np.histogram(pit, bins=PIT_BINS, range=(0.0, 1.0))[0] / len(pit),
        reliability=_reliability(bins.sum(axis=0)),
    )


def _compare(scores: Sequence[StudyScores], baseline: str, resampling: Resampling) -> Comparison:
    difference = np.array(
        [(s.scored[MODEL].log_density.mean() - s.scored[baseline].log_density.mean()) for s in scores]
    )
    # A tie is half a win.
    ahead = 0.5 * (np.sign(np.nan_to_num(difference)) + 1.0)
    return Comparison(resampling.estimate(resampling.mean(difference)), resampling.estimate(resampling.mean(ahead)))


def rank_correlation(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Spearman's rank correlation; 0 for a constant prediction, NaN for fewer than three or constant outcomes."""
    if len(observed) < 3 or np.ptp(observed) == 0:
        return math.nan
    if np.ptp(predicted) == 0:
        return 0.0
    return float(stats.spearmanr(predicted, observed).statistic)


# --- Calibration of classes ---


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """sum_k (n_k / N) |accuracy_k - confidence_k| over 10 equal bins of confidence (Naeini et al. 2015)."""
    sums = _bin_sums(confidence, correct)
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / sums[:, 0].sum())


def chance_calibration_error(confidence: np.ndarray, draws: int = 200) -> float:
    """Mean calibration error of outcomes that are drawn independently with exactly these confidences."""
    confidence = np.clip(confidence, 0.0, 1.0)
    rng = np.random.default_rng(0)
    errors = [expected_calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(draws)]
    return float(np.mean(errors))


def _bin_sums(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """[10, 3], per bin of confidence: trials, sum of confidences, trials that were right."""
    index = np.clip(np.ceil(np.asarray(confidence) * CONFIDENCE_BINS).astype(int) - 1, 0, CONFIDENCE_BINS - 1)
    weights: Mapping[int, np.ndarray | None] = {0: None, 1: np.asarray(confidence), 2: np.asarray(correct, dtype=float)}
    return np.stack([np.bincount(index, weights[k], minlength=CONFIDENCE_BINS) for k in range(3)], axis=1).astype(float)


def _calibration_errors(bins: np.ndarray, resampling: Resampling) -> np.ndarray:
    sums = np.einsum("rs,skc->rkc", resampling.weights, bins)
    return np.abs(sums[..., 1] - sums[..., 2]).sum(axis=1) / sums[..., 0].sum(axis=1)


def _reliability(sums: np.ndarray) -> np.ndarray:
    count = np.maximum(sums[:, :1], 1.0)
    return np.where(sums[:, :1] > 0, np.concatenate([sums[:, :1] / sums[:, 0].sum(), sums[:, 1:] / count], axis=1), 0.0)
