"""Predictive distributions of the later trials of one study, by the model or a baseline.

`optformer.inference.prediction.Prediction` and the predictions of baselines are `Forecast`s: scores only need
densities, the distribution function and quantiles.

Notation: m predicted trials, K queries, S samples.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from optformer.evaluate.calibration.output_warps import OutputWarp

MEAN_LEVELS = (np.arange(64) + 0.5) / 64
"""Levels whose quantiles are averaged for a mean; the exact mean of a warped normal may be infinite or dominated by its
tail."""


class Forecast(Protocol):
    """One distribution per predicted trial, in the units of the objective.

    `log_prob` and `cdf` take [m] or [K, m] values and return that shape; `quantile` takes one level and returns [m].
    """

    @property
    def mean(self) -> np.ndarray: ...

    def log_prob(self, y: float | np.ndarray) -> np.ndarray: ...

    def cdf(self, y: float | np.ndarray) -> np.ndarray: ...

    def quantile(self, q: float) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class UniformForecast:
    """The uniform density over [low, high], for each of m trials."""

    low: float
    high: float
    count: int

    @property
    def mean(self) -> np.ndarray:
        return np.full(self.count, 0.5 * self.low + 0.5 * self.high)

    def log_prob(self, y: float | np.ndarray) -> np.ndarray:
        inside = (np.asarray(y) >= self.low) & (np.asarray(y) <= self.high)
        return np.where(inside, -np.log(self.high - self.low), -np.inf)

    def cdf(self, y: float | np.ndarray) -> np.ndarray:
        return np.clip((np.asarray(y) - self.low) / (self.high - self.low), 0.0, 1.0)

    def quantile(self, q: float) -> np.ndarray:
        return np.full(self.count, self.low + float(q) * (self.high - self.low))


@dataclasses.dataclass(frozen=True)
class WarpedForecast:
    """Normal or Student-t distributions of warped objectives.

    Let w be the warp, which is strictly increasing and onto the reals.  The density of y is the density at w(y) times
    w'(y); its distribution function is that at w(y).

    Attributes:
      location: [m], location of w(y).
      scale: [m], standard deviation of w(y), or the scale of its Student-t distribution.
      warp: w.
      degrees: degrees of freedom; infinite for the normal.
    """

    location: Float[np.ndarray, " trial"]
    scale: Float[np.ndarray, " trial"]
    warp: OutputWarp
    degrees: float = np.inf

    def _standard(self) -> Any:
        return stats.norm() if np.isinf(self.degrees) else stats.t(self.degrees)

    def log_prob(self, y: float | np.ndarray) -> np.ndarray:
        """Log density at y, nats per unit of the objective."""
        z = (self.warp.forward(y) - self.location) / self.scale
        return self._standard().logpdf(z) - np.log(self.scale) + self.warp.log_slope(y)

    def cdf(self, y: float | np.ndarray) -> np.ndarray:
        """Probability that the objective is at most y."""
        return self._standard().cdf((self.warp.forward(y) - self.location) / self.scale)

    def quantile(self, q: float) -> np.ndarray:
        """The quantile of each trial at level q (a number), [m]."""
        return self.warp.inverse(self.location + self.scale * self._standard().ppf(q))

    @property
    def mean(self) -> np.ndarray:
        """Mean of the 64 quantiles of `MEAN_LEVELS`, [m]."""
        levels = self._standard().ppf(MEAN_LEVELS)
        return self.warp.inverse(self.location + self.scale * levels[:, None]).mean(axis=0)


@dataclasses.dataclass(frozen=True)
class MixtureForecast:
    """Equal mixtures of C Student-t distributions of warped objectives.

    Attributes:
      location: [C, m], locations of w(y).
      scale: [C, m], scales of w(y).
      warp: w.
      degrees: degrees of freedom of all components.
    """

    location: Float[np.ndarray, "component trial"]
    scale: Float[np.ndarray, "component trial"]
    warp: OutputWarp
    degrees: float

    def _standardized(self, y: float | np.ndarray) -> np.ndarray:
        return (self.warp.forward(y)[..., None, :] - self.location) / self.scale

    def log_prob(self, y: float | np.ndarray) -> np.ndarray:
        """Log density at y, nats per unit of the objective."""
        densities = stats.t(self.degrees).logpdf(self._standardized(y)) - np.log(self.scale)
        return special.logsumexp(densities, axis=-2) - np.log(len(self.location)) + self.warp.log_slope(y)

    def cdf(self, y: float | np.ndarray) -> np.ndarray:
        """Probability that the objective is at most y."""
        return special.stdtr(self.degrees, self._standardized(y)).mean(axis=-2)

    def quantile(self, q: float) -> np.ndarray:
        """The quantile of each trial at level q (a number), [m]."""
        # Bisection between the quantiles of the components; after 60 steps, only rounding is left.
        ends = self.location + self.scale * special.stdtrit(self.degrees, q)
        low, high = ends.min(axis=0), ends.max(axis=0)
        for _ in range(60):
            middle = 0.5 * low + 0.5 * high
            below = special.stdtr(self.degrees, (middle - self.location) / self.scale).mean(axis=0) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return self.warp.inverse(0.5 * low + 0.5 * high)

    @property
    def mean(self) -> np.ndarray:
        """Mean of the 64 quantiles of `MEAN_LEVELS` of each component, [m]."""
        levels = special.stdtrit(self.degrees, MEAN_LEVELS)[:, None, None]
        return self.warp.inverse(self.location + self.scale * levels).mean(axis=(0, 1))


@dataclasses.dataclass(frozen=True)
class SampleForecast:
    """Distributions given by samples, smoothed by a normal kernel (Silverman's rule, per trial).

    Attributes:
      samples: [S, m].
    """

    samples: Float[np.ndarray, "sample trial"]

    @property
    def bandwidth(self) -> np.ndarray:
        """[m]: 0.9 min(deviation, interquartile range / 1.34) S^(-1/5), at least 1e-9 of the values' size."""
        low, high = np.quantile(self.samples, [0.25, 0.75], axis=0)
        deviation = self.samples.std(axis=0)
        spread = np.where(high > low, np.minimum(deviation, (high - low) / 1.34), deviation)
        least = 1e-9 * np.maximum(np.abs(self.samples).max(axis=0), 1e-300)
        return np.maximum(0.9 * spread * len(self.samples) ** -0.2, least)

    @property
    def mean(self) -> np.ndarray:
        return self.samples.mean(axis=0)

    def log_prob(self, y: float | np.ndarray) -> np.ndarray:
        z = (np.asarray(y)[..., None, :] - self.samples) / self.bandwidth
        density = special.logsumexp(stats.norm.logpdf(z), axis=-2) - np.log(len(self.samples))
        return density - np.log(self.bandwidth)

    def cdf(self, y: float | np.ndarray) -> np.ndarray:
        return stats.norm.cdf((np.asarray(y)[..., None, :] - self.samples) / self.bandwidth).mean(axis=-2)

    def quantile(self, q: float) -> np.ndarray:
        return np.quantile(self.samples, q, axis=0)
