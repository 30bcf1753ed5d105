"""The Optuna reader against databases that Optuna itself wrote, in every schema it has had.

`fixtures/optuna-<version>.db.gz` was written by that version, and `.json.gz` is what that version's own API loads.
"""

import contextlib
import datetime
import gzip
import json
import math
import os
import sqlite3
from pathlib import Path

import optuna
import pytest
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, read, read_study, study_name

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = sorted(path.name.removeprefix("optuna-").removesuffix(".db.gz") for path in FIXTURES.glob("optuna-*.db.gz"))


def unpacked(version: str, folder: Path) -> Path:
    path = folder / f"optuna-{version}.db"
    path.write_bytes(gzip.decompress((FIXTURES / f"optuna-{version}.db.gz").read_bytes()))
    return path


def studies_of(path: Path) -> dict[str, vz.ProblemAndTrials]:
    return {study_name(record): record for record in read(path) if not isinstance(record, Quarantined)}


def loaded_by_optuna(version: str) -> dict:
    return json.loads(gzip.decompress((FIXTURES / f"optuna-{version}.json.gz").read_bytes()))["studies"]


def test_there_is_a_fixture_of_every_generation_of_the_schema():
    assert VERSIONS == ["0.19.0", "1.0.0", "1.5.0", "2.0.0", "2.10.1", "2.4.0", "3.0.6", "3.6.1", "4.0.0"]


@pytest.mark.parametrize("version", VERSIONS)
def test_trials_agree_with_what_that_version_loads_itself(version, tmp_path):
    studies = studies_of(unpacked(version, tmp_path))
    for name, expected in loaded_by_optuna(version).items():
        if name == "empty" or (name == "two objectives" and len(expected["directions"]) == 1):
            continue  # the latter: its own API shows it as one objective, see test_several_objectives
        trials = studies[name].trials
        assert [trial.id for trial in trials] == [trial["number"] for trial in expected["trials"]]
        goals = [metric.goal.name for metric in studies[name].problem.metric_information]
        assert goals == expected["directions"]
        for trial, stored in zip(trials, expected["trials"], strict=True):
            assert_same_trial(trial, stored, studies[name].problem)


def assert_same_trial(trial: vz.Trial, stored: dict, problem: vz.ProblemStatement) -> None:
    parameters = dict(trial.parameters.as_dict())
    if stored["state"] == "WAITING":
        assert trial.status == vz.TrialStatus.REQUESTED
        assert parameters == {"int": 5, "mixed": "'adam'"}
        return
    assert sorted(parameters) == sorted(stored["params"])
    for name, value in stored["params"].items():
        if name == "mixed":  # has both 1 and "1", so that every label is a Python literal
            assert parameters[name] == repr(value)
        elif isinstance(value, str):
            assert parameters[name] == value
        else:
            assert parameters[name] == pytest.approx(value, rel=1e-12)
    intermediate = {int(step): float(value) for step, value in stored["intermediate"].items()}
    name = next(iter(problem.metric_information)).name
    reported = {m.steps: m.metrics[name].value for m in trial.measurements}
    assert reported == pytest.approx(intermediate, nan_ok=True)

    for time, text in ((trial.creation_time, stored["start"]), (trial.completion_time, stored["complete"])):
        assert time == (datetime.datetime.fromisoformat(text).astimezone() if text else None)
    notes = {k: json.loads(v) for k, v in trial.metadata.ns("optuna").ns("user_attributes").items()}
    assert notes == stored["user_attrs"]

    values = [float(value) for value in stored["values"] or [] if value is not None]
    if stored["state"] == "COMPLETE" and all(map(math.isfinite, values)):
        metrics = [metric.name for metric in problem.metric_information]
        assert [trial.final_measurement.metrics[metric].value for metric in metrics] == values
        assert trial.status == vz.TrialStatus.COMPLETED
        assert not trial.infeasible
    elif stored["state"] == "COMPLETE":
        assert trial.infeasibility_reason == f"{name} is {values[0]}"
    elif stored["state"] == "FAIL":
        assert trial.infeasible
        assert trial.infeasibility_reason.startswith("failed")
    elif stored["state"] == "PRUNED":
        assert trial.status == vz.TrialStatus.COMPLETED
        assert not trial.final_measurement.metrics
        assert trial.metadata.ns("optuna")["state"] == "PRUNED"
    else:
        assert stored["state"] == "RUNNING"
        assert trial.status == vz.TrialStatus.ACTIVE


