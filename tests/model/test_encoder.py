"""The metadata encoder knows nothing of the order of clauses, and each clause nothing of the others."""

import numpy as np
import pytest

from optformer.model import encoder
from optformer.model.encoder import clause_summaries
from optformer.serialization.batch import StudyBatch


@pytest.fixture(scope="module")
def encode(models, run):
    def method(model, batch):
        encoded = model.encoder(model.text(batch.text_tokens), batch)
        return encoded, *clause_summaries(encoded, batch.text_segments, batch.slot_kinds.shape[1])

    compiled = run.compiled(method)
    return lambda batch: [np.asarray(part) for part in compiled(models["pooled"], batch)]


def reordered(batch: StudyBatch, order: list[int]) -> StudyBatch:
    """Slot `order[k]` becomes slot k, and the text is laid out in the new order."""
    segments = batch.text_segments
    new_of_old = np.full(len(order) + 2, -1)
    new_of_old[0] = 0
    new_of_old[np.asarray(order) + 1] = np.arange(len(order)) + 1
    renamed = np.where(segments < 0, -1, new_of_old[segments])
    layout = np.argsort(np.where(renamed < 0, 99, renamed), axis=1, kind="stable")
    text = {
        name: np.take_along_axis(values, layout, axis=1)
        for name, values in [
            ("text_tokens", batch.text_tokens),
            ("text_segments", renamed.astype(np.int32)),
            ("text_positions", batch.text_positions),
        ]
    }
    return batch._replace(
        **text,
        slot_kinds=batch.slot_kinds[:, order],
        slot_levels=batch.slot_levels[:, order],
        slot_identities=batch.slot_identities[:, order],
        x_tokens=batch.x_tokens[:, :, order],
    )


def test_equivariant_to_the_order_of_clauses(encode, run):
    batch, order = run.study(0), [2, 0, 3, 1]
    encoded, header, clauses = encode(batch)
    other_encoded, other_header, other_clauses = encode(reordered(batch, order))
    np.testing.assert_allclose(other_header, header, atol=1e-5)
    np.testing.assert_allclose(other_clauses, clauses[:, order], atol=1e-5)
    valid = batch.text_segments >= 0
    np.testing.assert_allclose(
        np.sort(encoded[valid], axis=0),
        np.sort(other_encoded[reordered(batch, order).text_segments >= 0], axis=0),
        atol=1e-5,
    )


def test_a_clause_sees_itself_and_the_header_only(encode, run):
    batch = run.study(1)
    encoded, header, _ = encode(batch)
    in_second = batch.text_segments == 2
    assert in_second.any()
    changed, changed_header, _ = encode(
        batch._replace(text_tokens=np.where(in_second, 77, batch.text_tokens).astype(np.int32))
    )
    others = (batch.text_segments >= 0) & ~in_second
    np.testing.assert_array_equal(changed[others], encoded[others])
    np.testing.assert_array_equal(changed_header, header)
    assert np.abs(changed[in_second] - encoded[in_second]).max() > 1e-3
    in_header = batch.text_segments == 0
    changed, _, _ = encode(batch._replace(text_tokens=np.where(in_header, 77, batch.text_tokens).astype(np.int32)))
    clause = batch.text_segments > 0
    assert np.all(np.abs(changed[clause] - encoded[clause]).max(axis=1) > 1e-5)


def test_positions_within_a_clause_matter(encode, run):
    batch = run.study(2)
    flipped = np.where(batch.text_segments == 1, 5 - batch.text_positions, batch.text_positions)
    _, _, clauses = encode(batch)
    _, _, changed = encode(batch._replace(text_positions=flipped.astype(np.int32)))
    assert np.abs(changed[:, 0] - clauses[:, 0]).max() > 1e-4
    np.testing.assert_array_equal(changed[:, 1:], clauses[:, 1:])


def test_slots_without_text_have_zero_summaries(encode, run):
    batch = run.study(3)
    no_first = np.where(batch.text_segments == 1, -1, batch.text_segments).astype(np.int32)
    encoded, _, clauses = encode(batch._replace(text_segments=no_first))
    assert np.all(clauses[:, 0] == 0)
    assert np.all(np.isfinite(encoded))
    _, header, clauses = encode(batch._replace(text_segments=np.full_like(no_first, -1)))
    assert np.all(header == 0)
    assert np.all(clauses == 0)


def test_what_padding_holds_does_not_matter(encode, run):
    batch = run.study(4)
    padding = batch.text_segments < 0
    encoded, _, clauses = encode(batch)
    changed, _, changed_clauses = encode(
        batch._replace(
            text_tokens=np.where(padding, 99, batch.text_tokens).astype(np.int32),
            text_positions=np.where(padding, 7, batch.text_positions).astype(np.int32),
        )
    )
    np.testing.assert_array_equal(changed[~padding], encoded[~padding])
    np.testing.assert_array_equal(changed_clauses, clauses)


def test_a_long_text_is_encoded_in_blocks_as_it_would_be_in_one(models, monkeypatch):
    """Clauses of up to 64 tokens, which begin anywhere in a block, and a header of more than one block."""
    rng = np.random.default_rng(0)
    lengths = [100, 64, 1, 64, 63, *rng.integers(1, 65, 6)]
    segments = np.full((1, 640), -1, np.int32)
    positions = np.zeros((1, 640), np.int32)
    at = 0
    for number, length in enumerate(lengths):
        part = slice(at, at := min(at + length, 630))
        segments[0, part] = number
        positions[0, part] = np.arange(part.stop - part.start)
    batch = StudyBatch(*[None] * len(StudyBatch._fields))._replace(text_segments=segments, text_positions=positions)
    embedded = rng.normal(size=(1, 640, models["pooled"].config.width)).astype(np.float32)
    blocks = np.asarray(models["pooled"].encoder(embedded, batch))
    monkeypatch.setattr(encoder, "LONG", 10_000)
    whole = np.asarray(models["pooled"].encoder(embedded, batch))
    valid = segments >= 0
    np.testing.assert_allclose(blocks[valid], whole[valid], atol=2e-5)
