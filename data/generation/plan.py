"""What a generated corpus is made of: problems x teachers, as they are asked for and as they can be."""

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
    """What a corpus is made of.

    Attributes:
      problems: families, of `registry.FAMILIES`, which take turns; one that is named twice has two.
      teachers: names of teachers and of orders (`orders.ORDERS`), which take turns; one that is named twice has two.
      studies: how many.
      trials: fewest and most trials of a study, drawn uniformly.
      largest_dimension: most parameters of a problem; those that have more are left out.
      infeasible_rate: share of studies with a region that fails.
      disguise_rate: share of studies whose problem has other names, narrower ranges or fewer parameters; above 0,
        problems with more than `largest_dimension` parameters are not left out, but always disguised.
      noise_rate: share of noisy problems of BBOB; None: the paper's ten kinds, no noise among them, equally often.
      seed: of everything.
      yahpo_dir: folder of YAHPO's scenarios.
      hpob_dir: folder of HPO-B's files.
      hpob_starts: whether studies of HPO-B begin with one of its five starts, where the data set has them.
      tables_dir: folder of measured tables.
      curves: whether trials of YAHPO's problems report at some shares of their budget.
      openings: a generated corpus; the first trials of its studies are gone on with, by another teacher than theirs,
        which makes at least the last trial.
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
            raise ValueError("HPO-B's starts are wanted, and hpob is not among the problems")
        if self.curves and not any(name.startswith("yahpo") for name in self.problems):
            raise ValueError("curves are wanted, and yahpo is not among the problems")
        if self.hpob_starts and self.disguise_rate:
            raise ValueError("HPO-B's starts are configurations of its own spaces: disguised studies have none")
        if not self.teachers:
            raise ValueError("name at least one teacher")
        for name in self.teachers:
            if name in ORDERS:
                if self.openings is not None:
                    raise ValueError(f"{name} is an order of trials: it cannot go on with another's study")
                continue
            if name not in TEACHERS:
                raise ValueError(f"no teacher {name!r}; known are {', '.join([*TEACHERS, *ORDERS])}")
            if not TEACHERS[name].available:
                missing = ", ".join(TEACHERS[name].needs)
                raise ValueError(f"teacher {name} ({TEACHERS[name].library}) needs what is not installed: {missing}")
        if self.studies < 1:
            raise ValueError(f"the number of studies is at least 1, not {self.studies}")
        if not 1 <= self.trials[0] <= self.trials[1]:
            raise ValueError(f"the numbers of trials are 1 or more, the fewest first, not {self.trials}")
        if self.openings is not None and self.trials[0] < 2:
            raise ValueError(f"a study that changes hands has 2 trials or more, not {self.trials[0]}")
        if not 2 <= self.largest_dimension <= LARGEST:
            raise ValueError(f"the largest dimension lies between 2 and {LARGEST}, not {self.largest_dimension}")
        if not 0.0 <= self.infeasible_rate <= 1.0:
            raise ValueError(f"the share of studies with failures lies in [0, 1], not {self.infeasible_rate}")
        if not 0.0 <= self.disguise_rate <= 1.0:
            raise ValueError(f"the share of disguised studies lies in [0, 1], not {self.disguise_rate}")
        if self.noise_rate is not None and not 0.0 <= self.noise_rate <= 1.0:
            raise ValueError(f"the share of noisy problems lies in [0, 1], not {self.noise_rate}")
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, not {self.seed}")

    @property
    def settings(self) -> registry.Settings:
        """What its problems are made with."""
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
    """What a study is made of: a problem of a family, a teacher, and the study that it goes on with, if any."""

    family: str
    problem: registry.Problem
    teacher: str
    opening: openings.Opening | None = None


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which teacher meets which problem.

    Attributes:
      turns: of each family that has any, in their order.
      left_out: what the plan asks for and cannot be, each with its reason.
    """

    turns: tuple[tuple[Turn, ...], ...]
    left_out: tuple[str, ...]

    def of(self, index: int) -> Turn:
        """What a study is made of.

        The families take turns; in each, all teachers meet one problem before the next, so that every teacher sees
        every problem that it can equally often.  Openings are gone on with once each before any is a second time.
        """
        turns = self.turns[index % len(self.turns)]
        return turns[index // len(self.turns) % len(turns)]


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
        fitting = [
            member for member in members if plan.disguise_rate or (member.parameters or 0) <= plan.largest_dimension
        ]
        if len(fitting) < len(members):
            many = f"{len(members) - len(fitting):,} of {len(members):,} problems"
            left_out.append(f"{family}: {many} have more than {plan.largest_dimension} parameters")
        beginning = [member for member in fitting if isinstance(member, registry.HPOBProblem)]
        startless = sum(not member.starts for member in beginning) if plan.hpob_starts else 0
        if startless:
            left_out.append(f"{family}: starts, of {startless:,} of {len(beginning):,} problems, which have none")
        flat = [teacher for teacher in plan.teachers if not _takes_conditions(teacher)]
        conditional = sum(member.conditional for member in fitting)
        if flat and conditional:
            many = f"{conditional:,} of {len(fitting):,} problems"
            left_out.append(
                f"{family}: {many} have conditional search spaces, which these teachers do not take: {', '.join(flat)}"
            )
        if plan.openings is None:
            met = tuple(Turn(family, member, teacher) for member in fitting for teacher in _takers(plan, member))
        else:
            met = _changes_of_hands(plan, family, {member.name: member for member in fitting})
            if not met:
                left_out.append(f"{family}: {plan.openings} has no study of it that another teacher could go on with")
        if met:
            turns.append(met)
    if not turns:
        raise ValueError(f"no teacher can meet any problem: {'; '.join(left_out)}")
    return Schedule(tuple(turns), tuple(dict.fromkeys(left_out)))


def _takers(plan: Plan, problem: registry.Problem) -> list[str]:
    return [teacher for teacher in plan.teachers if _takes_conditions(teacher) or not problem.conditional]


def _takes_conditions(teacher: str) -> bool:
    return teacher in ORDERS or TEACHERS[teacher].conditional


def _changes_of_hands(plan: Plan, family: str, members: dict[str, registry.Problem]) -> tuple[Turn, ...]:
    """Every opening with a first teacher, every opening with a second, ...; neighbours have different ones."""
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
