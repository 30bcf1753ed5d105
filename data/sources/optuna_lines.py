"""Optuna studies exported as JSON lines: one study per line, with distributions by name and trials by number.

A study has "study_name" (and "study_id", preferred as its identifier), "directions", "params" (name to distribution),
and "trials" with "number", "state", "params" (external values), "values", "start", "complete", "intermediate",
"constraints" (the values of `constraints_func` as a list, or all values by name).  Where a distribution changed during
the study, "param_variants" lists its variants by name, and a trial's "dist_variant" says which one it used.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vizier import pyvizier as vz

from optformer.data.sources.optuna_mapping import OptunaStudy, OptunaTrial, to_records
from optformer.data.sources.optuna_space import Distribution, checked
from optformer.data.sources.records import MALFORMED, Quarantined, UnusableError, error_text, quarantined_study
from optformer.data.sources.study_json import StudyRecord, to_studies
from optformer.data.sources.study_lines import json_lines, trial_number, trial_numbers
from optformer.serialization.optuna_constraints import CONSTRAINTS

ALGORITHMS = {"NSGAII": "nsga2", "NSGAIII": "nsga3", "CmaEs": "cma_es", "Grid": "grid_search", "TPE": "tpe", "GP": "gp"}


def recognizes(record: dict[str, Any]) -> bool:
    """Whether a line of a JSON-lines file is a study of this format."""
    return {"directions", "params", "trials"} <= set(record) and "format" not in record


def read(path: Path, source: str, study: str | None = None) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Every study of the file, or the one with that name.

    Raises:
      SourceError: not one line could be read.
    """
    return to_studies(read_records(path, source, study))


def read_records(path: Path, source: str, study: str | None = None) -> Iterator[StudyRecord | Quarantined]:
    """As `read`, with the trials as the study format has them.

    Raises:
      SourceError: not one line could be read.
    """
    for line in json_lines(path, source):
        if isinstance(line, Quarantined):
            yield line
            continue
        number, record = line
        name = str(record.get("study_id") or record.get("study_name") or f"line {number}")
        if study is not None and study not in (name, record.get("study_name")):
            continue
        try:
            stored = _study(record, source, path.name, name)
        except MALFORMED as error:
            reason = f"study cannot be represented: {error_text(error)}"
            yield from quarantined_study(source, name, trial_numbers(record, "number"), reason)
            continue
        for item in to_records(stored):
            if isinstance(item, StudyRecord):
                _describe(item.problem, record)
            yield item


def _study(record: dict[str, Any], source: str, file_name: str, name: str) -> OptunaStudy:
    variants: dict[str, list[Distribution | UnusableError]] = {
        parameter: [_distribution(d) for d in record.get("param_variants", {}).get(parameter, [first])]
        for parameter, first in record["params"].items()
    }
    return OptunaStudy(
        source=source,
        file_name=file_name,
        name=name,
        directions=[str(direction).upper() for direction in record["directions"]],
        trials=[_trial_or_fault(trial, position, variants) for position, trial in enumerate(record["trials"])],
        metric_names=names if isinstance(names := record.get("metric_names"), list) else None,
        algorithm=ALGORITHMS.get(str(record.get("sampler")), ""),
    )


def _describe(problem: vz.ProblemStatement, record: dict[str, Any]) -> None:
    title = str(record.get("study_name") or "")
    facts = problem.metadata.ns("optformer")
    facts.pop("title", None)
    if title and not title.startswith("no-name-"):
        facts["title"] = title
    for key in ("repo", "licence"):
        if record.get(key):
            facts[key] = str(record[key])


def _distribution(record: dict[str, Any]) -> Distribution | UnusableError:
    try:
        if record["type"] == "categorical":
            return checked(Distribution("categorical", choices=tuple(record["choices"])))
        if record["type"] not in ("float", "int"):
            raise UnusableError(f"unknown distribution: {record['type']!r}")
        low, high = record["low"], record["high"]
        return checked(Distribution(record["type"], low, high, bool(record.get("log")), record.get("step")))
    except UnusableError as error:
        return error
    except MALFORMED as error:
        return UnusableError(f"unknown distribution: {record!r} ({error})")


def _trial_or_fault(
    record: dict[str, Any], position: int, variants: dict[str, list[Distribution | UnusableError]]
) -> OptunaTrial:
    number = trial_number(record, position, "number")
    try:
        return _trial(record, number, variants)
    except MALFORMED as error:
        fault = UnusableError(f"trial cannot be represented: {error_text(error)}")
        return OptunaTrial(number, "", (), (), fault=fault)


def _trial(record: dict[str, Any], number: int, variants: dict[str, list[Distribution | UnusableError]]) -> OptunaTrial:
    suggested: list[tuple[str, float | None, Distribution]] = []
    fault = None
    for name, external in record["params"].items():
        chosen = record.get("dist_variant", {}).get(name, 0)
        known = variants.get(name, ())
        distribution = known[chosen] if chosen < len(known) else UnusableError("no distribution recorded")
        if isinstance(distribution, UnusableError):
            fault = UnusableError(distribution.reason, name)
            break
        try:
            categorical = distribution.kind == "categorical"
            suggested.append((name, distribution.index(external) if categorical else float(external), distribution))
        except MALFORMED as error:
            reason = error.reason if isinstance(error, UnusableError) else f"value is not a number: {external!r}"
            fault = UnusableError(reason, name)
            break
    return OptunaTrial(
        number=number,
        state=record["state"],
        params=suggested,
        values=[_number(value) for value in record.get("values") or ()],
        intermediate=sorted(
            (int(step), [_number(value)]) for step, value in (record.get("intermediate") or {}).items()
        ),
        start=record.get("start"),
        complete=record.get("complete"),
        constraints=_constraints(record.get("constraints")),
        fault=fault,
    )


def _constraints(values: Any) -> dict[str, Any]:
    """Converts constraints to the form of a trial's system attributes."""
    if isinstance(values, dict):
        return {f"{CONSTRAINTS}:{name}": value for name, value in values.items()}
    return {CONSTRAINTS: values}


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return None if math.isnan(number) else number
