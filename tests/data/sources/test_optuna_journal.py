"""The journal reader on files that Optuna wrote: the same studies as through SQLite, and damage."""

import gzip
import json
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, read, read_study, study_name
from optformer.data.sources.study_json import study_to_json


def run_studies(storage) -> None:
    """Two studies side by side and one deleted: every state, distribution and kind of attribute."""
    sampler = optuna.samplers.NSGAIISampler(population_size=4, seed=0)
    every = optuna.create_study(storage=storage, study_name="every kind", sampler=sampler, direction="maximize")
    deleted = optuna.create_study(storage=storage, study_name="deleted")
    several = optuna.create_study(
        storage=storage,
        study_name="several",
        directions=["minimize", "maximize"],
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        several.set_metric_names(["loss", "accuracy"])
    every.set_user_attr("optformer:description", "a test")
    every.set_user_attr("owner", {"team": "vision"})

    def objective(trial):
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.suggest_int("layers", 1, 8)
        trial.suggest_float("dropout", 0.0, 0.5, step=0.1)
        trial.suggest_categorical("mixed", ["a", 1, "1", None, True])
        trial.suggest_float("widened", 0.0, 1.0 + trial.number)
        if trial.number % 2:
            trial.suggest_int("sometimes", 1, 64, log=True)
        trial.set_user_attr("seed", trial.number)
        trial.report(0.5, 1)
        trial.report(float("inf") if trial.number == 2 else 0.75, 2)
        if trial.number == 3:
            raise optuna.TrialPruned
        if trial.number == 4:
            raise ZeroDivisionError("diverged")
        return float("inf") if trial.number == 5 else float("nan") if trial.number == 6 else trial.number / 7

    for _ in range(5):
        every.optimize(objective, n_trials=2, catch=ZeroDivisionError)
        deleted.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        several.optimize(lambda trial: (trial.suggest_float("x", 0, 1), trial.number), n_trials=1)
    every.enqueue_trial({"layers": 3, "mixed": None})
    every.ask()
    every.ask()
    every.enqueue_trial({"layers": 5})
    uniform = optuna.distributions.FloatDistribution(0.0, 1.0)
    every.add_trial(optuna.trial.create_trial(params={"extra": 0.5}, distributions={"extra": uniform}, value=2.0))
    optuna.delete_study(study_name="deleted", storage=storage)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "runs.log"
    run_studies(JournalStorage(JournalFileBackend(str(path))))
    return path


@pytest.fixture
def journal(written, tmp_path) -> Path:
    path = tmp_path / "runs.log"
    path.write_bytes(written.read_bytes())
    return path


def timeless(study: vz.ProblemAndTrials) -> dict:
    record = study_to_json(study)
    for trial in record["trials"]:
        for key in ("created", "completed"):
            if key in trial:
                trial[key] = "some time"
        trial.get("final", {}).pop("elapsed_secs", None)
    return json.loads(json.dumps(record).replace("runs.db", "runs.log"))


def test_journal_and_database_of_the_same_runs_are_equal(journal, tmp_path):
    assert detect_format(journal) == "optuna-journal"
    assert count_studies(journal) == 2
    run_studies(f"sqlite:///{tmp_path / 'runs.db'}")
    from_journal, from_database = list(read(journal)), list(read(tmp_path / "runs.db"))
    assert [study_name(study) for study in from_journal] == ["every kind", "several"]
    for ours, theirs in zip(from_journal, from_database, strict=True):
        assert timeless(ours) == timeless(theirs)
    every = from_journal[0]
    facts = every.problem.metadata.ns("optformer")
    assert (facts["algorithm"], facts["description"]) == ("nsga2", "a test")
    assert {"COMPLETED", "REQUESTED", "ACTIVE"} == {trial.status.name for trial in every.trials}


def test_times_are_kept(journal):
    study, _ = read_study(journal, "several")
    first = study.trials[0]
    assert first.completion_time >= first.creation_time
    assert first.final_measurement.elapsed_secs == (first.completion_time - first.creation_time).total_seconds()


def test_a_compressed_journal_and_one_study_of_it(journal, tmp_path):
    packed = tmp_path / "runs.log.gz"
    packed.write_bytes(gzip.compress(journal.read_bytes()))
    assert [study_name(study) for study in read(packed, study="several")] == ["several"]
    packed.write_bytes(packed.read_bytes()[:-200])
    assert [r.category for r in read(packed) if isinstance(r, Quarantined)] == ["file ends early"]


def test_a_torn_last_line_is_quarantined(journal):
    whole = [timeless(study) for study in read(journal)]
    content = journal.read_bytes()
    lines = content.count(b"\n")
    journal.write_bytes(content + b'{"op_code":4,"worker_id":"w","stu')
    torn, *studies = read(journal)
    assert (torn.study, torn.category) == (f"line {lines + 1}", "unreadable line")
    assert "incomplete" in torn.reason
    assert [timeless(study) for study in studies] == whole


def test_a_writer_that_went_on_in_the_torn_line_loses_nothing_of_its_own(journal):
    whole = [timeless(study) for study in read(journal)]
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"op_code":4' in line) + 1
    journal.write_bytes(b"".join(lines[:at]) + b'{"op_code":4,"wor' + b"".join(lines[at:]))
    torn, *studies = read(journal)
    assert "17 bytes of an operation that was never finished" in torn.reason
    assert [timeless(study) for study in studies] == whole


def test_a_damaged_line_costs_the_trial_it_belongs_to(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if b'"param_name":"dropout"' in line and b'"trial_id":0' in line)
    lines[at] = lines[at].replace(b'"distribution":', b'"distribution";')
    journal.write_bytes(b"".join(lines))
    line, trial, *studies = read(journal)
    assert (line.study, line.category) == (f"line {at + 1}", "unreadable line")
    assert (trial.study, trial.trial, trial.category) == ("every kind", 0, "damaged record")
    assert [study_name(study) for study in studies] == ["every kind", "several"]


def test_a_damaged_creation_ends_the_reading(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    creations = [number for number, line in enumerate(lines) if b'"op_code":4' in line]
    lines[creations[5]] = b'{"op_code":4,###\n'
    journal.write_bytes(b"".join(lines))
    records = list(read(journal))
    assert [r.category for r in records if isinstance(r, Quarantined) and r.study.startswith("line")] == [
        "unreadable line",
        "journal not read to its end",
    ]
    assert sum(len(r.trials) for r in records if not isinstance(r, Quarantined)) == 5


def test_fields_of_the_wrong_type_cost_one_trial(journal):
    with journal.open("a") as file:
        for operation in (
            {"op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": None},
            {"op_code": 6, "worker_id": "w", "trial_id": 10**6, "state": 1, "values": [1.0]},
            {"op_code": 77, "worker_id": "w"},
        ):
            file.write(json.dumps(operation) + "\n")
        creations = journal.read_text().count('"op_code":4')
        for field, value in (("param_value_internal", "x"), ("distribution", "{}")):
            operation = {"op_code": 5, "worker_id": "w", "trial_id": creations, "param_name": "lr"}
            operation |= {"param_value_internal": 1e-3, "distribution": "{}", field: value}
            file.write(json.dumps(operation) + "\n")
    quarantined = [record for record in read(journal) if isinstance(record, Quarantined)]
    assert [(r.study[:4], r.parameter, r.category) for r in quarantined] == [
        ("line", None, "unreadable line"),
        ("line", None, "unreadable line"),
        ("ever", "lr", "unknown distribution"),
    ]


def test_a_suggestion_that_optuna_refused_is_no_value(tmp_path):
    path = tmp_path / "runs.log"
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))))
    study.ask().suggest_float("x", 0.0, 1.0)
    with pytest.raises(ValueError, match="different distribution kind"):
        study.ask().suggest_categorical("x", ["a", "b"])
    read_back, quarantined = read_study(path)
    assert quarantined == []
    assert [list(trial.parameters) for trial in read_back.trials] == [["x"], []]


def test_no_journal_at_all(tmp_path):
    path = tmp_path / "notes.log"
    path.write_text("started\nstopped\n")
    with pytest.raises(SourceError, match="no study store"):
        detect_format(path)
    with pytest.raises(SourceError, match="is an operation of an Optuna journal"):
        list(read(path, "optuna-journal"))
