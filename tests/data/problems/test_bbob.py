"""BBOB functions: the split of the paper, optima where shift and rotation put them, and one-element arrays."""

import numpy as np
import pytest
from vizier import pyvizier as vz
from vizier._src.benchmarks.experimenters.synthetic import bbob as vizier_bbob

from optformer.data.problems.bbob import BOUND, HELD_OUT, METRIC, TRAIN, BBOBExperimenter, least_dimension


def test_split_is_that_of_the_paper():
    assert len(TRAIN) == 16
    assert len(HELD_OUT) == 5
    assert not set(TRAIN) & set(HELD_OUT)


@pytest.mark.parametrize("name", TRAIN + HELD_OUT)
def test_every_function_is_finite_and_varies(name):
    for dimension in (least_dimension(name), 5):
        experimenter = BBOBExperimenter(name, dimension, seed=7)
        x = np.random.default_rng(0).uniform(-BOUND, BOUND, (8, dimension))
        before = x.copy()
        values = np.array([experimenter.value(point) for point in x])
        np.testing.assert_array_equal(x, before)
        assert np.isfinite(values).all()
        assert np.ptp(values) > 0


def test_a_shifted_sphere_has_its_optimum_at_the_shift():
    experimenter = BBOBExperimenter("Sphere", 3, seed=2)
    assert experimenter.value(experimenter._shift) == 0.0
    assert np.abs(experimenter._shift).max() <= 4.0
    step = np.array([0.3, 0.0, -0.4])
    assert experimenter.value(experimenter._shift + step) == pytest.approx(0.25)


def test_values_are_viziers_where_vizier_can_compute_them():
    # This one takes no detour through arrays of one element.
    experimenter = BBOBExperimenter("GriewankRosenbrock", 4, seed=5)
    x = np.random.default_rng(1).uniform(-BOUND, BOUND, 4)
    expected = vizier_bbob.GriewankRosenbrock(x - experimenter._shift, seed=experimenter._rotation_seed)
    assert experimenter.value(x) == pytest.approx(expected)


def test_viziers_own_module_is_left_alone():
    assert "float" not in vars(vizier_bbob)
    assert vizier_bbob.math.__name__ == "math"


def test_seeds_decide_shift_and_rotation():
    x = np.array([1.0, -2.0, 0.5])
    value = BBOBExperimenter("Lunacek", 3, seed=1).value(x)
    assert BBOBExperimenter("Lunacek", 3, seed=1).value(x) == value
    assert BBOBExperimenter("Lunacek", 3, seed=2).value(x) != value


def test_trials_are_completed_with_the_value():
    experimenter = BBOBExperimenter("LinearSlope", 1, seed=0)
    problem = experimenter.problem_statement()
    assert problem.metric_information.item().goal == vz.ObjectiveMetricGoal.MINIMIZE
    trial = vz.Trial({"x0": 2.5}, id=1)
    experimenter.evaluate([trial])
    assert trial.final_measurement.metrics[METRIC].value == experimenter.value(np.array([2.5]))


def test_unknown_names_and_too_few_dimensions_are_refused():
    with pytest.raises(ValueError, match="unknown BBOB function 'Sphere2'; known: Sphere"):
        BBOBExperimenter("Sphere2", 2, seed=0)
    with pytest.raises(ValueError, match="Lunacek needs at least 2"):
        BBOBExperimenter("Lunacek", 1, seed=0)
