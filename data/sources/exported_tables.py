"""Infers the mapping of tables that other programs export.

Optuna's `study.trials_dataframe().to_csv(...)` names every column by its role: `params_rate`, `value`, `state`.

The export of W&B's table of runs does not.  It has facts of the run first (Name, State, Created, ...), then the
configuration and then the results, each in alphabetical order.  The user says which result is the objective.  The end
of the parameters is recognized by the names of results and by where the alphabetical order restarts; if that is
ambiguous, the table is refused.

The script in W&B's documentation that exports runs by the API writes two columns of dictionaries, `config` and
`summary`.

Ray Tune's `results.get_dataframe().to_csv(...)` has the last result of every trial, and `config/rate` and so on.

scikit-learn's `DataFrame(search.cv_results_).to_csv(...)` has `param_rate` for each parameter and `mean_test_score`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Cells
from pathlib import Path
from typing import Final

from optformer.data.sources.inferred_space import Declared, dictionary, flattened, is_free_text
from optformer.data.sources.ray_results import SYSTEM
from optformer.data.sources.records import SourceError, SourceOptions, UnusableError
from optformer.data.sources.table_mapping import Mapping

_CONFIG, _SUMMARY = "config/", "summary/"
_PARAMETER, _USER, _FIXED = "params_", "user_attrs_", "system_attrs_fixed_params"
_SEARCHED, _SCORE, _RESOURCES = "param_", "mean_test_", "n_resources"
_RUN_FACTS: Final = (
    *("Name", "ID", "Agent", "State", "Notes", "User", "Tags", "Created", "Updated", "End Time", "Runtime", "Sweep"),
    *("Group", "Job Type", "Hostname", "Host Name", "Description", "Commit", "GitHub", "GPU Type", "GPU Count"),
)
_MANY_FACTS: Final = {"Notes", "User", "Tags", "Created", "Runtime", "Sweep"}
_RESULT = re.compile(
    r"_.*|(train|training|val|valid|validation|test|eval|best|final|avg|mean)[/.].*|best_.*|avg_.*|epoch|step|global_step"
    r"|(.*[/._ -])?(loss|acc|accuracy|auc|auroc|roc_auc|f1|precision|recall|rmse|mse|mae|r2|map|iou|dice|bleu|rouge"
    r"|perplexity|ppl|score|error|err|reward|return)([/._ @-].*)?",
    re.I,
)
"""Names of results.  A table with a parameter of such a name is refused, not misread."""


def mapping_of(
    path: Path, columns: Sequence[str], rows: Sequence[Cells[str, object]], options: SourceOptions
) -> Mapping | None:
    """The mapping of the columns; None if the table is from no known program.

    Raises:
      SourceError: the objective or its goal is not known, parameters and results cannot be distinguished, or the table
        has no parameters at all.
    """
    if any({f"{column}__MIN", f"{column}__MAX"} <= set(columns) for column in columns):
        raise SourceError(
            f"{path}: the CSV of a chart of W&B, which has one metric of every run and no parameters; export the table "
            "of runs instead"
        )
    if any(column.startswith(_CONFIG) for column in columns) and any(c.startswith(_SUMMARY) for c in columns):
        return _wandb_api(path, columns, rows, options)
    if "trial_id" in columns and any(column.startswith(_CONFIG) for column in columns):
        return _ray(path, columns, rows, options)
    if any(column.startswith(_SEARCHED) for column in columns) and any(c.startswith(_SCORE) for c in columns):
        return _sklearn(path, columns, options)
    if {"number", "state"} <= set(columns) and _optuna_objectives(columns):
        return _optuna(path, columns, options)
    if {"Name", "State"} <= set(columns) and len(_MANY_FACTS & set(columns)) > 1:
        return _wandb(path, columns, rows, options)
    return None


# --- Optuna -----------------------------------------------------------------------------------------------------------


def _optuna_objectives(columns: Sequence[str]) -> dict[str, str]:
    """Column of each objective -> its name, the same as the importer of databases gives."""
    named: dict[str, str] = {}
    for column in columns:
        if column == "value":
            named[column] = "objective"
        elif match := re.fullmatch(r"values?_(.+)", column):
            named[column] = f"objective_{match[1]}" if match[1].isdecimal() else match[1]
    return named


def _optuna(path: Path, columns: Sequence[str], options: SourceOptions) -> Mapping:
    named = _optuna_objectives(columns)
    by_name = {name: column for column, name in named.items()}
    names = [named.get(metric, metric) for metric in options.metrics] or list(by_name)
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SourceError(f"{path}: no objective {unknown[0]!r}; its columns have: {', '.join(by_name)}")
    # With names from `set_metric_names`, the user also only needs to give the goals.
    goals = SourceOptions(metrics=tuple(names), goals=options.goals).objectives(path)
    parameters = [column for column in columns if column.startswith(_PARAMETER)]
    started, ended = ("datetime_start", "datetime_complete")
    return Mapping(
        columns={"trial": "number", "status": "state"},
        parameters={column: Declared() for column in parameters},
        objectives={by_name[name]: goal for name, goal in goals.items()},
        names={column: column.removeprefix(_PARAMETER) for column in parameters} | named,
        times=(started if started in columns else "", ended if ended in columns else ""),
        kept={column: column.removeprefix(_USER) for column in columns if column.startswith(_USER)},
        enqueued=_FIXED if _FIXED in columns else "",
        empty_choices=True,
    )


def enqueued(cell: object) -> dict[str, object]:
    """Column -> value of an enqueued trial."""
    return {f"{_PARAMETER}{name}": value for name, value in (dictionary(cell) or {}).items()}


# --- W&B --------------------------------------------------------------------------------------------------------------


def _wandb(path: Path, columns: Sequence[str], rows: Sequence[Cells[str, object]], options: SourceOptions) -> Mapping:
    own = [column for column in columns if column and column not in _RUN_FACTS]
    texts = {column for column in own if any(not _is_number(row[column]) for row in rows if column in row)}
    results = [column for column in own if column not in texts and _RESULT.fullmatch(column)]
    objectives = options.objectives(path, reported=results or own)
    unknown = [name for name in objectives if name not in own]
    if unknown:
        raise SourceError(f"{path}: no column {unknown[0]!r}; columns: {', '.join(own)}")
    given = {column: [str(row[column]) for row in rows if column in row] for column in own}
    repeated = {column for column in own if 2 * len(set(given[column])) <= len(given[column])}
    end = _parameters_end(own, {*results, *objectives}, repeated | texts)
    if end is None:
        example = {"trial": "Name", "status": "State", "parameters": ["..."], "objectives": options.metrics}
        raise SourceError(
            f"{path}: W&B's export does not say which columns are parameters, and their order and names are ambiguous; "
            f"write {path.name}.mapping.json beside it, such as {json.dumps(example)}; columns: {', '.join(own)}"
        )
    free = _free_texts(own[:end], rows)
    sweeps = {row.get("Sweep") for row in rows}
    return Mapping(
        columns={"status": "State"}
        | ({"study": "Sweep"} if len(sweeps) > 1 and None not in sweeps else {})
        | ({"seconds": "Runtime"} if "Runtime" in columns else {}),
        parameters={column: Declared() for column in own[:end] if column not in free},
        objectives=objectives,
        times=("Created" if "Created" in columns else "", ""),
        kept={
            column: column for column in columns if column in ("Name", "ID", "Sweep", "Tags", "Notes") or column in free
        },
    )


def unfolded(cells: Cells[str, object]) -> dict[str, object]:
    """A row of W&B's API with a cell for each entry of its two dictionaries; any other row unchanged.

    Raises:
      UnusableError: one of the two is not a dictionary.
    """
    if not {"config", "summary"} <= set(cells):
        return dict(cells)
    row = {name: cell for name, cell in cells.items() if name not in ("config", "summary")}
    for column, prefix in (("config", _CONFIG), ("summary", _SUMMARY)):
        values = dictionary(cells[column])
        if values is None:
            raise UnusableError(f"unreadable line: the cell of {column!r} is not a dictionary")
        row |= {f"{prefix}{name}": value for name, value in flattened(values).items() if not name.startswith("_")}
    return row


def _wandb_api(
    path: Path, columns: Sequence[str], rows: Sequence[Cells[str, object]], options: SourceOptions
) -> Mapping:
    results = [column.removeprefix(_SUMMARY) for column in columns if column.startswith(_SUMMARY)]
    objectives = options.objectives(path, reported=results)
    _refuse_unknown(path, objectives, results)
    parameters, names, free = _configuration(columns, rows)
    return Mapping(
        columns={"status": "state"} if "state" in columns else {},
        parameters=parameters,
        objectives={f"{_SUMMARY}{name}": goal for name, goal in objectives.items()},
        names=names | {f"{_SUMMARY}{name}": name for name in objectives},
        kept={column: column for column in ("name", "id") if column in columns} | free,
    )


def _configuration(
    columns: Sequence[str], rows: Sequence[Cells[str, object]]
) -> tuple[dict[str, Declared], dict[str, str], dict[str, str]]:
    """The parameters among the columns of the configuration, the name of each column, and the columns of free text."""
    names = {column: column.removeprefix(_CONFIG) for column in columns if column.startswith(_CONFIG)}
    free = _free_texts(list(names), rows)
    parameters = {column: Declared() for column in names if column not in free}
    return parameters, names, {column: names[column] for column in names if column in free}


def _parameters_end(own: Sequence[str], results: set[str], repeated: set[str]) -> int | None:
    """Number of first columns that are parameters; None if that is ambiguous.

    Args:
      own: the columns of configuration and results.
      results: columns with names of results, and the objectives.
      repeated: columns with few values for many runs, which is typical of parameters.
    """
    by_name = next(index for index, column in enumerate(own) if column in results)
    named = [by_name] if by_name and all(column in results for column in own[by_name:]) else []
    ordered = []
    for key in (str, str.casefold):
        again = [index for index in range(1, len(own)) if key(own[index]) < key(own[index - 1])]
        if len(again) == 1 and again[0] <= by_name:
            ordered = again
    if named and ordered and not repeated.issuperset(own[ordered[0] : named[0]]):
        return None
    return next(iter(named or ordered), None)


# --- Ray Tune ---------------------------------------------------------------------------------------------------------


def _ray(path: Path, columns: Sequence[str], rows: Sequence[Cells[str, object]], options: SourceOptions) -> Mapping:
    results = [
        column
        for column in columns
        if column not in SYSTEM
        and not column.startswith(_CONFIG)
        and any(column in row for row in rows)
        and all(_is_number(row[column]) for row in rows if column in row)
    ]
    objectives = options.objectives(path, reported=results)
    _refuse_unknown(path, objectives, results)
    parameters, names, free = _configuration(columns, rows)
    return Mapping(
        columns={"seconds": "time_total_s"} if "time_total_s" in columns else {},
        parameters=parameters,
        objectives=objectives,
        names=names,
        kept={"trial_id": "trial_id"} | free,
    )


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def _sklearn(path: Path, columns: Sequence[str], options: SourceOptions) -> Mapping:
    scores = [column.removeprefix(_SCORE) for column in columns if column.startswith(_SCORE)]
    names = [metric.removeprefix(_SCORE) for metric in options.metrics] or (scores if len(scores) == 1 else [])
    # A score is always maximized; scikit-learn negates losses.
    chosen = SourceOptions(metrics=tuple(names), goals=options.goals)
    objectives = chosen.objectives(path, names, ["MAXIMIZE"], scores)
    _refuse_unknown(path, objectives, scores)
    parameters = [column for column in columns if column.startswith(_SEARCHED)]
    return Mapping(
        columns={},
        # A search by successive halving has a row for each amount of data on which a candidate was trained.
        parameters={column: Declared() for column in (*parameters, *({_RESOURCES} & set(columns)))},
        objectives={f"{_SCORE}{name}": goal for name, goal in objectives.items()},
        names={column: column.removeprefix(_SEARCHED) for column in parameters}
        | {f"{_SCORE}{name}": name for name in objectives},
        unmeasured="infeasible",
        empty_choices=True,
    )


# --- Any of them ------------------------------------------------------------------------------------------------------


def _refuse_unknown(path: Path, objectives: Iterable[str], known: Sequence[str]) -> None:
    unknown = [name for name in objectives if name not in known]
    if unknown:
        raise SourceError(f"{path}: no result {unknown[0]!r}; results: {', '.join(known)}")


def _free_texts(columns: Sequence[str], rows: Sequence[Cells[str, object]]) -> set[str]:
    """Columns with names or folders of runs, which are in the configuration, too.  They cannot be categories."""
    return {
        column
        for column in columns
        if any(not _is_number(row[column]) for row in rows if column in row)
        and is_free_text([row.get(column) for row in rows])
    }


def _is_number(cell: object) -> bool:
    if isinstance(cell, bool):
        return False
    try:
        float(str(cell))
    except ValueError:
        return False
    return True
