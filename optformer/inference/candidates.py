"""Candidate configurations as value tokens: quasi-random points, and mutations and crossovers of good trials.

Everything runs on the host in numpy, vectorized over candidates; randomness comes only from the generator passed in.

Notation
  N, D     candidates, slots
  L_k      value tokens of slot k
  genotype a row with a value in every slot; a *configuration* is a genotype with INACTIVE in its inactive slots.
           Operators work on genotypes, so that a conditional slot that becomes active already has a value.
           `Candidates` holds both forms.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32
from scipy.stats import qmc
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.batch import Legality
from optformer.serialization.space import StudySchema

Tokens = Int[np.ndarray, "candidate slot"]


class SlotSpace(NamedTuple):
    """The search space as candidates see it, without names or values.

    Attributes:
      kinds: int32 [D], `tokens.CONTINUOUS` ... `tokens.CATEGORICAL`.
      levels: int32 [D], value tokens of each slot.
      parents: int32 [D], index of the parent (smaller than the child's own), -1 for roots.
      active_when: bool [D, Q], whether the slot is active, by its parent's token.
      grid: float64 [D, Q + 1], edges of the levels of each slot on its own scale, from 0 to 1, and 1 beyond the last
        level.  The first levels of a logarithmic integer are wide.
      canonical: int32 [D, Q], the first level with the same value: in wide logarithmic integer ranges, several levels
        stand for the same small value.
    """

    kinds: np.ndarray
    levels: np.ndarray
    parents: np.ndarray
    active_when: np.ndarray
    grid: np.ndarray
    canonical: np.ndarray

    @classmethod
    def of(cls, schema: StudySchema) -> "SlotSpace":
        """The space of a schema."""
        positions: list[np.ndarray | None] = []
        canonical = {}
        for slot in schema.slots:
            values: Sequence[Any] = slot.values
            if len(set(values)) < len(values):
                canonical[slot.index], _ = slot.quantizer.encode(values)
            logarithmic = slot.kind == tokens.INTEGER and slot.scale == vz.ScaleType.LOG and values[0] > 0
            if logarithmic and len(values) == values[-1] - values[0] + 1:
                # Levels that are indices of integers; the levels of every other kind are evenly spaced.
                positions.append(np.log(np.asarray(values, float) / values[0]) / np.log(values[-1] / values[0]))
            else:
                positions.append(None)
        return cls.from_legality(schema.slot_kinds, schema.legality, positions, canonical)

    @classmethod
    def from_legality(
        cls,
        kinds: np.ndarray,
        legality: Legality,
        positions: Sequence[np.ndarray | None],
        canonical: Mapping[int, np.ndarray] | None = None,
    ) -> "SlotSpace":
        """From the schema's parts.

        Args:
          kinds: [D].
          legality: of the study.
          positions: per slot, the positions of its levels on its own scale, [L_k] in [0, 1]; None: evenly spaced.
          canonical: slot -> int [L_k], as the attribute, for slots where levels share values.
        """
        levels = np.asarray(legality.levels, np.int32)
        grid = np.ones((len(levels), tokens.NUM_LEVELS + 1))
        for k, (count, position) in enumerate(zip(levels, positions, strict=True)):
            if position is None:
                grid[k, : count + 1] = np.arange(count + 1) / count
            else:
                grid[k, 0], grid[k, count] = 0.0, 1.0
                grid[k, 1:count] = (position[1:] + position[:-1]) / 2
        first = np.tile(np.arange(tokens.NUM_LEVELS, dtype=np.int32), (len(levels), 1))
        for k, known in (canonical or {}).items():
            first[k, : levels[k]] = known
        return cls(
            np.asarray(kinds, np.int32),
            levels,
            np.asarray(legality.parents, np.int32),
            np.asarray(legality.active_when, bool),
            grid,
            first,
        )

    @property
    def slots(self) -> int:
        return len(self.levels)


def default_row(schema: StudySchema) -> tuple[Int32[np.ndarray, " slot"], Bool[np.ndarray, " slot"]] | None:
    """The default values as levels, and which of them are declared; None if the problem declares none.

    A slot without a declared default gets its middle level.

    Raises:
      ValueError: a default value outside its parameter's range.
    """
    declared = np.array([slot.config.default_value is not None for slot in schema.slots], bool)
    if not declared.any():
        return None
    row = schema.slot_levels // 2
    for slot in schema.slots:
        default = slot.config.default_value
        if default is None:
            continue
        levels, bad = slot.quantizer.encode([default])
        if bad[0]:
            raise ValueError(
                f"study {schema.study!r}, parameter {slot.path!r}: default value: {slot.quantizer.complaint(default)}"
            )
        row[slot.index] = levels[0]
    return row.astype(np.int32), declared


def configurations(genotypes: Tokens, space: SlotSpace) -> Tokens:
    """Genotypes as configurations, int32 [N, D]: inactive slots are INACTIVE, levels canonical."""
    result = space.canonical[np.arange(space.slots)[None], genotypes].astype(np.int32)
    for k in np.flatnonzero(space.parents >= 0):
        parent = result[:, space.parents[k]]
        known = np.clip(parent, 0, tokens.NUM_LEVELS - 1)
        active = (parent < tokens.NUM_LEVELS) & space.active_when[k, known]
        result[~active, k] = tokens.INACTIVE
    return result


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Genotypes and their configurations, computed once.

    Attributes:
      genotypes: int32 [N, D], which the operators change.
      rows: int32 [N, D], the configurations, which are checked, scored and suggested.
    """

    genotypes: Tokens
    rows: Tokens

    @classmethod
    def of(cls, genotypes: Tokens, space: SlotSpace) -> "Candidates":
        return cls(genotypes, configurations(genotypes, space))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: np.ndarray) -> "Candidates":
        """The candidates selected by indices or by a mask."""
        return Candidates(self.genotypes[chosen], self.rows[chosen])

    def __add__(self, others: "Candidates") -> "Candidates":
        """These, then the others."""
        return Candidates(np.concatenate([self.genotypes, others.genotypes]), np.concatenate([self.rows, others.rows]))


