"""Acquisition functions of the predicted histogram: the value of evaluating a candidate.

All functions are jax over [N, 1004] logits of the function head, so that XLA fuses them with the model.  All values are
in u = (v - m) / r (see `prediction`), so that they do not change under y -> a y + b.  Outcomes are clamped to
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
"""Level of the quantile that serves as the upper confidence bound (Chen et al. 2022, appendix A)."""

MAX_IMPROVEMENT: Final = 1.0
"""Largest improvement that counts, in good ranges; otherwise the far tail of a weak model would decide."""

FAILURE_AVERSION: Final = 2.0
"""Further power of P(feasible) by which EI is multiplied once a trial has failed: a failed trial teaches less than a
poor one and costs as much.  Chosen with `benchmarks/failures.py`.  Before any failure, the factor would only discourage
exploration."""

_EDGES: Final = np.clip(objective.bin_edges(UNIT), *MOMENT_RANGE).astype(np.float32)

Values = Float[Array, " candidate"]


def outcome(logits: Float[Array, "candidate output"]) -> tuple[Float[Array, "candidate bin"], Values]:
    """p [N, Q] and f [N].  PENDING, MISSING and INACTIVE are not outcomes; they are left out before normalizing."""
    logits = logits.astype(jnp.float32)
    bins, failure = logits[:, : tokens.NUM_LEVELS], logits[:, tokens.INFEASIBLE]
    return jax.nn.softmax(bins), jax.nn.sigmoid(failure - jax.nn.logsumexp(bins, axis=-1))


def expected_improvement(logits: Float[Array, "candidate output"], incumbent: Float[Array, ""]) -> Values:
    """(1 - f) E[min(max(u - c, 0), MAX_IMPROVEMENT)], in good ranges (Mockus 1975, except for the limit).

    Exact for the piecewise constant density, except in the one bin that contains the limit.
    """
    probabilities, infeasible = outcome(logits)
    low, high = _EDGES[:-1], _EDGES[1:]
    # Integral of max(u - c, 0) over the bin, divided by its width; the clamp turns some bins into points.
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
    """Quantile in u at `level` (one, or one per candidate); an infeasible outcome counts as the worst u."""
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
"""Replaces `ei` in a study with failed trials."""

FUNCTIONS: Final = {**ACQUISITIONS, CAUTIOUS_EI: _cautious_ei}

POLICY: Final = "policy"
"""Not an acquisition: the suggestion is a sample of the policy head, which imitates an algorithm."""


def check_acquisition(name: str) -> str:
    """Returns `name` if it is an acquisition or `policy`.

    Raises:
      ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in ACQUISITIONS and name != POLICY:
        raise ValueError(f"unknown acquisition {name!r}; choose one of {', '.join([*ACQUISITIONS, POLICY])}")
    return name
