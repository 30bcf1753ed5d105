"""Predictive distribution of each candidate: a histogram over the objective bins, converted to the user's units.

Notation
  N        candidates
  Q        1000 objective bins
  s        +1 to maximize, -1 to minimize: v = s y is larger-is-better
  m, r     center and scale of the objective scaling (`optformer.serialization.objective`)
  u        (v - m) / r, the scale on which the bins are fixed: 0 at the median of the history, 1 at its best
  e_q      edges of the bins in u, e_0 = -1e15 ... e_Q = 1e15
  p_q      probability of bin q given that the trial is feasible; the density is constant within a bin
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from jaxtyping import Float

from optformer.serialization import objective, tokens

if TYPE_CHECKING:  # the trainer imports this module and does not need Vizier
    from vizier import pyvizier as vz

    from optformer.facade import Candidate

MOMENT_RANGE: Final = (-50.0, 8.0)
"""Range of u, in good ranges, to which moments and acquisitions clamp an outcome.

The outermost bins reach to 1e15 good ranges, so that every finite number has a bin; there, a probability of 1e-10 would
dominate the mean.  Below -50, the exact value of a bad trial does not matter; above 8, nor does that of a good one.
"""

UNIT: Final = objective.Scaling(center=0.0, scale=1.0)
_EDGES: Final = objective.bin_edges(UNIT)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Predictive distributions of N candidates, in user units.

    All statistics except `infeasible` and `probability_of_improvement` are conditional on the trial being feasible.
    `len(prediction)` is N; `prediction[i]`, `prediction[2:5]` and `prediction[mask]` are predictions of the chosen
    candidates (N = 1 for an integer).

    Attributes:
      log_probabilities: float64 [N, Q], log p_q; the best bins are last, for either goal.
      infeasible: float64 [N], probability that the trial fails.
      scaling: center and scale (floats) of larger-is-better values.
      sign: +1 if the objective is maximized, -1 if it is minimized.
    """

    log_probabilities: Float[np.ndarray, "candidate bin"]
    infeasible: Float[np.ndarray, " candidate"]
    scaling: objective.Scaling
    sign: float

    @classmethod
    def from_logits(
        cls, logits: Float[np.ndarray, "candidate output"], scaling: objective.Scaling, sign: float
    ) -> "Prediction":
        """From the function head's output [N, 1004].

        Only the bins and INFEASIBLE are outcomes.  The other status tokens describe how a trial was recorded; they are
        left out before normalizing.

        Args:
          logits: [N, 1004].
          scaling: center and scale of the study.
          sign: +1 to maximize, -1 to minimize.
        """
        logits = np.asarray(logits, dtype=np.float64)
        bins, failure = logits[:, : tokens.NUM_LEVELS], logits[:, tokens.INFEASIBLE]
        top = bins.max(axis=-1, keepdims=True)
        log_total = top[:, 0] + np.log(np.exp(bins - top).sum(axis=-1))
        return cls(
            log_probabilities=bins - log_total[:, None],
            infeasible=np.exp(failure - np.logaddexp(failure, log_total)),
            scaling=objective.Scaling(float(scaling.center), float(scaling.scale)),
            sign=float(sign),
        )

    def __len__(self) -> int:
        return len(self.infeasible)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Prediction":
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"candidate {index} of {len(self)}")
            index = [int(index)]
        return dataclasses.replace(
            self, log_probabilities=self.log_probabilities[index], infeasible=self.infeasible[index]
        )

    def __repr__(self) -> str:
        goal = "maximize" if self.sign > 0 else "minimize"
        with np.printoptions(precision=4, threshold=6):
            return f"Prediction({goal}, mean={self.mean}, stddev={self.stddev}, infeasible={self.infeasible})"

    @property
    def mean(self) -> Float[np.ndarray, " candidate"]:
        """Mean, with outcomes clamped to `MOMENT_RANGE`."""
        mean, _ = self._moments()
        return self._to_user(mean)

    @property
    def stddev(self) -> Float[np.ndarray, " candidate"]:
        """Standard deviation, with outcomes clamped to `MOMENT_RANGE`; includes the spread within a bin."""
        _, variance = self._moments()
        with np.errstate(over="ignore"):
            return np.minimum(np.sqrt(variance) * self.scaling.scale, np.finfo(np.float64).max)

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of u, each [N]."""
        probabilities = np.exp(self.log_probabilities)
        edges = np.clip(_EDGES, *MOMENT_RANGE)
        middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
        mean = probabilities @ middle
        # Computed around the mean: E[u^2] - E[u]^2 would lose its digits to cancellation.
        variance = (probabilities * ((middle[None] - mean[:, None]) ** 2 + width[None] ** 2 / 12)).sum(axis=-1)
        return mean, variance

    def quantile(self, q: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Quantiles in user units.

        Args:
          q: one probability in [0, 1], or K of them.

        Returns:
          [N] for one probability, [K, N] for several: `low, middle, high = prediction.quantile([.05, .5, .95])`.

        Raises:
          ValueError: a probability outside [0, 1].
        """
        q = np.asarray(q, dtype=np.float64)
        if q.ndim > 1 or not np.all((q >= 0) & (q <= 1)):
            raise ValueError(f"quantile expects probabilities between 0 and 1, got {q.tolist()}")
        level = np.atleast_1d(q if self.sign > 0 else 1.0 - q)
        u = self._inverse_cdf(np.broadcast_to(level[:, None], (level.size, len(self))))
        user = self._to_user(u)
        return user if q.ndim else user[0]

    def _inverse_cdf(self, level: np.ndarray) -> np.ndarray:
        """u at which the CDF reaches `level`, both [K, N]."""
        cumulative = self._cumulative()
        u = np.empty(level.shape)
        for n in range(len(self)):
            # The bin in which the level is reached; side="right" skips empty bins.
            bins = np.clip(np.searchsorted(cumulative[n], level[:, n], side="right") - 1, 0, tokens.NUM_LEVELS - 1)
            low, high = cumulative[n, bins], cumulative[n, bins + 1]
            within = np.where(high > low, (level[:, n] - low) / np.where(high > low, high - low, 1.0), 1.0)
            u[:, n] = _EDGES[bins] + np.clip(within, 0.0, 1.0) * (_EDGES[bins + 1] - _EDGES[bins])
        return u

    def _cumulative(self) -> np.ndarray:
        """CDF at the edges of the bins, [N, Q + 1]."""
        cumulative = np.zeros((len(self), tokens.NUM_LEVELS + 1))
        np.cumsum(np.exp(self.log_probabilities), axis=-1, out=cumulative[:, 1:])
        return cumulative / cumulative[:, -1:]

    def cdf(self, y: float | np.ndarray) -> np.ndarray:
        """Probability that the objective is at most y, [N] or [K, N].

        Args:
          y: a number, [N] (one per candidate) or [K, N], in user units.

        Raises:
          ValueError: the last axis of y is not N.
        """
        below = self._cdf_in_u(y)
        return below if self.sign > 0 else 1.0 - below

    def _cdf_in_u(self, y: float | np.ndarray) -> np.ndarray:
        u = np.clip(self._to_u(y), _EDGES[0], _EDGES[-1])
        bins = np.clip(np.searchsorted(_EDGES, u, side="right") - 1, 0, tokens.NUM_LEVELS - 1)
        within = (u - _EDGES[bins]) / (_EDGES[bins + 1] - _EDGES[bins])
        cumulative = self._cumulative()
        rows = np.broadcast_to(np.arange(len(self)), bins.shape)
        return cumulative[rows, bins] + within * (cumulative[rows, bins + 1] - cumulative[rows, bins])

    def log_prob(self, y: float | np.ndarray) -> np.ndarray:
        """Log density at y in nats per user unit, given that the trial is feasible.

        Args:
          y: a number, [N] (one per candidate) or [K, N].

        Returns:
          [N] or [K, N]; minus infinity where y is beyond the outermost bins, NaN where y is NaN.
        """
        y = self._per_candidate(y)
        known = np.isfinite(y)
        histograms = np.broadcast_to(self.log_probabilities, (*y.shape, tokens.NUM_LEVELS))
        density = objective.log_density(histograms, np.where(known, self.sign * y, 0.0), self.scaling)
        return np.where(known, density, np.where(np.isnan(y), np.nan, -np.inf))

    def sample(self, n: int, seed: int = 0) -> Float[np.ndarray, "sample candidate"]:
        """n independent samples per candidate, [n, N], in user units, given that the trial is feasible.

        The same seed gives the same samples.
        """
        uniform = np.random.default_rng(seed).random((n, len(self)))
        return self._to_user(self._inverse_cdf(uniform))

    def probability_of_improvement(self, best: float | np.ndarray) -> np.ndarray:
        """Probability that the trial is feasible and better than `best`, [N].

        Args:
          best: a number, or one per candidate, [N], in user units.
        """
        return (1.0 - self._cdf_in_u(best)) * (1.0 - self.infeasible)

    def _per_candidate(self, y: float | np.ndarray) -> np.ndarray:
        y = np.asarray(y, dtype=np.float64)
        if y.ndim and y.shape[-1] not in (1, len(self)):
            raise ValueError(f"expected one value per candidate ({len(self)}) on the last axis, got shape {y.shape}")
        return np.broadcast_to(y, (*y.shape[:-1], len(self))) if y.ndim else np.full(len(self), float(y))

    def _to_u(self, y: float | np.ndarray) -> np.ndarray:
        return np.asarray(objective.in_good_ranges(self.sign * self._per_candidate(y), self.scaling))

    def _to_user(self, u: np.ndarray) -> np.ndarray:
        largest = np.finfo(np.float64).max
        with np.errstate(over="ignore"):
            return self.sign * np.clip(self.scaling.center + self.scaling.scale * u, -largest, largest)


class Predictor(Protocol):
    """The part of `OptFormer` that plots, reports and explanations need."""

    def predict(
        self,
        problem: "vz.ProblemStatement",
        trials: "Sequence[vz.Trial]",
        candidates: "Sequence[Candidate]",
        *,
        metric: str | None = None,
        prior_studies: "Sequence[vz.ProblemAndTrials]" = (),
    ) -> Prediction: ...
