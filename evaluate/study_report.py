"""A study in tables and on one page: how it stands, what the model makes of it, what comes next.

Notation: T trials, M objectives.
"""

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from vizier import pyvizier as vz

from optformer import plot
from optformer.evaluate.report import Report, Table
from optformer.explanation import Explanation, value_text
from optformer.facade import OptFormer
from optformer.files import write_atomically
from optformer.inference.hypervolume import undominated
from optformer.serialization import tokens
from optformer.serialization.space import OBSERVED
from optformer.serialization.study import EncodedStudy

_MOST_ROWS: Final = 200
"""Of trials without an objective, the newest."""

_BEST: Final = 5
"""Trials in the table of the best."""

_STATES: Final = {
    OBSERVED: "finished",
    tokens.PENDING: "running",
    tokens.MISSING: "stopped",
    tokens.INFEASIBLE: "failed",
}
"""By status.  Stopped ones have ended without an objective: pruned, or cut off."""


class StudyFacts:
    """How a study stands.

    Attributes:
      name: of the study.
      study: in tokens.
    """

    def __init__(self, name: str, problem: vz.ProblemStatement, trials: Sequence[vz.Trial]):
        """Raises ValueError: the problem or a trial cannot be represented."""
        self.name, self.study = name, EncodedStudy(problem, trials)

    def counts(self) -> dict[str, int]:
        """Trials by state, in a fixed order."""
        return {name: int((self.study.statuses == status).sum()) for status, name in _STATES.items()}

    def goals(self) -> dict[str, str]:
        """Objective -> `minimize` or `maximize`."""
        return {metric.name: metric.goal.name.lower() for metric in self.study.schema.metrics}

    def best(self) -> dict[str, tuple[float, int] | None]:
        """Objective -> its best value and the trial that has it; None where there is none."""
        found: dict[str, tuple[float, int] | None] = {}
        for index, metric in enumerate(self.study.schema.metrics):
            best = self.study.best(index)
            found[metric.name] = None if best is None else (self._value(best, index), self.study.trials[best].id)
        return found

    def _value(self, trial: int, metric: int) -> float:
        return self.study.sign(metric) * float(self.study.values[trial, metric])

    def states_table(self) -> Table:
        """One row: trials by state."""
        counts = self.counts()
        return Table(
            "Trials", ["all", *counts], [[str(len(self.study.trials)), *map(str, counts.values())]], text_columns=0
        )

    def best_table(self) -> Table:
        """The best trials that break no constraint: of several objectives all that no other trial beats."""
        values = self.study.values
        known = np.flatnonzero(np.isfinite(values).all(axis=1) & self.study.holds)
        if values.shape[1] == 1:
            order, title = known[np.argsort(-values[known, 0], kind="stable")][:_BEST], "Best trials"
        else:
            title = "Trials that no other trial beats in all objectives"
            order = np.sort(known[undominated(values[known])])
        names = list(self.goals())
        rows = [
            [str(self.study.trials[index].id), *(f"{self._value(index, k):.6g}" for k in range(len(names)))]
            for index in order
        ]
        return self._with_parameters(title, ["trial", *names], rows, [self.study.trials[index] for index in order])

    def without_objective_table(self) -> Table | None:
        """Trials that failed or were stopped, with the reason and the last report; None where there are none."""
        chosen = np.flatnonzero(np.isin(self.study.statuses, (tokens.INFEASIBLE, tokens.MISSING)))
        if not len(chosen):
            return None
        title = "Failed and stopped trials"
        if len(chosen) > _MOST_ROWS:
            title += f" (the newest {_MOST_ROWS} of {len(chosen)})"
            chosen = chosen[-_MOST_ROWS:]
        rows = []
        for index in chosen:
            trial = self.study.trials[index]
            reason = trial.infeasibility_reason if trial.infeasible else trial.stopping_reason
            rows.append([str(trial.id), _STATES[int(self.study.statuses[index])], reason or "", _last_report(trial)])
        heads = ["trial", "state", "reason", "last report"]
        return self._with_parameters(title, heads, rows, [self.study.trials[index] for index in chosen], text=4)

    def suggestions_table(self, suggestions: Sequence[vz.TrialSuggestion]) -> Table:
        """The parameters of suggestions, one per row."""
        rows = [[str(index + 1)] for index in range(len(suggestions))]
        return self._with_parameters("Suggestions", ["suggestion"], rows, suggestions)

    def _with_parameters(
        self,
        title: str,
        headings: list[str],
        rows: list[list[str]],
        trials: Sequence[vz.TrialSuggestion],
        text: int = 1,
    ) -> Table:
        """Rows with the values of their trials' parameters behind them."""
        names = dict.fromkeys(slot.name for slot in self.study.schema.slots)
        values = [trial.parameters.as_dict() for trial in trials]
        filled = [row + [value_text(one.get(name)) for name in names] for row, one in zip(rows, values, strict=True)]
        return Table(title, [*headings, *names], filled, text_columns=text)


