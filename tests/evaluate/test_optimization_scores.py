"""Regrets, ranks and their uncertainty, against values worked out by hand and published ones."""

import numpy as np
import pytest
from scipy import stats

from optformer.evaluate.optimization import scores
from optformer.evaluate.optimization.problems import Scale

NAN = float("nan")


def two_problems() -> scores.Regrets:
    curves = {
        "down": {"a": [np.array([5.0, 1.0, 3.0]), np.array([9.0, 9.0, 2.0])], "b": [np.array([NAN, NAN, 5.0])] * 2},
        "up": {"a": [np.array([0.2, 0.4]), np.array([0.5, 0.1, 0.1])], "b": [np.array([1.0, 0.0, 0.0])] * 2},
    }
    return scores.regrets(
        curves,
        maximized={"down": False, "up": True},
        families={"down": "one", "up": "two"},
        scales={"down": Scale(reference=5.0, best=1.5), "up": Scale(reference=0.0, best=0.9)},
        optimizers=["a", "b"],
        trials=3,
    )


def test_regret_is_0_at_the_best_value_that_is_known_or_was_found_and_1_at_the_reference():
    regrets = two_problems()
    # The best of "down" is 1.0, which "a" found, not the 1.5 that was known; a run that ended early keeps its best.
    np.testing.assert_allclose(regrets.values[0, 0], [[1.0, 0.0, 0.0], [2.0, 2.0, 0.25]])
    np.testing.assert_allclose(regrets.values[0, 1], [[1.0, 1.0, 1.0]] * 2)  # infeasible at first
    np.testing.assert_allclose(regrets.values[1, 0], [[0.8, 0.6, 0.6], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(regrets.values[1, 1], [[0.0, 0.0, 0.0]] * 2)


def test_problems_that_an_optimizer_did_not_run_on_and_flat_ones_are_left_out():
    curves = {
        "both": {"a": [np.array([1.0])], "b": [np.array([2.0])]},
        "one": {"a": [np.array([1.0])], "b": []},
        "flat": {"a": [np.array([1.0])], "b": [np.array([1.0])]},
        "flat but for stored digits": {"a": [np.array([1.0000001])], "b": [np.array([1.0])]},
    }
    regrets = scores.regrets(
        curves,
        dict.fromkeys(curves, False),
        dict.fromkeys(curves, "f"),
        {"both": Scale(3.0, 1.0), "one": Scale(3.0, 1.0), "flat": Scale(1.0, 1.0)}
        | {"flat but for stored digits": Scale(1.0000001, 1.0)},
        ["a", "b"],
        trials=1,
    )
    assert regrets.problems == ["both"]
    assert scores.regrets(curves, {}, {}, {}, ["a", "none"], trials=1).values.shape == (0, 2, 0, 1)


def test_ranks_share_ties_and_are_averaged_over_seeds():
    regrets = two_problems()
    np.testing.assert_allclose(regrets.ranks(1), [[1.75, 1.25], [2.0, 1.0]])
    np.testing.assert_allclose(regrets.ranks(3), [[1.0, 2.0], [2.0, 1.0]])
    assert regrets.only("two").problems == ["up"]
    assert scores.wins(regrets.mean(3), first=0) == [(1, 1)]


def test_share_of_targets_reached_grows_from_trial_to_trial():
    reached = two_problems().reached()
    assert reached.shape == (2, 3)
    assert (np.diff(reached, axis=1) >= 0).all()
    # "b" is at 0 on "up" from the first trial, and at 1 on "down": one target of all.
    np.testing.assert_allclose(reached[1], 0.5 + 0.5 / len(scores.TARGETS))


def test_bootstrap_intervals_hold_the_mean_and_shrink_with_problems():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(8, 2)), rng.normal(size=(800, 2))
    for values in (few, many):
        for column, interval in enumerate(scores.over_problems(values)):
            assert interval.mean == pytest.approx(values[:, column].mean())
            half = 1.96 * values[:, column].std(ddof=1) / np.sqrt(len(values))
            assert interval.high - interval.low == pytest.approx(2 * half, rel=0.3)
    paired = scores.difference(np.stack([few[:, 0], few[:, 0] - 1.0], axis=1), 0, 1)
    assert (paired.mean, paired.low, paired.high) == pytest.approx((1.0, 1.0, 1.0))


def test_critical_difference_is_nemenyis():
    # Demšar 2006, table 5: q_0.05 is 2.343, 2.569, 2.728 for 3, 4, 5 classifiers.
    rng = np.random.default_rng(1)
    for count, quantile in ((3, 2.343), (4, 2.569), (5, 2.728)):
        ranks = stats.rankdata(rng.normal(size=(14, count)), axis=1)
        found = scores.significance(ranks)
        assert found is not None
        assert found.critical == pytest.approx(quantile * np.sqrt(count * (count + 1) / (6 * 14)), rel=1e-3)
        assert found.p == pytest.approx(stats.friedmanchisquare(*ranks.T).pvalue)
    assert scores.significance(np.ones((5, 2))) is None


def test_cliques_join_what_is_not_told_apart():
    ranks = np.tile([1.0, 2.0, 3.0], (30, 1))
    found = scores.significance(ranks)
    assert found is not None
    assert found.critical < 1
    assert found.cliques == []
    found = scores.significance(np.tile([1.0, 2.0, 3.0], (6, 1)))
    assert found is not None
    assert 1 < found.critical < 2
    assert found.cliques == [[0, 1], [1, 2]]


def test_a_trap_is_told_with_family_and_trials():
    regrets = two_problems()
    found = scores.traps({family: regrets.only(family) for family in ("one", "two")}, "a", "b", at=(2, 3))
    assert found == ["two after 2 trials: 0.550 against 0.000", "two after 3 trials: 0.550 against 0.000"]
