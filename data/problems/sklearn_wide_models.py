"""Model families of scikit-learn that the problems `sklearn-wide` have in addition to those of `sklearn`.

Their search spaces are typical of practice, some of them conditional; sizes are small, so that an evaluation takes
milliseconds.
"""

from collections.abc import Sequence
from typing import Any, Final

from sklearn import (
    discriminant_analysis,
    ensemble,
    gaussian_process,
    kernel_approximation,
    linear_model,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import BaseEstimator
from vizier import pyvizier as vz

from optformer.data.problems.sklearn_models import Family, Parameters, add_float, add_int, is_true

# --- Ensembles of trees ---


def _hist_boosting_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "learning_rate", 1e-2, 1.0, log=True)
    add_int(root, "max_iter", 5, 50, log=True)
    add_int(root, "max_leaf_nodes", 3, 31, log=True)
    add_int(root, "min_samples_leaf", 2, 60, log=True)
    add_float(root, "l2_regularization", 1e-4, 1e2, log=True)
    root.add_discrete_param("max_bins", [8, 16, 32, 64])
    root.add_bool_param("early_stopping")
    stopping = root.select("early_stopping", ["True"])
    add_int(stopping, "n_iter_no_change", 1, 10)
    add_float(stopping, "validation_fraction", 0.1, 0.4)


def _hist_boosting_options(p: Parameters) -> dict[str, Any]:
    counts = {"max_bins": int(p["max_bins"]), "early_stopping": is_true(p["early_stopping"])}
    return {**p, **counts, "random_state": 0}


def _hist_boosting(p: Parameters) -> BaseEstimator:
    return ensemble.HistGradientBoostingClassifier(**_hist_boosting_options(p))


def _hist_boosting_regressor(p: Parameters) -> BaseEstimator:
    return ensemble.HistGradientBoostingRegressor(**_hist_boosting_options(p))


def _extra_trees_space(root: vz.SearchSpaceSelector, criteria: Sequence[str]) -> None:
    add_int(root, "n_estimators", 4, 16, log=True)
    root.add_categorical_param("criterion", list(criteria))
    add_float(root, "max_features", 0.05, 1.0)
    add_int(root, "min_samples_split", 2, 20)
    add_int(root, "min_samples_leaf", 1, 20, log=True)
    root.add_bool_param("bootstrap")
    add_float(root.select("bootstrap", ["True"]), "max_samples", 0.2, 1.0)


def _extra_trees_classifier(p: Parameters) -> BaseEstimator:
    return ensemble.ExtraTreesClassifier(**{**p, "bootstrap": is_true(p["bootstrap"])}, random_state=0)


def _extra_trees_regressor(p: Parameters) -> BaseEstimator:
    return ensemble.ExtraTreesRegressor(**{**p, "bootstrap": is_true(p["bootstrap"])}, random_state=0)


def _adaboost_space(root: vz.SearchSpaceSelector) -> None:
    add_int(root, "n_estimators", 3, 20, log=True)
    add_float(root, "learning_rate", 1e-2, 3.0, log=True)
    add_int(root, "max_depth", 1, 6)


def _adaboost_regressor_space(root: vz.SearchSpaceSelector) -> None:
    _adaboost_space(root)
    root.add_categorical_param("loss", ["linear", "square", "exponential"])


def _boosted_options(p: Parameters) -> dict[str, Any]:
    return {name: value for name, value in p.items() if name != "max_depth"}


def _adaboost_classifier(p: Parameters) -> BaseEstimator:
    stump = tree.DecisionTreeClassifier(max_depth=p["max_depth"], random_state=0)
    return ensemble.AdaBoostClassifier(stump, **_boosted_options(p), random_state=0)


def _adaboost_regressor(p: Parameters) -> BaseEstimator:
    stump = tree.DecisionTreeRegressor(max_depth=p["max_depth"], random_state=0)
    return ensemble.AdaBoostRegressor(stump, **_boosted_options(p), random_state=0)


# --- Linear models ---


