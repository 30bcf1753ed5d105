"""Optuna with optformer's sampler: without a pruner, with one of Optuna's, and with optformer's own.

    python optuna_with_pruner.py [TRIALS]

A pruner stops trials that look bad.  Optuna's MedianPruner compares a trial's last report with those of other trials.
OptFormerPruner predicts the final value from all trials, and stops a trial that is unlikely to be the best.
Pruning saves epochs.  It may also stop a trial that would have been the best: docs/results.md has figures.
"""

import sys

import numpy as np
import optuna
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from optformer.serve.optuna import OptFormerSampler
from optformer.serve.optuna_pruner import OptFormerPruner

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
EPOCHS = 12

features, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(features / 16, labels, test_size=0.3, random_state=0)


def objective(trial: optuna.Trial) -> float:
    model = MLPClassifier(
        hidden_layer_sizes=[trial.suggest_int("units", 4, 128, log=True)],
        learning_rate_init=trial.suggest_float("learning_rate", 1e-5, 1.0, log=True),
        alpha=trial.suggest_float("weight_decay", 1e-6, 1.0, log=True),
        batch_size=trial.suggest_categorical("batch_size", [16, 64, 256]),
        random_state=0,
    )
    for epoch in range(1, EPOCHS + 1):
        model.partial_fit(train_x, train_y, classes=np.unique(labels))
        accuracy = model.score(test_x, test_y)
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


optuna.logging.set_verbosity(optuna.logging.WARNING)
for pruner in (optuna.pruners.NopPruner(), optuna.pruners.MedianPruner(), OptFormerPruner()):
    study = optuna.create_study(direction="maximize", sampler=OptFormerSampler(seed=0), pruner=pruner)
    study.optimize(objective, n_trials=TRIALS)
    epochs = sum(len(trial.intermediate_values) for trial in study.trials)
    print(f"{type(pruner).__name__}: best accuracy {study.best_value:.3f} after {TRIALS} trials, {epochs} epochs")
