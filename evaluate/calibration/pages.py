"""The tables, pictures and page of `optformer evaluate calibration`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optformer.evaluate.calibration.prediction import BASELINES, MODEL
from optformer.evaluate.calibration.scores import COVERAGES, PIT_BINS, Estimate, Summary
from optformer.evaluate.report import BASELINE_COLORS, INK, MODEL_COLOR, new_figure
from optformer.page import Report, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS: Final = {MODEL: MODEL_COLOR, **dict(zip(reversed(list(BASELINES)), BASELINE_COLORS, strict=True))}
LABELS: Final = {
    MODEL: "OptFormer",
    "uniform": "uniform",
    "marginal": "marginal",
    "gp": "GP, max. likelihood",
    "gp_warped": "GP, priors and warps",
    "gp_averaged": "GP, averaged",
    "vizier_gp": "Vizier GP",
}
BARRED: Final = ("prior", "bbob", "yahpo", "tables")
"""Data sets of a suite whose cells have targets ("bars")."""
CALIBRATED: Final = (0.03, 0.05)
RIVALS: Final = ("gp_averaged", "gp_warped", "vizier_gp", "gp")
"""Baselines that a picture may show beside the model: it shows the first of these that was run."""


def figure_text(value: float, digits: int = 2) -> str:
    """Fixed digits, or three significant ones for very large values, which come from overconfident predictors."""
    if abs(value) >= 1000:
        return f"{value:.3g}"
    # Adding zero turns a rounded -0 into 0.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval(estimate: Estimate, digits: int = 2, percent: bool = False) -> str:
    """`1.23 [1.10, 1.35]`."""
    factor = 100.0 if percent else 1.0
    value, low, high = (figure_text(factor * part, digits) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def data_sets(summaries: Sequence[Summary]) -> list[str]:
    """Names in order of first appearance."""
    return list(dict.fromkeys(summary.data_set for summary in summaries))


def density_table(summaries: Sequence[Summary], data_set: str, short: bool = False) -> Table:
    """Every predictor at every history length: all figures, or with `short` those that fit on a terminal."""
    rows: list[list[str]] = []
    emphasized: list[int] = []
    for summary in (s for s in summaries if s.data_set == data_set):
        for name, figures in summary.predictors.items():
            if name == MODEL:
                emphasized.append(len(rows))
            cells = [
                str(summary.history),
                LABELS[name],
                interval(figures.relative),
                figure_text(figures.relative_median.value),
                interval(figures.calibration_error, 1, percent=True),
                f"{100 * figures.chance_error:.1f}",
                f"{100 * figures.coverage[0.9].value:.0f}",
            ]
            if not short:
                cells += [
                    *[f"{100 * figures.coverage[nominal].value:.0f}" for nominal in COVERAGES if nominal != 0.9],
                    f"{100 * figures.hindsight_error.value:.1f}",
                    figure_text(figures.log_density.value),
                    figure_text(figures.class_log_score.value),
                    figure_text(figures.median_error.value, 3),
                    figure_text(figures.rmse.value, 3),
                    figure_text(figures.rank_correlation.value),
                ]
            rows.append(cells)
    counts = "; ".join(
        f"{s.history} known: {s.studies} studies in {s.groups} groups" for s in summaries if s.data_set == data_set
    )
    headings = ["known", "predictor", "nats over uniform", "median", "ECE %", "by chance", "in 90 %"]
    if not short:
        headings += [f"in {100 * nominal:.0f} %" for nominal in COVERAGES if nominal != 0.9]
        headings += ["ECE in hindsight %", "absolute", "class score", "median error", "RMSE", "rank corr."]
    return Table(f"{data_set} ({counts})", headings, rows, text_columns=2, emphasized=emphasized)


def comparison_table(summaries: Sequence[Summary]) -> Table:
    """The model against each Gaussian process."""
    rows = []
    for summary in summaries:
        for name, comparison in summary.against.items():
            if name in RIVALS:
                rows.append(
                    [
                        summary.data_set,
                        str(summary.history),
                        LABELS[name],
                        interval(comparison.difference),
                        interval(comparison.share_ahead, 0, percent=True),
                    ]
                )
    headings = ["data", "known", "against", "nats ahead", "% of studies ahead"]
    return Table("The model against Gaussian processes fitted to each study", headings, rows, text_columns=3)


def bar_table(summaries: Sequence[Summary]) -> Table:
    """The targets ("bars") of the real validation: the model beside the averaged process, and its calibration error."""
    rows = []
    for summary in summaries:
        if "gp_averaged" in summary.against:
            ahead = summary.against["gp_averaged"].difference
            error = summary.predictors[MODEL].calibration_error.value
            met = "" if summary.data_set not in BARRED else f"{_met(ahead.value >= 0)}, {_met(error <= CALIBRATED[0])}"
            rows.append([summary.data_set, str(summary.history), interval(ahead), f"{100 * error:.1f}", met])
    cells = [s.predictors[MODEL].calibration_error.value for s in summaries if s.data_set in BARRED]
    within = [sum(error <= limit for error in cells) for limit in CALIBRATED]
    title = (
        "Bars: at least as many nats as the averaged process; ECE at most 3 % in 12 of 16 cells"
        f" (here {within[0]} of {len(cells)}), at most 5 % in all (here {within[1]})"
    )
    return Table(title, ["data", "known", "nats ahead of GP, averaged", "ECE %", "nats, ECE"], rows, text_columns=2)


def _met(met: bool) -> str:
    return "yes" if met else "no"


def write_report(summaries: Sequence[Summary], remarks: Sequence[str], facts: Sequence[str], report: Report) -> None:
    """Adds everything to the report and writes its page.

    Args:
      summaries: one per data set and history length.
      remarks: what was left out, and why.
      facts: checkpoint, budget and so on.
      report: an empty report.
    """
    for fact in facts:
        report.paragraph(fact)
    report.paragraph(
        "A study is cut after its first known trials, and later trials are predicted from these. Log densities are "
        "relative to a uniform density over the range of the whole study, known in hindsight; brackets are 95 % "
        "bootstrap intervals over groups of studies."
    )
    for remark in remarks:
        report.paragraph(f"Remark: {remark}")
    report.heading("Log density against history length")
    report.picture(
        "log-density",
        draw_log_density(summaries),
        "Mean log density of later trials over studies, relative to the uniform; dots are medians over trials.",
    )
    report.table(comparison_table(summaries))
    report.heading("Calibration")
    for data_set in data_sets(summaries):
        report.picture(
            f"reliability-{data_set}",
            draw_reliability(summaries, data_set),
            f"{data_set}: how often the most probable of 100 classes was right, by its probability; areas are shares.",
        )
    report.picture("pit", draw_pit(summaries), "Distribution function at the outcome: flat if calibrated.")
    report.picture("coverage", draw_coverage(summaries), "Central intervals: nominal and observed coverage.")
    report.heading("All figures")
    for data_set in data_sets(summaries):
        report.table(density_table(summaries, data_set))
    report.paragraph(
        "ECE: expected calibration error of 100 equal classes of the known objectives' range, widened by half of it at "
        "either end, in 10 bins of confidence; by chance: the ECE of a perfectly calibrated predictor on as many "
        "independent trials; in hindsight: with classes of the whole study's range. Class score: log probability of "
        "the right class relative to the uniform, at most log 100. Median error: mean absolute error of the median; "
        "RMSE: of the mean, which may be large because of a heavy tail; both relative to the range of the study. "
        "Predictors: " + "; ".join(f"{LABELS[name]}: {what}" for name, what in BASELINES.items()) + "."
    )
    report.write()


# --- Pictures ---


def _rival(summary: Summary) -> str | None:
    return next((name for name in RIVALS if name in summary.predictors), None)


def _panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple["Figure", np.ndarray]:
    figure, axes = new_figure(rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False, **options)
    return figure, axes


def draw_log_density(summaries: Sequence[Summary]) -> "Figure":
    """One panel per data set: mean (line, with its interval) and median (dots) against history length."""
    names = data_sets(summaries)
    figure, axes = _panels(1, len(names), (3.9, 3.4))
    for axis, data_set in zip(axes[0], names, strict=True):
        chosen = [s for s in summaries if s.data_set == data_set]
        histories = [s.history for s in chosen]
        predictors = list(dict.fromkeys(name for s in chosen for name in s.predictors))
        shown = [s.predictors[name].relative.value for s in chosen for name in s.predictors if name not in ("gp",)]
        shown += [s.predictors[name].relative_median.value for s in chosen for name in s.predictors]
        finite = [value for value in shown if np.isfinite(value)]
        low = max(min(finite, default=0.0), -2.5) - 0.3
        high = max(finite, default=1.0) + 0.5
        axis.axhline(0.0, color=INK, linewidth=0.6, linestyle=":")
        for name in predictors:
            if name == "uniform":
                continue
            has = [s for s in chosen if name in s.predictors]
            x = np.array([s.history for s in has])
            figures = [s.predictors[name] for s in has]
            mean = np.array([f.relative.value for f in figures])
            # A single overconfident, wrong prediction would compress everything else into a line.
            clipped = np.clip(mean, low, None)
            axis.plot(x, clipped, color=COLORS[name], label=LABELS[name], linewidth=2.2 if name == MODEL else 1.2)
            if name in (MODEL, _rival(chosen[0])):
                ends = [np.clip([getattr(f.relative, end) for f in figures], low, high) for end in ("low", "high")]
                axis.fill_between(x, *ends, color=COLORS[name], alpha=0.15, linewidth=0)
            axis.plot(x, [f.relative_median.value for f in figures], ".", color=COLORS[name], markersize=6)
            for at, value in zip(x, mean, strict=True):
                if value < low:
                    axis.annotate(f"{value:.3g}", (at, low), color=COLORS[name], fontsize=7, ha="center", va="bottom")
        axis.set(xscale="log", xticks=histories, xticklabels=histories, title=data_set, ylim=(low, high))
        axis.minorticks_off()
        axis.margins(x=0.12)
        axis.set_xlabel("known trials", fontsize=9)
    axes[0, 0].set_ylabel("nats over uniform", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=len(labels))
    return figure


def draw_reliability(summaries: Sequence[Summary], data_set: str) -> "Figure":
    """One panel per history length: accuracy against confidence, model and rival."""
    chosen = [s for s in summaries if s.data_set == data_set]
    figure, axes = _panels(1, len(chosen), (2.6, 2.8), sharey=True)
    for axis, summary in zip(axes[0], chosen, strict=True):
        axis.plot([0, 1], [0, 1], color=INK, linewidth=0.6, linestyle=":")
        for name in (MODEL, _rival(summary)):
            if name is None or name not in summary.predictors:
                continue
            share, confidence, accuracy = summary.predictors[name].reliability.T
            used = share > 0
            error = 100 * summary.predictors[name].calibration_error.value
            axis.plot(confidence[used], accuracy[used], color=COLORS[name], linewidth=1)
            axis.scatter(
                confidence[used],
                accuracy[used],
                s=6 + 220 * share[used],
                color=COLORS[name],
                alpha=0.6,
                label=f"{LABELS[name]}: ECE {error:.1f} %",
            )
        axis.set(xlim=(0, 1), ylim=(0, 1), title=f"{data_set}, {summary.history} known")
        axis.title.set_fontsize(9)
        axis.set_xlabel("confidence", fontsize=8)
        axis.legend(frameon=False, fontsize=7, markerscale=0.5, loc="upper left")
    axes[0, 0].set_ylabel("accuracy", fontsize=8)
    return figure


def draw_pit(summaries: Sequence[Summary]) -> "Figure":
    """A row per data set, a panel per history length: histograms of the model (filled) and its rival (outline)."""
    names = data_sets(summaries)
    columns = max(sum(s.data_set == name for s in summaries) for name in names)
    figure, axes = _panels(len(names), columns, (2.4, 1.9))
    edges = np.linspace(0, 1, PIT_BINS + 1)
    for row, data_set in zip(axes, names, strict=True):
        chosen = [s for s in summaries if s.data_set == data_set]
        for axis, summary in zip(row, chosen, strict=False):
            axis.axhline(1.0, color=INK, linewidth=0.6, linestyle=":")
            rival = _rival(summary)
            if MODEL in summary.predictors:
                axis.stairs(
                    PIT_BINS * summary.predictors[MODEL].pit_histogram, edges, fill=True, color=MODEL_COLOR, alpha=0.5
                )
            if rival is not None:
                axis.stairs(PIT_BINS * summary.predictors[rival].pit_histogram, edges, color=COLORS[rival])
            axis.set_title(f"{data_set}, {summary.history} known", fontsize=8)
            axis.set_xlim(0, 1)
        for axis in row[len(chosen) :]:
            axis.set_visible(False)
    return figure


def draw_coverage(summaries: Sequence[Summary]) -> "Figure":
    """One panel per data set: coverage of central intervals, a line per history length; dashed the rival's."""
    names = data_sets(summaries)
    figure, axes = _panels(1, len(names), (3.2, 3.2))
    nominal = np.linspace(0, 1, PIT_BINS // 2 + 1)
    for axis, data_set in zip(axes[0], names, strict=True):
        axis.plot([0, 1], [0, 1], color=INK, linewidth=0.6, linestyle=":")
        chosen = [s for s in summaries if s.data_set == data_set]
        for shade, summary in zip(np.linspace(0.35, 1.0, len(chosen)), chosen, strict=True):
            for name in (MODEL, _rival(summary)):
                if name is None or name not in summary.predictors:
                    continue
                histogram = summary.predictors[name].pit_histogram
                # Central intervals grow by one bin on either side.
                folded = histogram[: PIT_BINS // 2][::-1] + histogram[PIT_BINS // 2 :]
                axis.plot(
                    nominal,
                    np.concatenate([[0.0], np.cumsum(folded)]),
                    color=COLORS[name],
                    alpha=float(shade),
                    linewidth=1.6 if name == MODEL else 1.0,
                    linestyle="-" if name == MODEL else "--",
                    label=f"{LABELS[name]}, {summary.history} known",
                )
        axis.set(xlim=(0, 1), ylim=(0, 1), title=data_set)
        axis.set_xlabel("nominal", fontsize=8)
    axes[0, 0].set_ylabel("observed", fontsize=8)
    axes[0, 0].legend(frameon=False, fontsize=6)
    return figure
