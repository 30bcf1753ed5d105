"""Trajectories of teachers, and of the model that imitates them, on functions that the model was not trained on."""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems import bbob
from optformer.data.problems.randomized_bbob import RandomizedBBOB, draw_layout
from optformer.evaluate.optimization.optimizers import Optimizer
from optformer.evaluate.optimization.problems import RandomStart, Scale
from optformer.evaluate.optimization.running import Job, Outcome
from optformer.evaluate.optimization.tuning import objective_values, random_trials

CHECKPOINTS: Final = (20, 40, 60, 80, 100)
"""Numbers of trials after which the best values so far are compared."""


@dataclasses.dataclass(frozen=True)
class ImitationProblem(RandomStart):
    """A held-out BBOB function, as in the teachers' corpora: the instance determines dimension, types and noise."""

    function: str
    instance: int
    largest: int = 16

    family = "bbob-held-out"
    conditional = False

    @property
    def name(self) -> str:
        return f"{self.function} {self.instance}"

    def experimenter(self, seed: int) -> experimenters.Experimenter:
        """The problem.  Its noise depends only on the instance, so that teacher and model get the same noise."""
        return RandomizedBBOB(self.function, self.instance, draw_layout(self.function, self.instance, self.largest))

    def judged(self, trials: Sequence[vz.Trial]) -> np.ndarray:
        layout = draw_layout(self.function, self.instance, self.largest)
        exact = RandomizedBBOB(self.function, self.instance, dataclasses.replace(layout, noise="NO_NOISE"))
        copies = [vz.Trial(parameters=trial.parameters, id=trial.id) for trial in trials]
        exact.evaluate(copies)
        return objective_values(exact.problem_statement(), copies)

    def scale(self) -> Scale:
        values = self.judged(random_trials(self.experimenter(0), 500, seed=10_000))
        return Scale(float(np.median(values)), float(values.max()))


def problems(per_function: int, largest: int) -> list[ImitationProblem]:
    """Instances of each held-out function, none of which is in a corpus of `optformer corpus generate`.

    All have different numbers, since only the number determines dimension, types and noise: two functions with the same
    number would have the same search space.
    """
    return [
        ImitationProblem(function, 500_000 + index * len(bbob.HELD_OUT) + position, largest)
        for index in range(per_function)
        for position, function in enumerate(bbob.HELD_OUT)
    ]


def imitator(teacher: str, checkpoint: str, fingerprint: str) -> Optimizer:
    """An optimizer that samples the model's policy, which imitates the teacher."""
    return Optimizer(f"as {teacher}", checkpoint, fingerprint, algorithm=teacher)


def jobs(
    chosen: Sequence[ImitationProblem], teachers: Sequence[str], checkpoint: str, fingerprint: str, seeds: int
) -> list[Job]:
    """Jobs of every teacher, and of the model that imitates it, on every problem."""
    found = [Job(problem) for problem in chosen]
    for seed in range(seeds):
        for problem in chosen:
            for teacher in teachers:
                for optimizer in (Optimizer(teacher), imitator(teacher, checkpoint, fingerprint)):
                    found.append(Job(problem, optimizer, seed, recorded=True))
    return found


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One run.

    Attributes:
      problem: problem of the run.
      seed: seed of the run.
      study: problem statement, and trials with the objectives that the optimizer got.
    """

    problem: ImitationProblem
    seed: int
    study: vz.ProblemAndTrials


def trajectory(problem: ImitationProblem, seed: int, outcome: Outcome) -> Trajectory:
    """The outcome of a run as a trajectory."""
    statement = problem.experimenter(0).problem_statement()
    metric = statement.metric_information.item().name
    trials = []
    for number, (parameters, value) in enumerate(zip(outcome.parameters, outcome.observed, strict=True), 1):
        trial = vz.Trial(parameters, id=number)
        trials.append(
            trial.complete(vz.Measurement(), infeasibility_reason="not finite")
            if value is None
            else trial.complete(vz.Measurement(metrics={metric: value}))
        )
    return Trajectory(problem, seed, vz.ProblemAndTrials(statement, trials))


@dataclasses.dataclass(frozen=True)
class Progress:
    """Best values so far of model and teacher, on a scale from 0 (median of random points) to 1 (best known).

    Attributes:
      trials: number of trials.
      teacher, model: means over all runs.
      teacher_error, model_error: standard errors of these means.
      paired: mean over problems of the model's mean minus the teacher's.
      paired_error: standard error of `paired`.
      ks: p-value of the Kolmogorov-Smirnov test that the values of both have the same distribution.
      effect: Cohen's d, the difference of the means in standard deviations.
    """

    trials: int
    teacher: float
    teacher_error: float
    model: float
    model_error: float
    paired: float
    paired_error: float
    ks: float
    effect: float

    @property
    def within(self) -> bool:
        """Whether the model's mean lies within two standard errors of the teacher's."""
        return abs(self.model - self.teacher) <= 2 * self.teacher_error


def progress(teacher: np.ndarray, model: np.ndarray, at: int) -> Progress:
    """The progress from best values so far, [P problems, S seeds, T]."""
    a, b = teacher[..., at - 1], model[..., at - 1]
    differences = (b - a).mean(axis=1)
    spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2) if a.size > 1 else 0.0

    def error(values: np.ndarray) -> float:
        return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")

    return Progress(
        at,
        float(a.mean()),
        error(a),
        float(b.mean()),
        error(b),
        float(differences.mean()),
        error(differences),
        float(stats.ks_2samp(a.ravel(), b.ravel()).pvalue),
        float((b.mean() - a.mean()) / spread) if spread > 0 else 0.0,
    )
