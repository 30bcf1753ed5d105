"""`optformer corpus generate`: known optimizers on known problems, as studies."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optformer.commands.options import absolute, names
from optformer.extras import from_extra

if TYPE_CHECKING:
    from optformer.data.generation import Summary

PAPER: Final = "paper"
"""Alias of the seven teachers of the 2022 paper."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="FILE", help="file of the corpus, JSON lines")
    parser.add_argument(
        "--problems",
        default="bbob",
        metavar="A,B",
        help="families, used in turn: bbob, sklearn, sklearn-wide, yahpo, hpob, tables, or parts of them held out for"
        " comparisons, such as bbob-held-out; default: %(default)s",
    )
    parser.add_argument(
        "--openings",
        metavar="FILE",
        help="a generated corpus, whose studies other teachers continue; needs the same problems and rates",
    )
    parser.add_argument("--yahpo-dir", metavar="DIR", help="folder of YAHPO's scenarios, for yahpo")
    parser.add_argument(
        "--curves", action="store_true", help="trials of yahpo also report at some fractions of their budget"
    )
    parser.add_argument("--hpob-dir", metavar="DIR", help="folder of HPO-B's saved-surrogates, for hpob")
    parser.add_argument("--hpob-starts", action="store_true", help="use HPO-B's first trials (bo-initializations.json)")
    parser.add_argument("--tables", metavar="DIR", help="folder of measured tables, for tables")
    parser.add_argument(
        "--teachers",
        default=PAPER,
        metavar="A,B",
        help="optimizers, or random_order, good_last, local_moves: trials in an order that no optimizer chose; 'paper'"
        " for the seven optimizers of the 2022 paper; default: %(default)s",
    )
    parser.add_argument("--studies", type=int, default=700, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--trials", default="100", metavar="N|N-M", help="trials per study, or a range; default: %(default)s"
    )
    parser.add_argument(
        "--largest-dimension",
        type=int,
        default=20,
        metavar="D",
        help="largest number of parameters of a problem; default: %(default)s",
    )
    parser.add_argument(
        "--infeasible-rate",
        type=float,
        default=0.0,
        metavar="P",
        help="share of studies with a region where trials fail",
    )
    parser.add_argument(
        "--noise-rate",
        type=float,
        metavar="P",
        help="share of noisy problems of BBOB; default: the ten settings of the paper equally often, one without noise",
    )
    parser.add_argument(
        "--disguise-rate",
        type=float,
        default=0.0,
        metavar="P",
        help="share of studies whose problem is varied: other names, narrower ranges or fewer parameters; if above"
        " 0, problems that are too large get fewer parameters instead of being left out; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="studies run at once; default: %(default)s"
    )
    parser.add_argument("--executor", default="local", help="local, or ray for more than one machine")


@from_extra("baselines", user="optformer corpus generate")
def run(arguments: argparse.Namespace) -> int:
    """Generates the corpus; returns 0, or 1 if no study succeeded.

    Raises:
      ValueError, OSError: the arguments are invalid or the output cannot be written.
    """
    import optuna

    from optformer.data.generation import Plan, generate_corpus, schedule
    from optformer.data.teachers import registry
    from optformer.progress_bar import progress_bar

    plan = Plan(
        problems=tuple(names(arguments.problems)),
        teachers=registry.PAPER if arguments.teachers == PAPER else tuple(names(arguments.teachers)),
        studies=arguments.studies,
        trials=_range(arguments.trials),
        largest_dimension=arguments.largest_dimension,
        infeasible_rate=arguments.infeasible_rate,
        noise_rate=arguments.noise_rate,
        disguise_rate=arguments.disguise_rate,
        seed=arguments.seed,
        yahpo_dir=absolute(arguments.yahpo_dir),
        curves=arguments.curves,
        hpob_dir=absolute(arguments.hpob_dir),
        hpob_starts=arguments.hpob_starts,
        tables_dir=absolute(arguments.tables),
        openings=absolute(arguments.openings),
    )
    for sentence in schedule(plan).left_out:
        print(f"left out of the plan: {sentence}", file=sys.stderr)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with progress_bar("studies") as progress:
        summary = generate_corpus(plan, arguments.out, arguments.processes, arguments.executor, progress)
    _print(summary, Path(arguments.out))
    return 0 if sum(summary.studies.values()) else 1


def _range(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition("-")
    try:
        return int(fewest), int(most or fewest)
    except ValueError:
        raise ValueError(f"--trials must be a number or a range such as 40-100, not {text!r}") from None


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
        print(f"{summary.failed} studies failed; {out}.failed.jsonl has the reasons")
