"""Real scikit-learn models as problems."""

import importlib.util

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.problems import registry, sklearn_data
from optformer.data.problems.sklearn import (
    HELD_OUT,
    SklearnExperimenter,
    task_names,
    wide_held_out,
    wide_task_names,
)
from optformer.data.problems.sklearn_models import FAMILIES
from optformer.data.problems.sklearn_wide_models import WIDE_FAMILIES
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
    with pytest.raises(ValueError, match=r"unknown task 'svc@iris'.*svc@digits"):
        SklearnExperimenter("svc@iris")


def test_every_family_builds_a_problem():
    for task in task_names():
        problem = SklearnExperimenter(task, max_samples=150).problem_statement()
        assert problem.is_single_objective
        assert problem.search_space.parameters


@pytest.mark.parametrize("model", WIDE_FAMILIES)
def test_every_wide_model_is_fitted_and_tells_settings_apart(model):
    data = "iris" if WIDE_FAMILIES[model].classifies else "friedman1"
    experimenter = SklearnExperimenter(f"{model}@{data}", max_samples=90)
    metric = experimenter.problem_statement().single_objective_metric_name
    trials = [trial for trial in random_trials(experimenter, 6, seed=3) if not trial.infeasible]
    values = {trial.final_measurement.metrics[metric].value for trial in trials}
    assert len(trials) >= 4
    assert np.isfinite(list(values)).all()
    assert len(values) > 1


@pytest.mark.parametrize(
    "name", [name for name, data in sklearn_data.DATA_SETS.items() if "'s data set" not in data.phrase]
)
def test_data_sets_are_complete_numbers_and_always_the_same(name):
    data = sklearn_data.DATA_SETS[name]
    (features, target), again = data.load(), data.load()
    assert len(features) == len(target) >= 150
    assert np.isfinite(features).all()
    assert np.isfinite(target).all()
    assert (len(set(target)) <= 10) == data.classifies
    np.testing.assert_array_equal(features, again[0])
    np.testing.assert_array_equal(target, again[1])


def test_the_wide_pairs_hold_out_what_is_compared_on_and_what_is_much_like_it():
    wide = wide_task_names()
    assert len(set(wide)) == len(wide)
    held_out = {task for task in wide if wide_held_out(task)}
    assert held_out >= set(HELD_OUT) & set(wide) >= {"mlp@breast_cancer", "logistic@wine", "svr@diabetes"}
    assert held_out >= {"deep_mlp@breast_cancer", "extra_trees@breast_cancer", "kernel_svr@diabetes"}
    assert held_out >= {task for task in wide if task.endswith("@wine")}
    assert not held_out & {"deep_mlp@iris", "mlp@digits", "svr@friedman1"}
    assert {family.kin for family in WIDE_FAMILIES.values()} <= {*FAMILIES, None}


def test_a_setting_that_no_fold_can_be_fitted_with_is_infeasible():
    experimenter = SklearnExperimenter("discriminant@digits", max_samples=90)
    trials = [
        vz.Trial({"boundary": "quadratic", "reg_param": 1e-6, "tol": 0.1}),
        vz.Trial({"boundary": "linear", "shrinkage": 0.5, "tol": 1e-4}),
    ]
    experimenter.evaluate(trials)
    assert [trial.infeasible for trial in trials] == [True, False]


def test_the_wide_pairs_say_which_package_they_lack(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    registry._problems.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"'statsmodels', .*pip install 'optformer\[recording\]'"):
        registry.problems("sklearn-wide")