def _sgd_space(root: vz.SearchSpaceSelector, losses: Sequence[str]) -> None:
    root.add_categorical_param("loss", list(losses))
    add_float(root, "alpha", 1e-6, 1e0, log=True)
    root.add_categorical_param("penalty", ["l2", "l1", "elasticnet"])
    add_float(root.select("penalty", ["elasticnet"]), "l1_ratio", 0.0, 1.0)
    root.add_categorical_param("learning_rate", ["optimal", "constant", "invscaling", "adaptive"])
    add_float(root.select("learning_rate", ["constant", "invscaling", "adaptive"]), "eta0", 1e-4, 1e0, log=True)
    add_float(root.select("learning_rate", ["invscaling"]), "power_t", 0.1, 1.0)
    root.add_bool_param("average")


def _sgd_classifier(p: Parameters) -> BaseEstimator:
    return linear_model.SGDClassifier(**{**p, "average": is_true(p["average"])}, max_iter=50, random_state=0)


def _sgd_regressor(p: Parameters) -> BaseEstimator:
    return linear_model.SGDRegressor(**{**p, "average": is_true(p["average"])}, max_iter=50, random_state=0)


def _linear_svc_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "C", 1e-4, 1e2, log=True)
    root.add_categorical_param("penalty", ["l1", "l2"])
    # The l1 penalty requires the squared hinge loss.
    root.select("penalty", ["l2"]).add_categorical_param("loss", ["hinge", "squared_hinge"])
    root.add_categorical_param("class_weight", ["none", "balanced"])
    add_float(root, "intercept_scaling", 1e-1, 1e1, log=True)


def _linear_svc(p: Parameters) -> BaseEstimator:
    loss = str(p.get("loss", "squared_hinge"))
    weight = None if p["class_weight"] == "none" else p["class_weight"]
    options = {**p, "loss": loss, "class_weight": weight, "dual": loss == "hinge"}
    return svm.LinearSVC(**options, max_iter=300, random_state=0)


def _discriminant_space(root: vz.SearchSpaceSelector) -> None:
    root.add_categorical_param("boundary", ["linear", "quadratic"])
    add_float(root.select("boundary", ["linear"]), "shrinkage", 0.0, 1.0)
    add_float(root.select("boundary", ["quadratic"]), "reg_param", 1e-6, 1e0, log=True)
    add_float(root, "tol", 1e-6, 1e-1, log=True)


def _discriminant(p: Parameters) -> BaseEstimator:
    if p["boundary"] == "quadratic":
        return discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=p["reg_param"], tol=p["tol"])
    return discriminant_analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=p["shrinkage"], tol=p["tol"])


def _huber_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "epsilon", 1.01, 5.0, log=True)
    add_float(root, "alpha", 1e-5, 1e3, log=True)


def _huber(p: Parameters) -> BaseEstimator:
    return linear_model.HuberRegressor(**p, max_iter=50)


# --- Linear models of features that are made first ---


def _spline_ridge_space(root: vz.SearchSpaceSelector) -> None:
    add_int(root, "n_knots", 2, 20, log=True)
    add_int(root, "degree", 1, 4)
    root.add_categorical_param("knots", ["uniform", "quantile"])
    root.add_categorical_param("extrapolation", ["constant", "linear", "continue"])
    add_float(root, "alpha", 1e-4, 1e4, log=True)


def _spline_ridge(p: Parameters) -> BaseEstimator:
    options = {name: value for name, value in p.items() if name != "alpha"}
    return pipeline.make_pipeline(
        preprocessing.SplineTransformer(**options, include_bias=False), linear_model.Ridge(alpha=p["alpha"])
    )


def _nystroem_space(root: vz.SearchSpaceSelector) -> None:
    root.add_categorical_param("kernel", ["rbf", "laplacian", "poly", "sigmoid"])
    add_float(root, "gamma", 1e-4, 1e1, log=True)
    add_int(root.select("kernel", ["poly"]), "degree", 2, 5)
    add_float(root.select("kernel", ["poly", "sigmoid"]), "coef0", -1.0, 2.0)
    add_int(root, "n_components", 4, 100, log=True)
    add_float(root, "alpha", 1e-5, 1e3, log=True)


