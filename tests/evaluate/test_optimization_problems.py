"""The problems of `optformer evaluate optimization`."""

import pickle

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.problems import bbob
from optformer.data.problems.sklearn import HELD_OUT
from optformer.evaluate.optimization import problems
from optformer.evaluate.optimization.tuning import random_trials


@pytest.mark.parametrize("variant", problems.VARIANTS)
def test_a_bbob_problem_is_the_function_at_the_point_that_its_parameters_name(variant: str):
    problem = problems.BBOBProblem("SumOfPowers", 6, variant, instance=3)
    experimenter = problem.experimenter(seed=1)
    space = experimenter.problem_statement().search_space
    kinds = [config.type for config in space.parameters]
    expected = [vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER, vz.ParameterType.CATEGORICAL] * 2
    assert kinds == (expected if variant == "mixed" else [vz.ParameterType.DOUBLE] * 6)

    function = bbob.BBOBExperimenter("SumOfPowers", 6, 3)
    trials = random_trials(experimenter, 40, seed=5)
    judged = problem.judged(trials)
    for trial, value in zip(trials, judged, strict=True):
        point = []
        for config in space.parameters:
            given = trial.parameters[config.name].value
            if config.type == vz.ParameterType.DOUBLE:
                point.append(given)
            else:
                values = [
                    int(each) if config.type == vz.ParameterType.INTEGER else each for each in config.feasible_values
                ]
                point.append(np.linspace(-5, 5, len(values))[values.index(given)])
        assert value == pytest.approx(function.value(np.array(point)))
    observed = np.array([trial.final_measurement_or_die.metrics[bbob.METRIC].value for trial in trials])
    if variant == "noisy":
        noise = observed - judged
        assert 0 < np.abs(noise).max() < 0.5 * judged.std()
        assert len(set(noise)) == 40
        again = random_trials(problem.experimenter(seed=2), 40, seed=5)
        assert problem.judged(again) == pytest.approx(judged), "the noise is the seed's, the function is not"
    else:
        np.testing.assert_array_equal(observed, judged)


@pytest.mark.parametrize("variant", problems.VARIANTS)
def test_the_scale_of_a_bbob_problem_spans_from_a_long_search_to_the_median(variant: str):
    problem = problems.BBOBProblem("RosenbrockRotated", 3, variant)
    scale = problem.scale()
    values = problem.judged(random_trials(problem.experimenter(0), 300, seed=9))
    assert scale.best <= values.min()
    assert np.quantile(values, 0.35) < scale.reference < np.quantile(values, 0.65)
    if variant != "mixed":
        assert scale.best == pytest.approx(0.0, abs=1e-6), "the function's minimum"


def test_failed_trials_are_judged_as_nothing():
    problem = problems.BBOBProblem("LinearSlope", 2)
    failed = vz.Trial({"x0": 0.0, "x1": 0.0}, id=1)
    failed.complete(vz.Measurement(), infeasibility_reason="crash")
    assert np.isnan(problem.judged([failed])).all()


def test_suites_have_held_out_functions_only_and_may_be_sent_to_other_processes():
    suite = problems.bbob_suite(4)
    assert len({problem.name for problem in suite}) == 20
    assert {problem.function for problem in suite} == set(bbob.HELD_OUT)
    assert {problem.variant for problem in problems.bbob_suite(1)} == set(problems.VARIANTS)
    for problem in [*suite, *problems.sklearn_suite(8)]:
        assert pickle.loads(pickle.dumps(problem)) == problem
    assert {each.task for each in problems.sklearn_suite(8)} == set(HELD_OUT)


def test_a_real_model_is_judged_by_its_observed_score():
    problem = problems.SklearnProblem("svr@diabetes")
    experimenter = problem.experimenter(0)
    trials = random_trials(experimenter, 2, seed=0)
    (metric,) = experimenter.problem_statement().metric_information
    assert problem.judged(trials).tolist() == [t.final_measurement_or_die.metrics[metric.name].value for t in trials]