@pytest.mark.parametrize("version", VERSIONS)
def test_every_kind_of_distribution_becomes_its_parameter(version, tmp_path):
    space = studies_of(unpacked(version, tmp_path))["every kind"].problem.search_space
    linear, log, stepped = vz.ScaleType.LINEAR, vz.ScaleType.LOG, vz.ScaleType.UNIFORM_DISCRETE
    expected = {
        "int": ((1, 12), linear),
        "fixed": ((3, 3), linear),
        "widened": ((0, 20), linear),
    }
    # Optuna dropped the old methods in version 5 and had the new ones from 1.3 on; the script uses them from 2.0.
    expected |= {"old_uniform": ((-1.0, 1.0), linear), "old_log": ((1e-5, 1e-1), log)}
    grids = {"old_step": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]}
    if version >= "2":
        expected |= {"float": ((-5.0, 5.0), linear), "float_log": ((1e-4, 1.0), log), "int_log": ((1, 1024), log)}
        grids |= {"float_step": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0], "int_step": [8, 16, 24, 32, 40, 48, 56, 64]}
    for name, (bounds, scale) in expected.items():
        config = space.get(name)
        assert (config.bounds, config.scale_type) == (bounds, scale), name
        kind = vz.ParameterType.INTEGER if isinstance(bounds[0], int) else vz.ParameterType.DOUBLE
        assert config.type == kind, name
    for name, values in grids.items():
        config = space.get(name)
        assert (config.feasible_values, config.scale_type) == (values, stepped), name
        whole = vz.ExternalType.INTEGER if name == "int_step" else vz.ExternalType.FLOAT
        assert config.external_type == whole, name
    labels = ["None", "True", "1", "'1'", "1.5", "'adam'"]
    assert space.get("mixed").feasible_values == sorted(labels)
    assert set(space.parameter_names) == {*expected, *grids, "mixed", "kind"}
    (child,) = space.get("kind").subspace("a").parameters
    assert (child.name, child.bounds, child.scale_type) == ("only_a", (1, 4), linear)


@pytest.mark.parametrize("version", [v for v in VERSIONS if v >= "1.5"])
def test_several_objectives(version, tmp_path):
    # Before 2.4 they were a module of their own, which hid them among the intermediate values.
    study = studies_of(unpacked(version, tmp_path))["two objectives"]
    names = ["loss", "accuracy"] if version >= "3.6" else ["objective_0", "objective_1"]
    metrics = list(study.problem.metric_information)
    assert [(metric.name, metric.goal.name) for metric in metrics] == list(
        zip(names, ["MINIMIZE", "MAXIMIZE"], strict=True)
    )
    for trial in study.trials:
        final = trial.final_measurement.metrics
        assert final[names[0]].value == pytest.approx(trial.parameters["x"].value)
        assert final[names[1]].value == trial.id
        assert trial.measurements == []


def test_an_empty_study_is_quarantined(tmp_path):
    records = list(read(unpacked("4.0.0", tmp_path)))
    assert [(r.study, r.trial, r.reason) for r in records if isinstance(r, Quarantined)] == [
        ("empty", None, "no trials")
    ]


