"""`optformer corpus info`: tables on the terminal, and one HTML page with pictures."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from optformer.data.corpus.description import CURVE_TRIALS, START, CorpusDescription, LeftOut
from optformer.evaluate.report import BASELINE_COLORS, INK, MODEL_COLOR, new_figure
from optformer.files import write_atomically
from optformer.page import Report, Table
from optformer.terminal import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OTHERS_COLOR: Final = "#bbbbbb"
_LIMIT_COLOR: Final = "#b03030"
# Without grey, which is the color of the other panels' medians.
_COLORS: Final = (MODEL_COLOR, *(color for color in BASELINE_COLORS if color != "#707070"))
_UNKNOWN: Final = "not recorded"
_MOST_ROWS: Final = 20
_MOST_BARS: Final = 8
_MOST_PANELS: Final = 8
_MOST_BINS: Final = 30
_SHOWN_CURVES: Final = 12
_FEWEST_CURVES: Final = 5
"""Smallest number of studies for quartiles."""
_TIMES: Final = {0.001: "1 ms", 1.0: "1 s", 60.0: "1 min", 3600.0: "1 h", 86_400.0: "1 day", 864_000.0: "10 days"}


# --- Tables ---


def tables(description: CorpusDescription) -> list[Table]:
    """All tables, for terminal and page."""
    found = [
        _properties(description),
        _families(description),
        _algorithms(description),
        _fit(description),
        _left_out("Cannot be used (read now)", description.unusable),
        _left_out(f"Left out by the import ({description.quarantine})", description.quarantined),
    ]
    return [table for table in found if table.rows]


def _properties(description: CorpusDescription) -> Table:
    d = description
    rows = [
        ["studies", f"{d.studies:,} ({d.conditional:,} with a conditional space)"],
        ["trials", f"{d.trials:,}"],
        ["trials per study", _quantiles(d.trials_per_study)],
        ["parameters per study", _quantiles(d.parameters_per_study)],
        ["kinds of parameter", _counted(d.kinds)],
        ["scales", _counted(d.scales)],
        ["search spaces", _counted(d.spaces)],
        ["trial status", _counted(d.statuses)],
        ["studies with failed trials", _share(int((d.failed > 0).sum()), d.studies)],
        ["constraints on outcomes", f"{_share(d.constrained, d.studies)} studies; trials that break one: {d.broken:,}"],
        ["goals", _counted(d.goals)],
        ["objectives per study", ", ".join(f"{number}: {count:,}" for number, count in sorted(d.objectives.items()))],
        ["wall time of a trial", _times(d)],
        ["metadata text per study, tokens", _quantiles(d.text_tokens)],
        ["trials per study, tokens", _quantiles(d.trial_tokens)],
    ]
    return Table(d.path, ["property", "figures"], rows, text_columns=2)


def _families(description: CorpusDescription) -> Table:
    rows = [
        [
            name,
            f"{len(family.groups):,}",
            f"{family.studies:,}",
            f"{family.trials:,}",
            _percent(family.failed, family.trials),
        ]
        for name, family in description.families.items()
    ]
    return Table("Families of problems", ["family", "groups", "studies", "trials", "failed trials"], rows)


def _algorithms(description: CorpusDescription) -> Table:
    names = list(description.algorithms)
    rows = [
        [
            name or _UNKNOWN,
            f"{description.algorithms[name]:,}",
            _percent(description.algorithms[name], description.studies),
            f"{description.algorithm_trials[name]:,}",
        ]
        for name in names[:_MOST_ROWS]
    ]
    if others := names[_MOST_ROWS:]:
        studies = sum(description.algorithms[name] for name in others)
        trials = sum(description.algorithm_trials[name] for name in others)
        rows.append([f"{len(others):,} others", f"{studies:,}", _percent(studies, description.studies), f"{trials:,}"])
    return Table("Algorithms (teachers)", ["algorithm", "studies", "share", "trials"], rows)


def _fit(description: CorpusDescription) -> Table:
    shape, beyond, whole = description.shape, description.beyond, description.serialized
    happens = {
        "trials": (f"more than {shape.trials} trials", "a part of the trials is drawn"),
        "slots": (f"more than {shape.slots} parameters", "never drawn"),
        "text": (f"more than {shape.text} tokens of text", "fields are dropped, then whole parameters"),
        "any": ("any of these", ""),
    }
    rows = [[what, then, f"{beyond[name]:,}", _percent(beyond[name], whole)] for name, (what, then) in happens.items()]
    title = f"Beyond the training shape, of {whole:,} studies that can be serialized"
    return Table(title, ["", "in training", "studies", "share"], rows if whole else [], text_columns=2)


def _left_out(title: str, left_out: LeftOut) -> Table:
    both = left_out.studies + left_out.trials
    rows = [
        [reason, *(f"{count:,}" if count else "" for count in (left_out.studies[reason], left_out.trials[reason]))]
        for reason, _ in both.most_common()
    ]
    return Table(title, ["reason", "studies", "trials"], rows)


def _quantiles(values: np.ndarray) -> str:
    if not len(values):
        return "none"
    names = ("min", "25 %", "median", "75 %", "max")
    found = np.quantile(values, (0, 0.25, 0.5, 0.75, 1), method="nearest")
    return ", ".join(f"{name} {value:,}" for name, value in zip(names, found.tolist(), strict=True))


def _counted(counts: Mapping[str, int]) -> str:
    whole = sum(counts.values())
    shown = [
        f"{name} {count:,} ({_percent(count, whole)})" if len(counts) > 1 else f"{name} {count:,}"
        for name, count in counts.items()
    ]
    return ", ".join(shown) or "none"


def _times(description: CorpusDescription) -> str:
    if not description.timed:
        return _UNKNOWN
    low, median, high = (_duration(value) for value in np.quantile(description.seconds, (0.25, 0.5, 0.75)).tolist())
    known = _share(description.timed, description.trials)
    return f"25 % {low}, median {median}, 75 % {high}; recorded of {known} trials"


def _duration(seconds: float) -> str:
    for length, unit in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({_percent(part, whole)})"


def _percent(part: int, whole: int) -> str:
    """Whole percents, with neither 0 % for a few nor 100 % for nearly all."""
    if not whole:
        return "-"
    share = 100 * part / whole
    if part and share < 1:
        return "< 1 %"
    if part < whole and share > 99:
        return "> 99 %"
    return f"{share:.0f} %"


# --- The page ---


def write_page(description: CorpusDescription, page: str | os.PathLike[str]) -> Path:
    """Writes a self-contained HTML file and returns its path.

    Raises:
      OSError: the file cannot be written.
    """
    page = Path(page)
    with tempfile.TemporaryDirectory() as folder:
        report = Report(f"Corpus {Path(description.path).name}", Path(folder))
        _fill(report, description)
        content = report.write().read_bytes()
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, content)
    return page


def _fill(report: Report, description: CorpusDescription) -> None:
    first, *others = tables(description)
    report.table(first)
    if description.studies:
        report.heading("Composition")
        report.picture("composition", draw_composition(description), "Counts, with shares of the whole.")
    if description.serialized:
        report.heading("Sizes")
        shape = description.shape
        report.picture(
            "sizes",
            draw_sizes(description),
            f"Studies by size; the dashed lines are the training shape ({shape.trials} trials, {shape.slots} "
            f"parameters, {shape.text} tokens of text), with the share of studies beyond.",
        )
    if description.curves:
        report.heading("Progress")
        curves = sum(curves.studies for curves in description.curves.values())
        report.picture(
            "curves",
            draw_curves(description),
            f"Best so far, 0: the best of the study, 1: the median of its first {START} values. Line: median over "
            f"studies, band: quartiles, thin: some of the studies, grey: medians of the other panels. Of "
            f"{description.single_objective:,} studies with one objective, {curves:,} have {2 * START} values or more "
            "that improve on the first; at most 200 random ones of each algorithm are drawn. A line ends when half of "
            f"these have ended. Algorithms with fewer than {_FEWEST_CURVES} such studies are left out, unless all have "
            "fewer.",
        )
    if (description.failed > 0).any() or description.timed:
        report.heading("Failures and times")
        report.picture(
            "trials",
            draw_trials(description),
            "Share of a study's trials that are infeasible, of studies with such trials; wall time of a sample of "
            "trials from creation to completion, where recorded.",
        )
    report.heading("In numbers")
    for table in others:
        report.table(table)
    report.paragraph(
        "Tokens of text: the serializer's full metadata, header and one clause per parameter. Tokens of trials: one "
        "per parameter and one for the objective; a study of several objectives is read once for each."
    )


# --- Pictures ---


def draw_composition(description: CorpusDescription) -> "Figure":
    """Bars: kinds, scales, statuses, goals, spaces and algorithms."""
    d = description
    figure, axes = new_figure(2, 3, figsize=(10.5, 4.6))
    algorithms = {name or _UNKNOWN: count for name, count in d.algorithms.items()}
    spaces = {**d.spaces, "conditional": d.conditional}
    panels = (
        ("parameters by kind", d.kinds, sum(d.kinds.values())),
        ("parameters by scale", d.scales, sum(d.scales.values())),
        ("trials by status", d.statuses, d.trials),
        ("studies by algorithm", algorithms, d.studies),
        ("objectives by goal", d.goals, sum(d.goals.values())),
        ("studies by search space", spaces, d.studies),
    )
    for axis, (title, counts, whole) in zip(axes.flat, panels, strict=True):
        shown = dict(list(counts.items())[:_MOST_BARS])
        if len(counts) > _MOST_BARS:
            del shown[list(shown)[-1]]
            rest = len(counts) - len(shown)
            shown[f"{rest} others"] = sum(counts.values()) - sum(shown.values())
        names = [_short(name.lower().replace("_", " ") if name.isupper() else name) for name in shown]
        bars = axis.barh(range(len(names)), list(shown.values()), color=MODEL_COLOR, height=0.62)
        labels = [f"{count:,}  ({_percent(count, whole)})" for count in shown.values()]
        axis.bar_label(bars, labels, fontsize=7.5, color=INK, padding=3)
        axis.set_yticks(range(len(names)), names)
        # At least four rows in every panel, so that a single bar does not fill it.
        axis.set_ylim(max(len(names), 4) - 0.4, -0.6)
        axis.set_xlim(0, 1.5 * max(shown.values(), default=1))
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.set_title(title, fontsize=9.5, loc="left")
    return figure


def draw_sizes(description: CorpusDescription) -> "Figure":
    """Histograms: trials, parameters, tokens of text and tokens of trials per study."""
    from matplotlib.ticker import MaxNLocator

    d = description
    figure, axes = new_figure(2, 2, figsize=(9.4, 5.4))
    panels = (
        ("trials per study", d.trials_per_study, d.shape.trials, d.beyond["trials"]),
        ("parameters per study", d.parameters_per_study, d.shape.slots, d.beyond["slots"]),
        ("tokens of metadata text per study", d.text_tokens, d.shape.text, d.beyond["text"]),
        ("tokens of trials per study", d.trial_tokens, None, 0),
    )
    for axis, (title, values, limit, beyond) in zip(axes.flat, panels, strict=True):
        edges, logarithmic = _edges(values)
        counts, _ = np.histogram(values, edges)
        axis.stairs(counts, edges, fill=True, color=MODEL_COLOR, alpha=0.75)
        axis.set_ylim(0, 1.18 * max(counts.max(), 1))
        if logarithmic:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(_thousands)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(7, integer=True))
            axis.xaxis.set_major_formatter(_thousands)
        axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.yaxis.set_major_formatter(_thousands)
        if limit is not None:
            # Between the last whole number that fits and the first that does not.
            boundary = limit + 0.5
            low, high = min(edges[0], boundary), max(edges[-1], boundary)
            margin = 0.04 * (high - low)
            axis.set_xlim((low / 1.2, high * 1.2) if logarithmic else (max(low - margin, 0.0), high + margin))
            axis.axvline(boundary, color=_LIMIT_COLOR, linewidth=1.1, linestyle="--")
            axis.annotate(
                f"beyond {limit}: {_percent(beyond, d.serialized)}",
                (boundary, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(4, -2),
                textcoords="offset points",
                fontsize=8,
                color=_LIMIT_COLOR,
                va="top",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.8},
            )
        axis.set_xlabel(title, fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("studies", fontsize=9)
    return figure


def _thousands(value: float, _: object) -> str:
    return f"{value:,.0f}"


def _edges(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Edges of bins of whole numbers, round ones if possible, and whether they are evenly spaced in the logarithm."""
    low, high = int(values.min()), int(values.max())
    if low > 0 and high / low >= _MOST_BINS:
        return np.unique(np.geomspace(low, high + 1, _MOST_BINS + 1).round()) - 0.5, True
    # The smallest of 1, 2, 5, 10, 20, ... that leaves few enough.
    step = next(
        digit * 10**power for power in range(20) for digit in (1, 2, 5) if high - low < _MOST_BINS * digit * 10**power
    )
    return np.arange(step * (low // step), high + step + 1, step) - 0.5, False


def draw_curves(description: CorpusDescription) -> "Figure":
    """One panel per algorithm with the most studies: median, quartiles and some curves."""
    groups = list(description.curves.items())
    groups = ([group for group in groups if group[1].studies >= _FEWEST_CURVES] or groups)[:_MOST_PANELS]
    columns = min(len(groups), 3 if len(groups) in (3, 5, 6) else 4)
    rows = -(-len(groups) // columns)
    figure, axes = new_figure(
        rows, columns, figsize=(max(3.3 * columns, 5.0), 2.6 * rows), squeeze=False, sharex=True, sharey=True
    )
    medians = [_quartiles(curves.sample)[1] for _, curves in groups]
    ends = []
    for number, (axis, (name, curves)) in enumerate(zip(axes.flat, groups, strict=False)):
        color = _COLORS[number % len(_COLORS)]
        for other, median in enumerate(medians):
            if other != number:
                axis.plot(CURVE_TRIALS, median, color=_OTHERS_COLOR, linewidth=0.8)
        for curve in curves.sample[:_SHOWN_CURVES]:
            axis.plot(CURVE_TRIALS, curve, color=color, linewidth=0.5, alpha=0.3, drawstyle="steps-post")
        low, median, high = _quartiles(curves.sample)
        if len(curves.sample) >= _FEWEST_CURVES:
            axis.fill_between(CURVE_TRIALS, low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(CURVE_TRIALS, median, color=color, linewidth=2)
        ends.append(CURVE_TRIALS[np.isfinite(median)].max(initial=2))
        count = counted(curves.studies, "study", "studies")
        axis.set_title(f"{_short(name or 'algorithm ' + _UNKNOWN)} ({count})", fontsize=9, color=color)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= max(ends)]
    axes[0, 0].set(xscale="log", xlim=(1, max(ends)), ylim=(-0.03, 1.5), xticks=ticks, xticklabels=ticks)
    for index, axis in enumerate(axes.flat):
        axis.minorticks_off()
        axis.set_visible(index < len(groups))
        if index + columns >= len(groups):
            axis.set_xlabel("trial", fontsize=9)
            axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("best so far", fontsize=9)
    return figure


def _quartiles(sample: np.ndarray) -> np.ndarray:
    """[3, trials]: quartiles over studies, NaN where more than half of them have ended."""
    found = np.full((3, sample.shape[1]), np.nan)
    going_on = np.isfinite(sample).sum(axis=0) >= max(len(sample) / 2, 1)
    found[:, going_on] = np.nanquantile(sample[:, going_on], (0.25, 0.5, 0.75), axis=0)
    return found


def draw_trials(description: CorpusDescription) -> "Figure":
    """Histograms: share of failed trials per study, and wall time of trials."""
    d = description
    figure, (left, right) = new_figure(1, 2, figsize=(9.4, 2.9))
    failing = d.failed[d.failed > 0]
    left.set_title(f"{_share(len(failing), d.studies)} of the studies have failed trials", fontsize=9.5, loc="left")
    left.hist(failing, np.linspace(0, 1, 21), color=MODEL_COLOR, alpha=0.75)
    left.set(xlim=(0, 1), xticks=np.linspace(0, 1, 6), xticklabels=[f"{20 * index} %" for index in range(6)])
    left.set_xlabel("failed trials of a study", fontsize=9)
    left.set_ylabel("studies", fontsize=9)
    right.set_title(f"wall time recorded of {_share(d.timed, d.trials)} trials", fontsize=9.5, loc="left")
    if not d.timed:
        right.set_axis_off()
        return figure
    low, high = d.seconds.min(), d.seconds.max()
    edges = np.geomspace(low / 1.1, high * 1.1, 41)
    counts, _ = np.histogram(d.seconds, edges)
    right.stairs(counts / len(d.seconds), edges, fill=True, color=MODEL_COLOR, alpha=0.75)
    right.set_xscale("log")
    times = {second: text for second, text in _TIMES.items() if edges[0] <= second <= edges[-1]}
    right.set_xticks(list(times), list(times.values()))
    right.minorticks_off()
    right.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    right.set_xlabel("wall time of a trial", fontsize=9)
    right.set_ylabel("trials", fontsize=9)
    return figure


def _short(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
