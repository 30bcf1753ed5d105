"""`optformer corpus measure`: measured tables of known problems."""

import argparse
import sys

from optformer.commands.options import absolute
from optformer.extras import from_extra


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="FILE", help="file of the tables, JSON lines")
    parser.add_argument(
        "--problems",
        required=True,
        metavar="FAMILY",
        help="family of problems, each of which is measured once: sklearn-wide, bbob, yahpo, ...",
    )
    parser.add_argument("--yahpo-dir", metavar="DIR", help="folder of YAHPO's scenarios, for yahpo")
    parser.add_argument("--hpob-dir", metavar="DIR", help="folder of HPO-B's saved-surrogates, for hpob")
    parser.add_argument(
        "--configurations",
        type=int,
        default=100,
        metavar="N",
        help="random configurations per problem; default: %(default)s",
    )
    parser.add_argument("--first", type=int, metavar="N", help="measure only the first N problems; default: all")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="problems measured at the same time; default: %(default)s"
    )


@from_extra("baselines", user="optformer corpus measure")
def run(arguments: argparse.Namespace) -> int:
    """Writes the tables and prints a summary; returns 0, or 1 if no table could be measured.

    Raises:
      ValueError, OSError, ModuleNotFoundError: as `optformer.data.generation.measuring.measure`.
    """
    import optuna

    from optformer.data.generation.measuring import measure
    from optformer.progress_bar import progress_bar

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with progress_bar("problems") as progress:
        measured = measure(
            arguments.problems,
            arguments.out,
            arguments.configurations,
            arguments.first,
            arguments.seed,
            absolute(arguments.yahpo_dir),
            absolute(arguments.hpob_dir),
            arguments.processes,
            progress,
        )
    if measured.left_out:
        print(f"problems that could not be measured: {', '.join(measured.left_out)}", file=sys.stderr)
    print(
        f"{arguments.out}: {measured.tables:,} tables, {measured.rows:,} configurations, {measured.failed:,} of which"
        " failed"
    )
    return 0 if measured.tables else 1
