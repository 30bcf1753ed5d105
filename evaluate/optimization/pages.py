"""The tables, pictures and page of `optformer evaluate optimization`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from optformer.evaluate.optimization.optimizers import BASELINES, CHECKPOINT
from optformer.evaluate.optimization.scores import Interval, Regrets, Significance, over_problems, significance, wins
from optformer.evaluate.report import BASELINE_COLORS, INK, MODEL_COLOR, new_figure
from optformer.page import Report, Table
from optformer.plot import label_log_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS: Final = {
    "optformer": "OptFormer (EI)",
    "optformer_pi": "OptFormer (PI)",
    "optformer_ucb": "OptFormer (UCB)",
    "optformer_thompson": "OptFormer (Thompson)",
    "optformer_policy": "OptFormer (policy)",
    "random_search": "random",
    "quasi_random": "quasi-random",
    "tpe": "Optuna TPE",
    "cma_es": "Optuna CMA-ES",
    "gp": "Optuna GP",
    "grid_search": "grid",
    "shuffled_grid_search": "shuffled grid",
    "regularized_evolution": "regularized evolution",
    "hill_climb": "hill climb",
    "eagle_strategy": "Vizier Eagle",
    "gp_ucb": "Vizier GP-UCB",
    "gp_ucb_pe": "Vizier GP-UCB-PE",
}
_STYLES: Final = ("-", "--", ":", "-.", (0, (1, 1)))


def label(optimizer: str) -> str:
    return LABELS.get(optimizer, optimizer)


def _styles(optimizers: Sequence[str]) -> list[tuple[str, object, float]]:
    """Color, line style and width of each optimizer; all that use the checkpoint have the same color."""
    styles: list[tuple[str, object, float]] = []
    own = others = 0
    for name in optimizers:
        if name in CHECKPOINT:
            styles.append((MODEL_COLOR, _STYLES[own % len(_STYLES)], 2.2))
            own += 1
        else:
            color = "#888888" if name == "random_search" else BASELINE_COLORS[others % len(BASELINE_COLORS)]
            styles.append((color, _STYLES[others // len(BASELINE_COLORS)], 1.3))
            others += name != "random_search"
    return styles


def _interval(each: Interval, digits: int = 3) -> str:
    return f"{each.mean:.{digits}f} [{each.low:.{digits}f}, {each.high:.{digits}f}]"


# --- Tables ---


def regret_table(regrets: Regrets, at: Sequence[int], title: str, seconds: Mapping[str, float] | None = None) -> Table:
    """Mean regrets with bootstrap intervals, ranks and times; sorted by the final regret."""
    columns = [over_problems(regrets.mean(trials)) for trials in at]
    ranks = over_problems(regrets.ranks(at[-1]))
    order = np.argsort([each.mean for each in columns[-1]], kind="stable")
    rows, emphasized = [], []
    for place, index in enumerate(order):
        name = regrets.optimizers[index]
        if name in CHECKPOINT:
            emphasized.append(place)
        row = [label(name), *(_interval(column[index]) for column in columns), _interval(ranks[index], 2)]
        if seconds is not None:
            row.append(f"{seconds[name]:.3f}" if np.isfinite(seconds.get(name, np.nan)) else "")
        rows.append(row)
    headings = ["optimizer", *(f"after {trials}" for trials in at), f"rank after {at[-1]}"]
    headings += ["s / suggestion"] if seconds is not None else []
    count = f"{len(regrets.problems)} problems x {regrets.values.shape[2]} seeds"
    return Table(
        f"{title} ({count}; mean normalized regret, 95 % intervals over problems)", headings, rows, 1, emphasized
    )


def family_table(of_family: Mapping[str, Regrets], at: Sequence[int]) -> Table:
    """Mean regrets by family of problems."""
    optimizers = next(iter(of_family.values())).optimizers
    rows = []
    for index, name in enumerate(optimizers):
        cells = [f"{r.mean(trials)[:, index].mean():.3f}" for r in of_family.values() for trials in at]
        rows.append([label(name), *cells])
    headings = ["optimizer", *(f"{family} {trials}" for family in of_family for trials in at)]
    emphasized = [index for index, name in enumerate(optimizers) if name in CHECKPOINT]
    return Table("By family: mean normalized regret after so many trials", headings, rows, 1, emphasized)


def problem_table(regrets: Regrets, at: int) -> Table:
    """Mean regret over seeds of every optimizer on every problem."""
    mean = regrets.mean(at)
    rows = [[name, *(f"{value:.4f}" for value in row)] for name, row in zip(regrets.problems, mean, strict=True)]
    return Table(
        f"By problem: mean normalized regret after {at} trials", ["problem", *map(label, regrets.optimizers)], rows
    )


def wins_table(regrets: Regrets, at: int) -> Table | None:
    """Numbers of problems on which the first optimizer of the checkpoint is better, and worse, than each other one."""
    own = next((index for index, name in enumerate(regrets.optimizers) if name in CHECKPOINT), None)
    if own is None:
        return None
    others = [name for index, name in enumerate(regrets.optimizers) if index != own]
    counts = wins(regrets.mean(at), own)
    rows = [[label(name), str(better), str(worse)] for name, (better, worse) in zip(others, counts, strict=True)]
    title = f"{label(regrets.optimizers[own])}: problems on which it is better and worse after {at} trials"
    return Table(title, ["against", "better", "worse"], rows)


# --- Pictures ---


def curves_picture(of_family: Mapping[str, Regrets], first_trials: int) -> "Figure":
    """Mean regret by trial, a panel per family."""
    figure, axes = new_figure(1, len(of_family), figsize=(4.6 * len(of_family), 3.8), squeeze=False)
    for panel, (family, regrets) in zip(axes[0], of_family.items(), strict=True):
        curves = np.maximum(regrets.values.mean(axis=(0, 2)), 1e-4)
        for name, curve, (color, style, width) in zip(
            regrets.optimizers, curves, _styles(regrets.optimizers), strict=True
        ):
            panel.plot(
                np.arange(1, len(curve) + 1), curve, color=color, linestyle=style, linewidth=width, label=label(name)
            )
        panel.axvline(first_trials, color=INK, linewidth=0.6, linestyle=":")
        panel.set(yscale="log", xlabel="trial", title=f"{family} ({len(regrets.problems)} problems)")
        label_log_axis(panel.yaxis, curves.min(), curves.max())
    axes[0][0].set_ylabel("mean normalized regret")
    axes[0][0].legend(frameon=False, fontsize=7)
    return figure


def reached_picture(regrets: Regrets) -> "Figure":
    """Share of (problem, seed, target) that are reached, by trial, and the distribution of the final regrets."""
    figure, (left, right) = new_figure(1, 2, figsize=(10.5, 3.8))
    last = regrets.values[..., -1]
    grid = np.logspace(-4, 0.3, 120)
    for index, (name, reached, (color, style, width)) in enumerate(
        zip(regrets.optimizers, regrets.reached(), _styles(regrets.optimizers), strict=True)
    ):
        options = {"color": color, "linestyle": style, "linewidth": width}
        left.plot(np.arange(1, len(reached) + 1), reached, label=label(name), **options)
        right.plot(grid, [(last[:, index] <= x).mean() for x in grid], **options)
    left.set(xlabel="trial", ylabel="share of targets reached", title="targets: regrets from 1 to 0.0001")
    right.set(xscale="log", xlabel="normalized regret x", ylabel="share of runs with at most x", ylim=(0, 1))
    right.set_title("after the last trial")
    left.legend(frameon=False, fontsize=7)
    return figure


def ranks_picture(regrets: Regrets, at: int) -> "tuple[Figure, Significance] | None":
    """Average ranks on a line; a bar joins optimizers whose difference is not significant."""
    ranks = regrets.ranks(at)
    found = significance(ranks)
    if found is None:
        return None
    means = ranks.mean(axis=0)
    order = np.argsort(means, kind="stable")
    count = len(means)
    half = (count + 1) // 2
    height = half + 1.2 + 0.35 * len(found.cliques)
    figure, axes = new_figure(figsize=(8.5, 0.42 * height + 0.6))
    axes.axis("off")
    axes.set(xlim=(0.2 - 0.22 * count, count + 0.8 + 0.22 * count), ylim=(-height, 1.1))
    axes.plot([1, count], [0, 0], color=INK, linewidth=1)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, 0.15], color=INK, linewidth=1)
        axes.text(tick, 0.25, str(tick), ha="center", va="bottom", fontsize=8)
    axes.plot([1, 1 + found.critical], [0.95, 0.95], color=INK, linewidth=2)
    axes.text(1 + found.critical + 0.05, 0.95, f"critical difference {found.critical:.2f}", va="center", fontsize=8)
    for place, index in enumerate(order):
        name, mean = regrets.optimizers[index], means[index]
        left = place < half
        y = -0.35 * len(found.cliques) - 0.8 - (place if left else count - 1 - place)
        edge = 0.7 if left else count + 0.3
        color = MODEL_COLOR if name in CHECKPOINT else INK
        axes.plot([mean, mean, edge], [0, y, y], color=color, linewidth=0.9)
        text = f"{label(name)}  {mean:.2f}" if left else f"{mean:.2f}  {label(name)}"
        axes.text(
            edge + (-0.05 if left else 0.05),
            y,
            text,
            ha="right" if left else "left",
            va="center",
            fontsize=8,
            color=color,
        )
    for level, clique in enumerate(found.cliques):
        y = -0.3 - 0.35 * level
        axes.plot([means[clique[0]] - 0.04, means[clique[-1]] + 0.04], [y, y], color=INK, linewidth=3)
    return figure, found


# --- The page ---


def write_report(
    regrets: Regrets,
    of_family: Mapping[str, Regrets],
    partial: Sequence[tuple[str, Regrets]],
    at: Sequence[int],
    first_trials: int,
    seconds: Mapping[str, float],
    trapped: Mapping[str, Sequence[str]],
    facts: Sequence[str],
    remarks: Sequence[str],
    report: Report,
) -> None:
    """Adds everything to the report and writes its page.

    Args:
      regrets: regrets on the problems on which all optimizers ran.
      of_family: family -> these regrets.
      partial: optimizers that ran only on some problems, with the regrets of all optimizers on these problems.
      at: numbers of trials in tables.
      first_trials: number of shared first trials.
      seconds: optimizer -> median time of a suggestion.
      trapped: optimizer of the checkpoint -> where it was worse than random search.
      facts, remarks: paragraphs.
      report: an empty report.
    """
    for fact in facts:
        report.paragraph(fact)
    report.paragraph(
        f"All optimizers get the same first {first_trials} random trials of each problem and seed. Regret is that of "
        "the best trial so far, without noise: 0 at the best value that is known or was found by any of them, 1 at the "
        "median of random points."
    )
    for remark in remarks:
        report.paragraph(f"Remark: {remark}")
    report.heading("All problems")
    report.table(regret_table(regrets, at, "All problems", seconds))
    report.picture("curves", curves_picture(of_family, first_trials), "Mean normalized regret by trial.")
    report.picture(
        "reached", reached_picture(regrets), "Share of (problem, seed, target) reached, and of runs below a regret."
    )
    if (drawn := ranks_picture(regrets, at[-1])) is not None:
        figure, found = drawn
        report.picture(
            "ranks",
            figure,
            f"Average ranks after {at[-1]} trials. Friedman's test that all are equal: p = {found.p:.2g}. Optimizers "
            "joined by a bar do not differ significantly (Nemenyi, 5 %).",
        )
    if (table := wins_table(regrets, at[-1])) is not None:
        report.table(table)
    report.heading("By family")
    report.table(family_table(of_family, at))
    for name, where in trapped.items():
        text = (
            "on no family worse than random search" if not where else "worse than random search on " + "; ".join(where)
        )
        report.paragraph(f"{label(name)}: {text}.")
    for name, each in partial:
        report.heading(f"On the problems of {label(name)}")
        report.table(
            regret_table(each, [t for t in at if t <= each.values.shape[-1]], f"Problems that {label(name)} ran on")
        )
    report.heading("By problem")
    report.table(problem_table(regrets, at[-1]))
    report.write()


assert set(LABELS) == {*CHECKPOINT, *BASELINES}
