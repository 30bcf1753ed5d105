"""Studies of the synthetic prior beside measured tasks: what is alike, and what the prior lacks.

    python benchmarks/prior_and_real.py --tables FOLDER --yahpo-dir FOLDER --logs train.jsonl.gz
        [--priors default measured] [--studies 768] [--out docs/images/prior_and_real.png]

Draws a picture and prints a table.  Compared are the traits of `optformer.data.corpus.traits`, on a hundred trials a
task at most.  Each input is optional: measured tables (a source per first part of their names, as in
`kernel/convolution/A100`; rows at random), YAHPO's training instances (configurations at random, one metric each), and
logged studies of any format (five per repository or space).  The prior's trials are drawn at random, too.

The last columns of the table, and the panels' titles: how far the prior is from the measured tasks, as the largest
difference between the distribution functions of a trait (Kolmogorov and Smirnov; 0 alike, 1 apart).  Every source
counts the same, whatever its size.  Trials of logs were chosen by optimizers, so that logs count in what does not
depend on it: spaces and failures.
"""

import argparse
import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from vizier import pyvizier as vz

from optformer.data.corpus.building import study_group
from optformer.data.corpus.traits import PAIRS, TRIALS, Task, Traits, measure
from optformer.data.prior import PriorConfig
from optformer.data.prior.run import run
from optformer.data.problems import tables
from optformer.data.problems.registry import Settings, problems
from optformer.data.sources import Quarantined, read
from optformer.inference.candidates import SlotSpace, configurations, from_unit_cube
from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape
from optformer.serialization.study import EncodedStudy

PRIORS = {"default": PriorConfig(), "measured": PriorConfig.measured()}
PER_GROUP = 5
DRAWN = TRIALS + 44
"""Trials of a study of the prior, some of which repeat others."""
TABLE_ROWS = 400
LONGEST_LOG = 2000
KINDS = ("continuous", "integer", "discrete", "categorical")
LEVELS = ((2, 2), (3, 3), (4, 5), (6, 10), (11, 32), (33, 999), (1000, 1000))

INK, FAINT = "#222222", "#dddddd"
PRIOR_COLOURS = ("#9fb4d4", "#2060c0", "#102a60")
REAL_COLOURS = ("#b3491a", "#d98324", "#8a5a9e", "#3d8b5a", "#8c8c8c", "#c23b6b")


class Source(NamedTuple):
    """Tasks of one origin; `made_up` by the prior, `chosen` if an optimizer chose their trials."""

    name: str
    tasks: list[Task]
    made_up: bool = False
    chosen: bool = False


# --- Tasks ---


