"""The Gaussian-process baselines: right kernel, right gradients, and no straw men."""

import numpy as np
import pytest
import threadpoolctl
from scipy import stats
from sklearn.gaussian_process import kernels
from vizier import pyvizier as vz

from optformer.evaluate.calibration.gaussian_process import (
    PRIOR_DEGREES,
    Posterior,
    TuningKernel,
    feature_parameters,
    fit_warped_process,
    gaussian_process_forecast,
    unit_features,
)
from optformer.serialization.space import StudySchema


def kernel(warped: bool = True, ones: bool = False) -> TuningKernel:
    a, b = (np.ones(3), np.ones(3)) if ones else (np.array([1.2, 0.8, 1.0]), np.array([0.7, 1.5, 1.0]))
    return TuningKernel((0, 1, 2, 2, 2), np.array([0.5, 1.0, 2.0]), 1e-2, 1.3, a, b, warped)


def inputs(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(size=(count, 2)), np.eye(3)[rng.integers(3, size=count)]], axis=1)


@pytest.fixture(autouse=True)
def one_thread():
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.mark.parametrize("warped", [False, True])
def test_assigned_hyperparameters_are_those_of_scikit_learn(warped):
    one, other = kernel(warped), kernel(warped)
    theta = one.theta + np.random.default_rng(0).normal(size=len(one.theta))
    one.theta = theta
    other.assign(theta)
    np.testing.assert_allclose(one(inputs(5)), other(inputs(5)))


@pytest.mark.parametrize("warped", [False, True])
def test_kernel_gradients_are_those_of_differences(warped):
    k, x = kernel(warped), inputs(6)
    _, gradient = k(x, eval_gradient=True)
    theta = k.theta
    assert gradient.shape == (6, 6, len(theta)) == (6, 6, 11 if warped else 5)
    for index in range(len(theta)):
        step = np.zeros_like(theta)
        step[index] = 1e-6
        numeric = (k.clone_with_theta(theta + step)(x) - k.clone_with_theta(theta - step)(x)) / 2e-6
        np.testing.assert_allclose(gradient[..., index], numeric, atol=1e-7)


def test_unwarped_kernel_is_scikit_learns_matern_plus_mean_and_noise():
    x, other = inputs(6), inputs(4, seed=1)
    # A categorical parameter's features at half the squared distance.
    scaled, scaled_other = (v * np.array([1, 1, np.sqrt(0.5), np.sqrt(0.5), np.sqrt(0.5)]) for v in (x, other))
    matern = kernels.Matern([0.5, 1.0, 2.0, 2.0, 2.0], nu=2.5)
    k = kernel(ones=True)
    np.testing.assert_allclose(k(x), 1.3 * matern(scaled) + 1.0 + 1e-2 * np.eye(6), atol=1e-6)
    np.testing.assert_allclose(k(x, other), 1.3 * matern(scaled, scaled_other) + 1.0, atol=1e-6)
    np.testing.assert_allclose(k.diag(x), np.diag(k(x)))


def test_a_single_parameter_has_a_kernel_too():
    x = np.linspace(0, 1, 8)[:, None]
    fitted = fit_warped_process(x, np.sin(5 * x[:, 0]), (0,))
    assert np.isfinite(fitted.averaged_forecast(x[:2], draws=3, thinning=2).log_prob(np.array([0.0, 0.5]))).all()


def test_posterior_is_the_conditional_of_a_multivariate_student():
    x, x_new = inputs(7), inputs(1, seed=3)
    w = np.random.default_rng(0).normal(size=7)
    k = kernel()
    posterior = Posterior.given(k, x, w)
    location, scale = posterior.predict(k, x, x_new)
    covariance = k(x) + 1e-8 * np.eye(7)
    joint = k(np.concatenate([x, x_new])) + 1e-8 * np.eye(8)
    at = 0.7
    both = stats.multivariate_t(np.zeros(8), joint, df=PRIOR_DEGREES).logpdf(np.append(w, at))
    known = stats.multivariate_t(np.zeros(7), covariance, df=PRIOR_DEGREES).logpdf(w)
    conditional = stats.t(7 + PRIOR_DEGREES, location, scale).logpdf(at)
    assert conditional[0] == pytest.approx(both - known, abs=1e-5)
    other = Posterior.given(k, x, 2 * w)
    expected = stats.multivariate_t(np.zeros(7), covariance, df=PRIOR_DEGREES).logpdf(2 * w) - known
    assert other.log_likelihood - posterior.log_likelihood == pytest.approx(expected, abs=1e-6)


def smooth(x: np.ndarray) -> np.ndarray:
    return np.exp(3 * np.sin(4 * x[:, 0]) + x[:, 1])


def test_warps_and_averages_predict_a_smooth_skewed_function_well():
    x, x_new = inputs(25), inputs(40, seed=1)
    y, y_new = smooth(x), smooth(x_new)
    uniform = -np.log(np.ptp(np.concatenate([y, y_new])))
    plain = gaussian_process_forecast(x, y, x_new).log_prob(y_new)
    fitted = fit_warped_process(x, y, (0, 1, 2, 2, 2))
    assert fitted.warp.kind == "log"
    for forecast in (fitted.forecast(x_new), fitted.averaged_forecast(x_new)):
        density = forecast.log_prob(y_new)
        assert density.mean() > uniform + 2
        assert density.mean() > plain.mean() + 1
        assert 0.75 <= np.mean(np.abs(forecast.cdf(y_new) - 0.5) <= 0.45) <= 1.0


def test_few_trials_do_not_make_it_sure():
    rng = np.random.default_rng(0)
    averaged, plain = [], []
    for _ in range(6):
        x = rng.uniform(size=(25, 5))
        y = np.sin(7 * x[:, 0]) * np.cos(5 * x[:, 1]) + x[:, 2]
        fitted = fit_warped_process(x[:5], y[:5], tuple(range(5)))
        averaged.append(fitted.averaged_forecast(x[5:]).log_prob(y[5:]).mean())
        plain.append(gaussian_process_forecast(x[:5], y[:5], x[5:]).log_prob(y[5:]).mean())
    assert np.mean(averaged) > -2.0
    assert np.mean(plain) < np.mean(averaged)


def test_averages_are_functions_of_their_seed():
    x, y = inputs(8), smooth(inputs(8))
    fitted = fit_warped_process(x, y, (0, 1, 2, 2, 2))
    before = fitted.process.kernel_.theta.copy()
    one, two = (fitted.averaged_forecast(x[:2], draws=4, thinning=2, seed=s) for s in (0, 0))
    np.testing.assert_array_equal(one.location, two.location)
    assert not np.array_equal(one.location, fitted.averaged_forecast(x[:2], draws=4, thinning=2, seed=1).location)
    np.testing.assert_array_equal(fitted.process.kernel_.theta, before)


def test_features_of_one_category_belong_to_one_parameter():
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.search_space.root.add_categorical_param("kind", ["a", "b", "c"])
    problem.search_space.root.add_int_param("n", 1, 5)
    schema = StudySchema(problem)
    assert feature_parameters(schema) == (0, 1, 1, 1, 2)
    trial = vz.Trial({"x": 0.25, "kind": "b", "n": 5}, id=1)
    np.testing.assert_allclose(unit_features(schema, [trial]), [[250 / 999, 0, 1, 0, 1]], atol=1e-3)
