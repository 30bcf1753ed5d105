"""What a source yields beside studies, and the names under which a study's facts are kept.

A study is a `vizier.pyvizier.ProblemAndTrials`; its name, title and so on are metadata of the problem in the
namespace `optformer`.  Nothing here imports Vizier, so that errors and formats can be named without loading it.
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


MALFORMED: Final = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What pyvizier and plain Python raise on a record whose fields are missing or of the wrong type."""


class SourceError(ValueError):
    """An input that cannot be read at all: the message names the file and says what to do."""


class UnusableError(ValueError):
    """Raised while a study or trial is mapped; carries what `Quarantined` needs."""

    def __init__(self, reason: str, parameter: str | None = None):
        super().__init__(reason)
        self.reason, self.parameter = reason, parameter


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """A record that cannot be used, and why.

    Attributes:
      source: the file it came from, as the caller named it.
      study: the study's name; for a line that is no study, "line 12".
      trial: the trial's number, or None where the whole study is meant.
      parameter: the parameter at fault, where there is one.
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
    """What a user adds to stores that do not record it; stores that do record it are read without.

    Attributes:
      mapping: JSON file that says what the columns of a table are; None: the file beside the table.
      metrics: names of the objectives; empty: those that the store records.
      goals: "MINIMIZE" or "MAXIMIZE" by objective; a single one is meant for all.
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
        """From what a user writes: several names separated by commas, goals as "min", "maximize" and so on.

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
        """Objective to goal: what the user said, else what the store records.

        Args:
          path: the store, for the message.
          metrics, goals: as recorded; goals as `SourceOptions.goals`.
          reported: names of all metrics in the store, for the message.

        Raises:
          SourceError: neither says which metric is the objective, or what its goal is.
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
                f"{path}: does not record whether {', '.join(map(repr, names))} is minimized or maximized; say it with "
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
    """A study that is refused whole, and after it its trials by number, so that counts add up."""
    yield Quarantined(source, study, None, parameter, reason)
    for trial in trials:
        yield Quarantined(source, study, trial, None, "of a quarantined study")


def usable_trials(
    source: str, study: str, trials: Iterable[tuple[int, Stored]], convert: Callable[[Stored], Converted]
) -> Generator[Quarantined, None, list[Converted]]:
    """Converts numbered trials one by one: yields those that cannot be used, and the study if none is left.

    Returns:
      The others, converted.
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
    """A `MALFORMED` error in one line."""
    text = " ".join(str(error).split())[:300]
    return f"no field {text}" if isinstance(error, KeyError) else text


def study_name(study: "vz.ProblemAndTrials | vz.ProblemStatement") -> str:
    """The study's identifier in the store it came from; empty where nobody gave one."""
    problem = getattr(study, "problem", study)
    return problem.metadata.ns(NAMESPACE).get("study_id", default="")
