"""`optformer corpus import`: converts the logs of any tuning library to one corpus."""

import argparse
from typing import TYPE_CHECKING

from optformer.commands.options import add_source_options
from optformer.terminal import counted

if TYPE_CHECKING:
    from optformer.data.sources.importing import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="database, file or folder of results")
    parser.add_argument("--out", required=True, metavar="FILE", help="file of the corpus, JSON lines")
    parser.add_argument("--format", metavar="F", help="format of the inputs; default: recognized by their content")
    add_source_options(parser)
    parser.add_argument("--anonymise", action="store_true", help="replace names and texts with keyed hashes")
    parser.add_argument("--key", metavar="TEXT", help="key of the hashes; default: a random one, which is printed")


def run(arguments: argparse.Namespace) -> int:
    """Writes the corpus, prints what was kept and what was left out, and returns 0.

    Raises:
      SourceError: as `import_corpus`, or a key without `--anonymise`.
    """
    from rich.console import Console

    from optformer.data.sources import SourceError
    from optformer.data.sources.anonymisation import Anonymiser
    from optformer.data.sources.importing import import_corpus
    from optformer.progress_bar import progress_bar

    if arguments.key is not None and not (arguments.anonymise and arguments.key):
        raise SourceError("--key needs --anonymise and must not be empty")
    anonymiser = Anonymiser(arguments.key) if arguments.anonymise else None
    with progress_bar("studies", rated="trials") as advance:

        def progress(state: "Progress") -> None:
            advance(state.studies, state.total_studies, state.trials, state.source)

        summary = import_corpus(
            arguments.inputs,
            arguments.out,
            format=arguments.format or "auto",
            progress=progress,
            mapping=arguments.mapping,
            metric=arguments.metric,
            goal=arguments.goal,
            anonymiser=anonymiser,
        )
    Console().print(summary)
    rate = summary.trials_read / summary.seconds if summary.seconds else 0.0
    print(
        f"{summary.out}: {counted(summary.studies_kept, 'study', 'studies')}, "
        f"{counted(summary.trials_kept, 'trial', 'trials')} "
        f"({summary.seconds:.1f} s, {rate:,.0f} trials/s)"
    )
    if summary.quarantined_studies or summary.quarantined_trials:
        print(f"What was left out, and why: {summary.out}.quarantine.jsonl")
    if anonymiser and arguments.key is None:
        print(f"Key of the hashes, for later imports with --key (keep it secret): {anonymiser.key}")
    return 0
