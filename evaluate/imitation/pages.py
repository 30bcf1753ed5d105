"""The tables, pictures and page of `optformer evaluate imitation`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from optformer.evaluate.imitation.draws import Draws
from optformer.evaluate.imitation.likelihood import NONE, Identification
from optformer.evaluate.imitation.nature import COUNTS, Count
from optformer.evaluate.imitation.trajectories import Progress
from optformer.evaluate.report import BASELINE_COLORS, INK, MODEL_COLOR, new_figure
from optformer.page import Report, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEACHER_COLOR: Final = BASELINE_COLORS[0]


def name_of(teacher: str) -> str:
    return teacher.replace("_", " ")


# --- Tables ---


def likelihood_table(found: Identification) -> Table:
    """Log-likelihood of each teacher's trials under each name."""
    columns = [*found.names, NONE]
    rows = [
        [name_of(teacher), *(f"{found.likelihoods[teacher][name].over_uniform:+.3f}" for name in columns)]
        for teacher in found.names
    ]
    title = (
        "Log-likelihood of a parameter over a uniform policy, nats, by the name that the model gets "
        f"({found.trajectories} trajectories each)"
    )
    return Table(title, ["trials of", *(f"named {name_of(name)}" for name in columns)], rows)


def identification_table(found: Identification) -> Table:
    """Shares of trajectories that are most likely under each name."""
    rows = [
        [name_of(teacher), *(f"{100 * share:.0f} %" if share else "" for share in row)]
        for teacher, row in zip(found.names, found.matrix, strict=True)
    ]
    title = f"Teacher identified by the model: {100 * found.accuracy:.0f} % right"
    return Table(title, ["trials of", *map(name_of, found.names)], rows)


def progress_table(progress: Mapping[str, Sequence[Progress]]) -> Table:
    """Best values so far of the model and of each teacher."""
    rows = []
    for teacher, each in progress.items():
        for p in each:
            rows.append(
                [
                    name_of(teacher),
                    str(p.trials),
                    f"{p.teacher:.3f} ± {p.teacher_error:.3f}",
                    f"{p.model:.3f} ± {p.model_error:.3f}",
                    "yes" if p.within else "no",
                    f"{p.paired:+.3f} ± {p.paired_error:.3f}",
                    f"{p.ks:.2f}",
                    f"{p.effect:+.2f}",
                ]
            )
    headings = ["teacher", "trials", "teacher's best", "model's best", "within 2 s.e.", "paired", "KS p", "Cohen's d"]
    return Table(
        "Best so far, 0 at the median of random points, 1 at the best known (means ± standard errors)", headings, rows
    )


def nature_table(nature: Mapping[str, Mapping[str, Count]]) -> Table:
    """Statistics of the teacher's trajectories and of the model's."""
    rows = []
    for teacher, counts in nature.items():
        cells = [f"{c.teacher:.2f} / {c.model:.2f}" if (c := counts.get(name)) else "" for name in COUNTS]
        rows.append([name_of(teacher), *cells])
    return Table("Nature: teacher / model", ["teacher", *COUNTS], rows)


def divergence_table(draws: Mapping[str, Sequence[Draws]]) -> Table:
    """Kullback-Leibler divergences of sampled next trials."""
    rows = []
    for teacher, each in draws.items():
        own = np.mean([d.divergence() for d in each])
        floor = np.mean([d.floor() for d in each])
        uniform = np.mean([_uniform(d).divergence() for d in each])
        rows.append([name_of(teacher), f"{own:.2f}", f"{uniform:.2f}", f"{floor:.2f}"])
    return Table(
        "Samples of the next trial: divergence from the teacher's histogram, nats per parameter",
        ["teacher", "of the model", "of uniform draws", "of the teacher itself"],
        rows,
    )


def _uniform(draws: Draws) -> Draws:
    rows = np.random.default_rng(0).integers(draws.levels[None], size=draws.model.shape)
    return Draws(draws.study, draws.teacher, rows.astype(np.int32), draws.levels)


# --- Pictures ---


def density_picture(teachers: Sequence[str], draws: Sequence[Draws], densities: Sequence[np.ndarray]) -> "Figure":
    """The model's density of the next trial on a two-parameter problem, and the teacher's draws of it."""
    columns = min(4, len(teachers))
    lines = -(-len(teachers) // columns)
    figure, axes = new_figure(lines, columns, figsize=(3.1 * columns, 3.2 * lines), squeeze=False)
    for panel in axes.flat[len(teachers) :]:
        panel.axis("off")
    for panel, teacher, drawn, density in zip(axes.flat, teachers, draws, densities, strict=False):
        shown = np.log10(np.maximum(density, 1e-3))
        panel.imshow(shown, origin="lower", extent=(0, 1, 0, 1), cmap="Blues", vmin=-1.5, vmax=3, aspect="auto")
        history = [
            [t.parameters.get_value(p.name) for p in drawn.study.problem.search_space.parameters]
            for t in drawn.study.trials
        ]
        bounds = np.array([p.bounds for p in drawn.study.problem.search_space.parameters], float)
        unit = (np.array(history) - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0])
        panel.plot(unit[:, 0], unit[:, 1], ".", color="#999999", markersize=3)
        points = drawn.teacher / (drawn.levels - 1)
        panel.plot(points[:, 0], points[:, 1], "+", color=_TEACHER_COLOR, markersize=5, alpha=0.7)
        panel.set(title=name_of(teacher), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[], yticks=[])
        panel.title.set_fontsize(9)
    return figure


