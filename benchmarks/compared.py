"""What benchmarks of several engines on the same problems share: runs that are kept in a file, and a table of them."""

import argparse
import concurrent.futures
import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optformer.data.generation.executors import end_with_parent, one_thread_each
from optformer.evaluate.optimization import real_report, real_suites, scores
from optformer.evaluate.optimization.problems import Scale
from optformer.evaluate.optimization.real_suites import RealProblem
from optformer.evaluate.optimization.tuning import is_flat, maximizes, normalized_regret

Row = dict[str, Any]


def suite_parser(description: str | None, out: str, more: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The options of a benchmark that runs on a suite of real problems.

    Args:
      description: docstring of the benchmark.
      out: default name of the file of its runs.
      more: suites of its own, which need no folders.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--suite", default="real-train", choices=(*real_suites.SUITES, *more))
    parser.add_argument("--yahpo-dir", required=not more)
    parser.add_argument("--tables", required=not more)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--processes", type=int, default=2)
    return parser


def kept_runs(
    path: Path, problems: Iterable[Any], run_all: Callable[..., list[Row]], processes: int, *arguments: object
) -> list[Row]:
    """The rows of a file, and those that are missing, which are added to it.

    Args:
      path: of JSON lines, each with `problem` and `engine`; it need not exist.
      problems: each is done in a process of its own.
      run_all: called with a problem, `problem | engine` of all rows that there are, and the arguments.
    """
    rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {f"{row['problem']} | {row['engine']}" for row in rows}
    context = multiprocessing.get_context("spawn")
    with (
        one_thread_each(),
        concurrent.futures.ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool,
    ):
        waiting = [pool.submit(run_all, each, done, *arguments) for each in problems]
        for finished in concurrent.futures.as_completed(waiting):
            new = finished.result()
            rows += new
            with path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
    return rows


def of_problems(rows: Iterable[Row], engines: Sequence[str]) -> list[dict[str, Row]]:
    """By problem the row of each engine; problems that lack one are left out."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["problem"], {})[row["engine"]] = row
    return [runs for runs in found.values() if set(engines) <= set(runs)]


def scored(problem: RealProblem, run: Callable[[str], dict[str, Any]], engines: Iterable[str]) -> list[Row]:
    """A row of each engine with the scale of the problem; none if most random trials fail.

    Args:
      problem: of the suite.
      run: engine -> further fields of the row, such as `values`.
      engines: whose rows are missing.
    """
    try:
        scale = problem.scale()
    except ValueError:
        return []
    maximize = maximizes(problem.experimenter(next(iter(problem.seeds))).problem_statement())
    common = {"problem": problem.name, "family": problem.family, "maximize": maximize}
    common["scale"] = [scale.reference, scale.best]
    return [{**common, "engine": engine, **run(engine)} for engine in engines]


def regret_figures(
    rows: Iterable[Row], engines: Sequence[str], at: Sequence[int], family: str | None
) -> dict[str, Any]:
    """Mean regret after some numbers of trials: 0 at the best value known, 1 at the reference of the scale, at most 2.

    Args:
      rows: of `scored`; `values` has the values of one run, or of several, NaN where a trial failed.
      engines: the first is what the others are compared with.
      at: numbers of trials.
      family: of problems; None for all.

    Returns:
      As `figures_of`; empty if no problem has runs of all engines.
    """
    regrets = []
    for of in of_problems([row for row in rows if family in (None, row["family"])], engines):
        first = of[engines[0]]
        sign, scale = (1.0 if first["maximize"] else -1.0), Scale(*first["scale"])
        values = sign * np.array([np.atleast_2d(np.array(of[engine]["values"], float)) for engine in engines])
        best = np.fmax(sign * scale.best, np.nanmax(values))
        if is_flat(float(best), sign * scale.reference):
            continue
        regret = normalized_regret(np.fmax.accumulate(values, axis=-1), float(best), sign * scale.reference)
        regret = np.minimum(np.nan_to_num(regret, nan=real_report.WORST), real_report.WORST)
        regrets.append(regret.mean(axis=1)[:, [trials - 1 for trials in at]])
    return figures_of(engines, [f"after {trials}" for trials in at], np.stack(regrets)) if regrets else {}


def figures_of(
    engines: Sequence[str],
    columns: Sequence[str],
    regrets: np.ndarray,
    more: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """What a table of a document needs, for `documents.py`.

    Args:
      columns: their heads.
      regrets: float64 [problem, engine, column].
      more: further columns, a figure of each engine.
    """
    compared = [scores.paired(regrets[:, :, column], 0) for column in range(regrets.shape[2])]
    return {
        "problems": len(regrets),
        "engines": list(engines),
        "columns": list(columns),
        "mean": regrets.mean(axis=0).T.tolist(),
        "more_than_first": [difference.tolist() for difference, _ in compared],
        "error": [error.tolist() for _, error in compared],
        "more": {head: list(values) for head, values in (more or {}).items()},
    }


def print_table(title: str, figures: Mapping[str, Any]) -> None:
    """Mean regrets as markdown; in brackets how much more than the first engine, with the standard error."""
    heads = [*figures["columns"], *figures["more"]]
    print(f"\n{title}: {figures['problems']} problems\n")
    print("| engine | " + " | ".join(heads) + " |")
    print("|---|" + "--:|" * len(heads))
    for index, engine in enumerate(figures["engines"]):
        cells = []
        for mean, more, error in zip(figures["mean"], figures["more_than_first"], figures["error"], strict=True):
            cell = f"{mean[index]:.3f}"
            cells.append(cell if not index else f"{cell} ({more[index]:+.3f} ± {error[index]:.3f})")
        cells += [f"{values[index]:.1f}" for values in figures["more"].values()]
        print(f"| {engine} | " + " | ".join(cells) + " |")


def report_regrets(
    rows: Sequence[Row], engines: Sequence[str], at: Sequence[int], families: Sequence[str]
) -> dict[str, Any]:
    """Prints the tables of all problems and of each family; returns them by name."""
    tables = {name or "all": regret_figures(rows, engines, at, name) for name in (None, *families)}
    for name, figures in tables.items():
        if figures:
            print_table(name, figures)
    return tables
