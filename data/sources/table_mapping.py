"""The mapping of a table: which of its columns are parameters, objectives, trials and so on."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from optformer.data.sources.inferred_space import Declared
from optformer.data.sources.records import GOALS, SourceError, SourceOptions

KINDS: Final = ("double", "integer", "categorical", "boolean")
COLUMN_FIELDS: Final = ("study", "trial", "step", "status", "seconds")
_SHOWN = 20
"""Largest number of columns that a message names."""


@dataclasses.dataclass(frozen=True)
class Mapping:
    """The roles of the columns of a table.

    Attributes:
      columns: role ("study", "trial" and so on) -> column.
      parameters, objectives: column -> declared properties of the parameter, or goal of the objective.
      names: column -> name of the parameter or objective, if it differs from the column's.
      times: the columns with start and end of a trial; empty if there is none.
      kept: column -> key, for columns that become metadata of the trial.
      enqueued: the column with the values of waiting trials, as in Optuna's data frames; or "".
      empty_choices: whether an empty cell among texts is a category, unless a condition explains it.
      unmeasured: the state of a trial without an objective, in a table without a column of states.
    """

    columns: dict[str, str]
    parameters: dict[str, Declared]
    objectives: dict[str, str]
    title: str = ""
    algorithm: str = ""
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    times: tuple[str, str] = ("", "")
    kept: dict[str, str] = dataclasses.field(default_factory=dict)
    enqueued: str = ""
    empty_choices: bool = False
    unmeasured: str = "active"

    @classmethod
    def load(cls, path: Path) -> "Mapping":
        """Reads the JSON file.

        Raises:
          SourceError: the file cannot be read, or a field is unknown, missing or invalid.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise SourceError(f"{path}: mapping cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise SourceError(f"{path}: mapping is not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise SourceError(f"{path}: mapping is not a JSON object")
        unknown = set(record) - {*COLUMN_FIELDS, "parameters", "objectives", "title", "algorithm"}
        if unknown:
            known = ", ".join((*COLUMN_FIELDS, "parameters", "objectives", "title", "algorithm"))
            raise SourceError(f"{path}: unknown field {sorted(unknown)[0]!r}; known: {known}")
        parameters = record.get("parameters")
        if isinstance(parameters, list):
            parameters = {name: {} for name in parameters if isinstance(name, str)}
        if not isinstance(parameters, dict) or not parameters:
            raise SourceError(f'{path}: "parameters" must name at least one column')
        objectives = record.get("objectives")
        if not isinstance(objectives, dict) or not objectives:
            raise SourceError(f'{path}: "objectives" must name at least one column, as in {{"loss": "minimize"}}')
        for name, goal in objectives.items():
            if str(goal).lower() not in GOALS:
                raise SourceError(f"{path}: unknown goal {goal!r} of objective {name!r}; known: minimize, maximize")
            if name in parameters:
                raise SourceError(f"{path}: the column {name!r} cannot be a parameter and an objective")
        texts = {key: record.get(key, "") for key in (*COLUMN_FIELDS, "title", "algorithm")}
        for key, text in texts.items():
            if not isinstance(text, str):
                raise SourceError(f"{path}: {key!r} must be text, not {text!r}")
        return cls(
            {key: texts[key] for key in COLUMN_FIELDS if texts[key]},
            {name: _declared(path, name, declaration) for name, declaration in parameters.items()},
            {name: GOALS[str(goal).lower()] for name, goal in objectives.items()},
            texts["title"],
            texts["algorithm"],
        )

    @property
    def used(self) -> list[str]:
        """All columns that are read."""
        named = (*self.columns.values(), *self.parameters, *self.objectives, *self.times, *self.kept, self.enqueued)
        return [column for column in dict.fromkeys(named) if column]

    def check(self, path: Path, found: Iterable[str]) -> None:
        """Raises SourceError if the table at `path`, which has the columns `found`, lacks one of these."""
        found = list(found)
        missing = [column for column in self.used if column not in found]
        if missing:
            raise SourceError(
                f"{path}: no column {', '.join(map(repr, missing))}, which the mapping names; columns: "
                + ", ".join(map(str, found))
            )


def needed(path: Path, mapping_file: Path, columns: Sequence[str], options: SourceOptions) -> SourceError:
    """The refusal of a table without a mapping, with an example of one."""
    objectives = options.metrics or ("...",)
    goals = dict.fromkeys(objectives, "minimize or maximize")
    example = json.dumps({"parameters": ["...", "..."], "objectives": goals})
    shown = ", ".join(columns[:_SHOWN]) + (f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else "")
    return SourceError(
        f"{path}: a table needs a mapping that says which columns are parameters and objectives; write "
        f"{mapping_file.name} beside it or give --mapping FILE, such as {example}; columns: {shown}"
    )


def _declared(path: Path, name: str, declaration: Any) -> Declared:
    def refuse(why: str) -> SourceError:
        return SourceError(f"{path}: parameter {name!r}: {why}")

    if not isinstance(declaration, dict):
        raise refuse(f'must be an object such as {{"type": "double"}}, not {declaration!r}')
    unknown = set(declaration) - {"type", "range", "scale", "values"}
    if unknown:
        raise refuse(f"unknown field {sorted(unknown)[0]!r}; known: type, range, scale, values")
    kind, scale, bounds, values = map(declaration.get, ("type", "scale", "range", "values"))
    if kind not in (None, *KINDS):
        raise refuse(f"unknown type {kind!r}; known: {', '.join(KINDS)}")
    if scale not in (None, "log", "linear"):
        raise refuse(f"unknown scale {scale!r}; known: linear, log")
    if bounds is not None:
        if not (
            isinstance(bounds, list)
            and len(bounds) == 2
            and all(isinstance(b, int | float) and not isinstance(b, bool) and math.isfinite(b) for b in bounds)
            and bounds[0] <= bounds[1]
        ):
            raise refuse(f"range must be two numbers in order, not {bounds!r}")
        if scale == "log" and bounds[0] <= 0:
            raise refuse(f"a log scale needs a positive range, not {bounds!r}")
        if kind in ("categorical", "boolean"):
            raise refuse(f"a {kind} parameter has no range")
        kind = kind or ("integer" if all(isinstance(bound, int) for bound in bounds) else "double")
        bounds = (bounds[0], bounds[1])
    if values is not None:
        if not isinstance(values, list) or not values or kind not in (None, "categorical"):
            raise refuse("values must be a list of categories that is not empty, for a categorical parameter")
        kind = "categorical"
        values = tuple(dict.fromkeys(None if value in ("", None) else str(value) for value in values))
    return Declared(kind, bounds, None if scale is None else scale == "log", values)
