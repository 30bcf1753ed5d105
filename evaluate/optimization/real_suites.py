"""Fixed sets of real problems: `real` for judging checkpoints, `real-train` for choosing settings.

| family | `real` | `real-train` |
|---|---|---|
| `yahpo` | 17 tasks of each scenario, on data sets that no scenario trains on | 3 for training |
| `tables` | the tables of files called `validation...`, 4 seeds each | 6 training tables of each source, 1 seed |
| `bbob` | 3 draws of each training function, 2 to 10 parameters of mixed types, no noise | 1 other draw |

A task of YAHPO is one metric on one data set.  A second metric of a data set is used only after all data sets have one.
Scenarios that are held out completely (`lcbench`) are in neither suite.

The choice depends only on names, so the same files give the same problems.  `real-train` is for choosing settings (of
the search, a kernel, a rate).  If settings were chosen on `real`, results on `real` would be too optimistic.

Regret is 0 at the best value known, from a search of 5,000 evaluations or a table's rows, or that any of the optimizers
found; it is 1 at the median of the best of ten random trials.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems import bbob, tables, yahpo
from optformer.data.problems.randomized_bbob import RandomizedBBOB, draw_layout
from optformer.evaluate.optimization.problems import BenchmarkProblem, RandomStart, Scale
from optformer.evaluate.optimization.tuning import maximizes, objective_values
from optformer.inference.candidates import SlotSpace, as_genotypes, configurations, crossed, from_unit_cube, perturbed
from optformer.serialization.space import StudySchema

SUITES: Final = ("real", "real-train")
FAMILIES: Final = ("yahpo", "tables", "bbob")
REFERENCE_TRIALS: Final = 10
"""Regret 1 is the median, over repetitions, of the best of this many random trials."""

_LARGEST_BBOB: Final = 10
_BBOB_SEED: Final = 2_026_000_000
"""First seed of the instances; each function has its own seeds, and so its own parameters."""
_RANDOM_POINTS: Final = 1000
_ROUNDS, _CHILDREN, _PARENTS = 40, 100, 20
_STEPS: Final = np.array([0.01, 0.05, 0.2])
"""Standard deviations of the steps of the search, as shares of a parameter's range."""

T = TypeVar("T")


class RealProblem(BenchmarkProblem, Protocol):
    """A problem of a suite."""

    @property
    def kind(self) -> str:
        """A part of its family with similar problems: a scenario, or a source of tables."""

    @property
    def group(self) -> str:
        """Key of a group of dependent problems: a data set, or a group of tables."""

    @property
    def seeds(self) -> Sequence[int]:
        """Seeds of the runs of each optimizer: equally many for all problems of a family, but different ones.

        With the same seeds, an optimizer would start with the same points on all data sets of a scenario, so the
        results on these data sets would not be independent.
        """