def of_prior(name: str, studies: int, batch: int = 64) -> Source:
    """Random trials, a seventh of them repeats of earlier ones: the tasks of the prior, without its behaviours."""
    config = dataclasses.replace(
        PRIORS[name],
        behaviours=(("random_search", 1.0),),
        center_rate=0.0,
        default_rate=0.0,
        stopped_rate=0.0,
        rerun_rate=1.0,
    )
    shape = BatchShape(DRAWN, 16, 64, 8)

    @jax.jit
    def drawn(key: jax.Array) -> Any:
        study, trials = run(jax.random.split(key, batch), config, shape)
        return study.space, trials

    tasks = []
    for index in range(-(-studies // batch)):
        space, trials = jax.tree.map(np.asarray, drawn(jax.random.fold_in(jax.random.key(7), index)))
        q = np.where(trials.on, trials.q, tokens.INACTIVE)
        v = np.where(trials.infeasible, np.nan, trials.y.astype(float))
        for row in range(batch):
            used = space.kinds[row] > tokens.NO_SLOT
            tasks.append(
                Task(space.kinds[row][used], space.levels[row][used], q[row][:, used], v[row], trials.infeasible[row])
            )
    return Source(f"prior, {name}", tasks[:studies], made_up=True)


def of_tables(folder: Path, rng: np.random.Generator) -> Iterator[Source]:
    """Rows at random; a source per first part of the names."""
    found: dict[str, list[Task]] = {}
    for file in tables.files(folder):
        for table in () if tables.held_out(file) else tables.load_tables(file).values():
            trials = []
            for row in rng.permutation(len(table.rows))[:TABLE_ROWS]:
                trial, value = vz.Trial(id=len(trials) + 1, parameters=table.rows[row]), table.values[row]
                failed = None if np.isfinite(value) else "failed"
                metrics = {} if failed else {table.metric.name: float(value)}
                trials.append(trial.complete(vz.Measurement(metrics=metrics), infeasibility_reason=failed))
            study = EncodedStudy(table.problem, trials)
            found.setdefault(table.name.split("/")[0], []).append(Task.of(study))
    for name, tasks in found.items():
        yield Source(f"tables, {name}", tasks)


def of_yahpo(folder: Path, rng: np.random.Generator) -> Source:
    """Training instances, one metric each."""
    tasks = []
    for index, problem in enumerate(problems("yahpo", Settings(yahpo_dir=str(folder)))):
        experimenter = problem.draw(index).experimenter
        schema = EncodedStudy(experimenter.problem_statement(), []).schema
        space = SlotSpace.of(schema)
        rows = configurations(from_unit_cube(rng.random((TRIALS, space.slots)), space), space)
        trials = [vz.Trial(id=k + 1, parameters=schema.decode_parameters(row)) for k, row in enumerate(rows)]
        experimenter.evaluate(trials)
        tasks.append(Task.of(EncodedStudy(schema.problem, trials)))
    return Source("YAHPO", tasks)


def of_logs(path: Path) -> Source:
    """Studies with a value, not more than `PER_GROUP` of a group."""
    tasks, seen = [], collections.Counter[str]()
    for record in read(path):
        if isinstance(record, Quarantined):
            continue
        study = EncodedStudy(record.problem, record.trials[:LONGEST_LOG])
        group = study_group(study.schema.problem, study.schema)
        task = Task.of(study)
        if seen[group] < PER_GROUP and np.isfinite(task.v).any():
            seen[group] += 1
            tasks.append(task)
    return Source(f"logs, {path.name.split('.')[0]}", tasks, chosen=True)


# --- Comparison ---


class Panel(NamedTuple):
    """A trait: a number per task, as a function of the task and its traits; `on` are the ends of its axis."""

    title: str
    of: Any
    on: tuple[float, float]
    log: bool = False
    of_space: bool = False


PANELS = (
    Panel("parameters", lambda task, _: len(task.kinds), (1, 40), log=True, of_space=True),
    Panel("trials whose value is not new", lambda _, t: 1.0 - t.distinct, (0, 0.5)),
    Panel("closest trials with equal values", lambda _, t: t.equal_neighbours, (0, 0.5)),
    Panel("skew (few good: right)", lambda _, t: t.skew, (-1, 1)),
    Panel("tails (normal: .12)", lambda _, t: t.tails, (-0.25, 1)),
    Panel("best - median, of 10-90 % range", lambda _, t: t.lead, (0.02, 5), log=True),
    Panel("variance by main effects", lambda _, t: t.main_effects, (0, 1)),
    Panel("parameters with a main effect", lambda _, t: t.relevant, (0, 8)),
    Panel("share of the strongest of them", lambda _, t: t.strongest, (0, 1)),
    Panel("neighbouring values alike", lambda _, t: t.neighbouring, (-0.5, 1.2)),
    Panel("correlation of the closest trials", lambda _, t: t.correlations[0], (-0.2, 1)),
    Panel("failures, where there are any", lambda _, t: t.failed or np.nan, (0, 0.6), of_space=True),
    Panel("failures together (chance: .5)", lambda _, t: t.failed_together, (0.3, 1), of_space=True),
)
SHARES = (
    ("all parameters of few values", lambda task, _: float((task.levels <= 100).all())),
    ("with failures", lambda _, t: float(t.failed > 0)),
    ("with ties", lambda _, t: float(t.distinct < 0.95) if t.distinct == t.distinct else np.nan),
    ("with repeats that agree, of those with any", lambda _, t: float(t.repeats_differ == 0) if t.repeats else np.nan),
)


def finite(values: list[float]) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]


def apart(sample: np.ndarray, samples: list[np.ndarray]) -> float:
    """Largest difference between the distribution functions of a sample and of a mixture of others in equal shares."""
    samples = [each for each in samples if len(each)]
    if not len(sample) or not samples:
        return float("nan")
    at = np.unique(np.concatenate([sample, *samples]))

    def below(values: np.ndarray) -> np.ndarray:
        return np.searchsorted(np.sort(values), at, side="right") / len(values)

    return float(np.abs(below(sample) - np.mean([below(each) for each in samples], axis=0)).max())


Measured = list[tuple[Source, list[Traits]]]


def values_of(measured: Measured, of: Any) -> list[np.ndarray]:
    return [
        finite([of(task, each) for task, each in zip(source.tasks, traits, strict=True)]) for source, traits in measured
    ]


def gaps(measured: Measured, panel: Panel) -> list[float]:
    """Of each prior to the measured tasks."""
    values = values_of(measured, panel.of)
    real = [
        each
        for (source, _), each in zip(measured, values, strict=True)
        if not source.made_up and (panel.of_space or not source.chosen)
    ]
    return [apart(each, real) for (source, _), each in zip(measured, values, strict=True) if source.made_up]


def report(measured: Measured) -> None:
    """The table: medians with the 10 and 90 % quantiles, shares, and distances."""
    names = [source.name for source, _ in measured]
    priors = [source.name for source, _ in measured if source.made_up]
    print("| trait | " + " | ".join(names) + " | " + " | ".join(f"{name}: apart" for name in priors) + " |")
    print("|---" * (1 + len(names) + len(priors)) + "|")
    print("| tasks | " + " | ".join(str(len(source.tasks)) for source, _ in measured) + " |" + " |" * len(priors))
    distances = []
    for panel in PANELS:
        cells = []
        for values in values_of(measured, panel.of):
            low, middle, high = np.quantile(values, [0.1, 0.5, 0.9]) if len(values) else [np.nan] * 3
            cells.append(f"{middle:.2f} ({low:.2f} - {high:.2f})" if len(values) else "-")
        distances.append(gaps(measured, panel))
        print(f"| {panel.title} | " + " | ".join(cells + [f"{gap:.2f}" for gap in distances[-1]]) + " |")
    for title, of in SHARES:
        shares = [f"{values.mean():.0%}" if len(values) else "-" for values in values_of(measured, of)]
        print(f"| {title} | " + " | ".join(shares) + " |" + " |" * len(priors))
    mean = np.nanmean(np.array(distances), axis=0) if priors else []
    print("| mean | " + " | ".join(" " for _ in names) + " | " + " | ".join(f"{gap:.2f}" for gap in mean) + " |")


# --- Picture ---


def draw(measured: Measured, out: Path) -> None:
    """A panel per trait, a row per source."""
    sources = [source for source, _ in measured]
    priors, reals = iter(PRIOR_COLOURS), iter(REAL_COLOURS)
    colours = [next(priors if source.made_up else reals) for source in sources]
    figure, axes = plt.subplots(4, 4, figsize=(15.5, 2.5 + 1.7 * len(sources)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06, wspace=0.03)
    panels = iter(axes.ravel())
    for panel in PANELS[:1]:
        strips(next(panels), panel, measured, colours)
    bars(next(panels), "kinds of parameters", measured, [(kind, kind) for kind in range(1, 5)], KINDS, "kinds")
    names = [f"{low}" if low == high else f"{low}-{high}" for low, high in LEVELS]
    bars(next(panels), "values of a parameter", measured, LEVELS, names, "levels")
    for panel in PANELS[1:11]:
        strips(next(panels), panel, measured, colours)
    lines(next(panels), measured, colours)
    for panel in PANELS[11:]:
        strips(next(panels), panel, measured, colours)
    for row in axes:
        row[0].set_yticks(range(len(sources)), [f"{source.name}" for source in sources])
        for label, colour in zip(row[0].get_yticklabels(), colours, strict=True):
            label.set_color(colour)
            label.set_fontweight("bold")
    figure.suptitle("Studies of the prior and measured tasks", fontsize=14, fontweight="bold")
    figure.savefig(out, dpi=80)
    plt.close(figure)


def strips(axis: Axes, panel: Panel, measured: Measured, colours: list[str]) -> None:
    """Per source the median (dot), the middle half (bar) and the middle 80 % (line); hollow: trials were chosen."""
    distances = gaps(measured, panel)
    change = " \u2192 ".join(f"{gap:.2f}".lstrip("0") for gap in distances if np.isfinite(gap))
    axis.set_title(f"{panel.title}" + (f"   [{change}]" if change else ""), fontsize=10, loc="left")
    for row, ((source, _), values) in enumerate(zip(measured, values_of(measured, panel.of), strict=True)):
        if not len(values):
            axis.text(0.5, row, "none", transform=axis.get_yaxis_transform(), color="#aaaaaa", ha="center", va="center")
            continue
        values = np.clip(values, *panel.on)
        lowest, low, middle, high, highest = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9])
        hollow = source.chosen and not panel.of_space
        axis.plot([lowest, highest], [row, row], color=colours[row], linewidth=1.5, alpha=0.5 if hollow else 1.0)
        axis.plot([low, high], [row, row], color=colours[row], linewidth=7, alpha=0.35, solid_capstyle="butt")
        axis.plot(
            middle, row, "o", markersize=7, markeredgecolor=colours[row], color="white" if hollow else colours[row]
        )
    if panel.log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlim(*panel.on)
    tidy(axis, measured)


