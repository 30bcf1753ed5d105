"""HPO-B's surrogates as problems to tune: surrogates of 16 or more real search spaces on OpenML's data sets.

Pineda-Arango et al. 2021, "HPO-B: a large-scale reproducible benchmark for black-box HPO based on OpenML".  Its two
archives are unpacked side by side in one folder, in their own folders or not:

| archive | files |
|---|---|
| `saved-surrogates` | `surrogate-<search space>-<data set>.json`: XGBoost models on parameters scaled to [0, 1]; |
| | `summary-stats.json`: `{"surrogate-<search space>-<data set>": {"y_min": 0.1, "y_max": 0.9}}` |
| `hpob-data` | `meta-dataset-descriptors.json`: names of the parameters; |
| | `bo-initializations.json`: `{search space: {data set: {"test0": [five rows], ... "test4"}}}`; |
| | `meta-test-dataset.json` and the others: the rows |

Only the surrogates are required; the other files have names and the five *starts*: sets of first trials from which
papers compare optimizers.  Vizier's own experimenter for these files keeps all two gigabytes in memory and needs a file
that was never published.
"""

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.sources import hpob_logs
from optformer.extras import require

METRIC: Final = hpob_logs.METRIC
STATISTICS: Final = "summary-stats.json"
INITIALIZATIONS: Final = "bo-initializations.json"
STARTS: Final = ("test0", "test1", "test2", "test3", "test4")
"""Names of the five starts."""

HELD_OUT: Final[Mapping[str, tuple[int, ...]]] = {
    "4796": (3549, 3918, 9903, 23),
    "5527": (146064, 146065, 9914, 145804, 31, 10101),
    "5636": (146064, 145804, 9914, 146065, 10101, 31),
    "5859": (9983, 31, 37, 3902, 9977, 125923),
    "5860": (14965, 9976, 3493),
    "5889": (9971, 3918),
    "5891": (9889, 3899, 6566, 9980, 3891, 3492),
    "5906": (9971, 3918),
    "5965": (145836, 9914, 3903, 10101, 9889, 49, 9946),
    "5970": (37, 3492, 9952, 49, 34536, 14951),
    "5971": (10093, 3954, 43, 34536, 9970, 6566),
    "6766": (3903, 146064, 145953, 145804, 31, 10101),
    "6767": (146065, 145804, 146064, 9914, 9967, 31),
    "6794": (145804, 3, 146065, 10101, 9914, 31),
    "7607": (14965, 145976, 3896, 3913, 3903, 9946, 9967),
    "7609": (145854, 3903, 9967, 145853, 34537, 125923, 145878),
}
"""Data sets of the benchmark's test split (version 3), by search space: never trained or tuned on."""

_MODEL: Final = re.compile(r"(?:surrogate-)?(\d+)-(\d+)\.json")


def held_out(search_space: str, data_set: str) -> bool:
    """Whether the data set belongs to the test split."""
    return int(data_set) in HELD_OUT.get(search_space, ())


