"""`optformer corpus import`: what it prints.

A `SourceError` passes through: the command line turns it into one line on stderr and exit code 2.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from optformer.data.sources import SourceError
from optformer.data.sources.anonymisation import Anonymiser
from optformer.data.sources.importing import ImportSummary, Progress, import_corpus
from optformer.progress_bar import progress_bar


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
    with progress_bar("studies", rated="trials") as advance:

        def progress(state: Progress) -> None:
            advance(state.studies, state.total_studies, state.trials, state.source)

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
