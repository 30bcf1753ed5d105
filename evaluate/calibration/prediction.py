"""Cuts studies after n trials and predicts the later trials from those n, by the model and by the baselines.

Densities are in the units of the objective, so that predictors can be compared.  For comparisons of studies, they are
relative to the uniform density over the range of the whole study, including the predicted trials (as in Chen et al.
2022, section 6.3; this is an advantage for the uniform density).

Notation: n history length, m predicted trials, y_min, y_max the range of the study's objectives.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import threadpoolctl
from vizier import pyvizier as vz

from optformer.evaluate.calibration.forecasts import Forecast, UniformForecast, WarpedForecast
from optformer.evaluate.calibration.gaussian_process import (
    feature_parameters,
    fit_warped_process,
    gaussian_process_forecast,
    gaussian_process_log_density,
    unit_features,
)
from optformer.evaluate.calibration.output_warps import OutputWarp, fit_output_warps
from optformer.evaluate.calibration.vizier_process import vizier_is_installed, vizier_process_forecast
from optformer.evaluate.optimization import objective_values
from optformer.serialization.space import StudySchema

if TYPE_CHECKING:
    from optformer.facade import Candidate

CLASSES: Final = 100
"""Number of equal classes of a range for calibration errors (Chen et al. 2022, appendix E.2)."""
WIDENED: Final = 0.5
"""By how much the range is widened at either end, as a share of it, since later objectives may lie outside."""
MODEL: Final = "optformer"


class Predictor(Protocol):
    """The part of `OptFormer` that is measured."""

    def predict(
        self, problem: vz.ProblemStatement, trials: Sequence[vz.Trial], candidates: "Sequence[Candidate]", /
    ) -> Forecast: ...


# --- One study, cut ---


@dataclasses.dataclass(frozen=True)
class StudyCut:
    """A study as the predictors see it: n known trials, and m later ones to predict.

    Attributes:
      problem: problem of the study, with a single objective.
      known, later: trials with finite objectives; failed ones are left out for all predictors.
      y, y_new: [n], [m], their objectives.
      low, high: range of the objectives of the whole study.
    """

    problem: vz.ProblemStatement
    known: list[vz.Trial]
    later: list[vz.Trial]
    y: np.ndarray
    y_new: np.ndarray
    low: float
    high: float


def cut_study(study: vz.ProblemAndTrials, history: int, max_predicted: int, enough_known: int = 2) -> StudyCut | None:
    """The study cut after `history` feasible trials; None if it cannot be used.

    It cannot be used if it has too few trials, if the known objectives have fewer than `enough_known` different values,
    or if the range of all objectives is empty or overflows.
    """
    values = objective_values(study.problem, study.trials)
    feasible = np.flatnonzero(np.isfinite(values))
    known, later = feasible[:history], feasible[history : history + max_predicted]
    if len(known) < history or not len(later) or len(np.unique(values[known])) < enough_known:
        return None
    low, high = float(values[feasible].min()), float(values[feasible].max())
    if not 0 < high - low < np.inf:
        return None
    return StudyCut(
        study.problem,
        [study.trials[i] for i in known],
        [study.trials[i] for i in later],
        values[known],
        values[later],
        low,
        high,
    )


# --- Baselines ---


def baseline_forecasts(cut: StudyCut, names: Sequence[str]) -> dict[str, Forecast]:
    """The named baselines of `BASELINES`, fitted to the known trials of the cut."""
    # One thread: with matrices of a few dozen rows, threads would only wait for each other.
    with threadpoolctl.threadpool_limits(1):
        return _baseline_forecasts(cut, names)


def _baseline_forecasts(cut: StudyCut, names: Sequence[str]) -> dict[str, Forecast]:
    schema = StudySchema(cut.problem)
    x, x_new = unit_features(schema, cut.known), unit_features(schema, cut.later)
    forecasts: dict[str, Forecast] = {}
    if "uniform" in names:
        forecasts["uniform"] = UniformForecast(cut.low, cut.high, len(cut.later))
    if "marginal" in names:
        forecasts["marginal"] = marginal_forecast(cut.y, len(cut.later))
    if "gp" in names:
        forecasts["gp"] = gaussian_process_forecast(x, cut.y, x_new)
    if "gp_warped" in names or "gp_averaged" in names:
        fitted = fit_warped_process(x, cut.y, feature_parameters(schema))
        if "gp_warped" in names:
            forecasts["gp_warped"] = fitted.forecast(x_new)
        if "gp_averaged" in names:
            forecasts["gp_averaged"] = fitted.averaged_forecast(x_new)
    if "vizier_gp" in names:
        forecasts["vizier_gp"] = vizier_process_forecast(cut.problem, cut.known, cut.later)
    return forecasts


BASELINES: Final[Mapping[str, str]] = {
    "uniform": "uniform over the study's range, known in hindsight",
    "marginal": "Student-t of the known objectives, warped; blind to the parameters",
    "gp": "Gaussian process as scikit-learn's users fit it: maximum likelihood",
    "gp_warped": "Gaussian process with priors, input and output warps, Student-t predictions",
    "gp_averaged": "the same, averaged over its hyperparameters' posterior",
    "vizier_gp": "Vizier's Gaussian process",
}
"""Baseline -> description."""


def available_baselines() -> list[str]:
    """Names of `BASELINES` that can run: `vizier_gp` needs packages that Vizier does not install by itself."""
    return [name for name in BASELINES if name != "vizier_gp" or vizier_is_installed()]


def marginal_forecast(y: np.ndarray, count: int) -> WarpedForecast:
    """The next value of an independent normal sample after the most probable output warp: Student-t, n - 1 degrees."""

    def log_likelihood(warp: OutputWarp) -> float:
        # The warp standardizes, so that the normal likelihood of its values is the same for all.
        return float(warp.log_slope(y).sum()) + warp.log_prior

    warp = max(fit_output_warps(y), key=log_likelihood)
    n = len(y)
    scale = np.sqrt(n / (n - 1) * (1 + 1 / n))
    return WarpedForecast(np.zeros(count), np.full(count, scale), warp, float(n - 1))


# --- Scores of forecasts ---


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of one predictor's forecasts of m trials.

    Attributes:
      log_density: [m], nats per unit of the objective.
      class_log_score: [m], log probability of the right one of `CLASSES` equal classes, relative to the uniform; at
        most log(`CLASSES`), also if objectives take few values, for which a density has no bound.
      pit: [m], distribution function at the outcome; uniform if the predictor is calibrated.
      confidence: [m], probability of the most probable of `CLASSES` equal classes of the known objectives' range,
        widened.
      correct: bool [m], whether the outcome is in that class.
      hindsight_confidence, hindsight_correct: the same for classes of the whole study's range, as in the paper.
      mean, median: [m], point predictions in the objective's units.
    """

    log_density: np.ndarray
    class_log_score: np.ndarray
    pit: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    hindsight_confidence: np.ndarray
    hindsight_correct: np.ndarray
    mean: np.ndarray
    median: np.ndarray