def test_the_installed_optuna(tmp_path):
    path = tmp_path / "now.db"
    study = optuna.create_study(
        storage=f"sqlite:///{path}", study_name="now", direction="maximize", sampler=optuna.samplers.TPESampler(seed=0)
    )
    study.set_user_attr("optformer:description", "a test")
    study.set_user_attr("optformer:algorithm", "tuned by hand")

    def objective(trial):
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.suggest_categorical("amsgrad", [True, False])
        if trial.number == 2:
            raise optuna.TrialPruned
        return trial.number

    study.optimize(objective, n_trials=4)
    read_back, quarantined = read_study(path)
    assert quarantined == []
    facts = read_back.problem.metadata.ns("optformer")
    assert dict(facts) == {
        "study_id": "now",
        "source": "now.db",
        "title": "now",
        "algorithm": "tuned by hand",
        "description": "a test",
    }
    config = read_back.problem.search_space.get("amsgrad")
    assert (config.external_type, config.feasible_values) == (vz.ExternalType.BOOLEAN, ["False", "True"])
    for trial, stored in zip(read_back.trials, study.trials, strict=True):
        assert trial.parameters["lr"].value == stored.params["lr"]
        assert trial.parameters["amsgrad"].as_bool == stored.params["amsgrad"]


def test_the_sampler_is_told_by_what_it_left(tmp_path):
    path = tmp_path / "cma.db"
    sampler = optuna.samplers.NSGAIISampler(population_size=4, seed=0)
    study = optuna.create_study(storage=f"sqlite:///{path}", sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=6)
    read_back, _ = read_study(path)
    assert read_back.problem.metadata.ns("optformer")["algorithm"] == "nsga2"
    assert "title" not in read_back.problem.metadata.ns("optformer"), "no-name-... is no title"


def test_one_study_can_be_chosen(tmp_path):
    path = unpacked("4.0.0", tmp_path)
    assert detect_format(path) == "optuna"
    assert count_studies(path) == 4
    assert [study_name(study) for study in read(path, study="added")] == ["added"]
    study, _ = read_study(path, "two objectives")
    assert len(study.trials) == 3
    with pytest.raises(SourceError, match="several studies"):
        read_study(path)
    with pytest.raises(SourceError, match="no study 'absent'"):
        read_study(path, "absent")
    with pytest.raises(SourceError, match="'empty' cannot be used: no trials"):
        read_study(path, "empty")


def test_text_with_bytes_that_are_no_utf8_is_kept_with_replacements(tmp_path):
    path = unpacked("4.0.0", tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE trial_params SET param_name = CAST(X'6BFF' AS TEXT) WHERE param_name = 'kind'")
        connection.execute("UPDATE studies SET study_name = CAST(X'73FF' AS TEXT) WHERE study_name = 'added'")
    studies = studies_of(path)
    assert "s\ufffd" in studies
    every = studies["every kind"]
    assert "k\ufffd" in every.problem.search_space.parameter_names
    assert every.trials[0].parameters["k\ufffd"].value in ("a", "b")


def test_the_file_is_not_written_and_its_writer_not_held_up(tmp_path):
    path = unpacked("4.0.0", tmp_path)
    before = path.read_bytes()
    list(read(path))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]

    records = read(path)
    next(records)  # the reader stands between two studies, and the tuning run goes on
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as writer, writer:
        writer.execute("UPDATE studies SET study_name = 'renamed' WHERE study_name = 'added'")
    list(records)


def test_a_write_ahead_log_is_read(tmp_path):
    path = unpacked("4.0.0", tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("UPDATE studies SET study_name = 'in the log' WHERE study_name = 'added'")
        writer.commit()
        assert "in the log" in studies_of(path)


def test_a_database_in_a_folder_without_write_permission(tmp_path, monkeypatch):
    path = unpacked("4.0.0", tmp_path)
    connect = sqlite3.connect
    asked = []

    def refusing(address, **options):
        # What SQLite says where it cannot make the shared memory of a write-ahead log.
        asked.append(address.rpartition("?")[2])
        if "mode=ro" in address:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", refusing)
    assert len(studies_of(path)) == 3
    assert "immutable=1" in asked
    Path(f"{path}-wal").write_bytes(b"pending")
    with pytest.raises(SourceError, match="unfinished transaction"):
        list(read(path))