class _Repeated(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def runs(self) -> int: ...


class _Exact(RandomStart):
    """Base class of problems: objectives without noise, and a scale from a search."""

    @property
    def seeds(self: "_Repeated") -> Sequence[int]:
        first = int.from_bytes(_hash(self.name)[:3], "big")
        return range(first, first + self.runs)

    def build(self) -> experimenters.Experimenter:
        raise NotImplementedError

    def experimenter(self, seed: int) -> experimenters.Experimenter:
        return _built(self)

    def judged(self, trials: Sequence[vz.Trial]) -> np.ndarray:
        return objective_values(_statement(self), trials)

    def scale(self) -> Scale:
        return searched_scale(_built(self))


@functools.lru_cache(maxsize=64)
def _built(problem: _Exact) -> experimenters.Experimenter:
    return problem.build()


@functools.lru_cache(maxsize=64)
def _statement(problem: _Exact) -> vz.ProblemStatement:
    return _built(problem).problem_statement()


@dataclasses.dataclass(frozen=True)
class YahpoTask(_Exact):
    """One metric of a scenario's surrogate on a data set."""

    task: yahpo.Task
    conditional: bool

    family = "yahpo"
    runs = 1

    @property
    def kind(self) -> str:
        return self.task.folder.name

    @property
    def name(self) -> str:
        return f"{self.kind} {self.task.instance} {self.task.metric}"

    @property
    def group(self) -> str:
        return self.task.instance

    def build(self) -> experimenters.Experimenter:
        return yahpo.YahpoExperimenter(yahpo.load_scenario(self.task.folder), self.task.instance, self.task.metric)


@dataclasses.dataclass(frozen=True)
class MeasuredTable(_Exact):
    """A measured table of a file."""

    file: Path
    name: str
    runs: int = 4

    family = "tables"

    @property
    def conditional(self) -> bool:
        return self.table().problem.search_space.is_conditional

    @property
    def kind(self) -> str:
        return self.name.split("/")[0]

    @property
    def group(self) -> str:
        return self.table().group

    def table(self) -> tables.Table:
        return tables.load_tables(self.file)[self.name]

    def build(self) -> experimenters.Experimenter:
        return tables.TableExperimenter(self.table())

    def scale(self) -> Scale:
        best = np.nanmax if maximizes(self.table().problem) else np.nanmin
        return dataclasses.replace(super().scale(), best=float(best(self.table().values)))


@dataclasses.dataclass(frozen=True)
class BBOBFunction(_Exact):
    """A training function of BBOB, drawn with a seed."""

    function: str
    instance: int

    family = kind = "bbob"
    conditional = False
    runs = 1

    @property
    def name(self) -> str:
        return f"{self.function} {self.instance}"

    @property
    def group(self) -> str:
        return self.function

    def build(self) -> experimenters.Experimenter:
        layout = draw_layout(self.function, self.instance, _LARGEST_BBOB, noise_rate=0.0)
        return RandomizedBBOB(self.function, self.instance, layout)


# --- The scale of regrets ---


def searched_scale(experimenter: experimenters.Experimenter) -> Scale:
    """Scale from random points, and an evolutionary search that starts from them.

    The median of the best of n values is the quantile of a single value at level 0.5 ** (1 / n), from the worst on;
    failed trials are the worst.

    Raises:
      ValueError: so many random points fail that more often than not all of ten random trials fail.
    """
    problem = experimenter.problem_statement()
    schema, sign = StudySchema(problem), 1.0 if maximizes(problem) else -1.0
    space, rng = SlotSpace.of(schema), np.random.default_rng(10_000)

    def values(genes: np.ndarray) -> np.ndarray:
        trials = [vz.Trial(schema.decode_parameters(row)) for row in configurations(genes, space)]
        experimenter.evaluate(trials)
        found = sign * objective_values(problem, trials)
        return np.where(np.isfinite(found), found, -np.inf)

    genes = from_unit_cube(rng.random((_RANDOM_POINTS, space.slots)), space)
    found = values(genes)
    reference = float(np.quantile(found, 0.5 ** (1 / REFERENCE_TRIALS), method="lower"))
    if not np.isfinite(reference):
        raise ValueError(f"too many random trials fail (often all of {REFERENCE_TRIALS}), so the regret has no scale")
    for _ in range(_ROUNDS):
        best = np.argsort(-found, kind="stable")[:_PARENTS]
        genes, found = genes[best], found[best]
        parents = as_genotypes(rng, genes, space)
        near = perturbed(rng, parents, _CHILDREN // 2, space, _STEPS)
        children = np.concatenate([near, crossed(rng, parents, _CHILDREN // 2, space)])
        genes, found = np.concatenate([genes, children]), np.concatenate([found, values(children)])
    return Scale(sign * reference, sign * float(found.max()))


# --- Which problems ---


def suite(name: str, yahpo_dir: str, tables_dir: str) -> "list[RealProblem]":
    """The problems of a suite, ordered so that the first ones are of all kinds.

    Args:
      name: one of `SUITES`.
      yahpo_dir: folder of YAHPO's scenarios.
      tables_dir: folder of measured tables.

    Raises:
      ValueError: files are missing or damaged, or have no problem for this suite.
    """
    validation = name == "real"
    of_yahpo = _yahpo(yahpo_dir, validation, 17 if validation else 3)
    of_tables = _tables(tables_dir, validation, None if validation else 6)
    of_bbob = [
        BBOBFunction(function, instance)
        for index, function in enumerate(bbob.TRAIN)
        for instance in _instances(function, _BBOB_SEED + 1000 * index)[slice(3) if validation else slice(3, 4)]
    ]
    if not of_tables:
        raise ValueError(f"{tables_dir}: no measured table for the suite {name}")
    return _by_turns([*_grouped(of_yahpo), *_grouped(of_tables), of_bbob])


def _yahpo(folder: str, held_out: bool, most: int) -> "list[RealProblem]":
    """For each scenario one metric of each data set, alternating between metrics, then a second one, ...

    Scenarios that are held out completely are for final comparisons, and in no suite.
    """
    chosen: list[RealProblem] = []
    of_scenario = itertools.groupby(yahpo.tasks(folder, held_out=held_out), key=lambda task: task.folder)
    for scenario, group in of_scenario:
        if scenario.name in yahpo.HELD_OUT_SCENARIOS:
            continue
        conditional = yahpo.load_scenario(scenario).search_space().is_conditional
        of_data_set: dict[str, list[yahpo.Task]] = {}
        for task in group:
            of_data_set.setdefault(task.instance, []).append(task)
        ordered = sorted(of_data_set, key=_hash)
        in_turn = [
            of_data_set[data_set][(place + turn) % len(of_data_set[data_set])]
            for turn in range(max(map(len, of_data_set.values())))
            for place, data_set in enumerate(ordered)
            if turn < len(of_data_set[data_set])
        ]
        chosen += [YahpoTask(task, conditional) for task in in_turn[:most]]
    return chosen


def _tables(folder: str, held_out: bool, most: int | None) -> "list[RealProblem]":
    """All tables, or at most `most` of each source, from as many groups as possible."""
    of_kind: dict[str, dict[str, list[RealProblem]]] = {}
    for file in tables.files(Path(folder).resolve()):
        if tables.held_out(file) == held_out:
            for table in tables.load_tables(file).values():
                problem = MeasuredTable(file, table.name, runs=4 if held_out else 1)
                of_kind.setdefault(problem.kind, {}).setdefault(table.group, []).append(problem)
    chosen: list[RealProblem] = []
    for groups in of_kind.values():
        by_hash = [
            sorted(groups[group], key=lambda problem: _hash(problem.name)) for group in sorted(groups, key=_hash)
        ]
        chosen += _by_turns(by_hash)[:most]
    return chosen


def _hash(name: str) -> bytes:
    """Sort key for choosing from a list whose neighbours may be similar."""
    return hashlib.sha256(name.encode()).digest()


def _instances(function: str, first: int) -> list[int]:
    """Four seeds with two or more parameters, one of them continuous, since other spaces are soon exhausted."""
    drawn = ((seed, draw_layout(function, seed, _LARGEST_BBOB)) for seed in itertools.count(first))
    return list(itertools.islice((s for s, layout in drawn if layout.dimension > 1 and 0 in layout.levels), 4))


def _grouped(problems: "Sequence[RealProblem]") -> "list[list[RealProblem]]":
    return [list(group) for _, group in itertools.groupby(problems, key=lambda problem: problem.kind)]


def _by_turns(groups: Iterable[Sequence[T]]) -> list[T]:
    return [each for turn in itertools.zip_longest(*groups) for each in turn if each is not None]
