"""Tables and pictures of the demo."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from optformer import plot
from optformer.data.problems.sklearn import SklearnExperimenter
from optformer.evaluate.calibration import Predicted
from optformer.evaluate.demo.comparisons import BEGUN, OURS, TOLD, TPE, Comparison
from optformer.evaluate.demo.held_out import FINE_TUNED, FIRST_TRIALS, SHIPPED
from optformer.evaluate.demo.objectives import HELD_OUT
from optformer.evaluate.optimization import maximizes
from optformer.evaluate.report import BASELINE_COLORS, MODEL_COLOR, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, np.ndarray]
"""Optimizer -> float64 [seed, trial or epoch], best value so far."""

_RANDOM_COLOR: Final = "#888888"
_COLORS: Final = {
    "random search": _RANDOM_COLOR,
    TPE: BASELINE_COLORS[0],
    BEGUN: BASELINE_COLORS[0],
    SHIPPED: BASELINE_COLORS[2],
    FINE_TUNED: MODEL_COLOR,
    OURS: MODEL_COLOR,
    TOLD: BASELINE_COLORS[2],
}


# --- Tables ---


def print_tuned(best: Mapping[str, Curves], seconds: Mapping[str, float], console: Console) -> None:
    """Prints the results of the optimizers on the held-out pairs, and the seconds per suggestion."""
    trials, seeds = _shape(best)
    table = Table(title=f"Best objective after {trials} trials: mean of {seeds} seeds and its standard error")
    table.add_column("optimizer")
    for pair in best:
        table.add_column(f"{pair}\n{metric_of(pair)}", justify="right")
    table.add_column("s / suggestion", justify="right")
    for name, each in seconds.items():
        table.add_row(name, *(_cell(curves[name][:, -1]) for curves in best.values()), f"{each:.3f}")
    console.print(table)


def print_predicted(
    predicted: Sequence[Predicted], log_density: Mapping[int, Mapping[str, tuple[float, float]]], console: Console
) -> None:
    """Prints mean and median log densities of unseen trials under each model."""
    table = Table(title=f"Log density of unseen trials on {len(HELD_OUT)} kept-out pairs: mean, median (nats)")
    for heading in ("trials seen", "uniform", "GP", "shipped", "fine-tuned", "in its 90 % interval"):
        table.add_column(heading, justify="right")
    for each in predicted:
        densities = log_density[each.history]
        table.add_row(
            str(each.history),
            *["{:.2f}, {:.2f}".format(*found) for found in densities.values()],
            f"{100 * each.coverage():.0f} %",
        )
    console.print(table)


def print_compared(chosen: Sequence[Comparison], best: Mapping[str, Curves], console: Console) -> None:
    """Prints the results of the engines of each comparison, after a part of the budget and after all of it."""
    _, seeds = _shape(best)
    table = Table(title=f"Best log loss (less is better): mean of {seeds} seeds and its standard error")
    for heading in ("what is tuned", "by"):
        table.add_column(heading)
    for heading in ("early", "at the end"):
        table.add_column(heading, justify="right")
    for each in chosen:
        what = f"{each.name}\nafter {each.early} and {each.budget} {each.unit}"
        for number, (engine, rows) in enumerate(best[each.name].items()):
            last = number == len(best[each.name]) - 1
            reached = (_cell(rows[:, each.early - 1]), _cell(rows[:, -1]))
            table.add_row("" if number else what, engine, *reached, end_section=last)
    console.print(table)


def metric_of(pair: str) -> str:
    """`log_loss (less is better)`."""
    problem = SklearnExperimenter(pair).problem_statement()
    return f"{problem.metric_information.item().name} ({'more' if maximizes(problem) else 'less'} is better)"


def _shape(best: Mapping[str, Curves]) -> tuple[int, int]:
    """Numbers of trials and seeds of the first problem and optimizer."""
    seeds, trials = next(iter(next(iter(best.values())).values())).shape
    return trials, seeds


def _cell(values: np.ndarray) -> str:
    """Mean and standard error of [seed]; a dash if a seed has no value."""
    if np.isnan(values).any():
        return "-"
    return f"{values.mean():.4f} ± {values.std(ddof=1) / np.sqrt(len(values)):.4f}"


# --- Pictures ---


def draw_tuned(best: Mapping[str, Curves], path: Path) -> None:
    """Mean best objective so far by trial on the held-out pairs, with standard errors."""
    figure, panels = new_figure(1, len(best), figsize=(4.2 * len(best), 3.8))
    for axes, (pair, curves) in zip(panels, best.items(), strict=True):
        _draw_curves(axes, curves, log="less" in metric_of(pair))
        axes.axvline(FIRST_TRIALS, color="black", linewidth=0.6, linestyle=":")
        axes.set(xlabel="trial", ylabel=f"best {metric_of(pair)} so far", title=pair)
    panels[0].legend(frameon=False)
    _, seeds = _shape(best)
    figure.suptitle(f"{seeds} seeds, mean and standard error; the first {FIRST_TRIALS} trials are shared")
    _save(figure, path)


def draw_compared(chosen: Sequence[Comparison], best: Mapping[str, Curves], path: Path) -> None:
    """Mean best log loss so far by epoch or trial, with standard errors, in four panels."""
    figure, panels = new_figure(2, 2, figsize=(9.2, 7.2))
    for axes, each in zip(panels.flat, chosen, strict=True):
        _draw_curves(axes, best[each.name], log=True)
        axes.set(xlabel=f"{each.unit} spent", ylabel="best log loss (less is better) so far", title=each.name)
        axes.legend(frameon=False, fontsize=8)
    _, seeds = _shape(best)
    figure.suptitle(f"{seeds} seeds, mean and standard error; the shipped model, trained on none of these pairs")
    _save(figure, path)


def _draw_curves(axes: "Axes", curves: Curves, log: bool) -> None:
    """Means and standard errors, starting where every seed has a value."""
    for name, rows in curves.items():
        step = np.arange(1, rows.shape[1] + 1)
        mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        axes.plot(step, mean, color=_COLORS[name], label=name)
        axes.fill_between(step, mean - error, mean + error, color=_COLORS[name], alpha=0.2, linewidth=0)
    if log:
        axes.set_yscale("log")
        plot.label_log_axis(axes.yaxis, *axes.get_ylim())


def draw_predicted(predicted: Predicted, per_pair: int, path: Path) -> None:
    """Predicted medians with 90 % intervals against outcomes, one panel for each held-out pair.

    Args:
      predicted: predictions of all studies.
      per_pair: number of studies of each pair, which are consecutive.
      path: path of the picture.
    """
    figure, panels = new_figure(1, len(HELD_OUT), figsize=(4.2 * len(HELD_OUT), 4.2))
    for index, (axes, pair) in enumerate(zip(panels, HELD_OUT, strict=True)):
        mask = predicted.study // per_pair == index
        observed, median = predicted.observed[mask], predicted.median[mask]
        low, high = predicted.low[mask], predicted.high[mask]
        span = np.ptp(observed) or 1.0
        limits = (observed.min() - 0.1 * span, observed.max() + 0.1 * span)
        axes.vlines(observed, np.clip(low, *limits), np.clip(high, *limits), color=MODEL_COLOR, alpha=0.3, linewidth=1)
        axes.plot(observed, np.clip(median, *limits), ".", color=MODEL_COLOR, markersize=4)
        axes.plot(limits, limits, color="black", linewidth=0.6)
        axes.set(xlabel="observed", ylabel="predicted", title=pair, xlim=limits, ylim=limits)
    figure.suptitle(f"Unseen trials after {predicted.history} known ones: median and 90 % interval")
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=140)
    plt.close(figure)
