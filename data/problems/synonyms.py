"""Synonyms of parameters and metrics, and common styles of names."""

import re
from typing import Final

import numpy as np

PARAMETERS: Final = (
    ("learning_rate", "lr", "eta", "step_size", "shrinkage"),
    ("n_estimators", "num_trees", "nrounds", "num_boost_round", "n_trees", "ntree", "iterations", "num_iterations"),
    ("max_depth", "maxdepth", "depth", "tree_depth", "max_tree_depth"),
    ("num_leaves", "max_leaves", "max_leaf_nodes", "leaves"),
    ("min_data_in_leaf", "min_samples_leaf", "min_child_samples", "minbucket", "min_node_size", "leaf_size"),
    ("min_samples_split", "minsplit", "min_split_size"),
    ("min_child_weight", "min_sum_hessian_in_leaf", "min_hessian"),
    ("subsample", "bagging_fraction", "sample_fraction", "row_sample", "max_samples"),
    ("colsample_bytree", "feature_fraction", "col_sample_rate", "max_features", "mtry_ratio"),
    ("colsample_bylevel", "feature_fraction_bynode", "col_sample_by_level"),
    ("lambda", "reg_lambda", "lambda_l2", "l2", "l2_regularization", "l2_leaf_reg"),
    ("min_split_loss", "min_gain_to_split", "min_impurity_decrease"),
    ("rate_drop", "drop_rate", "dart_dropout"),
    ("skip_drop", "skip_dropout"),
    ("booster", "boosting", "boosting_type"),
    ("extra_trees", "extremely_randomized", "random_splits"),
    ("splitrule", "split_rule", "criterion"),
    ("replace", "bootstrap", "with_replacement"),
    ("num_random_splits", "n_random_splits"),
    ("cp", "ccp_alpha", "complexity", "pruning"),
    ("cost", "c", "svm_c", "penalty", "inverse_regularization"),
    ("kernel", "kernel_type", "kernel_function"),
    ("degree", "kernel_degree", "poly_degree"),
    ("tolerance", "tol", "epsilon", "stopping_tolerance"),
    ("k", "n_neighbors", "neighbours", "num_neighbors"),
    ("distance", "metric", "similarity"),
    ("ef", "ef_search"),
    ("m", "num_links", "max_connections"),
    ("s", "regularization", "penalty_strength"),
    ("learner", "model", "model_type", "classifier", "algorithm", "estimator"),
    ("num_impute_selected_cpo", "imputation", "imputer", "missing_values"),
    ("block_size_x", "threads_x", "block_x", "local_size_x", "wg_x"),
    ("block_size_y", "threads_y", "block_y", "local_size_y", "wg_y"),
    ("tile_size_x", "tile_x", "work_per_thread_x", "unroll_x"),
    ("tile_size_y", "tile_y", "work_per_thread_y", "unroll_y"),
    ("use_padding", "padding", "pad"),
    ("use_shmem", "shared_memory", "use_local_memory"),
    ("read_only", "use_texture", "read_only_cache"),
    ("batch_size", "bs", "minibatch_size", "train_batch_size"),
    ("dropout", "dropout_rate", "p_drop"),
    ("weight_decay", "wd", "decay"),
    ("ligand", "ligand_type"),
    ("base", "base_type"),
    ("additive", "additive_type"),
    ("ph", "acidity"),
    ("wait_time", "residence_time", "hold_time"),
)
"""Groups of synonyms, in lower case with underscores.  Names whose meaning depends on the model, such as `alpha` and
`gamma`, are in no group."""

METRICS: Final = (
    ("acc", "accuracy", "val_acc", "val_accuracy", "test_accuracy", "accuracy_score"),
    ("mmce", "error", "error_rate", "val_error", "misclassification_rate", "classification_error"),
    ("bac", "balanced_accuracy", "bal_acc", "balanced_acc"),
    ("auc", "roc_auc", "auroc", "val_auc"),
    ("1 - auc", "auc_loss", "one_minus_auc", "auc_error"),
    ("logloss", "log_loss", "cross_entropy", "val_loss", "nll", "val_cross_entropy"),
    ("brier", "brier_score", "brier_loss"),
    ("rmse", "val_rmse", "root_mean_squared_error"),
    ("time", "runtime", "latency", "seconds", "elapsed", "duration"),
    ("yield", "yield_percent", "product_yield"),
)
"""As `PARAMETERS`."""

ANY_METRIC: Final = {
    True: ("loss", "cost", "objective", "error", "value"),
    False: ("score", "objective", "reward", "value"),
}
"""Generic names of a metric, by whether it is minimized."""

STYLES: Final = ("plain", "camel", "dotted", "dashed", "upper")
PREFIXES: Final = ("", "", "", "model__", "params.", "hp/", "clf__", "cfg.", "train.")


def of_parameter(rng: np.random.Generator, name: str) -> str:
    """A synonym of a parameter, or its own name if there is none; the part before the last dot is kept."""
    head, dot, last = name.rpartition(".")
    for known, kept in ((name, ""), (last, head + dot)):
        if others := _others(PARAMETERS, known):
            return kept + others[int(rng.integers(len(others)))]
    return name


def of_metric(rng: np.random.Generator, name: str, minimize: bool) -> str:
    """Another name for a metric: a synonym, or a generic name with the same goal."""
    others = (*_others(METRICS, name), *ANY_METRIC[minimize])
    return others[int(rng.integers(len(others)))]


def _others(groups: tuple[tuple[str, ...], ...], name: str) -> tuple[str, ...]:
    plain = name.lower().replace(".", "_")
    return next((tuple(other for other in group if other != plain) for group in groups if plain in group), ())


def styled(name: str, style: str) -> str:
    """Converts a name to another style.

    Args:
      name: words separated by `_`, `.` or `-`.
      style: name in `STYLES`.
    """
    words = [word for word in re.split(r"[._\-\s]+", name) if word]
    match style:
        case "camel":
            return words[0] + "".join(word[:1].upper() + word[1:] for word in words[1:]) if words else name
        case "dotted":
            return ".".join(words)
        case "dashed":
            return "-".join(words)
        case "upper":
            return "_".join(words).upper()
    return "_".join(words)
