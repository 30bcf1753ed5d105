"""Options and kinds of value that several commands share."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SUITES: Final = ("real", "real-train")
"""Fixed sets of real problems, defined in `optformer.evaluate.optimization.real_suites`."""


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
        "--minutes",
        type=float,
        default=15.0,
        metavar="M",
        help="time limit of one run, 0 for none; default: %(default)s",
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at once; default: %(default)s")
    parser.add_argument("--executor", default="local", help="local, or ray for more than one machine")


def add_suite(parser: argparse.ArgumentParser) -> None:
    """A fixed set of real problems, and where the measured ones are."""
    parser.add_argument(
        "--suite",
        metavar="S",
        help="fixed set of real problems: real to judge a model, real-train to choose settings; see docs/evaluation.md",
    )
    parser.add_argument("--tables", metavar="DIR", help="folder of measured tables, for --suite")


def check_suite(arguments: argparse.Namespace, fixed: Mapping[str, object]) -> None:
    """Of arguments with a suite; `fixed` are those that it leaves no room for, with their defaults.

    Raises:
      ValueError: it is not known, a folder of its files is not named, or something fixed is given.
    """
    if arguments.suite not in SUITES:
        raise ValueError(f"--suite is {arguments.suite!r}; known are {', '.join(SUITES)}")
    for option, folder in (("--yahpo-dir", arguments.yahpo_dir), ("--tables", arguments.tables)):
        if folder is None:
            raise ValueError(f"--suite {arguments.suite} needs {option} DIR")
    for name, default in fixed.items():
        if getattr(arguments, name) != default:
            raise ValueError(f"--suite fixes what --{name.replace('_', '-')} says: leave it out")
