"""Recognizes stores that cannot be read, and explains how to convert them.

Each message names the format and ends with code for the program that wrote the store.
"""

import re
from pathlib import Path
from typing import Final

SMAC_FILES: Final = ("runhistory.json", "trajectory.json", "intensifier.json", "optimization.json")
PICKLES: Final = (".pkl", ".pickle", ".dill", ".joblib")
WORKBOOKS: Final = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_AX = re.compile(rb'"_{1,2}type"\s*:\s*"(AxClient|Client|Experiment|MultiTypeExperiment)"')
_LOOKED_AT = 4096
_TABLE = "and import that table with a mapping (--mapping)"

SMAC: Final = (
    "a run of SMAC, which cannot be read; write it as a table where SMAC is installed: pandas.DataFrame([{**"
    'smac.runhistory.get_config(key.config_id), "state": value.status.name, "cost": value.cost} for key, value in '
    f'smac.runhistory.items()]).to_csv("smac.csv"), {_TABLE}'
)
AX: Final = (
    "an experiment of Ax, which cannot be read; write it as a table where Ax is installed: "
    'client.summarize().to_csv("ax.csv"), or ax_client.get_trials_data_frame().to_csv("ax.csv") of an AxClient, '
    f"{_TABLE}"
)
PICKLE: Final = (
    "a pickle, which is never opened, since a pickle can run any code; if you trust it, write it as a table: for an "
    'Optuna study study.trials_dataframe().to_csv("trials.csv"), which needs no mapping; for other objects one row per '
    f"trial, {_TABLE}"
)
WORKBOOK: Final = f"a spreadsheet, which cannot be read; save it as CSV {_TABLE}"
HYPEROPT: Final = (
    "a pickle of Hyperopt, which is never opened, since a pickle can run any code; if you trust it, "
    "write it as a table where Hyperopt is installed: pandas.DataFrame([{**{name: values[0] for name, values in "
    't["misc"]["vals"].items() if values}, "loss": t["result"].get("loss"), "state": t["result"]["status"]} '
    f'for t in trials.trials]).to_csv("hyperopt.csv"), {_TABLE}'
)


def explained(path: Path) -> str | None:
    """The format of a file or folder and how to convert it; None if it is none of these formats."""
    if path.is_dir():
        return SMAC if any(any(path.glob(name)) for name in _depths("runhistory.json")) else None
    if path.name in SMAC_FILES:
        return SMAC
    if path.suffix.lower() in WORKBOOKS:
        return WORKBOOK
    with path.open("rb") as file:
        begin = file.read(_LOOKED_AT)
    if path.suffix.lower() in PICKLES or (begin[:1] == b"\x80" and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return HYPEROPT if b"hyperopt" in begin else PICKLE
    return AX if begin.lstrip()[:1] == b"{" and _AX.search(begin) else None


def explained_tables(tables: dict[str, set[str]]) -> str | None:
    """The same for an SQLite file with these tables."""
    return AX if {"experiment_v2", "trial_v2"} <= set(tables) else None


def _depths(name: str) -> tuple[str, ...]:
    """Patterns for SMAC's folders `output/<run>/<seed>`, since a user may name any of the three."""
    return name, f"*/{name}", f"*/*/{name}"
