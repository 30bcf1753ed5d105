"""`optformer report`: the state of a study, the model's predictions, and the next trials."""

import argparse
import re
from pathlib import Path
from typing import Final

from optformer.commands.options import check_count
from optformer.extras import require
from optformer.terminal import shown

_LONGEST_NAME: Final = 48
"""Letters of a study's name that become the name of its page."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="DB",
        help="Optuna or Vizier database (SQLite), or any file that `optformer corpus import` reads",
    )
    parser.add_argument("--study", metavar="NAME", help="which study, if the file holds several")
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=3, metavar="N", help="number of suggestions; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--html",
        nargs="?",
        const="",
        metavar="PAGE",
        help="also write a self-contained HTML page with pictures; default name: that of the study",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints tables and reasons, with `--html` writes the page, and returns 0.

    Raises:
      ValueError: the arguments, the file or the checkpoint cannot be used.
      ModuleNotFoundError: Matplotlib, which the page needs, is not installed.
    """
    check_count(arguments.count, 0)
    if arguments.html is not None:
        # Requiring .html keeps exchanged arguments from overwriting a database.
        if arguments.html and Path(arguments.html).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--html {arguments.html}: the name of a page must end in .html")
        require("matplotlib", extra="plot", user="--html")
    from optformer.data.sources import read_study, study_name

    study, left_out = read_study(arguments.file, arguments.study)

    from optformer.evaluate.report import print_remarks, table_console
    from optformer.explanation import explain
    from optformer.facade import OptFormer
    from optformer.plot import importances
    from optformer.study_report import StudyFacts, importance_table, tables, write_page

    name, problem, trials = study_name(study), study.problem, study.trials
    facts = StudyFacts(name, problem, trials)
    model = OptFormer.from_pretrained(arguments.checkpoint)
    suggestions = model.suggest(problem, trials, arguments.count, seed=arguments.seed)
    explanations = [explain(model, problem, trials, suggestion) for suggestion in suggestions]
    found = {
        metric: importances(model, problem, trials, metric=metric)
        for metric, best in facts.best().items()
        if best is not None
    }
    # The page is written before anything is printed, so that a closed pipe does not prevent it.
    written = None
    if arguments.html is not None:
        page = arguments.html or _file_name(name)
        written = write_page(model, facts, found, suggestions, explanations, page)
    console = table_console(140)
    console.print(f"Study {shown(name) or '(unnamed)'}, checkpoint {model.name}", markup=False, highlight=False)
    for table in tables(facts):
        table.print(console)
    if found:
        importance_table(found).print(console)
    if suggestions:
        facts.suggestions_table(suggestions).print(console)
    for number, explanation in enumerate(explanations, 1):
        console.print(f"Suggestion {number}", markup=False, highlight=False)
        for sentence in explanation.sentences():
            console.print(f"  {shown(sentence)}", markup=False, highlight=False, soft_wrap=True)
    if left_out:
        first = left_out[0]
        remark = f"left out {len(left_out)} trial(s); the first: trial {first.trial}, {shown(first.reason)}"
        print_remarks(console, [remark])
    if written is not None:
        console.print(f"Page: {written}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _file_name(study: str) -> str:
    """Name of the page, in the current folder."""
    # A file name may have 255 bytes, and a letter up to four.
    return (re.sub(r"[^\w.-]+", "-", study)[:_LONGEST_NAME].strip("-.") or "study") + ".html"
