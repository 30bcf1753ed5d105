"""The pooled layout against a naive decoder, and its indifference to the order of parameters."""

import numpy as np
import pytest

from optformer.model.heads import cosines
from optformer.model.layers import distance_buckets
from optformer.model.pooled import ORDER_FREE, SELF, START
from optformer.serialization import tokens


def numpy_norm(x, scale):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * np.asarray(scale[...])


def numpy_attention(query, keys, values, bias):
    score = keys @ query / np.sqrt(query.size) + bias
    weight = np.exp(score - score.max())
    return (weight / weight.sum()) @ values


def naive_decode(model, embedded, names, sees, bias_row, memory):
    """Rows `names` through all blocks one by one; `sees(row)` are the names it attends to, itself included.

    Float64 NumPy, straight from the definition: no shared keys, no masks, no cache.
    """
    stream = {name: vector.astype(np.float64) for name, vector in zip(names, embedded, strict=True)}
    table = np.asarray(model.bias.bias[...])
    for block, text in zip(model.blocks, memory, strict=True):
        qkv = np.asarray(block.self_qkv.kernel[...], np.float64)
        out = np.asarray(block.self_out.kernel[...], np.float64)
        projected = {
            name: np.einsum("d,dchk->chk", numpy_norm(x, block.self_norm.scale), qkv) for name, x in stream.items()
        }
        new = {}
        for name, x in stream.items():
            visible = sees(name)
            for head in range(out.shape[0]):
                keys = np.stack([projected[other][1, head] for other in visible])
                values = np.stack([projected[other][2, head] for other in visible])
                bias = np.asarray([table[bias_row(name, other), head] for other in visible])
                x = x + numpy_attention(projected[name][0, head], keys, values, bias) @ out[head]
            normed = numpy_norm(x, block.cross_norm.scale)
            for head in range(out.shape[0]):
                query = normed @ np.asarray(block.cross_query.kernel[:, head], np.float64)
                keys, values = (np.asarray(part[:, head], np.float64) for part in text)
                mixed = numpy_attention(query, keys, values, np.zeros(len(keys)))
                x = x + mixed @ np.asarray(block.cross_out.kernel[head], np.float64)
            normed = numpy_norm(x, block.feed_norm.scale)
            gate, up = np.einsum("d,dcf->cf", normed, np.asarray(block.feed_forward.up.kernel[...], np.float64))
            gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
            new[name] = x + (gelu * up) @ np.asarray(block.feed_forward.down.kernel[...], np.float64)
        stream = new
    return stream


@pytest.mark.parametrize("order_free", [False, True])
def test_decoder_equals_the_naive_one(models, run, order_free):
    model, batch = models["pooled"], run.study(0, studies=1, order_free=order_free)
    trials, prefix = batch.y_tokens.shape[1], int(batch.prefix_length[0])

    def parts(model, batch):
        slots, memory, _ = model._metadata(batch)
        return *model._embed(batch, slots), memory

    contexts, queries, memory = run.compiled(parts)(model, batch)
    seen = [np.asarray(keys.bias)[0, 0, 0, 0] == 0 for keys in memory]
    assert all(mask.sum() == 1 + (batch.slot_levels[0] > 0).sum() for mask in seen)
    memory = [
        (np.asarray(keys.key)[0, mask], np.asarray(keys.value)[0, mask])
        for keys, mask in zip(memory, seen, strict=True)
    ]
    names = ["start", *[("c", t) for t in range(trials)], *[("q", t) for t in range(trials)]]
    embedded = np.concatenate([np.asarray(contexts)[0], np.asarray(queries)[0]])

    def sees(name):
        if name == "start":
            return ["start"]
        kind, trial = name
        together = order_free and kind == "c" and trial < prefix
        others = [t for t in range(trials) if t != trial and (t < trial or (together and t < prefix))]
        return ["start", *[("c", t) for t in others], name]

    def bias_row(name, other):
        buckets = model.bias.buckets
        if name == other:
            return buckets + SELF
        if other == "start":
            return buckets + START
        if order_free:
            return buckets + ORDER_FREE
        return distance_buckets(32, 128)[name[1] - other[1]]

    stream = naive_decode(model, embedded, names, sees, bias_row, memory)
    logits = run.forward(model, batch)
    free, series = (
        np.asarray(part.kernel[...], np.float64) for part in (model.function_head.free, model.function_head.series)
    )
    head = free + series @ cosines(series.shape[1])
    for trial in range(trials):
        expected = numpy_norm(stream["q", trial], model.norm.scale) @ head
        np.testing.assert_allclose(logits.function[0, trial, :1001], expected[:1001], atol=1e-4)
    history = run.encode(model, run.known(batch, 3))
    np.testing.assert_allclose(history.state[0], stream["c", 2], atol=1e-4)


