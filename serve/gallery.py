"""Content of the HTTP service's pages on studies: made in the background, and cached until the study changes.

A call returns what is cached and requests what is missing.  One thread reads studies and one draws pictures, each one
study after the other, so neither callers nor suggestions wait for a picture.  A study that keeps changing is updated
again only after ten times the duration of the last update, so it takes at most a tenth of a thread.
"""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from vizier._src.service import custom_errors
from vizier.service import pyvizier as svz

from optformer.facade import OptFormer
from optformer.page import Table, png
from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.studies import StudyService
from optformer.study_report import Picture, StudyFacts, pictures

_OVERVIEWS: Final = 2000
"""Number of studies whose figures are cached."""
_PAGE_BYTES: Final = 32 * 2**20
"""Largest total size of the cached tables and pictures of all studies; the last study is always kept."""
_WAITING: Final = 200
"""Length of the queues of studies to read and to draw; further requests are dropped and must be repeated."""
_OBJECTIVES: Final = 4
"""Largest number of objectives of a study that are drawn."""
_PARAMETERS: Final = 100
"""Largest number of parameters of a study whose predictions are drawn."""
_LEAST_SECONDS: Final = 2.0
_REST: Final = 10
"""Age at which content is updated: in seconds, and in multiples of the duration of its last update."""
_CURVE: Final = 60
"""Largest number of points of a curve in the list of studies."""

_NO_VERSION: Final = -1
_FAILED: Final = "could not be shown; the server's log says why"

_LOG = logging.getLogger(__name__)
_Shown = TypeVar("_Shown")


@dataclasses.dataclass(frozen=True)
class Overview:
    """Key figures of a study.

    Attributes:
      counts: state -> number of trials.
      goals: objective -> `minimize` or `maximize`.
      best: objective -> best value and the number of its trial; None without a value.
      curve: the best value so far of the first objective, larger is better, at most 60 points between 0 and 1.
      fault: why there are no figures; empty if there are.
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    goals: Mapping[str, str] = dataclasses.field(default_factory=dict)
    best: Mapping[str, tuple[float, int] | None] = dataclasses.field(default_factory=dict)
    curve: tuple[float, ...] = ()
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A picture.  Attributes: caption; content: bytes of a PNG file; number: version of the study that it shows."""

    caption: str
    content: bytes
    number: int


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """Tables and pictures of a study.

    Attributes:
      overview: its key figures.
      tables: the tables below the pictures.
      pictures: objective -> name -> picture; None until it has been drawn.
      remark: what is not drawn, and why.
      complete: whether all pictures show the same version of the study as the tables.
    """

    overview: Overview
    tables: tuple[Table, ...] = ()
    pictures: Mapping[str, Mapping[str, Drawn | None]] = dataclasses.field(default_factory=dict)
    remark: str = ""
    complete: bool = False

    def size(self) -> int:
        """Approximate size in bytes."""
        drawn = (picture for named in self.pictures.values() for picture in named.values())
        cells = sum(len(cell) for table in self.tables for row in table.rows for cell in row)
        return cells + sum(len(picture.content) for picture in drawn if picture is not None)


