"""Stores that are not read: the message names the format, and the way out works."""

import contextlib
import json
import pickle
import sqlite3
import sys
import types
from pathlib import Path

import pytest

from optformer.cli import main
from optformer.data.sources import SourceError, detect_format, read_study


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as error:
        detect_format(path)
    return str(error.value)


def test_smac(tmp_path):
    run = tmp_path / "smac3_output" / "run" / "0"
    run.mkdir(parents=True)
    (run / "runhistory.json").write_text('{"stats": {}, "data": [], "configs": {}}')
    for path in (run / "runhistory.json", run, run.parent, run.parent.parent):
        message = refused(path)
        assert "a run of SMAC, which cannot be read" in message
        assert 'to_csv("smac.csv")' in message
        assert str(path) in message


@pytest.mark.parametrize(
    "record",
    [{"_type": "AxClient", "experiment": {"__type": "Experiment"}}, {"__type": "Experiment", "name": "e"}],
)
def test_ax(tmp_path, record):
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps(record))
    assert "an experiment of Ax, which cannot be read" in refused(path)
    assert "client.summarize().to_csv(" in refused(path)


def test_a_database_of_ax(tmp_path):
    path = tmp_path / "ax.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in ("experiment_v2", "trial_v2"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER)")
    assert "an experiment of Ax" in refused(path)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_named_and_never_opened(tmp_path, protocol, monkeypatch):
    path = tmp_path / "study.pkl"
    path.write_bytes(pickle.dumps({"a": 1}, protocol))
    monkeypatch.setattr(pickle, "load", lambda *_: 1 / 0)
    assert "a pickle, which is never opened" in refused(path)
    if protocol >= 2:
        assert "a pickle" in refused(path.rename(tmp_path / "study.bin"))


@pytest.mark.parametrize("protocol", range(6))
def test_the_pickle_of_hyperopt_is_told_by_the_name_of_its_module(tmp_path, protocol, monkeypatch):
    module = types.ModuleType("hyperopt.base")
    for name in ("hyperopt", "hyperopt.base"):
        monkeypatch.setitem(sys.modules, name, module)
    module.Trials = type("Trials", (), {"__module__": "hyperopt.base"})
    (path := tmp_path / "trials.pkl").write_bytes(pickle.dumps(module.Trials(), protocol))
    message = refused(path)
    assert "a pickle of Hyperopt, which is never opened" in message
    assert 'to_csv("hyperopt.csv"), and import that table with a mapping' in message


def test_spreadsheets(tmp_path):
    (path := tmp_path / "runs.xlsx").write_bytes(b"PK\x03\x04")
    assert "a spreadsheet, which cannot be read; save it as CSV and import that table with a mapping" in refused(path)


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    path = tmp_path / "trials.pkl"
    path.write_bytes(pickle.dumps([1]))
    assert main(["corpus", "import", str(path), "--out", str(tmp_path / "out.jsonl")]) == 2
    message = capsys.readouterr().err
    assert "trials_dataframe().to_csv(" in message
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "states"),
    [
        (("SUCCESS", "CRASHED", "TIMEOUT", "MEMORYOUT", "RUNNING"), "cxxxa"),  # of SMAC
        (("COMPLETED", "FAILED", "ABANDONED", "EARLY_STOPPED", "CANDIDATE", "STAGED", "RUNNING"), "cxssrra"),  # of Ax
    ],
)
def test_the_tables_that_the_messages_speak_of_are_read(tmp_path, words, states):
    rows = [f"{number},{word},{0.1 * number:.1f},{number}" for number, word in enumerate(words)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["trial,state,x,cost", *rows]))
    mapping = {"trial": "trial", "status": "state", "parameters": ["x"], "objectives": {"cost": "minimize"}}
    path.with_name("table.csv.mapping.json").write_text(json.dumps(mapping))
    study, left_out = read_study(path)
    assert left_out == []
    found = [
        "x"
        if trial.infeasible
        else "s"
        if trial.stopping_reason
        else "r"
        if trial.is_requested
        else "c"
        if trial.is_completed
        else "a"
        for trial in study.trials
    ]
    assert "".join(found) == states
