"""Acquisition functions on the predicted histogram: how much a candidate is worth trying.

Everything is jax, over [N, 1004] logits of the function head, so that it fuses behind the model; everything is in
u = (v - m) / r (see `prediction`), so that values do not change under y -> a y + b.  Outcomes are clamped to
`MOMENT_RANGE` and are uniform within a bin.  An infeasible outcome counts as the worst one: expected improvement and
probability of improvement are multiplied by P(feasible), quantiles and samples are those of the mixture.

Notation: N candidates, Q = 1000 bins, p_q probability of bin q given feasibility, [l_q, h_q] the bin in u,
f probability that the trial is infeasible, c the incumbent in u.
"""

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optformer.inference.prediction import MOMENT_RANGE, UNIT
from optformer.serialization import objective, tokens

UCB_LEVEL: Final = 0.9
"""Quantile that stands for the upper confidence bound (Chen et al. 2022, appendix A)."""

MAX_IMPROVEMENT: Final = 1.0
"""Improvement, in good ranges, beyond which a candidate counts no better: a weak model's far tail would decide else."""

FAILURE_AVERSION: Final = 2.0
"""Where trials have failed, EI, which counts a failure as a trial without improvement, is multiplied by so many more
powers of P(feasible): a failed trial teaches less than a poor one and costs a user as much.  Chosen by
`benchmarks/failures.py`.  Where none has, it would only keep the search from what is unknown."""

_EDGES: Final = np.clip(objective.bin_edges(UNIT), *MOMENT_RANGE).astype(np.float32)

Values = Float[Array, " candidate"]


def outcome(logits: Float[Array, "candidate output"]) -> tuple[Float[Array, "candidate bin"], Values]:
    """p [N, Q] and f [N]; PENDING, MISSING and INACTIVE are no outcomes and left out before normalising."""
    logits = logits.astype(jnp.float32)
    bins, failure = logits[:, : tokens.NUM_LEVELS], logits[:, tokens.INFEASIBLE]
    return jax.nn.softmax(bins), jax.nn.sigmoid(failure - jax.nn.logsumexp(bins, axis=-1))


def expected_improvement(logits: Float[Array, "candidate output"], incumbent: Float[Array, ""]) -> Values:
    """(1 - f) E[min(max(u - c, 0), MAX_IMPROVEMENT)], in good ranges (Mockus 1975, but for the limit).

    Exact for the piecewise constant density, but for the one bin that the limit cuts.
    """
    probabilities, infeasible = outcome(logits)
    low, high = _EDGES[:-1], _EDGES[1:]
    # Integral of max(u - c, 0) over the bin by its width; bins emptied by the clamp are points.
    width = np.maximum(high - low, 1e-12)
    above_low, above_high = jnp.maximum(low - incumbent, 0.0), jnp.maximum(high - incumbent, 0.0)
    crossing = (low < incumbent) & (incumbent < high)
    gain = jnp.where(crossing, above_high**2 / (2 * width), (above_low + above_high) / 2)
    return (1.0 - infeasible) * (probabilities @ jnp.minimum(gain, MAX_IMPROVEMENT))


def probability_of_improvement(logits: Float[Array, "candidate output"], incumbent: Float[Array, ""]) -> Values:
    """(1 - f) P(u > c) (Kushner 1964)."""
    probabilities, infeasible = outcome(logits)
    low, high = _EDGES[:-1], _EDGES[1:]
    share = jnp.clip((high - incumbent) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    return (1.0 - infeasible) * (probabilities @ jnp.where(high > incumbent, share, 0.0))


def quantile(logits: Float[Array, "candidate output"], level: Float[Array, "*candidate"]) -> Values:
    """u that the outcome is below with probability `level` (one, or one per candidate); infeasible is the worst u."""
    probabilities, infeasible = outcome(logits)
    cumulative = infeasible[:, None] + (1.0 - infeasible[:, None]) * jnp.cumsum(probabilities, axis=-1)
    level = jnp.broadcast_to(jnp.asarray(level, jnp.float32), infeasible.shape)
    bins = jnp.clip(jnp.sum(cumulative < level[:, None], axis=-1), 0, tokens.NUM_LEVELS - 1)
    at = jnp.arange(bins.shape[0])
    high = cumulative[at, bins]
    low = jnp.where(bins > 0, cumulative[at, jnp.maximum(bins - 1, 0)], infeasible)
    within = jnp.clip((level - low) / jnp.maximum(high - low, 1e-30), 0.0, 1.0)
    edges = jnp.asarray(_EDGES)
    return jnp.where(level <= infeasible, MOMENT_RANGE[0], edges[bins] + within * (edges[bins + 1] - edges[bins]))


def _ei(logits: Array, incumbent: Array, key: Array) -> Values:
    return expected_improvement(logits, incumbent)


def _cautious_ei(logits: Array, incumbent: Array, key: Array) -> Values:
    _, infeasible = outcome(logits)
    return expected_improvement(logits, incumbent) * (1.0 - infeasible) ** FAILURE_AVERSION


def _pi(logits: Array, incumbent: Array, key: Array) -> Values:
    return probability_of_improvement(logits, incumbent)


def _ucb(logits: Array, incumbent: Array, key: Array) -> Values:
    return quantile(logits, jnp.float32(UCB_LEVEL))


def _thompson(logits: Array, incumbent: Array, key: Array) -> Values:
    return quantile(logits, jax.random.uniform(key, logits.shape[:1]))


ACQUISITIONS: Final[dict[str, Callable[[Array, Array, Array], Values]]] = {
    "ei": _ei,
    "pi": _pi,
    "ucb": _ucb,
    "thompson": _thompson,
}
"""name -> function of logits [N, 1004], incumbent u (scalar) and a random key, to values [N]; larger is better.

`thompson` draws one sample from each marginal, independently: the model has no joint distribution over candidates.
"""

CAUTIOUS_EI: Final = "cautious ei"
"""What stands for `ei` in a study some of whose trials have failed."""

FUNCTIONS: Final = {**ACQUISITIONS, CAUTIOUS_EI: _cautious_ei}

POLICY: Final = "policy"
"""Not an acquisition: the suggestion is a sample of the policy head, as the imitated algorithm would propose it."""


def check_acquisition(name: str) -> str:
    """The name itself.

    Raises:
      ValueError: unknown; lists the known ones.
    """
    if name not in ACQUISITIONS and name != POLICY:
        raise ValueError(f"unknown acquisition {name!r}; choose one of {', '.join([*ACQUISITIONS, POLICY])}")
    return name
