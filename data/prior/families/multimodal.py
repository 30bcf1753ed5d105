"""Multimodal and rough functions, inspired by BBOB (Hansen et al. 2009) but with other formulas.

Notation as in `family.py`; lambda_d eigenvalues, M peaks, K octaves.

  ripples   f = -sum_d lambda_d [x_d^2 + A (1 - cos(2 pi k_d x_d))]
  peaks     f = max_m or sum_m h_m exp(-|S_m R (a * (u - c_m))|^2 / (2 d)), d the dimension
  rough     f = sum_d w_d sum_k alpha^k cos(2 pi (beta^k x_d + phi_d,k)) - b |x|^2
  steps     f = -sum_d lambda_d |round(n x_d) / n|^p
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import (
    Domain,
    Family,
    sample_center,
    sample_conditioning,
    wave,
)

_PEAKS = 12
_OCTAVES = 6
_STIFFEST = 1e3


class Ripples(NamedTuple):
    """One bowl with ripples."""

    center: Float[Array, " slot"]
    eigenvalues: Float[Array, " slot"]
    cycles: Float[Array, " slot"]
    height: Float[Array, ""]


def sample_ripples(draws: Draws, domain: Domain, config: PriorConfig) -> Ripples:
    """One to ten ripples across the cube, from hardly visible to deeper than the bowl."""
    return Ripples(
        center=domain.axes @ sample_center(draws, domain),
        eigenvalues=sample_conditioning(draws, domain, 100.0),
        cycles=draws.log_uniform(1.5, 10.0) * draws.log_normal(1.0, 0.2, domain.relevant.shape),
        height=draws.log_uniform(0.01, 0.3),
    )


def evaluate_ripples(ripples: Ripples, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """At most 0."""
    x = v - ripples.center
    return -(jnp.square(x) + ripples.height * (1.0 - wave(ripples.cycles * x))) @ ripples.eigenvalues


class Peaks(NamedTuple):
    """One landscape of peaks."""

    tops: Float[Array, "peak slot"]
    sharpness: Float[Array, "peak slot"]
    heights: Float[Array, " peak"]
    merged: Bool[Array, ""]


def sample_peaks(draws: Draws, domain: Domain, config: PriorConfig) -> Peaks:
    """One to `_PEAKS` narrow or wide peaks, one of which is the highest."""
    slots = domain.relevant.shape[0]
    tops = sample_center(draws, domain, _PEAKS) @ domain.axes.T
    width = draws.log_uniform(0.12, 0.5) * draws.log_normal(1.0, 0.4, (_PEAKS, 1))
    sharpness = draws.log_normal(1.0, 0.4, (_PEAKS, slots)) / (width * jnp.sqrt(2.0 * domain.dimension))
    peak = jnp.arange(_PEAKS)
    heights = jnp.where(peak == 0, 1.0, draws.uniform((_PEAKS,), 0.1, 0.95))
    return Peaks(
        tops=tops,
        sharpness=sharpness,
        heights=jnp.where(peak < draws.log_uniform(1.0, _PEAKS + 1.0), heights, 0.0),
        merged=draws.bernoulli(0.4),
    )


def evaluate_peaks(peaks: Peaks, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """Value of the function, between 0 and `_PEAKS`."""
    exponent = jnp.square(peaks.sharpness * (v[None, :] - peaks.tops)).sum(1)
    # Each Gaussian has a wide foot of the same height, so that the function is not flat far from all peaks.
    values = peaks.heights * (0.85 * jnp.exp(-exponent) + 0.15 / (1.0 + exponent))
    return jnp.where(peaks.merged, values.sum(), values.max())


class Rough(NamedTuple):
    """One rough function."""

    center: Float[Array, " slot"]
    cycles: Float[Array, " octave"]
    phases: Float[Array, "slot octave"]
    amplitudes: Float[Array, "slot octave"]
    depth: Float[Array, ""]


def sample_rough(draws: Draws, domain: Domain, config: PriorConfig) -> Rough:
    """Octaves after Weierstrass with random phases, on a bowl."""
    slots = domain.relevant.shape[0]
    octave = jnp.arange(_OCTAVES)
    fading = jnp.power(draws.uniform((), 0.4, 0.75), octave)
    weight = draws.log_normal(1.0, 0.5, (slots, 1)) * domain.relevant[:, None] / jnp.sqrt(domain.dimension)
    return Rough(
        center=domain.axes @ sample_center(draws, domain),
        cycles=draws.log_uniform(0.4, 1.5) * jnp.power(draws.uniform((), 1.7, 3.0), octave),
        phases=draws.uniform((slots, _OCTAVES)),
        amplitudes=weight * fading[None, :],
        depth=draws.log_uniform(0.3, 10.0) / jnp.sqrt(domain.dimension),
    )


def evaluate_rough(rough: Rough, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """Value of the function, which is continuous and nowhere smooth at the scale of a level."""
    x = v - rough.center
    octaves = rough.amplitudes * wave(x[:, None] * rough.cycles[None, :] + rough.phases)
    return octaves.sum() - rough.depth * (x @ x)


class Steps(NamedTuple):
    """One bowl made of steps; p = 1 if `sharp`, else 2."""

    center: Float[Array, " slot"]
    eigenvalues: Float[Array, " slot"]
    per_unit: Float[Array, " slot"]
    sharp: Bool[Array, ""]


def sample_steps(draws: Draws, domain: Domain, config: PriorConfig) -> Steps:
    """Three to twenty steps across the cube."""
    shape = domain.relevant.shape
    per_unit = draws.log_uniform(3.0, 20.0) * draws.log_normal(1.0, 0.3, shape)
    return Steps(
        center=domain.axes @ sample_center(draws, domain),
        eigenvalues=sample_conditioning(draws, domain, _STIFFEST),
        per_unit=per_unit,
        sharp=draws.bernoulli(0.5),
    )


def evaluate_steps(steps: Steps, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """Value of the function, which is piecewise constant and at most 0."""
    x = v - steps.center
    plateau = jnp.abs(jnp.round(x * steps.per_unit) / steps.per_unit)
    return -jnp.where(steps.sharp, plateau, plateau * plateau) @ steps.eigenvalues


RIPPLES = Family(sample_ripples, evaluate_ripples)
PEAKS = Family(sample_peaks, evaluate_peaks)
ROUGH = Family(sample_rough, evaluate_rough)
STEPS = Family(sample_steps, evaluate_steps)
