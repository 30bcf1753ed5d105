"""Model families of scikit-learn with their search spaces: the 15 of the problems `sklearn`.

`sklearn_wide_models.py` has those that only the problems `sklearn-wide` use.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeAlias

from sklearn import ensemble, kernel_ridge, linear_model, neighbors, neural_network, svm, tree
from sklearn.base import BaseEstimator
from vizier import pyvizier as vz

Parameters: TypeAlias = Mapping[str, float | int | str | bool]


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family with its search space.

    Attributes:
      title: its usual name.
      build: parameters -> scikit-learn estimator.
      add_parameters: adds the search space to its root selector.
      classifies: True for a classifier (scored by log loss or error rate), False for a regressor (scored by R2).
      has_probabilities: whether a classifier is scored by cross-validated log loss instead of error rate.
      kin: a similar family; if its pair with a data set is held out, so is that of this family.
    """

    title: str
    build: Callable[[Parameters], BaseEstimator]
    add_parameters: Callable[[vz.SearchSpaceSelector], None]
    classifies: bool
    has_probabilities: bool = True
    kin: str | None = None


def add_float(root: vz.SearchSpaceSelector, name: str, low: float, high: float, log: bool = False) -> None:
    root.add_float_param(name, low, high, scale_type=vz.ScaleType.LOG if log else vz.ScaleType.LINEAR)


def add_int(root: vz.SearchSpaceSelector, name: str, low: int, high: int, log: bool = False) -> None:
    root.add_int_param(name, low, high, scale_type=vz.ScaleType.LOG if log else vz.ScaleType.LINEAR)


def is_true(value: float | int | str | bool) -> bool:
    """Converts the value of a boolean parameter, which Vizier gives as a bool or as text."""
    return value in (True, "True")


def _svc_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "C", 1e-3, 1e3, log=True)
    root.add_categorical_param("kernel", ["rbf", "poly", "sigmoid"])
    add_float(root, "gamma", 1e-5, 1e1, log=True)
    root.select("kernel", ["poly"]).add_int_param("degree", 2, 5)


def _svc(p: Parameters) -> BaseEstimator:
    return svm.SVC(C=p["C"], kernel=p["kernel"], gamma=p["gamma"], degree=p.get("degree", 3))


def _logistic_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "C", 1e-4, 1e3, log=True)
    add_float(root, "l1_ratio", 0.0, 1.0)
    root.add_bool_param("fit_intercept")


def _logistic(p: Parameters) -> BaseEstimator:
    return linear_model.LogisticRegression(
        C=p["C"],
        l1_ratio=p["l1_ratio"],
        fit_intercept=is_true(p["fit_intercept"]),
        solver="saga",
        max_iter=40,
        random_state=0,
    )


def _tree_space(root: vz.SearchSpaceSelector) -> None:
    add_int(root, "max_depth", 1, 20)
    add_float(root, "min_samples_split", 0.002, 0.5, log=True)
    add_float(root, "max_features", 0.05, 1.0)
    add_float(root, "ccp_alpha", 1e-5, 1e-1, log=True)


def _tree_classifier(p: Parameters) -> BaseEstimator:
    return tree.DecisionTreeClassifier(**p, random_state=0)


def _tree_regressor(p: Parameters) -> BaseEstimator:
    return tree.DecisionTreeRegressor(**p, random_state=0)


def _forest_space(root: vz.SearchSpaceSelector) -> None:
    add_int(root, "n_estimators", 5, 60, log=True)
    add_int(root, "max_depth", 1, 16)
    add_float(root, "max_features", 0.05, 1.0)
    add_int(root, "min_samples_leaf", 1, 40, log=True)


def _forest_classifier(p: Parameters) -> BaseEstimator:
    return ensemble.RandomForestClassifier(**p, random_state=0)


def _forest_regressor(p: Parameters) -> BaseEstimator:
    return ensemble.RandomForestRegressor(**p, random_state=0)


def _boosting_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "learning_rate", 1e-3, 1.0, log=True)
    add_int(root, "n_estimators", 5, 80, log=True)
    add_int(root, "max_depth", 1, 6)
    add_float(root, "subsample", 0.3, 1.0)
    add_float(root, "max_features", 0.05, 1.0)


def _boosting_classifier(p: Parameters) -> BaseEstimator:
    return ensemble.GradientBoostingClassifier(**p, random_state=0)


def _boosting_regressor(p: Parameters) -> BaseEstimator:
    return ensemble.GradientBoostingRegressor(**p, random_state=0)


def _mlp_space(root: vz.SearchSpaceSelector) -> None:
    add_int(root, "hidden_units", 4, 64, log=True)
    add_float(root, "learning_rate_init", 1e-4, 1e-1, log=True)
    add_float(root, "alpha", 1e-7, 1e0, log=True)
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
    add_int(root, "n_neighbors", 1, 60, log=True)
    add_float(root, "p", 1.0, 4.0)
    root.add_categorical_param("weights", ["uniform", "distance"])


def _knn_classifier(p: Parameters) -> BaseEstimator:
    return neighbors.KNeighborsClassifier(**p)


def _knn_regressor(p: Parameters) -> BaseEstimator:
    return neighbors.KNeighborsRegressor(**p)


def _elastic_net_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "alpha", 1e-4, 1e2, log=True)
    add_float(root, "l1_ratio", 0.0, 1.0)


def _elastic_net(p: Parameters) -> BaseEstimator:
    return linear_model.ElasticNet(**p, max_iter=2000)


def _svr_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "C", 1e-3, 1e3, log=True)
    add_float(root, "gamma", 1e-5, 1e1, log=True)
    add_float(root, "epsilon", 1e-3, 1e0, log=True)


def _svr(p: Parameters) -> BaseEstimator:
    return svm.SVR(**p)


def _kernel_ridge_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "alpha", 1e-4, 1e2, log=True)
    add_float(root, "gamma", 1e-5, 1e1, log=True)


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
