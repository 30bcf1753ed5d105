"""`optformer studies`: lists the studies of a database or another store, with trials and best values."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from optformer.terminal import shown

if TYPE_CHECKING:
    from optformer.study_report import StudyFacts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="DB",
        help="Optuna or Vizier database (SQLite), or any file that `optformer corpus import` reads",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list on stdout instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each study; returns 0, or 1 if no study can be used.

    Raises:
      ValueError: the file cannot be read.
    """
    from optformer.data.sources import Quarantined, read, study_name
    from optformer.data.sources.records import OF_A_QUARANTINED_STUDY

    records = read(arguments.file)

    from optformer.evaluate.report import table_console
    from optformer.page import Table
    from optformer.study_report import StudyFacts

    studies, left_out = list[StudyFacts](), list[Quarantined]()
    for record in records:
        if isinstance(record, Quarantined):
            left_out.append(record)
            continue
        name = study_name(record)
        try:
            studies.append(StudyFacts(name, record.problem, record.trials))
        except ValueError as error:
            left_out.append(Quarantined(arguments.file, name, None, None, str(error)))
    if arguments.json:
        print(json.dumps([_record(facts) for facts in studies], indent=1))
    else:
        rows = []
        for facts in studies:
            counts, best = facts.counts(), [each for each in facts.best().values() if each is not None]
            rows.append(
                [
                    facts.name or "(unnamed)",
                    ", ".join(f"{goal} {name}" for name, goal in facts.goals().items()),
                    str(sum(counts.values())),
                    *map(str, counts.values()),
                    ", ".join(f"{value:.6g}" for value, _ in best) or "-",
                    ", ".join(str(trial) for _, trial in best) or "-",
                ]
            )
        states = list(studies[0].counts()) if studies else []
        headings = ["study", "objective", "trials", *states, "best", "of trial"]
        Table(f"Studies of {arguments.file}", headings, rows, text_columns=2).print(table_console(140))
    left_out = [record for record in left_out if record.reason != OF_A_QUARANTINED_STUDY]  # the study says why
    for record in left_out[:20]:
        which = "" if record.trial is None else f", trial {record.trial}"
        print(f"left out: study {shown(record.study)}{which}: {shown(record.reason)}", file=sys.stderr)
    if len(left_out) > 20:
        print(f"left out: {len(left_out) - 20} more", file=sys.stderr)
    return 0 if studies else 1


def _record(facts: "StudyFacts") -> dict[str, object]:
    best = facts.best()
    return {
        "study": facts.name,
        "trials": len(facts.study.trials),
        "states": facts.counts(),
        "objectives": [
            {
                "name": name,
                "goal": goal,
                "best": None if (found := best[name]) is None else found[0],
                "trial": None if found is None else found[1],
            }
            for name, goal in facts.goals().items()
        ],
    }
