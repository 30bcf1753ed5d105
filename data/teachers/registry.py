"""The teachers: optimizers whose studies are generated and imitated, by their name in a study's metadata.

    designer = make_teacher("regularized_evolution", problem, seed=0)

Seven are from Chen et al. 2022, appendix C.3, and three from Optuna.  Each is a library's own implementation.  The same
problem, seed and results give the same suggestions.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any, Final

from vizier import algorithms as vza
from vizier import pyvizier as vz

GRID_POINTS: Final = 100
"""Grid points of a continuous parameter, evenly spaced on its scale, as in the paper."""

Factory = Callable[[vz.ProblemStatement, int], vza.Designer]


@dataclasses.dataclass(frozen=True)
class Teacher:
    """An optimizer to imitate.

    Attributes:
      make: problem, seed -> designer.
      library: the library that implements it.
      conditional: whether it accepts conditional search spaces.
      needs: required modules beyond the extras `baselines` and `optuna`.
    """

    make: Factory
    library: str
    conditional: bool = False
    needs: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether its required modules are installed."""
        return all(importlib.util.find_spec(module) is not None for module in self.needs)


def _grid(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    from vizier._src.algorithms.designers.grid import GridSearchDesigner  # `vizier.algorithms.designers` needs cvxpy

    return GridSearchDesigner(problem.search_space, double_grid_resolution=GRID_POINTS)


def _shuffled_grid(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    from vizier._src.algorithms.designers.grid import GridSearchDesigner

    return GridSearchDesigner(problem.search_space, shuffle_seed=seed, double_grid_resolution=GRID_POINTS)


def _eagle(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    from vizier._src.algorithms.designers.eagle_strategy.eagle_strategy import EagleStrategyDesigner

    return EagleStrategyDesigner(problem, seed=seed)


def _gp_ucb(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    from optformer.data.teachers.gp_bandit import gp_bandit

    return gp_bandit(problem, seed)


def _optuna(sampler: str) -> Factory:
    def make(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
        from optformer.data.teachers.optuna import OptunaDesigner

        return OptunaDesigner(problem, sampler, seed)

    return make


def _optuna_gp(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    import optuna

    from optformer.data.teachers.optuna import OptunaDesigner

    sampler = optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
    return OptunaDesigner(problem, sampler)


def _pyglove(algorithm: str) -> Factory:
    def make(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
        from optformer.data.teachers import pyglove

        return pyglove.PyGloveDesigner(problem, getattr(pyglove, algorithm), seed)

    return make


TEACHERS: Final[dict[str, Teacher]] = {
    "grid_search": Teacher(_grid, "Vizier"),
    "shuffled_grid_search": Teacher(_shuffled_grid, "Vizier"),
    "random_search": Teacher(_optuna("random"), "Optuna", conditional=True),
    "regularized_evolution": Teacher(_pyglove("regularized_evolution"), "PyGlove", conditional=True),
    "hill_climb": Teacher(_pyglove("hill_climb"), "PyGlove", conditional=True),
    "eagle_strategy": Teacher(_eagle, "Vizier"),
    "gp_ucb": Teacher(_gp_ucb, "Vizier", needs=("jaxopt", "tensorflow_probability", "typeguard")),
    "tpe": Teacher(_optuna("tpe"), "Optuna", conditional=True),
    "cma_es": Teacher(_optuna("cma_es"), "Optuna", conditional=True),
    "gp": Teacher(_optuna_gp, "Optuna", conditional=True, needs=("torch",)),
}
"""Name in the metadata -> teacher."""

PAPER: Final = tuple(TEACHERS)[:7]


def make_teacher(name: str, problem: vz.ProblemStatement, seed: int = 0) -> vza.Designer:
    """A new designer without trials.

    Args:
      name: name in `TEACHERS`.
      problem: a single-objective study.
      seed: seed of its random choices.

    Raises:
      ValueError: no such teacher, several objectives, or a conditional space that it does not accept.
      ModuleNotFoundError: a required module is not installed; the message names it.
    """
    if name not in TEACHERS:
        raise ValueError(f"no teacher {name!r}; known are {', '.join(TEACHERS)}")
    teacher = TEACHERS[name]
    objectives: Any = problem.metric_information.of_type(vz.MetricType.OBJECTIVE)
    if len(objectives) != 1:
        raise ValueError(f"{name} needs exactly one objective, but the problem has {len(objectives)}")
    if problem.search_space.is_conditional and not teacher.conditional:
        raise ValueError(f"{name} ({teacher.library}) does not support conditional search spaces")
    for module in teacher.needs:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(
                f"{name} ({teacher.library}) needs {module!r}, which is not installed", name=module
            )
    return teacher.make(problem, seed)
