"""Results on a suite of real problems: regrets with paired errors, targets ("bars"), and "traps": problems on which an
optimizer is worse than random search.

A suite is run in two settings: `free`, in which each optimizer chooses all of its trials, and `shared`, in which all
optimizers get the same five random first trials.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from optformer.evaluate.optimization import pages, scores
from optformer.evaluate.optimization.optimizers import Optimizer
from optformer.evaluate.optimization.problems import Scale
from optformer.evaluate.optimization.real_suites import FAMILIES, RealProblem
from optformer.evaluate.optimization.running import Job, Outcome, Plan
from optformer.evaluate.optimization.scores import Regrets
from optformer.evaluate.optimization.tuning import maximizes
from optformer.page import Report, Table

SETTINGS: Final[Mapping[str, tuple[str, int]]] = {
    "free": ("Each from its first trial", 0),
    "shared": ("The same five random trials first", 5),
}
"""Name -> title and number of shared first trials."""

TRIALS: Final = 50
AT: Final = (5, 10, 25, 50)
TRAPS_AT: Final = (10, 25, 50)
WORST: Final = 2.0
"""Regrets are clipped to this, because objectives that fall by powers of ten would dominate a mean."""
BASELINE: Final = "random_search"
BARRED: Final = ("yahpo", "tables")
"""Families with a target ("bar"): the mean regret must be below that of every other optimizer, and after 10 trials
below the share `SHARE_AFTER_10` of the smallest other one."""
SHARE_AFTER_10: Final = 0.8


def plan_of(setting: str, seconds: float) -> Plan:
    """The plan of all runs in a setting."""
    return Plan(TRIALS, SETTINGS[setting][1], seconds)


def regrets_of(
    outcomes: Mapping[str, Outcome],
    scales: Mapping[str, Scale],
    problems: "Sequence[RealProblem]",
    optimizers: Mapping[str, Optimizer],
) -> Regrets:
    """Mean regrets over seeds, [P, O, 1, T], on the problems on which all optimizers have run with all seeds.

    Args:
      outcomes: key of a job -> its outcome.
      scales: problem -> its scale.
      problems: problems of the suite; their kinds become the `families` of the result.
      optimizers: label -> optimizer.
    """
    curves: dict[str, dict[str, list[np.ndarray]]] = {}
    for problem in problems:
        for label, optimizer in optimizers.items():
            runs = [outcomes.get(Job(problem, optimizer, seed).key) for seed in problem.seeds]
            finished = [np.array(run.values, dtype=float) for run in runs if run is not None and run.usable]
            if problem.name in scales and len(finished) == len(problem.seeds):
                curves.setdefault(problem.name, {})[label] = finished
    found = []
    for family in FAMILIES:
        members = [problem for problem in problems if problem.family == family]
        found.append(
            scores.regrets(
                {problem.name: curves.get(problem.name, {}) for problem in members},
                {problem.name: maximizes(problem.experimenter(0).problem_statement()) for problem in members},
                {problem.name: problem.kind for problem in members},
                scales,
                list(optimizers),
                TRIALS,
            )
        )
    values = [np.minimum(each.values, WORST).mean(axis=2, keepdims=True) for each in found if each.problems]
    empty = np.empty((0, len(optimizers), 1, TRIALS))
    return Regrets(
        [name for each in found for name in each.problems],
        [kind for each in found for kind in each.families],
        list(optimizers),
        np.concatenate(values) if values else empty,
    )


def by_family(regrets: Regrets, problems: "Sequence[RealProblem]") -> dict[str, Regrets]:
    """Family -> its regrets, for families with at least one problem."""
    of = {problem.name: problem.family for problem in problems}
    whole = dataclasses.replace(regrets, families=[of[name] for name in regrets.problems])
    return {family: whole.only(family) for family in FAMILIES if family in whole.families}


# --- Tables ---


def regret_table(regrets: Regrets, title: str, seconds: Mapping[str, float]) -> Table:
    """Mean regrets; in brackets the difference from the first optimizer's, with the paired standard error."""
    columns = []
    for trials in AT:
        mean = regrets.mean(trials)
        difference, error = scores.paired(mean, 0)
        cells = [f"{value:.3f}" for value in mean.mean(axis=0)]
        columns.append(
            [cells[0]]
            + [f"{c} ({d:+.3f} ± {e:.3f})" for c, d, e in zip(cells[1:], difference[1:], error[1:], strict=True)]
        )
    rows = [
        [pages.label(name), *(column[index] for column in columns), f"{seconds.get(name, math.nan):.3f}"]
        for index, name in enumerate(regrets.optimizers)
    ]
    headings = ["optimizer", *(f"after {trials}" for trials in AT), "s / suggestion"]
    return Table(f"{title}: {len(regrets.problems)} problems, mean regret", headings, rows, 1, [0])


