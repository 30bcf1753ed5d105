"""The shipped and the fine-tuned model on pairs that are not in the log: tuning and predicting."""

import itertools
from collections.abc import Sequence
from typing import Final

from vizier import pyvizier as vz

from optformer.data.problems.sklearn import SklearnExperimenter
from optformer.data.teachers.optuna import OptunaDesigner
from optformer.evaluate.calibration import Predicted, predict_studies
from optformer.evaluate.demo.objectives import HELD_OUT
from optformer.evaluate.optimization import DesignerFactory, Run, random_trials, tune
from optformer.facade import OptFormer
from optformer.progress_bar import progress_bar
from optformer.serve.vizier import OptFormerDesigner

FIRST_TRIALS: Final = 5
"""Number of random first trials, which are the same for every optimizer."""

SHIPPED: Final = "OptFormer, as shipped"
FINE_TUNED: Final = "OptFormer, fine-tuned"


def tune_held_out(
    shipped: OptFormer, fine_tuned: OptFormer, trials: int, seeds: int
) -> dict[str, dict[str, list[Run]]]:
    """Runs every optimizer on every held-out pair, with the same first random trials for each seed.

    Returns:
      pair -> optimizer -> a run for each seed.
    """
    optimizers: dict[str, DesignerFactory] = {
        "random search": lambda problem, seed: OptunaDesigner(problem, "random", seed=1000 + seed),
        "Optuna TPE": lambda problem, seed: OptunaDesigner(problem, "tpe", seed=1000 + seed),
        SHIPPED: lambda problem, seed: OptFormerDesigner(problem, model=shipped, seed=seed),
        FINE_TUNED: lambda problem, seed: OptFormerDesigner(problem, model=fine_tuned, seed=seed),
    }
    runs: dict[str, dict[str, list[Run]]] = {pair: {name: [] for name in optimizers} for pair in HELD_OUT}
    total = len(HELD_OUT) * len(optimizers) * seeds * (trials - FIRST_TRIALS)
    done = itertools.count(1)
    with progress_bar("trials") as advance:
        for pair, seed in itertools.product(HELD_OUT, range(seeds)):
            experimenter = SklearnExperimenter(pair)
            first = random_trials(experimenter, FIRST_TRIALS, seed=seed)
            for name, factory in optimizers.items():
                run = tune(experimenter, factory, first, trials, seed, lambda: advance(next(done), total))
                runs[pair][name].append(run)
    return runs


def predict_held_out(model: OptFormer, histories: Sequence[int], per_pair: int) -> list[Predicted]:
    """Log densities on random-search studies of the held-out pairs, for each length of the history.

    Args:
      model: the model; predicts once for each study and length.
      histories: numbers of known trials.
      per_pair: number of studies of each pair.
    """
    studies = []
    for pair in HELD_OUT:
        experimenter = SklearnExperimenter(pair)
        for seed in range(per_pair):
            trials = random_trials(experimenter, 2 * max(histories), seed=100 + seed)
            studies.append(vz.ProblemAndTrials(experimenter.problem_statement(), trials))
    total, done = len(studies) * len(histories), itertools.count(1)
    with progress_bar("studies") as advance:
        return [predict_studies(model, studies, n, after_study=lambda: advance(next(done), total)) for n in histories]
