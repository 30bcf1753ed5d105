"""The interface of behaviours, and the schedules that several of them share.

Notation, for one study: T trials, D slots, z in [0, 1]^D a proposed point.

A behaviour is a pair of pure functions.  `plan` draws everything random at once (settings and all noise, as a pytree).
`propose` chooses trial t from the plan and the trials before it, so the scan over trials draws no random numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior.draws import Draws
from optformer.data.prior.spaces import Space
from optformer.serialization import tokens


class History(NamedTuple):
    """The trials so far.  `y` is -inf for trials that failed or have not run yet; `on` as in `spaces.activity`."""

    z: Float[Array, "trial slot"]
    on: Bool[Array, "trial slot"]
    y: Float[Array, " trial"]


class Setting(NamedTuple):
    """The inputs of a plan: the space, the number of trials, and a good point of the function.

    `landmark` is the best of a few dozen evaluations outside the study.  An optimizer that converges to it imitates one
    that models the function well, at no cost.  `pinned` has values that some slots have in each trial, whatever is
    proposed (`earlier.py`); negative for all other slots.
    """

    space: Space
    landmark: Float[Array, " slot"]
    trials: int
    pinned: Float[Array, "trial slot"] | None = None


class Behaviour(NamedTuple):
    """A way to choose trials.

    Attributes:
      plan: (draws, setting) -> plan, a pytree of arrays.
      propose: (plan, memory, history, t) -> (z of trial t, memory); None: the plan is the trials, [T, D].
      directed: whether the choice depends on the objective; then its policy tokens have full loss weight.
      algorithm: its name in the metadata.
      remember: (trials, slots) -> memory before the first trial, for behaviours with a state.
      costly: whether to compute it only for as many studies of a batch as choose it; all costly behaviours share one
        `propose` and one `remember` (see `run.py`).
    """

    plan: Callable[[Draws, Setting], Any]
    propose: Callable[[Any, Any, History, Int[Array, ""]], tuple[Float[Array, " slot"], Any]] | None = None
    directed: bool = False
    algorithm: str = ""
    remember: Callable[[int, int], Any] = lambda trials, slots: ()
    costly: bool = False


def move(
    categorical: Bool[Array, "*batch slot"],
    z: Float[Array, "*batch slot"],
    step: Float[Array, "*batch slot"],
    fresh: Float[Array, "*batch slot"],
) -> Float[Array, "*batch slot"]:
    """A step from z, clipped to the cube, which often proposes bounds, as model-based optimizers do.

    A categorical slot changes to the value `fresh`, with a probability that grows with the step.
    """
    return jnp.where(categorical, jnp.where(jnp.abs(step) > 0.15, fresh, z), jnp.clip(z + step, 0.0, 1.0))


def is_categorical(setting: Setting) -> Bool[Array, " slot"]:
    """Whether each slot is categorical."""
    return setting.space.kinds == tokens.CATEGORICAL


def plan_scales(draws: Draws, setting: Setting, first: tuple[float, float], last: float) -> Float[Array, "trial 1"]:
    """Step size per trial: decays geometrically from a log-uniform first to a log-uniform last value, with jitter."""
    high = draws.log_uniform(*first)
    low = jnp.minimum(draws.log_uniform(last, first[1]), high)
    time = jnp.arange(setting.trials) / max(setting.trials - 1, 1)
    jitter = 0.5 * draws.normal((setting.trials,))
    return jnp.exp((1.0 - time) * jnp.log(high) + time * jnp.log(low) + jitter)[:, None]


def plan_exploring(draws: Draws, setting: Setting, longest: float = 0.5, rate: float = 0.4) -> Bool[Array, "trial 1"]:
    """Which trials are uniform, independent of earlier ones: the first ones, and a share of the others.

    Args:
      draws: random numbers.
      setting: inputs of the plan.
      longest: largest number of first trials, as a share of T; their number is log-uniform from 1.
      rate: largest share of the others; most studies have far less.
    """
    first = draws.log_uniform(1.0, max(setting.trials * longest, 2.0))
    share = rate * jnp.square(draws.uniform())
    return (draws.bernoulli(share, (setting.trials,)) | (jnp.arange(setting.trials) < first))[:, None]
