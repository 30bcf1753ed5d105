"""A new study that uses earlier ones, compared with the same study without them.

    python earlier_studies.py [TRIALS]

The earlier studies tuned a support vector machine on three data sets; the new one tunes it on a fourth.
A single study proves nothing: docs/results.md has figures on 145 problems.
"""

import sys

import optuna
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from optformer.serve.optuna import OptFormerSampler

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
EARLIER_TRIALS = 4 * TRIALS


class Tuned:
    """Accuracy of a support vector machine on one data set, as an objective of Optuna."""

    def __init__(self, data):
        self.features, self.labels = data

    def __call__(self, trial: optuna.Trial) -> float:
        C = trial.suggest_float("C", 1e-3, 1e3, log=True)
        gamma = trial.suggest_float("gamma", 1e-6, 10.0, log=True)
        model = make_pipeline(StandardScaler(), SVC(C=C, gamma=gamma))
        return cross_val_score(model, self.features, self.labels, cv=3).mean()


optuna.logging.set_verbosity(optuna.logging.WARNING)

# The earlier studies.  Load yours from a database: optuna.load_study(study_name="...", storage="sqlite:///tuning.db").
earlier = []
for load in (load_iris, load_wine, load_breast_cancer):
    study = optuna.create_study(
        study_name=load.__name__, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(Tuned(load(return_X_y=True)), n_trials=EARLIER_TRIALS)
    earlier.append(study)

# The new study, without the earlier ones and with them.
digits = Tuned(load_digits(return_X_y=True))
for told in ([], earlier):
    sampler = OptFormerSampler(seed=0, prior_studies=told)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(digits, n_trials=TRIALS)
    values = " ".join(f"{trial.value:.3f}" for trial in study.trials)
    print(f"told of {len(told)} earlier studies: accuracy {values}, best {study.best_value:.3f}")
