"""Why a trial was suggested: how it was found, what the model expects of it, and which known trials are close to it.

explanation = explain(model, problem, trials, suggestion)
print("\\n".join(explanation.sentences()))
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz

from optformer.inference.candidates import SlotSpace
from optformer.inference.prediction import Prediction, Predictor
from optformer.serialization import tokens
from optformer.serialization.study import EncodedStudy

_SOURCES: Final = {
    "ei": "the highest expected improvement of all candidates",
    "pi": "the highest probability of improvement of all candidates",
    "ucb": "the highest optimistic (90 %) prediction of all candidates",
    "thompson": "the best of one draw of the objective at each candidate",
    "policy": "drawn from the policy, which imitates an optimizer",
    "default": "the problem's default values",
    "feasibility": "the candidate most likely to succeed and to satisfy all constraints: no trial has done so yet",
    "belief": "the most likely value under your belief, or a draw from it: the first trials follow the belief",
    "quasi-random": (
        "a quasi-random point: too little is known, the model's recent predictions were poor, or the best trials are "
        "nearly equal"
    ),
    "enqueued": "a point that the caller enqueued",
}


@dataclasses.dataclass(frozen=True)
class Expectation:
    """The prediction of one objective, in its own units.

    Attributes:
      metric: name of the objective.
      low: 5 % quantile.
      median: 50 % quantile.
      high: 95 % quantile.
      best: the best value so far; None before any.
      best_trial: the trial that has it; None before any.
      improvement: probability of being better than that, and feasible; None before any.
      infeasible: probability of failing.
    """

    metric: str
    low: float
    median: float
    high: float
    best: float | None
    best_trial: int | None
    improvement: float | None
    infeasible: float

    def figures(self) -> dict[str, str]:
        """Label -> number as text."""
        shown = {"expected": f"{self.median:.4g}", "90 % between": f"{self.low:.4g} and {self.high:.4g}"}
        if self.best is not None:
            shown["best so far"] = f"{self.best:.4g} (trial {self.best_trial})"
        if self.improvement is not None:
            shown["better with"] = f"{self.improvement:.0%}"
        return shown | {"fails with": f"{self.infeasible:.0%}"}


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A known trial close to the suggestion.

    Attributes:
      trial: its id.
      distance: mean over parameters of the difference as a share of the parameter's range, in [0, 1].  A parameter
        counts 1 if the categories differ or if only one of the two has it.
      outcome: `infeasible`, `pending`, or the objectives.
      changes: parameters that differ -> (there, in the suggestion); None where inactive.
    """

    trial: int
    distance: float
    outcome: str | Mapping[str, float]
    changes: Mapping[str, tuple[float | int | str | bool | None, float | int | str | bool | None]]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why a suggestion was made.

    Attributes:
      source: how the suggestion was found: `source` of its metadata.
      expectations: one per objective.
      neighbours: known trials, nearest first.
      constraints: safety metric -> probability that it meets its threshold; only those that the metadata name.
    """

    source: str
    expectations: tuple[Expectation, ...]
    neighbours: tuple[Neighbour, ...]
    constraints: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """The explanation as plain JSON values."""
        return dataclasses.asdict(self)

    def sentences(self) -> list[str]:
        """The explanation as English sentences."""
        lines = [f"Found as {_SOURCES.get(self.source, self.source)}."]
        for each in self.expectations:
            line = f"{each.metric}:"
            for what, figure in each.figures().items():
                line += {"expected": "", "90 % between": ",", "better with": ","}.get(what, ";") + f" {what} {figure}"
            lines.append(f"{line}.")
        lines += [f"{metric}: meets its threshold with {holds:.0%}." for metric, holds in self.constraints.items()]
        for near in self.neighbours:
            outcome = near.outcome
            said = outcome if isinstance(outcome, str) else ", ".join(f"{k} {v:.4g}" for k, v in outcome.items())
            changes = ", ".join(f"{name} {value_text(a)} -> {value_text(b)}" for name, (a, b) in near.changes.items())
            lines.append(f"Trial {near.trial} ({said}) is {near.distance:.1%} away: {changes or 'the same'}.")
        return lines


def explain(
    model: Predictor,
    problem: vz.ProblemStatement,
    trials: Sequence[vz.Trial],
    suggestion: vz.TrialSuggestion,
    neighbours: int = 3,
    prior_studies: Sequence[vz.ProblemAndTrials] = (),
) -> Explanation:
    """Why the model made this suggestion, given these trials.

    Args:
      model: the model that suggested it.
      problem: search space and metrics of the study.
      trials: all trials of the study at that time.
      suggestion: the suggestion, with the metadata that the model gave it.
      neighbours: largest number of nearest known trials.
      prior_studies: earlier studies, as they were passed to `OptFormer.suggest`.

    Raises:
      ValueError: the problem, a trial or the suggestion cannot be represented.
    """
    study = EncodedStudy(problem, trials)
    (row,) = study.schema.encode([suggestion])
    said = suggestion.metadata.ns("optformer")
    source = said.get("source", default="suggestion")
    names = [metric.name for metric in study.schema.safety_metrics]
    holds = {name: float(said[f"holds:{name}"]) for name in names if f"holds:{name}" in said}
    expectations = [
        _expectation(
            study,
            index,
            model.predict(problem, trials, [suggestion], metric=metric.name, prior_studies=prior_studies),
        )
        for index, metric in enumerate(study.schema.metrics)
    ]
    if len(expectations) == 1:
        expectations = [_as_suggested(expectations[0], suggestion)]
    distances = _distances(study, row)
    order = np.argsort(distances, kind="stable")[:neighbours]
    near = tuple(_neighbour(study, int(k), row, distances[k]) for k in order)
    return Explanation(source, tuple(expectations), near, holds)


def _expectation(study: EncodedStudy, metric: int, prediction: Prediction) -> Expectation:
    low, median, high = (float(value) for value in prediction.quantile([0.05, 0.5, 0.95])[:, 0])
    best = best_trial = improvement = None
    if (index := study.best(metric)) is not None:
        best, best_trial = study.sign(metric) * float(study.values[index, metric]), study.trials[index].id
        improvement = float(prediction.probability_of_improvement(best)[0])
    name = study.schema.metrics[metric].name
    return Expectation(name, low, median, high, best, best_trial, improvement, float(prediction.infeasible[0]))


def _as_suggested(expectation: Expectation, suggestion: vz.TrialSuggestion) -> Expectation:
    """The expectation, with the numbers from the suggestion's metadata if it has them.

    They may differ a little, since they were predicted with the earlier points of the same batch as pending trials.
    """
    said = suggestion.metadata.ns("optformer")
    keys = {"low": "quantile_05", "median": "quantile_50", "high": "quantile_95", "infeasible": "infeasible"}
    if any(key not in said for key in keys.values()):
        return expectation
    numbers: dict[str, Any] = {field: float(said[key]) for field, key in keys.items()}
    if "improvement" in said:
        numbers["improvement"] = float(said["improvement"])
    return dataclasses.replace(expectation, **numbers)


def _distances(study: EncodedStudy, row: np.ndarray) -> np.ndarray:
    """Distance of every trial, [T]; a parameter whose value is missing in a trial counts 1."""
    space = SlotSpace.of(study.schema)
    if not space.slots:
        return np.zeros(len(study.trials))
    at = np.arange(space.slots)
    rows = np.concatenate([study.x_tokens, row[None]])
    valued = rows < space.levels[None]
    level = np.where(valued, rows, 0)
    place = (space.grid[at[None], level] + space.grid[at[None], level + 1]) / 2
    # The two ends of an ordered scale have distance 1, whatever the width of its levels.
    first = space.grid[at, 1] / 2
    last = (space.grid[at, space.levels - 1] + 1.0) / 2
    apart = np.abs(place[:-1] - place[-1:]) / np.maximum(last - first, 1e-9)[None]
    apart = np.where(space.kinds[None] == tokens.CATEGORICAL, rows[:-1] != rows[-1:], apart)
    both = valued[:-1] & valued[-1:]
    neither = (rows[:-1] == tokens.INACTIVE) & (rows[-1:] == tokens.INACTIVE)
    return np.where(both, apart, np.where(neither, 0.0, 1.0)).mean(axis=1)


def _neighbour(study: EncodedStudy, index: int, row: np.ndarray, distance: float) -> Neighbour:
    there, here = study.schema.decode(study.x_tokens[index]), study.schema.decode(row)
    changes = {
        name: (there.get(name), here.get(name)) for name in {**there, **here} if there.get(name) != here.get(name)
    }
    status, values = study.statuses[index], np.concatenate([study.values[index], study.safety[index]])
    outcome: str | dict[str, float]
    if status == tokens.INFEASIBLE:
        outcome = "infeasible"
    elif status == tokens.PENDING:
        outcome = "pending"
    else:
        outcome = {
            metric.name: study.sign(k) * float(value)
            for k, (metric, value) in enumerate(zip(study.metrics, values, strict=True))
            if np.isfinite(value)
        } or "no objective"
    return Neighbour(study.trials[index].id, float(distance), outcome, changes)


def value_text(value: object) -> str:
    """A parameter's value as text; None: the parameter is inactive."""
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
