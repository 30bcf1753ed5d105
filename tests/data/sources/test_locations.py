"""Stores by the addresses that other programs name them by."""

from pathlib import Path

import optuna
import pytest

from optformer.cli import main
from optformer.data.sources import SourceError, detect_format, read_study, study_name
from optformer.data.sources.importing import import_corpus
from optformer.data.sources.locations import local_path


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("sqlite:///tuning.db", "tuning.db"),
        ("sqlite:////data/tuning.db", "/data/tuning.db"),
        ("sqlite+pysqlite:////data/my%20runs.db?timeout=30", "/data/my runs.db"),
        ("SQLite:///runs/tuning.db", "runs/tuning.db"),
        ("file:///data/mlruns", "/data/mlruns"),
        ("file:/data/mlruns", "/data/mlruns"),
        ("runs/tuning.db", "runs/tuning.db"),
        ("/data/a:b.db", "/data/a:b.db"),
    ],
)
def test_addresses_of_files(address, path):
    assert local_path(address) == Path(path)


def test_a_file_whose_name_looks_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "a.db").write_bytes(b"1")
    assert local_path("s3:/a.db") == Path("s3:/a.db")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://ann:secret@host/db", r'^postgresql://...: .*copy_study\(.*from_storage="postgresql://'),
        ("mysql+pymysql://ann:secret@host/db", r'^mysql://...: .*to_storage="sqlite:///copy.db"'),
        ("redis://:secret@host", r"^redis://...: .*copy_study"),
        ("https://ann:secret@mlflow.example.org", r"^https://...: only files and folders can be read"),
        ("sqlite://", "the URL names no file"),
        ("sqlite:///:memory:", "the URL names no file"),
    ],
)
def test_addresses_that_name_no_file(address, message):
    with pytest.raises(SourceError, match=message) as error:
        detect_format(address)
    assert "secret" not in str(error.value)


@pytest.fixture
def database(tmp_path) -> Path:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/tuning.db", study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    return tmp_path / "tuning.db"


def test_a_database_by_its_address(database, tmp_path, monkeypatch):
    study, _ = read_study(f"sqlite:///{database}")
    assert study_name(study) == "s"
    assert study.problem.metadata.ns("optformer")["source"] == "tuning.db"
    monkeypatch.chdir(tmp_path)
    summary = import_corpus(["sqlite:///tuning.db"], "corpus.jsonl")
    assert (summary.studies_kept, summary.trials_kept) == (1, 2)
    with pytest.raises(SourceError, match="is both input and output"):
        import_corpus(["sqlite:///tuning.db"], "tuning.db")


def test_the_command_says_how_to_copy_a_study_of_a_server(capsys):
    assert main(["suggest", "postgresql://ann:secret@host/db"]) == 2
    message = capsys.readouterr().err
    assert "optuna.copy_study(" in message
    assert "secret" not in message
