"""Gaussian-process baselines, fitted to each study separately.

Notation: n known trials, m predicted trials, P parameters, F features (one per ordered parameter, one per category of
a categorical one), x in [0, 1]^F; y the objective, w its warped and standardized value.

There are three, from simple to careful:
* `gaussian_process_forecast`: scikit-learn's Matern-5/2 with ARD and noise, fitted in the usual way.
  Overconfident with few trials.
* `FittedProcess.forecast`: priors on all hyperparameters (the length scales' grow with the square root of P, after
  Hvarfner et al. 2024, "Vanilla Bayesian optimization performs great in high dimensions"), one length scale per
  categorical parameter, an unknown mean and the overall variance integrated out (Student-t predictions, Shah et al.
  2014), inputs warped by Kumaraswamy's distribution function (Snoek et al. 2014), and the output warp of largest
  posterior density; at the most probable hyperparameters.
* `FittedProcess.averaged_forecast`: the same, averaged over the posterior of the hyperparameters.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg, optimize
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from vizier import pyvizier as vz

from optformer.evaluate.calibration.forecasts import MixtureForecast, WarpedForecast
from optformer.evaluate.calibration.output_warps import OutputWarp, fit_output_warps
from optformer.serialization import tokens
from optformer.serialization.space import StudySchema

PRIOR_DEGREES: Final = 1.0
"""nu0: strength of the prior that the overall variance of standardized objectives is 1, in trials."""
JITTER: Final = 1e-8
_EDGE: Final = 1e-6
"""Inputs of the Kumaraswamy warp stay this far from 0 and 1, where its derivatives are infinite."""
_SQRT5: Final = math.sqrt(5.0)


# --- Trials as features ---


def unit_features(schema: StudySchema, trials: Sequence[vz.Trial]) -> np.ndarray:
    """float64 [T, F]: ordered parameters as their place in the unit interval, categories one-hot, inactive 0.5."""
    x_tokens = schema.encode(trials)
    columns = []
    for slot, (kind, levels) in enumerate(zip(schema.slot_kinds, schema.slot_levels, strict=True)):
        column = x_tokens[:, slot]
        active = column < tokens.NUM_LEVELS
        if kind == tokens.CATEGORICAL:
            columns.append((column[:, None] == np.arange(levels)).astype(float))
        else:
            columns.append(np.where(active, column / (levels - 1), 0.5)[:, None])
    return np.concatenate(columns, axis=1)


def feature_parameters(schema: StudySchema) -> tuple[int, ...]:
    """[F]: the index of the parameter that each feature belongs to."""
    widths = [
        int(levels) if kind == tokens.CATEGORICAL else 1
        for kind, levels in zip(schema.slot_kinds, schema.slot_levels, strict=True)
    ]
    return tuple(slot for slot, width in enumerate(widths) for _ in range(width))


# --- scikit-learn's usual fit ---


def gaussian_process_forecast(x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> WarpedForecast:
    """Matern-5/2 GP with ARD and noise, maximum likelihood with restarts, standardized objective.

    Args:
      x: [n, F], features of the known trials.
      y: [n], their objectives.
      x_new: [m, F], features of the trials to predict.
    """
    center, scale = float(y.mean()), float(y.std()) or 1.0
    kernel = kernels.ConstantKernel(1.0, (1e-2, 1e2)) * kernels.Matern(
        np.full(x.shape[1], 0.5), (1e-2, 1e2), nu=2.5
    ) + kernels.WhiteKernel(1e-3, (1e-6, 1e0))
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        # A length scale at its bound is a valid result here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(x, (y - center) / scale)
        mean, deviation = process.predict(x_new, return_std=True)
    return WarpedForecast(mean, deviation, OutputWarp("none", center, scale))


def gaussian_process_log_density(x: np.ndarray, y: np.ndarray, x_new: np.ndarray, y_new: np.ndarray) -> np.ndarray:
    """float64 [m]: log density of y_new [m] at x_new [m, F] under `gaussian_process_forecast`."""
    return gaussian_process_forecast(x, y, x_new).log_prob(y_new)


# --- With priors and warps ---


class TuningKernel(kernels.Kernel):
    """variance * Matern-5/2(warped inputs) + an unknown mean + noise, all gradients in closed form.

    Args:
      parameters: [F], the parameter of each feature; features of one parameter share a length scale.
      length_scale: [P], length scale of each parameter.
      noise: variance of the noise.
      variance: variance of the Matern part.
      warp_a, warp_b: [P], powers of Kumaraswamy's 1 - (1 - x^a)^b; 1 leaves x unchanged.  Categories are never warped.
      warped: whether the powers are fitted.
      mean_variance: prior variance of the mean.
    """

    def __init__(
        self,
        parameters: tuple[int, ...],
        length_scale: np.ndarray,
        noise: float,
        variance: float,
        warp_a: np.ndarray,
        warp_b: np.ndarray,
        warped: bool,
        mean_variance: float = 1.0,
    ):
        self.parameters = parameters
        self.length_scale = length_scale
        self.noise = noise
        self.variance = variance
        self.warp_a = warp_a
        self.warp_b = warp_b
        self.warped = warped
        self.mean_variance = mean_variance

    # scikit-learn orders hyperparameters by name: length_scale, noise, variance, warp_a, warp_b.
    @property
    def hyperparameter_length_scale(self) -> kernels.Hyperparameter:
        return kernels.Hyperparameter("length_scale", "numeric", (1e-2, 1e3), _count(self.parameters))

    @property
    def hyperparameter_noise(self) -> kernels.Hyperparameter:
        return kernels.Hyperparameter("noise", "numeric", (1e-6, 4.0))

    @property
    def hyperparameter_variance(self) -> kernels.Hyperparameter:
        return kernels.Hyperparameter("variance", "numeric", (1e-2, 1e2))

    @property
    def hyperparameter_warp_a(self) -> kernels.Hyperparameter:
        return self._warp("warp_a")

    @property
    def hyperparameter_warp_b(self) -> kernels.Hyperparameter:
        return self._warp("warp_b")

    def _warp(self, name: str) -> kernels.Hyperparameter:
        count = _count(self.parameters)
        return kernels.Hyperparameter(name, "numeric", (0.1, 10.0) if self.warped else "fixed", count)

    def assign(self, theta: np.ndarray) -> None:
        """Equivalent to `kernel.theta = theta`, but faster, since it does not search for attributes."""
        count = _count(self.parameters)
        values = np.exp(theta)
        self.length_scale, self.noise, self.variance = values[:count], float(values[count]), float(values[count + 1])
        if self.warped:
            self.warp_a, self.warp_b = values[count + 2 : 2 * count + 2], values[2 * count + 2 :]

    def is_stationary(self) -> bool:
        return False

    def diag(self, X: np.ndarray) -> np.ndarray:
        return np.full(len(X), self.variance + self.mean_variance + self.noise)

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None, eval_gradient: bool = False) -> Any:
        """[n, n'], and with `eval_gradient` (Y None) the gradient [n, n, H] in the logs of the hyperparameters."""
        length = np.atleast_1d(self.length_scale)
        index = np.asarray(self.parameters)
        onto = (index[:, None] == np.arange(len(length))).astype(float)  # [F, P]
        categories = onto.sum(axis=0)[index] > 1
        left, slope_a, slope_b = self._warped_inputs(X, index, categories)
        right = left if Y is None else self._warped_inputs(Y, index, categories)[0]
        # Two different categories have distance 1: they differ in two of the one-hot features.
        weight = np.where(categories, 0.5, 1.0)
        gap = left[:, None, :] - right[None, :, :]
        squares = (gap**2 * weight) @ onto / length**2  # [n, n', P]
        r2 = squares.sum(axis=-1)
        r = np.sqrt(r2)
        decay = np.exp(-_SQRT5 * r)
        matern = (1.0 + _SQRT5 * r + 5.0 / 3.0 * r2) * decay
        covariance = self.variance * matern + self.mean_variance
        if Y is not None:
            return covariance
        covariance[np.diag_indices_from(covariance)] += self.noise
        if not eval_gradient:
            return covariance
        slope = -5.0 / 6.0 * self.variance * (1.0 + _SQRT5 * r) * decay  # by r2
        parts = [
            -2.0 * slope[..., None] * squares,
            self.noise * np.eye(len(X))[..., None],
            (self.variance * matern)[..., None],
        ]
        if self.warped:
            for inner in (slope_a, slope_b):
                change = 2.0 * gap * (inner[:, None, :] - inner[None, :, :]) / length[index] ** 2
                parts.append(slope[..., None] * (change @ onto))
        return covariance, np.concatenate(parts, axis=-1)

    def _warped_inputs(
        self, x: np.ndarray, index: np.ndarray, categories: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u = 1 - (1 - x^a)^b, du/dlog a and du/dlog b, each [n, F]; categories are unchanged."""
        if not self.warped:
            return x, np.zeros_like(x), np.zeros_like(x)
        a, b = np.atleast_1d(self.warp_a)[index], np.atleast_1d(self.warp_b)[index]
        inside = np.clip(x, _EDGE, 1.0 - _EDGE)
        power = inside**a
        rest = 1.0 - power
        u = np.where(categories, x, 1.0 - rest**b)
        by_a = a * b * rest ** (b - 1.0) * power * np.log(inside)
        by_b = -b * rest**b * np.log(rest)
        return u, np.where(categories, 0.0, by_a), np.where(categories, 0.0, by_b)


def _prior(count: int, warped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the logs of the hyperparameters, which are normal and independent.

    Length scales around exp(sqrt 2) sqrt P with deviation sqrt 3 (Hvarfner et al. 2024), noise variance wide around
    e^-5, variance around 1, powers of the input warp around 1.
    """
    mean = [math.sqrt(2.0) + 0.5 * math.log(count)] * count + [-5.0, 0.0]
    deviation = [math.sqrt(3.0)] * count + [2.0, 1.0]
    powers = 2 * count if warped else 0
    return np.array(mean + [0.0] * powers), np.array(deviation + [0.5] * powers)


@dataclasses.dataclass(frozen=True)
class FittedProcess:
    """A Gaussian process with the hyperparameters of largest posterior density.

    Attributes:
      process: Gaussian process of the warped objective.
      warp: warp of the objective.
      log_posterior: log density of the known objectives (in their own units) and the hyperparameters.
    """

    process: GaussianProcessRegressor
    warp: OutputWarp
    log_posterior: float

    def forecast(self, x_new: np.ndarray) -> WarpedForecast:
        """Student-t predictions at x_new [m, F], at the most probable hyperparameters."""
        x, w = self.process.X_train_, self.process.y_train_
        location, scale = Posterior.given(self.process.kernel_, x, w).predict(self.process.kernel_, x, x_new)
        return WarpedForecast(location, scale, self.warp, len(w) + PRIOR_DEGREES)

    def averaged_forecast(
        self, x_new: np.ndarray, draws: int = 24, thinning: int = 8, seed: int = 0
    ) -> MixtureForecast:
        """Student-t predictions averaged over hyperparameters drawn from their posterior.

        Uses elliptical slice sampling (Murray, Adams and MacKay 2010), which has no settings to tune, from the most
        probable hyperparameters on; keeps one draw in `thinning`.
        """
        rng = np.random.default_rng(seed)
        x, w = self.process.X_train_, self.process.y_train_
        kernel, theta = clone(self.process.kernel_), self.process.kernel_.theta.copy()
        prior_mean, prior_deviation = _prior(_count(kernel.parameters), kernel.warped)
        predictions: list[tuple[np.ndarray, np.ndarray]] = []
        at = Posterior.given(kernel, x, w)
        for step in range(draws * thinning):
            ellipse = prior_deviation * rng.standard_normal(len(theta))
            threshold = at.log_likelihood - rng.standard_exponential()
            angle = rng.uniform(0.0, 2.0 * math.pi)
            low, high = angle - 2.0 * math.pi, angle
            # The interval shrinks towards 0, where the likelihood is above the threshold.
            while high - low > 1e-9:
                moved = prior_mean + (theta - prior_mean) * math.cos(angle) + ellipse * math.sin(angle)
                kernel.assign(moved)
                new = Posterior.given(kernel, x, w)
                if new.log_likelihood > threshold:
                    theta, at = moved, new
                    break
                low, high = (angle, high) if angle < 0 else (low, angle)
                angle = rng.uniform(low, high)
            if step % thinning == thinning - 1:
                kernel.assign(theta)
                predictions.append(at.predict(kernel, x, x_new))
        locations, scales = zip(*predictions, strict=True)
        return MixtureForecast(np.stack(locations), np.stack(scales), self.warp, len(w) + PRIOR_DEGREES)


class Posterior(NamedTuple):
    """A process with covariance s^2 K, given w [n].  s^2 is integrated out: nu0 / s^2 is chi^2 with nu0 degrees.

    Attributes:
      factor: [n, n], Cholesky factor of the covariance K.
      whitened: [n], factor^-1 w.
      log_likelihood: log density of w (multivariate Student-t) up to a constant; -inf if K is not positive definite.
    """

    factor: np.ndarray
    whitened: np.ndarray
    log_likelihood: float

    @classmethod
    def given(cls, kernel: TuningKernel, x: np.ndarray, w: np.ndarray) -> "Posterior":
        covariance = kernel(x)
        covariance[np.diag_indices_from(covariance)] += JITTER
        try:
            factor = linalg.cholesky(covariance, lower=True)
        except (linalg.LinAlgError, ValueError):
            return cls(covariance, w, -np.inf)
        whitened = linalg.solve_triangular(factor, w, lower=True)
        degrees = len(w) + PRIOR_DEGREES
        tail = math.log1p(float(whitened @ whitened) / PRIOR_DEGREES)
        return cls(factor, whitened, -float(np.log(np.diag(factor)).sum()) - 0.5 * degrees * tail)

    def predict(self, kernel: TuningKernel, x: np.ndarray, x_new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Location and scale [m] of the Student-t of n + nu0 degrees (Rasmussen and Williams 2006, algorithm 2.1)."""
        cross = linalg.solve_triangular(self.factor, kernel(x, x_new), lower=True)
        variance = np.maximum(kernel.diag(x_new) - (cross**2).sum(axis=0), JITTER)
        size = (PRIOR_DEGREES + self.whitened @ self.whitened) / (PRIOR_DEGREES + len(self.whitened))
        return cross.T @ self.whitened, np.sqrt(size * variance)


def fit_warped_process(
    x: Float[np.ndarray, "trial feature"], y: Float[np.ndarray, " trial"], parameters: tuple[int, ...]
) -> FittedProcess:
    """Fits the process with each output warp, and then the input warp with the one of largest posterior density.

    Args:
      x: [n, F], `unit_features`.
      y: [n], finite and not all equal.
      parameters: [F], `feature_parameters`.
    """
    fits = [_fit(x, y, parameters, warp, warped=False) for warp in fit_output_warps(y)]
    best = max(fits, key=lambda fit: fit.log_posterior)
    theta = best.process.kernel_.theta
    start = np.concatenate([theta, np.zeros(2 * _count(parameters))])
    return _fit(x, y, parameters, best.warp, warped=True, start=start)


def _count(parameters: tuple[int, ...]) -> int:
    return max(parameters) + 1


def _fit(
    x: np.ndarray,
    y: np.ndarray,
    parameters: tuple[int, ...],
    warp: OutputWarp,
    warped: bool,
    start: np.ndarray | None = None,
) -> FittedProcess:
    count = _count(parameters)
    ones = np.ones(count)
    kernel = TuningKernel(parameters, ones, 1e-2, 1.0, ones, ones, warped)
    mean, deviation = _prior(count, warped)

    def maximize(
        cost: Callable[..., tuple[float, np.ndarray]], initial: np.ndarray, bounds: np.ndarray
    ) -> tuple[np.ndarray, float]:
        def penalized(theta: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = cost(theta, eval_gradient=True)
            if not np.isfinite(value):
                return 1e25, np.zeros_like(theta)
            z = (theta - mean) / deviation
            return value + 0.5 * z @ z, gradient + z / deviation

        found = [
            optimize.minimize(penalized, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100})
            for begin in ([start] if start is not None else _starts(initial, count))
        ]
        best = min(found, key=lambda result: result.fun)
        return best.x, best.fun

    process = GaussianProcessRegressor(kernel, alpha=JITTER, optimizer=maximize)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(x, warp.forward(y))
    posterior = float(process.log_marginal_likelihood_value_ + warp.log_slope(y).sum() + warp.log_prior)
    return FittedProcess(process, warp, posterior)


def _starts(theta: np.ndarray, count: int) -> list[np.ndarray]:
    """Starting points of the optimization: smooth with little noise, rough, and mostly noise."""
    starts = []
    for length, noise in ((2.0, 1e-3), (0.3, 1e-4), (1.0, 0.3)):
        begin = theta.copy()
        begin[:count] = math.log(length) + 0.5 * math.log(count)
        begin[count] = math.log(noise)
        starts.append(begin)
    return starts
