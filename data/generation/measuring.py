"""Measures known problems at random configurations and writes tables that `data/problems/tables.py` reads."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from vizier import pyvizier as vz

from optformer.data.generation.plan import Plan, schedule
from optformer.data.generation.running import generate_corpus
from optformer.data.problems.tables import Configuration, Table, columns_of, write_tables
from optformer.data.sources import Quarantined
from optformer.data.sources.records import NAMESPACE
from optformer.data.sources.study_lines import read

_DIGITS = 6
"""Significant digits of parameters and values; more would take twice the space without being useful."""


@dataclasses.dataclass
class Measured:
    """Summary of what was written.

    Attributes:
      tables: number of tables.
      rows: number of configurations in all of them.
      failed: number of configurations that failed.
      left_out: problems that could not be measured, or of which no configuration succeeded.
    """

    tables: int = 0
    rows: int = 0
    failed: int = 0
    left_out: list[str] = dataclasses.field(default_factory=list)


def measure(
    family: str,
    out: str | os.PathLike[str],
    configurations: int = 100,
    first: int | None = None,
    seed: int = 0,
    yahpo_dir: str | None = None,
    hpob_dir: str | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Measures each problem of a family once, at random configurations.

    The same call resumes an interrupted run.  A table is named `family/problem`; its group is the part of the name
    before an `@` or a second `/`.

    Args:
      family: name in `registry.FAMILIES`.
      out: file of the tables, JSON lines; compressed if the name ends in `.gz`.
      configurations: number per problem; repeated ones are merged into one row.
      first: measure only the first problems of the family; default: all.
      seed: seed of problems and configurations.
      yahpo_dir: folder of YAHPO's scenarios.
      hpob_dir: folder of HPO-B's files.
      processes: number of processes.
      progress: called with the numbers of problems measured and to measure.

    Returns:
      Summary of what was written.

    Raises:
      ValueError, OSError, ModuleNotFoundError: as in `generate_corpus`.
    """
    out = Path(out)
    plan = Plan(
        problems=(family,),
        teachers=("random_search",),
        studies=1 if first is None else first,
        trials=(configurations, configurations),
        seed=seed,
        yahpo_dir=yahpo_dir,
        hpob_dir=hpob_dir,
    )
    turns = schedule(plan).turns[0][:first]
    plan = dataclasses.replace(plan, studies=len(turns))
    studies = out.with_name(f"{out.name}.studies.jsonl.gz")
    generate_corpus(plan, studies, processes, progress=progress)
    measured = Measured(left_out=[turn.problem.name for turn in turns])
    write_tables(out, _tables(studies, measured))
    studies.unlink()
    return measured


def _tables(studies: Path, measured: Measured) -> Iterator[Table]:
    for study in read(studies, str(studies)):
        if isinstance(study, Quarantined):
            raise ValueError(f"{studies}: {study.reason}")
        table = table_of(study)
        if table is None:
            continue
        measured.left_out.remove(study.problem.metadata.ns(NAMESPACE)["problem"])
        measured.tables += 1
        measured.rows += len(table.rows)
        measured.failed += int(np.isnan(table.values).sum())
        yield table


def table_of(study: vz.ProblemAndTrials) -> Table | None:
    """A generated study of one objective as a table, repeats of a configuration averaged; None if all trials failed."""
    facts = study.problem.metadata.ns(NAMESPACE)
    metric = study.problem.metric_information.item().name
    bounds = {
        column.config.name: column.config.bounds
        for column in columns_of(study.problem.search_space)
        if column.config.type == vz.ParameterType.DOUBLE
    }
    rows: dict[tuple[tuple[str, float | int | str], ...], list[float]] = {}
    for trial in study.trials:
        row = trial.parameters.as_dict()
        for name in bounds.keys() & row.keys():
            low, high = bounds[name]
            row[name] = min(max(_rounded(row[name]), low), high)
        values = rows.setdefault(tuple(sorted(row.items())), [])
        if not trial.infeasible:
            values.append(trial.final_measurement_or_die.metrics[metric].value)
    if not any(rows.values()):
        return None
    configurations: list[Configuration] = [dict(row) for row in rows]
    means = [_rounded(np.mean(values)) if values else math.nan for values in rows.values()]
    source, problem = facts["source"], facts["problem"]
    return Table(
        f"{source}/{problem}", f"{source}/{re.split('[@/]', problem)[0]}", study.problem, configurations, means
    )


def _rounded(value: float | np.floating[Any]) -> float:
    return float(f"{value:.{_DIGITS}g}")
