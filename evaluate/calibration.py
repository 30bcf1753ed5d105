"""How well objectives are predicted: log density of unseen trials, against a uniform density and a fitted GP.

A study is cut after n trials; every model sees those n and predicts the later ones one by one, each from the first n
only.  Densities are in the objective's own units, so they compare across models; the uniform density lies over the
range of the whole study, the predicted trials included (the normaliser of Chen et al. 2022, section 6.3), which
flatters the uniform.

Notation: n history length, m predicted trials.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from vizier import pyvizier as vz

from optformer.evaluate.optimization import objective_values
from optformer.facade import OptFormer
from optformer.serialization import tokens
from optformer.serialization.space import StudySchema


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Log densities of the same trials under each model, in nats, in the objective's units.

    Attributes:
      history: n.
      uniform: float64 [m].
      gaussian_process: float64 [m].
      model: float64 [m].
      observed: float64 [m], what came out.
      median: float64 [m], the model's median.
      low: float64 [m], its 5 % quantile.
      high: float64 [m], its 95 % quantile.
      study: [m], which study each trial is of.
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


def unit_features(schema: StudySchema, trials: Sequence[vz.Trial]) -> np.ndarray:
    """float64 [T, F]: ordered parameters as their place in the unit interval, categories one-hot, inactive 0.5."""
    x_tokens = schema.encode(trials)
    columns = []
    for slot, (kind, levels) in enumerate(zip(schema.slot_kinds, schema.slot_levels, strict=True)):
        column = x_tokens[:, slot]
        active = column < tokens.NUM_LEVELS
        if kind == tokens.CATEGORICAL:
            columns.append((column[:, None] == np.arange(levels)).astype(float))
        else:
            columns.append(np.where(active, column / (levels - 1), 0.5)[:, None])
    return np.concatenate(columns, axis=1)


def gaussian_process_log_density(x: np.ndarray, y: np.ndarray, x_new: np.ndarray, y_new: np.ndarray) -> np.ndarray:
    """float64 [m]: Matern-5/2 GP with ARD and noise, maximum likelihood with restarts, standardised objective."""
    center, scale = y.mean(), y.std() or 1.0
    kernel = kernels.ConstantKernel(1.0, (1e-2, 1e2)) * kernels.Matern(
        np.full(x.shape[1], 0.5), (1e-2, 1e2), nu=2.5
    ) + kernels.WhiteKernel(1e-3, (1e-6, 1e0))
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        # A length scale at its bound is an answer here, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(x, (y - center) / scale)
        mean, deviation = process.predict(x_new, return_std=True)
    z = ((y_new - center) / scale - mean) / deviation
    return -0.5 * z**2 - np.log(deviation) - np.log(scale) - 0.5 * np.log(2 * np.pi)


def predict_studies(
    model: OptFormer,
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
        values = objective_values(study.problem, study.trials)
        feasible = np.flatnonzero(np.isfinite(values))
        known, later = feasible[:history], feasible[history : history + max_predicted]
        span = np.ptp(values[feasible]) if len(feasible) else 0.0
        if len(known) < history or not len(later) or span == 0 or np.ptp(values[known]) == 0:
            continue
        history_trials = [study.trials[i] for i in known]
        later_trials = [study.trials[i] for i in later]
        prediction = model.predict(study.problem, history_trials, later_trials)
        schema = StudySchema(study.problem)
        parts.append(
            {
                "uniform": np.full(len(later), -np.log(span)),
                "gaussian_process": gaussian_process_log_density(
                    unit_features(schema, history_trials),
                    values[known],
                    unit_features(schema, later_trials),
                    values[later],
                ),
                "model": np.asarray(prediction.log_prob(values[later])),
                "observed": values[later],
                "median": np.asarray(prediction.quantile(0.5)),
                "low": np.asarray(prediction.quantile(0.05)),
                "high": np.asarray(prediction.quantile(0.95)),
                "study": np.full(len(later), index),
            }
        )
        after_study()
    if not parts:
        raise ValueError(f"No study has more than {history} feasible trials with differing objectives.")
    return Predicted(history, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
