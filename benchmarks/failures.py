"""Whether failures fall: problems of which a third of the space fails.

    python benchmarks/failures.py [--checkpoint default] [--trials 40] [--seeds 4] [--engines optformer tpe random]

Four parameters, one of them a category, and a valley as objective, to be minimized.  What fails: a half-space (as where
learning rate and momentum are large together), a corner (out of memory), or all under one category and half under
another.  In each the valley's lowest point lies inside the feasible region, near its border.  Printed: failures in each
ten trials, mean over seeds; the mean share after half and all of the trials; the mean of the best objective.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optuna

from optformer.facade import load
from optformer.serve.ask_tell import AskTell

KINDS = ("a", "b", "c")


class Problem(NamedTuple):
    """`fails` and `value` of three numbers in [0, 1] and a category."""

    fails: Callable[[np.ndarray, str], bool]
    value: Callable[[np.ndarray, str], float]


def _problem(seed: int, region: str) -> Problem:
    rng = np.random.default_rng([seed, 7])
    slope = rng.uniform(0.5, 1.0, 3) * rng.choice([-1.0, 1.0], 3)
    points, kinds = rng.random((20_000, 3)), rng.choice(KINDS, 20_000)
    worst, middling = rng.permutation(KINDS)[:2]
    flipped = rng.random(3) < 0.5
    thresholds = {"half-space": np.quantile(points @ slope, 2 / 3), "category": 0.0}

    def severity(x: np.ndarray, kind: str) -> float:
        """Fails above 0."""
        if region == "half-space":
            return float(x @ slope - thresholds["half-space"])
        if region == "corner":
            # A third of the cube lies beyond: (1 - t)^2 = 1/3 in two of the parameters.
            return float(np.where(flipped, 1.0 - x, x)[:2].min() - (1.0 - 3**-0.5))
        return 1.0 if kind == worst else (x[0] - 1.0 if kind == middling else -1.0)

    # The lowest point: of the feasible points the one nearest to the border but for a margin.
    slack = np.array([-severity(x, k) for x, k in zip(points[:2000], kinds[:2000], strict=True)])
    best = points[int(np.argmin(np.where(slack > 0.1, slack, np.inf)))]
    cost = dict(zip(KINDS, rng.permutation([0.0, 0.1, 0.2]), strict=True))

    def value(x: np.ndarray, kind: str) -> float:
        d = x - best
        return float(d @ d + 2.0 * (d[0] + d[1]) ** 2 + cost[kind])

    return Problem(lambda x, kind: severity(x, kind) > 0, value)


REGIONS = ("half-space", "corner", "category")


class Outcome(NamedTuple):
    failed: list[bool]
    best: float


def by_optformer(problem: Problem, trials: int, seed: int, checkpoint: str) -> Outcome:
    space = {"x0": (0.0, 1.0), "x1": (0.0, 1.0), "x2": (0.0, 1.0), "kind": list(KINDS)}
    tuner, failed, best = AskTell(space, load(checkpoint), seed=seed), [], np.inf
    for _ in range(trials):
        trial = tuner.ask()
        x, kind = np.array([trial.parameters[f"x{k}"] for k in range(3)]), trial.parameters["kind"]
        failed.append(problem.fails(x, kind))
        tuner.tell(trial, None if failed[-1] else problem.value(x, kind))
        best = best if failed[-1] else min(best, problem.value(x, kind))
    return Outcome(failed, best)


def by_optuna(sampler: optuna.samplers.BaseSampler, problem: Problem, trials: int) -> Outcome:
    study, failed, best = optuna.create_study(sampler=sampler), [], np.inf
    for _ in range(trials):
        trial = study.ask()
        x = np.array([trial.suggest_float(f"x{k}", 0.0, 1.0) for k in range(3)])
        kind = trial.suggest_categorical("kind", KINDS)
        failed.append(problem.fails(x, kind))
        if failed[-1]:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, problem.value(x, kind))
            best = min(best, problem.value(x, kind))
    return Outcome(failed, best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--engines", nargs="+", default=["optformer", "tpe", "random"])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {
        "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    for region in REGIONS:
        print(f"{region}: {'':12} failures in each ten   after half   after all   best")
        for engine in arguments.engines:
            outcomes = []
            for seed in range(arguments.seeds):
                problem = _problem(seed, region)
                if engine == "optformer":
                    outcomes.append(by_optformer(problem, arguments.trials, seed, arguments.checkpoint))
                else:
                    outcomes.append(by_optuna(samplers[engine](seed), problem, arguments.trials))
            failed = np.array([outcome.failed for outcome in outcomes], float)
            tens = [failed[:, at : at + 10].sum(axis=1).mean() for at in range(0, arguments.trials, 10)]
            half = failed[:, : arguments.trials // 2].mean()
            best = np.mean([outcome.best for outcome in outcomes])
            parts = "  ".join(f"{each:4.1f}" for each in tens)
            print(f"  {engine:12} {parts}   {half:10.0%}   {failed.mean():9.0%}   {best:.3f}", flush=True)


if __name__ == "__main__":
    main()
