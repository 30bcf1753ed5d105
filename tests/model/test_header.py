"""What the policy reads of the header: attention over its tokens, and over no other text."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np

from optformer.model import ModelConfig
from optformer.model.header import HeaderReading

CONFIG = dataclasses.replace(ModelConfig.tiny(), policy_recall=True, policy_header=True)


def reading() -> HeaderReading:
    part = HeaderReading(CONFIG, rng=np.random.default_rng(0))
    kernel = part.out.kernel
    kernel.set_value(np.random.default_rng(1).normal(size=kernel.shape).astype(np.float32))
    return part


def test_it_is_the_softmax_over_the_tokens_of_the_header():
    part, rng = reading(), np.random.default_rng(2)
    encoded = rng.normal(size=(2, 5, CONFIG.width)).astype(np.float32)
    segments = np.array([[0, 0, 0, 1, -1], [0, 1, 1, 2, 2]])
    found = part(jnp.asarray(encoded), types.SimpleNamespace(text_segments=segments))
    kernel, query, out = (np.asarray(each[...]) for each in (part.of_text.kernel, part.query, part.out.kernel))
    for study in range(2):
        header = encoded[study][segments[study] == 0]
        header = header / np.sqrt(np.mean(header**2, axis=-1, keepdims=True) + 1e-6)
        expected = np.zeros(CONFIG.policy_width)
        for head in range(CONFIG.heads):
            key, value = header @ kernel[:, 0, head], header @ kernel[:, 1, head]
            weights = np.exp(key @ query[head] / np.sqrt(query.shape[1]))
            expected += weights / weights.sum() @ value @ out[head]
        np.testing.assert_allclose(found[study], expected, rtol=1e-4, atol=1e-4)


def test_other_text_and_no_text_say_nothing():
    part, rng = reading(), np.random.default_rng(3)
    encoded = rng.normal(size=(2, 4, CONFIG.width)).astype(np.float32)
    batch = types.SimpleNamespace(text_segments=np.array([[0, 1, 1, -1], [-1, -1, -1, -1]]))
    other = encoded.copy()
    other[:, 1:] += 1.0
    before, after = part(jnp.asarray(encoded), batch), part(jnp.asarray(other), batch)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(before[1], 0.0)
    assert np.abs(before[0]).max() > 0.1


def test_a_new_one_says_nothing_at_first():
    part = HeaderReading(CONFIG, rng=np.random.default_rng(0))
    batch = types.SimpleNamespace(text_segments=np.zeros((1, 3), int))
    np.testing.assert_array_equal(part(jnp.ones((1, 3, CONFIG.width)), batch), 0.0)
