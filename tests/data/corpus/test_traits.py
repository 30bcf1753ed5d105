"""Traits of tasks: against closed forms and SciPy, and what must not change them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from vizier import pyvizier as vz

from optformer.data.corpus.traits import FEWEST, PAIRS, TRIALS, Task, Traits, _l_moments, _main_effect, measure
from optformer.serialization import tokens
from optformer.serialization.study import EncodedStudy


def task(q: np.ndarray, v: np.ndarray, kinds: list[int] | None = None, levels: list[int] | None = None) -> Task:
    slots = q.shape[1]
    return Task(
        np.array(kinds or [tokens.CONTINUOUS] * slots), np.array(levels or [1000] * slots), q, v, np.zeros(len(q), bool)
    )


def cube(slots: int, count: int = 100, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, (count, slots))


def traits(tested: Task, seed: int = 1) -> Traits:
    return measure(tested, np.random.default_rng(seed))


def test_l_moments_are_those_of_known_distributions() -> None:
    rng, count = np.random.default_rng(0), 200_000
    for values, skew, tails in (
        (rng.random(count), 0.0, 0.0),
        (rng.standard_normal(count), 0.0, 0.1226),
        (rng.exponential(size=count), 1 / 3, 1 / 6),
        (-rng.exponential(size=count), -1 / 3, 1 / 6),
    ):
        np.testing.assert_allclose(_l_moments(values), (skew, tails), atol=0.01)


def test_l_moments_are_means_over_all_subsamples() -> None:
    values = np.random.default_rng(1).gamma(0.7, size=9)

    def moment(order: int, weights: list[int]) -> float:
        subsamples = np.array(list(itertools.combinations(np.sort(values), order)))
        return float((subsamples @ weights).mean() / order)

    second, third, fourth = moment(2, [-1, 1]), moment(3, [1, -2, 1]), moment(4, [-1, 3, -3, 1])
    np.testing.assert_allclose(_l_moments(values), (third / second, fourth / second), rtol=1e-9)


def test_main_effects_are_one_way_analyses_of_variance() -> None:
    rng = np.random.default_rng(2)
    q = rng.integers(0, 4, 80)
    r = rng.standard_normal(80) + 0.5 * (q == 2)
    tested = task(q[:, None], r, [tokens.CATEGORICAL], [4])
    effect, significant = _main_effect(tested, 0, q, r - r.mean())
    groups = [r[q == level] for level in range(4)]
    f = stats.f_oneway(*groups).statistic
    # Epsilon squared by the F statistic with 3 and 76 degrees of freedom.
    assert effect == pytest.approx((f - 1) * 3 / (f * 3 + 76))
    assert significant == (stats.kruskal(*groups).pvalue < 0.01)


def test_additive_functions_are_explained_and_products_are_not() -> None:
    q = cube(2)
    x = q / 999 - 0.5
    additive, product = traits(task(q, x[:, 0] + x[:, 1])), traits(task(q, x[:, 0] * x[:, 1]))
    assert additive.main_effects > 0.85
    assert additive.relevant == 2
    assert 0.4 < additive.strongest < 0.7
    assert product.main_effects < 0.15
    alone = traits(task(q, x[:, 0]))
    assert alone.relevant == 1
    assert alone.strongest > 0.9


def test_noise_has_no_effects_and_no_neighbours() -> None:
    found = [traits(task(cube(5, seed=s), np.random.default_rng(s).standard_normal(100))) for s in range(40)]
    assert abs(np.mean([each.correlations for each in found])) < 0.03
    assert np.mean([each.main_effects for each in found]) < 0.08
    # Of five slots, one in a hundred each.
    assert np.mean([each.relevant for each in found]) < 0.2
    assert np.mean([each.tails for each in found]) == pytest.approx(0.1226, abs=0.02)


def test_correlations_by_distance_average_to_chance() -> None:
    q = cube(3)
    found = traits(task(q, np.sin(q / 200).sum(1)))
    assert (np.diff(found.correlations) < 0).all()
    # Of all pairs: -1 / (N - 1).
    assert found.correlations @ np.diff(PAIRS) == pytest.approx(-1 / 99, abs=0.01)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from([np.exp, np.cbrt, lambda v: 3 * v - 7]))
def test_what_depends_on_order_alone_survives_a_monotone_map(seed: int, slots: int, warp) -> None:
    rng = np.random.default_rng(seed)
    q, v = rng.integers(0, 6, (60, slots)), np.round(rng.standard_normal(60), 1)
    before, after = (traits(task(q, values, levels=[6] * slots), seed) for values in (v, warp(v)))
    for name in ("distinct", "commonest", "main_effects", "relevant", "strongest", "correlations", "equal_neighbours"):
        np.testing.assert_allclose(getattr(before, name), getattr(after, name), rtol=1e-9, err_msg=name)


def test_ties_are_counted() -> None:
    v = np.repeat([0.0, 1.0, 2.0, 3.0], [40, 30, 20, 10])
    found = traits(task(cube(2), v))
    assert found.distinct == 0.04
    assert found.commonest == 0.4
    assert found.lead == pytest.approx((3 - 1) / (2.1 - 0))


def test_neighbouring_values_are_alike_where_order_matters() -> None:
    rng = np.random.default_rng(5)
    q = np.stack([rng.integers(0, 8, 100), rng.permutation(100)], axis=1)
    tested = task(q, 1.0 * q[:, 0], [tokens.DISCRETE, tokens.CONTINUOUS], [8, 1000])
    noise = 0.3 * rng.standard_normal(100)
    assert traits(tested._replace(v=q[:, 0] + noise)).neighbouring > 0.7
    assert traits(tested._replace(v=np.array([0, 5, 0, 5, 1, 6, 1, 6])[q[:, 0]] + noise)).neighbouring < -0.1
    # No effect, or no order.
    assert np.isnan(traits(tested._replace(v=noise)).neighbouring)
    assert np.isnan(traits(tested._replace(kinds=np.array([tokens.CATEGORICAL, tokens.CONTINUOUS]))).neighbouring)


def test_failures_of_a_region_are_together_and_chance_ones_are_not() -> None:
    q = cube(3)
    chance = []
    for seed in range(30):
        failed = np.random.default_rng(seed).random(100) < 0.2
        chance.append(traits(task(q, np.arange(100.0))._replace(failed=failed)).failed_together)
    assert np.mean(chance) == pytest.approx(0.5, abs=0.04)
    region = q[:, 0] > 800
    found = traits(task(q, np.where(region, np.nan, 1.0 * np.arange(100)))._replace(failed=region))
    assert found.failed_together > 0.85
    assert found.failed == region.mean()


def test_repeats_and_their_noise() -> None:
    q = np.repeat(cube(3, 50), 2, axis=0)
    rng = np.random.default_rng(0)
    v = np.repeat(rng.standard_normal(50), 2)
    same, noisy = traits(task(q, v)), traits(task(q, v + 0.2 * rng.standard_normal(100)))
    assert (same.repeats, same.repeats_differ, same.noise) == (50, 0.0, 0.0)
    assert (noisy.repeats, noisy.repeats_differ) == (50, 1.0)
    assert noisy.noise == pytest.approx(0.2 / np.std(v), rel=0.25)
    assert same.distinct == 1.0, "repeats do not count as ties"


def test_conditional_parameters_count_where_they_are() -> None:
    rng = np.random.default_rng(3)
    parent, child = rng.integers(0, 2, 100), rng.integers(0, 1000, 100)
    q = np.stack([parent, np.where(parent == 1, child, tokens.INACTIVE), rng.permutation(100)], axis=1)
    v = 10.0 * parent + rng.standard_normal(100)
    found = traits(task(q, v, [tokens.CATEGORICAL, *[tokens.CONTINUOUS] * 2], [2, 1000, 1000]))
    # Whether the child is there tells as much as its parent, and is not counted again.
    assert found.relevant == 1
    assert found.strongest > 0.85


def test_few_or_equal_values_tell_little() -> None:
    few = traits(task(cube(2, FEWEST - 1), np.arange(FEWEST - 1.0)))
    assert np.isnan([few.distinct, few.skew, few.main_effects]).all()
    equal = traits(task(cube(2), np.ones(100)))
    assert (equal.distinct, equal.commonest) == (0.01, 1.0)
    assert np.isnan([equal.skew, equal.lead, equal.main_effects, *equal.correlations]).all()
    with pytest.raises(ValueError, match="no trial has a value or failed"):
        traits(task(cube(2), np.full(100, np.nan)))


def test_tasks_are_compared_on_equally_many_trials() -> None:
    q = cube(4, 1000)
    found = [traits(task(q, 1.0 * np.arange(1000) // 2), seed) for seed in range(2)]
    assert found[0].distinct * TRIALS == pytest.approx(round(found[0].distinct * TRIALS))
    assert found[0].distinct > 0.9
    assert found[0].skew != found[1].skew


def test_a_study_becomes_a_task() -> None:
    problem = vz.ProblemStatement()
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.search_space.root.add_categorical_param("c", ["a", "b", "c"])
    trials = [vz.Trial(id=1, parameters={"x": 0.0, "c": "b"}), vz.Trial(id=2, parameters={"x": 1.0, "c": "c"})]
    trials[0].complete(vz.Measurement(metrics={"loss": 2.0}))
    trials[1].complete(vz.Measurement(), infeasibility_reason="out of memory")
    made = Task.of(EncodedStudy(problem, [*trials, vz.Trial(id=3, parameters={"x": 0.5, "c": "a"})]))
    np.testing.assert_array_equal(made.levels, [1000, 3])
    np.testing.assert_array_equal(made.q[:2], [[0, 1], [999, 2]])
    np.testing.assert_array_equal(made.v, [-2.0, np.nan, np.nan])
    np.testing.assert_array_equal(made.failed, [False, True, False])
