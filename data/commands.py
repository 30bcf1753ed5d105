"""`optformer corpus import` and `optformer corpus info`: what they print.

A `SourceError` passes through: the command line turns it into one line on stderr and exit code 2.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from optformer.data.sources import SourceError
from optformer.data.sources.anonymisation import Anonymiser
from optformer.data.sources.importing import CorpusInfo, ImportSummary, Progress, corpus_info, import_corpus

SECONDS_BETWEEN_LINES = 10.0


def run_import(
    inputs: Sequence[str],
    out: str,
    format: str | None = None,
    *,
    mapping: str | None = None,
    metric: str | None = None,
    goal: str | None = None,
    anonymise: bool = False,
    key: str | None = None,
) -> int:
    """`optformer corpus import INPUT... --out FILE`.

    Args:
      inputs, out, format, mapping, metric, goal: as `import_corpus`.
      anonymise: replace names and texts by hashes.
      key: of the hashes; drawn and printed if left out.

    Raises:
      SourceError: as `import_corpus`, or a key without `anonymise`.
    """
    if key is not None and not (anonymise and key):
        raise SourceError("--key is the key of --anonymise, which needs one of at least a character")
    anonymiser = Anonymiser(key) if anonymise else None
    with _shown_progress() as progress:
        summary = import_corpus(
            inputs,
            out,
            format=format or "auto",
            progress=progress,
            mapping=mapping,
            metric=metric,
            goal=goal,
            anonymiser=anonymiser,
        )
    Console().print(render_summary(summary))
    rate = summary.trials_read / summary.seconds if summary.seconds else 0.0
    print(
        f"{summary.out}: {summary.studies_kept:,} studies, {summary.trials_kept:,} trials "
        f"({summary.seconds:.1f} s, {rate:,.0f} trials/s)"
    )
    if summary.quarantined_studies or summary.quarantined_trials:
        print(f"What was left out, and why: {summary.out}.quarantine.jsonl")
    if anonymiser and key is None:
        print(f"Key of the hashes, for later imports with --key (keep it secret): {anonymiser.key}")
    return 0


def run_info(file: str, format: str | None = None) -> int:
    """`optformer corpus info FILE`."""
    Console().print(render_info(corpus_info(file, format or "auto")))
    return 0


@contextlib.contextmanager
def _shown_progress() -> Iterator[Callable[[Progress], None]]:
    """A bar with rate and time left on a terminal, a plain line every ten seconds elsewhere; both on stderr."""
    console = Console(stderr=True)
    started = time.monotonic()
    if not console.is_terminal:
        last = started

        def line(state: Progress) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN_LINES:
                last = now
                rate = state.trials / (now - started)
                print(
                    f"{state.studies:,} of {state.total_studies:,} studies, {state.trials:,} trials, "
                    f"{rate:,.0f} trials/s ({state.source})",
                    file=sys.stderr,
                )

        yield line
        return
    columns = (
        SpinnerColumn(),
        TextColumn("studies"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} trials/s"),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("import", total=None, rate=0.0)

        def move(state: Progress) -> None:
            rate = state.trials / max(time.monotonic() - started, 1e-3)
            bar.update(task, completed=state.studies, total=max(state.total_studies, state.studies), rate=rate)

        yield move


def render_summary(summary: ImportSummary) -> Table:
    """Inputs with what was kept, then reasons with what was not."""
    table = Table(title="Import")
    table.add_column("")
    table.add_column("studies", justify="right")
    table.add_column("trials", justify="right")
    for entry in summary.inputs:
        origin = escape(f"kept of {entry['path']} ({entry['format']})")
        table.add_row(origin, f"{entry['studies']:,}", f"{entry['trials']:,}")
    table.add_section()
    reasons = sorted({*summary.quarantined_studies, *summary.quarantined_trials})
    for reason in reasons:
        studies, trials = summary.quarantined_studies.get(reason, 0), summary.quarantined_trials.get(reason, 0)
        table.add_row(f"left out: {reason}", f"{studies:,}" if studies else "", f"{trials:,}" if trials else "")
    table.add_section()
    table.add_row("read", f"{summary.studies_read:,}", f"{summary.trials_read:,}")
    return table


def render_info(info: CorpusInfo) -> Table:
    """One row per property."""
    table = Table(title=escape(info.path), show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("studies", f"{info.studies:,} ({info.conditional:,} with a conditional space)")
    table.add_row("trials", f"{info.trials:,}")
    table.add_row("trials per study", _quantile_text(info.trials_per_study))
    table.add_row("parameters per study", _quantile_text(info.parameters_per_study))
    table.add_section()
    table.add_row("kinds of parameter", _count_text(info.kinds))
    table.add_row("scales", _count_text(info.scales))
    table.add_row("trial status", _count_text(info.statuses))
    table.add_row("goals", _count_text(info.goals))
    table.add_row("objectives per study", _count_text(info.objectives))
    table.add_row("algorithms", _count_text({name or "not recorded": count for name, count in info.algorithms.items()}))
    if info.quarantined:
        table.add_row("unusable records", _count_text(info.quarantined))
    return table


def _quantile_text(quantiles: Sequence[float]) -> str:
    if not quantiles:
        return "none"
    names = ("min", "25 %", "median", "75 %", "max")
    return ", ".join(f"{name} {value:,.0f}" for name, value in zip(names, quantiles, strict=True))


def _count_text(counts: Mapping[Any, int]) -> str:
    return escape(", ".join(f"{name} {count:,}" for name, count in counts.items())) or "none"
