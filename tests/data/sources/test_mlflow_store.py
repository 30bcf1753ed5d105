"""MLflow's stores, written by MLflow (`fixtures/make_mlflow_fixtures.py`), whole and damaged."""

import contextlib
import gzip
import io
import math
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, read, study_name

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def database(tmp_path) -> Path:
    path = tmp_path / "mlflow.db"
    path.write_bytes(gzip.decompress((FIXTURES / "mlflow.db.gz").read_bytes()))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    with tarfile.open(fileobj=io.BytesIO((FIXTURES / "mlflow-mlruns.tar.gz").read_bytes())) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "mlruns"


def changed(database: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def run_folder(folder: Path, name: str) -> Path:
    (found,) = (tag.parent.parent for tag in folder.glob("*/*/tags/mlflow.runName") if tag.read_text() == name)
    return found


@pytest.mark.parametrize("store", ["database", "folder"])
def test_a_store(store, request):
    path = request.getfixturevalue(store)
    assert detect_format(path) == "mlflow"
    assert count_studies(path) == 3
    digits, first, second = read(path, metric="loss", goal="min")
    assert [study_name(study) for study in (digits, first, second)] == ["digits", "sweeps/sweep 0", "sweeps/sweep 1"]
    parameters = {config.name: config for config in digits.problem.search_space.parameters}
    assert sorted(parameters) == ["amsgrad", "layers", "lr", "momentum", "optimizer"]
    assert parameters["lr"].scale_type.name == "LOG"
    assert parameters["layers"].bounds == (1, 4)
    assert parameters["amsgrad"].external_type.name == "BOOLEAN"
    facts = digits.problem.metadata.ns("optformer")
    assert (facts["space"], facts.ns("constants")["epochs"]) == ("inferred", "3")

    trials = digits.trials
    assert [trial.metadata.ns("mlflow").get("run_name") for trial in trials] == [
        "run 0",
        "run 1",
        "run 2",
        "run 3",
        "killed",
        "running",
    ]
    one = trials[1]
    assert one.parameters.as_dict() == {
        "lr": 0.001,
        "optimizer": "sgd",
        "layers": 2,
        "amsgrad": "False",
        "momentum": 0.8,
    }
    assert [m.metrics["loss"].value for m in one.measurements] == [1.001, 0.501, 1 / 3 + 0.001]
    assert [m.steps for m in one.measurements] == [0, 1, 2]
    assert one.final_measurement.metrics["loss"].value == 1 / 3 + 0.001
    assert one.final_measurement.metrics["val/accuracy"].value == 0.501
    assert one.creation_time < one.completion_time
    assert (trials[2].infeasibility_reason, len(trials[2].measurements)) == ("failed", 3)
    assert trials[3].infeasibility_reason == "loss is not a number"
    assert math.isnan(trials[3].measurements[0].metrics["loss"].value)
    assert (trials[4].stopping_reason, dict(trials[4].final_measurement.metrics)) == ("killed", {})
    assert trials[5].status.name == "ACTIVE"
    assert second.problem.metadata.ns("mlflow")["parent data"] == "digits"
    assert [trial.parameters.as_dict()["lr"] for trial in second.trials] == [0.2, 0.1, 0.2 / 3]


def test_both_stores_give_the_same(database, folder):
    for a, b in zip(read(database, metric="loss", goal="min"), read(folder, metric="loss", goal="min"), strict=True):
        assert a.problem.search_space == b.problem.search_space
        for one, other in zip(a.trials, b.trials, strict=True):
            assert one.parameters.as_dict() == other.parameters.as_dict()
            assert (one.status, one.infeasibility_reason) == (other.status, other.infeasibility_reason)
            values = [
                [{n: repr(m.value) for n, m in measurement.metrics.items()} for measurement in trial.measurements]
                for trial in (one, other)
            ]
            assert values[0] == values[1]


def test_the_objective_must_be_named(database):
    with pytest.raises(SourceError, match=r"name it with --metric and --goal \(reported: loss, val/accuracy\)"):
        list(read(database))
    with pytest.raises(SourceError, match="whether 'loss' is minimized or maximized"):
        list(read(database, metric="loss"))
    study, *_ = read(database, metric="loss,val/accuracy", goal="min,max")
    assert [metric.goal.name for metric in study.problem.metric_information] == ["MINIMIZE", "MAXIMIZE"]
    first, *_ = read(database, metric="f1", goal="max")
    assert (first.study, first.trial, first.category) == ("digits", None, "no objective")
    (alone,) = read(database, metric="loss", goal="min", study="sweeps/sweep 1")
    assert len(alone.trials) == 3


@pytest.mark.parametrize("store", ["database", "folder"])
def test_metrics_of_all_experiments_are_named_and_none_is_said(store, request):
    path = request.getfixturevalue(store)
    if store == "folder":
        digits = run_folder(path, "killed").parent
        for folder in digits.glob("*/metrics"):
            shutil.rmtree(folder)
    else:
        changed(path, "DELETE FROM metrics WHERE run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id = 1)")
    with pytest.raises(SourceError, match=r"name it with --metric and --goal \(reported: loss"):
        list(read(path))
    if store == "folder":
        for folder in path.glob("*/*/metrics"):
            shutil.rmtree(folder)
    else:
        changed(path, "DELETE FROM metrics")
    with pytest.raises(SourceError, match="no run reports a metric, so there is no objective"):
        list(read(path))


@pytest.mark.parametrize("store", ["database", "folder"])
def test_a_dictionary_is_a_parameter_for_each_of_its_entries(store, request):
    path = request.getfixturevalue(store)
    names = [f"run {i}" for i in range(4)]
    texts = [str({"model": {"layers": i}, "rate": 10.0**-i, "shape": [1, i]}) for i in range(3)] + ["{}"]
    for name, text in zip(names, texts, strict=True):
        if store == "folder":
            (run,) = (
                f.parent
                for f in run_folder(path, "killed").parent.glob("*/tags/mlflow.runName")
                if f.read_text() == name
            )
            (run.parent / "params" / "config").write_text(text)
        else:
            run = "SELECT 'config', '" + text.replace("'", "''") + f"', run_uuid FROM runs WHERE name = '{name}'"
            changed(path, f"INSERT INTO params (key, value, run_uuid) {run} AND experiment_id = 1")
    study = next(read(path, metric="loss", goal="min", study="digits"))
    parameters = {config.name: config.type.name for config in study.problem.search_space.parameters}
    assert parameters["config/rate"] == "DOUBLE"
    assert (parameters["config/model/layers"], parameters["config/shape"]) == ("INTEGER", "CATEGORICAL")
    assert "config" not in parameters
    assert study.trials[2].parameters.as_dict()["config/rate"] == 0.01
    assert "config/rate" not in study.trials[3].parameters


def test_free_text_costs_no_study(database):
    # A folder for each run; MLflow says nowhere what is a parameter, and no mapping could leave it out.
    changed(
        database,
        "CREATE TABLE n AS "
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 40) SELECT i FROM c",
        "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, experiment_id) "
        "SELECT 'r' || i, 'run', 'FINISHED', 1800000000000 + i, 'active', 1 FROM n",
        "INSERT INTO params (key, value, run_uuid) SELECT 'folder', 'out/' || i, 'r' || i FROM n",
        "INSERT INTO params (key, value, run_uuid) SELECT 'lr', 1.0 / i, 'r' || i FROM n",
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
        "SELECT 'loss', i, 1, 'r' || i, 0, 0 FROM n",
    )
    study = next(read(database, metric="loss", goal="min", study="digits"))
    assert "folder" not in study.problem.search_space.parameter_names
    assert study.trials[-1].metadata.ns("mlflow").ns("free_text")["folder"] == "out/40"
    assert study.trials[-1].parameters.as_dict()["lr"] == 1 / 40


