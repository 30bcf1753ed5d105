"""How well long studies are predicted, by how many of their trials the model reads.

    python benchmarks/experiments/windows.py --yahpo-dir DIR --tables DIR [--checkpoint default] [--known 240]

The problems are those of `real-train` that have enough configurations.  Of their random trials, the first `--known` are
known, and the next 32 are predicted.  Of more known trials than it reads, the model reads the best (a third of the
places) and the newest.  Printed: the mean log density in nats over uniform, and how much more than with 64 trials, with
the standard error over problems.
"""

import argparse
import warnings

import numpy as np

from optformer.evaluate.optimization import real_suites
from optformer.evaluate.optimization.tuning import objective_values, random_trials
from optformer.facade import load

TESTED = 32
WINDOWS = (32, 64, 96, 128, 152, 240)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yahpo-dir", required=True)
    parser.add_argument("--tables", required=True)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--known", type=int, default=240)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    windows = [window for window in WINDOWS if window <= arguments.known]
    models = [load(arguments.checkpoint).with_settings(max_trials=window) for window in windows]
    found = []
    for problem in real_suites.suite("real-train", arguments.yahpo_dir, arguments.tables):
        seed = next(iter(problem.seeds))
        experimenter = problem.experimenter(seed)
        statement = experimenter.problem_statement()
        trials = random_trials(experimenter, arguments.known + TESTED, seed)
        values = objective_values(statement, trials)
        known = trials[: arguments.known]
        tested = [index for index in range(len(known), len(trials)) if np.isfinite(values[index])]
        spread = np.ptp(values[np.isfinite(values)])
        if len(trials) < arguments.known + TESTED or not tested or not spread:
            continue
        asked = [trials[index].parameters.as_dict() for index in tested]
        densities = [
            model.predict(statement, known, asked).log_prob(values[tested]).mean() + np.log(spread) for model in models
        ]
        found.append(densities)
        print(f"{problem.name}: {', '.join(f'{density:.2f}' for density in densities)}", flush=True)
    densities = np.array(found)
    more = densities - densities[:, [windows.index(64)]]
    print(f"\n{len(more)} problems\n")
    print("| trials read | log density | more than with 64 | standard error |\n|--:|--:|--:|--:|")
    for column, window in enumerate(windows):
        error = more[:, column].std(ddof=1) / np.sqrt(len(more))
        print(f"| {window} | {densities[:, column].mean():.3f} | {more[:, column].mean():.3f} | {error:.3f} |")


if __name__ == "__main__":
    main()
