"""Behaviours whose trials are fixed before the first one runs.

Notation, for one study: T trials, D slots, z in [0, 1]^D a proposed point.

All except `converging` are independent of the objective.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optformer.data.prior.behaviours.interface import Setting, is_categorical, move, plan_exploring, plan_scales
from optformer.data.prior.draws import Draws
from optformer.serialization import tokens

_SHUFFLED = 256
"""Grids of up to this many points are shuffled without repetition; in larger ones, repetitions are improbable."""
_LARGEST_GRID = 2**20


def plan_random(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    return draws.uniform((setting.trials, setting.space.kinds.shape[0]))


def plan_quasi_random(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    """A Latin hypercube, or an additive recurrence with a random start (Roberts 2018), each for half of the studies."""
    trials, slots = setting.trials, setting.space.kinds.shape[0]
    strata = jnp.argsort(draws.uniform((slots, trials)), axis=1).T
    hypercube = (strata + draws.uniform((trials, slots))) / trials

    steps = jnp.asarray(_recurrence_steps(slots))[setting.space.active.sum() - 1]
    recurrence = jnp.mod(draws.uniform((1, slots)) + jnp.arange(trials)[:, None] * steps[None, :], 1.0)
    recurrence = jnp.where(draws.bernoulli(0.5, (1, slots)), 1.0 - recurrence, recurrence)
    return jnp.where(draws.bernoulli(0.5), hypercube, recurrence)


def _recurrence_steps(slots: int) -> np.ndarray:
    """Row d - 1: phi_d^-1, phi_d^-2, ..., where phi_d is the root above 1 of x^(d+1) = x + 1."""
    steps = np.zeros((slots, slots), np.float32)
    for d in range(1, slots + 1):
        phi = 2.0
        for _ in range(60):
            phi = (1.0 + phi) ** (1.0 / (d + 1))
        steps[d - 1] = phi ** -np.arange(1.0, slots + 1)
    return steps


def plan_clustered(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    """Points around a few centres, which are visited in random order or one after the other."""
    trials, slots, most = setting.trials, setting.space.kinds.shape[0], 5
    centers = draws.uniform((most, slots))
    spreads = draws.log_uniform(0.01, 0.3, (most, 1)) * draws.log_normal(1.0, 0.5, (most, slots))
    visits = draws.integer(0, draws.integer(1, most + 1), (trials,))
    visits = jnp.where(draws.bernoulli(0.3), jnp.sort(visits), visits)
    step = spreads[visits] * draws.normal((trials, slots))
    return move(is_categorical(setting)[None, :], centers[visits], step, draws.uniform((trials, slots)))


def plan_grid(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    """The points of a grid in lexicographic order, the first or the last parameter changing fastest."""
    sides = _grid_sides(draws, setting)
    return _grid_values(setting, sides, _grid_digits(draws, sides, jnp.arange(setting.trials)))


def plan_shuffled_grid(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    """The points of a grid in random order; a grid of fewer than T points is repeated."""
    sides = _grid_sides(draws, setting)
    size = jnp.minimum(jnp.prod(jnp.minimum(sides, _SHUFFLED).astype(jnp.float32)), 2.0 * _SHUFFLED).astype(jnp.int32)
    priority = jnp.where(jnp.arange(_SHUFFLED) < size, draws.uniform((_SHUFFLED,)), 2.0)
    small = jnp.argsort(priority)[jnp.arange(setting.trials) % jnp.clip(size, 1, _SHUFFLED)]
    digits = _grid_digits(draws, sides, small)
    free = jnp.floor(draws.uniform((setting.trials, sides.shape[0])) * sides[None, :]).astype(jnp.int32)
    return _grid_values(setting, sides, jnp.where(size <= _SHUFFLED, digits, free))


def _grid_sides(draws: Draws, setting: Setting) -> Int[Array, " slot"]:
    """Points per slot: 2 ... 10 or 100 for continuous slots and wide integers, all values of the others; padding 1."""
    points = jnp.where(draws.bernoulli(0.2), 100, draws.integer(2, 11))
    few = jnp.where(setting.space.kinds == tokens.CONTINUOUS, points, jnp.minimum(setting.space.levels, points))
    listed = setting.space.kinds >= tokens.DISCRETE
    return jnp.where(listed, setting.space.levels, jnp.maximum(few, 1)) * setting.space.active + ~setting.space.active


def _grid_digits(draws: Draws, sides: Int[Array, " slot"], index: Int[Array, " trial"]) -> Int[Array, "trial slot"]:
    """Mixed-radix digits of the index in the grid; slots beyond the largest grid stay at their first point."""
    forward = draws.bernoulli(0.5)
    fastest_first = jnp.where(forward, sides, sides[::-1])
    # A slot changes after as many points as the faster slots have together; capped, since only T points are visited.
    strides = jnp.cumprod(jnp.concatenate([jnp.ones((1,)), fastest_first[:-1].astype(jnp.float32)]))
    strides = jnp.minimum(strides, _LARGEST_GRID).astype(jnp.int32)
    digits = (index[:, None] // strides[None, :]) % fastest_first[None, :]
    return jnp.where(forward, digits, digits[:, ::-1])


def _grid_values(
    setting: Setting, sides: Int[Array, " slot"], digits: Int[Array, "trial slot"]
) -> Float[Array, "trial slot"]:
    """Evenly spaced positions from end to end; the centres of cells for slots whose values are all visited."""
    even = digits / jnp.maximum(sides - 1, 1)[None, :]
    cell = (digits + 0.5) / sides[None, :]
    every = (sides == setting.space.levels) & (setting.space.kinds > tokens.CONTINUOUS)
    return jnp.where(every[None, :], cell, even)


def plan_converging(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    """Trials ever closer to a good point of the function."""
    shape = (setting.trials, setting.space.kinds.shape[0])
    fresh = draws.uniform(shape)
    per_slot = draws.log_normal(1.0, 0.4, (1, shape[1]))
    step = plan_scales(draws, setting, (0.1, 0.5), 0.002) * per_slot * draws.normal(shape)
    near = move(is_categorical(setting)[None, :], setting.landmark[None, :], step, fresh)
    return jnp.where(plan_exploring(draws, setting), fresh, near)
