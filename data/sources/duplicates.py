"""Finding studies that are in several stores, or in one store under several names.

Two studies are the same if their spaces, objectives and trials (values, measurements and statuses, in this order) are;
names, metadata, times and the numbers of trials do not matter.
"""

import hashlib
import json
from typing import Any

_OF_A_TRIAL = ("parameters", "infeasible", "requested", "stopping_reason")


def fingerprint(record: dict[str, Any]) -> bytes:
    """32 bytes that are equal for equal studies.

    Args:
      record: the study as `study_json.study_to_json` gives it.
    """
    problem = record["problem"]
    content = {
        "parameters": sorted(problem["parameters"], key=lambda parameter: str(parameter["name"])),
        "metrics": problem["metrics"],
        "trials": [_trial(trial) for trial in record["trials"]],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _trial(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: record[key] for key in _OF_A_TRIAL if key in record}
    if "final" in record:
        kept["final"] = record["final"]["metrics"]
    kept["measurements"] = [(entry.get("steps", 0), entry["metrics"]) for entry in record.get("measurements", ())]
    return kept


class Duplicates:
    """The studies seen so far, by fingerprint: 32 bytes and a name each."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}

    def seen_before(self, record: dict[str, Any], name: str, source: str) -> str | None:
        """Where an equal study was met first, as "'name' of source"; None for one that is new, which is now known."""
        key = fingerprint(record)
        first = self._seen.get(key)
        if first is None:
            self._seen[key] = f"{name!r} of {source}"
        return first
