"""The plan of a generated corpus, and the schedule of the combinations of problems and teachers that are possible."""

import dataclasses
import functools
from typing import NamedTuple

from optformer.data.generation import openings
from optformer.data.generation.orders import ORDERS
from optformer.data.problems import registry
from optformer.data.problems.randomized_bbob import LARGEST
from optformer.data.teachers.registry import TEACHERS


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a corpus.

    Attributes:
      problems: families of `registry.FAMILIES`, used in turn; a family that is named twice has two turns.
      teachers: names of teachers and of orders (`orders.ORDERS`), used in turn; one named twice has two turns.
      studies: number of studies.
      trials: smallest and largest number of trials of a study; drawn uniformly.
      largest_dimension: most parameters of a problem; problems with more are left out.
      infeasible_rate: share of studies with a region where trials fail.
      disguise_rate: share of studies whose problem has other names, narrower ranges or fewer parameters.  If above 0,
        problems with more than `largest_dimension` parameters are always disguised instead of left out.
      noise_rate: share of noisy problems of BBOB; None: the ten settings of the paper equally often, one without noise.
      seed: seed of the corpus.
      yahpo_dir: folder of YAHPO's scenarios.
      hpob_dir: folder of HPO-B's files.
      hpob_starts: whether studies of HPO-B begin with one of its five sets of first trials, if the data set has them.
      tables_dir: folder of measured tables.
      curves: whether trials of YAHPO's problems report at some fractions of their budget.
      openings: file of a generated corpus, whose studies are continued by other teachers: the first trials come from
        the corpus, and at least the last one from the new teacher.
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
    tables_dir: str | None = None
    disguise_rate: float = 0.0
    curves: bool = False
    openings: str | None = None

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError("name at least one family of problems")
        for name in self.problems:
            if name not in registry.FAMILIES:
                raise ValueError(f"no problems {name!r}; known are {', '.join(registry.FAMILIES)}")
        if self.hpob_starts and not any(name.startswith("hpob") for name in self.problems):
            raise ValueError("HPO-B's starts need hpob among the problems")
        if self.curves and not any(name.startswith("yahpo") for name in self.problems):
            raise ValueError("curves need yahpo among the problems")
        if self.hpob_starts and self.disguise_rate:
            raise ValueError("HPO-B's starts cannot be used with disguised studies, which have other search spaces")
        if not self.teachers:
            raise ValueError("name at least one teacher")
        for name in self.teachers:
            if name in ORDERS:
                if self.openings is not None:
                    raise ValueError(f"{name} is an order of trials: it cannot continue another teacher's study")
                continue
            if name not in TEACHERS:
                raise ValueError(f"no teacher {name!r}; known are {', '.join([*TEACHERS, *ORDERS])}")
            if not TEACHERS[name].available:
                missing = ", ".join(TEACHERS[name].needs)
                raise ValueError(f"teacher {name} ({TEACHERS[name].library}) needs what is not installed: {missing}")
        if self.studies < 1:
            raise ValueError(f"the number of studies must be at least 1, not {self.studies}")
        if not 1 <= self.trials[0] <= self.trials[1]:
            raise ValueError(f"the numbers of trials must be at least 1, the smaller one first, not {self.trials}")
        if self.openings is not None and self.trials[0] < 2:
            raise ValueError(f"studies with openings need at least 2 trials, not {self.trials[0]}")
        if not 2 <= self.largest_dimension <= LARGEST:
            raise ValueError(f"the largest dimension must be from 2 to {LARGEST}, not {self.largest_dimension}")
        if not 0.0 <= self.infeasible_rate <= 1.0:
            raise ValueError(f"the share of studies with failures must lie in [0, 1], not {self.infeasible_rate}")
        if not 0.0 <= self.disguise_rate <= 1.0:
            raise ValueError(f"the share of disguised studies must lie in [0, 1], not {self.disguise_rate}")
        if self.noise_rate is not None and not 0.0 <= self.noise_rate <= 1.0:
            raise ValueError(f"the share of noisy problems must lie in [0, 1], not {self.noise_rate}")
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, not {self.seed}")

    @property
    def settings(self) -> registry.Settings:
        """Settings with which its problems are made."""
        return registry.Settings(
            self.largest_dimension,
            self.yahpo_dir,
            self.hpob_dir,
            self.hpob_starts,
            self.noise_rate,
            self.tables_dir,
            self.curves,
        )


