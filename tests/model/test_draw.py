"""Draws of one output per row: their distribution and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optformer.model.interface import draw
from optformer.model.layers import NEVER

pytestmark = pytest.mark.integration

draw_many = jax.jit(
    lambda logits, key, count: draw(jnp.broadcast_to(logits[None], (count, logits.shape[0])), key),
    static_argnums=2,
)


@pytest.mark.parametrize("outputs", [2, 9, 1000, 1004])
@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_outputs_come_as_often_as_their_probability_says(outputs, sharpness):
    rng = np.random.default_rng(outputs)
    logits = rng.normal(size=outputs) * 2.0 * sharpness
    logits[rng.random(outputs) < 0.3] = NEVER
    logits[0] = NEVER
    logits[-1] = 1.0
    count = 200_000
    drawn = np.bincount(draw_many(jnp.asarray(logits, jnp.float32), jax.random.key(1), count), minlength=outputs)
    mass = np.exp(logits - logits.max())
    expected = count * mass / mass.sum()
    assert not drawn[mass == 0.0].any()
    often = expected > 20
    chi2 = ((drawn - expected)[often] ** 2 / expected[often]).sum()
    degrees = often.sum()
    assert chi2 < degrees + 5 * np.sqrt(2 * degrees) + 1


@pytest.mark.parametrize("only", [0, 31, 32, 500, 1003])
def test_a_single_possible_output_is_drawn(only):
    logits = jnp.full((5000, 1004), NEVER).at[:, only].set(-3.0)
    assert (np.asarray(draw(logits, jax.random.key(2))) == only).all()
