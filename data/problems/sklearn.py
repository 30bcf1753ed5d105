"""Real machine-learning models on scikit-learn's bundled real data sets, as Vizier experimenters.

Everything is offline and takes milliseconds to about a second an evaluation: the data sets come with scikit-learn
(digits, wine, breast cancer, diabetes).  The objective is a cross-validated score on fixed folds, so an evaluation is
a deterministic function of its parameters.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import threadpoolctl
from sklearn import (
    datasets,
    ensemble,
    kernel_ridge,
    linear_model,
    model_selection,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

NUM_FOLDS = 3

Parameters: TypeAlias = Mapping[str, float | int | str | bool]

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
"""Pairs that optimizers are compared on (the demo's three first): never trained or tuned on."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model with its search space.

    Attributes:
      title: what the field calls it.
      build: parameters -> scikit-learn estimator.
      add_parameters: writes the search space into its root selector.
      classifies: True for a classifier (scored by log loss or accuracy), False for a regressor (scored by R2).
      has_probabilities: a classifier scored by cross-validated log loss; else by error rate.
    """

    title: str
    build: Callable[[Parameters], BaseEstimator]
    add_parameters: Callable[[vz.SearchSpaceSelector], None]
    classifies: bool
    has_probabilities: bool = True


def _float(root: vz.SearchSpaceSelector, name: str, low: float, high: float, log: bool = False) -> None:
    root.add_float_param(name, low, high, scale_type=vz.ScaleType.LOG if log else vz.ScaleType.LINEAR)


def _int(root: vz.SearchSpaceSelector, name: str, low: int, high: int, log: bool = False) -> None:
    root.add_int_param(name, low, high, scale_type=vz.ScaleType.LOG if log else vz.ScaleType.LINEAR)


def _svc_space(root: vz.SearchSpaceSelector) -> None:
    _float(root, "C", 1e-3, 1e3, log=True)
    root.add_categorical_param("kernel", ["rbf", "poly", "sigmoid"])
    _float(root, "gamma", 1e-5, 1e1, log=True)
    root.select("kernel", ["poly"]).add_int_param("degree", 2, 5)


def _svc(p: Parameters) -> BaseEstimator:
    return svm.SVC(C=p["C"], kernel=p["kernel"], gamma=p["gamma"], degree=p.get("degree", 3))


def _logistic_space(root: vz.SearchSpaceSelector) -> None:
    _float(root, "C", 1e-4, 1e3, log=True)
    _float(root, "l1_ratio", 0.0, 1.0)
    root.add_bool_param("fit_intercept")


def _logistic(p: Parameters) -> BaseEstimator:
    return linear_model.LogisticRegression(
        C=p["C"],
        l1_ratio=p["l1_ratio"],
        fit_intercept=p["fit_intercept"] in (True, "True"),
        solver="saga",
        max_iter=40,
        random_state=0,
    )


def _tree_space(root: vz.SearchSpaceSelector) -> None:
    _int(root, "max_depth", 1, 20)
    _float(root, "min_samples_split", 0.002, 0.5, log=True)
    _float(root, "max_features", 0.05, 1.0)
    _float(root, "ccp_alpha", 1e-5, 1e-1, log=True)


def _tree_classifier(p: Parameters) -> BaseEstimator:
    return tree.DecisionTreeClassifier(**p, random_state=0)


def _tree_regressor(p: Parameters) -> BaseEstimator:
    return tree.DecisionTreeRegressor(**p, random_state=0)


def _forest_space(root: vz.SearchSpaceSelector) -> None:
    _int(root, "n_estimators", 5, 60, log=True)
    _int(root, "max_depth", 1, 16)
    _float(root, "max_features", 0.05, 1.0)
    _int(root, "min_samples_leaf", 1, 40, log=True)


def _forest_classifier(p: Parameters) -> BaseEstimator:
    return ensemble.RandomForestClassifier(**p, random_state=0)


def _forest_regressor(p: Parameters) -> BaseEstimator:
    return ensemble.RandomForestRegressor(**p, random_state=0)


def _boosting_space(root: vz.SearchSpaceSelector) -> None:
    _float(root, "learning_rate", 1e-3, 1.0, log=True)
    _int(root, "n_estimators", 5, 80, log=True)
    _int(root, "max_depth", 1, 6)
    _float(root, "subsample", 0.3, 1.0)
    _float(root, "max_features", 0.05, 1.0)


def _boosting_classifier(p: Parameters) -> BaseEstimator:
    return ensemble.GradientBoostingClassifier(**p, random_state=0)


def _boosting_regressor(p: Parameters) -> BaseEstimator:
    return ensemble.GradientBoostingRegressor(**p, random_state=0)


def _mlp_space(root: vz.SearchSpaceSelector) -> None:
    _int(root, "hidden_units", 4, 64, log=True)
    _float(root, "learning_rate_init", 1e-4, 1e-1, log=True)
    _float(root, "alpha", 1e-7, 1e0, log=True)
    root.add_categorical_param("activation", ["relu", "tanh", "logistic"])
    root.add_discrete_param("batch_size", [16, 32, 64, 128])


def _mlp_options(p: Parameters) -> dict[str, object]:
    return {
        "hidden_layer_sizes": (int(p["hidden_units"]),),
        "learning_rate_init": p["learning_rate_init"],
        "alpha": p["alpha"],
        "activation": p["activation"],
        "batch_size": int(p["batch_size"]),
        "max_iter": 10,
        "random_state": 0,
    }


def _mlp_classifier(p: Parameters) -> BaseEstimator:
    return neural_network.MLPClassifier(**_mlp_options(p))


def _mlp_regressor(p: Parameters) -> BaseEstimator:
    return neural_network.MLPRegressor(**_mlp_options(p))


def _knn_space(root: vz.SearchSpaceSelector) -> None:
    _int(root, "n_neighbors", 1, 60, log=True)
    _float(root, "p", 1.0, 4.0)
    root.add_categorical_param("weights", ["uniform", "distance"])


def _knn_classifier(p: Parameters) -> BaseEstimator:
    return neighbors.KNeighborsClassifier(**p)


def _knn_regressor(p: Parameters) -> BaseEstimator:
    return neighbors.KNeighborsRegressor(**p)


def _elastic_net_space(root: vz.SearchSpaceSelector) -> None:
    _float(root, "alpha", 1e-4, 1e2, log=True)
    _float(root, "l1_ratio", 0.0, 1.0)


def _elastic_net(p: Parameters) -> BaseEstimator:
    return linear_model.ElasticNet(**p, max_iter=2000)


def _svr_space(root: vz.SearchSpaceSelector) -> None:
    _float(root, "C", 1e-3, 1e3, log=True)
    _float(root, "gamma", 1e-5, 1e1, log=True)
    _float(root, "epsilon", 1e-3, 1e0, log=True)


def _svr(p: Parameters) -> BaseEstimator:
    return svm.SVR(**p)


def _kernel_ridge_space(root: vz.SearchSpaceSelector) -> None:
    _float(root, "alpha", 1e-4, 1e2, log=True)
    _float(root, "gamma", 1e-5, 1e1, log=True)


def _kernel_ridge(p: Parameters) -> BaseEstimator:
    return kernel_ridge.KernelRidge(kernel="rbf", **p)


FAMILIES: dict[str, Family] = {
    "svc": Family("support vector classifier", _svc, _svc_space, classifies=True, has_probabilities=False),
    "logistic": Family("logistic regression", _logistic, _logistic_space, classifies=True),
    "tree": Family("decision tree", _tree_classifier, _tree_space, classifies=True),
    "forest": Family("random forest", _forest_classifier, _forest_space, classifies=True),
    "boosting": Family("gradient boosting", _boosting_classifier, _boosting_space, classifies=True),
    "mlp": Family("multilayer perceptron", _mlp_classifier, _mlp_space, classifies=True),
    "knn": Family("nearest neighbours", _knn_classifier, _knn_space, classifies=True, has_probabilities=False),
    "elastic_net": Family("elastic net", _elastic_net, _elastic_net_space, classifies=False),
    "svr": Family("support vector regression", _svr, _svr_space, classifies=False),
    "kernel_ridge": Family("kernel ridge regression", _kernel_ridge, _kernel_ridge_space, classifies=False),
    "tree_regressor": Family("regression tree", _tree_regressor, _tree_space, classifies=False),
    "forest_regressor": Family("random forest regression", _forest_regressor, _forest_space, classifies=False),
    "boosting_regressor": Family(
        "gradient boosting regression", _boosting_regressor, _boosting_space, classifies=False
    ),
    "mlp_regressor": Family("multilayer perceptron regression", _mlp_regressor, _mlp_space, classifies=False),
    "knn_regressor": Family("nearest neighbours regression", _knn_regressor, _knn_space, classifies=False),
}


def task_names() -> list[str]:
    """All model/data pairs, as `model@data`."""
    return [
        f"{name}@{data}"
        for name, family in FAMILIES.items()
        for data in (CLASSIFICATION if family.classifies else REGRESSION)
    ]


def search_space(task: str) -> vz.SearchSpace:
    """Of one of `task_names()`."""
    space = vz.SearchSpace()
    FAMILIES[task.split("@")[0]].add_parameters(space.root)
    return space


@functools.cache
def _threads() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


class SklearnExperimenter(experimenters.Experimenter):
    """Tunes one model on one data set.

    Args:
      task: `model@data`, one of `task_names()`.
      max_samples: rows of the data set in use (a random subset), which bounds the time of an evaluation.
      seed: of the rows and of the folds.

    Attributes:
      samples: rows in use.
      features: columns of the data set.
      title: of the model.

    Raises:
      ValueError: an unknown task.
    """

    def __init__(self, task: str, max_samples: int = 400, seed: int = 0):
        if task not in task_names():
            raise ValueError(f"Unknown task {task!r}; known: {', '.join(task_names())}.")
        self.task = task
        model_name, data_name = task.split("@")
        self._family = FAMILIES[model_name]
        self.title = self._family.title
        data = getattr(datasets, f"load_{data_name}")()
        order = np.random.default_rng(seed).permutation(len(data.target))[:max_samples]
        self._features, self._target = data.data[order], data.target[order]
        self.samples, self.features = self._features.shape
        if self._family.classifies:
            folds: Any = model_selection.StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
            self._metric, self._scoring = (
                ("log_loss", "neg_log_loss") if self._family.has_probabilities else ("error_rate", "accuracy")
            )
        else:
            folds = model_selection.KFold(NUM_FOLDS, shuffle=True, random_state=seed)
            # R2 does not change, but the usual ranges of C, epsilon and learning rates suit a unit scale.
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
        """Completes every trial with its cross-validated score (error rate and log loss: less is better)."""
        for trial in suggestions:
            trial.complete(vz.Measurement(metrics={self._metric: self.score(trial.parameters.as_dict())}))

    def score(self, parameters: Parameters) -> float:
        """The metric at these parameters, in its own units."""
        model = pipeline.make_pipeline(preprocessing.StandardScaler(), self._family.build(parameters))
        # One thread: sums in another order differ in their last bits, and a corpus is the same wherever it is made.
        with warnings.catch_warnings(), np.errstate(all="ignore"), _threads().limit(limits=1):
            # A setting that does not converge, diverges or overflows is part of tuning; its score says so.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", UserWarning)
            scores = model_selection.cross_val_score(
                model, self._features, self._target, cv=self._folds, scoring=self._scoring, error_score=np.nan
            )
        score = float(np.mean(scores))
        if self._metric == "r2":
            # R2 of a diverged regressor is astronomically negative; below -1 it says nothing more.
            return max(score, -1.0) if np.isfinite(score) else -1.0
        return 1.0 - score if self._metric == "error_rate" else -score
