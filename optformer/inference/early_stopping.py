"""Whether a running trial is worth its remaining budget.

A trial is stopped if its final value is unlikely to beat the best known one.  It is checked at a few shares of its
budget, the first a third, and only if enough other trials have finished.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from vizier import pyvizier as vz

from optformer.serialization.partial_trials import counted, reports_of

if TYPE_CHECKING:
    from optformer.facade import OptFormer

THRESHOLD: Final = 0.05
"""Probability of a new best value below which a trial is stopped."""

CHECKED_SHARES: Final = (1 / 3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the budget: a trial is checked at its first report at or after each of them, and not in between."""

FEWEST_FINISHED: Final = 4
"""No trial is stopped before this many trials have a final value and reports."""


class Stopping(NamedTuple):
    """The decision on a running trial.

    Attributes:
      stop: whether it should be stopped.
      probability: probability that its final value is better than the best one; NaN if it was not predicted.
      reason: the reason in words.
    """

    stop: bool
    probability: float
    reason: str


def stopping(
    model: "OptFormer",
    problem: vz.ProblemStatement,
    trials: Sequence[vz.Trial],
    running: vz.Trial,
    threshold: float = THRESHOLD,
) -> Stopping:
    """Whether a running trial should be stopped now.

    Args:
      model: a model trained with learning curves.
      problem: search space and metrics; with several objectives, no trial is stopped.
      trials: all trials of the study; may include the running one.
      running: the running trial, with its measurements.
      threshold: stop if the probability of a new best value is below this, in [0, 1].

    Raises:
      ValueError: as in `OptFormer.predict_final`; also a threshold outside [0, 1].
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"the threshold is a probability between 0 and 1, not {threshold}")
    objectives = [metric for metric in problem.metric_information if metric.type.is_objective]
    if len(objectives) != 1:
        return _goes_on(f"the study has {len(objectives)} objectives")
    name, minimizes = objectives[0].name, objectives[0].goal.is_minimize
    others = [trial for trial in trials if trial.id != running.id]
    own = _finite(reports_of(running, name))
    if not own:
        return _goes_on("it has not reported yet")
    curves = [(trial, _finite(reports_of(trial, name))) for trial in others]
    finals = [_final(trial, name) for trial, curve in curves if curve]
    finished = [value for value in finals if value is not None]
    if len(finished) < FEWEST_FINISHED:
        return _goes_on(f"{len(finished)} trials have finished with reports, fewer than {FEWEST_FINISHED}")
    first, budget = counted([own, *(curve for _, curve in curves)])
    shares = [(step + 1 - first) / budget for step in sorted(own)]
    passed = [share for share in CHECKED_SHARES if share <= shares[-1]]
    if not passed:
        return _goes_on("less than a third of the budget is used")
    if shares[-1] >= 1.0:
        return _goes_on("it has used its whole budget")
    if len(shares) > 1 and shares[-2] >= passed[-1]:
        return _goes_on("it was already checked at an earlier report")
    every = [value for trial in others if (value := _final(trial, name)) is not None]
    best = min(every) if minimizes else max(every)
    prediction = model.predict_final(problem, trials, running)
    probability = float(prediction.probability_of_improvement(best)[0])
    if probability >= threshold:
        return Stopping(False, probability, f"it beats the best value, {best:g}, with probability {probability:.3g}")
    alike = [trial for trial, curve in curves if _runs(trial) and max(curve, default=0) >= max(own)]
    if alike and all(_is_ahead(own, _finite(reports_of(trial, name)), minimizes) for trial in alike):
        return Stopping(False, probability, "it is ahead of the other running trials")
    return Stopping(
        True, probability, f"it beats the best value, {best:g}, with a probability of only {probability:.3g}"
    )


def _goes_on(reason: str) -> Stopping:
    return Stopping(False, math.nan, reason)


def _finite(reports: dict[int, float]) -> dict[int, float]:
    return {step: value for step, value in reports.items() if step >= 0 and math.isfinite(value)}


def _final(trial: vz.Trial, name: str) -> float | None:
    measured = trial.final_measurement.metrics if trial.final_measurement is not None else {}
    if trial.infeasible or trial.stopping_reason is not None or name not in measured:
        return None
    value = float(measured[name].value)
    return value if math.isfinite(value) else None


def _runs(trial: vz.Trial) -> bool:
    return trial.final_measurement is None and trial.stopping_reason is None and not trial.infeasible


def _is_ahead(own: dict[int, float], other: dict[int, float], minimizes: bool) -> bool:
    """Whether the newest report is better than the other trial's at that step."""
    step = max(own)
    theirs = other[max(each for each in other if each <= step)] if min(other) <= step else math.nan
    return own[step] < theirs if minimizes else own[step] > theirs
