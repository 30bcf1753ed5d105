"""Shapes of real tuning: main effects of few parameters, a learning rate with its cliff, saturation.

Notation as in `family.py`; g_d the effect of slot d alone, p the slot of the learning rate.

  main_effects    f = sum_d a_d g_d(u_d) + k (v . u)(w . u)
  learning_rate   f = B exp(-(t / w)^2 / 2) - A (1 - exp(-max(-t, 0) / v)) - C sigmoid((t - gap) / s) + minor effects,
                  t = u_p - c + sum_d beta_d u_d: too small learns slowly, too large diverges, and where that begins
                  depends on the other parameters
  saturation      f = -softplus(k (sum_d a_d exp(-r_d t_d) + overfitting - m)) / k: diminishing returns of every
                  parameter, and a best score that a large part of the space reaches
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import Domain, Family, pick, sample_center, wave


class Effects(NamedTuple):
    """One effect per slot, of the order of 1 times `size`."""

    kind: Int[Array, " slot"]
    categorical: Bool[Array, " slot"]
    flipped: Bool[Array, " slot"]
    place: Float[Array, " slot"]
    width: Float[Array, " slot"]
    size: Float[Array, " slot"]


_EFFECT_WEIGHTS = [0.3, 0.2, 0.15, 0.2, 0.15]
"""Parabola, diminishing returns, cliff, narrow peak, wedge."""


def _sample_effects(draws: Draws, domain: Domain) -> Effects:
    shape = domain.relevant.shape
    return Effects(
        kind=draws.choice(_EFFECT_WEIGHTS, shape),
        categorical=domain.categorical,
        flipped=draws.bernoulli(0.5, shape),
        place=draws.uniform(shape),
        width=draws.log_uniform(0.03, 0.3, shape),
        size=domain.importance,
    )


def _effects(effects: Effects, u: Float[Array, " slot"]) -> Float[Array, " slot"]:
    t = jnp.where(effects.flipped, 1.0 - u, u)
    off = (t - effects.place) / effects.width
    chosen = pick(
        effects.kind,
        [
            -4.0 * jnp.square(t - effects.place),
            -2.0 * jnp.exp(jnp.clip(-t / effects.width, -20.0, 5.0)),
            -2.0 * jax.nn.sigmoid(5.0 * off),
            1.5 * jnp.exp(-jnp.abs(off)),
            -2.0 * jnp.abs(t - effects.place),
        ],
    )
    # One random value per category: its coordinate is random, and the wave is short.
    return effects.size * jnp.where(effects.categorical, wave(u / (effects.width + 0.2) + effects.place), chosen)


class MainEffects(NamedTuple):
    """A sum of effects with one product term."""

    effects: Effects
    left: Float[Array, " slot"]
    right: Float[Array, " slot"]
    center: Float[Array, " slot"]


def sample_main_effects(draws: Draws, domain: Domain, config: PriorConfig) -> MainEffects:
    """A share of `config.additive_rate` of the functions has no product and is purely additive."""
    strength = draws.log_uniform(0.1, 2.0) * ~draws.bernoulli(config.additive_rate)
    shape = domain.relevant.shape
    return MainEffects(
        effects=_sample_effects(draws, domain),
        left=strength * draws.normal(shape) * domain.importance,
        right=draws.normal(shape) * domain.importance,
        center=sample_center(draws, domain),
    )


def evaluate_main_effects(
    function: MainEffects, u: Float[Array, " slot"], v: Float[Array, " slot"]
) -> Float[Array, ""]:
    """The sum."""
    off = u - function.center
    return _effects(function.effects, u).sum() + (off @ function.left) * (off @ function.right)


class LearningRate(NamedTuple):
    """A narrow optimum next to a cliff."""

    direction: Float[Array, " slot"]
    optimum: Float[Array, ""]
    peak: Float[Array, ""]
    width: Float[Array, ""]
    slow: Float[Array, ""]
    reach: Float[Array, ""]
    cliff: Float[Array, ""]
    gap: Float[Array, ""]
    edge: Float[Array, ""]
    minor: Effects


def sample_learning_rate(draws: Draws, domain: Domain, config: PriorConfig) -> LearningRate:
    """Draws a function; the slot of the learning rate usually has a log scale, and is rarely categorical."""
    fitness = domain.importance * jnp.where(domain.log_scale, 8.0, 1.0) * jnp.where(domain.categorical, 0.02, 1.0)
    primary = jnp.arange(domain.relevant.shape[0]) == draws.choice(fitness)
    coupled = 0.25 * draws.normal(primary.shape) * draws.bernoulli(0.5, primary.shape) * domain.importance
    direction = jnp.where(primary, 1.0, coupled)
    middle = jnp.where(primary, draws.uniform((), 0.1, 0.9), 0.5)
    width = draws.log_uniform(0.02, 0.15)
    minor = _sample_effects(draws, domain)
    return LearningRate(
        direction=direction,
        optimum=direction @ middle,
        peak=draws.log_uniform(0.3, 2.0),
        width=width,
        slow=draws.log_uniform(0.5, 2.0),
        reach=draws.log_uniform(0.05, 0.6),
        cliff=draws.log_uniform(0.5, 6.0),
        gap=width * draws.uniform((), 0.5, 2.5),
        edge=width * draws.log_uniform(0.05, 0.5),
        minor=minor._replace(size=jnp.where(primary, 0.0, minor.size) * draws.log_uniform(0.05, 0.5)),
    )


def evaluate_learning_rate(
    function: LearningRate, u: Float[Array, " slot"], v: Float[Array, " slot"]
) -> Float[Array, ""]:
    """Value of the function: the score after training."""
    t = u @ function.direction - function.optimum
    peak = function.peak * jnp.exp(-0.5 * jnp.square(t / function.width))
    slow = function.slow * (1.0 - jnp.exp(-jnp.maximum(-t, 0.0) / function.reach))
    diverged = function.cliff * jax.nn.sigmoid((t - function.gap) / function.edge)
    return peak - slow - diverged + _effects(function.minor, u).sum()


class Saturation(NamedTuple):
    """Diminishing returns up to a best score."""

    flipped: Bool[Array, " slot"]
    rate: Float[Array, " slot"]
    size: Float[Array, " slot"]
    turn: Float[Array, " slot"]
    overfitting: Float[Array, " slot"]
    sharpness: Float[Array, ""]
    ceiling: Float[Array, ""]


def sample_saturation(draws: Draws, domain: Domain, config: PriorConfig) -> Saturation:
    """Draws a function whose returns diminish fast or slowly; a third of the parameters overfit beyond a point."""
    shape = domain.relevant.shape
    return Saturation(
        flipped=draws.bernoulli(0.5, shape),
        rate=draws.log_uniform(1.0, 15.0, shape),
        size=domain.importance / domain.dimension,
        turn=draws.uniform(shape, 0.3, 1.0),
        overfitting=draws.log_uniform(0.3, 4.0, shape) * draws.bernoulli(0.35, shape),
        sharpness=draws.log_uniform(5.0, 40.0),
        ceiling=draws.uniform((), 0.0, 0.3),
    )


def evaluate_saturation(function: Saturation, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """Value of the function: at most 0, which a large part of the space nearly reaches."""
    t = jnp.where(function.flipped, 1.0 - u, u)
    missing = jnp.exp(jnp.clip(-function.rate * t, -20.0, 3.0))
    too_much = function.overfitting * jnp.square(jnp.maximum(t - function.turn, 0.0))
    return -jax.nn.softplus(function.sharpness * (function.size @ (missing + too_much) - function.ceiling)) / (
        function.sharpness
    )


MAIN_EFFECTS = Family(sample_main_effects, evaluate_main_effects)
LEARNING_RATE = Family(sample_learning_rate, evaluate_learning_rate, cliff=True)
SATURATION = Family(sample_saturation, evaluate_saturation)
