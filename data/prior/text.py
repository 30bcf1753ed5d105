"""Metadata of the prior's studies, written on the device token for token as `serialization.metadata` writes it.

The header has any of title, algorithm, metric and goal; a clause has kind, scale and number of levels, says that the
parameter is conditional, and in some studies names it and its parent.  Ranges are left out, as the serializer leaves
them out with `MetadataOptions(ranges=False)`.  All words come from tables of tokens that are built once from the
vocabulary; the device picks rows and packs them.

Notation: S text tokens, D slots, W the widest segment.
"""

import functools
import random
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from optformer.data.prior import behaviours
from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.earlier import Earlier
from optformer.data.prior.partial import Rows
from optformer.data.prior.spaces import Space
from optformer.serialization import partial_trials, prior_studies, tokens
from optformer.serialization.batch import BatchShape
from optformer.serialization.vocabulary import Vocabulary
from optformer.serialization.vocabulary_words import METRICS, PARAMETER_NAMES, TITLE_WORDS

_EMPTY = -1
_LONGEST_NAME = 8
_NUM_NAMES = 401
"""Prime, so that every step below it visits all names before it repeats one."""
_NUM_TITLES, _LONGEST_TITLE = 512, 10
_LONGEST_METRIC = 5


class Metadata(NamedTuple):
    """The three text fields of a `StudyBatch`, for one study."""

    tokens: Int[Array, " text"]
    segments: Int[Array, " text"]
    positions: Int[Array, " text"]


class Wording(NamedTuple):
    """What the metadata of one study says: rows of `tables()`, and which of them are written.

    Attributes:
      title, algorithm, metric, goal: rows of the header's fields.
      names: row of each slot's name.
      with_title, with_algorithm, with_metric, with_goal, with_names: which are written.
    """

    title: Int[Array, ""]
    algorithm: Int[Array, ""]
    metric: Int[Array, ""]
    goal: Int[Array, ""]
    names: Int[Array, " slot"]
    with_title: Bool[Array, ""]
    with_algorithm: Bool[Array, ""]
    with_metric: Bool[Array, ""]
    with_goal: Bool[Array, ""]
    with_names: Bool[Array, ""]


class Tables(NamedTuple):
    """Rows of tokens, filled up with `_EMPTY`.

    Attributes:
      titles: of studies.
      metrics: names of metrics.
      goals: maximize, minimize.
      kinds: by kind of slot (row `NO_SLOT` is empty).
      scales: linear, log.
      levels: by number of levels, 0 ... Q.
      names: names of parameters.
      conditions: for children, with the parent's name, by that name; the last row is without it.
      algorithms: by name in `behaviours.BEHAVIOURS`, in that order.
    """

    titles: np.ndarray
    metrics: np.ndarray
    goals: np.ndarray
    kinds: np.ndarray
    scales: np.ndarray
    levels: np.ndarray
    names: np.ndarray
    conditions: np.ndarray
    algorithms: np.ndarray


