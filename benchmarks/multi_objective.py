"""Several objectives: hypervolume beside Optuna's NSGA-II and random search.

    python benchmarks/multi_objective.py [--checkpoint default] [--trials 50] [--seeds 10] [--engines optformer nsga2]

All are to be minimized: ZDT1 to ZDT3 with 5 parameters and 2 objectives (Zitzler, Deb and Thiele 2000; the second
objective of ZDT3 is raised by 1, above 0), DTLZ2 with 6 parameters and 3 objectives (Deb et al. 2002).  Hypervolume is
the share of the box between the ideal point and a reference point that some trial dominates, by 20,000 fixed random
points; the mean over seeds and its standard error after half and all of the trials, beside what the true front reaches.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optuna
from vizier import pyvizier as vz

from optformer.facade import load
from optformer.serve.ask_tell import AskTell


class Problem(NamedTuple):
    """objectives of a point of the unit cube; reference: the box's upper corner; front: points of the true front."""

    parameters: int
    objectives: Callable[[np.ndarray], np.ndarray]
    reference: np.ndarray
    front: np.ndarray


def zdt1(x: np.ndarray) -> np.ndarray:
    g = 1.0 + 9.0 * x[1:].mean()
    return np.array([x[0], g * (1.0 - np.sqrt(x[0] / g))])


def zdt2(x: np.ndarray) -> np.ndarray:
    g = 1.0 + 9.0 * x[1:].mean()
    return np.array([x[0], g * (1.0 - (x[0] / g) ** 2)])


def zdt3(x: np.ndarray) -> np.ndarray:
    g = 1.0 + 9.0 * x[1:].mean()
    return np.array([x[0], g * (1.0 - np.sqrt(x[0] / g) - x[0] / g * np.sin(10 * np.pi * x[0])) + 1.0])


def dtlz2(x: np.ndarray) -> np.ndarray:
    a, b = x[:2] * np.pi / 2
    g = 1.0 + float(np.sum((x[2:] - 0.5) ** 2))
    return g * np.array([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])


_LINE = np.linspace(0.0, 1.0, 60)
_SPHERE = np.array([dtlz2(np.array([a, b, 0.5, 0.5, 0.5, 0.5])) for a in _LINE[::3] for b in _LINE[::3]])
PROBLEMS = {
    "ZDT1, 2 objectives": Problem(5, zdt1, np.array([1.0, 6.0]), np.stack([_LINE, 1.0 - np.sqrt(_LINE)], axis=1)),
    "ZDT2, 2 objectives": Problem(5, zdt2, np.array([1.0, 6.0]), np.stack([_LINE, 1.0 - _LINE**2], axis=1)),
    "ZDT3, 2 objectives": Problem(5, zdt3, np.array([1.0, 7.0]), np.array([zdt3(np.eye(5)[0] * a) for a in _LINE])),
    "DTLZ2, 3 objectives": Problem(6, dtlz2, np.full(3, 1.5), _SPHERE),
}
SAMPLES = 20_000


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    points = np.random.default_rng(0).random((SAMPLES, len(reference))) * reference[None]
    dominated = np.zeros(SAMPLES, bool)
    for value in values:
        dominated |= (value[None] <= points).all(axis=1)
    return float(dominated.mean())


def by_optformer(problem: Problem, trials: int, seed: int, checkpoint: str) -> np.ndarray:
    statement = vz.ProblemStatement()
    for k in range(problem.parameters):
        statement.search_space.root.add_float_param(f"x{k}", 0.0, 1.0)
    for k in range(len(problem.reference)):
        statement.metric_information.append(vz.MetricInformation(f"f{k}", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    tuner, values = AskTell(statement, load(checkpoint), seed=seed), []
    for _ in range(trials):
        trial = tuner.ask()
        values.append(problem.objectives(np.array([trial.parameters[f"x{k}"] for k in range(problem.parameters)])))
        tuner.tell(trial, {f"f{k}": float(value) for k, value in enumerate(values[-1])})
    return np.array(values)


def by_optuna(sampler: optuna.samplers.BaseSampler, problem: Problem, trials: int) -> np.ndarray:
    study = optuna.create_study(directions=["minimize"] * len(problem.reference), sampler=sampler)

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        x = np.array([trial.suggest_float(f"x{k}", 0.0, 1.0) for k in range(problem.parameters)])
        return tuple(map(float, problem.objectives(x)))

    study.optimize(objective, n_trials=trials)
    return np.array([trial.values for trial in study.trials])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--engines", nargs="+", default=["optformer", "nsga2", "tpe", "random"])
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), metavar="NAME")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    half = arguments.trials // 2
    print(f"| problem | engine | after {half} | after {arguments.trials} | the true front |\n|---|---|---|---|---|")
    for name in arguments.problems:
        problem = PROBLEMS[name]
        best = hypervolume(problem.front, problem.reference)
        for engine in arguments.engines:
            volumes = []
            for seed in range(arguments.seeds):
                samplers = {
                    # Its population must fit the budget; 50 is Optuna's default.
                    "nsga2": lambda seed=seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
                    "tpe": lambda seed=seed: optuna.samplers.TPESampler(seed=seed),
                    "random": lambda seed=seed: optuna.samplers.RandomSampler(seed=seed),
                }
                if engine == "optformer":
                    values = by_optformer(problem, arguments.trials, seed, arguments.checkpoint)
                else:
                    values = by_optuna(samplers[engine](), problem, arguments.trials)
                volumes.append([hypervolume(values[:at], problem.reference) for at in (half, arguments.trials)])
            error = np.std(volumes, axis=0) / np.sqrt(len(volumes))
            half_way, whole = (f"{m:.3f} ± {e:.3f}" for m, e in zip(np.mean(volumes, axis=0), error, strict=True))
            print(f"| {name} | {engine} | {half_way} | {whole} | {best:.3f} |", flush=True)


if __name__ == "__main__":
    main()
