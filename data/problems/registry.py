"""The families of problems by name, for generating corpora and comparing optimizers.

    for problem in problems("yahpo", Settings(yahpo_dir="yahpo_data")):
        drawn = problem.draw(seed=7)  # drawn.experimenter is Vizier's, drawn.title and .description are for readers

Every family has two parts: `sklearn` is for training, `sklearn-held-out` for comparisons.  No problem is in both.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems import bbob, fitted_tables, hpob_surrogates, tables, yahpo
from optformer.data.problems.randomized_bbob import LARGEST, QUIET, RandomizedBBOB, draw_layout

_LEAST_ROWS: Final = 150
_MOST_ROWS: Final = 400
"""Rows of a scikit-learn data set: enough for three folds of ten classes, few enough for fast fits."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of problems.

    Attributes:
      largest_dimension: most parameters of a problem.
      noise_rate: share of noisy problems of BBOB; None: the ten settings of the paper equally often, one without noise.
      yahpo_dir: folder of YAHPO's scenarios.
      hpob_dir: folder of HPO-B's files.
      hpob_starts: whether studies of HPO-B begin with one of its five starts, if the data set has them.
      tables_dir: folder of measured tables.
      curves: whether trials of YAHPO's problems report at some fractions of their budget.
    """

    largest_dimension: int = LARGEST
    yahpo_dir: str | None = None
    hpob_dir: str | None = None
    hpob_starts: bool = False
    noise_rate: float | None = None
    tables_dir: str | None = None
    curves: bool = False


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A problem drawn with a seed.

    Attributes:
      experimenter: the problem itself.
      title: a short title.
      description: a sentence.
      facts: further facts by name, for the metadata.
      start: completed trials with which a study begins.
    """

    experimenter: experimenters.Experimenter
    title: str
    description: str
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    start: tuple[vz.Trial, ...] = ()


class Problem(Protocol):
    """A member of a family: a small description that can be pickled."""

    @property
    def name(self) -> str:
        """Name, stable and unique in the family."""

    @property
    def held_out(self) -> bool:
        """Whether the problem is held out for comparisons."""

    @property
    def conditional(self) -> bool:
        """Whether its search space is conditional."""

    @property
    def parameters(self) -> int | None:
        """Total number of parameters; None if the seed determines it, up to `Settings.largest_dimension`."""

    def draw(self, seed: int) -> Drawn:
        """The problem for a non-negative seed; the same seed always gives the same problem.

        Raises:
          ValueError, ModuleNotFoundError: files are damaged, or a library is missing.
        """


# --- BBOB ---


@dataclasses.dataclass(frozen=True)
class BBOBProblem:
    """A BBOB function; the seed draws dimension, shift, rotation, types of parameters, and noise."""

    name: str
    largest_dimension: int = LARGEST
    noise_rate: float | None = None

    conditional = False
    parameters = None

    @property
    def held_out(self) -> bool:
        return self.name in bbob.HELD_OUT

    def draw(self, seed: int) -> Drawn:
        layout = draw_layout(self.name, seed, self.largest_dimension, self.noise_rate)
        counts = {
            "continuous": layout.levels.count(0),
            "discrete": sum(bool(n) and not c for n, c in zip(layout.levels, layout.categorical, strict=True)),
            "categorical": sum(bool(n) and c for n, c in zip(layout.levels, layout.categorical, strict=True)),
        }
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        noise = layout.noise.lower().replace("_", " ").replace("gaussian", "Gaussian").replace("cauchy", "Cauchy")
        noise = "no noise" if layout.noise == QUIET else f"{noise} noise"
        dimensions = f"{layout.dimension} dimension" + "s" * (layout.dimension > 1)
        return Drawn(
            RandomizedBBOB(self.name, seed, layout),
            f"{self.name} in {layout.dimension} dimensions",
            f"BBOB function {self.name}, shifted and rotated, {dimensions} ({kinds}), {noise}",
            {"noise": layout.noise},
        )