def as_genotypes(rng: np.random.Generator, rows: Tokens, space: SlotSpace) -> Tokens:
    """Rows with every status token (INACTIVE, MISSING) replaced by a random value."""
    random = from_unit_cube(rng.random(rows.shape), space)
    return np.where(rows < space.levels[None], rows, random).astype(np.int32)


def from_unit_cube(points: Float[np.ndarray, "candidate slot"], space: SlotSpace) -> Tokens:
    """Points of [0, 1)^D as genotypes.  Uniform points give values uniform on each slot's own scale, such as log."""
    result = np.empty(points.shape, np.int32)
    for k in range(space.slots):
        edges = space.grid[k, 1 : space.levels[k]]
        result[:, k] = np.searchsorted(edges, points[:, k], side="right")
    return result


def quasi_random(space: SlotSpace, first: int, count: int, seed: int) -> Tokens:
    """Genotypes of the points `first` ... `first + count - 1` of a scrambled Halton sequence, the same in any process.

    The sequence needs no table of direction numbers, so the number of dimensions is not limited.  A prefix is a Latin
    hypercube in every dimension whose base exceeds the number of points.
    """
    # A random stream of its own, independent of other draws from the same seed.
    stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    halton = qmc.Halton(space.slots, scramble=True, rng=stream)
    return from_unit_cube(halton.fast_forward(first).random(count), space)


