"""Batches of logged studies.  A batch is a pure function of (seed, step), so a resumed run reads the same batches.

Notation: B studies, T trials, D slots, S text tokens, P trials with policy loss, n0 the known prefix of a study.
"""

import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from optformer.data.corpus import augmentation as augment
from optformer.data.corpus.augmentation import Augmentation
from optformer.data.corpus.curves import FEWEST_TRIALS as FEWEST_WITH_REPORTS
from optformer.data.corpus.curves import draw_rows, trials_shown
from optformer.data.corpus.earlier import FEWEST_TRIALS, LARGEST_SHARE, SMALLEST_SHARE, Relatives, draw_earlier
from optformer.data.corpus.store import CorpusError, Field, Record, Store, open_store, read_index, stale
from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape, StudyBatch, StudyRow, blank_batch, write_row
from optformer.serialization.objective import objective_tokens
from optformer.serialization.partial_trials import Reports, with_budget
from optformer.serialization.prior_studies import MOST_STUDIES, PriorTrials, clause, joined
from optformer.serialization.vocabulary import Vocabulary

DEFAULT_AUGMENTATION = Augmentation()


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How much of a corpus fits a batch shape: number of records, and of those left out for having over D slots."""

    records: int
    too_many_slots: int


class Corpus:
    """Logged studies, cached as token arrays.

    Records are drawn with weight 1 / sqrt(records of the same group), so that fifty reruns of one study count as seven.
    In a corpus with several families of problems, the share of each is proportional to the square root of its number
    of groups: a family with four times as many data sets is drawn twice as often, whatever its number of studies.
    """

    def __init__(self, store: Store, records: np.ndarray | None = None) -> None:
        """A corpus of the given records of a store; default: all of them."""
        self._store = store
        self._records = np.arange(store.num_records) if records is None else np.asarray(records)
        columns = store.columns
        studies = columns["record_studies"][self._records]
        self._groups = columns["study_groups"][studies]
        self._slots = np.diff(columns["slot_offsets"])[studies]
        self._goals = [Vocabulary.default().keyword(goal) for goal in ("maximize", "minimize")]
        self._weights: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> "Corpus":
        """Opens a cached corpus, or a JSON-lines file of studies, whose cache is built beside it on first use.

        Building imports Vizier; opening a cache does not.

        Args:
          path: a cache folder, or a JSON-lines file (`.gz` too).
          cache: the cache folder of a file; default: the file's name with `.cache` appended.

        Raises:
          CorpusError: `path` does not exist, is a folder but not a cache of this version, or is a file without a usable
            study.
        """
        path = Path(path)
        if path.is_dir():
            return cls(_not_empty(open_store(path), path))
        if not path.is_file():
            raise CorpusError(f"no corpus at {path}: give the JSON-lines file that `optformer corpus import` wrote")
        directory = Path(cache) if cache is not None else path.with_name(path.name + ".cache")
        source = _digest(path)
        index = read_index(directory)
        if index is None or stale(index) or index.get("source_digest") != source:
            # Imported here: an accelerator machine with a cache needs no Vizier.
            from optformer.data.corpus import building

            building.build_from_file(path, directory, source_digest=source)
        return cls(_not_empty(open_store(directory), path))

    def __len__(self) -> int:
        """Number of records: studies, each counted once per objective."""
        return len(self._records)

    @property
    def fingerprint(self) -> str:
        """A digest of the content, independent of the path; each part of a split has its own."""
        whole = self._store.index["fingerprint"]
        if len(self) == self._store.num_records:
            return whole
        return hashlib.sha256(whole.encode() + self._records.astype(np.int64).tobytes()).hexdigest()

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """What the builder left out of the cache: study, trial (None: the whole study) and reason."""
        return self._store.index["skipped"]

    @property
    def study_names(self) -> list[str]:
        """Name of each record's study."""
        names = self._store.index["studies"]
        return [names[study] for study in self._store.columns["record_studies"][self._records].tolist()]

    def split(self, part: Literal["train", "validation"], fraction: float = 0.1, seed: int = 0) -> "Corpus":
        """One of two disjoint parts that share no group of studies, and so no study.

        A group is held out if its hash is below `fraction`, so additions to the corpus do not move other groups to the
        other part.  In a small corpus, either part may be empty.

        Args:
          part: which of the two.
          fraction: expected share of the groups that are held out.
          seed: seed of the split.

        Raises:
          ValueError: unknown part, or a fraction outside [0, 1].
        """
        if part not in ("train", "validation"):
            raise ValueError(f"part must be 'train' or 'validation', not {part!r}")
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction is {fraction}; it must lie in [0, 1]")
        groups = self._store.index["groups"]
        held_out = np.array([_unit_hash(f"{seed}:{group}") < fraction for group in groups], bool)
        chosen = held_out[self._groups] == (part == "validation")
        return Corpus(self._store, self._records[chosen])

    def coverage(self, shape: BatchShape) -> Coverage:
        """How many records batches of this shape leave out.  A study with too many slots cannot be truncated, since
        without some parameters it would be another function."""
        return Coverage(len(self), int((self._slots > shape.slots).sum()))

    def _cumulative_weights(self, slots: int) -> np.ndarray:
        if slots in self._weights:
            return self._weights[slots]
        fits = self._slots <= slots
        if not len(self):
            raise CorpusError(f"this part of {self._store.directory} has no records: there is nothing to draw from")
        if not fits.any():
            raise CorpusError(
                f"none of the {len(self)} records of {self._store.directory} has at most {slots} parameters, the "
                f"smallest has {self._slots.min()}: raise BatchShape.slots"
            )
        sizes = np.bincount(self._groups[fits], minlength=int(self._groups.max()) + 1)
        weights = np.where(fits, 1.0 / np.sqrt(np.maximum(sizes[self._groups], 1)), 0.0)
        weights *= self._family_factors(weights, sizes > 0)
        return self._weights.setdefault(slots, np.cumsum(weights) / weights.sum())

    def _family_factors(self, weights: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Factors on the weights, [records], so that those of each family sum to its share; 1 with a single family.

        Args:
          weights: [records], before the factors.
          drawn: bool [groups], whether a record of the group fits the shape.
        """
        names, families = np.unique(self._store.index.get("families", ["one"]), return_inverse=True)
        if len(names) < 2:
            return np.ones(len(weights))
        groups = np.bincount(families[: len(drawn)][drawn], minlength=len(names))
        sums = np.bincount(families[self._groups], weights, minlength=len(names))
        shares = np.sqrt(groups) / np.where(sums > 0, sums, 1.0)
        factors: np.ndarray = shares[families[self._groups]]
        return factors

    def batch(
        self,
        seed: int,
        step: int,
        batch_size: int,
        shape: BatchShape,
        augmentation: Augmentation = DEFAULT_AUGMENTATION,
        rows: range | None = None,
    ) -> StudyBatch:
        """Draws a batch; a pure function of the arguments and the corpus.  Each row depends on (seed, step, row).

        Args:
          seed: seed of the run, 0 or more.
          step: step of the run, 0 or more.
          batch_size: B.
          shape: padded sizes; records with more slots are never drawn (see `coverage`).
          augmentation: rates of the augmentations.
          rows: the rows of the batch to read, for a process that holds only these; default: all.

        Returns:
          StudyBatch of numpy arrays, of `rows` only.

        Raises:
          CorpusError: no record fits the shape.
        """
        weights = self._cumulative_weights(shape.slots)
        rows = range(batch_size) if rows is None else rows
        if rows and not 0 <= min(rows) <= max(rows) < batch_size:
            raise ValueError(f"rows {rows} are not all rows of a batch of {batch_size}")
        batch = blank_batch(len(rows), shape)
        values, before = np.full((len(rows), shape.trials), np.nan), np.zeros(len(rows), np.int32)
        final = np.ones((len(rows), shape.trials), bool)
        key = np.array([seed, step], np.uint64)
        for place, row in enumerate(rows):
            # Each row has its own random stream, selected by the highest word of the counter.
            rng = np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, row], np.uint64)))
            drawn = min(int(np.searchsorted(weights, rng.random(), side="right")), len(self) - 1)
            study, objective, left = self._study(rng, int(self._records[drawn]), shape, augmentation)
            write_row(batch, place, study)
            before[place] = len(study.x_tokens) - len(objective)
            values[place, before[place] : len(study.x_tokens)] = objective
            final[place, before[place] : len(study.x_tokens)] = left == 0
        trial = np.arange(shape.trials)[None, :]
        own = trial >= before[:, None]  # trials of earlier studies already have tokens, on their own scales
        known = own & (trial < batch.prefix_length[:, None])
        y_tokens, _, weights = objective_tokens(values, batch.y_tokens, known, final)
        # With earlier studies, a study without a known trial is scaled on all of its values.  Only its first trial is
        # predicted: the later ones would see values on a scale that is not known yet.
        first = (before == batch.prefix_length) & (before > 0)
        carries = own & ((trial == before[:, None]) | ~first[:, None])
        return batch._replace(y_tokens=y_tokens, function_weights=np.where(carries, weights, np.float32(0.0)))

    def _study(
        self, rng: np.random.Generator, number: int, shape: BatchShape, augmentation: Augmentation
    ) -> tuple[StudyRow, np.ndarray, np.ndarray]:
        """Reads and augments one record.

        Trials of earlier studies come before its own, with objective tokens and without values.

        Returns:
          The study, with statuses for its objective tokens; its objective values [T]; and their levels of the remaining
          budget [T], 0 for final values.
        """
        record = self._store.record(number)
        slots = len(record.kinds)
        others, room = self._others(rng, number, shape, augmentation)
        reports = self._reports(rng, number, slots + len(others), shape, augmentation)
        most = shape.trials - room
        count = trials_shown(rng, most) if reports else most
        chosen, from_start = augment.choose_trials(rng, len(record.values), count)
        prefix = augment.choose_prefix(rng, len(chosen), augmentation, earlier=bool(others))
        order_free = rng.random() < augmentation.order_free_rate
        flipped = rng.random() < augmentation.flip_goal

        order = augment.order_slots(rng, record.parents, augmentation)
        identities = np.resize(rng.permutation(tokens.NUM_SLOT_IDENTITIES), slots)
        values, statuses, requested = record.values[chosen], record.statuses[chosen], record.requested[chosen]
        any_requested = requested.any()
        left = np.zeros(len(chosen), np.int32)
        if reports:
            rows = draw_rows(rng, values, statuses, [reports[trial] for trial in chosen], prefix, most)
            values, statuses, left = rows.values, rows.statuses, rows.left
            requested = requested[rows.trials] | ~rows.new
            chosen, prefix = chosen[rows.trials], rows.known
        x_tokens = record.x_tokens[chosen][:, order]
        values = -values if flipped else values
        statuses = statuses.copy()
        if rng.random() < augmentation.pending_rate:
            running = np.flatnonzero((rng.random(prefix) < rng.uniform(0.05, 0.3)) & (left[:prefix] == 0))
            values, statuses = values.copy(), statuses.copy()
            values[running], statuses[running] = np.nan, tokens.PENDING

        # In an order-free prefix, a trial sees later ones.
        first = prefix if order_free else 0
        policy = rng.permutation(first + np.flatnonzero(~requested[first:]))[: shape.policy_trials]
        unused = np.ones(most, bool)
        unused[policy] = False
        rest = np.flatnonzero(unused)[: shape.policy_trials - len(policy)]
        # The optimizer of a flipped study sought what is now the worst: the policy must not imitate it.
        weight = 0.0 if flipped else 1.0 if from_start else augmentation.partial_policy_weight
        policy_weights = np.zeros((shape.policy_trials, slots), np.float32)
        policy_weights[: len(policy)] = weight * (x_tokens[policy] < tokens.NUM_LEVELS)

        fields = augment.choose_fields(rng, augmentation)
        if any_requested:
            # If some trials were requested, only the algorithm's name says which optimizer continues.
            fields |= Field.ALGORITHM
        words = shape.text - len(clause()) * (len(others) + bool(reports))
        segments = augment.choose_segments(self._store, record.headers, record.first_clause, order, fields, words)
        text, numbers, positions = augment.tokens_of(self._store, segments)
        if flipped:
            text = self._swap_goal(text)
        if rng.random() < augmentation.drop_goal:
            text, numbers, positions = self._without_goal(text, numbers, positions)
        study = StudyRow(
            text_tokens=text,
            text_segments=numbers,
            text_positions=positions,
            slot_kinds=record.kinds[order],
            slot_levels=record.levels[order],
            slot_identities=identities,
            x_tokens=x_tokens,
            y_tokens=statuses,
            prefix_length=prefix,
            order_free=order_free,
            policy_trials=np.concatenate([policy, rest]),
            policy_weights=policy_weights,
        )
        if reports:
            study = with_budget(study, left)
        if others:
            earlier = draw_earlier(rng, others, room, flipped, augmentation.flip_earlier)
            study = joined(study, [PriorTrials(each.x_tokens[:, order], each.y_tokens) for each in earlier])
        return study, values, left

    def _reports(
        self, rng: np.random.Generator, number: int, slots: int, shape: BatchShape, augmentation: Augmentation
    ) -> list[Reports]:
        """The reports of the trials of a record if they are used, which takes a slot; else an empty list."""
        if not augmentation.partial_rate or rng.random() >= augmentation.partial_rate or slots >= shape.slots:
            return []
        reports = self._store.reports(number)
        return reports if sum(map(bool, map(len, reports))) >= FEWEST_WITH_REPORTS else []

    def _others(
        self, rng: np.random.Generator, number: int, shape: BatchShape, augmentation: Augmentation
    ) -> tuple[list[Record], int]:
        """Draws earlier studies for a record, and how many of its trials come from them."""
        if not augmentation.earlier_rate or rng.random() >= augmentation.earlier_rate:
            return [], 0
        # The study itself keeps as many trials as the policy loss needs.
        most = shape.trials - max(shape.policy_trials, 1)
        fit = min(shape.slots - int(self._slots_of(number)), most // FEWEST_TRIALS)
        count = min(int(rng.integers(1, MOST_STUDIES + 1)), fit)
        numbers = self._relatives.draw(rng, number, count) if count > 0 else []
        share = rng.uniform(SMALLEST_SHARE, LARGEST_SHARE)
        room = min(max(FEWEST_TRIALS * len(numbers), int(shape.trials * share)), most)
        return [self._store.record(each) for each in numbers], room if numbers else 0

    def _slots_of(self, number: int) -> int:
        offsets, study = self._store.columns["slot_offsets"], int(self._store.columns["record_studies"][number])
        return int(offsets[study + 1] - offsets[study])

    @functools.cached_property
    def _relatives(self) -> Relatives:
        return Relatives(self._store, self._records)

    def _swap_goal(self, text: np.ndarray) -> np.ndarray:
        """Exchanges the ids of `<maximize>` and `<minimize>`, which occur in no other text."""
        one, other = self._goals
        return np.select([text == one, text == other], [other, one], text)

    def _without_goal(
        self, text: np.ndarray, segments: np.ndarray, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Removes the goal from the header and closes the gap."""
        kept = ~np.isin(text, self._goals)
        text, segments, positions = text[kept], segments[kept], positions[kept]
        header = segments == 0
        return text, segments, np.where(header, np.cumsum(header) - 1, positions)


def _not_empty(store: Store, path: Path) -> Store:
    if store.num_records == 0:
        raise CorpusError(f"{path} holds no usable study{_first_reasons(store.index)}")
    return store


def _first_reasons(index: dict[str, Any]) -> str:
    skipped = index.get("skipped", [])
    reasons = "".join(f"\n  {entry['study']}: {entry['reason']}" for entry in skipped[:3])
    return f"; {len(skipped)} were left out, the first:{reasons}" if skipped else ": it is empty"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text only, the same in any process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64
