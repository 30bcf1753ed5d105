"""The objective functions of the demo, as users of Optuna write them: scikit-learn models on real data sets.

They can be pickled and sent to another process.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Final

import numpy as np
import optuna
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from optformer.data.problems.sklearn import HELD_OUT as ALL_HELD_OUT
from optformer.data.problems.sklearn import NUM_FOLDS, SklearnExperimenter, search_space
from optformer.data.problems.sklearn_data import DATA_SETS
from optformer.data.problems.sklearn_models import FAMILIES
from optformer.data.teachers.optuna import suggest_parameters

HELD_OUT: Final = ALL_HELD_OUT[:3]
"""Pairs of a model and a data set that are not in the log."""

EPOCHS: Final = 20
"""Number of epochs of a complete trial of `NetworkWithReports`."""

Objective = Callable[[optuna.Trial], float]


@dataclasses.dataclass(frozen=True)
class CrossValidated:
    """The cross-validated metric of a model on a data set.

    Attributes:
      pair: `model@data`.
    """

    pair: str

    def __call__(self, trial: optuna.Trial) -> float:
        return _experimenter(self.pair).score(suggest_parameters(trial, search_space(self.pair)))


@dataclasses.dataclass(frozen=True)
class OneOfModels:
    """The cross-validated metric of the model that a trial chooses; each model has its own parameters.

    Attributes:
      models: models from which a trial chooses.
      data: the data set.
    """

    models: tuple[str, ...]
    data: str

    def __call__(self, trial: optuna.Trial) -> float:
        model = trial.suggest_categorical("model", self.models)
        return CrossValidated(f"{model}@{self.data}")(trial)


@dataclasses.dataclass(frozen=True)
class NetworkWithReports:
    """The cross-validated log loss of a neural network, which a trial reports after each of its epochs.

    Attributes:
      data: the data set.
    """

    data: str

    def __call__(self, trial: optuna.Trial) -> float:
        parameters = suggest_parameters(trial, search_space(f"mlp@{self.data}"))
        networks = [FAMILIES["mlp"].build(parameters) for _ in range(NUM_FOLDS)]
        loss = np.nan
        for epoch in range(1, EPOCHS + 1):
            losses = []
            for network, (train_x, train_y, test_x, test_y) in zip(networks, _folds(self.data), strict=True):
                network.partial_fit(train_x, train_y, classes=np.unique(train_y))
                losses.append(log_loss(test_y, network.predict_proba(test_x)))
            loss = float(np.mean(losses))
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss


@functools.cache
def _experimenter(pair: str) -> SklearnExperimenter:
    return SklearnExperimenter(pair)


@functools.cache
def _folds(data: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each fold, features and labels for training, then those for testing; features are standardized."""
    features, labels = DATA_SETS[data].load()
    folds = []
    for train, test in StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0).split(features, labels):
        scaler = StandardScaler().fit(features[train])
        folds.append((scaler.transform(features[train]), labels[train], scaler.transform(features[test]), labels[test]))
    return folds
