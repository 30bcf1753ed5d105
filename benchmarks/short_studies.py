"""Short studies in Optuna on simple functions, for the benchmarks that compare rules of the search on them."""

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import optuna

from optformer.facade import OptFormer, load

Objective: TypeAlias = Callable[[optuna.Trial], float]
Search: TypeAlias = Callable[[Objective, int, int], np.ndarray]
"""Objective, seed and number of trials -> the best value so far after each trial."""


def by_sampler(make: Callable[[int], optuna.samplers.BaseSampler]) -> Search:
    """The search by the sampler that `make` returns for a seed."""

    def search(objective: Objective, seed: int, trials: int) -> np.ndarray:
        study = optuna.create_study(sampler=make(seed))
        study.optimize(objective, trials)
        return np.minimum.accumulate([trial.value for trial in study.trials])

    return search


def compare(
    description: str,
    column: str,
    functions: Mapping[str, Callable[[int], Objective]],
    searches: Callable[[OptFormer], Mapping[str, Search]],
    at: Sequence[int],
    seeds: int,
) -> None:
    """Runs a benchmark and prints its table: medians over seeds of the best value.

    Args:
      description: of the command.
      column: what the names of the functions are.
      functions: name -> the function of a seed, to be minimized.
      searches: the compared searches by name, with a model.
      at: numbers of trials after which the best value is printed.
      seeds: default number of seeds.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--trials", type=int, default=max(at))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    at = [count for count in at if count <= arguments.trials]
    print(f"| {column} | search |", *(f" after {count} |" for count in at), sep="")
    print("|---|---|", *("--:|" for _ in at), sep="")
    compared = searches(load(arguments.checkpoint))
    for function, objective in functions.items():
        for name, search in compared.items():
            runs = [search(objective(seed), seed, arguments.trials) for seed in range(arguments.seeds)]
            medians = np.median(runs, axis=0)
            print(f"| {function} | {name} |", *(f" {medians[count - 1]:.2g} |" for count in at), sep="", flush=True)
