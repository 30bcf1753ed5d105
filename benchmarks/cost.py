"""What it is worth to tell the search what trials cost: regret after equal total seconds, with `cost` and without.

    python benchmarks/cost.py --yahpo-dir DIR [--checkpoint default] [--instances 3] [--seeds 1] [--out FILE] [--quick]

The problems are training data sets of three scenarios of YAHPO; a trial costs the surrogate's `timetrain`.  The
scenarios are those whose `timetrain` is a sound target (that of `rbv2_ranger`, for one, is 0 on many trials).  Each
study has the seconds that `TRIALS` trials take without `cost`, and at most twice as many trials.  A trial that does not
end in time does not count.

Printed by scenario and for all: studies, mean number of trials that ended, mean regret after a quarter, a half and all
of the seconds, and the paired difference (negative: `cost` is better) with its standard error over studies.  Regret is
0 at the best value known, 1 at the median of the best of ten random trials, at most 2.  Runs are kept in FILE; the same
call goes on where the last one stopped.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from vizier import pyvizier as vz

from optformer.data.problems import yahpo
from optformer.facade import OptFormer, load
from optformer.inference.candidates import SlotSpace, configurations, quasi_random
from optformer.serialization.space import StudySchema

SCENARIOS = ("rbv2_xgboost", "rbv2_svm", "iaml_xgboost")
COST = "seconds"
TRIALS, QUICK = 20, 6
SHARES = (0.25, 0.5, 1.0)
LEAST_SECONDS = 0.01
"""What the surrogate predicts below counts as this: a trial takes some time."""

Trace = list[tuple[float, float]]
"""Seconds and value (larger is better) of each trial, in order."""


class Problem:
    """One metric of a scenario on one data set, with seconds."""

    def __init__(self, task: yahpo.Task):
        self.scenario, self.task = yahpo.load_scenario(task.folder), task
        self.statement = yahpo.YahpoExperimenter(self.scenario, task.instance, task.metric).problem_statement()
        self._columns = [list(self.scenario.metrics).index(name) for name in (task.metric, "timetrain")]
        self.sign = -1.0 if self.scenario.metrics[task.metric] else 1.0

    def measured(self, configurations: Sequence[dict[str, object]]) -> np.ndarray:
        """[N, 2]: the metric, and seconds."""
        found = self.scenario.evaluate(configurations, self.task.instance)[:, self._columns]
        found[:, 1] = np.maximum(found[:, 1], LEAST_SECONDS)
        return found

    def random(self, count: int = 1000) -> np.ndarray:
        """What so many random trials give."""
        schema = StudySchema(self.statement)
        space = SlotSpace.of(schema)
        rows = configurations(quasi_random(space, 0, count, seed=0), space)
        return self.measured([schema.decode(row) for row in rows])


def tuned(model: OptFormer, problem: Problem, seconds: float, most: int, seed: int, cost: str | None) -> Trace:
    """The trials of one study, until the seconds are spent."""
    trials: list[vz.Trial] = []
    trace: Trace = []
    while len(trials) < most and sum(spent for spent, _ in trace) < seconds:
        (suggestion,) = model.suggest(problem.statement, trials, seed=seed, cost=cost)
        ((value, spent),) = problem.measured([suggestion.parameters.as_dict()])
        trial = suggestion.to_trial(len(trials) + 1)
        measured = {problem.task.metric: float(value), COST: float(spent)}
        trials.append(trial.complete(vz.Measurement(metrics=measured)))
        trace.append((float(spent), problem.sign * float(value)))
    return trace


def ended(trace: Trace, seconds: float) -> list[float]:
    """Values of the trials that ended within so many seconds."""
    times = np.cumsum([spent for spent, _ in trace])
    return [value for time, (_, value) in zip(times, trace, strict=True) if time <= seconds * (1 + 1e-9)]


def regret(trace: Trace, seconds: float, random: np.ndarray, best: float) -> float:
    """2 where no trial has ended."""
    tens = random[: len(random) // 10 * 10].reshape(-1, 10).max(axis=1)
    found = max(ended(trace, seconds), default=-np.inf)
    return float(np.clip((best - found) / max(best - np.median(tens), 1e-12), 0.0, 2.0))


def report(name: str, found: Sequence[dict[str, list[float]]]) -> str:
    """One row of the table."""
    counts = " / ".join(f"{np.mean([one['trials'][k] for one in found]):.1f}" for k in range(2))
    cells = []
    for k in range(len(SHARES)):
        plain, cost = (np.array([one[engine][k] for one in found]) for engine in ("plain", "cost"))
        error = (cost - plain).std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.nan
        cells.append(f"{plain.mean():.3f} | {cost.mean():.3f} | {(cost - plain).mean():+.3f} ({error:.3f})")
    return f"| {name} | {len(found)} | {counts} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yahpo-dir", required=True, metavar="DIR")
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR")
    parser.add_argument("--instances", type=int, default=3, help="data sets per scenario, as far as there are so many")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", metavar="FILE", help="JSON lines of the runs")
    parser.add_argument("--quick", action="store_true", help="one data set per scenario, and fewer trials")
    arguments = parser.parse_args()
    count, instances = (QUICK, 1) if arguments.quick else (TRIALS, arguments.instances)
    model = load(arguments.checkpoint)
    out = Path(arguments.out) if arguments.out else None
    kept = {}
    if out is not None and out.exists():
        kept = {json.dumps(one["key"]): one["trace"] for one in map(json.loads, out.read_text().splitlines())}
    tasks = yahpo.tasks(arguments.yahpo_dir, held_out=False)
    found: dict[str, list[dict[str, list[float]]]] = {}
    for scenario in SCENARIOS:
        first = {task.instance: task for task in reversed([task for task in tasks if task.folder.name == scenario])}
        names = np.random.default_rng(0).permutation(sorted(first))[:instances].tolist()
        for problem in (Problem(first[name]) for name in names):
            values = problem.sign * problem.random()[:, 0]
            for seed in range(arguments.seeds):
                traces: list[Trace] = []
                for cost, most in (None, count), (COST, 2 * count):
                    seconds = sum(spent for spent, _ in traces[0]) if traces else np.inf
                    key = [model.name, scenario, problem.task.instance, problem.task.metric, count, seed, cost]
                    trace = kept.get(json.dumps(key)) or tuned(model, problem, seconds, most, seed, cost)
                    if out is not None and json.dumps(key) not in kept:
                        with out.open("a") as file:
                            file.write(json.dumps({"key": key, "trace": trace}) + "\n")
                    traces.append(trace)
                seconds = sum(spent for spent, _ in traces[0])
                best = max(values.max(), *(value for trace in traces for _, value in trace))
                row = {"trials": [float(len(ended(trace, seconds))) for trace in traces]}
                for engine, trace in zip(("plain", "cost"), traces, strict=True):
                    row[engine] = [regret(trace, share * seconds, values, best) for share in SHARES]
                found.setdefault(scenario, []).append(row)
                print(scenario, problem.task.instance, seed, json.dumps(row), flush=True)
    columns = [f"{what} after {share:.0%}" for share in SHARES for what in ("plain", "cost", "difference")]
    print(f"\n| scenario | studies | trials, plain / cost | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 3)}")
    for name, rows in found.items():
        print(report(name, rows))
    print(report("all", [row for rows in found.values() for row in rows]))


if __name__ == "__main__":
    main()
