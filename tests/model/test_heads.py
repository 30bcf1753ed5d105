"""The output head: a cosine series over the bins, folded into free weights."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from optformer.model import ModelConfig
from optformer.model.heads import BinHead, cosines
from optformer.serialization import tokens


def test_the_series_moves_bins_smoothly_and_statuses_not_at_all():
    basis = cosines(32)
    assert basis.shape == (32, tokens.NUM_OUTPUTS)
    np.testing.assert_allclose(basis[3, : tokens.NUM_LEVELS], np.cos(3 * np.pi * np.linspace(0, 1, 1000)), atol=1e-6)
    assert np.all(basis[:, tokens.NUM_LEVELS :] == 0)
    # The shortest wave still changes little from bin to bin.
    assert np.abs(np.diff(basis[:, : tokens.NUM_LEVELS], axis=1)).max() < 0.1


def test_folded_weights_give_free_logits_plus_series(run):
    head = BinHead(12, ModelConfig.tiny(), rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((2, 5, 12)).astype(np.float32)
    free, series = (np.asarray(part.kernel[...], np.float64) for part in (head.free, head.series))
    expected = x @ free + (x @ series) @ cosines(32).astype(np.float64)
    np.testing.assert_allclose(run.compiled(lambda head, x: head(x))(head, jnp.asarray(x)), expected, atol=1e-4)


def test_without_a_series(run):
    head = BinHead(12, dataclasses.replace(ModelConfig.tiny(), head_cosines=0), rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((3, 12)).astype(np.float32)
    np.testing.assert_allclose(head(jnp.asarray(x)), x @ np.asarray(head.free.kernel[...]), atol=1e-5)
