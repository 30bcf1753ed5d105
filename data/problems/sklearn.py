"""Machine-learning models of scikit-learn on real and synthetic data sets, as Vizier experimenters.

Nothing is downloaded, and an evaluation takes milliseconds to about a second.  The objective is a cross-validated score
on fixed folds, so it is a deterministic function of the parameters.
"""

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import threadpoolctl
from sklearn import model_selection, pipeline, preprocessing
from sklearn.exceptions import ConvergenceWarning
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems.sklearn_data import DATA_SETS
from optformer.data.problems.sklearn_models import FAMILIES, Parameters
from optformer.data.problems.sklearn_wide_models import WIDE_FAMILIES

NUM_FOLDS = 3

CLASSIFICATION = ("digits", "wine", "breast_cancer")
REGRESSION = ("diabetes",)

HELD_OUT: Final = (
    "boosting@wine",
    "mlp@breast_cancer",
    "svr@diabetes",
    "forest@breast_cancer",
    "kernel_ridge@diabetes",
    "logistic@wine",
    "svc@digits",
    "boosting_regressor@diabetes",
)
"""Pairs for comparing optimizers (the first three are the demo's): never trained or tuned on."""

HELD_OUT_DATA: Final = ("wine",)
"""Data sets all of whose wide pairs are held out, because they are among YAHPO's held-out ones (187 on OpenML)."""

_ALL_FAMILIES: Final = FAMILIES | WIDE_FAMILIES
_NARROW: Final = ("svc",)
"""Models without a limit of iterations, with which evaluations on other data sets may take minutes; `kernel_svc` has
a limit."""
_SLOW: Final = ("forest", "boosting", "forest_regressor")
"""Models that take a tenth of a second per evaluation: they are paired with every second data set only."""


def task_names() -> list[str]:
    """The pairs of 15 models and scikit-learn's own data sets, as `model@data`."""
    return [
        f"{name}@{data}"
        for name, family in FAMILIES.items()
        for data in (CLASSIFICATION if family.classifies else REGRESSION)
    ]


def wide_task_names() -> list[str]:
    """The pairs of all models except `svc` with all data sets, as `model@data`."""
    names = []
    for name, family in _ALL_FAMILIES.items():
        fitting = [data_name for data_name, data in DATA_SETS.items() if data.classifies == family.classifies]
        if name not in _NARROW:
            names += [f"{name}@{data_name}" for data_name in fitting[:: 2 if name in _SLOW else 1]]
    return names


def wide_held_out(task: str) -> bool:
    """Whether a pair is held out for comparisons: in `HELD_OUT`, similar to one of these, or on `HELD_OUT_DATA`."""
    model, data = task.split("@")
    kin = _ALL_FAMILIES[model].kin or model
    return data in HELD_OUT_DATA or not {f"{model}@{data}", f"{kin}@{data}"}.isdisjoint(HELD_OUT)


def search_space(task: str) -> vz.SearchSpace:
    """The search space of one of `task_names()` or `wide_task_names()`."""
    space = vz.SearchSpace()
    _ALL_FAMILIES[task.split("@")[0]].add_parameters(space.root)
    return space


@functools.cache
def _threads() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


class SklearnExperimenter(experimenters.Experimenter):
    """Tunes one model on one data set.

    Args:
      task: `model@data`, one of `task_names()` or `wide_task_names()`.
      max_samples: largest number of rows to use (a random subset), which limits the time of an evaluation.
      seed: seed of the rows and of the folds.

    Attributes:
      samples: number of rows used.
      features: number of columns of the data set.
      title: name of the model in words.
      data: name of the data set in words.

    Raises:
      ValueError: an unknown task.
      ModuleNotFoundError: the package of the data set is not installed.
    """

    def __init__(self, task: str, max_samples: int = 400, seed: int = 0):
        known = task_names() + wide_task_names()
        if task not in known:
            raise ValueError(f"unknown task {task!r}; known: {', '.join(dict.fromkeys(known))}")
        self.task = task
        model_name, data_name = task.split("@")
        self._family = _ALL_FAMILIES[model_name]
        self.title, self.data = self._family.title, DATA_SETS[data_name].phrase
        features, target = DATA_SETS[data_name].load()
        order = np.random.default_rng(seed).permutation(len(target))[:max_samples]
        self._features, self._target = features[order], target[order]
        self.samples, self.features = self._features.shape
        if self._family.classifies:
            folds: Any = model_selection.StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
            self._metric, self._scoring = (
                ("log_loss", "neg_log_loss") if self._family.has_probabilities else ("error_rate", "accuracy")
            )
        else:
            folds = model_selection.KFold(NUM_FOLDS, shuffle=True, random_state=seed)
            # Standardizing does not change R2, and suits the usual ranges of C, epsilon and learning rates.
            self._target = (self._target - self._target.mean()) / self._target.std()
            self._metric, self._scoring = "r2", "r2"
        self._folds = list(folds.split(self._features, self._target))

    def problem_statement(self) -> vz.ProblemStatement:
        problem = vz.ProblemStatement(search_space(self.task))
        goal = vz.ObjectiveMetricGoal.MAXIMIZE if self._metric == "r2" else vz.ObjectiveMetricGoal.MINIMIZE
        problem.metric_information.append(vz.MetricInformation(name=self._metric, goal=goal))
        problem.metadata.ns("optformer")["title"] = self.task
        return problem

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial with its cross-validated score (for error rate and log loss, less is better).

        A trial is infeasible if no fold could be fitted.
        """
        for trial in suggestions:
            score = self.score(trial.parameters.as_dict())
            if math.isnan(score):
                trial.complete(vz.Measurement(), infeasibility_reason="no fold could be fitted")
            else:
                trial.complete(vz.Measurement(metrics={self._metric: score}))

    def score(self, parameters: Parameters) -> float:
        """The metric at these parameters, in its own units; NaN if no fold could be fitted."""
        model = pipeline.make_pipeline(preprocessing.StandardScaler(), self._family.build(parameters))
        # One thread, because another order of summation changes the last bits, and a corpus must be reproducible.
        with warnings.catch_warnings(), np.errstate(all="ignore"), _threads().limit(limits=1):
            # Settings that do not converge, diverge or overflow are part of tuning; they get a bad score.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", UserWarning)
            try:
                scores = model_selection.cross_val_score(
                    model, self._features, self._target, cv=self._folds, scoring=self._scoring, error_score=np.nan
                )
            except ValueError:  # all fits failed
                return math.nan
        score = float(np.mean(scores))
        if self._metric == "r2":
            # R2 of a diverged regressor is extremely negative; values below -1 carry no information.
            return max(score, -1.0) if np.isfinite(score) else -1.0
        return 1.0 - score if self._metric == "error_rate" else -score