def _nystroem(p: Parameters) -> kernel_approximation.Nystroem:
    return kernel_approximation.Nystroem(
        **{name: value for name, value in p.items() if name != "alpha"}, random_state=0
    )


def _nystroem_ridge_classifier(p: Parameters) -> BaseEstimator:
    return pipeline.make_pipeline(_nystroem(p), linear_model.RidgeClassifier(alpha=p["alpha"]))


def _nystroem_ridge(p: Parameters) -> BaseEstimator:
    return pipeline.make_pipeline(_nystroem(p), linear_model.Ridge(alpha=p["alpha"]))


# --- Kernels ---


def _kernel_svc_space(root: vz.SearchSpaceSelector) -> None:
    add_float(root, "C", 1e-3, 1e2, log=True)
    root.add_categorical_param("kernel", ["linear", "rbf", "poly", "sigmoid"])
    add_float(root.select("kernel", ["rbf", "poly", "sigmoid"]), "gamma", 1e-4, 1e1, log=True)
    add_float(root.select("kernel", ["poly", "sigmoid"]), "coef0", -1.0, 2.0)
    add_int(root.select("kernel", ["poly"]), "degree", 2, 5)


def _kernel_svr_space(root: vz.SearchSpaceSelector) -> None:
    _kernel_svc_space(root)
    add_float(root, "epsilon", 1e-3, 1e0, log=True)


def _kernel_svc(p: Parameters) -> BaseEstimator:
    return svm.SVC(**p, max_iter=3000)


def _kernel_svr(p: Parameters) -> BaseEstimator:
    return svm.SVR(**p, max_iter=3000)


def _gaussian_process_space(root: vz.SearchSpaceSelector) -> None:
    root.add_categorical_param("kernel", ["rbf", "matern", "rational_quadratic"])
    add_float(root, "length_scale", 1e-1, 1e2, log=True)
    root.select("kernel", ["matern"]).add_discrete_param("nu", [0.5, 1.5, 2.5])
    add_float(root.select("kernel", ["rational_quadratic"]), "mixture", 1e-2, 1e2, log=True)
    add_float(root, "noise", 1e-4, 1e1, log=True)


def _gaussian_process(p: Parameters) -> BaseEstimator:
    kernels = gaussian_process.kernels
    scale = p["length_scale"]
    if p["kernel"] == "matern":
        kernel = kernels.Matern(scale, nu=p["nu"])
    elif p["kernel"] == "rational_quadratic":
        kernel = kernels.RationalQuadratic(scale, alpha=p["mixture"])
    else:
        kernel = kernels.RBF(scale)
    return gaussian_process.GaussianProcessRegressor(kernel, alpha=p["noise"], optimizer=None)


# --- Networks ---


def _deep_mlp_space(root: vz.SearchSpaceSelector) -> None:
    add_int(root, "layers", 1, 3)
    add_int(root, "units_1", 4, 64, log=True)
    add_int(root.select("layers", [2, 3]), "units_2", 4, 64, log=True)
    add_int(root.select("layers", [3]), "units_3", 4, 64, log=True)
    root.add_categorical_param("activation", ["relu", "tanh"])
    root.add_categorical_param("solver", ["adam", "sgd"])
    add_float(root.select("solver", ["sgd"]), "momentum", 0.0, 0.99)
    root.select("solver", ["sgd"]).add_categorical_param("learning_rate", ["constant", "invscaling", "adaptive"])
    add_float(root, "learning_rate_init", 1e-4, 1e-1, log=True)
    add_float(root, "alpha", 1e-6, 1e0, log=True)
    root.add_discrete_param("batch_size", [16, 32, 64, 128])
    root.add_bool_param("early_stopping")
    add_int(root.select("early_stopping", ["True"]), "n_iter_no_change", 1, 8)


def _deep_mlp_options(p: Parameters) -> dict[str, Any]:
    same = ("activation", "solver", "momentum", "learning_rate", "learning_rate_init", "alpha", "n_iter_no_change")
    return {
        **{name: p[name] for name in same if name in p},
        "hidden_layer_sizes": tuple(int(p[f"units_{layer}"]) for layer in range(1, int(p["layers"]) + 1)),
        "batch_size": int(p["batch_size"]),
        "early_stopping": is_true(p["early_stopping"]),
        "max_iter": 15,
        "random_state": 0,
    }


