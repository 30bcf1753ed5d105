"""Samples of the next trial after one history: by the teacher, and by the model that imitates it."""

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float, Int32
from vizier import algorithms as vza
from vizier import pyvizier as vz

from optformer.data.teachers.registry import make_teacher
from optformer.evaluate.optimization.tuning import tuning
from optformer.facade import OptFormer
from optformer.serialization.space import StudySchema

if TYPE_CHECKING:
    from vizier.benchmarks.experimenters import Experimenter

BINS: Final = 10
"""Number of bins of a parameter with more values than that."""
_DRAWS_AT_ONCE: Final = 1024


@dataclasses.dataclass(frozen=True)
class Draws:
    """Samples of the next trial after one history.

    Attributes:
      study: the history.
      teacher, model: int32 [N, D], levels of the sampled trials.
      levels: [D], number of levels of each parameter.
    """

    study: vz.ProblemAndTrials
    teacher: Int32[np.ndarray, "draw slot"]
    model: Int32[np.ndarray, "draw slot"]
    levels: Int32[np.ndarray, " slot"]

    def divergence(self) -> float:
        """Kullback-Leibler divergence of the model's histogram from the teacher's, nats, mean over the parameters."""
        return _divergence(self.teacher, self.model, self.levels)

    def floor(self) -> float:
        """The same between two halves of the teacher's draws: the value if the distributions are equal."""
        half = len(self.teacher) // 2
        return _divergence(self.teacher[:half], self.teacher[half:], self.levels)


def _divergence(p: np.ndarray, q: np.ndarray, levels: np.ndarray) -> float:
    found = []
    for column, count in enumerate(levels):
        bins = min(int(count), BINS)
        # Adds half a draw to every bin, since a bin that the model missed by chance is not impossible.
        shares = [
            (np.bincount(each[:, column] * bins // int(count), minlength=bins) + 0.5) / (len(each) + 0.5 * bins)
            for each in (p, q)
        ]
        found.append(float(np.sum(shares[0] * np.log(shares[0] / shares[1]))))
    return float(np.mean(found))


def draw(model: OptFormer, teacher: str, experimenter: "Experimenter", history: int, count: int, seed: int) -> Draws:
    """Runs a teacher, and then samples the next trial from it and from the model.

    Args:
      model: the model, which gets the teacher's name.
      teacher: name of the teacher.
      experimenter: the problem.
      history: number of earlier trials, which the teacher chooses.
      count: N, number of samples.
      seed: seed of all random choices.
    """
    problem = experimenter.problem_statement()
    designer = make_teacher(teacher, problem, seed)
    trials = [trial for trial, _ in tuning(experimenter, designer, [], history)]
    plain = [_bare(trial) for trial in trials]
    schema = StudySchema(problem)
    own = schema.encode(_next_trials(designer, teacher, count))
    drawn = model.search(problem, plain, algorithm=teacher).sample_policy(count, seed)
    return Draws(vz.ProblemAndTrials(problem, plain), own, drawn, schema.slot_levels)


def _bare(trial: vz.Trial) -> vz.Trial:
    """The trial without the teacher's own metadata."""
    bare = vz.Trial(parameters=trial.parameters, id=trial.id)
    measured = trial.final_measurement or vz.Measurement()
    return bare.complete(measured, infeasibility_reason=trial.infeasibility_reason)


def _next_trials(designer: vza.Designer, teacher: str, count: int) -> list[vz.TrialSuggestion]:
    """Independent samples of the next suggestion of a designer."""
    if teacher in ("grid_search", "shuffled_grid_search"):
        return list(designer.suggest(1)) * count
    if teacher != "eagle_strategy":
        # Each call draws a new suggestion from the same state.
        return [designer.suggest(1)[0] for _ in range(count)]
    found = []
    for number in range(count):
        # Each call moves a firefly, so every sample comes from a copy with its own random numbers.
        twin: Any = copy.deepcopy(designer)
        twin._rng.bit_generator.state = np.random.default_rng(number).bit_generator.state
        found.append(twin.suggest(1)[0])
    return found


def density(
    model: OptFormer, study: vz.ProblemAndTrials, algorithm: str | None, cells: int, draws: int = 16_384
) -> Float[np.ndarray, "second first"]:
    """The policy's density over a problem with two parameters, whose ranges are scaled to [0, 1], in square cells.

    Counted from samples: a policy that copies earlier values has much of its mass in single levels, which probabilities
    at the points of a grid would miss.

    Args:
      model: the model.
      study: the history.
      algorithm: name of the optimizer to imitate.
      cells: number of cells per row and column.
      draws: number of samples, rounded up to whole calls of the model.

    Raises:
      ValueError: the problem does not have two parameters.
    """
    search = model.search(study.problem, study.trials, algorithm=algorithm)
    levels = search.study.schema.slot_levels
    if len(levels) != 2:
        raise ValueError(f"a density needs a problem with two parameters, not {len(levels)}")
    calls = -(-draws // _DRAWS_AT_ONCE)
    rows = np.concatenate([search.sample_policy(_DRAWS_AT_ONCE, seed) for seed in range(calls)])
    first, second = (rows * cells // levels).T
    counts = np.bincount(second * cells + first, minlength=cells**2).reshape(cells, cells)
    return counts / len(rows) * float(cells**2)
