"""Measured tables of known problems: each at random configurations, written as `data/problems/tables.py` reads them."""

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
"""Significant ones of parameters and values: differences beyond them teach nothing, and take half of the space."""


@dataclasses.dataclass
class Measured:
    """What was written.

    Attributes:
      tables: how many.
      rows: configurations in all of them.
      failed: how many of these failed.
      left_out: problems of which no configuration succeeded, or that could not be measured at all.
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
    """Measures the problems of a family, once each, as the seed draws them, at random configurations of their spaces.

    An interrupted run goes on with the same call.  A table is called `family/problem`; its group is what comes before
    an `@` or a further `/`.

    Args:
      family: of `registry.FAMILIES`.
      out: the tables, JSON lines; compressed if the name ends in `.gz`.
      configurations: of each problem; those that are drawn twice are one row.
      first: how many of its problems, in their order; default: all.
      seed: of problems and configurations.
      yahpo_dir: folder of YAHPO's scenarios.
      hpob_dir: folder of HPO-B's files.
      processes: at once.
      progress: called with problems measured and wanted.

    Raises:
      ValueError, OSError, ModuleNotFoundError: as `generate_corpus`.
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
