"""Studies whose objective returns a penalty of 1e6 where a trial fails, as many programs do.

    python benchmarks/penalties.py [--checkpoint default] [--seeds 8] [--trials 36]

A quadratic function of 3 or 6 parameters, with the penalty beyond a plane that cuts off a quarter of the space.  Each
seed has another optimum and another plane; the optimum is never beyond it.  Printed: the median over seeds of the best
value after some numbers of trials, with the rules of `optformer.inference.trust`, without them, and by Optuna's TPE.
"""

import functools

import numpy as np
import optuna
from short_studies import Objective, Search, by_sampler, compare

from optformer.facade import OptFormer
from optformer.serve.optuna import OptFormerSampler

AT = (10, 20, 30, 36)
PENALTY = 1e6


def function(parameters: int, seed: int) -> Objective:
    """The quadratic function with a penalty."""
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

    return objective


def searches(model: OptFormer) -> dict[str, Search]:
    unchecked = model.with_settings(check_trust=False)
    return {
        "the model": by_sampler(lambda seed: OptFormerSampler(model, seed=seed)),
        "without the rules": by_sampler(lambda seed: OptFormerSampler(unchecked, seed=seed)),
        "Optuna's TPE": by_sampler(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    }


if __name__ == "__main__":
    functions = {str(count): functools.partial(function, count) for count in (3, 6)}
    compare(__doc__, "parameters", functions, searches, AT, seeds=8)