@functools.cache
def words() -> dict[str, list[str]]:
    """The texts that stand for the rows of `titles`, `metrics`, `names` and `algorithms`."""
    vocabulary = Vocabulary.default()

    def short(texts: list[str], longest: int) -> list[str]:
        return [text for text in dict.fromkeys(texts) if len(vocabulary.encode(text)) <= longest]

    rng, pieces = random.Random(0), TITLE_WORDS.split()
    titles = [" ".join(rng.sample(pieces, rng.randint(1, 5))) for _ in range(2 * _NUM_TITLES)]
    names = short([name for group in PARAMETER_NAMES.values() for name in group.split()], _LONGEST_NAME)
    return {
        "titles": short(titles, _LONGEST_TITLE)[:_NUM_TITLES],
        "metrics": short(METRICS.split(), _LONGEST_METRIC),
        # Spread evenly over all tools they come from.
        "names": [names[index * len(names) // _NUM_NAMES] for index in range(_NUM_NAMES)],
        "algorithms": [member.algorithm for member in behaviours.BEHAVIOURS.values()],
    }


@functools.cache
def tables() -> Tables:
    """The tables of the default vocabulary."""
    vocabulary = Vocabulary.default()
    keyword, encode = vocabulary.keyword, vocabulary.encode

    def field(name: str, texts: list[str]) -> np.ndarray:
        return _rows([[keyword(name), *encode(text)] for text in texts])

    return Tables(
        titles=field("title", words()["titles"]),
        metrics=field("metric", words()["metrics"]),
        goals=_rows([[keyword("maximize")], [keyword("minimize")]]),
        kinds=_rows([[]] + [[keyword(name)] for name in ("double", "integer", "discrete", "categorical")]),
        scales=_rows([[keyword("linear")], [keyword("log")]]),
        levels=_rows([[keyword("levels"), *encode(str(count))] for count in range(tokens.NUM_LEVELS + 1)]),
        names=field("name", words()["names"]),
        conditions=field("when", [*words()["names"], ""]),
        algorithms=field("algorithm", words()["algorithms"]),
    )


def _rows(rows: list[list[int]]) -> np.ndarray:
    width = max(len(row) for row in rows)
    return np.array([row + [_EMPTY] * (width - len(row)) for row in rows], np.int32)


def write(
    draws: Draws,
    space: Space,
    earlier: Earlier | None,
    rows: Rows | None,
    behaviour: Int[Array, ""],
    config: PriorConfig,
    shape: BatchShape,
) -> tuple[Metadata, Wording]:
    """Metadata of one study; `behaviour` indexes `config.behaviours`.

    Text that does not fit into S tokens loses names, then title, metric and algorithm, then whole clauses, the last
    ones first: the rule of the corpus.
    """
    table = jax.tree.map(jnp.asarray, tables())
    order = list(behaviours.BEHAVIOURS)
    # No two parameters of a study share a name: equal steps through a prime number of them.
    names = (draws.integer(0, _NUM_NAMES) + draws.integer(1, _NUM_NAMES) * jnp.arange(shape.slots)) % _NUM_NAMES
    wording = Wording(
        title=draws.integer(0, table.titles.shape[0]),
        algorithm=jnp.asarray([order.index(name) for name, _ in config.behaviours])[behaviour],
        metric=draws.integer(0, table.metrics.shape[0]),
        goal=draws.bernoulli(config.minimize_rate).astype(jnp.int32),
        names=names,
        with_title=draws.bernoulli(config.title_rate),
        with_algorithm=draws.bernoulli(config.algorithm_rate),
        with_metric=draws.bernoulli(config.metric_rate),
        with_goal=draws.bernoulli(config.goal_rate),
        with_names=draws.bernoulli(config.names_rate),
    )
    header = {
        "with_title": table.titles[wording.title],
        "with_algorithm": table.algorithms[wording.algorithm],
        "with_metric": table.metrics[wording.metric],
        "with_goal": table.goals[wording.goal],
    }
    marks = [(earlier.slots, prior_studies.clause())] if earlier is not None else []
    marks += [(rows.slot, partial_trials.clause())] if rows is not None else []
    clauses = _clauses(table, space, marks, names)
    bare = _clauses(table, space, marks, None)

    length = _count(bare) + sum(_count(row) * getattr(wording, field) for field, row in header.items())
    excess = {"with_names": _count(clauses) - _count(bare)} | {field: _count(row) for field, row in header.items()}
    length += excess["with_names"] * wording.with_names
    for field in ("with_names", "with_title", "with_metric", "with_algorithm"):
        written = getattr(wording, field)
        kept = written & (length <= shape.text)
        length -= excess[field] * (written & ~kept)
        wording = wording._replace(**{field: kept})

    shown = [jnp.where(getattr(wording, field), row, _EMPTY) for field, row in header.items()]
    return pack(jnp.concatenate(shown), jnp.where(wording.with_names, clauses, bare), shape.text), wording


def _clauses(
    table: Tables,
    space: Space,
    marks: list[tuple[Bool[Array, " slot"], list[int]]],
    names: Int[Array, " slot"] | None,
) -> Int[Array, "slot width"]:
    """One clause per slot, with names or without; the same width for both.

    `marks`: slots that have clauses of their own.
    """
    scaled = (space.kinds == tokens.CONTINUOUS) | (space.kinds == tokens.INTEGER)
    counted = space.kinds > tokens.CONTINUOUS
    nameless = table.conditions.shape[0] - 1
    name = jnp.full_like(table.names[:1], _EMPTY) if names is None else table.names[names]
    parent = nameless if names is None else names[jnp.maximum(space.parents, 0)]
    fields = [
        jnp.where(space.active[:, None], name, _EMPTY),
        table.kinds[space.kinds],
        jnp.where(scaled[:, None], table.scales[space.log_scale.astype(jnp.int32)], _EMPTY),
        jnp.where(counted[:, None], table.levels[space.levels], _EMPTY),
        jnp.where((space.parents >= 0)[:, None], jnp.atleast_2d(table.conditions[parent]), _EMPTY),
    ]
    clauses = jnp.concatenate(fields, axis=1)
    for slots, clause in marks:
        marked = _widened(jnp.asarray([clause], jnp.int32), clauses.shape[1])
        clauses = jnp.where(slots[:, None], marked, clauses)
    return clauses


def _count(rows: Int[Array, "*rows width"]) -> Int[Array, ""]:
    return (rows != _EMPTY).sum()


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
