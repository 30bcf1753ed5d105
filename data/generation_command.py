"""`optformer corpus generate`: its arguments, and what it prints.

Mistakes are raised as ValueError or OSError; the command line turns them into one line on stderr and exit code 2.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from optformer.data.generation import Summary

PAPER: Final = "paper"
"""Stands for the seven teachers of the 2022 paper."""

_SECONDS_BETWEEN_LINES: Final = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; imports nothing, so that `--help` is quick."""
    parser.add_argument("--out", required=True, metavar="FILE", help="the corpus, JSON lines")
    parser.add_argument("--problems", default="bbob", help="bbob or bbob-held-out; default: %(default)s")
    parser.add_argument(
        "--teachers", default=PAPER, metavar="A,B", help="names, or 'paper' for the seven of 2022; default: %(default)s"
    )
    parser.add_argument("--studies", type=int, default=700, metavar="N", help="default: %(default)s")
    parser.add_argument("--trials", default="100", metavar="N|N-M", help="of a study; default: %(default)s")
    parser.add_argument("--largest-dimension", type=int, default=20, metavar="D", help="default: %(default)s")
    parser.add_argument(
        "--infeasible-rate", type=float, default=0.0, metavar="P", help="share of studies with a region that fails"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="at once; default: %(default)s")
    parser.add_argument("--executor", default="local", help="local, or ray for more than one machine")


def run_arguments(arguments: argparse.Namespace) -> int:
    """Makes the corpus; 0, or 1 where no study succeeded.

    Raises:
      ValueError, OSError: whatever is wrong with the arguments or the output.
    """
    import optuna

    from optformer.data.generation import Plan, generate_corpus
    from optformer.data.teachers import registry

    names = list(registry.PAPER) if arguments.teachers == PAPER else arguments.teachers.split(",")
    plan = Plan(
        problems=arguments.problems,
        teachers=tuple(name.strip() for name in names if name.strip()),
        studies=arguments.studies,
        trials=_range(arguments.trials),
        largest_dimension=arguments.largest_dimension,
        infeasible_rate=arguments.infeasible_rate,
        seed=arguments.seed,
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _shown_progress() as progress:
        summary = generate_corpus(plan, arguments.out, arguments.processes, arguments.executor, progress)
    _print(summary, Path(arguments.out))
    return 0 if sum(summary.studies.values()) else 1


def _range(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition("-")
    try:
        return int(fewest), int(most or fewest)
    except ValueError:
        raise ValueError(f"--trials is a number or a range such as 40-100, not {text!r}") from None


def _print(summary: "Summary", out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Generated")
    table.add_column("teacher")
    table.add_column("studies", justify="right")
    table.add_column("studies/s of one process", justify="right")
    for teacher, count in summary.studies.items():
        seconds = summary.seconds.get(teacher, 0.0)
        rate = f"{summary.made[teacher] / seconds:.2f}" if seconds else ""
        table.add_row(teacher, f"{count:,}", rate)
    Console().print(table)
    print(f"{out}: {sum(summary.studies.values()):,} studies ({summary.wall_seconds:.1f} s)")
    if summary.failed:
        print(f"{summary.failed} studies failed; why: {out}.failed.jsonl")


@contextlib.contextmanager
def _shown_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left on a terminal, a plain line every ten seconds elsewhere; both on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        started = told = time.monotonic()
        first: int | None = None

        def line(done: int, total: int) -> None:
            nonlocal told, first
            first = done if first is None else first
            now = time.monotonic()
            if now - told >= _SECONDS_BETWEEN_LINES:
                told = now
                rate = (done - first) / (now - started)
                left = (total - done) / rate if rate else 0.0
                print(f"{done:,} of {total:,} studies, {rate:.2f} a second, {left:,.0f} s left", file=sys.stderr)

        yield line
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("studies"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.2f}/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("generate", total=None, rate=0.0)
        begun, already = time.monotonic(), -1

        def move(done: int, total: int) -> None:
            nonlocal already
            already = done if already < 0 else already
            rate = (done - already) / max(time.monotonic() - begun, 1e-3)
            bar.update(task, completed=done, total=total, rate=rate)

        yield move
