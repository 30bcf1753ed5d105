"""Studies whose objective returns a penalty of 1e6 where a trial fails, as many programs do.

    python benchmarks/penalties.py [--checkpoint default] [--seeds 8] [--trials 36]

A quadratic function of 3 or 6 parameters, with the penalty beyond a plane that cuts off a quarter of the space.  Each
seed has another optimum and another plane; the optimum is never beyond it.  Printed: the median over seeds of the best
value after some numbers of trials, with the rules of `optformer.inference.trust`, without them, and by Optuna's TPE.
"""

import argparse
import warnings

import numpy as np
import optuna

from optformer.facade import load
from optformer.serve.optuna import OptFormerSampler

AT = (10, 20, 30, 36)
PENALTY = 1e6


def best_values(sampler: optuna.samplers.BaseSampler, parameters: int, seed: int, trials: int) -> np.ndarray:
    """The best value so far after each trial."""
    rng = np.random.default_rng(seed)
    optimum, normal = rng.uniform(0.15, 0.85, parameters), rng.normal(size=parameters)

    def upper_quartile(direction: np.ndarray) -> float:
        return float(np.quantile(rng.random((2000, parameters)) @ direction, 0.75))

    limit = upper_quartile(normal)
    if optimum @ normal > limit:
        normal, limit = -normal, upper_quartile(-normal)

    def objective(trial: optuna.Trial) -> float:
        x = np.array([trial.suggest_float(f"x{index}", 0.0, 1.0) for index in range(parameters)])
        return PENALTY if x @ normal > limit else float(((x - optimum) ** 2).sum())

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, trials)
    return np.minimum.accumulate([trial.value for trial in study.trials])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=max(AT))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    model = load(arguments.checkpoint)
    samplers = {
        "the model": lambda seed: OptFormerSampler(model, seed=seed),
        "without the rules": lambda seed: OptFormerSampler(model.with_settings(check_trust=False), seed=seed),
        "Optuna's TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    }
    at = [count for count in AT if count <= arguments.trials]
    print("| parameters | search |", *(f" after {count} |" for count in at), sep="")
    print("|--:|---|", *("--:|" for _ in at), sep="")
    for parameters in (3, 6):
        for name, sampler in samplers.items():
            runs = [best_values(sampler(seed), parameters, seed, arguments.trials) for seed in range(arguments.seeds)]
            medians = np.median(runs, axis=0)
            print(f"| {parameters} | {name} |", *(f" {medians[count - 1]:.2g} |" for count in at), sep="", flush=True)


if __name__ == "__main__":
    main()
