"""Studies in Optuna with positive ranges over three decades or more that are not declared logarithmic.

    python benchmarks/wide_ranges.py [--checkpoint default] [--seeds 16] [--trials 36]

A quadratic function of three such parameters, whose ranges occur in published studies.  Each seed has another optimum,
either uniform in the ranges, or log-uniform, as where a user has forgotten `log=True`.  The function is quadratic on
the scale of which its optimum is drawn.  Printed: the median over seeds of the best value after some numbers of trials,
by the sampler, by the sampler if the model treats these ranges as logarithmic, and by Optuna's TPE.
"""

import functools
from unittest import mock

import numpy as np
import optuna
from short_studies import Objective, Search, by_sampler, compare

from optformer.facade import OptFormer
from optformer.serve import optuna_spaces
from optformer.serve.optuna import OptFormerSampler

AT = (5, 10, 20, 36)
RANGES = {"min_split_loss": (1e-8, 5.0), "min_child_weight": (1e-3, 100.0), "alpha": (1e-3, 1.0)}


def function(log: bool, seed: int) -> Objective:
    """The function that is quadratic on a logarithmic or linear scale."""
    optimum = np.random.default_rng(seed).uniform(0.1, 0.9, len(RANGES))
    low, high = np.array(list(RANGES.values())).T

    def objective(trial: optuna.Trial) -> float:
        x = np.array([trial.suggest_float(name, *bounds) for name, bounds in RANGES.items()])
        unit = np.log(x / low) / np.log(high / low) if log else (x - low) / (high - low)
        return float(((unit - optimum) ** 2).sum())

    return objective


def searches(model: OptFormer) -> dict[str, Search]:
    linear = by_sampler(lambda seed: OptFormerSampler(model, seed=seed))

    def logarithmic(objective: Objective, seed: int, trials: int) -> np.ndarray:
        with mock.patch.object(optuna_spaces, "keep_scales", lambda problem: problem):
            return linear(objective, seed, trials)

    tpe = by_sampler(lambda seed: optuna.samplers.TPESampler(seed=seed))
    return {"linear": linear, "logarithmic": logarithmic, "Optuna's TPE": tpe}


if __name__ == "__main__":
    functions = {name: functools.partial(function, log) for name, log in (("uniform", False), ("log-uniform", True))}
    compare(__doc__, "optimum", functions, searches, AT, seeds=16)
