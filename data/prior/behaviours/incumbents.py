"""Behaviours that modify an earlier trial: the best one, or the winner of a tournament.

Notation, for one study: T trials, D slots, L the levels of a slot, z in [0, 1]^D a proposed point.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior.behaviours.interface import (
    History,
    Setting,
    is_categorical,
    move,
    plan_exploring,
    plan_scales,
)
from optformer.data.prior.draws import Draws
from optformer.data.prior.spaces import Space
from optformer.serialization import tokens

_TOURNAMENT = 6


class LocalSearch(NamedTuple):
    """Plan of `local_search`: steps from the best trial so far."""

    categorical: Bool[Array, " slot"]
    exploring: Bool[Array, "trial 1"]
    steps: Float[Array, "trial slot"]
    fresh: Float[Array, "trial slot"]


def plan_local_search(draws: Draws, setting: Setting) -> LocalSearch:
    """Steps that shrink over time, of all coordinates or of a random subset of them."""
    shape = (setting.trials, setting.space.kinds.shape[0])
    rate = jnp.where(draws.bernoulli(0.5), 1.0, draws.uniform((), 0.2, 0.8))
    per_slot = draws.log_normal(1.0, 0.4, (1, shape[1]))
    steps = plan_scales(draws, setting, (0.05, 0.4), 0.003) * per_slot * draws.normal(shape)
    one = jnp.arange(shape[1])[None, :] == draws.integer(0, setting.space.active.sum(), (shape[0], 1))
    return LocalSearch(
        categorical=is_categorical(setting),
        exploring=plan_exploring(draws, setting),
        steps=jnp.where(draws.bernoulli(rate, shape) | one, steps, 0.0),
        fresh=draws.uniform(shape),
    )


def propose_local_search(
    plan: LocalSearch, memory: tuple[()], history: History, t: Int[Array, ""]
) -> tuple[Float[Array, " slot"], tuple[()]]:
    """A step from the best trial so far, or a uniform point."""
    near = move(plan.categorical, history.z[jnp.argmax(history.y)], plan.steps[t], plan.fresh[t])
    return jnp.where(plan.exploring[t], plan.fresh[t], near), memory


def mutate(space: Space, z: Float[Array, " slot"], fresh: Float[Array, " slot"]) -> Float[Array, " slot"]:
    """A new uniform value for every slot; never the old one if the slot has few values (discrete, categorical)."""
    levels = jnp.maximum(space.levels, 2).astype(jnp.float32)
    other = jnp.mod((jnp.floor(z * levels) + 1.5 + jnp.floor(fresh * (levels - 1.0))) / levels, 1.0)
    return jnp.where(space.kinds >= tokens.DISCRETE, other, fresh)


def _one_slot(priority: Float[Array, " slot"], on: Bool[Array, " slot"]) -> Bool[Array, " slot"]:
    """One random slot among those that are active in the parent, so that every mutation changes something."""
    return jnp.arange(on.shape[0]) == jnp.argmax(jnp.where(on, priority, -1.0))


class HillClimb(NamedTuple):
    """Plan of `hill_climb`."""

    space: Space
    priority: Float[Array, "trial slot"]
    fresh: Float[Array, "trial slot"]


def plan_hill_climb(draws: Draws, setting: Setting) -> HillClimb:
    """One mutated parameter per trial (Chen et al. 2022, appendix B.1)."""
    shape = (setting.trials, setting.space.kinds.shape[0])
    return HillClimb(setting.space, draws.uniform(shape), draws.uniform(shape))


def propose_hill_climb(
    plan: HillClimb, memory: tuple[()], history: History, t: Int[Array, ""]
) -> tuple[Float[Array, " slot"], tuple[()]]:
    """Redraws one parameter of the pivot.  A better child becomes the pivot, so the pivot is the best trial so far."""
    best = jnp.argmax(history.y)
    pivot = history.z[best]
    child = jnp.where(_one_slot(plan.priority[t], history.on[best]), mutate(plan.space, pivot, plan.fresh[t]), pivot)
    return jnp.where(t == 0, plan.fresh[t], child), memory


class Coordinates(NamedTuple):
    """Plan of `coordinate_search`: which slot each trial sets, and to what."""

    chosen: Bool[Array, "trial slot"]
    values: Float[Array, " trial"]
    start: Float[Array, " slot"]


def plan_coordinates(draws: Draws, setting: Setting) -> Coordinates:
    """Sweeps along one parameter after the other: first evenly spaced values, in later rounds random ones."""
    space = setting.space
    slots = space.kinds.shape[0]
    points = draws.integer(3, 9)
    count = space.active.sum()
    order = jnp.argsort(jnp.where(space.active, draws.uniform((slots,)), 2.0))
    step = jnp.maximum(jnp.arange(setting.trials) - 1, 0)
    swept = order[(step // points) % count]
    even = jnp.where(draws.bernoulli(0.5), (step % points) / (points - 1), (step % points + 0.5) / points)
    values = jnp.where(step < points * count, even, draws.uniform((setting.trials,)))
    return Coordinates(jnp.arange(slots)[None, :] == swept[:, None], values, draws.uniform((slots,)))


def propose_coordinates(
    plan: Coordinates, memory: tuple[()], history: History, t: Int[Array, ""]
) -> tuple[Float[Array, " slot"], tuple[()]]:
    """The best trial so far with one parameter set."""
    changed = jnp.where(plan.chosen[t], plan.values[t], history.z[jnp.argmax(history.y)])
    return jnp.where(t == 0, plan.start, changed), memory


class Evolution(NamedTuple):
    """Plan of `regularized_evolution` (Real et al. 2019), which mutates the winner of a tournament of recent trials."""

    space: Space
    population: Int[Array, ""]
    rivals: Float[Array, "trial rival"]
    priority: Float[Array, "trial slot"]
    also: Bool[Array, "trial slot"]
    steps: Float[Array, "trial slot"]
    resets: Bool[Array, "trial slot"]
    fresh: Float[Array, "trial slot"]


def plan_evolution(draws: Draws, setting: Setting) -> Evolution:
    """Populations and tournaments of any size; one parameter is mutated, in some studies sometimes more."""
    shape = (setting.trials, setting.space.kinds.shape[0])
    population = draws.log_uniform(3.0, max(setting.trials / 2, 4.0)).astype(jnp.int32)
    # Repeating a competitor does not change the winner, which gives tournaments of any size up to the largest.
    seats = jnp.minimum(jnp.arange(_TOURNAMENT), draws.integer(1, _TOURNAMENT))
    more = draws.uniform((), 0.0, 0.3) * draws.bernoulli(0.5)
    return Evolution(
        space=setting.space,
        population=population,
        rivals=draws.uniform((setting.trials, _TOURNAMENT))[:, seats],
        priority=draws.uniform(shape),
        also=draws.bernoulli(more, shape),
        steps=draws.log_uniform(0.03, 0.3) * draws.normal(shape),
        resets=draws.bernoulli(draws.uniform((), 0.0, 1.0), shape) | is_categorical(setting)[None, :],
        fresh=draws.uniform(shape),
    )


def propose_evolution(
    plan: Evolution, memory: tuple[()], history: History, t: Int[Array, ""]
) -> tuple[Float[Array, " slot"], tuple[()]]:
    """A uniform point while the population fills, then a mutant of the tournament's winner."""
    window = jnp.clip(plan.population, 1, jnp.maximum(t, 1))
    rivals = jnp.maximum(t - 1 - jnp.floor(plan.rivals[t] * window).astype(jnp.int32), 0)
    winner = rivals[jnp.argmax(history.y[rivals])]
    parent = history.z[winner]
    stepped = jnp.clip(parent + plan.steps[t], 0.0, 1.0)
    changed = jnp.where(plan.resets[t], mutate(plan.space, parent, plan.fresh[t]), stepped)
    child = jnp.where(_one_slot(plan.priority[t], history.on[winner]) | plan.also[t], changed, parent)
    return jnp.where(t < plan.population, plan.fresh[t], child), memory
