"""Warps of the objective under which a Gaussian process fits better, each strictly increasing and onto the reals.

Since a warp is onto the reals, the density of a warped normal integrates to one and is positive at every finite value.

Notation: y objective in its own units, v = (y - c) / s its robustly standardized value, h the shape of the warp,
w = (h - c') / s' the warped objective, standardized on the known trials.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

POWER_RANGE = (0.0, 2.0)
"""Powers for which Yeo and Johnson's transformation is onto the reals."""

POWER_DEVIATION = 0.5
"""Standard deviation of the normal prior of the power around 1 (no warp); few values say little about the power."""


@dataclasses.dataclass(frozen=True)
class OutputWarp:
    """A fitted warp.

    Attributes:
      kind: `none`, `yeo-johnson` or `log`.
      center, scale: c and s, before the shape.
      parameter: the power of `yeo-johnson`; for `log`, the value of sign * v below which the logarithm is continued as
        its tangent.
      sign: -1 if `log` is applied to negative values, else 1.
      shape_center, shape_scale: c' and s', after the shape.
    """

    kind: str
    center: float
    scale: float
    parameter: float = 1.0
    sign: float = 1.0
    shape_center: float = 0.0
    shape_scale: float = 1.0

    @property
    def log_prior(self) -> float:
        """Log prior density of the power, up to a constant; 0 for the other warps."""
        return -0.5 * ((self.parameter - 1.0) / POWER_DEVIATION) ** 2 if self.kind == "yeo-johnson" else 0.0

    def forward(self, y: ArrayLike) -> np.ndarray:
        """w of y, of any shape."""
        return (self._shape((np.asarray(y, dtype=float) - self.center) / self.scale) - self.shape_center) / (
            self.shape_scale
        )

    def inverse(self, w: ArrayLike) -> np.ndarray:
        """y of w, of any shape; clipped to the largest finite number."""
        h = self.shape_center + self.shape_scale * np.asarray(w, dtype=float)
        with np.errstate(over="ignore"):
            y = self.center + self.scale * self._shape_inverse(h)
        largest = np.finfo(float).max
        return np.clip(y, -largest, largest)

    def log_slope(self, y: ArrayLike) -> np.ndarray:
        """log dw/dy, the Jacobian of a density."""
        v = (np.asarray(y, dtype=float) - self.center) / self.scale
        return self._log_shape_slope(v) - np.log(self.scale) - np.log(self.shape_scale)

    def _shape(self, v: np.ndarray) -> np.ndarray:
        if self.kind == "yeo-johnson":
            # The two halves are one function: h(v; power) for v >= 0 is -h(-v; 2 - power).
            power = np.where(v >= 0, self.parameter, 2.0 - self.parameter)
            return np.sign(v) * _box_cox(np.abs(v), power)
        if self.kind == "log":
            mirrored, knot = self.sign * v, self.parameter
            log = np.log(np.maximum(mirrored, knot))
            return self.sign * (log + np.minimum(mirrored - knot, 0.0) / knot)
        return v

    def _shape_inverse(self, h: np.ndarray) -> np.ndarray:
        if self.kind == "yeo-johnson":
            power = np.where(h >= 0, self.parameter, 2.0 - self.parameter)
            return np.sign(h) * _box_cox_inverse(np.abs(h), power)
        if self.kind == "log":
            mirrored, knot = self.sign * h, self.parameter
            below = np.minimum(mirrored - np.log(knot), 0.0)
            return self.sign * np.where(below < 0, knot * (1.0 + below), np.exp(mirrored))
        return h

    def _log_shape_slope(self, v: np.ndarray) -> np.ndarray:
        if self.kind == "yeo-johnson":
            power = np.where(v >= 0, self.parameter, 2.0 - self.parameter)
            return (power - 1.0) * np.log1p(np.abs(v))
        if self.kind == "log":
            return -np.log(np.maximum(self.sign * v, self.parameter))
        return np.zeros_like(v)


def _box_cox(v: np.ndarray, power: np.ndarray) -> np.ndarray:
    """((1 + v)^power - 1) / power for v >= 0; log(1 + v) at power 0."""
    small = np.abs(power) < 1e-8
    safe = np.where(small, 1.0, power)
    return np.where(small, np.log1p(v), np.expm1(safe * np.log1p(v)) / safe)


def _box_cox_inverse(h: np.ndarray, power: np.ndarray) -> np.ndarray:
    small = np.abs(power) < 1e-8
    safe = np.where(small, 1.0, power)
    return np.where(small, np.expm1(np.where(small, h, 0.0)), np.expm1(np.log1p(safe * h) / safe))


def fit_output_warps(y: np.ndarray) -> list[OutputWarp]:
    """Candidate warps for known objectives y [n], not all equal: none, Yeo-Johnson, and log if all have one sign.

    Yeo-Johnson's power is the most probable one for independent normal values (Yeo and Johnson 2000, section 4), within
    `POWER_RANGE`.  The caller chooses a candidate by the marginal likelihood of a Gaussian process.
    """
    y = np.asarray(y, dtype=float)
    candidates = [_standardized(OutputWarp("none", *_mean_and_deviation(y)), y)]
    low, high = np.quantile(y, [0.25, 0.75])
    center = float(np.median(y))
    scale = float((high - low) / 1.349) if high > low else _mean_and_deviation(y)[1]

    def cost(power: float) -> float:
        warp = OutputWarp("yeo-johnson", center, scale, power)
        h = warp.forward(y)
        likelihood = float(warp.log_slope(y).sum()) - 0.5 * len(y) * np.log(max(float(np.var(h)), 1e-300))
        return -likelihood - warp.log_prior

    power = optimize.minimize_scalar(cost, bounds=POWER_RANGE, method="bounded", options={"xatol": 1e-3}).x
    candidates.append(_standardized(OutputWarp("yeo-johnson", center, scale, float(power)), y))
    if (y > 0).all() or (y < 0).all():
        size = float(np.exp(np.mean(np.log(np.abs(y)))))
        knot = 0.5 * float(np.abs(y).min()) / size
        candidates.append(_standardized(OutputWarp("log", 0.0, size, knot, float(np.sign(y[0]))), y))
    return candidates


def _mean_and_deviation(y: np.ndarray) -> tuple[float, float]:
    deviation = float(y.std())
    return float(y.mean()), deviation if deviation > 0 else 1.0


def _standardized(warp: OutputWarp, y: np.ndarray) -> OutputWarp:
    center, scale = _mean_and_deviation(warp.forward(y))
    return dataclasses.replace(warp, shape_center=center, shape_scale=scale)
