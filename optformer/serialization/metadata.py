"""Metadata text: the description of a study that the encoder reads.

A study's text is a header and one clause per slot.  Keywords (`<name>`, `<log>`, ...) are reserved ids; everything else
is user text or numbers.

  header := [<title>text] [<description>text] [<algorithm>text] [<metric>text] [<maximize>|<minimize>] fixed*
  fixed  := <fixed>name<value>value
  clause := [<name>text] type [scale] [<levels>count] [<min>number<max>number] [condition] [<value>value]*
  type   := <double> | <integer> | <discrete> | <categorical>
  scale  := <linear> | <log> | <reverse_log> | <uniform_discrete>            (double and integer)
  condition := <when>[parent's name] [<is>value]*                            (children only)

`<more>` ends a truncated list.  Each text has a limit in tokens, so that a long name cannot displace the type.  A field
that does not fit in its segment is omitted completely.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int32
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.slots import Slot
from optformer.serialization.space import METADATA_NAMESPACE, StudySchema
from optformer.serialization.vocabulary import Vocabulary

MAX_LISTED_VALUES: Final = 16
_MAX_LISTED_CONDITIONS: Final = 4
_TITLE_TOKENS, _DESCRIPTION_TOKENS, _METRIC_TOKENS, _ALGORITHM_TOKENS = 24, 32, 12, 12
_NAME_TOKENS, _PARENT_TOKENS, _VALUE_TOKENS = 16, 8, 8

_KIND_KEYWORDS: Final = {
    tokens.CONTINUOUS: "double",
    tokens.INTEGER: "integer",
    tokens.DISCRETE: "discrete",
    tokens.CATEGORICAL: "categorical",
}
_SCALE_KEYWORDS: Final = {
    vz.ScaleType.LINEAR: "linear",
    vz.ScaleType.LOG: "log",
    vz.ScaleType.REVERSE_LOG: "reverse_log",
    vz.ScaleType.UNIFORM_DISCRETE: "uniform_discrete",
}


@dataclasses.dataclass(frozen=True)
class MetadataOptions:
    """Which fields to write.  Types, scales and numbers of levels are always written.

    Attributes:
      title: the study's title.
      description: its description.
      algorithm: the algorithm that chose the trials.
      metric: the metric's name.
      goal: maximize or minimize.  Objective tokens are larger-is-better for either goal, so a model that does not read
        it suggests the same for minimizing f and maximizing -f.
      names: parameter names, fixed parameters among them.
      ranges: bounds, feasible values, and the values of fixed parameters.
      header_tokens: limit on the header.
      clause_tokens: limit on each clause.
    """

    title: bool = True
    description: bool = True
    algorithm: bool = True
    metric: bool = True
    goal: bool = True
    names: bool = True
    ranges: bool = True
    header_tokens: int = 96
    clause_tokens: int = 48


DEFAULT_OPTIONS: Final = MetadataOptions()


class MetadataTokens(NamedTuple):
    """Metadata as the model reads it; see `StudyBatch`."""

    text_tokens: Int32[np.ndarray, " text"]
    text_segments: Int32[np.ndarray, " text"]
    text_positions: Int32[np.ndarray, " text"]


def metadata_segments(
    problem: vz.ProblemStatement | StudySchema,
    algorithm: str | None = None,
    options: MetadataOptions = DEFAULT_OPTIONS,
    objective: int = 0,
    vocabulary: Vocabulary | None = None,
) -> list[list[int]]:
    """Text ids of the header and of each slot's clause, in the order of the slots: D + 1 segments.

    Args:
      problem: the problem, or its schema if it exists already.
      algorithm: overrides the problem's own entry.
      options: what to write.
      objective: index of the metric to name; safety metrics follow the objectives.
      vocabulary: default: the shipped one.
    """
    schema = problem if isinstance(problem, StudySchema) else StudySchema(problem)
    vocabulary = vocabulary or Vocabulary.default()
    header = _header(schema, algorithm, options, objective, vocabulary)
    return [header, *(_clause(slot, schema, options, vocabulary) for slot in schema.slots)]


def metadata_text(
    problem: vz.ProblemStatement | StudySchema,
    algorithm: str | None = None,
    options: MetadataOptions = DEFAULT_OPTIONS,
    objective: int = 0,
    vocabulary: Vocabulary | None = None,
) -> str:
    """The segments as readable text, one per line, exactly as the model sees them (limits applied)."""
    vocabulary = vocabulary or Vocabulary.default()
    segments = metadata_segments(problem, algorithm, options, objective, vocabulary)
    return "\n".join(vocabulary.decode(segment) for segment in segments)


def tokenize(segments: Sequence[Sequence[int]]) -> MetadataTokens:
    """Concatenates segments; the first is the header (segment 0), the k-th after it the clause of slot k - 1."""
    lengths = [len(segment) for segment in segments]
    return MetadataTokens(
        np.fromiter((token for segment in segments for token in segment), np.int32, sum(lengths)),
        np.repeat(np.arange(len(segments), dtype=np.int32), lengths),
        np.concatenate([np.arange(length, dtype=np.int32) for length in [0, *lengths]]),
    )


class _Segment:
    """Collects fields up to a limit; a field that does not fit is omitted completely."""

    def __init__(self, limit: int, vocabulary: Vocabulary):
        self.ids: list[int] = []
        self._limit = limit
        self._vocabulary = vocabulary

    def add(self, keyword: str, text: str = "", limit: int = 0, reserve: int = 0) -> bool:
        """Appends keyword and text (at most `limit` tokens of it) if at least `reserve` tokens are then left."""
        ids = [self._vocabulary.keyword(keyword), *_shortened(self._vocabulary.encode(text), limit)]
        if len(self.ids) + len(ids) + reserve > self._limit:
            return False
        self.ids += ids
        return True

    def add_list(self, keyword: str, values: Sequence[float | int | str], longest: int) -> None:
        """Appends values while they fit, then `<more>` if some are left out."""
        for index, value in enumerate(values):
            last = index == len(values) - 1
            if index == longest or not self.add(keyword, _value_text(value), _VALUE_TOKENS, reserve=0 if last else 1):
                self.add("more")
                return


def _header(
    schema: StudySchema, algorithm: str | None, options: MetadataOptions, objective: int, vocabulary: Vocabulary
) -> list[int]:
    metadata = schema.problem.metadata.ns(METADATA_NAMESPACE)
    metrics = (*schema.metrics, *schema.safety_metrics)
    metric = metrics[objective] if 0 <= objective < len(metrics) else None
    algorithm = algorithm or metadata.get("algorithm")
    header = _Segment(options.header_tokens, vocabulary)
    fields = (
        ("title", options.title, metadata.get("title"), _TITLE_TOKENS),
        ("description", options.description, metadata.get("description"), _DESCRIPTION_TOKENS),
        ("algorithm", options.algorithm, algorithm, _ALGORITHM_TOKENS),
        ("metric", options.metric, metric.name if metric else None, _METRIC_TOKENS),
    )
    for keyword, wanted, text, limit in fields:
        if wanted and text:
            header.add(keyword, " ".join(text.split()), limit, reserve=1)
    if metric and options.goal:
        header.add("minimize" if metric.goal.is_minimize else "maximize")
    if options.names:
        for fixed in schema.fixed:
            value = [
                vocabulary.keyword("value"),
                *_shortened(vocabulary.encode(_value_text(fixed.value)), _VALUE_TOKENS),
            ]
            if not header.add("fixed", fixed.name, _NAME_TOKENS, reserve=len(value) + 1 if options.ranges else 1):
                header.add("more")
                break
            if options.ranges:
                header.ids += value
    return header.ids


def _clause(slot: Slot, schema: StudySchema, options: MetadataOptions, vocabulary: Vocabulary) -> list[int]:
    clause = _Segment(options.clause_tokens, vocabulary)
    if options.names:
        clause.add("name", slot.name, _NAME_TOKENS)
    clause.add(_KIND_KEYWORDS[slot.kind])
    listed = slot.kind in (tokens.DISCRETE, tokens.CATEGORICAL)
    if slot.scale is not None and not listed:
        clause.add(_SCALE_KEYWORDS[slot.scale])
    if slot.kind != tokens.CONTINUOUS:
        clause.add("levels", str(slot.levels), _VALUE_TOKENS)
    if options.ranges and not listed:
        clause.add("min", _value_text(slot.values[0]), _VALUE_TOKENS)
        clause.add("max", _value_text(slot.values[-1]), _VALUE_TOKENS)
    if slot.parent >= 0:
        parent = schema.slots[slot.parent]
        clause.add("when", parent.name if options.names else "", _PARENT_TOKENS)
        if options.ranges:
            clause.add_list("is", [parent.values[level] for level in slot.parent_levels], _MAX_LISTED_CONDITIONS)
    if options.ranges and listed:
        clause.add_list("value", slot.values, MAX_LISTED_VALUES)
    return clause.ids


def _shortened(ids: list[int], limit: int) -> list[int]:
    """Keeps the beginning and the end: names and categories often differ in their last words or digits."""
    return ids if len(ids) <= limit else ids[: (limit + 1) // 2] + ids[len(ids) - limit // 2 :]


def _value_text(value: float | int | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
