"""Metadata of the prior's studies, written on the device token for token as `serialization.metadata` writes it.

Only what a study without names and ranges shows is needed: goal and sometimes the algorithm in the header, and kind,
scale and number of levels in the clauses, sometimes with a common name.  All of it comes from tables of tokens that
are built once from the vocabulary; the device picks rows and packs them.

Notation: S text tokens, D slots, W the widest segment.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from optformer.data.prior import behaviours
from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.spaces import Space
from optformer.data.shapes import BatchShape
from optformer.serialization import tokens
from optformer.serialization.vocabulary import Vocabulary
from optformer.serialization.vocabulary_words import PARAMETER_NAMES

_EMPTY = -1
_LONGEST_NAME = 8
_NUM_NAMES = 401
"""Prime, so that every step below it visits all names before it repeats one."""


class Metadata(NamedTuple):
    """The three text fields of a `StudyBatch`, for one study."""

    tokens: Int[Array, " text"]
    segments: Int[Array, " text"]
    positions: Int[Array, " text"]


class Tables(NamedTuple):
    """Rows of tokens, filled up with `_EMPTY`.

    Attributes:
      goals: maximize, minimize.
      kinds: by kind of slot (row `NO_SLOT` is empty).
      scales: linear, log.
      levels: by number of levels, 0 ... Q.
      names: names of parameters.
      algorithms: by name in `behaviours.BEHAVIOURS`, in that order.
    """

    goals: np.ndarray
    kinds: np.ndarray
    scales: np.ndarray
    levels: np.ndarray
    names: np.ndarray
    algorithms: np.ndarray


@functools.cache
def tables() -> Tables:
    """The tables of the default vocabulary."""
    vocabulary = Vocabulary.default()
    keyword, encode = vocabulary.keyword, vocabulary.encode
    return Tables(
        goals=_rows([[keyword("maximize")], [keyword("minimize")]]),
        kinds=_rows([[]] + [[keyword(name)] for name in ("double", "integer", "discrete", "categorical")]),
        scales=_rows([[keyword("linear")], [keyword("log")]]),
        levels=_rows([[keyword("levels"), *encode(str(count))] for count in range(tokens.NUM_LEVELS + 1)]),
        names=_rows(_names(vocabulary)),
        algorithms=_rows(
            [[keyword("algorithm"), *encode(member.algorithm)] for member in behaviours.BEHAVIOURS.values()]
        ),
    )


def _names(vocabulary: Vocabulary) -> list[list[int]]:
    """Clauses of common parameter names that are short, spread evenly over all tools they come from."""
    names = dict.fromkeys(name for words in PARAMETER_NAMES.values() for name in words.split())
    encoded = [vocabulary.encode(name) for name in names]
    short = [[vocabulary.keyword("name"), *name] for name in encoded if len(name) <= _LONGEST_NAME]
    return [short[index * len(short) // _NUM_NAMES] for index in range(_NUM_NAMES)]


def _rows(rows: list[list[int]]) -> np.ndarray:
    width = max(len(row) for row in rows)
    return np.array([row + [_EMPTY] * (width - len(row)) for row in rows], np.int32)


def write(draws: Draws, space: Space, behaviour: Int[Array, ""], config: PriorConfig, shape: BatchShape) -> Metadata:
    """Metadata of one study; `behaviour` indexes `config.behaviours`."""
    table = jax.tree.map(jnp.asarray, tables())
    order = list(behaviours.BEHAVIOURS)
    algorithm = jnp.asarray([order.index(name) for name, _ in config.behaviours])[behaviour]
    named = draws.bernoulli(config.algorithm_rate)
    goal = draws.bernoulli(config.minimize_rate).astype(jnp.int32)
    with_goal = draws.bernoulli(config.goal_rate)
    header = [
        jnp.where(named, table.algorithms[algorithm], _EMPTY),
        jnp.where(with_goal, table.goals[goal], _EMPTY),
    ]

    # No two parameters of a study share a name: equal steps through a prime number of them.
    with_names = draws.bernoulli(config.names_rate)
    name = (draws.integer(0, _NUM_NAMES) + draws.integer(1, _NUM_NAMES) * jnp.arange(shape.slots)) % _NUM_NAMES
    scaled = (space.kinds == tokens.CONTINUOUS) | (space.kinds == tokens.INTEGER)
    counted = space.kinds > tokens.CONTINUOUS
    clauses = [
        jnp.where(with_names & space.active[:, None], table.names[name], _EMPTY),
        table.kinds[space.kinds],
        jnp.where(scaled[:, None], table.scales[space.log_scale.astype(jnp.int32)], _EMPTY),
        jnp.where(counted[:, None], table.levels[space.levels], _EMPTY),
    ]
    return pack(jnp.concatenate(header), jnp.concatenate(clauses, axis=1), shape.text)


def pack(header: Int[Array, " width"], clauses: Int[Array, "slot other_width"], text: int) -> Metadata:
    """Left-packs header and clauses, whose unused places are `_EMPTY`, into S tokens.

    A segment that does not fit entirely is left out, and so are all after it.
    """
    width = max(header.shape[0], clauses.shape[1])
    rows = jnp.concatenate([_widened(header[None, :], width), _widened(clauses, width)])
    used: Bool[Array, "segment width"] = rows != _EMPTY
    position = jnp.cumsum(used, axis=1) - 1
    ends = jnp.cumsum(used.sum(1))
    starts = ends - used.sum(1)
    target = jnp.where(used & (ends <= text)[:, None], starts[:, None] + position, text).reshape(-1)
    segment = jnp.broadcast_to(jnp.arange(rows.shape[0])[:, None], rows.shape)

    def place(values: Array, empty: int) -> Int[Array, " text"]:
        return jnp.full((text,), empty, jnp.int32).at[target].set(values.reshape(-1).astype(jnp.int32), mode="drop")

    return Metadata(place(rows, 0), place(segment, -1), place(position, 0))


def _widened(rows: Int[Array, "row width"], width: int) -> Int[Array, "row wider"]:
    return jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=_EMPTY)
