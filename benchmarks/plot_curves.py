"""A picture of predicted learning curves: trials that run, what they will report, and what they then reported.

    python benchmarks/plot_curves.py --yahpo-dir DIR [--checkpoint nano] [--out docs/images/curves.png]

One data set of YAHPO that is held out.  Sixteen trials have finished; four run and have reported up to 20 % of their
budget.  Bands hold the predicted value with 50 and with 90 % at each share of the budget.
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from final_values import drawn
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.data.problems import yahpo

SHARES = (0.05, 0.08, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
REPORTED = 0.2
FINISHED, RUNNING = 16, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--yahpo-dir", required=True)
    parser.add_argument("--scenario", default="rbv2_xgboost")
    parser.add_argument("--out", default="docs/images/curves.png")
    arguments = parser.parse_args()
    model = OptFormer.from_pretrained(arguments.checkpoint)
    task = next(
        each for each in yahpo.tasks(arguments.yahpo_dir, held_out=True) if each.folder.name == arguments.scenario
    )
    experimenter = yahpo.YahpoExperimenter(yahpo.load_scenario(task.folder), task.instance, task.metric, SHARES)
    problem, rng = experimenter.problem_statement(), np.random.default_rng(2)
    trials = [
        vz.Trial(drawn(rng, list(problem.search_space.parameters)), id=number + 1)
        for number in range(FINISHED + RUNNING)
    ]
    experimenter.evaluate(trials)
    figure, axes = plt.subplots(1, RUNNING, figsize=(3.2 * RUNNING, 3.2), sharey=True)
    shares = np.array([*SHARES, 1.0])
    for axis, whole in zip(axes, trials[FINISHED:], strict=True):
        running = vz.Trial(whole.parameters, id=whole.id)
        running.measurements.extend(each for each in whole.measurements if each.steps <= REPORTED * yahpo.STEPS)
        later = shares[shares >= REPORTED]
        bands = np.stack(
            [
                model.predict_final(problem, trials[:FINISHED], running, share=share).quantile(
                    [0.05, 0.25, 0.5, 0.75, 0.95]
                )[:, 0]
                for share in later
            ],
            axis=1,
        )
        for trial in trials[:FINISHED]:
            axis.plot(shares, values(trial, task.metric), color="0.85", linewidth=1.0, zorder=0)
        axis.fill_between(later, bands[0], bands[4], color="tab:blue", alpha=0.15, label="90 %")
        axis.fill_between(later, bands[1], bands[3], color="tab:blue", alpha=0.3, label="50 %")
        axis.plot(later, bands[2], color="tab:blue", label="median")
        axis.plot(shares, values(whole, task.metric), "k:", linewidth=1.0, label="what came")
        axis.plot(shares[shares <= REPORTED], values(running, task.metric), "ko-", markersize=3, label="reported")
        axis.set_xlabel("share of the budget")
        axis.set_title(f"trial {whole.id}")
    axes[0].set_ylabel(task.metric)
    figure.suptitle(f"{task.folder.name} on data set {task.instance}: {FINISHED} finished trials in grey", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=9)
    figure.tight_layout(rect=(0.0, 0.07, 1.0, 1.0))
    figure.savefig(arguments.out, dpi=110)
    print(arguments.out)


def values(trial: vz.Trial, metric: str) -> list[float]:
    return [each.metrics[metric].value for each in trial.measurements]


if __name__ == "__main__":
    main()
