"""A study in tables and on one page: how it stands, what the model makes of it, what comes next.

Notation: T trials, M objectives.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from vizier import pyvizier as vz

from optformer import plot
from optformer.explanation import Explanation, value_text
from optformer.facade import METADATA_NAMESPACE, OptFormer
from optformer.files import write_atomically
from optformer.inference.hypervolume import undominated
from optformer.page import Report, Table
from optformer.serialization import tokens
from optformer.serialization.space import OBSERVED
from optformer.serialization.study import EncodedStudy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS: Final = 200
"""Of trials without an objective, and of running ones: the newest."""

_MOST_COLUMNS: Final = 50
"""Of parameters in a table."""

_BEST: Final = 5
"""Trials in the table of the best."""

STATES: Final = {
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
        return {name: int((self.study.statuses == status).sum()) for status, name in STATES.items()}

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
        """One row: trials by state, and how many break a constraint on outcomes, where there are any."""
        counts = {"all": len(self.study.trials), **self.counts()}
        if self.study.schema.safety_metrics:
            counts["break a constraint"] = int((~self.study.holds).sum())
        return Table("Trials", list(counts), [list(map(str, counts.values()))], text_columns=0)

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

    def broken_table(self) -> Table | None:
        """Trials that break a constraint on outcomes, with what was measured; None where there are none."""
        chosen = np.flatnonzero(~self.study.holds)
        if not len(chosen):
            return None
        title, chosen = _newest("Trials that break a constraint", chosen)
        signs = [self.study.sign(k) for k in range(len(self.study.metrics))]
        measured = np.concatenate([self.study.values, self.study.safety], axis=1)[chosen] * signs + 0.0  # no -0
        rows = [
            [str(self.study.trials[index].id), *("-" if np.isnan(value) else f"{value:.6g}" for value in values)]
            for index, values in zip(chosen, measured, strict=True)
        ]
        heads = ["trial", *(metric.name for metric in self.study.metrics)]
        return self._with_parameters(title, heads, rows, [self.study.trials[index] for index in chosen])

    def running_table(self) -> Table | None:
        """Trials that run, with what was expected of them, as far as they say; None where there are none."""
        chosen = np.flatnonzero(self.study.statuses == tokens.PENDING)
        if not len(chosen):
            return None
        title, chosen = _newest("Running trials", chosen)
        trials = [self.study.trials[index] for index in chosen]
        rows = [[str(trial.id), *_expected(trial.metadata.ns(METADATA_NAMESPACE))] for trial in trials]
        heads = ["trial", "found as", "expected", "90 % between"]
        return self._with_parameters(title, heads, rows, trials, text=2)

    def without_objective_table(self) -> Table | None:
        """Trials that failed or were stopped, with the reason and the last report; None where there are none."""
        chosen = np.flatnonzero(np.isin(self.study.statuses, (tokens.INFEASIBLE, tokens.MISSING)))
        if not len(chosen):
            return None
        title, chosen = _newest("Failed and stopped trials", chosen)
        rows = []
        for index in chosen:
            trial = self.study.trials[index]
            reason = trial.infeasibility_reason if trial.infeasible else trial.stopping_reason
            rows.append([str(trial.id), STATES[int(self.study.statuses[index])], reason or "", _last_report(trial)])
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
        names = list(dict.fromkeys(slot.name for slot in self.study.schema.slots))
        if len(names) > _MOST_COLUMNS:
            title += f", with the first {_MOST_COLUMNS} of {len(names)} parameters"
            del names[_MOST_COLUMNS:]
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


class Picture(NamedTuple):
    """Attributes: name: without an ending, one of its own within the study; caption; draw: makes the figure."""

    name: str
    caption: str
    draw: "Callable[[], Figure]"


def pictures(
    model: OptFormer, facts: StudyFacts, metric: str, found: Mapping[str, float] | None = None
) -> Iterator[Picture]:
    """What there is to see of one objective, none of it drawn yet; nothing as long as no trial has it.

    Args:
      model: whose predictions are shown.
      metric: name of the objective.
      found: importances, if they are known.
    """
    study = facts.study
    problem, trials = study.schema.problem, study.trials
    index = study.metric_index(metric)
    known = int(np.isfinite(study.values[:, index]).sum())
    if not known:
        return
    yield Picture(
        f"best-{index}",
        "Each trial, and the best so far. At the lower edge: crosses have failed, hollow triangles were stopped, "
        "hollow dots still run. A triangle in colour is a trial beyond the axis, which the good range decides.",
        lambda: plot.best_so_far(problem, trials, metric=metric),
    )
    if not study.schema.slots:
        return
    yield Picture(
        f"slices-{index}",
        f"What {model.name} predicts along each parameter, all others as in the best trial (ringed): median, and "
        "intervals of 50 and 90 %. Dots are trials, which differ from the best one in other parameters, too.",
        lambda: plot.slices(model, problem, trials, metric=metric),
    )
    yield Picture(
        f"importance-{index}",
        "Share of the variance of the prediction over the whole space that a parameter takes part in.",
        lambda: plot.importance_bars(found or plot.importances(model, problem, trials, metric=metric)),
    )
    if known > 1:
        yield Picture(
            f"held-out-{index}",
            "Each trial as it is predicted from others alone, with 90 % intervals: how far to believe the above.",
            lambda: plot.predicted_against_observed(model, problem, trials, metric=metric),
        )


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
    for table in tables(facts):
        report.table(table)
    for name, goal in facts.goals().items():
        for number, picture in enumerate(pictures(model, facts, name, importances.get(name))):
            if number == 0:
                report.heading(f"{name} ({goal})")
            report.picture(picture.name, picture.draw(), picture.caption)
    report.heading("What comes next")
    if suggestions:
        report.table(facts.suggestions_table(suggestions))
    for number, explanation in enumerate(explanations, 1):
        report.paragraph(f"Suggestion {number}. " + " ".join(explanation.sentences()))
    if (running := facts.running_table()) is not None:
        report.table(running)
    if (broken := facts.broken_table()) is not None:
        report.heading("Constraints on outcomes")
        report.table(broken)
    if (without := facts.without_objective_table()) is not None:
        report.heading("Trials without an objective")
        report.table(without)


def _newest(title: str, chosen: np.ndarray) -> tuple[str, np.ndarray]:
    """A table's title, and the trials that have room in it."""
    if len(chosen) <= _MOST_ROWS:
        return title, chosen
    return f"{title} (the newest {_MOST_ROWS} of {len(chosen)})", chosen[-_MOST_ROWS:]


def _expected(reason: vz.Metadata) -> list[str]:
    """How a trial was found, the median and the interval that it was suggested with; empty where it does not say."""
    said = [reason.get(key, default="") for key in ("source", "quantile_50", "quantile_05", "quantile_95")]
    source, median, low, high = (str(each) for each in said)
    return [source, median, f"{low} and {high}" if low and high else ""]


def _last_report(trial: vz.Trial) -> str:
    if not trial.measurements:
        return ""
    last = trial.measurements[-1]
    values = ", ".join(f"{name} {metric.value:.6g}" for name, metric in last.metrics.items())
    return f"{values} (step {last.steps:g})"
