"""A picture of what training brought: regret and log density of the shipped checkpoints by hours of training.

    python benchmarks/plot_training.py [--out docs/images/training.png]

Regret is that of the real validation, setting `free`, over all problems (`recorded/figures/real.json`).  Its bar is one
standard error of the difference to the last checkpoint.  Densities are those of `evaluate calibration --suite real`
(`calibration.json`, and `calibration-NAME.json` for the others), means over the lengths of the history.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

FIGURES = Path(__file__).parent / "recorded" / "figures"
HOURS = {"nano-1": 6.0, "nano-2": 8.0, "nano-3": 12.0}
"""Of two CPU cores, in total."""
LAST = "nano-3"
DATA = {"yahpo": "YAHPO", "tables": "measured tables", "bbob": "BBOB's training functions", "prior": "the prior"}


def read(name: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((FIGURES / name).read_text())
    return figures


def densities(checkpoint: str) -> dict[str, float]:
    """Mean log density over uniform by data set, in nats."""
    summaries = read("calibration.json" if checkpoint == LAST else f"calibration-{checkpoint}.json")["summaries"]
    return {
        data: float(
            np.mean(
                [each["predictors"]["optformer"]["relative"]["value"] for each in summaries if each["data_set"] == data]
            )
        )
        for data in DATA
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="docs/images/training.png")
    arguments = parser.parse_args()
    hours = list(HOURS.values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 4.2), layout="constrained")

    regret = read("real.json")["settings"]["free"]["regret"]["all"]
    for number, (trials, of) in enumerate(regret.items()):
        color = f"C{number}"
        means, errors = ([of[name][field] for name in HOURS] for field in ("mean", "error"))
        left.errorbar(hours, means, errors, color=color, marker="o", capsize=3, label=f"after {trials} trials")
        left.axhline(of["gp"]["mean"], color=color, linestyle=":", linewidth=1.0)
    left.plot([], [], color="0.4", linestyle=":", linewidth=1.0, label="Optuna's GP")
    left.set(ylabel="mean regret", yscale="log")

    by_checkpoint = [densities(name) for name in HOURS]
    for number, (data, words) in enumerate(DATA.items()):
        right.plot(hours, [each[data] for each in by_checkpoint], color=f"C{number}", marker="s", label=words)
    right.set(ylabel="nats over uniform")

    for panel in (left, right):
        panel.set(xlabel="hours of two CPU cores", xlim=(5.0, 13.0))
        panel.set_xticks(hours, [f"{hour:.0f}\n{name}" for name, hour in HOURS.items()])
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3)
    left.set_title("real validation, 197 problems", fontsize=10)
    right.set_title("log density of unseen trials", fontsize=10)
    figure.savefig(arguments.out, dpi=130)


if __name__ == "__main__":
    main()