def test_string_metrics(database, folder):
    changed(database, "UPDATE metrics SET value = 'high' WHERE rowid = 2")
    (run_folder(folder, "killed") / "metrics").mkdir()
    (run_folder(folder, "killed") / "metrics" / "loss").write_text("1700000000000 high 0\n")
    for path in (database, folder):
        left_out, *studies = read(path, metric="loss", goal="min")
        assert (left_out.study, left_out.category) == ("digits", "metric is not a number")
        assert "'loss' is 'high'" in left_out.reason
        assert [len(study.trials) for study in studies] == [5, 3, 3]


def test_text_parameters_beside_numbers(database):
    changed(database, "UPDATE params SET value = 'auto' WHERE key = 'lr' AND value = '0.1'")
    study = next(read(database, metric="loss", goal="min", study="digits"))
    assert study.problem.search_space.get("lr").type.name == "CATEGORICAL"


def test_unknown_states_and_damaged_runs(database, folder):
    lost = "UPDATE runs SET status = 'LOST' WHERE name = 'killed'"
    changed(database, "PRAGMA ignore_check_constraints = 1", lost)
    left_out, *_ = read(database, metric="loss", goal="min")
    assert left_out.reason == "unknown trial state: 'LOST'"
    (run_folder(folder, "killed") / "meta.yaml").write_bytes(b"")
    left_out, *_ = read(folder, metric="loss", goal="min")
    assert left_out.category == "damaged record"


