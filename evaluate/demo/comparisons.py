"""Compares the shipped model as an Optuna sampler with TPE: with a pruner, with branches, with earlier studies.

Both have the same objective function, the same seeds and the same budget, and start without trials.  TPE draws its
first ten trials at random.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import optuna

from optformer.evaluate.demo.objectives import (
    EPOCHS,
    HELD_OUT,
    CrossValidated,
    NetworkWithReports,
    Objective,
    OneOfModels,
)
from optformer.evaluate.demo.processes import in_two_processes
from optformer.serve.optuna import OptFormerSampler

TPE: Final = "Optuna TPE"
OURS: Final = "OptFormer"
TOLD: Final = "OptFormer, with the earlier studies"
BEGUN: Final = "Optuna TPE, after the best trial of each"

PAIRS_WITH_EARLIER: Final = HELD_OUT[:2]
"""The log has studies of the same model on other data sets."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One objective function, which is minimized, and the engines that tune it.

    Attributes:
      name: name of its studies, in pictures and tables.
      objective: the objective function.
      engines: some of `TPE`, `OURS`, `TOLD` and `BEGUN`.
      early: part of the budget after which results are also compared.
      budget: number of epochs if there is a pruner, else of trials.
      pruned: whether Optuna's MedianPruner stops trials.
      earlier: names of logged studies that `TOLD` and `BEGUN` use.
    """

    name: str
    objective: Objective
    engines: tuple[str, ...]
    early: int
    budget: int
    pruned: bool = False
    earlier: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Unit of the budget."""
        return "epochs" if self.pruned else "trials"


def comparisons(log: Path, whole: int = 15, branched: int = 25, after_earlier: int = 10) -> list[Comparison]:
    """All comparisons.

    Args:
      log: the Optuna database with earlier studies.
      whole: budget of the pruned study, in complete trials.
      branched: number of trials of the study with branches.
      after_earlier: number of trials of each study after earlier ones.
    """
    names = optuna.get_all_study_names(f"sqlite:///{log}")
    chosen = [
        Comparison(
            "pruned network@breast_cancer",
            NetworkWithReports("breast_cancer"),
            (TPE, OURS),
            whole // 3 * EPOCHS,
            whole * EPOCHS,
            pruned=True,
        ),
        Comparison(
            "one of three models@wine",
            OneOfModels(("logistic", "boosting", "mlp"), "wine"),
            (TPE, OURS),
            branched * 2 // 5,
            branched,
        ),
    ]
    for pair in PAIRS_WITH_EARLIER:
        model, _ = pair.split("@")
        earlier = tuple(name for name in names if name.startswith(f"{model}@"))
        chosen.append(
            Comparison(
                f"{pair} after earlier studies",
                CrossValidated(pair),
                (BEGUN, OURS, TOLD),
                after_earlier // 3,
                after_earlier,
                earlier=earlier,
            )
        )
    return chosen


def compare(chosen: Sequence[Comparison], seeds: int, log: Path, database: Path) -> dict[str, dict[str, np.ndarray]]:
    """Runs all comparisons in two processes.

    Args:
      chosen: the comparisons.
      seeds: number of studies of each engine.
      log: the Optuna database with the earlier studies.
      database: database to which the studies of the first seed are written as `NAME, ENGINE`; an existing file is
        replaced.

    Returns:
      Name of the comparison -> engine -> float64 [seed, budget], the best value so far after each epoch or trial, NaN
      before the first finished trial.
    """
    database.unlink(missing_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    best: dict[str, dict[str, list[np.ndarray]]] = {}
    # Seed by seed, so that slow jobs are spread evenly.
    jobs = [
        (comparison, engine, seed, log)
        for seed, comparison in itertools.product(range(seeds), chosen)
        for engine in comparison.engines
    ]
    for (comparison, engine, seed, _), trials in in_two_processes(_tuned, jobs, "studies"):
        best.setdefault(comparison.name, {}).setdefault(engine, []).append(best_by_budget(comparison, trials))
        if seed == 0:
            study = optuna.create_study(storage=storage, study_name=study_name(comparison, engine))
            study.add_trials(trials)
    storage.remove_session()
    return {name: {engine: np.stack(rows) for engine, rows in of_name.items()} for name, of_name in best.items()}


def study_name(comparison: Comparison, engine: str) -> str:
    """Name of the first seed's study in the database of `compare`."""
    return f"{comparison.name}, {engine}"


def _tuned(comparison: Comparison, engine: str, seed: int, log: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of one study, which ends when its budget is used up."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    earlier = [optuna.load_study(study_name=name, storage=f"sqlite:///{log}") for name in comparison.earlier]
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed)
    if engine in (OURS, TOLD):
        sampler = OptFormerSampler("nano", seed=seed, prior_studies=earlier if engine == TOLD else ())
    pruner = optuna.pruners.MedianPruner() if comparison.pruned else optuna.pruners.NopPruner()
    study = optuna.create_study(study_name=comparison.name, sampler=sampler, pruner=pruner)
    if engine == BEGUN:
        for each in earlier:
            study.enqueue_trial(each.best_params, skip_if_exists=True)

    def stop_when_spent(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        if spent(comparison, study.trials)[-1] >= comparison.budget:
            study.stop()

    study.optimize(comparison.objective, callbacks=[stop_when_spent])
    return study.trials


def spent(comparison: Comparison, trials: Sequence[optuna.trial.FrozenTrial]) -> np.ndarray:
    """int [T], the used budget at the end of each trial."""
    costs = [len(trial.intermediate_values) if comparison.pruned else 1 for trial in trials]
    return np.cumsum(costs)


def best_by_budget(comparison: Comparison, trials: Sequence[optuna.trial.FrozenTrial]) -> np.ndarray:
    """float64 [budget], the best finished value after each epoch or trial, NaN before there is one."""
    best = np.full(comparison.budget, np.nan)
    for trial, at in zip(trials, spent(comparison, trials), strict=True):
        if trial.state == optuna.trial.TrialState.COMPLETE and trial.value is not None:
            best[at - 1 :] = np.fmin(best[at - 1 :], trial.value)
    return best
