"""What a source yields beside studies, and the names under which a study's facts are kept.

A study is a `vizier.pyvizier.ProblemAndTrials`; its name, title and so on are metadata of the problem in the
namespace `optformer`.  Nothing here imports Vizier, so that errors and formats can be named without loading it.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vizier import pyvizier as vz

NAMESPACE: Final = "optformer"
"""Metadata namespace of the problem: the keys "study_id", "title", "description", "algorithm", "source"."""


MALFORMED: Final = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What pyvizier and plain Python raise on a record whose fields are missing or of the wrong type."""


class SourceError(ValueError):
    """An input that cannot be read at all: the message names the file and says what to do."""


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


def quarantined_study(
    source: str, study: str, trials: Iterable[int], reason: str, parameter: str | None = None
) -> Iterator[Quarantined]:
    """A study that is refused whole, and after it its trials by number, so that counts add up."""
    yield Quarantined(source, study, None, parameter, reason)
    for trial in trials:
        yield Quarantined(source, study, trial, None, "of a quarantined study")


def told(error: Exception) -> str:
    """A `MALFORMED` error in one line."""
    text = " ".join(str(error).split())[:300]
    return f"no field {text}" if isinstance(error, KeyError) else text


def study_name(study: "vz.ProblemAndTrials | vz.ProblemStatement") -> str:
    """The study's identifier in the store it came from; empty where nobody gave one."""
    problem = getattr(study, "problem", study)
    return problem.metadata.ns(NAMESPACE).get("study_id", default="")
