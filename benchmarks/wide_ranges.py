"""Studies in Optuna with positive ranges over three decades or more that are not declared logarithmic.

    python benchmarks/wide_ranges.py [--checkpoint default] [--seeds 16] [--trials 36]

A quadratic function of three such parameters, whose ranges occur in published studies.  Each seed has another optimum,
either uniform in the ranges, or log-uniform, as where a user has forgotten `log=True`.  The function is quadratic on
the scale of which its optimum is drawn.  Printed: the median over seeds of the best value after some numbers of trials,
by the sampler, by the sampler if the model treats these ranges as logarithmic, and by Optuna's TPE.
"""

import argparse
import contextlib
import warnings
from unittest import mock

import numpy as np
import optuna

from optformer.facade import load
from optformer.serve import optuna_spaces
from optformer.serve.optuna import OptFormerSampler

AT = (5, 10, 20, 36)
RANGES = {"min_split_loss": (1e-8, 5.0), "min_child_weight": (1e-3, 100.0), "alpha": (1e-3, 1.0)}


def best_values(sampler: optuna.samplers.BaseSampler, log: bool, seed: int, trials: int) -> np.ndarray:
    """The best value so far after each trial."""
    optimum = np.random.default_rng(seed).uniform(0.1, 0.9, len(RANGES))
    low, high = np.array(list(RANGES.values())).T

    def objective(trial: optuna.Trial) -> float:
        x = np.array([trial.suggest_float(name, *bounds) for name, bounds in RANGES.items()])
        unit = np.log(x / low) / np.log(high / low) if log else (x - low) / (high - low)
        return float(((unit - optimum) ** 2).sum())

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, trials)
    return np.minimum.accumulate([trial.value for trial in study.trials])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--trials", type=int, default=max(AT))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    model = load(arguments.checkpoint)
    guessed = mock.patch.object(optuna_spaces, "keep_scales", lambda problem: problem)
    searches = {
        "linear": (contextlib.nullcontext(), lambda seed: OptFormerSampler(model, seed=seed)),
        "logarithmic": (guessed, lambda seed: OptFormerSampler(model, seed=seed)),
        "Optuna's TPE": (contextlib.nullcontext(), lambda seed: optuna.samplers.TPESampler(seed=seed)),
    }
    at = [count for count in AT if count <= arguments.trials]
    print("| optimum | search |", *(f" after {count} |" for count in at), sep="")
    print("|---|---|", *("--:|" for _ in at), sep="")
    for log in (False, True):
        for name, (patched, sampler) in searches.items():
            with patched:
                runs = [best_values(sampler(seed), log, seed, arguments.trials) for seed in range(arguments.seeds)]
            medians = np.median(runs, axis=0)
            drawn = "log-uniform" if log else "uniform"
            print(f"| {drawn} | {name} |", *(f" {medians[count - 1]:.2g} |" for count in at), sep="", flush=True)


if __name__ == "__main__":
    main()
