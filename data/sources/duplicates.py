"""Finds studies that are in several stores, or in one store under several names.

Two studies are duplicates if their spaces, objectives and trials (values, measurements and statuses, in order) are
equal; names, metadata, times and the numbers of trials do not matter.
"""

import hashlib
import json
import marshal
from collections.abc import Iterable, Mapping
from typing import Any, Final

_MARSHAL_VERSION: Final = 2
"""Version of the marshal format.  Later ones write repeated objects as references, so equal contents may differ."""


def fingerprint(record: dict[str, Any]) -> bytes:
    """32 bytes that are equal for equal studies; only valid within one process.

    Args:
      record: the study in the format of `study_json.study_to_json`.
    """
    problem, trials = record["problem"], record["trials"]
    space = {
        "parameters": sorted(problem["parameters"], key=lambda parameter: str(parameter["name"])),
        "metrics": problem["metrics"],
    }
    parameters = [trial["parameters"] for trial in trials]
    # By columns, since sorting the names once is cheaper than sorting those of every trial.  No value is None.
    columns = [
        (name, [of_trial.get(name) for of_trial in parameters]) for name in sorted({n for of in parameters for n in of})
    ]
    outcomes = [
        (
            trial.get("infeasible"),
            trial.get("requested"),
            trial.get("stopping_reason"),
            sorted(trial["final"]["metrics"].items()) if "final" in trial else None,
            _reports(trial["measurements"]) if "measurements" in trial else None,
        )
        for trial in trials
    ]
    digest = hashlib.sha256(json.dumps(space, sort_keys=True, separators=(",", ":"), default=str).encode())
    # Writing numbers as JSON would take as long as writing the corpus.
    digest.update(marshal.dumps((columns, outcomes), _MARSHAL_VERSION))
    return digest.digest()


def _reports(measurements: Iterable[Mapping[str, Any]]) -> list[tuple[int, list[tuple[str, object]]]]:
    return [(entry.get("steps", 0), sorted(entry["metrics"].items())) for entry in measurements]


class Duplicates:
    """The studies seen so far, by fingerprint: 32 bytes and a name each."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}

    def seen_before(self, record: dict[str, Any], name: str, source: str) -> str | None:
        """The first equal study, as "'name' of source"; None if the study is new, which is then recorded."""
        key = fingerprint(record)
        first = self._seen.get(key)
        if first is None:
            self._seen[key] = f"{name!r} of {source}"
        return first
