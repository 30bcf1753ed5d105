"""Plots of a study and a model's predictions: best so far, slices, predicted against observed, importance.

    from optformer import plot
    plot.slices(model, problem, trials).savefig("slices.png")
    plot.slices(model, study)                                   # an Optuna study

Needs matplotlib (`pip install 'optformer[plot]'`).  Works with any object that has a method like `OptFormer.predict`.

The good range (from the median of the objectives to the best) determines the limits of an axis, because a few trials
that are far worse would flatten all others.  Trials beyond the axis are triangles at its end.

Notation: T trials, D slots (one per parameter at its place in the search space), N configurations.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from vizier import pyvizier as vz

from optformer.extras import from_extra
from optformer.inference.candidates import SlotSpace, as_genotypes, configurations, from_unit_cube, quasi_random
from optformer.inference.prediction import Predictor
from optformer.serialization import tokens
from optformer.serialization.slots import Slot
from optformer.serialization.study import EncodedStudy
from optformer.terminal import shown

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Study: TypeAlias = "vz.ProblemStatement | optuna.Study"
"""A problem, whose trials are a separate argument, or an Optuna study, which contains its trials."""

_INK: Final = "#222222"
_MODEL: Final = "#2060c0"
_BEST: Final = "#d08020"
_FAILED: Final = "#b03030"
_WITHOUT_OBJECTIVE: Final = (
    (tokens.INFEASIBLE, "x", _FAILED),
    (tokens.MISSING, "^", _INK),
    (tokens.PENDING, "o", _INK),
)
_COLUMNS: Final = 4
_MOST: Final = 40
"""Most parameters in a plot; of more, the most important ones are shown."""
_LONGEST: Final = 40
"""Most characters of a name in a plot."""
_CATEGORIES: Final = 10
_LONGEST_CATEGORY: Final = 14
"""Most names of categories under an axis, and most characters of each."""

_REACH: Final = 3.0
"""An axis extends at most this many good ranges below the median."""


def best_so_far(problem: Study, trials: Sequence[vz.Trial] | None = None, *, metric: str | None = None) -> "Figure":
    """Plots the objective of every trial, and the best so far, over the number of the trial.

    Dots are trials; the line is the best so far among those that violate no constraint on outcomes.  Trials without an
    objective are at the lower edge: crosses failed, hollow triangles were stopped, hollow dots are still running.

    Args:
      problem: search space and metrics; or an Optuna study.
      trials: all trials of the study; None with an Optuna study.
      metric: name of the objective; required if there are several.

    Raises:
      ValueError: no trial has an objective yet.
    """
    problem, trials = _problem_and_trials(problem, trials)
    study = EncodedStudy(problem, trials)
    index = study.metric_index(metric)
    values, sign = _observed(study, metric), study.sign(index)
    numbers = np.array([trial.id for trial in study.trials])
    known = np.isfinite(values)
    figure, (axis,) = _panels(1, size=(6.0, 3.0))
    holding = np.where(study.holds, sign * values, -np.inf)
    best = sign * np.maximum.accumulate(holding[known])
    best[np.isinf(best)] = np.nan
    axis.step(np.append(numbers[known], numbers.max()), np.append(best, best[-1]), where="post", color=_MODEL)
    limits = _limits(values[known], sign)
    _draw_trials(axis, numbers[known], values[known], limits)
    axis.set_ylim(*limits)
    for status, marker, color in (
        (tokens.INFEASIBLE, "x", _FAILED),
        (tokens.MISSING, "^", _INK),
        (tokens.PENDING, "o", _INK),
    ):
        without = numbers[(study.statuses == status) & ~known]
        face = color if marker == "x" else "none"
        axis.scatter(
            without,
            np.full(len(without), 0.02),
            s=16,
            marker=marker,
            color=color,
            facecolors=face,
            linewidths=0.8,
            transform=axis.get_xaxis_transform(),
            clip_on=False,
            zorder=3,
        )
    axis.set_xlabel("trial", fontsize=8)
    axis.set_ylabel(_label(study.metrics[index].name), fontsize=8)
    return figure


def slices(
    model: Predictor,
    problem: Study,
    trials: Sequence[vz.Trial] | None = None,
    *,
    metric: str | None = None,
    points: int = 64,
) -> "Figure":
    """Plots the predicted objective along each parameter, with all others as in the best trial.

    The line is the median, the bands are the central 50 % and 90 %, dots are trials, and a ring marks the best one.  A
    parameter that is inactive in the best trial is shown with values of its parents that make it active.  Of more than
    40 parameters, those along which the median changes most are shown.

    Args:
      model: the model; predicts once for all points.
      problem: as in `OptFormer.predict`; or an Optuna study.
      trials: as in `OptFormer.predict`; None with an Optuna study.
      metric: as in `OptFormer.predict`.
      points: most values per parameter.

    Raises:
      ValueError: as in `OptFormer.predict`; also if no trial is finished.
    """
    problem, trials = _problem_and_trials(problem, trials)
    study = EncodedStudy(problem, trials)
    values = _observed(study, metric)
    index = study.metric_index(metric)
    best = study.best(index)
    if best is None:  # all trials violate a constraint
        best = int(np.nanargmax(values * study.sign(index)))
    space, rng = SlotSpace.of(study.schema), np.random.default_rng(0)
    (start,) = as_genotypes(rng, study.x_tokens[best : best + 1], space)
    chosen, rows = [], []
    for slot in study.schema.slots:
        levels = np.unique(np.linspace(0, slot.levels - 1, min(points, slot.levels)).round().astype(int))
        changed = np.tile(start, (len(levels), 1))
        _activate(changed, slot, study.schema.slots)
        changed[:, slot.index] = levels
        chosen.append([slot.values[level] for level in levels])
        rows.append(configurations(changed, space))
    prediction = model.predict(problem, trials, _parameters(study, np.concatenate(rows)), metric=metric)
    bands = _drawable(prediction.quantile([0.05, 0.25, 0.5, 0.75, 0.95]))
    known = np.isfinite(values)
    limits = _limits(values[known], study.sign(study.metric_index(metric)), bands[2])
    parts = np.split(bands, np.cumsum([len(at) for at in chosen])[:-1], axis=1)
    changes = np.array([np.ptp(part[2]) for part in parts])
    most = np.sort(np.argsort(-changes, kind="stable")[:_MOST])
    figure, axes = _panels(len(most), sharey=True)
    for axis, index in zip(axes, most, strict=True):
        slot = study.schema.slots[index]
        _draw_slice(axis, slot, chosen[index], parts[index])
        here = known & (study.x_tokens[:, slot.index] < slot.levels)
        shown = [_place(slot, slot.values[level]) for level in study.x_tokens[here, slot.index]]
        _draw_trials(axis, shown, values[here], limits)
        if here[best]:
            place = _place(slot, slot.values[study.x_tokens[best, slot.index]])
            axis.scatter([place], [values[best]], s=50, facecolors="none", edgecolors=_BEST, linewidths=1.5, zorder=4)
    for axis in axes[::_COLUMNS]:
        axis.set_ylim(*limits)
        axis.set_ylabel(_label(study.metrics[study.metric_index(metric)].name), fontsize=8)
    return figure


def predicted_against_observed(
    model: Predictor,
    problem: Study,
    trials: Sequence[vz.Trial] | None = None,
    *,
    metric: str | None = None,
    folds: int = 5,
) -> "Figure":
    """Plots the prediction of every trial from the others: medians with 90 % intervals over observed objectives.

    The trials are split into folds, and each fold is predicted from the others.  The title gives the number of
    intervals that contain the observed value.

    Args:
      model: the model; predicts once per fold.
      problem: as in `OptFormer.predict`; or an Optuna study.
      trials: as in `OptFormer.predict`; None with an Optuna study.
      metric: as in `OptFormer.predict`.
      folds: number of folds.

    Raises:
      ValueError: as in `OptFormer.predict`; also fewer than two finished trials.
    """
    problem, trials = _problem_and_trials(problem, trials)
    study = EncodedStudy(problem, trials)
    values = _observed(study, metric)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        raise ValueError(f"study {study.schema.study!r}: at least two finished trials are needed, not {len(known)}")
    bands = np.empty((3, len(known)))
    for fold in range(min(folds, len(known))):
        held = np.arange(len(known)) % min(folds, len(known)) == fold
        others = [trial for index, trial in enumerate(trials) if index not in set(known[held])]
        asked = [trials[index].parameters for index in known[held]]
        bands[:, held] = model.predict(problem, others, asked, metric=metric).quantile([0.05, 0.5, 0.95])
    low, middle, high = _drawable(bands)
    observed = values[known]
    inside = (low <= observed) & (observed <= high)
    figure, (axis,) = _panels(1, size=(4.2, 4.0))
    axis.vlines(observed, low, high, color=_MODEL, alpha=0.35, linewidth=1)
    axis.scatter(observed, middle, s=12, color=_MODEL, zorder=3)
    ends = _limits(observed, study.sign(study.metric_index(metric)), middle)
    axis.plot(ends, ends, color=_INK, linewidth=0.6, linestyle=":")
    axis.set_xlim(*ends)
    axis.set_ylim(*ends)
    name = _label(study.metrics[study.metric_index(metric)].name)
    axis.set_xlabel(f"observed {name}", fontsize=8)
    axis.set_ylabel("predicted from the other trials", fontsize=8)
    axis.set_title(f"{inside.sum()} of {len(known)} inside their 90 % interval", fontsize=9)
    return figure


def importances(
    model: Predictor,
    problem: Study,
    trials: Sequence[vz.Trial] | None = None,
    *,
    metric: str | None = None,
    points: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """Importance of each parameter: Sobol's total-effect index of the predicted mean over the search space.

    Uses Jansen's estimator, E[(f(x) - f(x'))^2] / (2 Var f), where x' is x with this parameter redrawn.  Interactions
    count for every parameter involved, so the sum may exceed 1.

    Args:
      model: the model.
      problem: as in `OptFormer.predict`; or an Optuna study.
      trials: as in `OptFormer.predict`; None with an Optuna study.
      metric: as in `OptFormer.predict`.
      points: number of quasi-random configurations; takes points x (D + 1) predictions.
      seed: seed of the configurations.

    Returns:
      Path of each parameter (its name, with the parents' values if it is conditional) -> index in [0, 1], the
      most important first.  The estimate of a few points can exceed 1; it is cut off there.  All 0 if the prediction is
      constant.
    """
    problem, trials = _problem_and_trials(problem, trials)
    study = EncodedStudy(problem, trials)
    _observed(study, metric)
    space, slots = SlotSpace.of(study.schema), study.schema.slots
    first = quasi_random(space, 0, points, seed)
    # Another seed: later points of the same sequence would depend on earlier ones.
    second = from_unit_cube(np.random.default_rng(seed).random(first.shape), space)
    rows = [first]
    for slot in slots:
        changed = first.copy()
        changed[:, slot.index] = second[:, slot.index]
        rows.append(changed)
    legal = configurations(np.concatenate(rows), space)
    mean = np.asarray(model.predict(problem, trials, _parameters(study, legal), metric=metric).mean)
    mean = mean / max(np.abs(mean).max(), np.finfo(float).tiny)  # squares of large values would overflow
    base, *others = mean.reshape(len(slots) + 1, points)
    spread = float(base.var())
    found = {
        slot.path: min(1.0, float(np.mean((base - other) ** 2) / (2 * spread))) if spread > 0 else 0.0
        for slot, other in zip(slots, others, strict=True)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def importance(model: Predictor, problem: Study, trials: Sequence[vz.Trial] | None = None, **options: Any) -> "Figure":
    """Plots `importances` as bars; takes the same arguments."""
    return importance_bars(importances(model, problem, trials, **options))


def importance_bars(found: Mapping[str, float]) -> "Figure":
    """Plots a bar for each parameter, the first on top; at most 40."""
    first = list(found.items())[:_MOST][::-1]
    figure, (axis,) = _panels(1, size=(5.0, 0.6 + 0.28 * max(1, len(first))))
    axis.barh(range(len(first)), [share for _, share in first], color=_MODEL, height=0.6)
    axis.set_yticks(range(len(first)), [_label(path) for path, _ in first])
    axis.set_xlabel("share of the predicted variance, with interactions", fontsize=8)
    axis.set_xlim(left=0)
    return figure


def _problem_and_trials(
    problem: Study, trials: Sequence[vz.Trial] | None
) -> tuple[vz.ProblemStatement, Sequence[vz.Trial]]:
    if isinstance(problem, vz.ProblemStatement):
        if trials is None:
            raise TypeError("a ProblemStatement contains no trials; pass them as well")
        return problem, trials
    if not hasattr(problem, "get_trials") or trials is not None:
        raise TypeError(f"expected a problem and its trials, or only an Optuna study, not {type(problem).__name__}")
    from optformer.serve.optuna_spaces import problem_and_trials  # imported only for an Optuna study

    return problem_and_trials(problem)


def _limits(values: np.ndarray, sign: float, predicted: np.ndarray | None = None) -> tuple[float, float]:
    """Limits of an axis of objectives: the range of the values, but at most some good ranges below the median.

    Args:
      values: finite objectives, in user units.
      sign: -1 if smaller is better.
      predicted: predicted medians, included up to one good range better than the best value.
    """
    v = sign * values
    best = v.max()
    # More than half of the trials may have the best value; then the good range is 0.
    reach = next((best - low for low in (np.median(v), np.quantile(v, 0.25), v.min()) if low < best), 0.0)
    low, high = max(v.min(), best - (1 + _REACH) * reach), best
    if predicted is not None:
        high = max(high, min((sign * predicted).max(), best + reach))
    pad = 0.06 * (high - low) or 0.5 * abs(best) or 0.5
    ends = sorted((sign * (low - pad), sign * (high + pad)))
    return float(ends[0]), float(ends[1])


def _draw_trials(
    axis: "Axes", places: Sequence[Any] | np.ndarray, values: np.ndarray, limits: tuple[float, float]
) -> None:
    """Dots, and triangles at the end of the axis for those beyond it."""
    axis.scatter(places, values, s=9, color=_INK, alpha=0.5, linewidths=0, zorder=3)
    for end, marker, beyond in ((limits[0], "v", values < limits[0]), (limits[1], "^", values > limits[1])):
        outside = [place for place, far in zip(places, beyond, strict=True) if far]
        if outside:
            ends = [end] * len(outside)
            axis.scatter(outside, ends, s=14, marker=marker, color=_FAILED, linewidths=0, zorder=4, clip_on=False)


def _observed(study: EncodedStudy, metric: str | None) -> np.ndarray:
    """Objectives [T] in user units, NaN where there is none; very large numbers are clipped."""
    index = study.metric_index(metric)
    values = study.metric_values(index) * study.sign(index)
    if not np.isfinite(values).any():
        raise ValueError(f"study {study.schema.study!r}: no trial has an objective yet, so there is nothing to draw")
    return _drawable(values)


def _drawable(values: np.ndarray) -> np.ndarray:
    """Clips numbers so that Matplotlib's arithmetic does not overflow."""
    return np.clip(values, -1e300, 1e300)


def _activate(rows: np.ndarray, slot: Slot, slots: Sequence[Slot]) -> None:
    """Sets the parents of a slot to values under which it is active; keeps their values if possible."""
    while slot.parent >= 0:
        here = rows[:, slot.parent]
        rows[:, slot.parent] = np.where(np.isin(here, slot.parent_levels), here, slot.parent_levels[0])
        slot = slots[slot.parent]


def _parameters(study: EncodedStudy, rows: np.ndarray) -> list[vz.ParameterDict]:
    return [study.schema.decode_parameters(row) for row in rows]


def _place(slot: Slot, value: float | int | str) -> float | int:
    """Position of a value on its axis; for categories, their index."""
    return slot.values.index(value) if slot.kind == tokens.CATEGORICAL else value  # type: ignore[return-value]


def _label(name: str, longest: int = _LONGEST) -> str:
    """A name for use in a plot: shortened, without control characters, and with dollar signs escaped."""
    half = longest // 2
    short = name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
    return shown(short).replace("$", r"\$")


def _draw_slice(axis: "Axes", slot: Slot, at: Sequence[Any], bands: np.ndarray) -> None:
    places = [_place(slot, value) for value in at]
    if slot.kind == tokens.CATEGORICAL:
        axis.vlines(places, bands[0], bands[4], color=_MODEL, alpha=0.35, linewidth=2)
        axis.vlines(places, bands[1], bands[3], color=_MODEL, alpha=0.6, linewidth=5)
        axis.scatter(places, bands[2], color=_MODEL, s=20, zorder=2)
        axis.set_xlim(-0.5, slot.levels - 0.5)
        _name_categories(axis, slot)
    else:
        axis.fill_between(places, bands[0], bands[4], color=_MODEL, alpha=0.15, linewidth=0)
        axis.fill_between(places, bands[1], bands[3], color=_MODEL, alpha=0.25, linewidth=0)
        axis.plot(places, bands[2], color=_MODEL, linewidth=1.2)
        if slot.scale == vz.ScaleType.LOG and min(at) > 0:
            axis.set_xscale("log")
            label_log_axis(axis.xaxis, min(at), max(at))
    axis.set_title(_label(slot.path), fontsize=8)


def _name_categories(axis: "Axes", slot: Slot) -> None:
    """Labels an axis with the names of categories, as many as fit."""
    every = math.ceil(slot.levels / _CATEGORIES)
    labels = [_label(str(value), _LONGEST_CATEGORY) for value in slot.values[::every]]
    crowded = sum(map(len, labels)) > 2 * _LONGEST_CATEGORY
    axis.set_xticks(
        range(0, slot.levels, every), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center"
    )


def label_log_axis(axis: "Axis", low: float, high: float) -> None:
    """Labels a logarithmic axis with plain numbers; within two decades also at 2 and 5, to have enough ticks."""
    from matplotlib.ticker import LogLocator

    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter("{x:g}" if high < 100 * low else "")
    axis.set_tick_params(which="minor", labelsize=axis.get_ticklabels()[0].get_fontsize())


def _panels(
    count: int, size: tuple[float, float] | None = None, *, sharey: bool = False
) -> tuple["Figure", "list[Axes]"]:
    """A figure without a window, with axes row by row."""
    with from_extra("plot", user="a picture"):
        from matplotlib.figure import Figure
    columns = min(count, _COLUMNS)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=size or (2.5 * columns, 2.2 * lines), dpi=150, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=sharey)
    axes = list(grid.flat)
    for axis in axes:
        axis.tick_params(labelsize=7)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]
