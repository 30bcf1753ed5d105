"""Metadata of the prior's studies, written on the device, with exactly the tokens of `serialization.metadata`.

The header has any of title, algorithm, metric and goal.  A clause has kind, scale and number of levels, whether the
parameter is conditional, and in some studies its name and its parent's.  Ranges are omitted, as by the serializer with
`MetadataOptions(ranges=False)`.  All words come from tables of tokens that are built once from the vocabulary; the
device selects rows and packs them.

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
"""Number of names; prime, so that any smaller step visits all names before it repeats one."""
_NUM_TITLES, _LONGEST_TITLE = 512, 10
_LONGEST_METRIC = 5


class Metadata(NamedTuple):
    """The three text fields of a `StudyBatch`, for one study."""

    tokens: Int[Array, " text"]
    segments: Int[Array, " text"]
    positions: Int[Array, " text"]


class Wording(NamedTuple):
    """The words in the metadata of one study: rows of `tables()`, and which of them are written.

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
    """Rows of tokens, padded with `_EMPTY`.

    Attributes:
      titles: titles of studies.
      metrics: names of metrics.
      goals: maximize, minimize.
      kinds: one row per kind of slot (row `NO_SLOT` is empty).
      scales: linear, log.
      levels: one row per number of levels, 0 ... Q.
      names: names of parameters.
      conditions: for children, one row per name of the parent; the last row is without a name.
      algorithms: one row per behaviour, in the order of `behaviours.BEHAVIOURS`.
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
    """The texts of the rows of `titles`, `metrics`, `names` and `algorithms`."""
    vocabulary = Vocabulary.default()

    def short(texts: list[str], longest: int) -> list[str]:
        return [text for text in dict.fromkeys(texts) if len(vocabulary.encode(text)) <= longest]

    rng, pieces = random.Random(0), TITLE_WORDS.split()
    titles = [" ".join(rng.sample(pieces, rng.randint(1, 5))) for _ in range(2 * _NUM_TITLES)]
    names = short([name for group in PARAMETER_NAMES.values() for name in group.split()], _LONGEST_NAME)
    return {
        "titles": short(titles, _LONGEST_TITLE)[:_NUM_TITLES],
        "metrics": short(METRICS.split(), _LONGEST_METRIC),
        # Selected evenly from all tools they come from.
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
    """Writes the metadata of one study; `behaviour` is an index into `config.behaviours`.

    If the text does not fit into S tokens, names are dropped, then title, metric and algorithm, then whole clauses, the
    last ones first, as for logged studies.
    """
    table = jax.tree.map(jnp.asarray, tables())
    order = list(behaviours.BEHAVIOURS)
    # Equal steps through a prime number of names, so that the parameters of a study have distinct names.
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

    `marks`: slots that have special clauses, and these clauses.
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
    """Packs header and clauses, whose unused positions are `_EMPTY`, to the left into S tokens.

    A segment that does not fit completely is dropped, and so are all after it.
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
