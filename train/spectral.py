"""DynMuon: updates U S^p V^T of a matrix's momentum U S V^T, with p falling over the run (Wu et al. 2026).

Muon's U V^T is p = 0.  A positive exponent early stresses the directions that all gradients share; a mildly negative
one late stresses those that are left.  No singular value decomposition: with O = U V^T by Muon's iteration, P = G O^T
is U S U^T, and the coupled Newton-Schulz iteration gives P^(1/2) and P^(-1/2); between the exponents -1/2, 0 and 1/2
the update is interpolated linearly.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

_MUON = (3.4445, -4.7750, 2.0315)
_ROOT_STEPS = 10
_LEAST = 0.03
"""Added to P, whose mean eigenvalue is 1: directions without gradient are not stressed without bound."""


class SpectralState(NamedTuple):
    """Attributes: step: int32 scalar, updates done.  momentum: like the parameters."""

    step: Int[Array, ""]
    momentum: Any


def scale_by_spectral_exponent(
    exponent: Callable[[Any], Any], *, momentum: float, steps: int, axes: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Nesterov momentum, reshaped spectrum, the Frobenius norm of U V^T.

    Args:
      exponent: step -> p in [-1/2, 1/2].
      momentum: decay of the average.
      steps: iterations for U V^T.
      axes: parameters -> tree of `optax.contrib.MuonDimensionNumbers`, as in `scale_by_muon`.
    """

    def init(params: Any) -> SpectralState:
        return SpectralState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: SpectralState, params: Any = None) -> tuple[Any, SpectralState]:
        average = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, state.momentum, updates)
        ahead = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, average, updates)
        p = exponent(state.step)

        def shaped(g: Array, dimensions: Any) -> Array:
            rows = g.shape[: len(dimensions.reduction_axis)]
            columns = g.shape[g.ndim - len(dimensions.output_axis) :]
            inputs, outputs = math.prod(rows), math.prod(columns)
            matrices = jnp.moveaxis(g.reshape(inputs, -1, outputs), 1, 0)
            return jnp.moveaxis(jax.vmap(lambda x: reshape_spectrum(x, p, steps))(matrices), 0, 1).reshape(g.shape)

        return jax.tree.map(shaped, ahead, axes(ahead)), SpectralState(state.step + 1, average)

    return optax.GradientTransformation(init, update)


def reshape_spectrum(
    g: Float[Array, "row column"], p: float | Float[Array, ""], steps: int
) -> Float[Array, "row column"]:
    """About U S^p V^T of g = U S V^T, with the Frobenius norm of U V^T."""
    if g.shape[0] > g.shape[1]:
        return reshape_spectrum(g.T, p, steps).T
    a, b, c = _MUON
    x = g / (jnp.linalg.norm(g) + 1e-8)
    orthogonal = x
    for _ in range(steps):
        gram = orthogonal @ orthogonal.T
        orthogonal = a * orthogonal + (b * gram + c * gram @ gram) @ orthogonal
    stretch = x @ orthogonal.T
    rows = g.shape[0]
    stretch = (stretch + stretch.T) * (0.5 * rows / (jnp.trace(stretch) + 1e-8)) + _LEAST * jnp.eye(rows)
    root, inverse = square_roots(stretch)
    weight = 2 * jnp.abs(p)
    mixed = (1 - weight) * orthogonal + weight * jnp.where(p > 0, root, inverse) @ orthogonal
    return mixed * (jnp.sqrt(jnp.float32(rows)) / (jnp.linalg.norm(mixed) + 1e-8))


def square_roots(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """P^(1/2) and P^(-1/2) of a positive definite P, by the coupled Newton-Schulz iteration.

    See Higham, Functions of Matrices (2008), chapter 6.
    """
    size = jnp.linalg.norm(matrix)
    eye = jnp.eye(matrix.shape[0])
    root, inverse = matrix / size, eye
    for _ in range(_ROOT_STEPS):
        step = 1.5 * eye - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    return root * jnp.sqrt(size), inverse / jnp.sqrt(size)
