"""Trials of earlier studies as context of the current study: extra slots say which study a trial belongs to.

Notation: T trials and D slots of the current study, K earlier studies, E trials of an earlier study.

Each earlier study adds a slot with two levels after the slots of the search space.  Its level is 1 in the trials of
that study and 0 in all others, so trials of the current study, and candidates, have level 0 in all of these slots.  The
more similar an earlier study is, the less its slot matters.

The trials of earlier studies come first, study by study, and are known.  The objectives of each study have their own
scale.  Parameters are matched by name: those that the current search space lacks are dropped, and values that are
unknown or not feasible in it are MISSING.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float, Int, Int32

from optformer.serialization import tokens
from optformer.serialization.batch import StudyRow
from optformer.serialization.further_slots import behind, with_slots
from optformer.serialization.objective import objective_tokens
from optformer.serialization.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vizier import pyvizier as vz

    from optformer.serialization.space import StudySchema

MOST_STUDIES: Final = 4
"""Largest number of earlier studies that the model reads."""

KIND: Final = tokens.CATEGORICAL
LEVELS: Final = 2
"""Levels of the slot of an earlier study."""

BEST_SHARE: Final = 1 / 3
"""Share of its best trials among those that are used of an earlier study; the others cover its search space."""

FEWEST_COMPARED: Final = 5
"""Earlier studies are ranked by `agreement` only if the current study has at least this many values."""
HALF_TRUSTED: Final = 10
"""Number of values at which `agreement` has half the weight of a complete match of the search space."""

_DIFFERENT_LINES: Final = 1000
"""Number of log messages that are remembered, so that they are not repeated for every suggestion."""

_LOG = logging.getLogger(__name__)


def checked_studies(studies: object, kinds: tuple[type, ...], wanted: str) -> tuple[Any, ...]:
    """Checks the argument `prior_studies` and returns it as a tuple.

    Args:
      studies: the argument.
      kinds: allowed types of a study.
      wanted: the allowed types in words, for the message.

    Raises:
      TypeError: `studies` is not a list of these types.
    """
    if not isinstance(studies, Iterable) or isinstance(studies, (str, bytes, *kinds)):
        raise TypeError(f"prior_studies takes a list of {wanted}, not {type(studies).__name__}")
    found = tuple(studies)
    for number, each in enumerate(found):
        if not isinstance(each, kinds):
            raise TypeError(f"prior_studies[{number}] is of type {type(each).__name__}; wanted: {wanted}")
    return found


def clause() -> list[int]:
    """Metadata of the slot of an earlier study: `<reserved_0> <categorical>`, ids that user text cannot produce."""
    vocabulary = Vocabulary.default()
    return [vocabulary.keyword("reserved_0"), vocabulary.keyword("categorical")]


@dataclasses.dataclass(frozen=True)
class PriorTrials:
    """Trials of one earlier study, as tokens of the current search space.

    Attributes:
      x_tokens: int32 [E, D], levels, INACTIVE or MISSING.
      y_tokens: int32 [E], bins on the study's own scale, or INFEASIBLE.
    """

    x_tokens: Int32[np.ndarray, "trial slot"]
    y_tokens: Int32[np.ndarray, " trial"]

    def __len__(self) -> int:
        return len(self.y_tokens)

    def best(self, count: int) -> Int32[np.ndarray, "best slot"]:
        """Parameter tokens of its `count` best trials, the best first."""
        return self.x_tokens[self._ranked()[:count]]

    def _ranked(self) -> Int[np.ndarray, " trial"]:
        return np.argsort(-np.where(self.y_tokens < tokens.NUM_LEVELS, self.y_tokens, -1), kind="stable")

    def some(self, count: int, levels: Int32[np.ndarray, " slot"]) -> "PriorTrials":
        """At most `count` of the trials, in order: the best ones, and others that are far apart.

        Args:
          count: largest number of trials.
          levels: int32 [D], value tokens of each slot.
        """
        if len(self) <= count:
            return self
        chosen = self._ranked()[: math.ceil(BEST_SHARE * count)].tolist()
        # Statuses are larger than all levels: clipped to a distance of one range.
        places = self.x_tokens / np.maximum(levels - 1, 1)

        def distances(index: int) -> Float[np.ndarray, " trial"]:
            gaps: np.ndarray = np.minimum(np.abs(places - places[index]), 1.0).sum(axis=1)
            return gaps

        away = np.min([distances(index) for index in chosen], axis=0)
        while len(chosen) < count:
            away[chosen] = -1.0
            chosen.append(int(away.argmax()))
            away = np.minimum(away, distances(chosen[-1]))
        kept = np.sort(chosen)
        return PriorTrials(self.x_tokens[kept], self.y_tokens[kept])


def agreement(
    earlier: PriorTrials,
    x_tokens: Int32[np.ndarray, "trial slot"],
    values: Float[np.ndarray, " trial"],
    levels: Int32[np.ndarray, " slot"],
) -> float:
    """Spearman's rank correlation, in [-1, 1], of the values of trials and their predictions from an earlier study.

    The prediction for a trial is the mean of its three nearest trials in the earlier study.

    Args:
      earlier: the earlier study.
      x_tokens: int32 [T, D], parameter tokens of the trials.
      values: float64 [T], larger is better, NaN where there is none.
      levels: int32 [D], value tokens of each slot.

    Returns:
      The correlation; 0 if fewer than `FEWEST_COMPARED` trials have a value, or if values or predictions are constant.
    """
    known, with_value = np.isfinite(values), earlier.y_tokens < tokens.NUM_LEVELS
    if known.sum() < FEWEST_COMPARED or not with_value.any():
        return 0.0
    span = np.maximum(levels - 1, 1)
    own, theirs = x_tokens[known] / span, earlier.x_tokens[with_value] / span
    # Statuses are larger than all levels: clipped to a distance of one range.
    distances = np.minimum(np.abs(own[:, None] - theirs[None]), 1.0).sum(axis=2)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :3]
    predicted = _ranks(earlier.y_tokens[with_value][nearest].mean(axis=1))
    found = _ranks(values[known])
    if not predicted.std() or not found.std():
        return 0.0
    return float(np.corrcoef(predicted, found)[0, 1])


def _ranks(values: Float[np.ndarray, " trial"]) -> Float[np.ndarray, " trial"]:
    """Ranks of values; ties get their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def matched(
    schema: "StudySchema",
    studies: "Sequence[vz.ProblemAndTrials]",
    metric: "vz.MetricInformation",
    x_tokens: Int32[np.ndarray, "trial slot"],
    values: Float[np.ndarray, " trial"],
) -> list[PriorTrials]:
    """The trials of at most `MOST_STUDIES` earlier studies that are informative about one metric.

    A study is used if it has a metric of the same name, or if both studies have a single objective; the goals may
    differ.  A trial is used if it has finished or failed, and has values for at least a third of the parameters that it
    may have in the current space.  Of more studies, those are preferred that cover most of the search space and order
    the trials of the current study best (`agreement`), then those with more known values.

    Args:
      schema: schema of the current study.
      studies: earlier studies, of the same or an overlapping search space.  The log says why one is left out.
      metric: metric of the current study.
      x_tokens: int32 [T, D], trials of the current study.
      values: float64 [T], their values of the metric, larger is better, NaN where there is none.
    """
    found = []
    for number, study in enumerate(studies, 1):
        matching = _matched(schema, study, metric)
        if isinstance(matching, PriorTrials):
            found.append(matching)
        else:
            which = f"study {schema.study!r}: earlier study {number} ({_name(study)!r})"
            _log_once(f"{which} is left out: {matching}")
    if len(found) <= MOST_STUDIES:
        return found
    compared = int(np.isfinite(values).sum())
    weight = compared / (compared + HALF_TRUSTED)

    def worth(each: PriorTrials) -> tuple[float, int]:
        known = each.x_tokens < tokens.NUM_LEVELS
        covered = float((each.x_tokens != tokens.MISSING).mean())
        return covered + weight * agreement(each, x_tokens, values, schema.slot_levels), int(known.sum())

    order = sorted(range(len(found)), key=lambda index: worth(found[index]), reverse=True)
    return [found[index] for index in sorted(order[:MOST_STUDIES])]


