"""Options and kinds of value that several commands share."""

import argparse
from pathlib import Path


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """What an input may leave out."""
    parser.add_argument("--mapping", metavar="FILE", help="what the columns of a table are, JSON")
    parser.add_argument("--metric", metavar="A,B", help="the objectives, where the input does not record them")
    parser.add_argument("--goal", "--mode", metavar="G", help="minimize or maximize, or one for each metric")


def absolute(path: str | None) -> str | None:
    """The same place, however it is called from elsewhere."""
    return None if path is None else str(Path(path).resolve())


def names(text: str) -> list[str]:
    """The names of a list with commas; empty ones are left out."""
    return [name.strip() for name in text.split(",") if name.strip()]


def integers(text: str) -> list[int]:
    """The numbers of a list with commas.

    Raises:
      ValueError: one is no whole number.
    """
    return [int(number) for number in names(text)]


def add_runs(parser: argparse.ArgumentParser) -> None:
    """How the runs of an evaluation are carried out."""
    parser.add_argument(
        "--minutes", type=float, default=15.0, metavar="M", help="limit of one run, 0 for none; default: %(default)s"
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at once; default: %(default)s")
    parser.add_argument("--executor", default="local", help="local, or ray for more than one machine")