def bars(axis: Axes, title: str, measured: Measured, classes: Any, names: Any, field: str) -> None:
    """Shares of the parameters of each source by class."""
    shades = plt.get_cmap("viridis")(np.linspace(0.95, 0.1, len(classes)))
    for row, (source, _) in enumerate(measured):
        values = np.concatenate([getattr(task, field) for task in source.tasks])
        left = 0.0
        for shade, name, (low, high) in zip(shades, names, classes, strict=True):
            share = float(((values >= low) & (values <= high)).mean())
            axis.barh(row, share, left=left, color=shade, height=0.66)
            if share > 0.035 * (1 + len(name) / 2.5):
                dark = float(shade[:3] @ [0.3, 0.59, 0.11]) < 0.5
                axis.text(left + share / 2, row, name, ha="center", va="center", fontsize=7, color="w" if dark else INK)
            left += share
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlim(0, 1)
    tidy(axis, measured)
    axis.grid(visible=False)


def lines(axis: Axes, measured: Measured, colours: list[str]) -> None:
    """Median correlation by distance, without the sources whose trials were chosen."""
    at = np.arange(len(PAIRS) - 1)
    for (source, traits), colour in zip(measured, colours, strict=True):
        if source.chosen:
            continue
        curves = np.array([each.correlations for each in traits])
        style = {"linewidth": 3.0} if source.made_up else {"linewidth": 1.5, "marker": "o", "markersize": 3}
        axis.plot(at, np.nanmedian(curves, axis=0), color=colour, **style)
    axis.axhline(0.0, color=FAINT, zorder=0)
    axis.set_xticks(at, [f"{share:.0%}" for share in PAIRS[1:]])
    axis.set_title("correlation by closeness (... % of pairs)", fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def tidy(axis: Axes, measured: Measured) -> None:
    axis.set_ylim(len(measured) - 0.5, -0.5)
    axis.set_yticks(range(len(measured)), [""] * len(measured))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=FAINT, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    made_up = sum(source.made_up for source, _ in measured)
    if 0 < made_up < len(measured):
        axis.axhline(made_up - 0.5, color=INK, linewidth=0.6, linestyle=":")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), choices=list(PRIORS))
    parser.add_argument("--studies", type=int, default=768, help="of each prior")
    parser.add_argument("--tables", type=Path, metavar="FOLDER")
    parser.add_argument("--yahpo-dir", type=Path, metavar="FOLDER")
    parser.add_argument("--logs", type=Path, nargs="*", default=[], metavar="PATH")
    parser.add_argument("--out", type=Path, default=Path("docs/images/prior_and_real.png"))
    arguments = parser.parse_args()
    sources = [of_prior(name, arguments.studies) for name in arguments.priors]
    sources += of_tables(arguments.tables, np.random.default_rng(1)) if arguments.tables else ()
    sources += [of_yahpo(arguments.yahpo_dir, np.random.default_rng(2))] if arguments.yahpo_dir else []
    sources += [of_logs(path) for path in arguments.logs]
    measured = []
    for source in sources:
        rng = np.random.default_rng(0)
        measured.append((source, [measure(task, rng) for task in source.tasks]))
    report(measured)
    draw(measured, arguments.out)


if __name__ == "__main__":
    main()
