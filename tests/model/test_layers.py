"""The blocks against a plain NumPy implementation written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optformer.model.layers import (
    NEVER,
    Block,
    GatedFeedForward,
    Keys,
    RelativeBias,
    RMSNorm,
    attend,
    distance_buckets,
    gate,
    rms_norm,
)

FLOAT32 = jnp.dtype(jnp.float32)


def numpy_norm(x, scale):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


def numpy_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def numpy_feed_forward(x, layer):
    gate, up = layer.up.kernel[:, 0], layer.up.kernel[:, 1]
    return (numpy_gelu(x @ gate) * (x @ up)) @ np.asarray(layer.down.kernel[...])


def numpy_attention(query, keys, values, bias):
    """One row, one head: query [K], keys and values [C, K], bias [C]."""
    score = keys @ query / np.sqrt(query.size) + bias
    weight = np.exp(score - score.max())
    return (weight / weight.sum()) @ values


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_rms_norm():
    norm = RMSNorm(6)
    norm.scale.set_value(jnp.asarray(normal(1, 6)))
    x = 10 * normal(0, 3, 4, 6) + 2
    np.testing.assert_allclose(norm(jnp.asarray(x)), numpy_norm(x, np.asarray(norm.scale[...])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 2, 6), (3, 4, 2, 6)])
def test_the_written_gradient_of_the_gate_is_the_derived_one(shape):
    hidden, weights = 2 * normal(0, *shape), jnp.asarray(normal(1, *shape[:-2], shape[-1]))

    def derived(hidden):
        return jnp.sum(weights * jax.nn.gelu(hidden[..., 0, :], approximate=True) * hidden[..., 1, :])

    expected = jax.grad(derived)(jnp.asarray(hidden))
    actual = jax.grad(lambda hidden: jnp.sum(weights * gate(hidden)))(jnp.asarray(hidden))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_the_written_gradient_of_the_norm_is_the_derived_one():
    # A row of zeros, as padding gives, must not make NaN.
    x = np.concatenate([3 * normal(0, 4, 6), np.zeros((1, 6), np.float32)])
    scale, weights = jnp.asarray(normal(1, 6)), jnp.asarray(normal(2, 5, 6))

    def derived(x, scale):
        return jnp.sum(weights * x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale[None])

    expected = jax.grad(derived, (0, 1))(jnp.asarray(x), scale)
    actual = jax.grad(lambda x, scale: jnp.sum(weights * rms_norm(x, scale)), (0, 1))(jnp.asarray(x), scale)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_gated_feed_forward():
    layer = GatedFeedForward(6, 10, dtype=FLOAT32, rng=np.random.default_rng(0))
    x = normal(0, 2, 3, 6)
    np.testing.assert_allclose(layer(jnp.asarray(x)), numpy_feed_forward(x, layer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own_keys", [1, 3])
@pytest.mark.parametrize("with_shared", [True, False])
def test_attention_over_shared_and_own_keys(run, own_keys, with_shared):
    studies, groups, rows, shared_keys, heads, width = 2, 3, 2, 4, 2, 5
    query = normal(0, studies, groups, rows, heads, width)
    shared = Keys(
        normal(1, studies, shared_keys, heads, width),
        normal(2, studies, shared_keys, heads, width),
        normal(3, studies, heads, groups, rows, shared_keys),
    )
    own = Keys(
        normal(4, studies, groups, own_keys, heads, width),
        normal(5, studies, groups, own_keys, heads, width),
        normal(6, studies, heads, groups, rows, own_keys),
    )
    shared.bias[0, :, :, :, 1] = NEVER
    result = run.compiled(attend)(
        jnp.asarray(query), Keys(*map(jnp.asarray, shared)) if with_shared else None, Keys(*map(jnp.asarray, own))
    )
    for b, n, i, h in np.ndindex(studies, groups, rows, heads):
        keys, values, bias = own.key[b, n, :, h], own.value[b, n, :, h], own.bias[b, h, n, i]
        if with_shared:
            keys = np.concatenate([shared.key[b, :, h], keys])
            values = np.concatenate([shared.value[b, :, h], values])
            bias = np.concatenate([shared.bias[b, h, n, i], bias])
        expected = numpy_attention(query[b, n, i, h], keys, values, bias)
        np.testing.assert_allclose(result[b, n, i, h], expected, rtol=1e-4, atol=1e-5)


def test_row_without_visible_key_gets_zeros(run):
    query, keys = jnp.asarray(normal(0, 1, 2, 1, 1, 4)), jnp.asarray(normal(1, 1, 3, 1, 4))
    bias = jnp.asarray([[0.0, 0.0, 0.0], [NEVER] * 3])[None, None, :, None]
    result = run.compiled(attend)(query, Keys(keys, keys, bias))
    assert np.all(np.asarray(result[0, 1]) == 0)
    assert np.any(np.asarray(result[0, 0]) != 0)


def test_decoder_block(run):
    """Pre-norm self-attention with a causal mask, cross-attention and feed-forward, row by row."""
    width, heads, head_width, length, text = 6, 2, 4, 5, 3
    block = Block(width, heads, head_width, 10, cross=True, dtype=FLOAT32, rng=np.random.default_rng(0))
    for seed, norm in enumerate([block.self_norm, block.cross_norm, block.feed_norm]):
        norm.scale.set_value(jnp.asarray(1 + 0.3 * normal(seed, width)))
    x, memory = normal(1, 1, length, width), normal(2, 1, text, width)
    bias = np.where(np.tri(length, dtype=bool), normal(3, heads, length, length), NEVER).astype(np.float32)

    rows = jnp.asarray(x)[:, :, None]

    def forward(block, rows, memory):
        query, key, value = block.project(rows)
        shared = Keys(key[:, :, 0], value[:, :, 0], jnp.asarray(bias)[None, :, :, None])
        return block.finish(rows, attend(query, shared), block.memory(memory, jnp.zeros((1, 1, 1, 1, text))))[0, :, 0]

    result = run.compiled(forward)(block, rows, memory)

    qkv, kernels = np.asarray(block.self_qkv.kernel[...]), block
    normed = numpy_norm(x[0], np.asarray(block.self_norm.scale[...]))
    stream = x[0].copy()
    for i in range(length):
        heads_out = []
        for h in range(heads):
            q, k, v = (normed @ qkv[:, part, h] for part in range(3))
            heads_out.append(numpy_attention(q[i], k[: i + 1], v[: i + 1], bias[h, i, : i + 1]))
        stream[i] += np.concatenate(heads_out) @ np.asarray(kernels.self_out.kernel[...]).reshape(-1, width)
    normed = numpy_norm(stream, np.asarray(block.cross_norm.scale[...]))
    kv = np.asarray(block.cross_kv.kernel[...])
    crossed = stream.copy()
    for i in range(length):
        heads_out = []
        for h in range(heads):
            q = normed[i] @ np.asarray(block.cross_query.kernel[:, h])
            heads_out.append(numpy_attention(q, memory[0] @ kv[:, 0, h], memory[0] @ kv[:, 1, h], np.zeros(text)))
        crossed[i] += np.concatenate(heads_out) @ np.asarray(block.cross_out.kernel[...]).reshape(-1, width)
    normed = numpy_norm(crossed, np.asarray(block.feed_norm.scale[...]))
    expected = crossed + numpy_feed_forward(normed, block.feed_forward)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_distance_buckets_are_those_of_t5():
    """Golden values of T5's one-way buckets with 32 buckets up to distance 128."""
    buckets = distance_buckets(32, 128)
    distances = [0, 1, 15, 16, 18, 19, 23, 26, 31, 34, 45, 64, 90, 127, 128]
    assert buckets[distances].tolist() == [0, 1, 15, 16, 16, 17, 18, 19, 21, 21, 23, 26, 29, 31, 31]
    assert np.all(np.diff(buckets) >= 0)


def test_two_way_buckets_separate_directions():
    bias = RelativeBias(32, 128, heads=2, special=0, rng=np.random.default_rng(0))
    rows = bias.two_way(jnp.asarray([-500, -3, 0, 3, 500]))
    assert rows.tolist() == [15, 3, 0, 19, 31]