def _deep_mlp_classifier(p: Parameters) -> BaseEstimator:
    return neural_network.MLPClassifier(**_deep_mlp_options(p))


def _deep_mlp_regressor(p: Parameters) -> BaseEstimator:
    return neural_network.MLPRegressor(**_deep_mlp_options(p))


WIDE_FAMILIES: Final[dict[str, Family]] = {
    "hist_boosting": Family(
        "histogram gradient boosting", _hist_boosting, _hist_boosting_space, classifies=True, kin="boosting"
    ),
    "extra_trees": Family(
        "extremely randomized trees",
        _extra_trees_classifier,
        lambda root: _extra_trees_space(root, ["gini", "entropy"]),
        classifies=True,
        kin="forest",
    ),
    "adaboost": Family("AdaBoost", _adaboost_classifier, _adaboost_space, classifies=True, kin="boosting"),
    "sgd": Family(
        "linear classifier by stochastic gradients",
        _sgd_classifier,
        lambda root: _sgd_space(root, ["hinge", "log_loss", "modified_huber"]),
        classifies=True,
        has_probabilities=False,
        kin="logistic",
    ),
    "linear_svc": Family(
        "linear support vector classifier",
        _linear_svc,
        _linear_svc_space,
        classifies=True,
        has_probabilities=False,
        kin="svc",
    ),
    "discriminant": Family("discriminant analysis", _discriminant, _discriminant_space, classifies=True),
    "nystroem": Family(
        "ridge classifier on Nystroem features",
        _nystroem_ridge_classifier,
        _nystroem_space,
        classifies=True,
        has_probabilities=False,
        kin="svc",
    ),
    "kernel_svc": Family(
        "support vector classifier with a choice of kernels",
        _kernel_svc,
        _kernel_svc_space,
        classifies=True,
        has_probabilities=False,
        kin="svc",
    ),
    "deep_mlp": Family(
        "multilayer perceptron of up to three layers", _deep_mlp_classifier, _deep_mlp_space, classifies=True, kin="mlp"
    ),
    "hist_boosting_regressor": Family(
        "histogram gradient boosting regression",
        _hist_boosting_regressor,
        _hist_boosting_space,
        classifies=False,
        kin="boosting_regressor",
    ),
    "extra_trees_regressor": Family(
        "extremely randomized regression trees",
        _extra_trees_regressor,
        lambda root: _extra_trees_space(root, ["squared_error", "absolute_error"]),
        classifies=False,
        kin="forest_regressor",
    ),
    "adaboost_regressor": Family(
        "AdaBoost regression",
        _adaboost_regressor,
        _adaboost_regressor_space,
        classifies=False,
        kin="boosting_regressor",
    ),
    "sgd_regressor": Family(
        "linear regression by stochastic gradients",
        _sgd_regressor,
        lambda root: _sgd_space(root, ["squared_error", "huber", "epsilon_insensitive"]),
        classifies=False,
        kin="elastic_net",
    ),
    "huber": Family("Huber regression", _huber, _huber_space, classifies=False),
    "spline_ridge": Family("ridge regression on splines", _spline_ridge, _spline_ridge_space, classifies=False),
    "nystroem_ridge": Family(
        "ridge regression on Nystroem features",
        _nystroem_ridge,
        _nystroem_space,
        classifies=False,
        kin="kernel_ridge",
    ),
    "kernel_svr": Family(
        "support vector regression with a choice of kernels",
        _kernel_svr,
        _kernel_svr_space,
        classifies=False,
        kin="svr",
    ),
    "gaussian_process": Family(
        "Gaussian process regression",
        _gaussian_process,
        _gaussian_process_space,
        classifies=False,
        kin="kernel_ridge",
    ),
    "deep_mlp_regressor": Family(
        "multilayer perceptron regression with up to three layers",
        _deep_mlp_regressor,
        _deep_mlp_space,
        classifies=False,
        kin="mlp_regressor",
    ),
}
