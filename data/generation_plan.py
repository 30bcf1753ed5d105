"""What a generated corpus is made of: problems x teachers, as they are asked for and as they can be."""

import dataclasses
import functools

from optformer.data.problems import registry
from optformer.data.problems.randomized_bbob import LARGEST
from optformer.data.teachers.registry import TEACHERS


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a corpus is made of.

    Attributes:
      problems: families, of `registry.FAMILIES`, which take turns; one that is named twice has two.
      teachers: names, which take turns.
      studies: how many.
      trials: fewest and most trials of a study, drawn uniformly.
      largest_dimension: most parameters of a problem; those that have more are left out.
      infeasible_rate: share of studies with a region that fails.
      noise_rate: share of noisy problems of BBOB; None: the paper's ten kinds, no noise among them, equally often.
      seed: of everything.
      yahpo_dir: folder of YAHPO's scenarios.
      hpob_dir: folder of HPO-B's files.
      hpob_starts: whether studies of HPO-B begin with one of its five starts, where the data set has them.
    """

    problems: tuple[str, ...] = ("bbob",)
    teachers: tuple[str, ...] = ("random_search",)
    studies: int = 100
    trials: tuple[int, int] = (100, 100)
    largest_dimension: int = LARGEST
    infeasible_rate: float = 0.0
    seed: int = 0
    yahpo_dir: str | None = None
    hpob_dir: str | None = None
    hpob_starts: bool = False
    noise_rate: float | None = None

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError("name at least one family of problems")
        for name in self.problems:
            if name not in registry.FAMILIES:
                raise ValueError(f"no problems {name!r}; known are {', '.join(registry.FAMILIES)}")
        if self.hpob_starts and not any(name.startswith("hpob") for name in self.problems):
            raise ValueError("HPO-B's starts are wanted, and hpob is not among the problems")
        if not self.teachers:
            raise ValueError("name at least one teacher")
        for name in self.teachers:
            if name not in TEACHERS:
                raise ValueError(f"no teacher {name!r}; known are {', '.join(TEACHERS)}")
            if not TEACHERS[name].available:
                missing = ", ".join(TEACHERS[name].needs)
                raise ValueError(f"teacher {name} ({TEACHERS[name].library}) needs what is not installed: {missing}")
        if self.studies < 1:
            raise ValueError(f"the number of studies is at least 1, not {self.studies}")
        if not 1 <= self.trials[0] <= self.trials[1]:
            raise ValueError(f"the numbers of trials are 1 or more, the fewest first, not {self.trials}")
        if not 2 <= self.largest_dimension <= LARGEST:
            raise ValueError(f"the largest dimension lies between 2 and {LARGEST}, not {self.largest_dimension}")
        if not 0.0 <= self.infeasible_rate <= 1.0:
            raise ValueError(f"the share of studies with failures lies in [0, 1], not {self.infeasible_rate}")
        if self.noise_rate is not None and not 0.0 <= self.noise_rate <= 1.0:
            raise ValueError(f"the share of noisy problems lies in [0, 1], not {self.noise_rate}")
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, not {self.seed}")

    @property
    def settings(self) -> registry.Settings:
        """What its problems are made with."""
        return registry.Settings(
            self.largest_dimension, self.yahpo_dir, self.hpob_dir, self.hpob_starts, self.noise_rate
        )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which teacher meets which problem.

    Attributes:
      turns: of each family that has any, problems and teachers in their order.
      left_out: what the plan asks for and cannot be, each with its reason.
    """

    turns: tuple[tuple[str, tuple[tuple[registry.Problem, str], ...]], ...]
    left_out: tuple[str, ...]

    def of(self, index: int) -> tuple[str, registry.Problem, str]:
        """Family, problem and teacher of a study.

        The families take turns; in each, all teachers meet one problem before the next, so that every teacher sees
        every problem that it can equally often.
        """
        family, pairs = self.turns[index % len(self.turns)]
        problem, teacher = pairs[index // len(self.turns) % len(pairs)]
        return family, problem, teacher


@functools.lru_cache(maxsize=8)
def schedule(plan: Plan) -> Schedule:
    """The schedule of a plan.

    Raises:
      ValueError: a family's files are missing or damaged, or no teacher can meet any problem.
      ModuleNotFoundError: a library is missing (says what).
    """
    turns, left_out = [], []
    for family in plan.problems:
        members = registry.problems(family, plan.settings)
        fitting = [member for member in members if (member.parameters or 0) <= plan.largest_dimension]
        if len(fitting) < len(members):
            many = f"{len(members) - len(fitting):,} of {len(members):,} problems"
            left_out.append(f"{family}: {many} have more than {plan.largest_dimension} parameters")
        beginning = [member for member in fitting if isinstance(member, registry.HPOBProblem)]
        startless = sum(not member.starts for member in beginning) if plan.hpob_starts else 0
        if startless:
            left_out.append(f"{family}: starts, of {startless:,} of {len(beginning):,} problems, which have none")
        flat = [teacher for teacher in plan.teachers if not TEACHERS[teacher].conditional]
        conditional = sum(member.conditional for member in fitting)
        if flat and conditional:
            many = f"{conditional:,} of {len(fitting):,} problems"
            left_out.append(
                f"{family}: {many} have conditional search spaces, which these teachers do not take: {', '.join(flat)}"
            )
        pairs = tuple(
            (member, teacher)
            for member in fitting
            for teacher in plan.teachers
            if TEACHERS[teacher].conditional or not member.conditional
        )
        if pairs:
            turns.append((family, pairs))
    if not turns:
        raise ValueError(f"no teacher can meet any problem: {'; '.join(left_out)}")
    return Schedule(tuple(turns), tuple(dict.fromkeys(left_out)))
