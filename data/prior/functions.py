"""Random functions on the unit cube: what the studies of the prior tune.

Notation, for one study: D slots, F features, u in [0, 1]^D the coordinates of a trial.

The family `fourier` draws an approximate Gaussian process sample by random Fourier features (Rahimi and Recht 2007),

  f(u) = sqrt(2 / F) * sum_k w_k cos(omega_k . u + b_k),    w_k ~ N(0, 1),  b_k ~ U[0, 2 pi],

with omega_k,d = t_k,d / length_scale_d and t_k normal for the squared exponential kernel, or multivariate Student-t
with 2 nu degrees of freedom for the Matern kernel of smoothness nu (Rasmussen and Williams 2006, eq. 4.15), plus a
linear trend and a concave quadratic bowl: what tuned functions have and stationary samples lack is one good region.

A family is a pair of pure functions; `FAMILIES` names them, `PriorConfig.families` weights them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws

_MAX_DEGREES = 5


class Family(NamedTuple):
    """A distribution over functions [0, 1]^D -> R.

    Attributes:
      sample: (draws, active slots [D], config) -> parameters, a pytree.
      evaluate: (parameters, coordinates [D]) -> value.
    """

    sample: Callable[[Draws, Bool[Array, " slot"], PriorConfig], Any]
    evaluate: Callable[[Any, Float[Array, " slot"]], Float[Array, ""]]


class FourierFunction(NamedTuple):
    """One function of the family `fourier`."""

    frequencies: Float[Array, "slot feature"]
    phases: Float[Array, " feature"]
    amplitudes: Float[Array, " feature"]
    slope: Float[Array, " slot"]
    curvature: Float[Array, " slot"]
    center: Float[Array, " slot"]


def sample_fourier(draws: Draws, active: Bool[Array, " slot"], config: PriorConfig) -> FourierFunction:
    """A sample path with its own kernel, length scales, irrelevant parameters, trend and bowl."""
    slots, features = active.shape[0], config.features
    relevant = _relevant(draws, active, config)
    dimension = jnp.maximum(relevant.sum(), 1).astype(jnp.float32)

    # Distances in the cube grow like sqrt(d), and so do length scales; without that the functions of many
    # parameters are white noise (Hvarfner et al. 2024).
    common = draws.log_normal(0.45, 0.55)
    scale = common * draws.log_normal(1.0, 0.5, (slots,)) * jnp.sqrt(dimension)
    student = draws.normal((slots, features)) / _student_scale(draws, features)[None, :]
    additive = draws.bernoulli(config.additive_rate)
    mask = jnp.where(additive, _additive_terms(draws, relevant, features), relevant[:, None])
    # In an additive function a feature sees one or two parameters, whatever the number of all.
    shorter = jnp.sqrt(dimension / jnp.maximum(mask.sum(0), 1))
    frequencies = student * shorter[None, :] / scale[:, None] * mask

    trend = draws.log_normal(1.0, 0.5) * draws.bernoulli(config.trend_rate)
    slope = trend * draws.normal((slots,)) * jnp.sqrt(12.0 / dimension)
    depth = draws.log_normal(4.0, 0.8) * draws.bernoulli(config.bowl_rate)
    curvature = depth * draws.log_normal(1.0, 0.7, (slots,)) / jnp.sqrt(dimension)
    return FourierFunction(
        frequencies=frequencies,
        phases=draws.uniform((features,), 0.0, 2 * jnp.pi),
        amplitudes=draws.normal((features,)) * jnp.sqrt(2.0 / features),
        slope=slope * relevant,
        curvature=curvature * relevant,
        center=draws.uniform((slots,), -0.05, 1.05),
    )


def evaluate_fourier(function: FourierFunction, u: Float[Array, " slot"]) -> Float[Array, ""]:
    """The function at one point; maps over studies and trials with `vmap`."""
    waves = jnp.cos(u @ function.frequencies + function.phases)
    bowl = jnp.square(u - function.center) @ function.curvature
    return waves @ function.amplitudes + u @ function.slope - bowl


def _relevant(draws: Draws, active: Bool[Array, " slot"], config: PriorConfig) -> Bool[Array, " slot"]:
    """Active slots that matter: at least one."""
    draw = draws.uniform(active.shape)
    surest = jnp.argmax(jnp.where(active, draw, -1.0))
    return active & ((draw >= config.irrelevant_rate) | (jnp.arange(active.shape[0]) == surest))


def _student_scale(draws: Draws, features: int) -> Float[Array, " feature"]:
    """sqrt(chi2_k / k) per feature with k = 1, 3, 5 (Matern 1/2, 3/2, 5/2), or 1 (squared exponential)."""
    # Matern 1/2 is rare: few objectives are that rough, and noise covers those that are.
    kernel = draws.choice([0.05, 0.25, 0.4, 0.3])
    degrees = jnp.asarray([1, 3, _MAX_DEGREES, _MAX_DEGREES])[kernel]
    squares = jnp.square(draws.normal((features, _MAX_DEGREES)))
    chi2 = jnp.sum(jnp.where(jnp.arange(_MAX_DEGREES)[None, :] < degrees, squares, 0.0), axis=1)
    # The floor bounds the heaviest tail; frequencies beyond it are noise at Q levels anyway.
    student = jnp.sqrt(jnp.maximum(chi2 / degrees, 1e-4))
    return jnp.where(kernel == 3, 1.0, student)


def _additive_terms(draws: Draws, relevant: Bool[Array, " slot"], features: int) -> Bool[Array, "slot feature"]:
    """One or two random relevant slots per feature."""
    first = draws.choice(relevant, (features,))
    second = jnp.where(draws.bernoulli(0.5, (features,)), draws.choice(relevant, (features,)), first)
    slot = jnp.arange(relevant.shape[0])[:, None]
    return (slot == first[None, :]) | (slot == second[None, :])


FAMILIES: dict[str, Family] = {"fourier": Family(sample_fourier, evaluate_fourier)}


class Mixture(NamedTuple):
    """One function out of the weighted families: parameters of each, and which one counts."""

    members: tuple[Any, ...]
    choice: Array


def sample_function(draws: Draws, active: Bool[Array, " slot"], config: PriorConfig) -> Mixture:
    """Draws a function from `config.families`."""
    members = tuple(FAMILIES[name].sample(draws, active, config) for name, _ in config.families)
    return Mixture(members, draws.choice([weight for _, weight in config.families]))


def evaluate(function: Mixture, config: PriorConfig, u: Float[Array, " slot"]) -> Float[Array, ""]:
    """The value at one point.  Under `vmap` every family is evaluated, so its cost is the sum of theirs."""
    values = [
        FAMILIES[name].evaluate(member, u) for (name, _), member in zip(config.families, function.members, strict=True)
    ]
    return jnp.stack(values)[function.choice]
