"""`optformer corpus info`: the contents of a corpus, in tables and on a page with pictures."""

import argparse
from pathlib import Path

from optformer.commands.options import add_source_options
from optformer.extras import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="corpus, or any input of `optformer corpus import`")
    parser.add_argument("--format", metavar="F", help="format of the file; default: recognized by its content")
    add_source_options(parser)
    parser.add_argument(
        "--html", metavar="PAGE", help="also write a web page with pictures, one self-contained HTML file"
    )
    parser.add_argument(
        "--config",
        default="nano_cpu",
        metavar="CONFIG",
        help="training config; reports how many studies fit its batch shapes; default: %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the contents of a corpus, with `--html` writes a page with pictures, and returns 0.

    Raises:
      ValueError: the file, the config or the name of the page cannot be used.
      ModuleNotFoundError: Matplotlib, which the page needs, is not installed.
    """
    file, format, html = arguments.file, arguments.format or "auto", arguments.html
    given = {"mapping": arguments.mapping, "metric": arguments.metric, "goal": arguments.goal}
    if html is not None:
        # Requiring .html keeps exchanged arguments from overwriting a corpus.
        if Path(html).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--html {html}: the name of a page must end in .html")
        require("matplotlib", extra="plot", user="--html")
    from optformer.data.sources import read

    if not Path(file).is_dir():
        # Reports a bad file at once, before jax is loaded.
        read(file, format, **given)

    from optformer.data.corpus.description import describe_corpus
    from optformer.evaluate.corpus_report import tables, write_page
    from optformer.evaluate.report import table_console
    from optformer.progress_bar import progress_bar
    from optformer.train.config import load_config

    shape = load_config(arguments.config).shape
    with progress_bar("studies", rated="trials") as progress:
        description = describe_corpus(file, format, shape, progress, **given)
    console = table_console(120)
    for table in tables(description):
        table.print(console)
    if html is not None:
        console.print(f"Page: {write_page(description, html)}", markup=False, highlight=False, soft_wrap=True)
    return 0
