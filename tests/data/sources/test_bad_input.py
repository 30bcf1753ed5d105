"""Files that are no study store, or are damaged: one clear error that names the file."""

import contextlib
import gzip
import sqlite3
from pathlib import Path

import pytest

from optformer.data.sources import Quarantined, SourceError, detect_format, read
from optformer.data.sources import sqlite as sqlite_source

FIXTURE = Path(__file__).parent / "fixtures" / "optuna-4.0.0.db.gz"


@pytest.fixture
def database(tmp_path) -> Path:
    path = tmp_path / "study.db"
    path.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    return path


def refused(path: Path, **options) -> str:
    with pytest.raises(SourceError) as error:
        list(read(path, **options))
    assert str(path) in str(error.value)
    return str(error.value)


def test_no_such_file(tmp_path):
    assert "no such file" in refused(tmp_path / "absent.db")


def test_a_folder(tmp_path):
    assert "a folder" in refused(tmp_path)


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.db"
    path.touch()
    assert "empty file" in refused(path)


def test_a_database_that_is_no_study_store(tmp_path):
    path = tmp_path / "chinook.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE album (title TEXT)")
    assert "neither Optuna's nor Vizier's); its tables: album" in refused(path)
    assert "no Optuna storage" in refused(path, format="optuna")
    assert "no Vizier database" in refused(path, format="vizier")


@pytest.mark.parametrize("content", ["hello", "a,b\n1,2\n", '{"a": 1}\n', "[1, 2]\n", "\n\n", "\x00\x01"])
def test_text_that_is_no_study_store(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    assert "no study store" in refused(path)


def test_a_database_read_as_lines_and_lines_as_a_database(tmp_path, database):
    assert "not one of its" in refused(database, format="study-lines")
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    assert "not an SQLite database" in refused(path, format="optuna")
    with pytest.raises(SourceError, match="unknown format 'wandb'; known: auto, optuna, optuna-journal, vizier"):
        list(read(path, format="wandb"))


@pytest.mark.parametrize("kept", [0.03, 0.3, 0.9])
def test_a_truncated_database(database, kept):
    whole = database.read_bytes()
    database.write_bytes(whole[: int(kept * len(whole))])
    assert "truncated" in refused(database)


def test_a_database_cut_inside_its_header(database):
    database.write_bytes(database.read_bytes()[:50])
    assert "truncated" in refused(database)


def test_a_corrupt_database(database):
    whole = bytearray(database.read_bytes())
    whole[600:-600] = b"\xaa" * (len(whole) - 1200)
    database.write_bytes(whole)
    assert "truncated or corrupt" in refused(database)


def test_damage_that_shows_only_in_the_middle(database):
    records = read(database)
    next(records)
    database.write_bytes(database.read_bytes()[:2000])
    with pytest.raises(SourceError, match=r"study\.db"):
        list(records)


def test_a_locked_database(database, monkeypatch):
    monkeypatch.setattr(sqlite_source, "LOCK_SECONDS", 0.0)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert "locked by another process" in refused(database)


def test_odd_rows_of_an_optuna_database_cost_only_their_trial(database):
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:

        def tamper(trial: int, column: str, value: object) -> None:
            connection.execute(
                f"UPDATE trial_params SET {column} = ? WHERE param_name = 'x' AND trial_id = "
                "(SELECT trial_id FROM trials JOIN studies USING (study_id) WHERE study_name = 'added' AND number = ?)",
                (value, trial),
            )

        tamper(0, "param_value", 7.5)
        tamper(1, "param_value", None)
        tamper(2, "distribution_json", '{"name": "Weibull"')
    records = list(read(database, study="added"))
    assert [(r.trial, r.parameter, r.category) for r in records if isinstance(r, Quarantined)] == [
        (0, "x", "value outside its range"),
        (1, "x", "value is not a number"),
        (2, "x", "unknown distribution"),
    ]
    assert [trial.id for trial in records[-1].trials] == [3, 4]


def test_text_that_is_no_utf8_is_still_read(database):
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE studies SET study_name = CAST(x'6162ff' AS TEXT) WHERE study_name = 'added'")
    assert detect_format(database) == "optuna"
    assert "ab\ufffd" in {
        r.problem.metadata.ns("optformer")["study_id"] for r in read(database) if hasattr(r, "trials")
    }
