"""HPO-B's test split as problems of the comparison, by its own protocol, and published curves to compare with.

Pineda-Arango et al. 2021.  On continuous spaces, an optimizer gets one of five published starts with five evaluated
points (here: seeds 0 to 4), and continues on the surrogate.  Accuracies are scaled to [0, 1] by the smallest and
largest one of the data set; regret is 1 minus the scaled accuracy.

A file of published curves is JSON, `{search space: {data set: {start: [best so far, ...]}}}`: first the best of the
start, then the best after each suggestion.  HPO-B's own results on continuous spaces and those of Chen et al. 2022
(`optformer/original/results/hpob`) have this form.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems.hpob_surrogates import HELD_OUT, STARTS, HPOBExperimenter, held_out, load_archive
from optformer.evaluate.optimization.problems import BenchmarkProblem, Scale
from optformer.evaluate.optimization.tuning import objective_values, random_trials

START_TRIALS: Final = 5


@dataclasses.dataclass(frozen=True)
class HPOBProblem:
    """The surrogate of one search space on one data set.

    Attributes:
      starts: whether HPO-B's starts are available; otherwise, first trials are random.
    """

    folder: Path
    search_space: str
    data_set: str
    starts: bool = True

    family = "hpob"
    conditional = False

    @property
    def name(self) -> str:
        return f"hpob {self.search_space}/{self.data_set}"

    def experimenter(self, seed: int) -> experimenters.Experimenter:
        return HPOBExperimenter(load_archive(self.folder), self.search_space, self.data_set)

    def first_trials(self, experimenter: experimenters.Experimenter, count: int, seed: int) -> list[vz.Trial]:
        """The published start with the number `seed`, then random trials; without starts, only random trials."""
        first: list[vz.Trial] = []
        if self.starts and seed < len(STARTS):
            assert isinstance(experimenter, HPOBExperimenter)
            first = experimenter.start(STARTS[seed])[:count]
        for trial in random_trials(experimenter, count - len(first), seed):
            trial.id = len(first) + 1
            first.append(trial)
        return first

    def judged(self, trials: Sequence[vz.Trial]) -> np.ndarray:
        return objective_values(self.experimenter(0).problem_statement(), trials)

    def scale(self) -> Scale:
        """HPO-B's scale: regret 1 is the smallest accuracy of the data set, regret 0 the largest."""
        return Scale(0.0, 1.0)


def suite(folder: str, per_space: int) -> list[BenchmarkProblem]:
    """`per_space` data sets of the test split for each search space, among those whose surrogates are in the folder.

    Raises:
      ValueError: the folder has no surrogate of the test split, or a file is invalid.
      ModuleNotFoundError: xgboost is not installed.
    """
    path = Path(folder).resolve()
    archive = load_archive(path)
    chosen: dict[str, list[str]] = {}
    for space, data_sets in HELD_OUT.items():
        there = [str(each) for each in data_sets if (space, str(each)) in archive.models]
        chosen[space] = [each for each in there if held_out(space, each)][:per_space]
    wanted = [(space, data_set) for space, data_sets in chosen.items() for data_set in data_sets]
    if not wanted:
        raise ValueError(f"{folder}: no surrogate of HPO-B's test split")
    with_starts = set(archive.starts) if archive.has_starts else set()
    return [HPOBProblem(path, *each, starts=each in with_starts) for each in wanted]


@dataclasses.dataclass(frozen=True)
class Published:
    """Published curves of one optimizer.

    Attributes:
      name: name of the file.
      curves: (search space, data set) -> start -> best so far [1 + suggestions].
    """

    name: str
    curves: dict[tuple[str, str], dict[str, np.ndarray]]

    def values(self, problem: HPOBProblem, seeds: int, trials: int) -> list[np.ndarray]:
        """The values of each seed, [trials], as for a run; an empty list if a start is missing or too short."""
        of_start = self.curves.get((problem.search_space, problem.data_set), {})
        found = [of_start[start] for start in STARTS[:seeds] if start in of_start]
        needed = trials - START_TRIALS + 1
        if len(found) < seeds or any(len(curve) < needed for curve in found):
            return []
        return [np.concatenate([np.repeat(curve[0], START_TRIALS - 1), curve[:needed]]) for curve in found]


def load_published(path: str | Path) -> list[Published]:
    """The curves of a file, or of all `.json` files of a folder.

    Raises:
      ValueError: there is no such file, or it is invalid; the message names search space, data set and start.
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"{path}: no file of published curves")
    return [Published(f"{file.stem} (published)", _curves(file)) for file in files]


def _curves(file: Path) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for space, data_sets in _items(content, file, "search spaces"):
        for data_set, starts in _items(data_sets, file, f"data sets of search space {space}"):
            for start, curve in _items(starts, file, f"starts of {space}/{data_set}"):
                where = f"{file}: {space}/{data_set}, {start}"
                if not isinstance(curve, list) or not curve:
                    raise ValueError(f"{where}: a list of numbers is expected")
                if not all(isinstance(value, int | float) and math.isfinite(value) for value in curve):
                    raise ValueError(f"{where}: not every value is a finite number")
                values = np.array(curve, dtype=float)
                if (np.diff(values) < -1e-9).any():
                    raise ValueError(f"{where}: the best so far gets worse, so this is not a curve of best values")
                found.setdefault((space, data_set), {})[start] = values
    return found


def _items(content: object, file: Path, what: str) -> list[tuple[str, Any]]:
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{file}: an object of {what} is expected")
    return list(content.items())
