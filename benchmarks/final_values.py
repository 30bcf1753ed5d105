"""How well the final value of a running trial is predicted from half of its budget.

    python benchmarks/final_values.py [--checkpoint nano] --yahpo-dir yahpo [--logs validation.jsonl.gz]

Problems: YAHPO's data sets that are held out, where trials report at some shares of their training set or epochs; and
logged studies, if given, of which at least eight finished trials reported four times or more.  In each case some trials
are finished, half as many were stopped, and one is running and has reported up to half of its budget.

Compared with
  last value    the last report, with an error as large as that of the finished trials' reports at the same step
  power law     a + b step^-c through the trial's own reports, with an error as large as that of the finished trials
both as a Student distribution with as many degrees of freedom as there are finished trials, less one.

Prints, for each source: log densities of the final value in units of the finished trials' range between the quartiles,
the paired difference with its standard error, how often the central 90 % hold the value, and the median absolute error.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.data.problems import yahpo
from optformer.data.sources import read
from optformer.evaluate.report import write_json
from optformer.serialization.partial_trials import reports_of

SHARES = (0.04, 0.08, 0.16, 0.3, 0.5)
HALF = 0.5
FINISHED = (5, 10, 20)


Rule = Callable[[np.ndarray, np.ndarray, int], float]
"""Steps and values of a trial's reports, and the budget in steps, to its final value."""


class Case(NamedTuple):
    """A running trial among others."""

    source: str
    problem: vz.ProblemStatement
    trials: list[vz.Trial]
    running: vz.Trial
    final: float
    """Of the running trial."""