def bar_table(of_family: Mapping[str, Regrets], title: str) -> Table:
    """The first optimizer and the best of the others, and whether the target ("bar") is met."""
    rows = []
    for family, regrets in of_family.items():
        for trials in AT:
            mean = regrets.mean(trials).mean(axis=0)
            best = 1 + int(mean[1:].argmin())
            wanted = (SHARE_AFTER_10 if trials == 10 else 1.0) if family in BARRED else None
            met = "" if wanted is None else "yes" if mean[0] < wanted * mean[best] else "no"
            bar = "" if wanted is None else f"below {wanted:g} of it"
            rows.append(
                [
                    family,
                    str(trials),
                    f"{mean[0]:.3f}",
                    f"{mean[best]:.3f}",
                    pages.label(regrets.optimizers[best]),
                    bar,
                    met,
                ]
            )
    name = pages.label(next(iter(of_family.values())).optimizers[0])
    headings = ["family", "after", name, "best other", "which", "bar", "met"]
    return Table(f"{title}: bars of {name}", headings, rows, 1)


@dataclasses.dataclass(frozen=True)
class Trap:
    """A trap: problems on which the mean regret of an optimizer is larger than that of random search.

    Attributes:
      kind: kind of the problems.
      trials: number of trials.
      difference, error: difference of the means and its paired standard error (NaN for a single problem).
    """

    kind: str
    trials: int
    difference: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether the difference is more than two standard errors."""
        return self.difference > 2 * self.error


def traps(regrets: Regrets, label: str) -> list[Trap]:
    """The traps of one optimizer, over all kinds of problems."""
    own, random = regrets.optimizers.index(label), regrets.optimizers.index(BASELINE)
    found = []
    for kind in dict.fromkeys(regrets.families):
        for trials in TRAPS_AT:
            difference, error = scores.paired(regrets.only(kind).mean(trials), random)
            if difference[own] > 1e-9:
                found.append(Trap(kind, trials, float(difference[own]), float(error[own])))
    return found


def trap_line(found: Sequence[Trap], label: str) -> str:
    """The traps in one sentence."""
    if not found:
        return f"{pages.label(label)}: on no kind of problem worse than random search."
    where = "; ".join(f"{t.kind} after {t.trials} (+{t.difference:.3f} ± {t.error:.3f})" for t in found)
    sure = sum(trap.sure for trap in found)
    return f"{pages.label(label)}: worse than random search, by more than two standard errors {sure} times: {where}."


def kind_table(regrets: Regrets, title: str) -> Table:
    """Mean regrets by kind of problem."""
    rows = []
    for kind in dict.fromkeys(regrets.families):
        own = regrets.only(kind)
        for trials in TRAPS_AT:
            mean = own.mean(trials).mean(axis=0)
            rows.append([kind, str(len(own.problems)), str(trials), *(f"{value:.3f}" for value in mean)])
    return Table(title, ["kind", "problems", "after", *map(pages.label, regrets.optimizers)], rows, 1)


# --- All of a setting ---


@dataclasses.dataclass(frozen=True)
class Result:
    """Results on a suite in one setting.

    Attributes:
      setting: one of `SETTINGS`.
      regrets: all regrets; their `families` are kinds.
      of_family: family -> its regrets.
      seconds: label -> median time of a suggestion.
      trapped: label -> traps, for all optimizers except random search.
    """

    setting: str
    regrets: Regrets
    of_family: dict[str, Regrets]
    seconds: dict[str, float]
    trapped: dict[str, list[Trap]]

    @property
    def title(self) -> str:
        return SETTINGS[self.setting][0]

    def tables(self) -> list[Table]:
        """The tables for the terminal; targets ("bars") only if there are optimizers to compare with."""
        groups = {"all": self.regrets, **self.of_family}
        found = [regret_table(each, f"{self.title}, {name}", self.seconds) for name, each in groups.items()]
        return [*found, bar_table(self.of_family, self.title)] if len(self.regrets.optimizers) > 1 else found

    def figures(self) -> dict[str, object]:
        """The figures for `optimization.json`."""
        groups = {"all": self.regrets, **self.of_family}
        kinds = {kind: self.regrets.only(kind) for kind in dict.fromkeys(self.regrets.families)}
        return {
            "problems": self.regrets.problems,
            "counts": {name: len(each.problems) for name, each in groups.items()},
            "seconds": self.seconds,
            "regret": {name: _figures(each) for name, each in groups.items()},
            "kinds": {name: _figures(each) for name, each in kinds.items()},
            "worse_than_random": self.trapped,
        }


def result_of(
    setting: str,
    outcomes: Mapping[str, Outcome],
    scales: Mapping[str, Scale],
    problems: "Sequence[RealProblem]",
    optimizers: Mapping[str, Optimizer],
) -> Result:
    """The results from all outcomes; arguments as for `regrets_of`."""
    regrets = regrets_of(outcomes, scales, problems, optimizers)
    waits: dict[str, list[float]] = {label: [] for label in optimizers}
    for problem in problems:
        for label, optimizer in optimizers.items():
            for seed in problem.seeds:
                if (run := outcomes.get(Job(problem, optimizer, seed).key)) is not None:
                    waits[label] += run.seconds
    seconds = {label: float(np.median(of)) if of else math.nan for label, of in waits.items()}
    with_baseline = BASELINE in optimizers
    trapped = {label: traps(regrets, label) for label in optimizers if with_baseline and label != BASELINE}
    return Result(setting, regrets, by_family(regrets, problems), seconds, trapped)


def _figures(regrets: Regrets) -> dict[str, object]:
    def at(trials: int) -> dict[str, dict[str, float]]:
        mean = regrets.mean(trials)
        figures = zip(mean.mean(axis=0), *scores.paired(mean, 0), strict=True)
        return {
            label: {"mean": float(value), "more_than_first": float(difference), "error": float(error)}
            for label, (value, difference, error) in zip(regrets.optimizers, figures, strict=True)
        }

    return {str(trials): at(trials) for trials in AT}


def write_report(
    results: Sequence[Result], suite: str, out: Path, facts: Sequence[str], remarks: Sequence[str]
) -> None:
    """Writes pictures and page into `out`."""
    report = Report(f"Optimization on {suite}", out)
    for text in (*facts, *(f"Remark: {remark}" for remark in remarks)):
        report.paragraph(text)
    report.paragraph(
        "Regret is that of the best trial so far: 0 at the best value that is known or was found by any optimizer, 1 "
        "at the median of the best of ten random trials, at most 2. All problems have the same weight. In brackets: "
        "difference from the first optimizer, and the standard error of the mean over problems of paired differences."
    )
    for result in results:
        report.heading(result.title)
        for table in result.tables():
            report.table(table)
        for label, found in result.trapped.items():
            report.paragraph(trap_line(found, label))
        picture = pages.curves_picture(result.of_family, SETTINGS[result.setting][1])
        report.picture(f"curves-{result.setting}", picture, "Mean regret by trial.")
        report.table(kind_table(result.regrets, f"{result.title}: mean regret by kind of problem"))
    report.write()
