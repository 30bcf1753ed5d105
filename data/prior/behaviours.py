"""How the trials of a study are chosen: the optimizers that the policy learns to imitate.

Notation, for one study: T trials, D slots, z in [0, 1]^D a proposed point.

A behaviour is a pair of pure functions.  `plan` draws everything random at once (settings and all noise, as a pytree),
and `propose` chooses trial t from the plan and the trials before it: the scan over trials then draws no random numbers.
`BEHAVIOURS` names them, `PriorConfig.behaviours` weights them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior.draws import Draws
from optformer.data.prior.spaces import Space
from optformer.serialization import tokens

_TOURNAMENT = 6


class History(NamedTuple):
    """The trials so far.  `y` is -inf for trials that failed or lie ahead."""

    z: Float[Array, "trial slot"]
    y: Float[Array, " trial"]


class Setting(NamedTuple):
    """What a plan may know: the space, the number of trials, and a good point of the function.

    `landmark` is the best of a few dozen evaluations that are no part of the study: an optimizer that homes in on it
    stands for one that models the function well, at no cost.
    """

    space: Space
    landmark: Float[Array, " slot"]
    trials: int


class Behaviour(NamedTuple):
    """One way to choose trials.

    Attributes:
      plan: (draws, setting) -> plan, a pytree of arrays.
      propose: (plan, history, t) -> z of trial t.
      directed: the choice follows the objective, so that its policy tokens carry full weight.
      algorithm: the name it may have in the metadata.
    """

    plan: Callable[[Draws, Setting], Any]
    propose: Callable[[Any, History, Int[Array, ""]], Float[Array, " slot"]]
    directed: bool
    algorithm: str


def move(
    categorical: Bool[Array, "*batch slot"],
    z: Float[Array, "*batch slot"],
    step: Float[Array, "*batch slot"],
    fresh: Float[Array, "*batch slot"],
) -> Float[Array, "*batch slot"]:
    """A step from z, clipped to the cube, so that bounds are proposed often, as model-based optimizers do.

    A category has no neighbours: it changes to the fresh uniform draw, and the more probably, the larger the step.
    """
    return jnp.where(categorical, jnp.where(jnp.abs(step) > 0.15, fresh, z), jnp.clip(z + step, 0.0, 1.0))


def _categorical(setting: Setting) -> Bool[Array, " slot"]:
    return setting.space.kinds == tokens.CATEGORICAL


def _planned(plan: Float[Array, "trial slot"], history: History, t: Int[Array, ""]) -> Float[Array, " slot"]:
    return plan[t]


# --- Designs that do not look at the objective ---


def _plan_random(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    return draws.uniform((setting.trials, setting.space.kinds.shape[0]))


def _plan_quasi_random(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
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


def _plan_clustered(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    """A few centres with small spreads, visited at random or one after the other."""
    trials, slots, most = setting.trials, setting.space.kinds.shape[0], 5
    centers = draws.uniform((most, slots))
    spreads = draws.log_uniform(0.01, 0.3, (most, 1)) * draws.log_normal(1.0, 0.5, (most, slots))
    visits = draws.integer(0, draws.integer(1, most + 1), (trials,))
    visits = jnp.where(draws.bernoulli(0.3), jnp.sort(visits), visits)
    step = spreads[visits] * draws.normal((trials, slots))
    return move(_categorical(setting)[None, :], centers[visits], step, draws.uniform((trials, slots)))


# --- Optimizers ---


def _scales(draws: Draws, setting: Setting, first: tuple[float, float], last: float) -> Float[Array, "trial 1"]:
    """Step size per trial: from a log-uniform first one geometrically down to a log-uniform last one, with jitter."""
    high = draws.log_uniform(*first)
    low = jnp.minimum(draws.log_uniform(last, first[1]), high)
    time = jnp.arange(setting.trials) / max(setting.trials - 1, 1)
    jitter = 0.5 * draws.normal((setting.trials,))
    return jnp.exp((1.0 - time) * jnp.log(high) + time * jnp.log(low) + jitter)[:, None]


def _exploring(draws: Draws, setting: Setting) -> Bool[Array, "trial 1"]:
    """Trials that are uniform whatever happened before: the first ones, and a share of the others."""
    first = draws.log_uniform(1.0, max(setting.trials / 2, 2.0))
    rate = 0.4 * jnp.square(draws.uniform())
    return (draws.bernoulli(rate, (setting.trials,)) | (jnp.arange(setting.trials) < first))[:, None]


def _one_slot(draws: Draws, setting: Setting) -> Bool[Array, "trial slot"]:
    """One random active slot per trial, so that every step changes something."""
    chosen = draws.integer(0, setting.space.active.sum(), (setting.trials, 1))
    return jnp.arange(setting.space.kinds.shape[0])[None, :] == chosen


def _plan_converging(draws: Draws, setting: Setting) -> Float[Array, "trial slot"]:
    """Trials ever closer to a good point of the function."""
    shape = (setting.trials, setting.space.kinds.shape[0])
    fresh = draws.uniform(shape)
    per_slot = draws.log_normal(1.0, 0.4, (1, shape[1]))
    step = _scales(draws, setting, (0.1, 0.5), 0.002) * per_slot * draws.normal(shape)
    near = move(_categorical(setting)[None, :], setting.landmark[None, :], step, fresh)
    return jnp.where(_exploring(draws, setting), fresh, near)


class LocalSearch(NamedTuple):
    """Plan of `local_search`: steps from the best trial so far."""

    categorical: Bool[Array, " slot"]
    exploring: Bool[Array, "trial 1"]
    steps: Float[Array, "trial slot"]
    fresh: Float[Array, "trial slot"]


def _plan_local_search(draws: Draws, setting: Setting) -> LocalSearch:
    shape = (setting.trials, setting.space.kinds.shape[0])
    # Either all coordinates move, or a random subset of them does.
    rate = jnp.where(draws.bernoulli(0.5), 1.0, draws.uniform((), 0.2, 0.8))
    per_slot = draws.log_normal(1.0, 0.4, (1, shape[1]))
    steps = _scales(draws, setting, (0.05, 0.4), 0.003) * per_slot * draws.normal(shape)
    moving = draws.bernoulli(rate, shape) | _one_slot(draws, setting)
    return LocalSearch(
        categorical=_categorical(setting),
        exploring=_exploring(draws, setting),
        steps=jnp.where(moving, steps, 0.0),
        fresh=draws.uniform(shape),
    )


def _propose_local_search(plan: LocalSearch, history: History, t: Int[Array, ""]) -> Float[Array, " slot"]:
    near = move(plan.categorical, history.z[jnp.argmax(history.y)], plan.steps[t], plan.fresh[t])
    return jnp.where(plan.exploring[t], plan.fresh[t], near)


class Evolution(NamedTuple):
    """Plan of `regularized_evolution` (Real et al. 2019): the best of a few of the youngest is mutated."""

    population: Int[Array, ""]
    rivals: Float[Array, "trial rival"]
    steps: Float[Array, "trial slot"]
    resets: Bool[Array, "trial slot"]
    fresh: Float[Array, "trial slot"]


def _plan_evolution(draws: Draws, setting: Setting) -> Evolution:
    shape = (setting.trials, setting.space.kinds.shape[0])
    population = draws.log_uniform(3.0, max(setting.trials / 2, 4.0)).astype(jnp.int32)
    # A repeated rival changes nothing, which gives tournaments of any size up to the largest.
    seats = jnp.minimum(jnp.arange(_TOURNAMENT), draws.integer(1, _TOURNAMENT))
    mutated = _one_slot(draws, setting) | draws.bernoulli(draws.uniform((), 0.0, 0.3), shape)
    resets = draws.bernoulli(draws.uniform((), 0.0, 0.6), shape) | _categorical(setting)[None, :]
    return Evolution(
        population=population,
        rivals=draws.uniform((setting.trials, _TOURNAMENT))[:, seats],
        steps=jnp.where(mutated, draws.log_uniform(0.03, 0.3) * draws.normal(shape), 0.0),
        resets=mutated & resets,
        fresh=draws.uniform(shape),
    )


def _propose_evolution(plan: Evolution, history: History, t: Int[Array, ""]) -> Float[Array, " slot"]:
    window = jnp.clip(plan.population, 1, jnp.maximum(t, 1))
    rivals = jnp.maximum(t - 1 - jnp.floor(plan.rivals[t] * window).astype(jnp.int32), 0)
    parent = history.z[rivals[jnp.argmax(history.y[rivals])]]
    child = jnp.where(plan.resets[t], plan.fresh[t], jnp.clip(parent + plan.steps[t], 0.0, 1.0))
    return jnp.where(t < plan.population, plan.fresh[t], child)


BEHAVIOURS: dict[str, Behaviour] = {
    "random_search": Behaviour(_plan_random, _planned, directed=False, algorithm="random_search"),
    "quasi_random": Behaviour(_plan_quasi_random, _planned, directed=False, algorithm="quasi_random_search"),
    "clustered": Behaviour(_plan_clustered, _planned, directed=False, algorithm="clustered"),
    "converging": Behaviour(_plan_converging, _planned, directed=True, algorithm="converging"),
    "local_search": Behaviour(_plan_local_search, _propose_local_search, directed=True, algorithm="local_search"),
    "regularized_evolution": Behaviour(
        _plan_evolution, _propose_evolution, directed=True, algorithm="regularized_evolution"
    ),
}