def _matched(schema: "StudySchema", study: "vz.ProblemAndTrials", metric: "vz.MetricInformation") -> PriorTrials | str:
    """The usable trials of an earlier study for the metric, or the reason why there are none."""
    from vizier import pyvizier as vz

    from optformer.serialization.space import StudySchema

    # Uses only its trials, not its search space.
    theirs = StudySchema(vz.ProblemStatement(metric_information=study.problem.metric_information), study=_name(study))
    metrics = (*theirs.metrics, *theirs.safety_metrics)
    same = [each for each in metrics if each.name == metric.name]
    if not same and len(schema.metrics) == len(theirs.metrics) == 1 and metric in schema.metrics:
        same = list(theirs.metrics)
    if not same:
        return f"it has no metric {metric.name!r}"
    if not study.trials:
        return "it has no trial"
    values, statuses = theirs.values_of(same[0], study.trials)
    if not np.isfinite(values).any():
        return f"none of its trials has a finite value of {same[0].name!r}"
    names = {slot.name for slot in schema.slots}
    if all(names.isdisjoint(trial.parameters) for trial in study.trials):
        return "it shares no parameter"
    x_tokens = schema.encode_others(study.trials)
    known, missing = (x_tokens < tokens.NUM_LEVELS).sum(axis=1), (x_tokens == tokens.MISSING).sum(axis=1)
    usable = (np.isfinite(values) | (statuses == tokens.INFEASIBLE)) & (2 * known >= missing) & (known > 0)
    if not (usable & np.isfinite(values)).any():
        return "its finished trials have too few values that are feasible in the current search space"
    y_tokens = objective_tokens(values[usable], statuses[usable], np.ones(int(usable.sum()), bool)).tokens
    return PriorTrials(x_tokens[usable], y_tokens)


