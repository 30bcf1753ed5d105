"""Command-line options, and parsers of their values, that several commands share."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SUITES: Final = ("real", "real-train")
"""Fixed sets of real problems, defined in `optformer.evaluate.optimization.real_suites`."""


MOST_SUGGESTIONS: Final = 1000
"""Most suggestions of one command: each takes time, because it treats those before it as running trials."""


def check_count(count: int, fewest: int) -> None:
    """Raises ValueError if --count is outside its range."""
    if not fewest <= count <= MOST_SUGGESTIONS:
        raise ValueError(f"--count must be from {fewest} to {MOST_SUGGESTIONS}, not {count}")


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for facts that an input does not record."""
    parser.add_argument("--mapping", metavar="FILE", help="JSON file: the role of each column of a table")
    parser.add_argument("--metric", metavar="A,B", help="the objectives, if the input does not record them")
    parser.add_argument("--goal", "--mode", metavar="G", help="minimize or maximize, or one for each metric")


def absolute(path: str | None) -> str | None:
    """The absolute path, which stays valid in processes with another working directory; None stays None."""
    return None if path is None else str(Path(path).resolve())


def names(text: str) -> list[str]:
    """Splits a comma-separated list; drops empty names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def integers(text: str) -> list[int]:
    """Splits a comma-separated list of integers.

    Raises:
      ValueError: an item is not an integer.
    """
    return [int(number) for number in names(text)]


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds the options for how the runs of an evaluation are executed."""
    parser.add_argument(
        "--minutes",
        type=float,
        default=15.0,
        metavar="M",
        help="time limit of one run, 0 for none; default: %(default)s",
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="runs at once; default: %(default)s")
    parser.add_argument("--executor", default="local", help="local, or ray for more than one machine")


def add_suite(parser: argparse.ArgumentParser) -> None:
    """Adds the options for a fixed set of real problems and for the folder of measured tables."""
    parser.add_argument(
        "--suite",
        metavar="S",
        help="fixed set of real problems: real to judge a model, real-train to choose settings; see docs/evaluation.md",
    )
    parser.add_argument("--tables", metavar="DIR", help="folder of measured tables, for --suite")


def check_suite(arguments: argparse.Namespace, fixed: Mapping[str, object]) -> None:
    """Checks arguments that name a suite.

    Args:
      arguments: the parsed command line.
      fixed: options that the suite determines -> their defaults.

    Raises:
      ValueError: the suite is unknown, a folder of its files is not given, or an option of `fixed` is given.
    """
    if arguments.suite not in SUITES:
        raise ValueError(f"--suite is {arguments.suite!r}; known are {', '.join(SUITES)}")
    for option, folder in (("--yahpo-dir", arguments.yahpo_dir), ("--tables", arguments.tables)):
        if folder is None:
            raise ValueError(f"--suite {arguments.suite} needs {option} DIR")
    for name, default in fixed.items():
        if getattr(arguments, name) != default:
            raise ValueError(f"--suite determines --{name.replace('_', '-')}: leave it out")
