"""Train the shipped model further on your own tuning logs.

    python finetune_on_logs.py [STEPS]

The log is an Optuna database that this script makes first.  All files go to the current folder.
"""

import sys

import optuna
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import cross_val_score

from optformer import OptFormer
from optformer.cli import main
from optformer.data.sources import read_study

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 60
DATABASE = "tuning.db"


def command(words: str) -> None:
    """A command of optformer, as in a shell."""
    print("$ optformer", words)
    if code := main(words.split()):
        sys.exit(code)


features, labels = load_digits(return_X_y=True)


def tune(digit: int) -> None:
    """One study: tell one digit from all others."""

    def objective(trial: optuna.Trial) -> float:
        model = SGDClassifier(
            alpha=trial.suggest_float("weight_decay", 1e-6, 1.0, log=True),
            eta0=trial.suggest_float("learning_rate", 1e-5, 1.0, log=True),
            learning_rate=trial.suggest_categorical("schedule", ["constant", "invscaling", "adaptive"]),
            max_iter=20,
            tol=None,
            random_state=0,
        )
        return cross_val_score(model, features, labels == digit, cv=2, scoring="average_precision").mean()

    study = optuna.create_study(storage=f"sqlite:///{DATABASE}", study_name=f"digit {digit}", direction="maximize")
    study.optimize(objective, n_trials=20)


optuna.logging.set_verbosity(optuna.logging.WARNING)
for digit in range(10):
    tune(digit)
kept_out, _ = read_study(DATABASE, "digit 9")
optuna.delete_study(study_name="digit 9", storage=f"sqlite:///{DATABASE}")

command(f"corpus import {DATABASE} --out corpus.jsonl")
# A quarter of each batch comes from the corpus; the rest are synthetic studies, so that little is forgotten.
# The last three settings make this short.  Leave them out for logs of your own: 600 steps take some minutes.
settings = "--set corpus=corpus.jsonl"
settings += f" --set steps={STEPS} --set shape.trials=24 --set eval_batches=2"
command(f"train finetune --workdir finetuned {settings}")

# How well each model predicts the study that neither has seen, from its first five trials.
known, unknown = kept_out.trials[:5], kept_out.trials[5:]
values = [trial.final_measurement.metrics["objective"].value for trial in unknown]
for name in ("nano", "finetuned"):  # a name of a model in the package, or the folder of a training
    model = OptFormer.from_pretrained(name)
    prediction = model.predict(kept_out.problem, known, unknown)
    print(f"{name}: mean log density of {len(unknown)} unseen trials {prediction.log_prob(values).mean():.2f} nats")
