"""Optuna's relational storage in an SQLite file, read directly.

Optuna's own API takes about 100 times as long and accepts only the schema of the installed version.  `version_info` is
12 for every schema since 0.9, so the version is recognized by the columns:

- the objective in `trials.value` and `studies.direction` (up to 2.3; `trial_values` then holds the intermediate
  values), or in `trial_values` and `study_directions` by objective (since 2.4);
- the trial's number in a system attribute `_number` (up to 1.2) or in `trials.number`;
- infinities as such, or marked in a column `value_type` / `intermediate_value_type` (since 3.0).
"""

import contextlib
import json
import math
import operator
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.data.sources import sqlite
from optformer.data.sources.optuna_mapping import (
    OLD_CONSTRAINTS,
    OptunaStudy,
    OptunaTrial,
    constraint_attributes,
    to_records,
)
from optformer.data.sources.optuna_space import Distribution, parse_distribution
from optformer.data.sources.records import MALFORMED, Quarantined, SourceError, UnusableError, error_text
from optformer.data.sources.study_json import StudyRecord, to_studies
from optformer.serialization.optuna_constraints import CONSTRAINTS

# System attributes that samplers write to their trials; Optuna does not store the sampler itself.
ALGORITHMS = {
    "tpe:": "tpe",
    "gp:": "gp",
    "cma:": "cma_es",
    "sepcma:": "cma_es",
    "cmawm:": "cma_es",
    "grid_id": "grid_search",
    "nsga2:": "nsga2",
    "NSGAIISampler:": "nsga2",
    "nsga3:": "nsga3",
    "NSGAIIISampler:": "nsga3",
    "NSGAIIIPopulationCache": "nsga3",
}
OLD_DIRECTIONS = "multi_objective:study:directions"
_NOTHING: Final[dict[str, Any]] = {}
_trial_number = operator.attrgetter("number")


def recognizes(tables: dict[str, set[str]]) -> bool:
    """Whether an SQLite file with these tables is Optuna's."""
    return {"studies", "trials", "trial_params"} <= set(tables) and "study_name" in tables["studies"]


