"""Openings: the first trials of a generated study, which another teacher continues.

In a corpus of complete studies, the name of the optimizer always agrees with the trials, so a model can ignore the name
and continue the trials.  In studies with openings, only the name says which optimizer continues.  This follows Ross et
al. 2011, "A reduction of imitation learning and structured prediction to no-regret online learning", where the expert
also acts in states that it would not have reached itself.
"""

import dataclasses
import functools
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.data.sources.records import NAMESPACE
from optformer.data.sources.study_json import study_to_json, trial_from_json
from optformer.data.sources.study_lines import is_gzip

_NEEDED: Final = ("study_id", "source", "problem", "problem_seed", "algorithm")
_SETTINGS: Final = {"noise": "--noise-rate", "failures": "--infeasible-rate", "start": "--hpob-starts"}


@dataclasses.dataclass(frozen=True)
class Opening:
    """A study of a generated corpus, whose first trials another teacher may continue.

    Attributes:
      facts: metadata of its problem in the namespace `optformer`.
      length: number of its trials.
      line: the study as a line of JSON.
      file: the file that contains it.
    """

    facts: dict[str, str]
    length: int
    line: bytes
    file: str

    @property
    def seed(self) -> int:
        """Seed with which its problem was drawn."""
        return int(self.facts["problem_seed"])

    def __str__(self) -> str:
        return f"study {self.facts['study_id']} of {self.file}"

    def check(self, problem: vz.ProblemStatement, facts: dict[str, str]) -> None:
        """Checks that a problem drawn again is the one on which the study was made.

        Raises:
          ValueError: it is another problem, for example because rates or sizes differ from those of the study's corpus.
        """
        wrong = [name for name in _SETTINGS if self.facts.get(name) != facts.get(name)]
        if wrong:
            was, would_be = self.facts.get(wrong[0], "none"), facts.get(wrong[0], "none")
            raise ValueError(
                f"{self} was made with {wrong[0]} {was!r} and would continue with {would_be!r}: "
                f"give the same {_SETTINGS[wrong[0]]} as for its corpus"
            )
        theirs, ours = json.loads(self.line)["problem"], study_to_json(vz.ProblemAndTrials(problem, []))["problem"]
        if any(theirs[part] != ours[part] for part in ("parameters", "metrics")):
            raise ValueError(
                f"{self} has another search space than its problem {self.facts['problem']} with these options: "
                "give the same --largest-dimension as for its corpus"
            )

    def trials(self, count: int) -> list[vz.Trial]:
        """The first `count` trials, marked as requested, since the continuing teacher did not suggest them."""
        found = [trial_from_json(trial) for trial in json.loads(self.line)["trials"][:count]]
        for number, trial in enumerate(found, 1):
            trial.id = number
            trial.is_requested = True
        return found


def read_openings(path: str | Path) -> tuple[Opening, ...]:
    """All studies of a generated corpus, in their order.

    Raises:
      ValueError: the file has no study, or a line is not a study that records its problem, its seed and its teacher.
      OSError: the file cannot be read.
    """
    path = Path(path).resolve()
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> tuple[Opening, ...]:
    found = []
    with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                found.append(_opening(line, path.name, number))
    if not found:
        raise ValueError(f"{path} holds no study to continue")
    return tuple(found)


def _opening(line: bytes, file: str, number: int) -> Opening:
    try:
        record = json.loads(line)
        spaces: Sequence[Any] = record["problem"].get("metadata", [])
        facts: dict[str, str] = next((entries for namespace, entries in spaces if namespace == [NAMESPACE]), {})
        length = len(record["trials"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"line {number} of {file} is not a study") from None
    missing = [name for name in _NEEDED if name not in facts]
    if missing:
        name = facts.get("study_id", f"in line {number}")
        raise ValueError(
            f"study {name} of {file} lacks its {missing[0]}: only studies that `optformer corpus generate` made can be "
            "continued"
        )
    return Opening(facts, length, line, file)


def digest(path: str | Path) -> str:
    """A digest of the studies' content."""
    state = hashlib.sha256()
    for opening in read_openings(path):
        state.update(opening.line)
    return state.hexdigest()[:16]
