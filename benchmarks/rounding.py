"""What is lost because the model knows 1,000 values of a parameter: regret at the optimum, rounded to these values.

    python benchmarks/rounding.py

The functions are BBOB's training functions in 2, 5 and 10 dimensions, two instances of each.  The optimum is the best
point of a local search from the shift on, where most of the functions have it.  Regret is 0 there and 1 at the median
of the best of ten random points.  A search with a finer grid could gain at most this much.
"""

import numpy as np
from scipy import optimize

from optformer.data.problems.bbob import BOUND, TRAIN, BBOBExperimenter
from optformer.serialization import tokens

DIMENSIONS, INSTANCES = (2, 5, 10), (1, 2)


def regret_of_rounding(function: BBOBExperimenter, dimension: int) -> float:
    start = np.array(function._shift, float)
    found = optimize.minimize(function.value, start, method="Nelder-Mead", options={"maxiter": 3000, "xatol": 1e-9})
    optimum = np.clip(found.x if found.fun < function.value(start) else start, -BOUND, BOUND)
    best = function.value(optimum)
    points = np.random.default_rng(0).uniform(-BOUND, BOUND, (50, 10, dimension))
    reference = float(np.median([min(map(function.value, ten)) for ten in points]))
    last = tokens.NUM_LEVELS - 1
    rounded = np.round((optimum + BOUND) / (2 * BOUND) * last) / last * 2 * BOUND - BOUND
    return (function.value(rounded) - best) / (reference - best)


def main() -> None:
    print("| function | " + " | ".join(f"{dimension} dimensions" for dimension in DIMENSIONS) + " |")
    print("|---|" + "--:|" * len(DIMENSIONS))
    for name in TRAIN:
        means = [
            np.mean([regret_of_rounding(BBOBExperimenter(name, dimension, seed), dimension) for seed in INSTANCES])
            for dimension in DIMENSIONS
        ]
        print(f"| {name} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
