"""The flat layout's token sequence and positions."""

import jax.numpy as jnp
import numpy as np

from optformer.model.flat import causal_positions, visible_positions
from optformer.model.flat_tokens import token_positions, trial_of_position
from optformer.serialization import tokens


def test_plain_sequence_is_that_of_2022(models, run):
    """`p_1 ... p_D * y |` behind a start of id 0, in the rows behind the text pieces."""
    model, batch = models["plain"], run.study(0)
    table = model.sequence.table.embedding[...]
    rows = model.sequence(jnp.asarray(batch.x_tokens), jnp.asarray(batch.y_tokens), None)
    ids = [0]
    for x, y in zip(batch.x_tokens[0], batch.y_tokens[0], strict=True):
        ids += [128 + int(token) for token in (*x, tokens.STAR, y, tokens.BAR)]
    np.testing.assert_array_equal(rows[0], np.asarray(table)[ids])
    assert len(ids) == 1 + 7 * 7


def test_positions_skip_padded_slots():
    mask = jnp.asarray([[True, True], [True, False]])
    # start | p p * y | p p * y |   and   start | p . * y | p . * y |
    assert token_positions(mask, 2).tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        [0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8],
    ]
    assert trial_of_position(2, 2).tolist() == [-1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    visible = visible_positions(jnp.asarray([[True, True], [True, False]]), mask)
    assert visible[0].all()
    assert visible[1].tolist() == [True, True, False, True, True, True] + [False] * 5


def test_prefix_of_an_order_free_study_sees_both_ways(run):
    batch = run.study(1, order_free=True)
    visible = np.asarray(causal_positions(batch))[0]
    trial = trial_of_position(7, 4)
    for row in range(trial.size):
        for key in range(trial.size):
            both_in_prefix = 0 <= trial[row] < 3 and 0 <= trial[key] < 3
            expected = key <= row or (both_in_prefix and trial[row] != trial[key])
            assert visible[row, key] == expected, (row, key)