class Archive:
    """HPO-B's files in a folder.

    Attributes:
      models: (search space, data set) -> file of the surrogate, sorted.

    Raises:
      ValueError: no such folder, or no surrogate in it.
      ModuleNotFoundError: xgboost is not installed.
    """

    def __init__(self, folder: str | Path):
        require("xgboost", extra="hpob", user="a surrogate of HPO-B")
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"{folder}: no such folder; name the one that holds HPO-B's saved-surrogates")
        self._folders = [self.folder, self.folder / "saved-surrogates", self.folder / "hpob-data"]
        found: dict[tuple[str, str], Path] = {}
        for place in self._folders:
            for path in place.glob("*.json"):
                if match := _MODEL.fullmatch(path.name):
                    found[match.group(1), match.group(2)] = path
        if not found:
            raise ValueError(f"{folder}: no surrogate in it (surrogate-<search space>-<data set>.json)")
        self.models = dict(sorted(found.items()))

    def parameter_names(self, search_space: str) -> list[str]:
        """Names of the parameters, in the order of the surrogate's inputs; x0, x1, ... without descriptors."""
        descriptor = self._descriptors.get(search_space)
        order = descriptor.get("variables_order") if isinstance(descriptor, dict) else None
        if isinstance(order, list) and order and len(set(map(str, order))) == len(order):
            return [str(name) for name in order]
        path = next(path for (space, _), path in self.models.items() if space == search_space)
        return [f"x{index}" for index in range(load_surrogate(path).num_features())]

    def range_of(self, search_space: str, data_set: str) -> tuple[float, float]:
        """Least and largest objective of the data set.

        Raises:
          ValueError: `summary-stats.json` is missing or has no range for it.
        """
        record = self._statistics.get(f"surrogate-{search_space}-{data_set}")
        try:
            low, high = float(record["y_min"]), float(record["y_max"])  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"{self.folder}: {STATISTICS} has no range (y_min below y_max) for surrogate-{search_space}-{data_set}"
            )
        return low, high

    @property
    def has_starts(self) -> bool:
        """Whether the folder has the published starts."""
        return self._find(INITIALIZATIONS) is not None

    @functools.cached_property
    def starts(self) -> dict[tuple[str, str], dict[str, tuple[np.ndarray, np.ndarray]]]:
        """(search space, data set) -> name in `STARTS` -> rows [5, D] and objectives [5], if the folder has the rows.

        The rows are in files of hundreds of megabytes, which are read one data set at a time.

        Raises:
          ValueError: `bo-initializations.json` is missing, no file has the rows that it names, or a file is damaged.
        """
        path = self._find(INITIALIZATIONS)
        if path is None:
            raise ValueError(f"{self.folder}: no {INITIALIZATIONS}, from which HPO-B's starts are read")
        wanted = {(space, data_set): starts for space, sets in _json(path).items() for data_set, starts in sets.items()}
        found: dict[tuple[str, str], dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        # The test split first, since it has nearly all starts.
        for name in sorted(hpob_logs.SPLITS, key=lambda name: hpob_logs.SPLITS[name] != "test"):
            file = self._find(name)
            if file is None or not wanted:
                continue
            try:
                for space, data_set, record in hpob_logs.entries(file):
                    if starts := wanted.pop((space, data_set), None):
                        found[space, data_set] = _rows(record, starts, f"{space}/{data_set}")
                    if not wanted:
                        break
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
        if not found:
            raise ValueError(f"{self.folder}: no meta-dataset has the rows that {INITIALIZATIONS} names")
        return found

    def _find(self, name: str) -> Path | None:
        return next((place / name for place in self._folders if (place / name).is_file()), None)

    def files(self) -> list[Path]:
        """The files that this class reads."""
        names = (STATISTICS, INITIALIZATIONS, hpob_logs.DESCRIPTORS, *hpob_logs.SPLITS)
        return [*self.models.values(), *(path for name in names if (path := self._find(name)) is not None)]

    @functools.cached_property
    def _descriptors(self) -> dict[str, Any]:
        path = self._find(hpob_logs.DESCRIPTORS)
        return {} if path is None else _json(path)

    @functools.cached_property
    def _statistics(self) -> dict[str, Any]:
        path = self._find(STATISTICS)
        return {} if path is None else _json(path)


@functools.lru_cache(maxsize=2)
def load_archive(folder: Path) -> Archive:
    """Opens an archive, once per process."""
    return Archive(folder)


@functools.lru_cache(maxsize=32)
def load_surrogate(path: Path) -> Any:
    """Loads a surrogate as an `xgboost.Booster` with one thread.

    Raises:
      ValueError: the file cannot be loaded.
    """
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(str(path))
    except xgboost.core.XGBoostError as error:
        raise ValueError(f"{path}: cannot be loaded: {str(error).splitlines()[0]}") from error
    return booster


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: an object is expected, not {type(record).__name__}")
    return record


def _rows(record: Any, starts: Mapping[str, Sequence[int]], where: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        return {
            name: (
                np.array([record["X"][row] for row in rows], dtype=float),
                np.array([np.asarray(record["y"][row], dtype=float).item() for row in rows]),
            )
            for name, rows in starts.items()
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: lacks rows that {INITIALIZATIONS} names: {error!r}") from error


class HPOBExperimenter(experimenters.Experimenter):
    """The surrogate of one search space on one data set; its accuracy is maximized.

    As in HPO-B's evaluation on continuous spaces: every parameter is a number in [0, 1].
    """

    def __init__(self, archive: Archive, search_space: str, data_set: str, normalized: bool = True):
        """
        Args:
          archive: from `load_archive`.
          search_space: its number, as text.
          data_set: its number, as text.
          normalized: whether objectives are (y - y_min) / (y_max - y_min), clipped to [0, 1], as in HPO-B's
            comparisons, instead of the surrogate's output.

        Raises:
          ValueError: there is no such surrogate, or its files are invalid.
        """
        path = archive.models.get((search_space, data_set))
        if path is None:
            raise ValueError(f"{archive.folder}: no surrogate of search space {search_space} on data set {data_set}")
        self.archive, self.search_space, self.data_set = archive, search_space, data_set
        self._surrogate = load_surrogate(path)
        self._names = archive.parameter_names(search_space)
        if len(self._names) != self._surrogate.num_features():
            raise ValueError(
                f"{path}: takes {self._surrogate.num_features()} parameters, search space {search_space} has"
                f" {len(self._names)}"
            )
        self._range = archive.range_of(search_space, data_set) if normalized else None

    def problem_statement(self) -> vz.ProblemStatement:
        problem = vz.ProblemStatement()
        for name in self._names:
            problem.search_space.root.add_float_param(name, 0.0, 1.0)
        problem.metric_information.append(vz.MetricInformation(METRIC, goal=vz.ObjectiveMetricGoal.MAXIMIZE))
        problem.metadata.ns("optformer")["title"] = f"HPO-B {self.search_space} on {self.data_set}"
        return problem

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial with the surrogate's prediction."""
        if not suggestions:
            return
        rows = np.array([[trial.parameters[name].value for name in self._names] for trial in suggestions], dtype=float)
        for trial, value in zip(suggestions, self.values(rows), strict=True):
            trial.complete(vz.Measurement(metrics={METRIC: float(value)}))

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Objectives, float64 [N], at points [N, D] of the unit cube."""
        return self._scaled(np.asarray(self._surrogate.inplace_predict(np.asarray(rows, dtype=float)), dtype=float))

    def start(self, name: str) -> list[vz.Trial]:
        """The five completed trials of a start: rows of the data set with their measured objectives.

        Args:
          name: name in `STARTS`.

        Raises:
          ValueError: there is no such start for this data set.
        """
        starts = self.archive.starts.get((self.search_space, self.data_set), {})
        if name not in starts:
            known = f"known are {', '.join(starts)}" if starts else f"{INITIALIZATIONS} has none"
            raise ValueError(f"no start {name!r} of search space {self.search_space} on {self.data_set}; {known}")
        rows, objectives = starts[name]
        if rows.shape[1] != len(self._names):
            raise ValueError(
                f"{self.archive.folder}: rows of {self.search_space}/{self.data_set} have {rows.shape[1]} parameters,"
                f" not {len(self._names)}"
            )
        trials: list[vz.Trial] = []
        for row, value in zip(rows, self._scaled(objectives), strict=True):
            trial = vz.Trial(dict(zip(self._names, row.tolist(), strict=True)), id=len(trials) + 1)
            trial.complete(vz.Measurement(metrics={METRIC: float(value)}))
            trials.append(trial)
        return trials

    def _scaled(self, y: np.ndarray) -> np.ndarray:
        if self._range is None:
            return y
        low, high = self._range
        scaled: np.ndarray = np.clip((y - low) / (high - low), 0.0, 1.0)
        return scaled
