"""Whether each optimizer's studies in a corpus show its nature.

    optformer corpus generate --out teachers.jsonl.gz --teachers paper --studies 2100 --processes 2
    python benchmarks/teachers.py teachers.jsonl.gz [--studies 100]

Prints, for each algorithm, means over its first so many studies with a flat space: the counts of the imitation report
(docs/evaluation.md) - steps that count through a grid, trials that differ from the best one before them, or from one of
the last 25, in at most one parameter, the distance to the best one, how far values are from evenly spread - and the
share of the last third of the trials that are better than the median of the first third.
"""

import argparse
import collections

import numpy as np
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined, read
from optformer.evaluate.imitation.nature import COUNTS, Walk
from optformer.serialization.space import METADATA_NAMESPACE


def improvement(walk: Walk) -> float:
    """Share of the last third of the trials that are better than the median of the first third; a half by chance."""
    third = max(len(walk.values) // 3, 1)
    return float((walk.values[-third:] > np.median(walk.values[:third])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--studies", type=int, default=100, help="of each algorithm; default: %(default)s")
    arguments = parser.parse_args()

    walks: dict[str, list[Walk]] = collections.defaultdict(list)
    for study in read(arguments.corpus):
        if isinstance(study, Quarantined) or study.problem.search_space.is_conditional:
            continue
        algorithm = str(study.problem.metadata.ns(METADATA_NAMESPACE).get("algorithm", default="unknown"))
        if len(walks[algorithm]) < arguments.studies and study.problem.is_single_objective:
            finished = [trial for trial in study.trials if trial.status == vz.TrialStatus.COMPLETED]
            walks[algorithm].append(Walk.of(vz.ProblemAndTrials(study.problem, finished)))

    counts = {**COUNTS, "later ones better": improvement}
    print(f"| algorithm | studies | {' | '.join(counts)} |")
    print("|---|" + "--:|" * (len(counts) + 1))
    for algorithm, own in sorted(walks.items()):
        with np.errstate(invalid="ignore"):
            means = [np.nanmean([count(walk) for walk in own]) for count in counts.values()]
        print(f"| `{algorithm}` | {len(own)} | {' | '.join(f'{mean:.2f}' for mean in means)} |")


if __name__ == "__main__":
    main()
