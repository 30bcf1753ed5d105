"""The tuning loop and its measures."""

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.problems.sklearn import SklearnExperimenter
from optformer.data.teachers.optuna import OptunaDesigner
from optformer.evaluate.optimization import (
    best_so_far,
    maximizes,
    normalized_regret,
    objective_values,
    random_trials,
    single_objective,
    tune,
)


def problem(goal: vz.ObjectiveMetricGoal) -> vz.ProblemStatement:
    made = vz.ProblemStatement()
    made.search_space.root.add_float_param("x", 0.0, 1.0)
    made.metric_information.append(vz.MetricInformation("y", goal=goal))
    return made


def test_every_optimizer_starts_from_the_same_first_trials():
    experimenter = SklearnExperimenter("elastic_net@diabetes", max_samples=80)
    first = random_trials(experimenter, 3, seed=2)
    runs = [
        tune(experimenter, lambda p, seed, name=name: OptunaDesigner(p, name, seed), first, 6, seed=1)
        for name in ("random", "tpe")
    ]
    for run in runs:
        assert [t.parameters.as_dict() for t in run.trials[:3]] == [t.parameters.as_dict() for t in first]
        assert [t.id for t in run.trials] == [1, 2, 3, 4, 5, 6]
        assert run.values.shape == run.best.shape == run.seconds.shape == (6,)
        assert (run.seconds[:3] == 0).all()
        assert (run.seconds[3:] > 0).all()
        assert (np.diff(run.best) >= 0).all(), "R2 is maximized"


def test_no_first_trials():
    assert random_trials(SklearnExperimenter("elastic_net@diabetes", max_samples=80), 0, seed=2) == []


def test_best_so_far_follows_the_goal_and_skips_infeasible_trials():
    values = np.array([np.nan, 3.0, 5.0, np.nan, 1.0])
    assert maximizes(problem(vz.ObjectiveMetricGoal.MAXIMIZE))
    np.testing.assert_array_equal(
        best_so_far(problem(vz.ObjectiveMetricGoal.MAXIMIZE), values), [np.nan, 3.0, 5.0, 5.0, 5.0]
    )
    np.testing.assert_array_equal(
        best_so_far(problem(vz.ObjectiveMetricGoal.MINIMIZE), values), [np.nan, 3.0, 3.0, 3.0, 1.0]
    )


def test_objective_values_of_infeasible_and_unreported_trials_are_nan():
    good = vz.Trial({"x": 0.1}, id=1)
    good.complete(vz.Measurement({"y": 2.5}))
    failed = vz.Trial({"x": 0.2}, id=2)
    failed.complete(vz.Measurement(), infeasibility_reason="crash")
    running = vz.Trial({"x": 0.3}, id=3)
    values = objective_values(problem(vz.ObjectiveMetricGoal.MINIMIZE), [good, failed, running])
    np.testing.assert_array_equal(values, [2.5, np.nan, np.nan])


def test_regret_is_one_at_the_reference_and_zero_at_the_optimum():
    np.testing.assert_allclose(normalized_regret(np.array([3.0, 2.0, 1.0]), optimum=1.0, reference=3.0), [1, 0.5, 0])
    np.testing.assert_allclose(normalized_regret(np.array([0.0, 4.0]), optimum=4.0, reference=0.0), [1, 0])
    with pytest.raises(ValueError, match="flat"):
        normalized_regret(np.zeros(2), optimum=1.0, reference=1.0)


def test_several_objectives_are_refused():
    made = problem(vz.ObjectiveMetricGoal.MINIMIZE)
    made.metric_information.append(vz.MetricInformation("z", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    with pytest.raises(ValueError):
        single_objective(made)
