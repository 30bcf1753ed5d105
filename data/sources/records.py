"""Records that sources yield besides studies, their errors and options, and the metadata keys of a study's facts.

A study is a `vizier.pyvizier.ProblemAndTrials`; its name, title and so on are metadata of the problem in the namespace
`optformer`.  This module does not import Vizier, so that errors and formats are available without loading it.
"""

import dataclasses
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from vizier import pyvizier as vz

Stored = TypeVar("Stored")
Converted = TypeVar("Converted")

NAMESPACE: Final = "optformer"
"""Metadata namespace of the problem: the keys "study_id", "title", "description", "algorithm", "source", "space",
"branches"."""


OF_A_QUARANTINED_STUDY: Final = "of a quarantined study"
"""Reason of the trials of a study that is refused."""

MALFORMED: Final = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""Exceptions of pyvizier and Python for a record whose fields are missing or of the wrong type."""


class SourceError(ValueError):
    """An input cannot be read at all; the message names the file and says what to do."""


class UnusableError(ValueError):
    """A study or trial cannot be converted; has the fields for a `Quarantined` record."""

    def __init__(self, reason: str, parameter: str | None = None):
        super().__init__(reason)
        self.reason, self.parameter = reason, parameter


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """A study or trial that cannot be used, and the reason.

    Attributes:
      source: the input, as the caller named it.
      study: the study's name; for a line that is not a study, "line 12".
      trial: the trial's number; None for a whole study.
      parameter: the invalid parameter, if any.
      reason: "category: details"; the category is a fixed phrase, so that reasons can be counted.
    """

    source: str
    study: str
    trial: int | None
    parameter: str | None
    reason: str

    @property
    def category(self) -> str:
        """The reason without its details."""
        return self.reason.split(":", 1)[0]


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Facts that the user adds for stores that do not record them.

    Attributes:
      mapping: JSON file with the roles of a table's columns; None: the file next to the table.
      metrics: names of the objectives; empty: those that the store records.
      goals: "MINIMIZE" or "MAXIMIZE" per objective; a single one applies to all.
    """

    mapping: str | os.PathLike[str] | None = None
    metrics: tuple[str, ...] = ()
    goals: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        mapping: str | os.PathLike[str] | None = None,
        metric: str | Sequence[str] | None = None,
        goal: str | Sequence[str] | None = None,
    ) -> "SourceOptions":
        """Parses the user's options: several names separated by commas; goals such as "min" and "maximize".

        Raises:
          SourceError: a goal is unknown, or there are more goals than metrics.
        """
        metrics, goals = _listed(metric), _listed(goal)
        unknown = [name for name in goals if name.lower() not in GOALS]
        if unknown:
            raise SourceError(f"unknown goal {unknown[0]!r}; known: minimize, maximize")
        if len(goals) > max(len(metrics), 1):
            raise SourceError(f"{len(goals)} goals for {len(metrics)} metrics; give one for each metric")
        if 1 < len(goals) < len(metrics):
            raise SourceError(f"{len(goals)} goals for {len(metrics)} metrics; give one, or one for each metric")
        return cls(mapping, metrics, tuple(GOALS[name.lower()] for name in goals))

    def objectives(
        self, path: object, metrics: Sequence[str] = (), goals: Sequence[str] = (), reported: Iterable[str] = ()
    ) -> dict[str, str]:
        """Objective -> goal: as given by the user, else as recorded by the store.

        Args:
          path: the store, for the message.
          metrics, goals: as recorded by the store; goals as in `SourceOptions.goals`.
          reported: names of all metrics in the store, for the message.

        Raises:
          SourceError: neither the user nor the store gives the objective or its goal.
        """
        names = self.metrics or tuple(metrics)
        if not names:
            known = ", ".join(sorted(set(reported))[:20])
            raise SourceError(
                f"{path}: does not record which metric is the objective; name it with --metric and --goal"
                + (f" (reported: {known})" if known else "")
            )
        chosen = self.goals or (tuple(goals) if not self.metrics or set(self.metrics) == set(metrics) else ())
        if len(chosen) == 1:
            chosen = chosen * len(names)
        if len(chosen) != len(names):
            raise SourceError(
                f"{path}: does not record whether {', '.join(map(repr, names))} is minimized or maximized; give "
                "--goal minimize or --goal maximize"
            )
        return dict(zip(names, chosen, strict=True))


GOALS: Final = {
    "min": "MINIMIZE",
    "minimize": "MINIMIZE",
    "minimise": "MINIMIZE",
    "max": "MAXIMIZE",
    "maximize": "MAXIMIZE",
    "maximise": "MAXIMIZE",
}


def _listed(text: str | Sequence[str] | None) -> tuple[str, ...]:
    parts = text.split(",") if isinstance(text, str) else (text or ())
    return tuple(part.strip() for part in parts if part.strip())


def quarantined_study(
    source: str, study: str, trials: Iterable[int], reason: str, parameter: str | None = None
) -> Iterator[Quarantined]:
    """Yields a record for a refused study, then one for each of its trials, so that counts add up."""
    yield Quarantined(source, study, None, parameter, reason)
    for trial in trials:
        yield Quarantined(source, study, trial, None, OF_A_QUARANTINED_STUDY)


def usable_trials(
    source: str, study: str, trials: Iterable[tuple[int, Stored]], convert: Callable[[Stored], Converted]
) -> Generator[Quarantined, None, list[Converted]]:
    """Converts numbered trials.  Yields a record for each unusable one, and one for the study if no trial is left.

    Returns:
      The converted trials.
    """
    converted: list[Converted] = []
    for number, stored in trials:
        try:
            converted.append(convert(stored))
        except UnusableError as error:
            yield Quarantined(source, study, number, error.parameter, error.reason)
        except MALFORMED as error:
            yield Quarantined(source, study, number, None, f"trial cannot be represented: {error_text(error)}")
    if not converted:
        yield Quarantined(source, study, None, None, "no usable trials")
    return converted


def error_text(error: Exception) -> str:
    """The message of a `MALFORMED` error in one line."""
    text = " ".join(str(error).split())[:300]
    return f"no field {text}" if isinstance(error, KeyError) else text


def study_name(study: "vz.ProblemAndTrials | vz.ProblemStatement") -> str:
    """The study's identifier in its store; empty if it has none."""
    problem = getattr(study, "problem", study)
    return problem.metadata.ns(NAMESPACE).get("study_id", default="")
