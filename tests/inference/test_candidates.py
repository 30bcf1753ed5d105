"""Candidates are legal, distinct, cover the space, and come from the generator alone."""

import numpy as np
import pytest

from optformer.inference import candidates
from optformer.inference.candidates import SlotSpace
from optformer.serialization import tokens
from optformer.serialization.batch import Legality


def space(levels, kinds=None, parents=None, active_when=None, positions=None) -> SlotSpace:
    slots = len(levels)
    table = np.ones((slots, tokens.NUM_LEVELS), bool)
    for k, values in (active_when or {}).items():
        table[k] = np.isin(np.arange(tokens.NUM_LEVELS), values)
    legality = Legality(np.array(levels, np.int32), np.array(parents or [-1] * slots, np.int32), table)
    kinds = kinds or [tokens.CONTINUOUS if n == tokens.NUM_LEVELS else tokens.INTEGER for n in levels]
    return SlotSpace.from_legality(np.array(kinds), legality, positions or [None] * slots)


@pytest.fixture
def tree() -> SlotSpace:
    """optimizer in {a, b, c}; momentum under b; nesterov under momentum's upper half; lr always."""
    return space(
        [3, 1000, 2, 1000],
        [tokens.CATEGORICAL, tokens.CONTINUOUS, tokens.CATEGORICAL, tokens.CONTINUOUS],
        [-1, 0, 1, -1],
        {1: [1], 2: range(500, 1000)},
    )


def assert_legal(rows: np.ndarray, space: SlotSpace) -> None:
    assert rows.dtype == np.int32
    for row in rows:
        for k in range(space.slots):
            parent = space.parents[k]
            active = parent < 0 or (row[parent] < tokens.NUM_LEVELS and space.active_when[k, row[parent]])
            assert (0 <= row[k] < space.levels[k]) if active else row[k] == tokens.INACTIVE


def test_every_source_is_legal_in_a_conditional_space(tree):
    rng = np.random.default_rng(0)
    start = candidates.quasi_random(tree, 0, 64, seed=0)
    parents = candidates.as_genotypes(rng, candidates.configurations(start, tree), tree)
    for rows in (
        start,
        candidates.perturbed(rng, parents, 200, tree, np.array([0.01, 0.2])),
        candidates.crossed(rng, parents, 200, tree),
        candidates.on_bounds(rng, parents, 200, tree),
    ):
        assert np.all((rows >= 0) & (rows < tree.levels))
        assert_legal(candidates.configurations(rows, tree), tree)


def test_a_child_of_an_inactive_slot_is_inactive(tree):
    rows = candidates.configurations(np.array([[0, 900, 1, 5], [1, 100, 1, 5], [1, 900, 1, 5]], np.int32), tree)
    off = tokens.INACTIVE
    np.testing.assert_array_equal(rows, [[0, off, off, 5], [1, 100, off, 5], [1, 900, 1, 5]])


def test_quasi_random_points_are_uniform_in_many_dimensions_and_reproducible():
    cube = space([1000] * 40)
    rows = candidates.quasi_random(cube, 0, 512, seed=3)
    np.testing.assert_allclose(rows.mean(axis=0), 499.5, atol=30)
    for d in range(40):
        counts = np.bincount(rows[:, d] // 125, minlength=8)
        assert np.all(np.abs(counts - 64) <= 24)
    np.testing.assert_array_equal(rows[100:120], candidates.quasi_random(cube, 100, 20, seed=3))
    assert np.any(rows != candidates.quasi_random(cube, 0, 512, seed=4))
    # The same in any process.
    assert candidates.quasi_random(space([1000] * 3), 5, 2, seed=7).tolist() == [[743, 299, 766], [493, 521, 966]]


def test_the_first_points_are_spread_in_every_dimension():
    rows = candidates.quasi_random(space([1000] * 12), 0, 8, seed=0)
    for d in range(12):
        assert len(np.unique(rows[:, d] // 250)) >= 3


def test_ordered_slots_are_uniform_on_their_own_scale():
    # Integers 1 ... 1000 on a logarithmic scale: a third of the draws falls on 1 ... 10.
    position = np.log(np.arange(1, 1001)) / np.log(1000)
    rows = candidates.quasi_random(space([1000], [tokens.INTEGER], positions=[position]), 0, 3000, seed=0)
    assert 0.28 < (rows < 10).mean() < 0.39
    assert set(candidates.quasi_random(space([3]), 0, 50, seed=0)[:, 0]) == {0, 1, 2}


def test_perturbation_changes_something_and_stays_near():
    s = space([1000, 1000, 5, 4], [tokens.CONTINUOUS, tokens.CONTINUOUS, tokens.INTEGER, tokens.CATEGORICAL])
    parent = np.array([[500, 0, 2, 3]], np.int32)
    rows = candidates.perturbed(np.random.default_rng(0), parent, 2000, s, np.array([0.01]))
    changed = rows != parent
    assert np.all(changed.any(axis=1))
    assert np.all(changed.mean(axis=0) > 0.25)
    assert np.abs(rows[:, 0] - 500).max() < 60
    assert rows[:, 1].max() < 60
    assert np.abs(rows[:, 2] - 2).max() == 1
    assert set(rows[:, 3]) == {0, 1, 2, 3}


def test_bounds_of_the_best_parent_come_first():
    s = space([1000, 7])
    rows = candidates.on_bounds(np.random.default_rng(0), np.array([[500, 3], [1, 1]], np.int32), 6, s)
    np.testing.assert_array_equal(rows[:4], [[0, 3], [999, 3], [500, 0], [500, 6]])


def test_enumeration_is_complete_and_stops_at_the_limit(tree):
    small = space([2, 3, 2], parents=[-1, 0, -1], active_when={1: [1]})
    rows = candidates.enumerated(small, 100)
    assert rows is not None
    off = tokens.INACTIVE
    expected = [[0, off, 0], [0, off, 1], *([1, b, c] for b in range(3) for c in range(2))]
    np.testing.assert_array_equal(rows, expected)
    assert candidates.enumerated(small, 7) is None
    assert candidates.enumerated(tree, 10_000) is None
    nothing = candidates.enumerated(space([]), 10)
    assert nothing is not None
    assert nothing.shape == (1, 0)


def test_new_ones_drops_repeats_and_what_is_taken():
    rows = np.array([[1, 2], [3, 4], [1, 2], [5, 6]], np.int32)
    np.testing.assert_array_equal(candidates.new_ones(rows, np.array([[5, 6]], np.int32)), [0, 1])
    assert len(candidates.new_ones(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.int32))) == 0
    assert len(candidates.new_ones(np.zeros((3, 0), np.int32), np.zeros((0, 0), np.int32))) == 1


def test_levels_of_one_value_are_one_configuration():
    legality = Legality(np.array([4, 2], np.int32), np.array([-1, -1]), np.ones((2, tokens.NUM_LEVELS), bool))
    kinds = np.array([tokens.INTEGER, tokens.INTEGER])
    s = SlotSpace.from_legality(kinds, legality, [None, None], {0: np.array([0, 0, 2, 3])})
    np.testing.assert_array_equal(candidates.configurations(np.array([[1, 1], [3, 0]]), s), [[0, 1], [3, 0]])
    rows = candidates.enumerated(s, 100)
    assert rows is not None
    np.testing.assert_array_equal(rows[:, 0], [0, 0, 2, 2, 3, 3])
