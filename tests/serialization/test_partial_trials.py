"""Values on the way: levels of the budget, reports of a study, the slot."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.partial_trials import (
    LEVELS,
    MOST_REPORTS,
    clause,
    level,
    of_study,
    reports_of,
    spread,
    with_budget,
)
from optformer.serialization.study import EncodedStudy


def test_levels_are_even_on_a_logarithmic_scale():
    np.testing.assert_array_equal(level(np.array([1.0, 2.0, 1 / 2, 1 / 32, 1 / 1024, 0.0])), [0, 0, 101, 500, 999, 999])
    assert level(1.0 - 1e-9) == 1
    assert LEVELS == tokens.NUM_LEVELS


@given(st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=20))
def test_less_used_is_more_left(shares):
    ordered = level(np.sort(shares))
    assert (np.diff(ordered) <= 0).all()
    assert ((ordered >= 0) & (ordered < LEVELS)).all()


def test_reports_of_a_study_share_a_budget():
    first, second, silent = of_study([{1: 5.0, 2: 4.0, 4: 3.0}, {1: 6.0, 3: math.nan}, {}], sign=-1.0)
    np.testing.assert_array_equal(first.levels, [201, 101, 1])
    np.testing.assert_array_equal(first.values, [-5.0, -4.0, -3.0])
    np.testing.assert_array_equal(second.levels, [201])
    assert len(silent) == 0
    assert of_study([]) == []
    assert [len(each) for each in of_study([{}, {}])] == [0, 0]


def test_steps_that_begin_at_0():
    (counted_from_0,) = of_study([{0: 1.0, 1: 2.0, 3: 3.0}])
    np.testing.assert_array_equal(counted_from_0.levels, [*level(np.array([0.25, 0.5])).tolist(), 1])
    (single,) = of_study([{0: 1.0}])
    np.testing.assert_array_equal(single.levels, [1])


@given(st.integers(1, 300), st.integers(1, 20))
def test_of_many_reports_some_are_kept(count, most):
    levels = level(np.arange(1, count + 1) / count)
    kept = spread(levels, most)
    assert len(kept) <= most
    assert kept[-1] == count - 1
    assert (np.diff(kept) > 0).all()
    assert len(kept) == count or count > most


def test_a_long_curve():
    (curve,) = of_study([{step: float(step) for step in range(1, 1001)}])
    assert len(curve) == MOST_REPORTS
    assert curve.values[-1] == 1000.0
    gaps = np.diff(curve.levels)
    assert gaps.min() > 1.5 * gaps.max(), "about equal distances on the slot's scale (descending)"


@pytest.mark.parametrize("steps", [[1, 2, 5], [0, 0, 0]])
def test_reports_of_a_trial(steps):
    trial = vz.Trial({"x": 0.5})
    for step, value in zip(steps, (3.0, 2.0, 1.0), strict=True):
        trial.measurements.append(vz.Measurement({"loss": value, "size": 1.0}, steps=step))
    trial.measurements.append(vz.Measurement({"size": 1.0}, steps=9))
    wanted = steps if steps[0] else [1, 2, 3]
    assert reports_of(trial, "loss") == dict(zip(wanted, (3.0, 2.0, 1.0), strict=True))


def test_the_slot_stands_behind_the_others():
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    trials = [vz.Trial({"x": 0.25}, id=1), vz.Trial({"x": 0.5}, id=2)]
    study = EncodedStudy(problem, trials)
    plain = study.row(study.x_tokens, np.array([3, 4], np.int32))
    row = study.row(study.x_tokens, np.array([3, 4], np.int32), left=np.array([201, 0], np.int32))
    np.testing.assert_array_equal(row.x_tokens[:, 1], [201, 0])
    np.testing.assert_array_equal(row.x_tokens[:, :1], plain.x_tokens)
    assert (row.slot_kinds[1], row.slot_levels[1]) == (tokens.CONTINUOUS, LEVELS)
    assert row.text_tokens[len(plain.text_tokens) :].tolist() == clause()
    assert set(row.text_segments[len(plain.text_tokens) :].tolist()) == {2}
    assert len(set(row.slot_identities.tolist())) == 2
    ended = study.row(study.x_tokens, np.array([3, 4], np.int32), left=np.zeros(2, np.int32))
    assert ended.x_tokens.shape == plain.x_tokens.shape, "where every trial has ended there is no slot"
    np.testing.assert_array_equal(with_budget(plain, np.array([201, 0])).x_tokens, row.x_tokens)
