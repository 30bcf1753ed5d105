"""DynMuon against singular value decompositions."""

import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

from optformer.train.spectral import reshape_spectrum, scale_by_spectral_exponent, square_roots


def matrix(rows, columns, decay=1.0):
    u, s, vt = np.linalg.svd(np.random.default_rng(0).standard_normal((rows, columns)), full_matrices=False)
    s = np.arange(1, len(s) + 1) ** -decay
    return u, s, vt, jnp.asarray((u * s) @ vt, jnp.float32)


@pytest.mark.parametrize("shape", [(64, 64), (64, 160), (48, 16)])
@pytest.mark.parametrize("p", [0.5, 0.25, 0.0, -0.2, -0.5])
def test_the_spectrum_follows_the_exponent(shape, p):
    u, s, vt, g = matrix(*shape)
    updated = np.asarray(reshape_spectrum(g, p, steps=5))
    spectrum = np.einsum("ri,rc,ic->i", u, updated, vt)
    np.testing.assert_allclose(updated, (u * spectrum) @ vt, atol=1e-4)  # directions stay what they are
    assert np.linalg.norm(updated) == pytest.approx(np.sqrt(min(shape)), rel=1e-3)
    # The slope of log spectrum over log s; Muon's iteration itself leaves singular values between .7 and 1.2.
    assert np.polyfit(np.log(s), np.log(spectrum), 1)[0] == pytest.approx(p, abs=0.16)


def test_square_roots_are_those_of_the_eigenvalues():
    u = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 20)))[0]
    values = np.geomspace(0.03, 8.0, 20)
    root, inverse = square_roots(jnp.asarray((u * values) @ u.T, jnp.float32))
    np.testing.assert_allclose(root, (u * np.sqrt(values)) @ u.T, atol=2e-3)
    np.testing.assert_allclose(inverse, (u / np.sqrt(values)) @ u.T, atol=2e-2)


def test_stacked_matrices_are_reshaped_one_by_one_with_the_exponent_of_the_step():
    exponents = []
    transform = scale_by_spectral_exponent(
        lambda t: exponents.append(int(t)) or 0.5 - 0.7 * t,
        momentum=0.9,
        steps=5,
        axes=lambda params: {"qkv": MuonDimensionNumbers((0,), (2, 3))},
    )
    stacked = np.stack([np.asarray(matrix(24, 16, decay)[3]) for decay in (0.5, 1.0, 1.5)], axis=1)
    gradient = {"qkv": jnp.asarray(stacked.reshape(24, 3, 4, 4))}
    state = transform.init(gradient)
    for t in range(2):
        update, state = transform.update(gradient, state)
        for k in range(3):
            alone = reshape_spectrum(jnp.asarray(stacked[:, k]), 0.5 - 0.7 * t, 5)
            np.testing.assert_allclose(update["qkv"][:, k].reshape(24, 16), alone, atol=1e-3)
    assert exponents == [0, 1]
    assert int(state.step) == 2


def test_without_a_gradient_nothing_moves_and_nothing_is_nan():
    assert not np.any(reshape_spectrum(jnp.zeros((8, 12)), -0.2, 5))
