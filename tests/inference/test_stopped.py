"""Final values of stopped trials, predicted from their reports."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from optformer.inference.stopped import final_values

STEPS = range(8)


def history(curve, stop, finals, minimize=True):
    """Trials that report `curve(final, step)`; those that `stop` names end at that step, and their final values."""
    trials = []
    for number, final in enumerate(finals):
        last = stop.get(number)
        reports = {step: curve(final, step) for step in STEPS if last is None or step <= last}
        trials.append((reports, final if last is None else None))
    return trials, final_values(trials, minimize=minimize)


FINALS = [0.5, 0.3, 0.8, 0.2, 0.9, 0.6, 0.4, 0.7, 1.0, 0.35]


@pytest.mark.parametrize("minimize", [True, False])
@pytest.mark.parametrize(
    "curve",
    [
        lambda y, step: y + 0.5 * math.exp(-step),
        lambda y, step: y * (1 + 10 / (step + 1) ** 1.5),
        lambda y, step: 3.0 * y - 100.0 + step,  # in other units than the final value
    ],
)
def test_smooth_curves_are_predicted_as_if_they_had_gone_on(curve, minimize):
    finals = FINALS if minimize else [-final for final in FINALS]
    stop = {4: 0, 5: 0, 7: 1, 8: 3, 9: 2}
    _, predicted = history(curve, stop, finals, minimize)
    assert predicted == pytest.approx(finals)


def test_reports_of_different_steps_are_compared_at_equal_ones():
    """The later a trial was stopped, the lower its last report, whatever it is worth."""
    _, predicted = history(lambda y, step: y + 5.0 / (step + 1), {8: 6, 7: 0}, FINALS)
    assert predicted[8] == pytest.approx(1.0)
    assert predicted[7] == pytest.approx(0.7)


def test_noise_is_averaged():
    rng = np.random.default_rng(0)
    finals = list(rng.uniform(0.1, 1.0, 60))
    stop = dict.fromkeys(range(20, 60), 3)
    trials, predicted = history(lambda y, step: y + math.exp(-step / 2) + 0.1 * rng.normal(), stop, finals)
    last = [list(reports.values())[-1] for reports, _ in trials[20:]]
    assert spearmanr(predicted[20:], finals[20:])[0] > spearmanr(last, finals[20:])[0] + 0.02
    assert abs(np.mean(predicted[20:]) - np.mean(finals[20:])) < 0.03


def test_curves_that_cross():
    _, predicted = history(lambda y, step: y if step > 4 else 1.2 - y, {8: 0, 9: 0}, FINALS)
    assert predicted == pytest.approx(FINALS)


def test_early_values_that_say_nothing_predict_what_the_others_came_to():
    rng = np.random.default_rng(0)
    finals = list(rng.uniform(0.0, 1.0, 60))
    stop = dict.fromkeys(range(30, 60), 0)
    _, predicted = history(lambda y, step: rng.uniform(5.0, 7.0), stop, finals)
    assert np.abs(np.array(predicted[30:]) - np.median(finals[:30])).max() < 0.25


def test_few_trials_are_not_taken_for_curves_that_cross():
    trials = [({0: 1.0}, 0.5), ({0: 1.1}, 0.4), ({0: 2.0}, None)]
    assert final_values(trials, minimize=True)[2] == pytest.approx(1.4)


def test_outliers_do_not_move_the_line():
    finals = [*FINALS, 0.55, 1e6]
    _, predicted = history(lambda y, step: y + 0.5 * math.exp(-step), {10: 1}, finals)
    assert predicted[10] == pytest.approx(0.55)


@pytest.mark.parametrize(("minimize", "sign"), [(True, 1), (False, -1)])
def test_a_prediction_is_never_better_than_what_was_seen(minimize, sign):
    finals = [sign * final for final in FINALS] + [sign * 0.01]
    _, predicted = history(lambda y, step: y, {10: 2}, finals, minimize)
    assert predicted[10] == sign * 0.2


def test_before_any_trial_has_finished_the_last_to_be_stopped_stand_for_the_final_values():
    trials = [({0: 1.0}, None), ({0: 2.0, 3: 1.5}, None), ({0: 3.0, 3: 2.5}, None)]
    assert final_values(trials, minimize=True) == pytest.approx([0.5, 1.5, 2.5])


def test_what_cannot_be_read_is_passed_over():
    trials = [
        ({}, 0.5),
        ({0: 1.0}, math.nan),
        ({}, None),
        ({0: math.nan}, None),
        ({0: 2.0, 1: math.inf}, None),
        ({5: 1.0}, 0.75),  # reports at later steps only
    ]
    predicted = final_values(trials, minimize=True)
    assert predicted[0] == 0.5
    assert math.isnan(predicted[1])
    assert predicted[2] is predicted[3] is None
    assert predicted[4] == 2.0
    assert predicted[5] == 0.75
    assert final_values([], minimize=True) == []


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_values_of_any_size(scale):
    finals = [final * scale for final in FINALS]
    _, predicted = history(lambda y, step: y, {9: 2}, finals)
    assert predicted[9] == pytest.approx(0.35 * scale, abs=0.0)
    trials = [({0: sign * 1e308}, -sign * 1e308) for sign in (1, -1, 1, -1, 1, -1)]
    assert np.isfinite(final_values([*trials, ({0: 1e308}, None)], minimize=True)).all()
