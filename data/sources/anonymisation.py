"""Anonymises studies: names, categories and texts become keyed hashes.

Ranges, scales, objective values and times are kept.  With the same key, the same text always gives the same hash, so
shared parameters of one team's studies can still be recognized.  Without the key, a guess cannot be tested.
"""

import hashlib
import hmac
import secrets
from typing import Any, Final

from optformer.data.sources.records import NAMESPACE, Quarantined

KEPT_FACTS: Final = ("algorithm", "space", "branches", "auto_log")
"""Keys of the namespace `optformer` that are kept, because they do not identify the owner."""
KEPT_REASONS: Final = ("pruned", "killed", "preempted", "preempting", "stopped", "failed")
DIGITS: Final = 12
"""Hexadecimal digits of a hash: among a million names, the probability of a collision is 0.2 %."""


class Anonymiser:
    """Replaces text with hashes under one key.

    Attributes:
      key: the given or a random key; it is needed to get the same hashes again, and to test guesses.
    """

    def __init__(self, key: str | None = None):
        self.key = key or secrets.token_hex(16)

    def hashed(self, kind: str, text: object) -> str:
        """A hash such as "parameter-0123456789ab"; equal for equal kind and text."""
        message = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
        digest = hmac.new(self.key.encode("utf-8", "surrogatepass"), message, hashlib.sha256)
        return f"{kind}-{digest.hexdigest()[:DIGITS]}"

    def study(self, record: dict[str, Any]) -> dict[str, Any]:
        """Replaces every name and text in a study in the format of `study_json.study_to_json`."""
        problem = record["problem"]
        parameters = [self._parameter(parameter) for parameter in problem["parameters"]]
        texts = _text_parameters(problem["parameters"])
        metrics = [metric | {"name": self.hashed("metric", metric["name"])} for metric in problem["metrics"]]
        changed = {"parameters": parameters, "metrics": metrics}
        if "metadata" in problem:
            changed["metadata"] = self._metadata(problem["metadata"])
        return record | {
            "problem": problem | changed,
            "trials": [self._trial(trial, texts) for trial in record["trials"]],
        }

    def quarantined(self, record: Quarantined) -> Quarantined:
        """The record with hashes; its reason is reduced to the category, since the details quote values."""
        return Quarantined(
            self.hashed("path", record.source),
            self.hashed("study_id", record.study),
            record.trial,
            None if record.parameter is None else self.hashed("parameter", record.parameter),
            record.category,
        )

    def _parameter(self, record: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {"name": self.hashed("parameter", record["name"])}
        hashes = _is_text(record)
        if hashes:
            changed["values"] = [self.hashed("category", value) for value in record["values"]]
            if "default" in record:
                changed["default"] = self.hashed("category", record["default"])
        if "children" in record:
            changed["children"] = [
                {
                    "when": [self.hashed("category", v) if hashes else v for v in child["when"]],
                    "parameters": [self._parameter(parameter) for parameter in child["parameters"]],
                }
                for child in record["children"]
            ]
        return record | changed

    def _trial(self, record: dict[str, Any], texts: set[str]) -> dict[str, Any]:
        changed: dict[str, Any] = {
            "parameters": {
                # Text in place of a number is also private.
                self.hashed("parameter", name): self.hashed("category", value)
                if isinstance(value, str) and (name in texts or value not in ("True", "False"))
                else value
                for name, value in record["parameters"].items()
            }
        }
        if "final" in record:
            changed["final"] = self._measurement(record["final"])
        if "measurements" in record:
            changed["measurements"] = [self._measurement(measurement) for measurement in record["measurements"]]
        for key in ("infeasible", "stopping_reason", "description", "worker"):
            if key in record and record[key] not in ("", *KEPT_REASONS):
                changed[key] = self.hashed(key, record[key])
        if "links" in record:
            changed["links"] = {self.hashed("link", k): self.hashed("link", v) for k, v in record["links"].items()}
        if "metadata" in record:
            changed["metadata"] = self._metadata(record["metadata"])
        return record | changed

    def _measurement(self, record: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {
            "metrics": {self.hashed("metric", name): value for name, value in record["metrics"].items()}
        }
        if "checkpoint_path" in record:
            changed["checkpoint_path"] = self.hashed("path", record["checkpoint_path"])
        return record | changed

    def _metadata(self, spaces: list[list[Any]]) -> list[list[Any]]:
        kept: list[list[Any]] = []
        for namespace, entries in spaces:
            own = namespace == [NAMESPACE]
            named = namespace if own else [self.hashed("namespace", part) for part in namespace]
            texts = {
                key if own else self.hashed("key", key): value
                if own and key in KEPT_FACTS
                else self.hashed(key if own else "text", value)
                for key, value in entries.items()
            }
            kept.append([named, texts])
        return kept


def _is_text(record: dict[str, Any]) -> bool:
    return record["type"] in ("CATEGORICAL", "CUSTOM") and "values" in record and record.get("external") != "BOOLEAN"


def _text_parameters(records: list[dict[str, Any]]) -> set[str]:
    """Names of the categorical parameters at all levels."""
    found = {record["name"] for record in records if _is_text(record)}
    for record in records:
        for child in record.get("children", ()):
            found |= _text_parameters(child["parameters"])
    return found
