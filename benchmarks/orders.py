"""What averaging over the orders of the parameters does to calibration, and what it costs.

    python benchmarks/orders.py [--checkpoint default] [--orders 1 2 4 8] [--studies 48]

Studies of the prior and of the BBOB functions of the training split in 2 to 6 dimensions, their later trials predicted
from the first 10, 20 and 40: log density over the uniform's (nats), expected calibration error, coverage of 90 %
intervals.  Then the median time of a warm suggestion with 10 parameters and 100 trials.  Run on an idle machine.
"""

import argparse
import statistics
import time
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from suggest import finished, loop, problem
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.data.problems.bbob import TRAIN, BBOBExperimenter
from optformer.evaluate.calibration.data_sets import EvaluationStudy, prior_studies, run_design
from optformer.evaluate.calibration.prediction import MODEL, score_study
from optformer.evaluate.calibration.scores import summarize

HISTORIES = (10, 20, 40)
PREDICTED = 24
PARAMETERS, TRIALS, SUGGESTIONS = 10, 100, 15


def bbob_studies(count: int) -> Iterator[EvaluationStudy]:
    for index in range(count):
        name, dimension = TRAIN[index % len(TRAIN)], (2, 3, 4, 6)[index % 4]
        study = run_design(BBOBExperimenter(name, dimension, index), "random", max(HISTORIES) + PREDICTED, index)
        yield EvaluationStudy(study, f"{name} D={dimension} {index}", name)


def seconds_per_suggestion(model: OptFormer) -> float:
    statement, trials = problem(PARAMETERS), finished(PARAMETERS, TRIALS)

    def suggest(known: list[vz.Trial]) -> vz.TrialSuggestion:
        return model.suggest(statement, known, seed=0)[0]

    ask = loop(suggest, trials)
    ask()  # compiles
    times = []
    for _ in range(SUGGESTIONS):
        started = time.perf_counter()
        ask()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR")
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--studies", type=int, default=48, help="of each data set; default: %(default)s")
    arguments = parser.parse_args()
    model = OptFormer.from_pretrained(arguments.checkpoint)
    data_sets = {
        "prior": list(prior_studies(arguments.studies, max(HISTORIES) + PREDICTED + 16)),
        "BBOB": list(bbob_studies(arguments.studies)),
    }
    table = Table("orders", "data", *(f"{history} known" for history in HISTORIES), "a suggestion", title=model.name)
    for orders in arguments.orders:
        averaged = model.with_settings(orders=orders)
        seconds = seconds_per_suggestion(averaged)
        for name, studies in data_sets.items():
            cells = []
            for history in HISTORIES:
                scores = [
                    score_study(averaged, each.study, history, (), PREDICTED, False, name, each.name, each.group)
                    for each in studies
                ]
                found = summarize([score for score in scores if score is not None]).predictors[MODEL]
                cells.append(
                    f"{found.relative.value:+.3f}, ECE {100 * found.calibration_error.value:.1f} %, "
                    f"{100 * found.coverage[0.9].value:.0f} %"
                )
            table.add_row(str(orders), name, *cells, f"{seconds:.3f} s")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