def _name(study: "vz.ProblemAndTrials") -> str:
    metadata = study.problem.metadata.ns("optformer")
    return str(metadata.get("study_id") or metadata.get("title") or "unnamed")


@functools.lru_cache(_DIFFERENT_LINES)
def _log_once(line: str) -> None:
    _LOG.warning("%s", line)


def joined(row: StudyRow, earlier: Sequence[PriorTrials]) -> StudyRow:
    """Puts trials of earlier studies before those of the current one; they are known and have no loss.

    Args:
      row: the current study.
      earlier: per earlier study, some of its trials in the slots of the current one.
    """
    if not earlier:
        return row
    slots, before = row.x_tokens.shape[1], sum(map(len, earlier))
    # In extra slots after those of the search space, they have level 0.
    x_tokens = np.concatenate(
        [np.pad(each.x_tokens, ((0, 0), (0, slots - each.x_tokens.shape[1]))) for each in earlier]
    )
    y_tokens = np.concatenate([each.y_tokens for each in earlier])
    belongs = np.zeros((before + len(row.x_tokens), len(earlier)), np.int32)
    belongs[np.arange(before), np.repeat(np.arange(len(earlier)), list(map(len, earlier)))] = 1
    return with_slots(behind(row, x_tokens, y_tokens), belongs, KIND, LEVELS, clause())


def shares(limit: int, trials: int) -> tuple[int, int]:
    """Splits `limit` trials between earlier studies (first) and the current study with `trials` trials.

    Earlier studies get between three quarters and a quarter, less as the current study grows.
    """
    earlier = max(limit // 4, min(3 * limit // 4, limit - trials - limit // 8))
    return earlier, limit - earlier
