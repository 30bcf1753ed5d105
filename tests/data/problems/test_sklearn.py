"""Real scikit-learn models as problems."""

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.problems.sklearn import SklearnExperimenter, task_names
from optformer.evaluate.optimization import random_trials


@pytest.mark.parametrize("task", ["svc@wine", "logistic@wine", "tree@wine", "mlp@wine", "svr@diabetes"])
def test_evaluations_are_finite_and_repeatable(task):
    experimenter = SklearnExperimenter(task, max_samples=120)
    metric = experimenter.problem_statement().single_objective_metric_name
    values = []
    for _ in range(2):
        trials = random_trials(experimenter, 3, seed=1)
        values.append([trial.final_measurement.metrics[metric].value for trial in trials])
    assert np.isfinite(values).all()
    assert values[0] == values[1]
    assert len(set(values[0])) > 1


def test_svc_asks_for_the_degree_of_a_polynomial_only():
    space = SklearnExperimenter("svc@wine").problem_statement().search_space
    assert space.is_conditional
    trials = random_trials(SklearnExperimenter("svc@wine", max_samples=60), 12, seed=0)
    for trial in trials:
        assert ("degree" in trial.parameters) == (trial.parameters["kernel"].value == "poly")


def test_score_depends_on_the_parameters_in_the_direction_one_expects():
    experimenter = SklearnExperimenter("kernel_ridge@diabetes")
    sensible = experimenter.score({"alpha": 1.0, "gamma": 0.01})
    overfitted = experimenter.score({"alpha": 1e-4, "gamma": 10.0})
    assert experimenter.problem_statement().metric_information.item().goal == vz.ObjectiveMetricGoal.MAXIMIZE
    assert sensible > 0.4 > overfitted


def test_unknown_task_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown task 'svc@iris'.*svc@digits"):
        SklearnExperimenter("svc@iris")


def test_every_family_builds_a_problem():
    for task in task_names():
        problem = SklearnExperimenter(task, max_samples=150).problem_statement()
        assert problem.is_single_objective
        assert problem.search_space.parameters