def test_half_written_databases(database):
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="truncated"):
        list(read(database, metric="loss", goal="min"))
    database.write_bytes(whole)
    changed(database, "DROP TABLE metrics")
    with pytest.raises(SourceError, match="no MLflow store"):
        list(read(database, format="mlflow", metric="loss", goal="min"))


def test_ten_thousand_categories(database):
    columns = "run_uuid, status, start_time, lifecycle_stage, experiment_id"
    changed(
        database,
        "DELETE FROM runs WHERE experiment_id = 1",
        f"INSERT INTO runs ({columns}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) "
        "SELECT 'r' || i, 'FINISHED', i, 'active', 1 FROM n",
        "INSERT INTO params (key, value, run_uuid) SELECT 'file', 'f-' || run_uuid, run_uuid FROM runs "
        "WHERE experiment_id = 1",
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT 'loss', 1.0, 1, run_uuid, 0, 0 "
        "FROM runs WHERE experiment_id = 1",
    )
    first, *_ = read(database, metric="loss", goal="min")
    assert isinstance(first, Quarantined)
    assert (first.study, first.parameter, first.category) == ("digits", "file", "too many categories")


@pytest.mark.parametrize("store", ["database", "folder"])
def test_runs_of_another_script_are_set_aside(store, request):
    path = request.getfixturevalue(store)
    before = next(read(path, metric="loss", goal="min", study="digits"))
    if store == "folder":
        for file in (run_folder(path, "killed") / "params").iterdir():
            file.unlink()
        (run_folder(path, "killed") / "params" / "mode").write_text("linear")
    else:
        (run,) = sqlite3.connect(path).execute("SELECT run_uuid FROM runs WHERE name = 'killed'").fetchone()
        changed(
            path,
            f"DELETE FROM params WHERE run_uuid = '{run}'",
            f"INSERT INTO params (key, value, run_uuid) VALUES ('mode', 'linear', '{run}')",
        )
    left_out, study = read(path, metric="loss", goal="min", study="digits")
    assert left_out.reason == "no parameters: it has none of those that the study varies (it has: 'mode')"
    assert [trial.id for trial in study.trials] == [trial.id for trial in before.trials if trial.id != left_out.trial]
    assert "mode" not in study.problem.metadata.ns("optformer").ns("constants")
    assert "mode" not in study.problem.search_space.parameter_names