def of_yahpo(folder: str, most: int) -> Iterator[Case]:
    """Cases of data sets that are held out, as many of each scenario."""
    tasks = yahpo.tasks(folder, held_out=True)
    by_scenario: dict[Path, list[yahpo.Task]] = {}
    for task in tasks:
        by_scenario.setdefault(task.folder, []).append(task)
    for number in range(most):
        each = by_scenario[list(by_scenario)[number % len(by_scenario)]]
        task = each[number // len(by_scenario) % len(each)]
        scenario, rng = yahpo.load_scenario(task.folder), np.random.default_rng([5, number])
        shares = [share for share in SHARES if share >= scenario.least_share]
        experimenter = yahpo.YahpoExperimenter(scenario, task.instance, task.metric, shares)
        problem, count = experimenter.problem_statement(), FINISHED[number % len(FINISHED)]
        trials = [vz.Trial(drawn(rng, problem.search_space.parameters), id=k + 1) for k in range(count * 3 // 2 + 1)]
        experimenter.evaluate(trials)
        yield case("YAHPO", problem, trials, count, round(HALF * yahpo.STEPS), rng)


def drawn(rng: np.random.Generator, configs: list[vz.ParameterConfig]) -> dict[str, vz.ParameterValueTypes]:
    values: dict[str, vz.ParameterValueTypes] = {}
    for config in configs:
        if config.type in (vz.ParameterType.CATEGORICAL, vz.ParameterType.DISCRETE):
            values[config.name] = config.feasible_values[int(rng.integers(len(config.feasible_values)))]
            values |= drawn(rng, list(config.get_subspace_deepcopy(values[config.name]).parameters))
            continue
        low, high = config.bounds
        share = rng.random()
        log = config.scale_type == vz.ScaleType.LOG
        value = low * (high / low) ** share if log else low + (high - low) * share
        values[config.name] = round(value) if config.type == vz.ParameterType.INTEGER else float(value)
    return values


def of_logs(path: str, most: int) -> Iterator[Case]:
    """Cases of logged studies, the same number of each as far as they have trials."""
    studies = []
    for study in read(path):
        if not isinstance(study, vz.ProblemAndTrials) or len(study.problem.metric_information) != 1:
            continue
        name = study.problem.metric_information.item().name
        long = [
            trial
            for trial in study.trials
            if len(reports_of(trial, name)) >= 4
            and trial.final_measurement is not None
            and name in trial.final_measurement.metrics
            and not trial.infeasible
        ]
        if len(long) >= 8:
            studies.append((study.problem, long))
    for number in range(most if studies else 0):
        problem, long = studies[number % len(studies)]
        rng = np.random.default_rng([6, number])
        count = min(FINISHED[number // len(studies) % len(FINISHED)], (len(long) - 1) * 2 // 3)
        chosen = [long[place] for place in rng.permutation(len(long))[: count * 3 // 2 + 1]]
        budget = max(max(reports_of(trial, problem.metric_information.item().name)) for trial in chosen)
        yield case("logs", problem, chosen, count, round(HALF * budget), rng)


def case(
    source: str, problem: vz.ProblemStatement, trials: list[vz.Trial], count: int, half: int, rng: np.random.Generator
) -> Case:
    """The first `count` trials are finished, the next ones stopped at any report, the last one runs up to `half`."""
    name = problem.metric_information.item().name
    given = [_cut(trial, k + 1, None) for k, trial in enumerate(trials[:count])]
    for trial in trials[count:-1]:
        steps = sorted(reports_of(trial, name))
        given.append(_cut(trial, len(given) + 1, steps[int(rng.integers(len(steps)))]))
    last = trials[-1]
    assert last.final_measurement is not None
    running = _cut(last, len(given) + 1, max(half, min(reports_of(last, name))))
    running.stopping_reason = None
    return Case(source, problem, given, running, last.final_measurement.metrics[name].value)


def _cut(trial: vz.Trial, number: int, step: int | None) -> vz.Trial:
    """The trial with its reports up to a step; finished where there is none."""
    made = vz.Trial(trial.parameters, id=number)
    made.measurements.extend(each for each in trial.measurements if step is None or each.steps <= step)
    if step is None:
        made.complete(trial.final_measurement)
    else:
        made.stopping_reason = "stopped"
    return made


# --- What it is compared with ---


def last_value(steps: np.ndarray, values: np.ndarray, budget: int) -> float:
    """The last report."""
    return float(values[-1])


def power_law(steps: np.ndarray, values: np.ndarray, budget: int) -> float:
    """a + b step^-c at the end of the budget; the last report where there are too few for it."""
    if len(values) < 3:
        return float(values[-1])
    places = np.maximum(steps, 1) / budget

    def error(rate: float) -> float:
        return float(_line(places**-rate, values)[1])

    rate = optimize.minimize_scalar(error, bounds=(0.05, 3.0), method="bounded").x
    (slope, intercept), _ = _line(places**-rate, values)
    return float(intercept + slope)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float], float]:
    slope, intercept = np.polyfit(x, y, 1)
    return (float(slope), float(intercept)), float(((slope * x + intercept - y) ** 2).sum())


def compared(given: Case, rule: Rule) -> tuple[float, float]:
    """Location and scale of a Student distribution by a rule."""
    name = given.problem.metric_information.item().name
    budget = max(max(reports_of(trial, name), default=1) for trial in given.trials)
    own = reports_of(given.running, name)
    step = max(own)
    errors = []
    for trial in given.trials:
        early = {s: v for s, v in reports_of(trial, name).items() if s <= step}
        if trial.final_measurement is not None and name in trial.final_measurement.metrics and early:
            steps, values = map(np.array, zip(*sorted(early.items()), strict=True))
            errors.append(trial.final_measurement.metrics[name].value - rule(steps, values, budget))
    steps, values = map(np.array, zip(*sorted(own.items()), strict=True))
    return rule(steps, values, budget), math.sqrt(float(np.mean(np.square(errors))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--yahpo-dir", metavar="DIR")
    parser.add_argument("--logs", metavar="FILE")
    parser.add_argument("--figures", type=Path, help="JSON of what is printed, for documents.py")
    parser.add_argument("--cases", type=int, default=300, help="of each source; default: %(default)s")
    arguments = parser.parse_args()
    model = OptFormer.from_pretrained(arguments.checkpoint)
    cases: list[Case] = []
    if arguments.yahpo_dir:
        cases += of_yahpo(arguments.yahpo_dir, arguments.cases)
    if arguments.logs:
        cases += of_logs(arguments.logs, arguments.cases)
    rows: dict[str, list[list[float]]] = {}
    for given in cases:
        name = given.problem.metric_information.item().name
        finals = [trial.final_measurement.metrics[name].value for trial in given.trials if trial.final_measurement]
        unit = float(np.subtract(*np.percentile(finals, [75, 25])))
        if not unit > 1e-9 * max(abs(given.final), 1e-9):
            continue  # what does not depend on the parameters
        prediction = model.predict_final(given.problem, given.trials, given.running)
        low, middle, high = prediction.quantile([0.05, 0.5, 0.95])[:, 0]
        row = [
            float(prediction.log_prob(given.final)[0]) + math.log(unit),
            low <= given.final <= high,
            abs(middle - given.final) / unit,
        ]
        for rule in (last_value, power_law):
            location, scale = compared(given, rule)
            student = stats.t(len(finals) - 1, location, max(scale, 1e-4 * unit))
            low, high = student.interval(0.9)
            row += [
                student.logpdf(given.final) + math.log(unit),
                low <= given.final <= high,
                abs(location - given.final) / unit,
            ]
        rows.setdefault(given.source, []).append(row)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for source, found in rows.items():
        table = np.array(found, float)
        print(f"{source}: {len(table)} cases")
        for place, name in enumerate((f"`{model.name}`", "the last report", "a power law")):
            density, inside, error = table[:, 3 * place : 3 * place + 3].T
            gap = table[:, 0] - density
            each = {
                "log_density": density.mean(),
                "ahead_by": gap.mean(),
                "error": gap.std() / math.sqrt(len(gap)),
                "inside_90": inside.mean(),
                "median_error": float(np.median(error)),
            }
            figures.setdefault(source, {})[name] = each
            print(
                f"  {name:16s} log density {each['log_density']:7.3f}, ahead of it by {each['ahead_by']:6.3f} +- "
                f"{each['error']:.3f}; 90 % hold {each['inside_90']:.1%}; median error {each['median_error']:.3f}"
            )
    if arguments.figures:
        write_json(arguments.figures, figures)


if __name__ == "__main__":
    main()
