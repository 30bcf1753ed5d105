"""A loop of your own: ask for parameters, run the trial, tell the result.

    python plain_loop.py [TRIALS]

Every trial is written to `tuning.jsonl` in the current folder.  Run the script again, and it continues from there.
"""

import sys

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from optformer.serve.ask_tell import AskTell

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 15

# A tuple is a range; "log" makes its scale logarithmic.  A list holds choices.
SPACE = {"C": (1e-3, 1e3, "log"), "gamma": (1e-5, 10.0, "log"), "kernel": ["linear", "rbf", "sigmoid"]}

features, labels = load_breast_cancer(return_X_y=True)


def accuracy(C: float, gamma: float, kernel: str) -> float:
    model = make_pipeline(StandardScaler(), SVC(C=C, gamma=gamma, kernel=kernel))
    return float(cross_val_score(model, features, labels, cv=3).mean())


# The model reads the names of the parameters, of the metric, and the title.
NAMES = {"metric": "accuracy", "title": "SVC on breast_cancer"}

with AskTell(SPACE, goal="maximize", **NAMES, seed=0, journal="tuning.jsonl") as tuner:
    print(f"{len(tuner.trials)} trials are in the journal")
    for _ in range(TRIALS):
        trial = tuner.ask()
        # If a trial fails, tell None in place of a value: the model learns from failures, too.
        tuner.tell(trial, accuracy(**trial.parameters))
    print(f"best of {len(tuner.trials)} trials: accuracy {tuner.best.values['accuracy']:.3f}")
    print(f"with {tuner.best.parameters}")
