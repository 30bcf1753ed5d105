"""Numeric features of tokens, and how the values of a trial become one vector."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from optformer.model import ModelConfig, build_model
from optformer.model.embedding import FEATURES, OCTAVES, TrialEmbedding, numeric_features
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


def test_trials_are_sums_over_their_slots(run):
    """Padding does not count, and the spread does not depend on the number of slots."""
    config = ModelConfig.tiny()
    embedding = TrialEmbedding(config, rng=np.random.default_rng(1))
    values = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, config.slot_width)), jnp.float32)
    mask = jnp.asarray([[True] * 4, [True, True, False, False]])
    pool = run.compiled(lambda module, values, mask: module(values, mask))
    pooled = np.asarray(pool(embedding, values, mask))
    alone = [np.asarray(pool(embedding, values[:, :, k : k + 1], mask[:, :1])) for k in range(4)]
    np.testing.assert_allclose(pooled[0], sum(alone)[0] / 2, atol=1e-5)
    np.testing.assert_allclose(pooled[1], (alone[0] + alone[1])[1] / np.sqrt(2), atol=1e-5)


def test_slots_are_described_by_their_clauses(run):
    batch = run.study(0)
    other = batch._replace(text_tokens=np.where(batch.text_segments > 0, 77, batch.text_tokens).astype(np.int32))
    model = build_model(dataclasses.replace(ModelConfig.tiny(), text_vocabulary=128, decoder_layers=1), seed=0)
    first, second = (np.asarray(run.forward(model, b).function) for b in (batch, other))
    assert not np.array_equal(first, second)
