"""Describes a corpus: counts, distributions over its studies, and samples of quantities too large to keep.

Only one study is in memory at a time, and five numbers of it are kept.  Samples are drawn with a fixed seed, so that
the same file gives the same description.
"""

import array
import collections
import dataclasses
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np
from vizier import pyvizier as vz

from optformer.data.corpus.building import study_family, study_group
from optformer.data.corpus.store import read_index
from optformer.data.sources import NAMESPACE, Quarantined, SourceError, count_studies, read
from optformer.data.sources.study_lines import json_lines
from optformer.data.tfds.reading import is_dataset, open_splits, read_studies
from optformer.serialization.batch import BatchShape
from optformer.serialization.metadata import metadata_segments
from optformer.serialization.space import StudySchema

Item = TypeVar("Item")
Progress = Callable[[int, int, int], None]

# Preferred numbers (ISO 3, R20 rounded): twenty per decade.
_RENARD: Final = (100, 110, 125, 140, 160, 180, 200, 220, 250, 280, 320, 360, 400, 450, 500, 560, 630, 710, 800, 900)
CURVE_TRIALS: Final = np.array([*range(1, 20), *(number // 10 for number in _RENARD if number >= 200), *_RENARD, 1000])
"""Trial numbers at which best-so-far curves are kept: round ones, since studies often end there."""
START: Final = 10
"""A curve starts at the median of this many values."""
_SAMPLED_CURVES: Final = 200
_SAMPLED_SECONDS: Final = 20_000
_SEED: Final = 0


@dataclasses.dataclass
class LeftOut:
    """Numbers of unusable records by category of reason: whole studies (or invalid lines), and trials."""

    studies: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    trials: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, category: str, whole_study: bool) -> None:
        (self.studies if whole_study else self.trials)[category] += 1

    def __bool__(self) -> bool:
        return bool(self.studies or self.trials)


@dataclasses.dataclass(frozen=True)
class Curves:
    """Best-so-far curves of one algorithm's studies.

    Attributes:
      studies: number of studies with a curve.
      sample: [sampled, len(CURVE_TRIALS)]; 0: the best of the study, 1: the median of its first `START` values.  NaN
        before the first value and after the last trial.
    """

    studies: int
    sample: np.ndarray


@dataclasses.dataclass
class FamilyCounts:
    """Counts of one family of problems.

    Attributes:
      studies, trials, failed: numbers of studies, of trials, and of failed trials.
      groups: names of the groups that share their weight in training, such as the data sets of a scenario.
    """

    studies: int = 0
    trials: int = 0
    failed: int = 0
    groups: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class CorpusDescription:
    """The description of a corpus.  Arrays of [studies] are in the order of the file.

    Attributes:
      path: as the caller named it.
      shape: shape of a training batch, which some studies may not fit.
      studies, trials: numbers of usable ones.
      kinds, scales: parameters by type and by scale, over all studies and all levels of conditional spaces.
      statuses: trials by status: completed, stopped (no objective), infeasible, active, requested.
      goals: objectives by direction.
      objectives: studies by number of objectives.
      spaces: studies by how their space is known: recorded or inferred.
      conditional: studies with a conditional space.
      constrained, broken: studies with constraints on outcomes, and trials that violate one.
      families: by family of problems, as `study_family` names them.
      algorithms, algorithm_trials: studies and trials by the algorithm (teacher) that is recorded; "" where none is.
      trials_per_study, parameters_per_study: int64 [studies].
      failed: float64 [studies], share of a study's trials that are infeasible.
      serialized: studies that the serializer accepts; the next three attributes cover only these.
      text_tokens: int64 [serialized], of all metadata: header and one clause per parameter, nothing dropped.
      trial_tokens: int64 [serialized], of all trials: a token per parameter and one for the (first) objective.
      beyond: studies that exceed each field of `shape` ("trials", "slots", "text"), and any of them ("any").
      single_objective: studies with one objective.
      curves: by algorithm, most studies first; for single-objective studies with `2 * START` values that improve on
        the median of the first `START`.
      timed: trials whose wall time is recorded.
      seconds: float64, wall times of a sample of these.
      unusable: records that could not be read now.
      quarantine: the quarantine file that an import left next to the corpus, or "".
      quarantined: records that this file lists.
    """

    path: str
    shape: BatchShape
    studies: int
    trials: int
    kinds: Mapping[str, int]
    scales: Mapping[str, int]
    statuses: Mapping[str, int]
    goals: Mapping[str, int]
    objectives: Mapping[int, int]
    spaces: Mapping[str, int]
    conditional: int
    constrained: int
    broken: int
    families: Mapping[str, FamilyCounts]
    algorithms: Mapping[str, int]
    algorithm_trials: Mapping[str, int]
    trials_per_study: np.ndarray
    parameters_per_study: np.ndarray
    failed: np.ndarray
    serialized: int
    text_tokens: np.ndarray
    trial_tokens: np.ndarray
    beyond: Mapping[str, int]
    single_objective: int
    curves: Mapping[str, Curves]
    timed: int
    seconds: np.ndarray
    unusable: LeftOut
    quarantine: str
    quarantined: LeftOut


def describe_corpus(
    path: str | os.PathLike[str],
    format: str = "auto",
    shape: BatchShape | None = None,
    progress: Progress | None = None,
    *,
    mapping: str | os.PathLike[str] | None = None,
    metric: str | None = None,
    goal: str | None = None,
) -> CorpusDescription:
    """Describes a corpus file, any store that `read` knows, or the dataset folder of a `study_corpus`.

    Args:
      path: file or folder.
      format, mapping, metric, goal: as in `read`.
      shape: shape of the training batches, with which the sizes of studies are compared.
      progress: called after every study with studies done, studies in all (about), and trials done.

    Raises:
      SourceError: the file cannot be read, or is a cache.
    """
    total, records = _opened(Path(path), str(path), format, mapping, metric, goal, counted=progress is not None)
    quarantine, quarantined = _earlier_quarantine(Path(path))
    collector = _Collector(shape or BatchShape())
    for record in records:
        if isinstance(record, Quarantined):
            collector.unusable.add(record.category, record.trial is None)
            continue
        collector.add(record)
        if progress is not None:
            progress(collector.studies, total, collector.trials)
    return collector.description(str(path), quarantine, quarantined)


def _opened(
    path: Path,
    name: str,
    format: str,
    mapping: str | os.PathLike[str] | None,
    metric: str | None,
    goal: str | None,
    counted: bool,
) -> tuple[int, Iterator[vz.ProblemAndTrials | Quarantined]]:
    """Number of studies, and the studies."""
    if path.is_dir() and read_index(path) is not None:
        raise SourceError(
            f"{name}: a cache of token arrays, which has neither names nor teachers nor times; name the corpus that it "
            "was built from"
        )
    if is_dataset(path):
        return sum(map(len, open_splits(path).values())), read_studies(path)
    records = read(path, format, mapping=mapping, metric=metric, goal=goal)
    return count_studies(path, format, mapping=mapping) if counted else 0, records


def _earlier_quarantine(path: Path) -> tuple[str, LeftOut]:
    """The quarantine file that an import left next to the corpus, and its counts."""
    listed = LeftOut()
    beside = path.with_name(f"{path.name}.quarantine.jsonl")
    if path.is_dir() or not beside.is_file():
        return "", listed
    for line in json_lines(beside, str(beside)) if beside.stat().st_size else ():
        if isinstance(line, Quarantined):
            listed.add(line.category, whole_study=True)
            continue
        _, record = line
        category = str(record.get("reason", "no reason given")).split(":", 1)[0]
        listed.add(category, whole_study=record.get("trial") is None)
    return str(beside), listed


class Reservoir(Generic[Item]):
    """A uniform sample of bounded size of a stream of unknown length (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: int = _SEED) -> None:
        self.items: list[Item] = []
        self.seen = 0
        self._size = size
        self._random = random.Random(seed)

    def add(self, item: Item) -> None:
        self.seen += 1
        if len(self.items) < self._size:
            self.items.append(item)
            return
        place = self._random.randrange(self.seen)
        if place < self._size:
            self.items[place] = item


class _Collector:
    """Takes studies one by one."""

    def __init__(self, shape: BatchShape) -> None:
        self.shape = shape
        self.studies = self.trials = self.conditional = self.serialized = self.single_objective = 0
        self.constrained = self.broken = 0
        self.unusable = LeftOut()
        self._counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._objectives: collections.Counter[int] = collections.Counter()
        self._trials_per_study, self._parameters_per_study = array.array("q"), array.array("q")
        self._text_tokens, self._trial_tokens = array.array("q"), array.array("q")
        self._failed = array.array("d")
        self._beyond = dict.fromkeys(("trials", "slots", "text", "any"), 0)
        self._families: dict[str, FamilyCounts] = collections.defaultdict(FamilyCounts)
        self._curves: dict[str, Reservoir[np.ndarray]] = {}
        self._seconds: Reservoir[float] = Reservoir(_SAMPLED_SECONDS)

    def add(self, study: vz.ProblemAndTrials) -> None:
        problem, trials = study.problem, study.trials
        facts = problem.metadata.ns(NAMESPACE)
        algorithm = facts.get("algorithm", default="")
        configs = list(problem.search_space.root.select_all())
        metrics = problem.metric_information.of_type(vz.MetricType.OBJECTIVE)
        statuses = collections.Counter(status(trial, [metric.name for metric in metrics]) for trial in trials)

        self.studies += 1
        self.trials += len(trials)
        self.conditional += problem.search_space.is_conditional
        self.single_objective += len(metrics) == 1
        self._objectives[len(metrics)] += 1
        self._trials_per_study.append(len(trials))
        self._parameters_per_study.append(len(configs))
        self._failed.append(statuses["infeasible"] / max(len(trials), 1))
        counts = self._counts
        counts["kinds"].update(config.type.name for config in configs)
        counts["scales"].update(config.scale_type.name if config.scale_type else "none" for config in configs)
        counts["goals"].update(metric.goal.name for metric in metrics)
        counts["spaces"][facts.get("space", default="recorded")] += 1
        counts["statuses"].update(statuses)
        counts["algorithms"][algorithm] += 1
        counts["algorithm_trials"][algorithm] += len(trials)
        for trial in trials:
            if (seconds := _seconds(trial)) is not None:
                self._seconds.add(seconds)

        try:
            schema = StudySchema(problem)
        except ValueError:
            self.unusable.add("search space cannot be serialized", whole_study=True)
            return
        if not len(schema):
            self.unusable.add("nothing to tune", whole_study=True)
        elif not schema.metrics:
            self.unusable.add("no objective", whole_study=True)
        else:
            self._add_tokens(schema, len(trials))
            family = self._families[study_family(problem)]
            family.studies += 1
            family.trials += len(trials)
            family.failed += statuses["infeasible"]
            family.groups.add(study_group(problem, schema))
            holds = schema.holds(schema.safety_values(trials))
            self.constrained += bool(schema.safety_metrics)
            self.broken += int((~holds).sum())
            if len(metrics) == 1:
                values = np.where(holds, schema.objectives(trials)[0][:, 0], np.nan)
                if (curve := best_so_far(values)) is not None:
                    self._curves.setdefault(algorithm, Reservoir(_SAMPLED_CURVES)).add(curve)

    def _add_tokens(self, schema: StudySchema, trials: int) -> None:
        text = sum(map(len, metadata_segments(schema)))
        self.serialized += 1
        self._text_tokens.append(text)
        self._trial_tokens.append(trials * (len(schema) + 1))
        beyond = {
            "trials": trials > self.shape.trials,
            "slots": len(schema) > self.shape.slots,
            "text": text > self.shape.text,
        }
        for name, is_beyond in {**beyond, "any": any(beyond.values())}.items():
            self._beyond[name] += is_beyond

    def description(self, path: str, quarantine: str, quarantined: LeftOut) -> CorpusDescription:
        ordered = {name: dict(self._counts[name].most_common()) for name in _COUNTED}
        curves = sorted(self._curves.items(), key=lambda entry: -entry[1].seen)
        return CorpusDescription(
            path=path,
            shape=self.shape,
            studies=self.studies,
            trials=self.trials,
            objectives=dict(self._objectives.most_common()),
            conditional=self.conditional,
            constrained=self.constrained,
            broken=self.broken,
            families=dict(sorted(self._families.items(), key=lambda entry: -entry[1].studies)),
            trials_per_study=np.array(self._trials_per_study, np.int64),
            parameters_per_study=np.array(self._parameters_per_study, np.int64),
            failed=np.array(self._failed, np.float64),
            serialized=self.serialized,
            text_tokens=np.array(self._text_tokens, np.int64),
            trial_tokens=np.array(self._trial_tokens, np.int64),
            beyond=self._beyond,
            single_objective=self.single_objective,
            curves={name: Curves(sample.seen, np.stack(sample.items)) for name, sample in curves},
            timed=self._seconds.seen,
            seconds=np.array(self._seconds.items, np.float64),
            unusable=self.unusable,
            quarantine=quarantine,
            quarantined=quarantined,
            **ordered,
        )


_COUNTED: Final = ("kinds", "scales", "statuses", "goals", "spaces", "algorithms", "algorithm_trials")


def status(trial: vz.Trial, metrics: Sequence[str]) -> str:
    """The status of a trial: completed, stopped (no objective), infeasible, active or requested."""
    if trial.infeasible:
        return "infeasible"
    if trial.final_measurement is not None:
        return "completed" if all(name in trial.final_measurement.metrics for name in metrics) else "stopped"
    if trial.stopping_reason is not None:
        return "stopped"
    return "requested" if trial.is_requested else "active"


def best_so_far(values: np.ndarray) -> np.ndarray | None:
    """The best-so-far curve of a study, on a scale that is common to all studies.

    Args:
      values: [trials], larger is better, NaN where there is none.

    Returns:
      [len(CURVE_TRIALS)], as in `Curves.sample`; None if there are fewer than `2 * START` values, or if no later value
      improves on the median of the first ones.
    """
    losses = -np.asarray(values, np.float64)
    known = losses[np.isfinite(losses)]
    if len(known) < 2 * START:
        return None
    start, best = float(np.median(known[:START])), float(known.min())
    if not start > best or not np.isfinite(start - best):
        return None
    running = (np.fmin.accumulate(losses) - best) / (start - best)
    within = len(losses) >= CURVE_TRIALS
    curve = np.full(len(CURVE_TRIALS), np.nan)
    curve[within] = running[CURVE_TRIALS[within] - 1]
    return curve


def _seconds(trial: vz.Trial) -> float | None:
    """Wall time in seconds from creation to completion, or that of the final measurement; None if not recorded."""
    created, completed = trial.creation_time, trial.completion_time
    if created is not None and completed is not None and (created.tzinfo is None) == (completed.tzinfo is None):
        seconds = (completed - created).total_seconds()
        if seconds > 0:
            return seconds
    elapsed = trial.final_measurement.elapsed_secs if trial.final_measurement is not None else 0.0
    return elapsed if elapsed > 0 else None