def _bbob(settings: Settings) -> list[list[Problem]]:
    return [[BBOBProblem(name, settings.largest_dimension, settings.noise_rate) for name in bbob.TRAIN + bbob.HELD_OUT]]


# --- scikit-learn ---


@dataclasses.dataclass(frozen=True)
class SklearnProblem:
    """A model on a data set, `model@data`; the seed draws the rows in use and the folds."""

    name: str
    held_out: bool
    conditional: bool
    parameters: int

    def draw(self, seed: int) -> Drawn:
        from optformer.data.problems.sklearn import NUM_FOLDS, SklearnExperimenter

        rows = int(np.random.default_rng([seed, 19]).integers(_LEAST_ROWS, _MOST_ROWS + 1))
        experimenter = SklearnExperimenter(self.name, rows, seed)
        data = self.name.split("@")[1].replace("_", " ")
        return Drawn(
            experimenter,
            f"{experimenter.title} on {data}",
            f"scikit-learn's {experimenter.title} on {experimenter.data}, {experimenter.samples} rows of"
            f" {experimenter.features} features, mean of {NUM_FOLDS} folds",
        )


def _sklearn(settings: Settings) -> list[list[Problem]]:
    from optformer.data.problems import sklearn

    return [_sklearn_problems(sklearn.task_names(), sklearn.HELD_OUT.__contains__)]


def _sklearn_wide(settings: Settings) -> list[list[Problem]]:
    from optformer.data.problems import sklearn, sklearn_data

    sklearn_data.check_packages()
    return [_sklearn_problems(sklearn.wide_task_names(), sklearn.wide_held_out)]


def _sklearn_problems(tasks: list[str], held_out: Callable[[str], bool]) -> list[Problem]:
    from optformer.data.problems.sklearn import search_space

    found: list[Problem] = []
    for task in _by_hash(tasks):
        space = search_space(task)
        found.append(SklearnProblem(task, held_out(task), space.is_conditional, _size(space)))
    return found


# --- YAHPO ---


@dataclasses.dataclass(frozen=True)
class YahpoProblem:
    """A scenario's surrogate on one of its data sets, `scenario/instance`; the seed draws the metric, and with learning
    curves the shares of the budget at which trials report."""

    folder: Path
    instance: str
    conditional: bool
    parameters: int
    curves: bool = False

    @property
    def name(self) -> str:
        return f"{self.folder.name}/{self.instance}"

    @property
    def held_out(self) -> bool:
        return yahpo.held_out(self.folder.name, self.instance)

    def draw(self, seed: int) -> Drawn:
        scenario = yahpo.load_scenario(self.folder)
        metrics = scenario.tuned_metrics(self.instance)
        metric = metrics[int(np.random.default_rng([seed, 19]).integers(len(metrics)))]
        shares = _shares(seed, scenario.least_share) if self.curves else ()
        return Drawn(
            yahpo.YahpoExperimenter(scenario, self.instance, metric, shares),
            f"{scenario.name} on {self.instance}",
            f"YAHPO Gym's surrogate of the scenario {scenario.name} on the data set {self.instance}, {metric} at full"
            " fidelity",
        )


def _shares(seed: int, least: float) -> tuple[float, ...]:
    """Draws three to six shares of the budget, ascending, log-uniform."""
    rng = np.random.default_rng([seed, 41])
    return tuple(sorted(least ** rng.uniform(0.02, 1.0, int(rng.integers(3, 7)))))


def _yahpo(settings: Settings) -> list[list[Problem]]:
    if settings.yahpo_dir is None:
        raise ValueError("YAHPO's problems need its files: name the folder of scenarios with --yahpo-dir DIR")
    of_scenario: list[list[Problem]] = []
    for name in yahpo.scenarios(settings.yahpo_dir):
        folder = Path(settings.yahpo_dir).resolve() / name
        scenario = yahpo.load_scenario(folder)
        space = scenario.search_space()
        of_scenario.append(
            [
                YahpoProblem(folder, str(instance), space.is_conditional, _size(space), settings.curves)
                for instance in _by_hash(map(str, scenario.instances))
                if scenario.tuned_metrics(instance)
            ]
        )
    return of_scenario


