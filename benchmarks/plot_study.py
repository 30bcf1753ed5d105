"""Tunes a made-up training run of six parameters with a checkpoint and draws what it made of it: `optformer.plot`.

python benchmarks/plot_study.py [--checkpoint nano] [--trials 24] [--out docs/images]
"""

import argparse
from pathlib import Path

import numpy as np
from vizier import pyvizier as vz

from optformer import OptFormer, plot


def problem() -> vz.ProblemStatement:
    made = vz.ProblemStatement()
    made.metric_information.append(vz.MetricInformation("accuracy", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    root = made.search_space.root
    root.add_float_param("learning_rate", 1e-5, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_float_param("dropout", 0.0, 0.9)
    root.add_int_param("layers", 1, 8)
    optimizer = root.add_categorical_param("optimizer", ["adam", "sgd", "lion"])
    optimizer.select_values(["sgd"]).add_float_param("momentum", 0.0, 0.99)
    root.add_float_param("weight_decay", 1e-6, 1e-1, scale_type=vz.ScaleType.LOG)
    return made


def accuracy(parameters: dict) -> float:
    """Best at a learning rate of 1e-3, little dropout and five layers; weight decay does nothing."""
    lost = 0.05 * (np.log10(parameters["learning_rate"]) + 3) ** 2 + 0.1 * (parameters["dropout"] - 0.2) ** 2
    lost += 0.005 * (parameters["layers"] - 5) ** 2 + {"adam": 0.0, "sgd": 0.08, "lion": 0.02}[parameters["optimizer"]]
    return float(0.9 - lost + 0.05 * parameters.get("momentum", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="nano")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("."))
    arguments = parser.parse_args()
    model, study, trials = OptFormer.from_pretrained(arguments.checkpoint), problem(), []
    for number in range(1, arguments.trials + 1):
        (suggestion,) = model.suggest(study, trials, seed=1)
        trial = suggestion.to_trial(number)
        trials.append(trial.complete(vz.Measurement(metrics={"accuracy": accuracy(trial.parameters.as_dict())})))
    print("accuracies:", *[f"{trial.final_measurement.metrics['accuracy'].value:.3f}" for trial in trials])
    print("importances:", plot.importances(model, study, trials))
    arguments.out.mkdir(parents=True, exist_ok=True)
    plot.slices(model, study, trials).savefig(arguments.out / "slices.png")
    plot.predicted_against_observed(model, study, trials).savefig(arguments.out / "held-out-folds.png")
    plot.importance(model, study, trials).savefig(arguments.out / "importance.png")


if __name__ == "__main__":
    main()