class Gallery:
    """Overviews and exhibits of the studies of a service, by resource name."""

    def __init__(self, studies: StudyService, model: OptFormer):
        """
        Args:
          studies: the service.
          model: the model whose predictions are drawn.
        """
        self._store = studies.datastore
        # With a separate cache of histories, so that pictures do not evict those of suggestions.
        self._model = model.with_settings()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        failed = Overview(fault=_FAILED)
        self._overviews = _Shelf("figures", self._read, failed)
        self._exhibits = _Shelf("pictures", self._draw, Exhibit(failed, complete=True))

    def close(self) -> None:
        """Stops drawing; does not wait for the picture that is being drawn."""
        self._closed.set()
        for shelf in (self._overviews, self._exhibits):
            shelf.pool.shutdown(wait=False, cancel_futures=True)

    def overview(self, name: str) -> tuple[Overview | None, bool]:
        """The key figures of an existing study (None until they have been read), and whether they are up to date."""
        return self._look(self._overviews, name)

    def exhibit(self, name: str) -> tuple[Exhibit | None, bool]:
        """The exhibit of an existing study (None until it has been read), and whether it is up to date."""
        looked = self._look(self._exhibits, name)
        exhibit, newest = looked
        return exhibit, newest and exhibit is not None and exhibit.complete

    def picture(self, name: str, picture: str) -> Drawn | None:
        """The last picture of this name that was drawn; None if there is none, or if it is no longer cached."""
        with self._lock:
            kept = self._exhibits.kept.get(name)
        sections = () if kept is None else kept.shown.pictures.values()
        return next((named[picture] for named in sections if picture in named), None)

    def _look(self, shelf: "_Shelf[_Shown]", name: str) -> tuple[_Shown | None, bool]:
        """The cached content, and whether it is up to date; requests an update if it is not."""
        version = self._store.version(name)
        with self._lock:
            kept = shelf.kept.get(name)
            if kept is not None:
                shelf.kept.move_to_end(name)
                if kept.version == version or time.monotonic() < kept.due:
                    return kept.shown, kept.version == version
            if name not in shelf.waiting and len(shelf.waiting) < _WAITING and not self._closed.is_set():
                shelf.waiting.add(name)
                shelf.pool.submit(self._made, shelf, name)
            return (None if kept is None else kept.shown), False

    def _made(self, shelf: "_Shelf[_Shown]", name: str) -> None:
        started = time.monotonic()
        try:
            shelf.make(name)
        except custom_errors.NotFoundError:  # deleted meanwhile
            with self._lock:
                self._overviews.kept.pop(name, None)
                self._exhibits.kept.pop(name, None)
        except Exception:
            _LOG.exception("the page of a study failed")
            self._keep(shelf, name, _NO_VERSION, shelf.failed, started)
        finally:
            with self._lock:
                shelf.waiting.discard(name)

    def _read(self, name: str) -> None:
        started, version = time.monotonic(), self._store.version(name)
        _, overview = self._facts(name)
        self._keep(self._overviews, name, version, overview, started)

    def _draw(self, name: str) -> None:
        started, version = time.monotonic(), self._store.version(name)
        facts, overview = self._facts(name)
        if facts is None:
            self._keep(self._exhibits, name, version, Exhibit(overview, complete=True), started)
            return
        with self._lock:
            kept = self._exhibits.kept.get(name)
        before = {} if kept is None else kept.shown.pictures
        exhibit, waiting = self._undrawn(facts, overview, before)
        for metric, picture in waiting:
            # The tables are available at once, each picture when it has been drawn.
            self._keep(self._exhibits, name, version, exhibit, started)
            if self._closed.is_set():
                return
            drawn: Drawn | None = None
            try:
                drawn = Drawn(picture.caption, png(picture.draw()), version)
            except Exception:
                _LOG.exception("a picture of a study failed")
                exhibit = dataclasses.replace(exhibit, remark=f"A picture {_FAILED}.")
            exhibit = _with_picture(exhibit, metric, picture.name, drawn)
        self._keep(self._exhibits, name, version, dataclasses.replace(exhibit, complete=True), started)

    def _facts(self, name: str) -> tuple[StudyFacts | None, Overview]:
        """Raises `NotFoundError`."""
        try:
            study, trials = self._store.load_study(name), self._store.list_trials(name)
            trials.sort(key=lambda trial: int(trial.id))
            problem = svz.StudyConfig.from_proto(study.study_spec).to_problem()
            problem.metadata.ns(METADATA_NAMESPACE).setdefault("study_id", name)
            facts = StudyFacts(study.display_name, problem, svz.TrialConverter.from_protos(trials))
        except ValueError as error:  # studies of other algorithms may have what OPTFORMER cannot represent
            return None, Overview(fault=f"cannot be shown: {error}")
        return facts, Overview(facts.counts(), facts.goals(), facts.best(), _curve(facts.study.values[:, 0]))

    def _undrawn(
        self, facts: StudyFacts, overview: Overview, before: Mapping[str, Mapping[str, Drawn | None]]
    ) -> tuple[Exhibit, list[tuple[str, Picture]]]:
        """The exhibit with the pictures from before, and the pictures to draw, with their objectives."""
        metrics, remarks = list(facts.goals()), []
        if len(metrics) > _OBJECTIVES:
            remarks.append(f"Of {len(metrics)} objectives the first {_OBJECTIVES} are drawn.")
            del metrics[_OBJECTIVES:]
        predicted = len(facts.study.schema.slots) <= _PARAMETERS
        if not predicted:
            remarks.append(f"Predictions are drawn of studies with at most {_PARAMETERS} parameters.")
        waiting, sections = [], {}
        for metric in metrics:
            chosen = list(pictures(self._model, facts, metric))
            if not predicted:
                del chosen[1:]
            old = before.get(metric, {})
            sections[metric] = {each.name: old.get(each.name) for each in chosen}
            waiting += [(metric, each) for each in chosen]
        further = (facts.best_table(), facts.broken_table(), facts.running_table(), facts.without_objective_table())
        tables = tuple(table for table in further if table is not None and table.rows)
        return Exhibit(overview, tables, sections, " ".join(remarks)), waiting

    def _keep(self, shelf: "_Shelf[_Shown]", name: str, version: int, shown: _Shown, started: float) -> None:
        now = time.monotonic()
        due = now + max(_LEAST_SECONDS, _REST * (now - started))
        with self._lock:
            shelf.kept[name] = _Kept(shown, version, due)
            shelf.kept.move_to_end(name)
            while len(self._overviews.kept) > _OVERVIEWS:
                self._overviews.kept.popitem(last=False)
            room = _PAGE_BYTES - sum(kept.shown.size() for kept in self._exhibits.kept.values())
            while room < 0 and len(self._exhibits.kept) > 1:
                _, kept = self._exhibits.kept.popitem(last=False)
                room += kept.shown.size()


