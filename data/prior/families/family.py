"""Common parts of all families of functions: their domain, rotations, and a fast cosine.

Notation, for one study: D slots, u in R^D the coordinates of a trial, in [0, 1] for ordered parameters and in [0, 2]
for categories; a in [0, 1]^D the importances, 0 for a slot that has no influence and 1 for the most important one;
R an orthogonal matrix, v = R (a * u) the point along the axes of a function, c a centre on these axes, x = v - c.

Families return values of the order of 1; `functions.py` standardizes them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.spaces import Space
from optformer.serialization import tokens

_REFLECTIONS = 4
"""Number of reflections; even, so that their product is a rotation."""


class Domain(NamedTuple):
    """The domain of a function: facts about the space, and the importance of each slot.

    Attributes:
      relevant: slots with an influence, at least one.
      importance: a; positive where relevant, 0 elsewhere, at most 1.
      dimension: sum of the importances, at least 1: the number of parameters, if all mattered as much as the first.
      axes: R diag(a), the axes of analytic functions: those of the parameters, or random ones of the relevant subspace.
      log_scale: ordered slots on a log scale.
      categorical: slots whose coordinates have no order.
    """

    relevant: Bool[Array, " slot"]
    importance: Float[Array, " slot"]
    dimension: Float[Array, ""]
    axes: Float[Array, "slot slot"]
    log_scale: Bool[Array, " slot"]
    categorical: Bool[Array, " slot"]


class Family(NamedTuple):
    """A distribution over functions R^D -> R of the relevant slots.

    Attributes:
      sample: (draws, domain, config) -> parameters, a pytree.
      evaluate: (parameters, u, v) -> value, finite everywhere; v = axes @ u is the point along the function's axes.
      cliff: whether trials with the lowest values may fail.
    """

    sample: Callable[[Draws, Domain, PriorConfig], Any]
    evaluate: Callable[[Any, Float[Array, " slot"], Float[Array, " slot"]], Float[Array, ""]]
    cliff: bool = False


def sample_domain(draws: Draws, space: Space, config: PriorConfig) -> Domain:
    """Draws relevance and importance: parameters are comparable, or one to three of them dominate.

    Analyses of variance find the latter for most learning algorithms (Hutter et al. 2014).
    """
    active = space.active
    draw = draws.uniform(active.shape)
    # A slot with one level, such as those of earlier studies here, must not be the only relevant one.
    surest = jnp.argmax(jnp.where(space.levels > 1, draw, -1.0))
    relevant = active & ((draw >= config.irrelevant_rate) | (jnp.arange(active.shape[0]) == surest))

    order = jnp.where(relevant, draws.uniform(active.shape), -1.0)
    rank = (order[None, :] > order[:, None]).sum(1)
    few = jnp.where(rank < draws.integer(1, 4), 1.0, draws.log_uniform(0.03, 0.4, active.shape))
    comparable = jnp.where(relevant, draws.log_normal(1.0, 0.5, active.shape), 0.0)
    comparable = comparable / comparable.max()
    importance = jnp.where(relevant, jnp.where(draws.bernoulli(config.few_rate), few, comparable), 0.0)
    return Domain(
        relevant=relevant,
        importance=importance,
        dimension=jnp.maximum(importance.sum(), 1.0),
        axes=_sample_rotation(draws, relevant, config) * importance[None, :],
        log_scale=space.log_scale,
        categorical=space.kinds == tokens.CATEGORICAL,
    )


def pick(index: Int[Array, "*shape"], options: Sequence[Float[Array, "*shape"]]) -> Float[Array, "*shape"]:
    """options[index], elementwise.  Uses comparisons instead of a gather, since XLA fuses them with the options."""
    chosen = options[0]
    for number, option in enumerate(options[1:], start=1):
        chosen = jnp.where(index == number, option, chosen)
    return chosen


def sample_center(draws: Draws, domain: Domain, *batch: int) -> Float[Array, "*batch slot"]:
    """Draws points in a cube slightly larger than the unit cube, so that some optima lie at bounds."""
    width = jnp.where(domain.categorical, 2.0, 1.0).reshape((1,) * len(batch) + (-1,))
    return width * draws.uniform((*batch, domain.relevant.shape[0]), -0.05, 1.05)


def _sample_rotation(draws: Draws, relevant: Bool[Array, " slot"], config: PriorConfig) -> Float[Array, "slot slot"]:
    """A random rotation of the relevant subspace for `config.rotated_rate` of the functions, else none.

    A product of Householder reflections: orthogonal by construction, and cheaper than a factorization.
    """
    normals = draws.normal((_REFLECTIONS, relevant.shape[0])) * relevant[None, :]
    normals /= jnp.sqrt(jnp.maximum(jnp.square(normals).sum(1, keepdims=True), 1e-12))
    rotated = draws.bernoulli(config.rotated_rate)

    def reflect(index: Int[Array, ""], rotation: Float[Array, "slot slot"]) -> Float[Array, "slot slot"]:
        normal = normals[index]
        return rotation - 2.0 * rotated * normal[:, None] * (normal @ rotation)[None, :]

    return jax.lax.fori_loop(0, _REFLECTIONS, reflect, jnp.eye(relevant.shape[0]))


def sample_conditioning(draws: Draws, domain: Domain, largest: float) -> Float[Array, " slot"]:
    """Eigenvalues between 1 / condition and 1, the condition log-uniform up to `largest`; they sum to about 1."""
    condition = draws.log_uniform(1.0, largest)
    # The power spreads them evenly (1), or makes most of them small (below 1) or large (above 1).
    place = jnp.power(draws.uniform(domain.relevant.shape), draws.log_uniform(0.3, 3.0))
    return jnp.power(condition, -place) / domain.dimension


def wave(cycles: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """cos(2 pi cycles), to 4e-6: a polynomial that XLA vectorizes on CPU, where its cosine takes 15 times as long."""
    distance = jnp.abs(cycles - jnp.round(cycles))
    z = 2.0 * jnp.pi * (0.25 - distance)
    square = z * z
    return z * (1 + square * (-1 / 6 + square * (1 / 120 + square * (-1 / 5040 + square / 362880))))