def _files_of_yahpo(settings: Settings) -> list[Path]:
    folder = Path(settings.yahpo_dir or "")
    quality = [path for path in [folder / yahpo.QUALITY_FILE] if path.is_file()]
    return [folder / name / file for name in yahpo.scenarios(folder) for file in yahpo.FILES] + quality


# --- HPO-B ---


@dataclasses.dataclass(frozen=True)
class HPOBProblem:
    """A surrogate of HPO-B, `search space/data set`; the seed draws one of the five starts if they are used."""

    folder: Path
    search_space: str
    data_set: str
    parameters: int
    starts: tuple[str, ...] = ()

    conditional = False

    @property
    def name(self) -> str:
        return f"{self.search_space}/{self.data_set}"

    @property
    def held_out(self) -> bool:
        return hpob_surrogates.held_out(self.search_space, self.data_set)

    def draw(self, seed: int) -> Drawn:
        archive = hpob_surrogates.load_archive(self.folder)
        experimenter = hpob_surrogates.HPOBExperimenter(archive, self.search_space, self.data_set)
        facts, start = {}, ()
        if self.starts:
            facts["start"] = self.starts[int(np.random.default_rng([seed, 19]).integers(len(self.starts)))]
            start = tuple(experimenter.start(facts["start"]))
        return Drawn(
            experimenter,
            f"HPO-B {self.search_space} on {self.data_set}",
            f"HPO-B's surrogate of the search space {self.search_space} on OpenML task {self.data_set},"
            f" {self.parameters} parameters scaled to [0, 1], accuracy scaled to [0, 1]",
            facts,
            start,
        )


def _hpob(settings: Settings) -> list[list[Problem]]:
    if settings.hpob_dir is None:
        raise ValueError("HPO-B's problems need its files: name the folder of its surrogates with --hpob-dir DIR")
    folder = Path(settings.hpob_dir).resolve()
    archive = hpob_surrogates.load_archive(folder)
    starts = archive.starts if settings.hpob_starts else {}
    of_space: dict[str, list[str]] = {}
    for space, data_set in archive.models:
        of_space.setdefault(space, []).append(data_set)
    return [
        [
            HPOBProblem(folder, space, data_set, len(names), tuple(sorted(starts.get((space, data_set), ()))))
            for names in [archive.parameter_names(space)]
            for data_set in _by_hash(data_sets)
        ]
        for space, data_sets in of_space.items()
    ]


def _files_of_hpob(settings: Settings) -> list[Path]:
    return hpob_surrogates.load_archive(Path(settings.hpob_dir or "").resolve()).files()


# --- Measured tables ---

_NEAREST_ROW_ANSWERS: Final = 0.25
"""Share of the draws of a table in training that use a random forest between rows."""


@dataclasses.dataclass(frozen=True)
class TableProblem:
    """A measured table of a file; the seed determines the objective between its rows.

    In three of four draws, a random forest predicts the objective between rows; in the fourth, it is that of the
    nearest row.  A held-out table always uses the nearest row, so that comparisons never use a fit.
    """

    file: Path
    name: str
    conditional: bool
    parameters: int

    @property
    def held_out(self) -> bool:
        return tables.held_out(self.file)

    def draw(self, seed: int) -> Drawn:
        table = tables.load_tables(self.file)[self.name]
        described = f"the {table.metric.name} of {self.name}, measured at {len(table.rows):,} configurations"
        if self.held_out or np.random.default_rng([seed, 37]).random() < _NEAREST_ROW_ANSWERS:
            nearest = tables.TableExperimenter(table, rows_alone=self.held_out)
            return Drawn(nearest, self.name, f"{described}, of which the nearest one answers")
        experimenter = fitted_tables.FittedTableExperimenter(table, seed)
        return Drawn(experimenter, self.name, f"{described}, between which a random forest answers")


