"""Result folders that Syne Tune wrote (`fixtures/make_syne_tune_fixture.py`), whole and damaged."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, read, read_study

FIXTURE = Path(__file__).parent / "fixtures" / "syne-tune-0.16.tar.gz"


@pytest.fixture
def experiment(tmp_path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(FIXTURE.read_bytes())) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "sweep"


def change_metadata(experiment: Path, **fields) -> None:
    path = experiment / "metadata.json"
    record = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def results(experiment: Path) -> str:
    with zipfile.ZipFile(experiment / "results.csv.zip") as archive:
        return archive.read("results.csv").decode()


def write_results(experiment: Path, text: str) -> None:
    with zipfile.ZipFile(experiment / "results.csv.zip", "w") as archive:
        archive.writestr("results.csv", text)


def test_an_experiment(experiment):
    assert detect_format(experiment) == detect_format(experiment.parent) == "syne-tune"
    assert count_studies(experiment) == 1
    study, left_out = read_study(experiment)
    assert left_out == []
    parameters = {config.name: config for config in study.problem.search_space.parameters}
    assert list(parameters) == ["lr", "width", "activation"]
    assert (parameters["lr"].bounds, parameters["lr"].scale_type.name) == ((1e-4, 1.0), "LOG")
    assert (parameters["width"].bounds, parameters["width"].scale_type.name) == ((1, 32), "LINEAR")
    assert parameters["activation"].feasible_values == ["relu", "tanh"]
    assert [(m.name, m.goal.name) for m in study.problem.metric_information] == [("loss", "MINIMIZE")]
    facts = study.problem.metadata.ns("optformer")
    assert (facts["study_id"], facts["algorithm"]) == ("sweep", "RandomSearch")
    assert "space" not in facts
    assert [trial.id for trial in study.trials] == list(range(8))
    reported = 0
    for trial in study.trials:
        values = trial.parameters.as_dict()
        stored = json.loads((experiment / str(trial.id) / "config.json").read_text())
        assert values == {name: stored[name] for name in values}
        if trial.infeasible:
            assert (values["width"] < 4, trial.infeasibility_reason) == (True, "failed: RuntimeError: diverged")
        elif trial.stopping_reason is None:
            expected = [values["lr"] / epoch + values["width"] for epoch in (1, 2, 3)]
            assert [m.metrics["loss"].value for m in trial.measurements] == pytest.approx(expected, rel=1e-12)
            assert [m.steps for m in trial.measurements] == [1, 2, 3]
            assert trial.final_measurement.metrics["loss"].value == pytest.approx(expected[-1], rel=1e-12)
            reported += 1
    assert reported == 6


def test_what_the_metadata_does_not_record(experiment):
    change_metadata(experiment, config_space=None, metric_mode=None, metric_names=None)
    with pytest.raises(SourceError, match=r"does not record which metric .*\(reported: epoch, loss\)"):
        list(read(experiment))
    with pytest.raises(SourceError, match="does not record whether 'loss' is minimized"):
        list(read(experiment, metric="loss"))
    (study,) = read(experiment, metric="loss", goal="min")
    assert study.problem.metadata.ns("optformer")["space"] == "inferred"
    assert study.problem.search_space.get("lr").scale_type.name == "LOG"


def test_mixed_directions(experiment):
    change_metadata(experiment, metric_names=["loss", "epoch"], metric_mode=["min", "max"])
    (study,) = read(experiment)
    assert [metric.goal.name for metric in study.problem.metric_information] == ["MINIMIZE", "MAXIMIZE"]


def test_damage(experiment):
    text = results(experiment)
    write_results(experiment, text[: text.rindex(",") - 30])
    first, study = read(experiment)
    assert isinstance(first, Quarantined)
    assert first.category == "unreadable line"
    assert len(study.trials) == 8
    write_results(experiment, "a,b\n1,2\n")
    (record,) = read(experiment)
    assert record.reason == "damaged record: results.csv.zip has no column 'trial_id'"
    (experiment / "results.csv.zip").write_bytes(b"PK")
    (record,) = read(experiment)
    assert record.category == "damaged record"


def test_values_outside_the_space_cost_their_trial(experiment):
    text = results(experiment)
    header, first = text.splitlines()[:2]
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    write_results(experiment, text.replace(cells["config_lr"], "7.5"))
    left_out, study = read(experiment)
    assert (left_out.trial, left_out.parameter) == (int(cells["trial_id"]), "lr")
    assert len(study.trials) == 7


def test_folders_that_are_no_experiment(tmp_path):
    with pytest.raises(SourceError, match="no experiment of Syne Tune"):
        list(read(tmp_path, format="syne-tune"))
