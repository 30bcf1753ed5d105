"""What each threshold of the model's pruner would save and lose, from trials that all run to their end.

    python benchmarks/stopping.py --yahpo-dir DIR --tables DIR [--checkpoint nano] [--problems N] [--out stopping.jsonl]

The problems and reports are those of `pruning.py`, by default of the suite `real-train`, on which choices are made.  25
trials of each are suggested by the model and run whole.  Whenever the pruner would be asked about a trial, its
probability of a new best value is recorded.  Printed:

* how often trials become the best, by this probability;
* by threshold: how many times as many trials the same budget would pay for, and the share of new best values that
  would have been pruned.

Trials that a pruner stops also change what is suggested next.  That is not part of this figure, but of `pruning.py`.
Finished problems are kept in `--out`.
"""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from compared import Row, kept_runs, suite_parser
from pruning import REPORTS, STEPS, suggested

from optformer.data.problems import yahpo
from optformer.evaluate.optimization import real_suites
from optformer.evaluate.optimization.real_suites import YahpoTask
from optformer.facade import load
from optformer.inference.early_stopping import stopping
from optformer.serve import optuna_spaces
from optformer.serve.optuna import OptFormerSampler

TRIALS = 25
BINS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


def run(task: yahpo.Task, checkpoint: str, seed: int) -> list[dict[str, Any]]:
    """Of each trial: at which steps the pruner would be asked, its probabilities, and whether the trial is the best."""
    model = load(checkpoint)
    scenario = yahpo.load_scenario(task.folder)
    column = list(scenario.metrics).index(task.metric)
    configs = list(scenario.search_space().parameters)
    minimize = scenario.metrics[task.metric]
    study = optuna.create_study(
        study_name=task.metric,
        direction="minimize" if minimize else "maximize",
        sampler=OptFormerSampler(model, seed=seed),
    )
    best, found = None, []
    for _ in range(TRIALS):
        trial = study.ask()
        configuration = suggested(trial, configs)
        steps, probabilities = [], []
        value = np.nan
        for step in REPORTS:
            share = max(step / STEPS, scenario.least_share)
            value = float(scenario.evaluate([configuration], task.instance, share)[0, column])
            trial.report(value, step)
            if step == STEPS:
                break
            problem, trials = optuna_spaces.problem_and_trials(study)
            running = next(each for each in trials if each.id == trial.number)
            probability = stopping(model, problem, trials, running, threshold=0.0).probability
            if np.isfinite(probability):
                steps.append(step)
                probabilities.append(probability)
        study.tell(trial, value)
        improves = best is None or (value < best if minimize else value > best)
        found.append({"steps": steps, "probabilities": probabilities, "improves": improves, "first": best is None})
        best = value if improves else best
    return found


def run_all(problem: YahpoTask, done: set[str], checkpoint: str) -> list[Row]:
    """One row with all trials of a problem, unless it is there or the problem has no scale."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if f"{problem.name} | trials" in done:
        return []
    trials = run(problem.task, checkpoint, next(iter(problem.seeds)))
    return [{"problem": problem.name, "engine": "trials", "trials": trials}]


def calibration(trials: Sequence[dict[str, Any]]) -> str:
    """How often trials become the best, by the probability that they were given; all reports together."""
    pairs = np.array([(p, trial["improves"]) for trial in trials for p in trial["probabilities"]])
    lines = ["| probability | times asked | mean probability | became the best |", "|---|--:|--:|--:|"]
    for low, high in itertools.pairwise(BINS):
        inside = pairs[(pairs[:, 0] >= low) & ((pairs[:, 0] < high) | (high == BINS[-1]))]
        if len(inside):
            probability, share = inside.mean(axis=0)
            lines.append(f"| {low:g} to {high:g} | {len(inside)} | {probability:.3f} | {share:.3f} |")
    return "\n".join(lines)


def thresholds(trials: Sequence[dict[str, Any]]) -> str:
    """What each threshold would save and lose."""
    lines = ["| threshold | trials at equal budget | new best values lost, % |", "|--:|--:|--:|"]
    improving = [trial for trial in trials if trial["improves"] and not trial["first"]]

    def ends(trial: dict[str, Any], threshold: float) -> int:
        asked = zip(trial["steps"], trial["probabilities"], strict=True)
        return next((step for step, probability in asked if probability < threshold), STEPS)

    for threshold in THRESHOLDS:
        spent = np.mean([ends(trial, threshold) / STEPS for trial in trials])
        lost = np.mean([ends(trial, threshold) < STEPS for trial in improving])
        lines.append(f"| {threshold:g} | {1 / spent:.2f} | {100 * lost:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = suite_parser(__doc__, "stopping.jsonl")
    parser.add_argument("--problems", type=int, default=1000, help="at most; default: all")
    arguments = parser.parse_args()
    suite = real_suites.suite(arguments.suite, arguments.yahpo_dir, arguments.tables)
    problems = [problem for problem in suite if isinstance(problem, YahpoTask)][: arguments.problems]
    rows = kept_runs(arguments.out, problems, run_all, arguments.processes, arguments.checkpoint)
    trials = [trial for row in rows for trial in row["trials"]]
    print(f"{len(rows)} problems, {len(trials)} trials\n\n{calibration(trials)}\n\n{thresholds(trials)}")


if __name__ == "__main__":
    main()