def _tables(settings: Settings) -> list[list[Problem]]:
    if settings.tables_dir is None:
        raise ValueError("measured tables need their files: name their folder with --tables FOLDER")
    of_group: dict[str, list[Problem]] = {}
    for file in tables.files(Path(settings.tables_dir).resolve()):
        for table in tables.load_tables(file).values():
            conditional = table.problem.search_space.is_conditional
            problem = TableProblem(file, table.name, conditional, len(table.categorical))
            of_group.setdefault(table.group, []).append(problem)
    return list(of_group.values())


def _files_of_tables(settings: Settings) -> list[Path]:
    return tables.files(settings.tables_dir or "")


# --- Families ---


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of problems, a part of which is for training and a part for comparisons.

    Attributes:
      members: function that returns the problems of both parts, in groups that alternate.
      files: function that returns the files from which they are read.
    """

    members: Callable[[Settings], list[list[Problem]]]
    files: Callable[[Settings], Sequence[Path]] = lambda settings: ()


_FAMILIES: Final = {
    "bbob": Family(_bbob),
    "sklearn": Family(_sklearn),
    "sklearn-wide": Family(_sklearn_wide),
    "yahpo": Family(_yahpo, _files_of_yahpo),
    "hpob": Family(_hpob, _files_of_hpob),
    "tables": Family(_tables, _files_of_tables),
}
_HELD_OUT: Final = "-held-out"

FAMILIES: Final = tuple(name + part for name in _FAMILIES for part in ("", _HELD_OUT))
"""The families by name."""


def problems(family: str, settings: Settings | None = None) -> tuple[Problem, ...]:
    """All problems of a family, of any size, in the order in which studies use them.

    Args:
      family: name in `FAMILIES`.
      settings: settings of the problems; default: `Settings()`.

    Raises:
      ValueError: no such family, or the folder of its files is not given or has no problems.
      ModuleNotFoundError: a library is missing; the message names it.
    """
    return _problems(family, settings or Settings())


@functools.lru_cache(maxsize=16)
def _problems(family: str, settings: Settings) -> tuple[Problem, ...]:
    if family not in FAMILIES:
        raise ValueError(f"no problems {family!r}; known are {', '.join(FAMILIES)}")
    name = family.removesuffix(_HELD_OUT)
    held_out = name != family
    groups = _FAMILIES[name].members(settings)
    # Alternates between groups, so that even a few studies come from different scenarios.
    turns = itertools.zip_longest(*([each for each in group if each.held_out == held_out] for group in groups))
    found = tuple(problem for turn in turns for problem in turn if problem is not None)
    if not found:
        raise ValueError(f"there are no problems {family}: all are {'for training' if held_out else 'held out'}")
    return found


def digest(families: Sequence[str], settings: Settings) -> str:
    """A digest of the names of the problems, and of names and sizes of the files from which they are read."""
    state = hashlib.sha256()
    for family in families:
        state.update("\n".join([family, *(problem.name for problem in problems(family, settings))]).encode())
        for path in _FAMILIES[family.removesuffix(_HELD_OUT)].files(settings):
            state.update(f"\n{path.parent.name}/{path.name} {path.stat().st_size}".encode())
    return state.hexdigest()[:16]


def _by_hash(names: Iterable[str]) -> list[str]:
    """Sorts names by a hash, since neighbours in the original order may be similar."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def _size(space: vz.SearchSpace) -> int:
    """Total number of parameters; a child of several values of its parent counts once."""

    def names(parameters: Sequence[vz.ParameterConfig]) -> set[str]:
        found = set()
        for parameter in parameters:
            found |= {parameter.name} | names(parameter.child_parameter_configs)
        return found

    return len(names(space.parameters))
