"""Functions with one basin: bowls, curved valleys and ridges; rotated, shifted, ill-conditioned.

Notation as in `family.py`; lambda_d eigenvalues.

  bowl     f = -(sum_d lambda_d |s_d x_d|^p)^r, where s_d differs from 1 on one side of the optimum
  valley   f = -sum_d [k |x_{d+1} - bend(x_d)|^p + b x_d^2],  bend(t) = a (sin(2 pi (w t + phi)) - sin(2 pi phi))
  ridge    f = -(k rho^p + b t^2 + s t), where t runs along a random direction and rho is the distance from it
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import (
    Domain,
    Family,
    pick,
    sample_center,
    sample_conditioning,
    wave,
)


class Bowl(NamedTuple):
    """One bowl; `inner` is p = 2, 1, 3/2 or 3, `outer` is r = 1, 1/2 or 1/4."""

    center: Float[Array, " slot"]
    eigenvalues: Float[Array, " slot"]
    steeper: Float[Array, " slot"]
    inner: Int[Array, ""]
    outer: Int[Array, ""]


def sample_bowl(draws: Draws, domain: Domain, config: PriorConfig) -> Bowl:
    """Condition numbers up to 1e4; cones and parabolas; two thirds are symmetric."""
    slots = domain.relevant.shape[0]
    return Bowl(
        center=domain.axes @ sample_center(draws, domain),
        eigenvalues=sample_conditioning(draws, domain, 1e4),
        steeper=draws.log_normal(1.0, 0.8 * draws.bernoulli(0.35), (slots,)),
        inner=draws.choice([0.6, 0.1, 0.15, 0.15]),
        outer=draws.choice([0.6, 0.3, 0.1]),
    )


def evaluate_bowl(bowl: Bowl, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """At most 0."""
    x = v - bowl.center
    distance = jnp.abs(jnp.where(x > 0.0, bowl.steeper * x, x))
    square = distance * distance
    total = pick(bowl.inner, [square, distance, distance * jnp.sqrt(distance), distance * square]) @ bowl.eigenvalues
    root = jnp.sqrt(total)
    return -pick(bowl.outer, [total, root, jnp.sqrt(root)])


class Valley(NamedTuple):
    """One curved valley; `linked` marks the pairs of neighbours that are both relevant, p = 1 if `sharp`, else 2."""

    center: Float[Array, " slot"]
    linked: Float[Array, " slot"]
    bend: Float[Array, ""]
    cycles: Float[Array, ""]
    phase: Float[Array, ""]
    walls: Float[Array, ""]
    floor: Float[Array, ""]
    sharp: Bool[Array, ""]


def sample_valley(draws: Draws, domain: Domain, config: PriorConfig) -> Valley:
    """Walls 3 to 100 times as steep as the floor."""
    relevant = domain.relevant.astype(jnp.float32)
    return Valley(
        center=domain.axes @ sample_center(draws, domain),
        linked=relevant * jnp.roll(relevant, -1).at[-1].set(0.0),
        bend=draws.log_uniform(0.1, 0.6),
        cycles=draws.log_uniform(0.3, 1.5),
        phase=draws.uniform(),
        walls=draws.log_uniform(3.0, 100.0) / domain.dimension,
        floor=1.0 / domain.dimension,
        sharp=draws.bernoulli(0.4),
    )


def evaluate_valley(valley: Valley, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """At most 0."""
    x = v - valley.center
    bend = valley.bend * (wave(valley.cycles * x + valley.phase) - wave(valley.phase))
    off = jnp.roll(x, -1) - bend
    walls = jnp.where(valley.sharp, jnp.abs(off), off * off) @ valley.linked
    return -valley.walls * walls - valley.floor * (x @ x)


class Ridge(NamedTuple):
    """One ridge; `power` is p = 1, 2 or 1/2."""

    center: Float[Array, " slot"]
    direction: Float[Array, " slot"]
    walls: Float[Array, ""]
    curvature: Float[Array, ""]
    slope: Float[Array, ""]
    power: Int[Array, ""]


def sample_ridge(draws: Draws, domain: Domain, config: PriorConfig) -> Ridge:
    """Sharp or round ridges; along the ridge, the function is flat, curved, or increases towards a bound."""
    direction = draws.normal(domain.relevant.shape) * domain.relevant
    return Ridge(
        center=domain.axes @ sample_center(draws, domain),
        direction=direction / jnp.sqrt(jnp.maximum(direction @ direction, 1e-12)),
        walls=draws.log_uniform(0.5, 20.0) / jnp.sqrt(domain.dimension),
        curvature=draws.log_uniform(0.2, 3.0),
        slope=draws.normal() * draws.bernoulli(0.5),
        power=draws.choice([0.5, 0.3, 0.2]),
    )


def evaluate_ridge(ridge: Ridge, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """Value of the function; finite, of either sign."""
    x = v - ridge.center
    along = x @ ridge.direction
    square = jnp.maximum(x @ x - along * along, 0.0)
    across = jnp.sqrt(square)
    walls = ridge.walls * pick(ridge.power, [across, square, jnp.sqrt(across)])
    return -walls - along * (ridge.curvature * along + ridge.slope)


BOWL = Family(sample_bowl, evaluate_bowl)
VALLEY = Family(sample_valley, evaluate_valley)
RIDGE = Family(sample_ridge, evaluate_ridge)