class Turn(NamedTuple):
    """The parts of a study: a family, a problem of it, a teacher, and the opening that it continues, if any."""

    family: str
    problem: registry.Problem
    teacher: str
    opening: openings.Opening | None = None


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The combinations of problems and teachers.

    Attributes:
      turns: turns of each family that has any.
      left_out: what the plan asks for and is not possible, each with its reason.
    """

    turns: tuple[tuple[Turn, ...], ...]
    left_out: tuple[str, ...]

    def of(self, index: int) -> Turn:
        """The turn of study `index`.

        The families alternate.  Within a family, all teachers get one problem before the next one, so that each teacher
        sees each problem that it accepts equally often.  Every opening is continued once before any is a second time.
        """
        turns = self.turns[index % len(self.turns)]
        return turns[index // len(self.turns) % len(turns)]


@functools.lru_cache(maxsize=8)
def schedule(plan: Plan) -> Schedule:
    """The schedule of a plan.

    Raises:
      ValueError: a family's files are missing or damaged, or no teacher accepts any of the problems.
      ModuleNotFoundError: a library is missing; the message names it.
    """
    turns, left_out = [], []
    for family in plan.problems:
        members = registry.problems(family, plan.settings)
        fitting = [
            member for member in members if plan.disguise_rate or (member.parameters or 0) <= plan.largest_dimension
        ]
        if len(fitting) < len(members):
            many = f"{len(members) - len(fitting):,} of {len(members):,} problems"
            left_out.append(f"{family}: {many} have more than {plan.largest_dimension} parameters")
        beginning = [member for member in fitting if isinstance(member, registry.HPOBProblem)]
        startless = sum(not member.starts for member in beginning) if plan.hpob_starts else 0
        if startless:
            left_out.append(f"{family}: {startless:,} of {len(beginning):,} problems have no starts")
        flat = [teacher for teacher in plan.teachers if not _takes_conditions(teacher)]
        conditional = sum(member.conditional for member in fitting)
        if flat and conditional:
            many = f"{conditional:,} of {len(fitting):,} problems"
            left_out.append(
                f"{family}: {many} have conditional search spaces, which these teachers do not support: "
                f"{', '.join(flat)}"
            )
        if plan.openings is None:
            met = tuple(Turn(family, member, teacher) for member in fitting for teacher in _takers(plan, member))
        else:
            met = _changes_of_hands(plan, family, {member.name: member for member in fitting})
            if not met:
                left_out.append(f"{family}: {plan.openings} has no study of it that another teacher could continue")
        if met:
            turns.append(met)
    if not turns:
        raise ValueError(f"no teacher accepts any of the problems: {'; '.join(left_out)}")
    return Schedule(tuple(turns), tuple(dict.fromkeys(left_out)))


def _takers(plan: Plan, problem: registry.Problem) -> list[str]:
    return [teacher for teacher in plan.teachers if _takes_conditions(teacher) or not problem.conditional]


def _takes_conditions(teacher: str) -> bool:
    return teacher in ORDERS or TEACHERS[teacher].conditional


def _changes_of_hands(plan: Plan, family: str, members: dict[str, registry.Problem]) -> tuple[Turn, ...]:
    """Turns with openings: each opening with one teacher, then each with another, ...; consecutive turns have different
    teachers."""
    found: list[tuple[int, int, Turn]] = []
    for place, opening in enumerate(openings.read_openings(plan.openings or "")):
        member = members.get(opening.facts["problem"])
        if opening.facts["source"] != family or member is None or not opening.length:
            continue
        others = [teacher for teacher in _takers(plan, member) if teacher != opening.facts["algorithm"]]
        for number in range(len(others)):
            teacher = others[(place + number) % len(others)]
            found.append((number, place, Turn(family, member, teacher, opening)))
    return tuple(turn for *_, turn in sorted(found, key=lambda each: each[:2]))