def score_forecast(forecast: Forecast, cut: StudyCut) -> Scored:
    """Scores m forecasts.

    Classes divide the real line: those at the ends reach to infinity.  Confidence is measured on classes that depend
    only on the known objectives; there, a correct predictor is calibrated.  On classes of the whole study's range it is
    not, because that range ends at the extreme outcomes, so no outcome is ever beyond it.
    """
    width = cut.y.max() - cut.y.min()
    confidence, correct, _ = _classes(forecast, cut, cut.y.min() - WIDENED * width, cut.y.max() + WIDENED * width)
    hindsight_confidence, hindsight_correct, right = _classes(forecast, cut, cut.low, cut.high)
    return Scored(
        log_density=np.asarray(forecast.log_prob(cut.y_new), dtype=float),
        class_log_score=np.log(np.maximum(right, 1e-300)) + np.log(CLASSES),
        pit=np.clip(np.asarray(forecast.cdf(cut.y_new), dtype=float), 0.0, 1.0),
        confidence=confidence,
        correct=correct,
        hindsight_confidence=hindsight_confidence,
        hindsight_correct=hindsight_correct,
        mean=np.asarray(forecast.mean, dtype=float),
        median=np.asarray(forecast.quantile(0.5), dtype=float),
    )


def _classes(forecast: Forecast, cut: StudyCut, low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For `CLASSES` equal classes of a range, [m] each: the probability of the most probable class, whether the outcome
    is in it, and the probability of the class of the outcome."""
    y = cut.y_new
    inner = np.linspace(low, high, CLASSES + 1)[1:-1]
    cumulative = np.asarray(forecast.cdf(np.broadcast_to(inner[:, None], (len(inner), len(y)))))
    ends = np.zeros((1, len(y))), np.ones((1, len(y)))
    probability = np.clip(np.diff(np.concatenate([ends[0], cumulative, ends[1]]), axis=0), 0.0, 1.0)  # [class, m]
    actual = np.searchsorted(inner, y, side="right")
    return probability.max(axis=0), probability.argmax(axis=0) == actual, probability[actual, np.arange(len(y))]


@dataclasses.dataclass(frozen=True)
class StudyScores:
    """All predictors on one study at one history length.

    Attributes:
      data_set: data set of the study.
      study: name of the study.
      group: name of a group of dependent studies (a repository, a data set).
      history: n.
      observed: [m], outcomes.
      low, high: range of the study's objectives.
      scored: predictor -> scores.
    """

    data_set: str
    study: str
    group: str
    history: int
    observed: np.ndarray
    low: float
    high: float
    scored: dict[str, Scored]

    @property
    def span(self) -> float:
        return self.high - self.low


def score_study(
    model: Predictor,
    study: vz.ProblemAndTrials,
    history: int,
    baselines: Sequence[str],
    max_predicted: int,
    roll_forward: bool = False,
    data_set: str = "",
    name: str = "",
    group: str = "",
) -> StudyScores | None:
    """Scores of the model and the baselines on the trials after the first `history`; None as for `cut_study`.

    Args:
      model: the model.
      study: a study with a single objective.
      history: n.
      baselines: names of `BASELINES`.
      max_predicted: largest m.
      roll_forward: predict each trial from all before it, instead of all from the first n.
      data_set, name, group: as in `StudyScores`.
    """
    whole = cut_study(study, history, max_predicted)
    if whole is None:
        return None
    steps = len(whole.later) if roll_forward else 1
    parts: dict[str, list[Scored]] = {}
    for step in range(steps):
        cut = cut_study(study, history + step, 1) if roll_forward else whole
        assert cut is not None  # the longer history contains the shorter
        forecasts = {MODEL: model.predict(cut.problem, cut.known, cut.later), **baseline_forecasts(cut, baselines)}
        for predictor, forecast in forecasts.items():
            parts.setdefault(predictor, []).append(score_forecast(forecast, cut))
    scored = {
        predictor: Scored(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in scores])
                for field in dataclasses.fields(Scored)
            }
        )
        for predictor, scores in parts.items()
    }
    return StudyScores(data_set, name, group or name, history, whole.y_new, whole.low, whole.high, scored)


# --- For the demo ---


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Log densities of the same trials under each model, in nats, in the objective's units.

    Attributes:
      history: n.
      uniform: float64 [m].
      gaussian_process: float64 [m].
      model: float64 [m].
      observed: float64 [m], outcomes.
      median: float64 [m], the model's median.
      low: float64 [m], its 5 % quantile.
      high: float64 [m], its 95 % quantile.
      study: [m], index of the study of each trial.
    """

    history: int
    uniform: np.ndarray
    gaussian_process: np.ndarray
    model: np.ndarray
    observed: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    study: np.ndarray

    def coverage(self) -> float:
        """Share of trials inside the model's 90 % interval."""
        return float(np.mean((self.low <= self.observed) & (self.observed <= self.high)))


def predict_studies(
    model: Predictor,
    studies: Sequence[vz.ProblemAndTrials],
    history: int,
    max_predicted: int = 20,
    after_study: Callable[[], None] = lambda: None,
) -> Predicted:
    """Log densities of the trials after the first `history`, for every study that is long enough.

    Raises:
      ValueError: no study has more than `history` feasible trials.
    """
    parts: list[dict[str, np.ndarray]] = []
    for index, study in enumerate(studies):
        cut = cut_study(study, history, max_predicted)
        if cut is None:
            continue
        prediction = model.predict(cut.problem, cut.known, cut.later)
        schema = StudySchema(cut.problem)
        parts.append(
            {
                "uniform": np.full(len(cut.later), -np.log(cut.high - cut.low)),
                "gaussian_process": gaussian_process_log_density(
                    unit_features(schema, cut.known), cut.y, unit_features(schema, cut.later), cut.y_new
                ),
                "model": np.asarray(prediction.log_prob(cut.y_new)),
                "observed": cut.y_new,
                "median": np.asarray(prediction.quantile(0.5)),
                "low": np.asarray(prediction.quantile(0.05)),
                "high": np.asarray(prediction.quantile(0.95)),
                "study": np.full(len(cut.later), index),
            }
        )
        after_study()
    if not parts:
        raise ValueError(f"no study has more than {history} feasible trials with different objectives")
    return Predicted(history, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
