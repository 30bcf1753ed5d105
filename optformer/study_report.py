"""Report on a study, as tables and as one page: its state, the model's predictions, and the next trials.

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
from optformer.facade import OptFormer
from optformer.files import write_atomically
from optformer.inference.hypervolume import undominated
from optformer.page import Report, Table
from optformer.serialization import tokens
from optformer.serialization.space import METADATA_NAMESPACE, OBSERVED
from optformer.serialization.study import EncodedStudy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS: Final = 200
"""Most rows of trials without an objective, and of running ones; the newest are shown."""

_MOST_COLUMNS: Final = 50
"""Most columns of parameters in a table."""

_BEST: Final = 5
"""Most trials in the table of the best."""

STATES: Final = {
    OBSERVED: "finished",
    tokens.PENDING: "running",
    tokens.MISSING: "stopped",
    tokens.INFEASIBLE: "failed",
}
"""Status -> its label.  Stopped trials have ended without an objective: pruned or interrupted."""


class StudyFacts:
    """The state of a study.

    Attributes:
      name: name of the study.
      study: the encoded study.
    """

    def __init__(self, name: str, problem: vz.ProblemStatement, trials: Sequence[vz.Trial]):
        """Encodes the study; raises ValueError if the problem or a trial cannot be represented."""
        self.name, self.study = name, EncodedStudy(problem, trials)

    def counts(self) -> dict[str, int]:
        """State -> number of trials, in a fixed order."""
        return {name: int((self.study.statuses == status).sum()) for status, name in STATES.items()}

    def goals(self) -> dict[str, str]:
        """Objective -> `minimize` or `maximize`."""
        return {metric.name: metric.goal.name.lower() for metric in self.study.schema.metrics}

    def best(self) -> dict[str, tuple[float, int] | None]:
        """Objective -> its best value and the id of that trial; None without a value."""
        found: dict[str, tuple[float, int] | None] = {}
        for index, metric in enumerate(self.study.schema.metrics):
            best = self.study.best(index)
            found[metric.name] = None if best is None else (self._value(best, index), self.study.trials[best].id)
        return found

    def _value(self, trial: int, metric: int) -> float:
        return self.study.sign(metric) * float(self.study.values[trial, metric])

    def states_table(self) -> Table:
        """One row: numbers of trials by state, and of those that violate a constraint on outcomes, if there are any."""
        counts = {"all": len(self.study.trials), **self.counts()}
        if self.study.schema.safety_metrics:
            counts["break a constraint"] = int((~self.study.holds).sum())
        return Table("Trials", list(counts), [list(map(str, counts.values()))], text_columns=0)

    def best_table(self) -> Table:
        """The best trials that violate no constraint; with several objectives, the Pareto-optimal ones."""
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
        """Trials that violate a constraint on outcomes, with the measured values; None without such trials."""
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
        """Running trials, with the predictions in their metadata, if any; None without running trials."""
        chosen = np.flatnonzero(self.study.statuses == tokens.PENDING)
        if not len(chosen):
            return None
        title, chosen = _newest("Running trials", chosen)
        trials = [self.study.trials[index] for index in chosen]
        rows = [[str(trial.id), *_expected(trial.metadata.ns(METADATA_NAMESPACE))] for trial in trials]
        heads = ["trial", "found as", "expected", "90 % between"]
        return self._with_parameters(title, heads, rows, trials, text=2)

    def without_objective_table(self) -> Table | None:
        """Trials that failed or were stopped, with the reason and the last report; None without such trials."""
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
        """A table of the rows, extended by the parameter values of their trials."""
        names = list(dict.fromkeys(slot.name for slot in self.study.schema.slots))
        if len(names) > _MOST_COLUMNS:
            title += f", with the first {_MOST_COLUMNS} of {len(names)} parameters"
            del names[_MOST_COLUMNS:]
        values = [trial.parameters.as_dict() for trial in trials]
        filled = [row + [value_text(one.get(name)) for name in names] for row, one in zip(rows, values, strict=True)]
        return Table(title, [*headings, *names], filled, text_columns=text)


def tables(facts: StudyFacts) -> list[Table]:
    """The tables on the state of the study, for a terminal and the top of the page."""
    return [facts.states_table(), facts.best_table()]


def importance_table(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Table of importances (objective -> parameter -> importance), with rows in the order of the first objective."""
    paths = dict.fromkeys(path for one in found.values() for path in one)
    rows = [[path, *(f"{one[path]:.2f}" for one in found.values())] for path in paths]
    return Table("Importance: share of the predicted variance, with interactions", ["parameter", *found], rows)


class Picture(NamedTuple):
    """A picture that is drawn on demand.

    Attributes:
      name: file name without an extension, unique within the study.
      caption: text below the picture.
      draw: function that makes the figure.
    """

    name: str
    caption: str
    draw: "Callable[[], Figure]"


def pictures(
    model: OptFormer, facts: StudyFacts, metric: str, found: Mapping[str, float] | None = None
) -> Iterator[Picture]:
    """The pictures of one objective, to be drawn on demand; none as long as no trial has a value.

    Args:
      model: the model whose predictions are shown.
      facts: the study.
      metric: name of the objective.
      found: importances, if they are already known.
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
        "hollow dots still run. A filled triangle is a trial beyond the end of the axis.",
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
        "Importance: share of the variance of the prediction over the search space to which a parameter contributes.",
        lambda: plot.importance_bars(found or plot.importances(model, problem, trials, metric=metric)),
    )
    if known > 1:
        yield Picture(
            f"held-out-{index}",
            "Each trial as predicted from the others, with 90 % intervals: how accurate the predictions are.",
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
    """Writes a self-contained HTML file and returns its path.

    Args:
      model: the model whose predictions are shown.
      facts: the study.
      importances: objective -> parameter -> importance.
      suggestions, explanations: the next trials, and the explanation of each.
      page: path of the file.

    Raises:
      OSError: the file cannot be written.
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
    """The title of a table, and the newest trials that fit in it."""
    if len(chosen) <= _MOST_ROWS:
        return title, chosen
    return f"{title} (the newest {_MOST_ROWS} of {len(chosen)})", chosen[-_MOST_ROWS:]


def _expected(reason: vz.Metadata) -> list[str]:
    """From a trial's metadata: its source, the predicted median and interval; empty strings where missing."""
    said = [reason.get(key, default="") for key in ("source", "quantile_50", "quantile_05", "quantile_95")]
    source, median, low, high = (str(each) for each in said)
    return [source, median, f"{low} and {high}" if low and high else ""]


def _last_report(trial: vz.Trial) -> str:
    if not trial.measurements:
        return ""
    last = trial.measurements[-1]
    values = ", ".join(f"{name} {metric.value:.6g}" for name, metric in last.metrics.items())
    return f"{values} (step {last.steps:g})"