def read(path: Path, source: str, study: str | None = None) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Every study of the file, or the one named, with one study in memory at a time.

    Raises:
      SourceError: the file is no Optuna storage, or is truncated or corrupt.
    """
    return to_studies(read_records(path, source, study))


def read_records(path: Path, source: str, study: str | None = None) -> Iterator[StudyRecord | Quarantined]:
    """As `read`, with the trials as the study format has them.

    Raises:
      SourceError: the file is no Optuna storage, or is truncated or corrupt.
    """
    with sqlite.opened(path) as connection:
        tables = sqlite.columns(connection)
        if not recognizes(tables):
            raise SourceError(f"{path}: an SQLite file, but no Optuna storage; its tables are {sorted(tables)}")
        names = list(connection.execute("SELECT study_id, study_name FROM studies ORDER BY study_id"))
        for study_id, name in names:
            if study is None or name == study:
                name = name if isinstance(name, str) else repr(name)
                try:
                    with sqlite.snapshot(connection):
                        stored = _StudyReader(connection, tables, study_id).study(source, path.name, name)
                except MALFORMED as error:
                    yield Quarantined(source, name, None, None, f"damaged record: {error_text(error)}")
                    continue
                yield from to_records(stored)


class _StudyReader:
    """The rows of one study, by table."""

    def __init__(self, connection: sqlite3.Connection, tables: dict[str, set[str]], study_id: int):
        self.connection, self.tables, self.study_id = connection, tables, study_id

    def study(self, source: str, file_name: str, name: str) -> OptunaStudy:
        lenient = self.connection.text_factory
        try:
            # Decoding in C saves a tenth of the time, but fails on invalid UTF-8, which is rare.
            self.connection.text_factory = str
            return self._study(source, file_name, name)
        except (sqlite3.OperationalError, UnicodeDecodeError):
            self.connection.text_factory = lenient
            return self._study(source, file_name, name)
        finally:
            self.connection.text_factory = lenient

    def _study(self, source: str, file_name: str, name: str) -> OptunaStudy:
        attributes = dict(self._study_rows("study_system_attributes", "key, value_json"))
        old_directions = _json(attributes.get(OLD_DIRECTIONS))
        if not isinstance(old_directions, list):
            old_directions = []
        system_keys, system = self._trial_system_attributes()
        trials = self._trials(system)
        if old_directions:
            trials = [_several_objectives(trial, len(old_directions)) for trial in trials]
            directions = [str(direction).upper() for direction in old_directions]
        elif "study_directions" in self.tables:
            directions = [d for (d,) in self._study_rows("study_directions", "direction", "objective")]
        else:
            directions = [d for (d,) in self._study_rows("studies", "direction")]
        names = _json(attributes.get("study:metric_names"))
        return OptunaStudy(
            source=source,
            file_name=file_name,
            name=name,
            directions=directions,
            trials=trials,
            metric_names=names if isinstance(names, list) else None,
            algorithm=algorithm_of(system_keys),
            user_attributes=_texts(self._study_rows("study_user_attributes", "key, value_json")),
        )

    def _study_rows(self, table: str, selected: str, order: str = "rowid") -> Iterator[Any]:
        if table not in self.tables:
            return iter(())
        query = f"SELECT {selected} FROM {table} WHERE study_id = ? ORDER BY {order}"
        return iter(self.connection.execute(query, (self.study_id,)).fetchall())

    def _trial_rows(self, table: str, selected: str, where: str = "1") -> Iterator[Any]:
        """Rows of a table that belongs to trials, trial by trial, in the order they were written; first its trial_id.

        They are streamed, not collected: in a large study, this table may be most of the data.
        """
        if table not in self.tables:
            return iter(())
        # CROSS JOIN fixes the order of the loops: the trials of the study first, then their rows by index, so that
        # there is nothing to sort but the few rows of a trial.
        query = (
            f"SELECT r.trial_id, {selected} FROM trials t CROSS JOIN {table} r ON r.trial_id = t.trial_id "
            f"WHERE t.study_id = ? AND {where} ORDER BY t.trial_id, r.rowid"
        )
        return self.connection.execute(query, (self.study_id,))

    def _trials(self, system: dict[int, dict[str, Any]]) -> list[OptunaTrial]:
        has = self.tables["trials"]
        value = "value" if "value" in has else "NULL"
        number = "number" if "number" in has else "NULL"
        query = (
            f"SELECT trial_id, {number}, state, {value}, datetime_start, datetime_complete "
            "FROM trials WHERE study_id = ? ORDER BY trial_id"
        )
        rows = self.connection.execute(query, (self.study_id,)).fetchall()
        params, faults = self._suggested()
        attributes: dict[int, list[tuple[str, str]]] = {}
        for trial_id, key, text in self._trial_rows("trial_user_attributes", "r.key, r.value_json"):
            attributes.setdefault(trial_id, []).append((key, text))
        values, intermediate = self._values()

        stored = [system.get(row[0], {}).get("_number") if row[1] is None else row[1] for row in rows]
        numbers = [number for number in stored if isinstance(number, int)]
        if len(set(numbers)) < len(rows):
            # Missing, or used twice by concurrent workers: fall back to the order of creation.
            numbers = list(range(len(rows)))
        trials = []
        for trial_number, (trial_id, _, state, old_value, start, complete) in zip(numbers, rows, strict=True):
            system_attributes = system.get(trial_id, _NOTHING)
            fixed, fail_reason = system_attributes.get("fixed_params"), system_attributes.get("fail_reason")
            reports = intermediate.get(trial_id)
            fault = faults.get(trial_id)
            trials.append(
                OptunaTrial(
                    number=trial_number,
                    state=state,
                    params=() if fault else params.get(trial_id, ()),
                    values=[_number(old_value, None)] if value == "value" else values.get(trial_id, ()),
                    intermediate=sorted(reports, key=_step) if reports else (),
                    start=start,
                    complete=complete,
                    user_attributes=_texts(attributes[trial_id]) if trial_id in attributes else (),
                    fixed=fixed if isinstance(fixed, dict) else None,
                    fail_reason=fail_reason if isinstance(fail_reason, str) else None,
                    constraints=constraint_attributes(system_attributes) if system_attributes else _NOTHING,
                    fault=fault,
                )
            )
        return sorted(trials, key=_trial_number)

    def _suggested(self) -> tuple[dict[int, list[tuple[str, float | None, Distribution]]], dict[int, UnusableError]]:
        """The suggestions of each trial, and the first error of each trial that has one."""
        suggested: dict[int, list[tuple[str, float | None, Distribution]]] = {}
        faults: dict[int, UnusableError] = {}
        parsed: dict[Any, Distribution | UnusableError] = {}
        trial: int | None = None
        of_trial: list[tuple[str, float | None, Distribution]] = []
        for trial_id, name, internal, text in self._trial_rows(
            "trial_params", "r.param_name, r.param_value, r.distribution_json"
        ):
            if trial_id != trial:
                trial, of_trial = trial_id, []
                suggested[trial_id] = of_trial
            distribution = parsed.get(text)
            if distribution is None:
                try:
                    distribution = parse_distribution(text)
                except UnusableError as error:
                    distribution = error
                parsed[text] = distribution
            if not isinstance(name, str) or not name:
                faults.setdefault(trial_id, UnusableError(f"parameter without a name: {name!r}"))
            elif isinstance(distribution, UnusableError):
                faults.setdefault(trial_id, UnusableError(distribution.reason, name))
            else:
                of_trial.append((name, internal, distribution))
        return suggested, faults

    def _values(self) -> tuple[dict[int, list[float | None]], dict[int, list[tuple[int, list[float | None]]]]]:
        """Final values by trial and objective, and intermediate (step, [value]) by trial."""
        by_objective: dict[int, dict[int, float | None]] = {}
        table, step, value, kind = "trial_values", "step", "value", "NULL"
        if "objective" in self.tables.get("trial_values", ()):
            value_type = "r.value_type" if "value_type" in self.tables["trial_values"] else "NULL"
            for trial_id, objective, stored, stored_kind in self._trial_rows(
                "trial_values", f"r.objective, r.value, {value_type}"
            ):
                by_objective.setdefault(trial_id, {})[objective] = _number(stored, stored_kind)
            table, value = "trial_intermediate_values", "intermediate_value"
            if "intermediate_value_type" in self.tables.get(table, ()):
                kind = "r.intermediate_value_type"
        final = {trial_id: [of.get(index) for index in range(len(of))] for trial_id, of in by_objective.items()}
        reported: dict[int, list[tuple[int, list[float | None]]]] = {}
        for trial_id, step_number, stored, stored_kind in self._trial_rows(
            table, f"r.{step}, r.{value}, {kind}", where="r.step IS NOT NULL"
        ):
            reported.setdefault(trial_id, []).append((step_number, [_number(stored, stored_kind)]))
        return final, reported

    def _trial_system_attributes(self) -> tuple[set[str], dict[int, dict[str, Any]]]:
        """All keys of the study, and by trial the few attributes whose values matter."""
        if "trial_system_attributes" not in self.tables:
            return set(), {}
        keys = {
            key
            for (key,) in self.connection.execute(
                "SELECT DISTINCT r.key FROM trials t CROSS JOIN trial_system_attributes r ON r.trial_id = t.trial_id "
                "WHERE t.study_id = ?",
                (self.study_id,),
            )
        }
        exact = ", ".join(f"'{key}'" for key in ("_number", "fixed_params", "fail_reason", *OLD_CONSTRAINTS))
        wanted = f"(r.key IN ({exact}) OR r.key GLOB '{CONSTRAINTS}*')"
        attributes: dict[int, dict[str, Any]] = {}
        for trial_id, key, text in self._trial_rows("trial_system_attributes", "r.key, r.value_json", where=wanted):
            value = _json(text)
            # Damaged constraints make their trial unusable; other attributes must be text.
            damaged = value is None and text != "null" and key.startswith(CONSTRAINTS)
            attributes.setdefault(trial_id, {})[key] = text if damaged else value
        return keys, attributes


def _several_objectives(trial: OptunaTrial, count: int) -> OptunaTrial:
    """A trial of `optuna.multi_objective` (1.4 to 2.x), which kept n objectives among the intermediate values.

    Step i < n is final objective i; step n (s + 1) + i is objective i at the user's step s.
    """
    by_step: dict[int, list[float | None]] = {}
    for step, (value, *_) in trial.intermediate:
        if not isinstance(step, int):
            return trial._replace(fault=UnusableError(f"damaged record: step {step!r}"))
        by_step.setdefault(step // count - 1, [None] * count)[step % count] = value
    final = by_step.pop(-1, [])
    return trial._replace(values=final, intermediate=sorted(by_step.items()))


def _number(stored: object, kind: str | None) -> float | None:
    if kind in ("INF_POS", "INF_NEG"):
        return math.inf if kind == "INF_POS" else -math.inf
    # SQLite has no NaN: it stores NULL.
    return float(stored) if isinstance(stored, (int, float)) and kind != "NAN" else None


def _texts(rows: Iterable[tuple[object, object]]) -> list[tuple[str, str]]:
    """Attributes whose name and JSON are text, as Optuna writes them."""
    return [(key, text) for key, text in rows if isinstance(key, str) and isinstance(text, str)]


def _step(report: tuple[object, object]) -> int:
    # An invalid step sorts first here, and later makes its trial unusable.
    return report[0] if isinstance(report[0], int) else -1


def algorithm_of(keys: Iterable[object]) -> str:
    """The sampler that writes these keys to the system attributes of trials; empty if none or several do."""
    found = {name for key in keys for prefix, name in ALGORITHMS.items() if str(key).startswith(prefix)}
    return found.pop() if len(found) == 1 else ""


def _json(text: str | None) -> Any:
    with contextlib.suppress(ValueError, TypeError):
        return json.loads(text)  # type: ignore[arg-type]
    return None
