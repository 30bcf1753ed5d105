"""Sample paths of Gaussian processes, by random Fourier features (Rahimi and Recht 2007).

Notation as in `family.py`; F features.

  f(u) = sqrt(2 / F) * sum_k w_k cos(2 pi (omega_k . u + b_k)),    w_k ~ N(0, 1),  b_k ~ U[0, 1],

omega_k,d = sqrt(g_k) z_k,d / (2 pi length_scale_d) with z normal.  The scale mixture g gives the kernel:
  squared exponential   g = 1
  Matern nu             g = 2 nu / chi2(2 nu)          (Rasmussen and Williams 2006, eq. 4.15), nu = 1/2, 3/2, 5/2
  rational quadratic    g = chi2(2 alpha) / (2 alpha), (eq. 4.20: tau ~ Gamma), alpha = 1/2
In some functions, a quarter of the features are harmonics along one slot instead: a periodic component.  A linear trend
and a concave quadratic bowl give a function one good region, as real objectives have, but stationary samples lack.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import Domain, Family, sample_center, wave

_DEGREES = (1, 3, 5, 5, 1)
"""Degrees of freedom of chi2 per kernel: Matern 1/2, 3/2, 5/2, squared exponential (unused), rational quadratic."""
# Matern 1/2 is rare: few objectives are that rough, and noise represents those that are.
_KERNEL_WEIGHTS = [0.05, 0.22, 0.35, 0.25, 0.13]
_SQUARED_EXPONENTIAL, _RATIONAL_QUADRATIC = 3, 4
_HARMONICS = 6


class GaussianProcess(NamedTuple):
    """One sample path; frequencies and phases in cycles."""

    frequencies: Float[Array, "slot feature"]
    phases: Float[Array, " feature"]
    amplitudes: Float[Array, " feature"]
    slope: Float[Array, " slot"]
    curvature: Float[Array, " slot"]
    center: Float[Array, " slot"]


def sample(draws: Draws, domain: Domain, config: PriorConfig) -> GaussianProcess:
    """A sample path with its own kernel, length scales, trend and bowl."""
    slots = domain.relevant.shape[0]
    path = sample_path(draws, domain, config, config.features)
    trend = draws.log_normal(1.0, 0.5) * draws.bernoulli(config.trend_rate)
    slope = trend * draws.normal((slots,)) * jnp.sqrt(12.0 / domain.dimension)
    depth = draws.log_normal(4.0, 0.8) * draws.bernoulli(config.bowl_rate)
    curvature = depth * draws.log_normal(1.0, 0.7, (slots,)) / jnp.sqrt(domain.dimension)
    return path._replace(slope=slope * domain.importance, curvature=curvature * domain.importance)


def sample_path(draws: Draws, domain: Domain, config: PriorConfig, features: int) -> GaussianProcess:
    """A sample path without trend and bowl."""
    slots = domain.relevant.shape[0]
    # Distances in the cube grow like sqrt(d), and so do length scales; otherwise functions of many parameters would be
    # white noise (Hvarfner et al. 2024).
    common = draws.log_normal(0.45, 0.55)
    scale = common * draws.log_normal(1.0, 0.3, (slots,)) * jnp.sqrt(domain.dimension)
    mixed = draws.normal((slots, features)) * _kernel_scale(draws, features)[None, :]
    additive = draws.bernoulli(config.additive_rate)
    mask = jnp.where(additive, _additive_terms(draws, domain.relevant, features), domain.relevant[:, None])
    # In an additive function, each feature depends on one or two parameters, whatever their total number.
    seen = jnp.maximum((mask * domain.importance[:, None]).sum(0), 1e-3)
    shorter = jnp.where(additive, jnp.sqrt(domain.dimension / jnp.maximum(seen, 0.25)), 1.0)
    frequencies = mixed * shorter[None, :] * (domain.importance / scale)[:, None] * mask / (2.0 * jnp.pi)

    # An additive feature of unimportant parameters has a small weight; all others have equal variance.
    loudness = jnp.where(additive, jnp.sqrt(jnp.minimum(seen, 1.0)), 1.0)
    amplitudes = draws.normal((features,)) * loudness * jnp.sqrt(2.0 / features)

    harmonic = jnp.arange(features) % 4 == 3
    harmonic &= draws.bernoulli(config.periodic_rate)
    slot = jnp.arange(slots) == draws.choice(domain.importance)
    cycles = draws.log_uniform(1.0, 5.0) * (1 + jnp.arange(features) // 4 % _HARMONICS)
    frequencies = jnp.where(harmonic[None, :], jnp.where(slot[:, None], cycles[None, :], 0.0), frequencies)
    # Harmonic m has amplitude 1 / m: continuous, with kinks.
    fading = 1.0 / (1 + jnp.arange(features) // 4 % _HARMONICS)
    return GaussianProcess(
        frequencies=frequencies,
        phases=draws.uniform((features,)),
        amplitudes=jnp.where(harmonic, amplitudes * fading, amplitudes),
        slope=jnp.zeros((slots,)),
        curvature=jnp.zeros((slots,)),
        center=sample_center(draws, domain),
    )


def evaluate(function: GaussianProcess, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """The sample path with its trend and bowl."""
    bowl = jnp.square(u - function.center) @ function.curvature
    return evaluate_path(function, u) + u @ function.slope - bowl


def evaluate_path(function: GaussianProcess, u: Float[Array, " slot"]) -> Float[Array, ""]:
    """The sample path without trend and bowl."""
    return wave(u @ function.frequencies + function.phases) @ function.amplitudes


def _kernel_scale(draws: Draws, features: int) -> Float[Array, " feature"]:
    """sqrt(g) per feature, for a kernel drawn once."""
    kernel = draws.choice(_KERNEL_WEIGHTS)
    degrees = jnp.asarray(_DEGREES)[kernel]
    squares = jnp.square(draws.normal((features, max(_DEGREES))))
    chi2 = jnp.sum(jnp.where(jnp.arange(max(_DEGREES))[None, :] < degrees, squares, 0.0), axis=1)
    # The floor bounds the heaviest tail; higher frequencies would be noise at Q levels anyway.
    mean = jnp.sqrt(jnp.maximum(chi2 / degrees, 1e-4))
    scale = jnp.where(kernel == _RATIONAL_QUADRATIC, mean, 1.0 / mean)
    return jnp.where(kernel == _SQUARED_EXPONENTIAL, 1.0, scale)


def _additive_terms(draws: Draws, relevant: Bool[Array, " slot"], features: int) -> Bool[Array, "slot feature"]:
    """One or two random relevant slots per feature."""
    weights = relevant.astype(jnp.float32)
    first = draws.choice(weights, (features,))
    second = jnp.where(draws.bernoulli(0.5, (features,)), draws.choice(weights, (features,)), first)
    slot = jnp.arange(relevant.shape[0])[:, None]
    return (slot == first[None, :]) | (slot == second[None, :])


FAMILY = Family(sample, evaluate)
