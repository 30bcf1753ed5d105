"""A picture of first suggestions with and without earlier studies.

    python benchmarks/plot_earlier.py --yahpo-dir DIR --tables DIR [--checkpoint nano] [--out docs/images/earlier.png]

A data set of YAHPO that is held out (random forests), and three others of the same scenario with 30 random trials each.
Every point is a configuration, at two of its parameters.  Its colour is its rank on its own data set: dark points are
good ones.  Numbers are the order of suggestions.
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from prior_studies import TRIALS, earlier_studies, relatives
from vizier import pyvizier as vz

from optformer.evaluate.optimization import real_suites
from optformer.evaluate.optimization.real_suites import YahpoTask
from optformer.evaluate.optimization.tuning import maximizes, objective_values, random_trials, tuning
from optformer.facade import load
from optformer.serve.vizier import OptFormerDesigner

FIRST, RANDOM = 6, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--yahpo-dir", required=True)
    parser.add_argument("--tables", required=True)
    parser.add_argument("--scenario", default="rbv2_ranger")
    parser.add_argument(
        "--task", type=int, default=0, help="which of the scenario's held-out tasks; default: the first"
    )
    parser.add_argument(
        "--parameters", nargs=2, default=("sample.fraction", "min.node.size"), help="x and y, without conditions"
    )
    parser.add_argument("--out", default="docs/images/earlier.png")
    arguments = parser.parse_args()
    problem = [
        each
        for each in real_suites.suite("real", arguments.yahpo_dir, arguments.tables)
        if isinstance(each, YahpoTask) and each.kind == arguments.scenario
    ][arguments.task]
    seed = next(iter(problem.seeds))
    studies = earlier_studies(relatives(problem, arguments.yahpo_dir, arguments.tables), seed)
    experimenter = problem.experimenter(seed)
    statement = experimenter.problem_statement()
    at_random = random_trials(experimenter, RANDOM, seed)
    scale = np.sort(goodness(statement, at_random))

    def ranks(trials: list[vz.Trial]) -> np.ndarray:
        return np.searchsorted(scale, goodness(statement, trials)) / len(scale)

    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.9), sharex=True, sharey=True)
    for study, marker in zip(studies, "osD", strict=True):
        worth = goodness(study.problem, study.trials)
        within = np.argsort(np.argsort(worth)) / (len(worth) - 1)
        points = axes[0].scatter(
            *places(study.trials, arguments.parameters), c=within, marker=marker, s=28, cmap="viridis_r", vmin=0, vmax=1
        )
    axes[0].set_title(f"earlier studies of three other data sets,\n{TRIALS} random trials each", fontsize=10)
    for axis, shown, title in ((axes[1], (), "without them"), (axes[2], studies, "told of them")):
        designer = OptFormerDesigner(statement, load(arguments.checkpoint), seed=seed, prior_studies=shown)
        first = [trial for trial, _ in tuning(experimenter, designer, [], FIRST)]
        axis.scatter(
            *places(at_random, arguments.parameters),
            c=ranks(at_random),
            s=9,
            alpha=0.35,
            cmap="viridis_r",
            vmin=0,
            vmax=1,
        )
        x, y = places(first, arguments.parameters)
        axis.scatter(x, y, c=ranks(first), s=190, edgecolors="black", cmap="viridis_r", vmin=0, vmax=1)
        for number, (across, up, rank) in enumerate(zip(x, y, ranks(first), strict=True), 1):
            colour = "white" if rank > 0.5 else "black"
            axis.annotate(str(number), (across, up), ha="center", va="center", color=colour, fontsize=9)
        beaten = 100 * np.mean(scale <= goodness(statement, first).max())
        axis.set_title(
            f"first {FIRST} suggestions, {title}:\nthe best beats {beaten:.0f} % of random ones", fontsize=10
        )
    configs = {config.name: config for config in statement.search_space.parameters}
    scales = ["log" if configs[name].scale_type == vz.ScaleType.LOG else "linear" for name in arguments.parameters]
    for axis in axes:
        axis.set_xscale(scales[0])
        axis.set_yscale(scales[1])
        axis.set_xlabel(arguments.parameters[0])
    axes[0].set_ylabel(arguments.parameters[1])
    bar = figure.colorbar(points, ax=axes, fraction=0.025, pad=0.015, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["worst", "median", "best"])
    figure.suptitle(f"{problem.name}", fontsize=10, y=1.02)
    figure.savefig(arguments.out, dpi=110, bbox_inches="tight")
    print(arguments.out)


def goodness(statement: vz.ProblemStatement, trials: list[vz.Trial]) -> np.ndarray:
    """Objective values with the best one largest; -inf where a trial failed."""
    values = objective_values(statement, trials) * (1.0 if maximizes(statement) else -1.0)
    return np.where(np.isfinite(values), values, -np.inf)


def places(trials: list[vz.Trial], names: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The two coordinates of each trial."""
    x, y = (np.array([float(trial.parameters.get_value(name)) for trial in trials]) for name in names)
    return x, y


if __name__ == "__main__":
    main()
