"""The log: studies of Optuna's samplers, on which the demo's model is fine-tuned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import optuna

from optformer.data.problems.sklearn import SklearnExperimenter, task_names
from optformer.data.teachers.optuna import SAMPLERS
from optformer.evaluate.demo.objectives import HELD_OUT, CrossValidated
from optformer.evaluate.demo.processes import in_two_processes
from optformer.evaluate.optimization import maximizes

TOO_SLOW: Final = ("boosting@digits", "forest@digits", "knn@digits", "logistic@digits")
LOGGED: Final = tuple(pair for pair in task_names() if pair not in HELD_OUT + TOO_SLOW)


def log_studies(database: Path, pairs: Sequence[str], trials: int) -> None:
    """Tunes every pair, once with each sampler, into a new Optuna SQLite database.

    Args:
      database: the database; an existing file is replaced.
      pairs: pairs of a model and a data set.
      trials: number of trials of each study.
    """
    database.unlink(missing_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    jobs = [(pair, sampler, seed, trials) for pair in pairs for seed, sampler in enumerate(SAMPLERS)]
    for (pair, sampler, *_), logged in in_two_processes(_tuned, jobs, "studies"):
        study = optuna.create_study(storage=storage, study_name=f"{pair} {sampler}", direction=logged.direction)
        study.set_user_attr("optformer:algorithm", sampler)
        study.add_trials(logged.trials)
    storage.remove_session()


def _tuned(pair: str, sampler: str, seed: int, trials: int) -> optuna.Study:
    """One study in memory, as an Optuna user would have run it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    upwards = maximizes(SklearnExperimenter(pair).problem_statement())
    direction = optuna.study.StudyDirection.MAXIMIZE if upwards else optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(sampler=SAMPLERS[sampler](seed), direction=direction)
    study.optimize(CrossValidated(pair), n_trials=trials)
    return study
