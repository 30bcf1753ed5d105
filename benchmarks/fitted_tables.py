"""What measured tables answer between their rows: a fitted forest beside the nearest row.

    python benchmarks/fitted_tables.py FOLDER

A fifth of the rows of each training table (those that did not fail, 10 at least) are kept out and predicted from the
others.  Printed, by the first part of the tables' names: the median over tables of Spearman's rank correlation.
"""

import argparse
import collections

import numpy as np
from scipy.stats import spearmanr
from vizier import pyvizier as vz

from optformer.data.problems import tables
from optformer.data.problems.fitted_tables import FittedTableExperimenter
from optformer.data.problems.tables import Table, TableExperimenter


def correlations(table: Table, seed: int = 0) -> tuple[float, float]:
    """Of forest and nearest row with the truth, on rows that neither has seen."""
    known = np.flatnonzero(np.isfinite(table.values))
    kept_out = np.random.default_rng(seed).permutation(known)[: max(10, len(known) // 5)]
    others = np.setdiff1d(np.arange(len(table.rows)), kept_out)
    part = Table(table.name, table.group, table.problem, [table.rows[row] for row in others], table.values[others])
    found = []
    for experimenter in (FittedTableExperimenter(part, seed), TableExperimenter(part)):
        trials = [vz.Trial(dict(table.rows[row])) for row in kept_out]
        experimenter.evaluate(trials)
        answered = [number for number, trial in enumerate(trials) if not trial.infeasible]
        values = [trials[number].final_measurement_or_die.metrics[table.metric.name].value for number in answered]
        found.append(float(spearmanr(values, table.values[kept_out[answered]]).statistic))
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of measured tables")
    by_kind = collections.defaultdict(list)
    for file in tables.files(parser.parse_args().folder):
        for table in () if tables.held_out(file) else tables.load_tables(file).values():
            by_kind[table.name.split("/")[0]].append(correlations(table))
    for kind, found in by_kind.items():
        forest, nearest = np.nanmedian(np.array(found), axis=0)
        print(f"{kind}: {len(found)} tables, forest {forest:.3f}, nearest row {nearest:.3f}")


if __name__ == "__main__":
    main()