def perturbed(rng: np.random.Generator, parents: Tokens, count: int, space: SlotSpace, scales: np.ndarray) -> Tokens:
    """Genotypes near `parents`.

    The parents are used cyclically.  Each child has a mutation rate, between 1 / D and 1, and changes each slot with
    that probability, at least one slot.  An ordered slot moves by a normal step on its own scale, reflected at the
    bounds, and by at least one level; a categorical slot is redrawn.

    Args:
      rng: random generator.
      parents: genotypes [M, D], M >= 1.
      count: number of children.
      space: the search space.
      scales: [S], standard deviations as fractions of the slot's range; each step uses one of them at random.
    """
    base = parents[np.arange(count) % len(parents)]
    slots = space.slots
    rate = np.exp(rng.uniform(-math.log(slots), 0.0, (count, 1)))
    change = rng.random((count, slots)) < rate
    change[np.arange(count), rng.integers(slots, size=count)] = True

    at = np.arange(slots)[None]
    low, high = space.grid[at, base], space.grid[at, base + 1]
    step = rng.normal(size=(count, slots)) * rng.choice(scales, size=(count, 1))
    target = low + rng.random((count, slots)) * (high - low) + step
    target = np.abs(target) % 2.0
    target = np.minimum(np.where(target > 1.0, 2.0 - target, target), np.nextafter(1.0, 0.0))
    moved = from_unit_cube(target, space)

    # A step too short to leave its level goes to the neighbouring level, inwards at the bounds.
    top = space.levels[None] - 1
    direction = np.where(base == 0, 1, np.where(base == top, -1, np.where(step > 0, 1, -1)))
    moved = np.where(moved == base, np.clip(base + direction, 0, top), moved)
    redrawn = rng.integers(0, np.maximum(top, 1), size=(count, slots))
    redrawn = np.where(redrawn >= base, np.minimum(redrawn + 1, top), redrawn)
    moved = np.where(space.kinds[None] == tokens.CATEGORICAL, redrawn, moved)
    return np.where(change, moved, base).astype(np.int32)


def crossed(rng: np.random.Generator, parents: Tokens, count: int, space: SlotSpace) -> Tokens:
    """Genotypes that take each slot from one of two random parents."""
    first, second = (parents[rng.integers(len(parents), size=count)] for _ in range(2))
    return np.where(rng.random((count, space.slots)) < 0.5, first, second).astype(np.int32)


def on_bounds(rng: np.random.Generator, parents: Tokens, count: int, space: SlotSpace) -> Tokens:
    """Parents with one slot set to one of its bounds.  The first 2 D are all bounds of the first parent, in order."""
    at = np.arange(count)
    systematic = at < 2 * space.slots
    slot = np.where(systematic, at // 2 % space.slots, rng.integers(space.slots, size=count))
    end = np.where(systematic, at % 2, rng.integers(2, size=count))
    result = parents[np.where(systematic, 0, rng.integers(len(parents), size=count))].copy()
    result[at, slot] = end * (space.levels[slot] - 1)
    return result


def enumerated(space: SlotSpace, limit: int) -> Tokens | None:
    """Every configuration of the space, [N, D], or None if there are more than `limit`."""
    rows = np.zeros((1, 0), np.int32)
    for k in range(space.slots):
        active = np.ones(len(rows), bool)
        if space.parents[k] >= 0:
            parent = rows[:, space.parents[k]]
            active = (parent < tokens.NUM_LEVELS) & space.active_when[k, np.minimum(parent, tokens.NUM_LEVELS - 1)]
        repeats = np.where(active, space.levels[k], 1)
        if repeats.sum() > limit:
            return None
        value = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        active = np.repeat(active, repeats)
        distinct = ~active | (space.canonical[k, np.minimum(value, tokens.NUM_LEVELS - 1)] == value)
        value = np.where(active, value, tokens.INACTIVE)
        rows = np.concatenate([np.repeat(rows, repeats, axis=0), value[:, None].astype(np.int32)], axis=1)[distinct]
    return rows


def new_ones(rows: Tokens, taken: Tokens) -> Int[np.ndarray, " kept"]:
    """Ascending indices of the rows that are not among `taken`, without duplicates."""
    both = np.ascontiguousarray(np.concatenate([taken, rows]).astype(np.int32))
    if both.shape[1] == 0:
        return np.arange(0 if len(taken) else min(1, len(rows)))
    keys = both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1])))[:, 0]
    _, first = np.unique(keys, return_index=True)
    return np.sort(first[first >= len(taken)]) - len(taken)
