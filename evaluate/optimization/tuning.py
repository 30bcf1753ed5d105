"""Runs one optimizer on one problem: the tuning loop, best-so-far curves, normalized regret."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from vizier import algorithms as vza
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.teachers.optuna import OptunaDesigner

DesignerFactory = Callable[[vz.ProblemStatement, int], vza.Designer]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of one optimizer on one problem with one seed.

    Attributes:
      trials: every trial in order, the shared first ones included.
      values: float64 [T], objective in the problem's own units, NaN where infeasible.
      best: float64 [T], best value so far.
      seconds: float64 [T], wall time of each suggestion (0 for the shared first ones).
    """

    trials: list[vz.Trial]
    values: np.ndarray
    best: np.ndarray
    seconds: np.ndarray


def random_trials(experimenter: experimenters.Experimenter, count: int, seed: int) -> list[vz.Trial]:
    """Evaluated random trials, numbered from 1; the same for the same seed."""
    problem = experimenter.problem_statement()
    suggestions = OptunaDesigner(problem, "random", seed).suggest(count)
    trials = [vz.Trial(parameters=s.parameters, id=i + 1) for i, s in enumerate(suggestions)]
    experimenter.evaluate(trials)
    return trials


def tune(
    experimenter: experimenters.Experimenter,
    factory: DesignerFactory,
    first_trials: Sequence[vz.Trial],
    num_trials: int,
    seed: int,
    after_trial: Callable[[], None] = lambda: None,
) -> Run:
    """Runs a designer on a problem until there are `num_trials` trials, including the given first ones.

    Args:
      experimenter: the problem.
      factory: (problem statement, seed) -> designer.
      first_trials: completed trials that the designer gets before it suggests.
      num_trials: T, including the first ones.
      seed: seed for the factory.
      after_trial: called after each evaluation, for progress bars.
    """
    problem = experimenter.problem_statement()
    trials, seconds = list(first_trials), [0.0] * len(first_trials)
    for trial, waited in tuning(experimenter, factory(problem, seed), first_trials, num_trials):
        trials.append(trial)
        seconds.append(waited)
        after_trial()
    values = objective_values(problem, trials)
    return Run(trials, values, best_so_far(problem, values), np.asarray(seconds))


def tuning(
    experimenter: experimenters.Experimenter, designer: vza.Designer, first_trials: Sequence[vz.Trial], num_trials: int
) -> Iterator[tuple[vz.Trial, float]]:
    """Yields each further evaluated trial and the wall time of its suggestion in seconds; arguments as for `tune`.

    Raises:
      RuntimeError: the designer has no further suggestion.
    """
    designer.update(vza.CompletedTrials(list(first_trials)), vza.ActiveTrials())
    for number in range(len(first_trials) + 1, num_trials + 1):
        started = time.perf_counter()
        suggestions = designer.suggest(1)
        seconds = time.perf_counter() - started
        if not suggestions:
            raise RuntimeError(f"the designer {designer!r} has no suggestion after {number - 1} trials")
        trial = suggestions[0].to_trial(number)
        experimenter.evaluate([trial])
        designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())
        yield trial, seconds


def objective_values(problem: vz.ProblemStatement, trials: Sequence[vz.Trial]) -> np.ndarray:
    """float64 [T], values of the only objective in its own units, NaN for infeasible trials."""
    metric = single_objective(problem).name
    return np.array(
        [
            np.nan
            if trial.infeasible or trial.final_measurement is None
            else trial.final_measurement.metrics[metric].value
            for trial in trials
        ]
    )


def single_objective(problem: vz.ProblemStatement) -> vz.MetricInformation:
    """The only objective of a study.

    Raises:
      ValueError: the study has several objectives, or none.
    """
    return problem.metric_information.of_type(vz.MetricType.OBJECTIVE).item()


def maximizes(problem: vz.ProblemStatement) -> bool:
    """Whether the single objective's goal is to maximize."""
    return single_objective(problem).goal == vz.ObjectiveMetricGoal.MAXIMIZE


def best_so_far(problem: vz.ProblemStatement, values: np.ndarray) -> np.ndarray:
    """float64 [T], running best, NaN before the first feasible trial."""
    sign = 1.0 if maximizes(problem) else -1.0
    return sign * np.fmax.accumulate(sign * values)


def is_flat(optimum: float, reference: float) -> bool:
    """Whether optimum and reference agree in six digits, as many as stored runs keep: then regret has no scale."""
    return bool(np.isclose(optimum, reference, rtol=1e-6, atol=0.0))


def normalized_regret(best: np.ndarray, optimum: float, reference: float) -> np.ndarray:
    """(optimum - best) / (optimum - reference): 0 at the optimum, 1 at the reference, whatever the goal.

    It is 1 minus the measure of Chen et al. 2022, section 6.2, where the reference is the median of random trials.

    Args:
      best: [..., T] best values so far.
      optimum: the best known value of the problem.
      reference: value with regret 1.

    Raises:
      ValueError: optimum and reference are equal.
    """
    if optimum == reference:
        raise ValueError("the optimum equals the reference: the problem is flat, so the regret has no scale")
    return (optimum - best) / (optimum - reference)