def test_in_a_blind_study_every_trial_is_predicted_as_the_first(models, run):
    model, batch = models["pooled"], run.study(0)
    blind = batch._replace(prefix_length=np.zeros_like(batch.prefix_length))
    found = run.forward(model, blind).function
    empty = run.encode(model, run.known(blind, 0))
    np.testing.assert_allclose(found, run.function(model, empty, batch.x_tokens), atol=1e-5)
    other = run.forward(model, blind._replace(y_tokens=batch.y_tokens[:, ::-1])).function
    np.testing.assert_array_equal(found, other)


def test_function_head_is_indifferent_to_the_order_of_parameters(models, run):
    """Slots permuted together with their clauses and identities; the text itself stays where it is."""
    model, batch = models["pooled"], run.study(1)
    order = np.asarray([2, 0, 3, 1])
    new_of_old = np.concatenate([[0], np.argsort(order) + 1])
    segments = np.where(batch.text_segments < 0, -1, new_of_old[batch.text_segments]).astype(np.int32)
    permuted = batch._replace(
        text_segments=segments,
        slot_kinds=batch.slot_kinds[:, order],
        slot_levels=batch.slot_levels[:, order],
        slot_identities=batch.slot_identities[:, order],
        x_tokens=batch.x_tokens[:, :, order],
        policy_weights=batch.policy_weights[:, :, order],
    )
    before, after = run.forward(model, batch), run.forward(model, permuted)
    np.testing.assert_allclose(after.function, before.function, atol=1e-5)
    wrong = run.forward(model, permuted._replace(slot_identities=batch.slot_identities))
    assert np.abs(wrong.function - before.function)[..., : tokens.NUM_LEVELS].max() > 1e-3


def test_slots_without_names_differ_by_identity(models, run):
    """Two slots of one kind without any text: swapping their values must still be seen."""
    batch = run.study(2)
    nameless = batch._replace(
        text_segments=np.full_like(batch.text_segments, -1),
        slot_kinds=np.full_like(batch.slot_kinds, tokens.CONTINUOUS),
        slot_levels=np.full_like(batch.slot_levels, tokens.NUM_LEVELS),
    )
    swapped = nameless._replace(x_tokens=nameless.x_tokens[:, :, ::-1].copy())
    before, after = run.forward(models["pooled"], nameless), run.forward(models["pooled"], swapped)
    assert np.abs(before.function - after.function)[..., : tokens.NUM_LEVELS].max() > 1e-3


def test_policy_reads_the_trials_named_by_policy_trials(models, run):
    model, batch = models["pooled"], run.study(3)
    every = run.forward(model, batch)
    some = np.asarray([[4, 0, 6, 2, 2, 1, 3], [1, 5, 0, 0, 3, 2, 6]], np.int32)
    chosen = run.forward(model, batch._replace(policy_trials=some))
    expected = np.take_along_axis(np.asarray(every.policy), some[:, :, None, None], axis=1)
    np.testing.assert_allclose(chosen.policy, expected, atol=1e-5)
