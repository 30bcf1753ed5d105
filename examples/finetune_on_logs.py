"""Train the shipped model further on your own tuning logs.

    python finetune_on_logs.py [STEPS]

The log is an Optuna database that this script makes first, in a temporary folder.
"""

import functools
import os
import sys
import tempfile

import optuna
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import cross_val_score

from optformer import OptFormer
from optformer.cli import main
from optformer.data.sources import read_study

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 60


features, labels = load_digits(return_X_y=True)


def precision(trial: optuna.Trial, digit: int) -> float:  # how well the model recognizes one digit
    rate = trial.suggest_float("learning_rate", 1e-5, 1.0, log=True)
    decay = trial.suggest_float("weight_decay", 1e-6, 1.0, log=True)
    schedule = trial.suggest_categorical("schedule", ["constant", "invscaling", "adaptive"])
    model = SGDClassifier(eta0=rate, alpha=decay, learning_rate=schedule, max_iter=20, tol=None, random_state=0)
    return cross_val_score(model, features, labels == digit, cv=2, scoring="average_precision").mean()


optuna.logging.set_verbosity(optuna.logging.WARNING)
os.chdir(tempfile.mkdtemp())
for digit in range(10):
    storage = "sqlite:///tuning.db" if digit < 9 else "sqlite:///kept-out.db"
    sampler = optuna.samplers.TPESampler(seed=digit)
    study = optuna.create_study(storage=storage, study_name=f"digit {digit}", direction="maximize", sampler=sampler)
    study.optimize(functools.partial(precision, digit=digit), n_trials=20)

# In a shell: optformer corpus import tuning.db --out corpus.jsonl
main(["corpus", "import", "tuning.db", "--out", "corpus.jsonl"])

# In a shell: optformer train finetune --workdir finetuned --set corpus=corpus.jsonl
# A quarter of each batch comes from the corpus.  The rest are synthetic studies, so that the model forgets little.
# For your own logs, leave out these short settings: the 600 steps of the config `finetune` take some minutes.
short = ["--set", f"steps={STEPS}", "--set", "shape.trials=24", "--set", "eval_batches=2"]
main(["train", "finetune", "--workdir", "finetuned", "--set", "corpus=corpus.jsonl", *short])

# How well each model predicts a study that neither has seen, from its first five trials.
kept_out, _ = read_study("kept-out.db", "digit 9")
known, unknown = kept_out.trials[:5], kept_out.trials[5:]
values = [trial.final_measurement.metrics["objective"].value for trial in unknown]
for name in ("nano", "finetuned"):  # name of a shipped checkpoint, or the folder of a training
    model = OptFormer.from_pretrained(name)
    prediction = model.predict(kept_out.problem, known, unknown)
    print(f"{name}: mean log density of {len(unknown)} unseen trials {prediction.log_prob(values).mean():.2f} nats")
