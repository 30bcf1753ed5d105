"""Constraints on outcomes: the best feasible value beside Optuna's TPE and random search.

    python benchmarks/constraints.py [--checkpoint default] [--trials 40] [--seeds 10] [--engines optformer tpe random]

All are to be minimized.  "corner": x^2 + y^2 where x + y is at least 1 (best 0.5).  "Townsend": the modified function
of Townsend (2014) within its heart-shaped region (best -2.024).  "pressure vessel": cost of a vessel by two thicknesses
in sixteenths of an inch, radius and length, three constraints (Sandgren 1990; best 6059.7).  "C2-DTLZ2": four
parameters, two objectives, the front in pieces (Jain and Deb 2014); its value is minus the hypervolume of the feasible
trials below 1.1.  Printed: mean and median over seeds of the best feasible value (a seed without one is the worst
of all that were found), mean number of feasible trials, and the seeds in which the engine was better than TPE.
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optuna

from optformer.facade import load
from optformer.serve.optuna import OptFormerSampler

Outcome = tuple[tuple[float, ...], dict[str, float]]
"""Objectives, and constraints that hold where they are at most 0."""


def corner(trial: optuna.Trial) -> Outcome:
    x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 0.0, 1.0)
    return (x * x + y * y,), {"at least one": 1.0 - x - y}


def townsend(trial: optuna.Trial) -> Outcome:
    x, y = trial.suggest_float("x", -2.25, 2.25), trial.suggest_float("y", -2.5, 1.75)
    t = math.atan2(x, y)
    heart = 2 * math.cos(t) - math.cos(2 * t) / 2 - math.cos(3 * t) / 4 - math.cos(4 * t) / 8
    value = -(math.cos((x - 0.1) * y) ** 2) - x * math.sin(3 * x + y)
    return (value,), {"heart": x * x + y * y - heart**2 - (2 * math.sin(t)) ** 2}


def pressure_vessel(trial: optuna.Trial) -> Outcome:
    shell, head = (trial.suggest_int(name, 1, 99) * 0.0625 for name in ("shell", "head"))
    radius, length = trial.suggest_float("radius", 10.0, 200.0), trial.suggest_float("length", 10.0, 200.0)
    cost = 0.6224 * shell * radius * length + 1.7781 * head * radius**2
    cost += 3.1661 * shell**2 * length + 19.84 * shell**2 * radius
    volume = math.pi * radius**2 * length + 4 / 3 * math.pi * radius**3
    return (cost,), {
        "shell": 0.0193 * radius - shell,
        "head": 0.00954 * radius - head,
        "volume": 1_296_000.0 - volume,
    }


def c2_dtlz2(trial: optuna.Trial) -> Outcome:
    x = np.array([trial.suggest_float(f"x{k}", 0.0, 1.0) for k in range(4)])
    g = 1.0 + float(np.sum((x[1:] - 0.5) ** 2))
    f = g * np.array([math.cos(x[0] * math.pi / 2), math.sin(x[0] * math.pi / 2)])
    near_axis = min(((f[k] - 1) ** 2 + (f**2).sum() - f[k] ** 2) for k in range(2))
    near_middle = ((f - 1 / math.sqrt(2)) ** 2).sum()
    return tuple(map(float, f)), {"pieces": float(min(near_axis, near_middle)) - 0.2**2}


class Problem(NamedTuple):
    run: Callable[[optuna.Trial], Outcome]
    objectives: int = 1


PROBLEMS = {
    "corner": Problem(corner),
    "Townsend": Problem(townsend),
    "pressure vessel": Problem(pressure_vessel),
    "C2-DTLZ2": Problem(c2_dtlz2, 2),
}


def value(points: np.ndarray) -> float:
    """Of the feasible objectives [T, K]: the best one, or minus the hypervolume of two; NaN of none."""
    if points.shape[1] == 1:
        return float(points.min(initial=np.inf)) if len(points) else math.nan
    volume, ceiling = 0.0, 1.1
    for first, second in sorted(map(tuple, points)):
        if first < 1.1 and second < ceiling:
            volume += (1.1 - first) * (ceiling - second)
            ceiling = second
    return -volume


def run(problem: Problem, sampler: optuna.samplers.BaseSampler, trials: int) -> tuple[float, int]:
    """Best feasible value and number of feasible trials."""
    study = optuna.create_study(directions=["minimize"] * problem.objectives, sampler=sampler)
    feasible = []

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        objectives, constraints = problem.run(trial)
        for name, each in constraints.items():
            trial.set_constraint(name, each)
        if max(constraints.values()) <= 0:
            feasible.append(objectives)
        return objectives

    study.optimize(objective, n_trials=trials)
    return value(np.array(feasible).reshape(-1, problem.objectives)), len(feasible)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--engines", nargs="+", default=["optformer", "tpe", "random"])
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {
        "optformer": lambda seed: OptFormerSampler(load(arguments.checkpoint), seed=seed),
        "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    columns = ("problem", "engine", "best feasible, mean", "median", "feasible trials", "better than TPE")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in arguments.problems:
        found = {
            engine: [run(PROBLEMS[name], samplers[engine](seed), arguments.trials) for seed in range(arguments.seeds)]
            for engine in arguments.engines
        }
        best = {engine: np.array([value for value, _ in outcomes]) for engine, outcomes in found.items()}
        worst = np.nanmax(np.concatenate(list(best.values())))
        for engine, outcomes in found.items():
            values = np.nan_to_num(best[engine], nan=worst)
            better = "-"
            if engine != "tpe" and "tpe" in best:
                better = f"{(values < np.nan_to_num(best['tpe'], nan=worst)).sum()} of {arguments.seeds}"
            count = np.mean([count for _, count in outcomes])
            row = f"| {name} | {engine} | {values.mean():.4g} | {np.median(values):.4g} | {count:.1f} | {better} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
