"""The Vizier reader against databases that Vizier's own service wrote."""

import contextlib
import datetime
import math
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from vizier import pyvizier as vz
from vizier._src.service import sql_datastore
from vizier.service import pyvizier as service_vz
from vizier.service.protos import study_pb2

from optformer.data.sources import Quarantined, detect_format, read, read_study, study_name

NAME = "owners/team/studies/resnet"


def conditional_problem() -> service_vz.StudyConfig:
    config = service_vz.StudyConfig(algorithm="RANDOM_SEARCH", observation_noise=service_vz.ObservationNoise.HIGH)
    config.metric_information.append(vz.MetricInformation("accuracy", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    root = config.search_space.root
    model = root.add_categorical_param("model", ["cnn", "mlp"])
    cnn = model.select_values(["cnn"])
    cnn.add_int_param("layers", 1, 8, default_value=3)
    cnn.select("layers").select_values([8]).add_float_param("dropout", 0.0, 0.9, default_value=0.0)
    root.add_float_param("lr", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_discrete_param("batch", [16, 32, 64])
    root.add_bool_param("amsgrad")
    config.metadata.ns("team")["owner"] = "vision"
    return config


def stored_spec() -> study_pb2.StudySpec:
    """`conditional_problem` as a message, with the grandchild that Vizier's converter leaves out on writing."""
    spec = conditional_problem().to_proto()
    layers = spec.parameters[0].conditional_parameter_specs[0].parameter_spec
    assert layers.parameter_id == "layers"
    assert not layers.conditional_parameter_specs
    condition = layers.conditional_parameter_specs.add()
    condition.parent_int_values.values.append(8)
    dropout = condition.parameter_spec
    dropout.parameter_id, dropout.double_value_spec.max_value = "dropout", 0.9
    dropout.double_value_spec.default_value.value = 0.0
    dropout.scale_type = study_pb2.StudySpec.ParameterSpec.UNIT_LINEAR_SCALE
    return spec


def logged_trials() -> list[vz.Trial]:
    time = datetime.datetime(2024, 3, 4, 5, 6, 7, 250_000, tzinfo=datetime.UTC)
    common = {"lr": 0.01, "batch": 32.0, "amsgrad": "True"}
    later = time + datetime.timedelta(minutes=5)
    done = vz.Trial(id=1, parameters={"model": "cnn", "layers": 8, "dropout": 0.5, **common}, creation_time=time)
    done.measurements.append(vz.Measurement({"accuracy": 0.25}, steps=1))
    done.final_measurement, done.completion_time = vz.Measurement({"accuracy": 0.75}, elapsed_secs=300), later
    done.metadata.ns("team")["host"] = "a"
    failed = vz.Trial(id=2, parameters={"model": "mlp", **common}, infeasibility_reason="diverged", creation_time=time)
    failed.completion_time = later
    active = vz.Trial(id=3, parameters={"model": "mlp", **common}, assigned_worker="w1", creation_time=time)
    requested = vz.Trial(id=4, parameters={"model": "mlp", **common}, is_requested=True, creation_time=time)
    nan = vz.Trial(
        id=5, parameters={"model": "mlp", **common}, final_measurement=vz.Measurement({"accuracy": math.nan})
    )
    return [done, failed, active, requested, nan]


@pytest.fixture
def database(tmp_path) -> Path:
    path = tmp_path / "vizier.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
    store = sql_datastore.SQLDataStore(engine)
    spec = stored_spec()
    store.create_study(study_pb2.Study(name=NAME, display_name="resnet on flowers", study_spec=spec))
    store.create_study(study_pb2.Study(name="owners/team/studies/empty", study_spec=spec))
    for trial in logged_trials():
        proto = service_vz.TrialConverter.to_proto(trial)
        proto.name = f"{NAME}/trials/{trial.id}"
        store.create_trial(proto)
    store._connection.close()
    engine.dispose()
    return path


def test_what_the_service_stored_comes_back(database):
    assert detect_format(database) == "vizier"
    study, quarantined = read_study(database, NAME)
    assert quarantined == []
    assert study_name(study) == NAME
    assert study.problem.search_space == conditional_problem().search_space
    assert list(study.problem.metric_information) == list(conditional_problem().metric_information)
    assert dict(study.problem.metadata.ns("optformer")) == {
        "algorithm": "random_search",
        "study_id": NAME,
        "source": "vizier.db",
        "title": "resnet on flowers",
    }
    assert study.problem.metadata.ns("team")["owner"] == "vision"
    assert study.problem.metadata.ns("vizier")["observation_noise"] == "HIGH"

    expected = logged_trials()
    assert [trial.id for trial in study.trials] == [1, 2, 3, 4, 5]
    for trial, one in zip(study.trials, expected, strict=True):
        assert trial.parameters.as_dict() == one.parameters.as_dict()
        assert trial.status == one.status
        assert trial.infeasibility_reason == one.infeasibility_reason
    done, failed = study.trials[:2]
    assert type(done.parameters["layers"].value) is int
    assert done.final_measurement == expected[0].final_measurement
    assert done.measurements == expected[0].measurements
    assert done.metadata.ns("team")["host"] == "a"
    assert failed.completion_time == expected[1].completion_time
    assert abs(done.creation_time - expected[0].creation_time) < datetime.timedelta(milliseconds=1)


def test_defaults_of_zero_survive(database):
    study, _ = read_study(database, NAME)
    layers = study.problem.search_space.get("model").subspace("cnn").get("layers")
    assert layers.default_value == 3
    assert layers.subspace(8).get("dropout").default_value == 0.0


def test_studies_by_display_name_and_without_trials(database):
    study, _ = read_study(database, "resnet on flowers")
    assert len(study.trials) == 5
    empty, _ = read_study(database, "owners/team/studies/empty")
    assert empty.trials == []
    assert empty.problem.search_space.parameter_names == study.problem.search_space.parameter_names


def test_damaged_messages_cost_only_themselves(database):
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        torn = b"\xff\xff\xff\xff"
        connection.execute("UPDATE trials SET serialized_trial = ? WHERE trial_id = 2", (torn,))
        connection.execute("UPDATE studies SET serialized_study = ? WHERE study_id = 'empty'", (torn,))
        wrong = study_pb2.Trial(id="3", name="x")
        for value in (1.0, 2.0):
            wrong.parameters.add(parameter_id="lr").value.number_value = value
        blob = wrong.SerializeToString()
        connection.execute("UPDATE trials SET serialized_trial = ? WHERE trial_id = 3", (blob,))
    records = list(read(database))
    quarantined = [(r.study, r.trial, r.category) for r in records if isinstance(r, Quarantined)]
    assert quarantined == [
        (NAME, 2, "damaged record"),
        (NAME, 3, "trial cannot be represented"),
        ("owners/team/studies/empty", None, "damaged record"),
    ]
    (kept,) = [r for r in records if isinstance(r, vz.ProblemAndTrials)]
    assert [trial.id for trial in kept.trials] == [1, 4, 5]


def test_a_space_that_vizier_itself_refuses(database):
    spec = study_pb2.StudySpec()
    spec.metrics.add(metric_id="y", goal=study_pb2.StudySpec.MetricSpec.GoalType.MINIMIZE)
    parameter = spec.parameters.add(parameter_id="x")
    parameter.double_value_spec.min_value, parameter.double_value_spec.max_value = 2.0, 1.0
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        blob = study_pb2.Study(name=NAME, study_spec=spec).SerializeToString()
        connection.execute("UPDATE studies SET serialized_study = ? WHERE study_id = 'resnet'", (blob,))
    first, *rest = [r for r in read(database, study=NAME) if isinstance(r, Quarantined)]
    assert (first.study, first.trial, first.category) == (NAME, None, "study cannot be represented")
    assert [r.trial for r in rest] == [1, 2, 3, 4, 5]