def curves_picture(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> "Figure":
    """Best so far by trial: mean and standard deviation over problems and seeds, teacher and model."""
    columns = min(4, len(curves))
    lines = -(-len(curves) // columns)
    figure, axes = new_figure(lines, columns, figsize=(3.3 * columns, 2.8 * lines), squeeze=False, sharey=True)
    for panel in axes.flat[len(curves) :]:
        panel.axis("off")
    for panel, (teacher, both) in zip(axes.flat, curves.items(), strict=False):
        for values, color, label in zip(both, (_TEACHER_COLOR, MODEL_COLOR), ("teacher", "model"), strict=True):
            flat = values.reshape(-1, values.shape[-1])
            mean, deviation = flat.mean(axis=0), flat.std(axis=0)
            trial = np.arange(1, len(mean) + 1)
            panel.plot(trial, mean, color=color, label=label)
            panel.fill_between(trial, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)
        panel.set_title(name_of(teacher), fontsize=9)
        panel.set(xlabel="trial", ylim=(-0.5, 1.05))
    axes[0][0].legend(frameon=False, fontsize=8)
    return figure


def scatter_picture(progress: Mapping[str, Sequence[Progress]], per_problem: Mapping[str, np.ndarray]) -> "Figure":
    """Final best value of the model against the teacher's: a point per problem, and means with standard errors."""
    figure, axes = new_figure(figsize=(5.2, 4.8))
    colors = (MODEL_COLOR, *BASELINE_COLORS)
    for index, (teacher, points) in enumerate(per_problem.items()):
        color = colors[index % len(colors)]
        axes.plot(points[:, 0], points[:, 1], ".", color=color, alpha=0.35, markersize=5)
        last = progress[teacher][-1]
        axes.errorbar(
            last.teacher,
            last.model,
            xerr=last.teacher_error,
            yerr=last.model_error,
            fmt="o",
            color=color,
            label=name_of(teacher),
        )
    axes.plot([-0.2, 1.05], [-0.2, 1.05], color=INK, linewidth=0.6)
    axes.set(xlabel="teacher's best after the last trial", ylabel="model's best", xlim=(0, 1.05), ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=7)
    return figure


# --- The page ---


def write_report(
    found: Identification,
    progress: Mapping[str, Sequence[Progress]],
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    nature: Mapping[str, Mapping[str, Count]],
    draws: Mapping[str, Sequence[Draws]],
    pictured: tuple[Sequence[str], Sequence[Draws], Sequence[np.ndarray]],
    facts: Sequence[str],
    remarks: Sequence[str],
    report: Report,
) -> None:
    """Adds everything to the report and writes its page.

    Args:
      found: identification of the teachers' trajectories.
      progress: teacher -> progress at several numbers of trials.
      curves: teacher -> best values so far [P, S, T] of itself and of the model.
      nature: teacher -> statistics.
      draws: teacher -> samples after some histories.
      pictured: teachers, with samples and densities after a history of a two-parameter problem.
      facts, remarks: paragraphs.
      report: an empty report.
    """
    for fact in [*facts, *(f"Remark: {remark}" for remark in remarks)]:
        report.paragraph(fact)
    report.heading("Likelihood")
    report.table(likelihood_table(found))
    report.table(identification_table(found))
    report.heading("The next trial")
    report.table(divergence_table(draws))
    history = len(pictured[1][0].study.trials)
    report.picture(
        "densities",
        density_picture(*pictured),
        f"The next trial after {history} of each teacher on a two-parameter function: the model's density (blue, "
        "logarithmic), the teacher's own draws (+), the history (grey).",
    )
    report.heading("Roll-outs")
    report.table(progress_table(progress))
    report.picture(
        "curves", curves_picture(curves), "Best so far: mean and standard deviation over problems and seeds."
    )
    points = {
        teacher: np.stack([own[..., -1].mean(axis=1), model[..., -1].mean(axis=1)], axis=1)
        for teacher, (own, model) in curves.items()
    }
    report.picture("scatter", scatter_picture(progress, points), "Best after the last trial, a point per problem.")
    report.heading("Nature")
    report.paragraph(
        "Shares of trials that count through a grid, that differ from the best one before in at most one parameter, or "
        "from one of the 25 before; distance to the best trial relative to random trials, second half; "
        "Kolmogorov-Smirnov distance of the parameters from uniform ones."
    )
    report.table(nature_table(nature))
    report.write()
