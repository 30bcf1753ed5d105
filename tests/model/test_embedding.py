"""Numeric features of tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from optformer.model.embedding import FEATURES, OCTAVES, numeric_features
from optformer.serialization import tokens

features_of = jax.jit(numeric_features)


def test_features_are_those_of_z():
    token = jnp.asarray([[0, 1, 333, 999, 499]])
    features = np.asarray(features_of(token, jnp.full((1, 1), 1000), jnp.ones((1, 1), bool)))
    z = np.asarray(token, np.float64)[0] / 999
    expected = [np.ones_like(z), 2 * z - 1]
    for octave in range(OCTAVES):
        expected += [np.sin(np.pi * 2**octave * z), np.cos(np.pi * 2**octave * z)]
    assert features.shape == (1, 5, FEATURES)
    np.testing.assert_allclose(features[0], np.stack(expected, axis=-1), atol=1e-4)


def test_levels_scale_the_features():
    """Level 2 of 3 is the upper bound, as 999 of 1000 is."""
    one = features_of(jnp.asarray([2]), jnp.asarray([3]), jnp.asarray([True]))
    other = features_of(jnp.asarray([999]), jnp.asarray([1000]), jnp.asarray([True]))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_statuses_categories_and_padding_have_no_features():
    token = jnp.asarray([tokens.INFEASIBLE, tokens.INACTIVE, tokens.MISSING, 3, tokens.PAD])
    levels = jnp.asarray([1000, 1000, 5, 5, 0])
    ordered = jnp.asarray([True, True, True, False, False])
    features = features_of(token, levels, ordered)
    assert np.all(np.asarray(features) == 0)


def test_neighbouring_bins_differ():
    features = np.asarray(features_of(jnp.arange(1000), jnp.asarray([1000]), jnp.asarray([True])))
    assert np.linalg.norm(np.diff(features, axis=0), axis=1).min() > 0.05
