"""Projects that Keras Tuner wrote (`fixtures/make_keras_tuner_fixture.py`), whole and damaged."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from optformer.data.sources import SourceError, count_studies, detect_format, read, read_study, study_name
from optformer.data.sources.importing import import_corpus
from optformer.serialization.space import StudySchema

FIXTURE = Path(__file__).parent / "fixtures" / "keras-tuner-1.4.8.tar.gz"


@pytest.fixture
def projects(tmp_path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(FIXTURE.read_bytes())) as archive:
        archive.extractall(tmp_path / "tuning", filter="data")
    return tmp_path / "tuning"


def rewrite(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_project_by_its_folder_its_oracle_and_the_folder_above(projects):
    project = projects / "random"
    for path in (project, project / "oracle.json"):
        assert (detect_format(path), count_studies(path)) == ("keras-tuner", 1)
        assert study_name(read_study(path)[0]) == "random"
    assert count_studies(projects) == 2
    assert [study_name(record) for record in read(projects)] == ["hyperband", "random"]
    assert import_corpus([projects], projects / "corpus.jsonl").trials_kept == 22


def test_a_folder_of_folders_of_projects_names_those_to_give(projects):
    for name in ("fold_0", "fold_1"):
        shutil.copytree(projects, projects.parent / "cv" / name)
    with pytest.raises(SourceError, match="and no HPO-B; folders in it do: fold_0, fold_1"):
        detect_format(projects.parent / "cv")


def test_the_space_is_the_one_that_the_program_declared(projects):
    study, left_out = read_study(projects / "random")
    assert left_out == []
    roots = {config.name: config for config in study.problem.search_space.parameters}
    assert set(roots) == {"model", "rate", "dropout", "batch", "width", "norm"}
    assert (roots["rate"].bounds, roots["rate"].scale_type.name) == ((1e-5, 0.1), "LOG")
    assert roots["dropout"].feasible_values == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert (roots["batch"].type.name, roots["batch"].feasible_values) == ("DISCRETE", [16, 32, 128])
    assert (roots["width"].scale_type.name, roots["width"].feasible_values) == ("LOG", [8, 16, 32, 64])
    assert roots["norm"].external_type.name == "BOOLEAN"
    mlp, cnn = roots["model"].subspace("mlp"), roots["model"].subspace("cnn")
    assert [(child.name, child.bounds) for child in mlp.parameters] == [("units", (32, 512))]
    assert [child.name for child in cnn.parameters] == ["filters", "pool"]
    pool = {value: [child.name for child in space.parameters] for value, space in cnn.get("pool").subspaces()}
    assert pool == {"avg": ["size"], "max": ["size"]}
    facts = study.problem.metadata.ns("optformer")
    assert (facts["title"], facts.ns("constants")["seed"]) == ("random", "3")
    assert "space" not in facts
    assert len(StudySchema(study.problem).encode(study.trials)) == len(study.trials)


def test_trials(projects):
    study, _ = read_study(projects / "random")
    metric = study.problem.metric_information.item()
    assert (metric.name, metric.goal.name) == ("val_loss", "MINIMIZE")
    assert [trial.id for trial in study.trials] == list(range(12))
    for trial in study.trials:
        stored = json.loads((projects / "random" / f"trial_{trial.id:02}" / "trial.json").read_text())
        assert trial.parameters["rate"].value == stored["hyperparameters"]["values"]["rate"]
        assert trial.metadata.ns("keras_tuner")["trial_id"] == f"{trial.id:02}"
        if stored["status"] == "FAILED":
            assert trial.infeasibility_reason.endswith("the loss is not finite")
            continue
        assert trial.final_measurement.metrics["val_loss"].value == stored["score"]
        assert [m.steps for m in trial.measurements] == [0, 1, 2]
        assert min(m.metrics["val_loss"].value for m in trial.measurements) == stored["score"]
    assert sum(trial.infeasible for trial in study.trials) == 1


def test_what_hyperband_adds_is_metadata(projects):
    study, _ = read_study(projects / "hyperband")
    kept = study.trials[0].metadata.ns("keras_tuner")
    assert int(kept["tuner/epochs"]) >= 1
    assert not any(name.startswith("tuner/") for trial in study.trials for name in trial.parameters)


def test_the_objective(projects):
    project = projects / "random"
    study = next(read(project, metric="accuracy"))
    assert study.problem.metric_information.item().goal.name == "MAXIMIZE", "the direction is recorded"
    for file in project.glob("trial_*/trial.json"):
        record = json.loads(file.read_text())
        metrics = record["metrics"]["metrics"]
        if metrics:
            metrics["copy"] = metrics["val_loss"]
        rewrite(file, metrics={"metrics": metrics})
    with pytest.raises(SourceError, match=r"name it with --metric and --goal \(reported: accuracy, copy, val_loss\)"):
        list(read(project))
    assert next(read(project, metric="copy")).problem.metric_information.item().goal.name == "MINIMIZE"


def test_trials_that_are_running_empty_lost_or_damaged(projects):
    folders = sorted((projects / "random").glob("trial_*"))
    rewrite(folders[0] / "trial.json", status="RUNNING", score=None, metrics={"metrics": {}})
    rewrite(folders[1] / "trial.json", status="STOPPED", hyperparameters={"space": [], "values": {}})
    rewrite(folders[2] / "trial.json", status="LOST")
    (folders[3] / "trial.json").write_text('{"trial_id": ')
    (folders[4] / "trial.json").unlink()
    *left_out, study = read(projects / "random")
    assert [(record.trial, record.reason.split(":")[0]) for record in left_out] == [
        (2, "unknown trial state"),
        (3, "trial cannot be represented"),
        (4, "trial cannot be represented"),
    ]
    assert "it was started, but has no trial.json" in left_out[2].reason
    assert study.trials[0].status.name == "ACTIVE"
    assert [trial.id for trial in study.trials] == [0, *range(5, 12)]


def test_values_of_branches_that_a_trial_does_not_take_are_metadata(projects):
    # Older versions stored defaults of inactive parameters, too.
    for file in (projects / "random").glob("trial_*/trial.json"):
        record = json.loads(file.read_text())
        values = record["hyperparameters"]["values"]
        if values["model"] == "mlp":
            values |= {"pool": "max", "size": 2, "filters": 16}
        file.write_text(json.dumps(record))
    study, left_out = read_study(projects / "random")
    assert left_out == []
    trial = next(trial for trial in study.trials if trial.parameters["model"].value == "mlp")
    assert "pool" not in trial.parameters
    assert dict(trial.metadata.ns("keras_tuner").ns("unused_values")) == {"pool": "max", "size": "2", "filters": "16"}


def test_an_oracle_without_trials_and_files_that_are_no_oracle(projects):
    (alone := projects / "alone").mkdir()
    (alone / "oracle.json").write_bytes((projects / "random" / "oracle.json").read_bytes())
    whole, *trials = read(alone / "oracle.json")
    assert whole.reason.startswith("no trials: there is no folder trial_* with a trial.json beside oracle.json")
    assert [(record.study, record.trial) for record in trials] == [("alone", number) for number in range(12)]
    shutil.rmtree(alone)
    (projects / "random" / "oracle.json").write_text("{}")
    assert [study_name(record) for record in read(projects)] == ["hyperband"]
    with pytest.raises(SourceError, match="Keras Tuner"):
        list(read(projects / "random", format="keras-tuner"))
