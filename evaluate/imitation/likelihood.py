"""Log-likelihoods of trajectories under the policy with a given name, and the name with the highest likelihood."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from vizier import pyvizier as vz

from optformer.facade import OptFormer
from optformer.serialization import tokens

NONE: Final = "none"
"""Key for the policy without a name."""


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of one trajectory under one name, in nats.

    Attributes:
      per_parameter: mean over trials of the mean over the active parameters.
      over_uniform: the same, minus that of a policy that is uniform over the levels of each parameter.
      total: sum over trials.
    """

    per_parameter: float
    over_uniform: float
    total: float


def likelihood(model: OptFormer, study: vz.ProblemAndTrials, algorithm: str | None, trials: int) -> Likelihood:
    """Teacher-forced log-likelihood of each of the first `trials` trials given those before it."""
    search = model.search(study.problem, study.trials[:trials], algorithm=algorithm)
    found = search.trajectory_log_probability()
    active = search.study.x_tokens < tokens.NUM_LEVELS
    uniform = -np.log(search.study.schema.slot_levels)[None] * active
    count = active.sum()
    return Likelihood(
        float(found[active].sum() / count), float((found - uniform)[active].sum() / count), float(found[active].sum())
    )


@dataclasses.dataclass(frozen=True)
class Identification:
    """Which teacher the model identifies as the optimizer of a history.

    Attributes:
      names: K teachers.
      likelihoods: teacher -> name that the model gets (or `none`) -> mean over its trajectories.
      matrix: [K, K], share of each teacher's (row) trajectories that are most likely under each name.
      accuracy: share of all trajectories that are most likely under their own teacher's name.
      trajectories: number of trajectories of each teacher.
    """

    names: list[str]
    likelihoods: dict[str, dict[str, Likelihood]]
    matrix: np.ndarray
    accuracy: float
    trajectories: int


def identify(
    model: OptFormer,
    studies: Mapping[str, Sequence[vz.ProblemAndTrials]],
    trials: int,
    after_study: Callable[[], object] = lambda: None,
) -> Identification:
    """Identifies the teachers of trajectories; all teachers have the same prior probability.

    Args:
      model: the model, which gets each name in turn.
      studies: teacher -> its trajectories.
      trials: number of trials of each trajectory that are used.
      after_study: called after each trajectory.
    """
    names = list(studies)
    matrix = np.zeros((len(names), len(names)))
    means: dict[str, dict[str, Likelihood]] = {}
    right = count = 0
    for row, teacher in enumerate(names):
        found: dict[str, list[Likelihood]] = {name: [] for name in [*names, NONE]}
        for study in studies[teacher]:
            for name, values in found.items():
                values.append(likelihood(model, study, None if name == NONE else name, trials))
            likeliest = int(np.argmax([found[name][-1].total for name in names]))
            matrix[row, likeliest] += 1
            right += likeliest == row
            count += 1
            after_study()
        means[teacher] = {name: _mean(values) for name, values in found.items()}
    sizes = matrix.sum(axis=1, keepdims=True)
    return Identification(
        names,
        means,
        matrix / np.maximum(sizes, 1),
        right / max(count, 1),
        int(sizes.min(initial=np.inf) if count else 0),
    )


def _mean(values: Sequence[Likelihood]) -> Likelihood:
    fields = [dataclasses.astuple(value) for value in values]
    return Likelihood(*(float(value) for value in np.mean(fields, axis=0)))