class _Kept(NamedTuple, Generic[_Shown]):
    """Cached content.  Attributes: version: of the study; due: time (monotonic clock) of the next possible update."""

    shown: _Shown
    version: int
    due: float


class _Shelf(Generic[_Shown]):
    """An LRU cache of one kind of content, the queue of studies to update, and the thread that updates them."""

    def __init__(self, what: str, make: Callable[[str], None], failed: _Shown):
        """
        Args:
          what: kind of content, for the name of the thread.
          make: makes the content of a study and caches it.
          failed: cached instead if that fails.
        """
        self.kept = collections.OrderedDict[str, _Kept[_Shown]]()
        self.waiting = set[str]()
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=f"page {what}")
        self.make, self.failed = make, failed


def _with_picture(exhibit: Exhibit, metric: str, name: str, drawn: Drawn | None) -> Exhibit:
    """The exhibit with this picture, or without it."""
    named = {**exhibit.pictures[metric], name: drawn}
    if drawn is None:
        del named[name]
    return dataclasses.replace(exhibit, pictures={**exhibit.pictures, metric: named})


def _curve(values: np.ndarray) -> tuple[float, ...]:
    """The best value so far of objectives [T] (larger is better, NaN if unknown), scaled to [0, 1].

    0 is the median, or the first value if that is better; 1 is the best value.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return ()
    best = np.maximum.accumulate(known)
    low, high = max(best[0], np.median(known)), best[-1]
    points = best[np.unique(np.linspace(0, len(best) - 1, _CURVE).astype(int))]
    if not high > low:
        return (1.0,) * len(points)
    return tuple(float(each) for each in np.clip((points - low) / (high - low), 0.0, 1.0))