def tables(facts: StudyFacts) -> list[Table]:
    """How the study stands, for a terminal and the top of the page."""
    return [facts.states_table(), facts.best_table()]


def importance_table(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Objective -> parameter -> importance, as a row per parameter of the first objective's order."""
    paths = dict.fromkeys(path for one in found.values() for path in one)
    rows = [[path, *(f"{one[path]:.2f}" for one in found.values())] for path in paths]
    return Table("Importance: share of the predicted variance", ["parameter", *found], rows)


def write_page(
    model: OptFormer,
    facts: StudyFacts,
    importances: Mapping[str, Mapping[str, float]],
    suggestions: Sequence[vz.TrialSuggestion],
    explanations: Iterable[Explanation],
    page: str | os.PathLike[str],
) -> Path:
    """Writes one HTML file, which needs no other file, and returns its path.

    Args:
      model: what the pictures show the predictions of.
      importances: by objective.
      suggestions, explanations: what comes next, and why.

    Raises:
      OSError: it cannot be written.
    """
    page = Path(page)
    with tempfile.TemporaryDirectory() as folder:
        report = Report(f"Study {facts.name}" if facts.name else "Study", Path(folder))
        _fill(report, model, facts, importances, suggestions, explanations)
        content = report.write().read_bytes()
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, content)
    return page


def _fill(
    report: Report,
    model: OptFormer,
    facts: StudyFacts,
    importances: Mapping[str, Mapping[str, float]],
    suggestions: Sequence[vz.TrialSuggestion],
    explanations: Iterable[Explanation],
) -> None:
    study = facts.study
    problem, trials = study.schema.problem, study.trials
    for table in tables(facts):
        report.table(table)
    for index, (name, goal) in enumerate(facts.goals().items()):
        known = int(np.isfinite(study.values[:, index]).sum())
        if not known:
            continue
        report.heading(f"{name} ({goal})")
        report.picture(
            f"best-{index}",
            plot.best_so_far(problem, trials, metric=name),
            "Each trial, and the best so far. At the lower edge: crosses have failed, hollow triangles were stopped, "
            "hollow dots still run. A triangle in colour is a trial beyond the axis, which the good range decides.",
        )
        report.picture(
            f"slices-{index}",
            plot.slices(model, problem, trials, metric=name),
            f"What {model.name} predicts along each parameter, all others as in the best trial (ringed): median, and "
            "intervals of 50 and 90 %. Dots are trials, which differ from the best one in other parameters, too.",
        )
        report.picture(
            f"importance-{index}",
            plot.importance_bars(importances[name]),
            "Share of the variance of the prediction over the whole space that a parameter takes part in.",
        )
        if known > 1:
            report.picture(
                f"held-out-{index}",
                plot.predicted_against_observed(model, problem, trials, metric=name),
                "Each trial as it is predicted from others alone, with 90 % intervals: how far to believe the above.",
            )
    report.heading("What comes next")
    if suggestions:
        report.table(facts.suggestions_table(suggestions))
    for number, explanation in enumerate(explanations, 1):
        report.paragraph(f"Suggestion {number}. " + " ".join(explanation.sentences()))
    if (without := facts.without_objective_table()) is not None:
        report.heading("Trials without an objective")
        report.table(without)


def _last_report(trial: vz.Trial) -> str:
    if not trial.measurements:
        return ""
    last = trial.measurements[-1]
    values = ", ".join(f"{name} {metric.value:.6g}" for name, metric in last.metrics.items())
    return f"{values} (step {last.steps:g})"
