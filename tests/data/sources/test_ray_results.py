"""Result folders that Ray Tune wrote (`fixtures/make_ray_fixture.py`), whole and damaged."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, read, read_study

FIXTURE = Path(__file__).parent / "fixtures" / "ray-2.60.tar.gz"


@pytest.fixture
def experiment(tmp_path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(FIXTURE.read_bytes())) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "digits"


def trial_folder(experiment: Path, number: int) -> Path:
    (folder,) = experiment.glob(f"train_*_{number:05}_*")
    return folder


def only(experiment: Path, **options):
    *left_out, study = read(experiment, goal="min", **options)
    assert all(isinstance(record, Quarantined) for record in left_out)
    return study, left_out


def test_an_experiment(experiment):
    assert detect_format(experiment) == detect_format(experiment.parent) == "ray"
    assert count_studies(experiment) == 1
    study, left_out = only(experiment)
    assert left_out == []
    problem = study.problem
    assert [(metric.name, metric.goal.name) for metric in problem.metric_information] == [("loss", "MINIMIZE")]
    parameters = {config.name: config for config in problem.search_space.parameters}
    assert parameters["lr"].scale_type.name == "LOG"
    assert parameters["model/layers"].bounds == (1, 4)
    assert parameters["activation"].feasible_values == ["relu", "tanh"]
    facts = problem.metadata.ns("optformer")
    assert (facts["study_id"], facts["space"], facts.ns("constants")["epochs"]) == ("digits", "inferred", "3")
    assert [trial.id for trial in study.trials] == list(range(8))
    for trial in study.trials:
        values = trial.parameters.as_dict()
        stored = json.loads((trial_folder(experiment, trial.id) / "params.json").read_text())
        assert (values["lr"], values["model/layers"]) == (stored["lr"], stored["model"]["layers"])
        if values["model/layers"] == 4 and values["activation"] == "tanh":
            assert trial.infeasibility_reason == "failed: RuntimeError: loss diverged"
            continue
        expected = [values["lr"] * (step + 1) + values["model/layers"] for step in range(3)]
        assert [m.metrics["loss"].value for m in trial.measurements] == expected
        assert [m.steps for m in trial.measurements] == [1, 2, 3]
        assert trial.final_measurement.metrics["loss"].value == expected[-1]
        assert trial.final_measurement.metrics["accuracy"].value == 0.5
        assert trial.final_measurement.elapsed_secs > 0
        assert trial.creation_time <= trial.completion_time
    assert sum(trial.infeasible for trial in study.trials) == 2


def test_the_metric_and_its_goal(experiment):
    with pytest.raises(SourceError, match="does not record whether 'loss' is minimized or maximized"):
        list(read(experiment))
    (study,) = read(experiment, metric="accuracy,loss", goal="max,min")
    assert [metric.goal.name for metric in study.problem.metric_information] == ["MAXIMIZE", "MINIMIZE"]
    first, *_ = read(experiment, metric="f1", goal="max")
    assert first.category == "no objective"
    assert "reported: accuracy, loss" in first.reason
    for state in experiment.glob("experiment_state-*"):
        state.unlink()
    with pytest.raises(SourceError, match=r"name it with --metric and --goal \(reported: accuracy, loss\)"):
        list(read(experiment))
    with pytest.raises(SourceError, match="unknown goal 'up'"):
        list(read(experiment, metric="loss", goal="up"))
    assert len(list(read(experiment, metric="loss", goal="minimize"))) == 1


def test_trials_without_results(experiment):
    for number in (0, 1, 4):
        (trial_folder(experiment, number) / "result.json").unlink()
    (trial_folder(experiment, 1) / "error.txt").write_text("")
    (trial_folder(experiment, 4) / "params.json").write_text('{"lr": ')
    for path in trial_folder(experiment, 5).iterdir():
        path.unlink()
    study, left_out = only(experiment)
    assert [(record.trial, record.category) for record in left_out] == [(4, "trial cannot be represented")]
    by_id = {trial.id: trial for trial in study.trials}
    assert by_id[0].status.name == "ACTIVE"
    assert by_id[1].infeasibility_reason == "failed"
    # Its folder tells nothing any more; the experiment's state still has its configuration.
    assert sum(trial.is_requested for trial in study.trials) == 1


def test_torn_reports_and_half_written_states(experiment):
    results = trial_folder(experiment, 0) / "result.json"
    results.write_bytes(results.read_bytes()[:-50])
    (state,) = experiment.glob("experiment_state-*")
    (experiment / "experiment_state-2999-01-01_00-00-00.json").write_text(state.read_text()[:500])
    study, left_out = only(experiment)
    (torn,) = left_out
    assert torn.reason.startswith("unreadable line: report 3 of trial 0")
    assert len(study.trials[0].measurements) == 2
    state.write_text("{")
    with pytest.raises(SourceError, match="does not record which metric"):
        list(read(experiment, goal="min"))


def test_running_trials_and_the_state_of_older_versions(experiment):
    (path,) = experiment.glob("experiment_state-*")
    state = json.loads(path.read_text())
    trials = [json.loads(text) for text, _ in state.pop("trial_data")]
    trials[0]["status"] = "RUNNING"
    results = trial_folder(experiment, 0) / "result.json"
    results.write_text(results.read_text().replace('"done": true', '"done": false'))
    state["checkpoints"] = [json.dumps(trial) for trial in trials]
    state["runner_data"]["_mode"] = "max"
    path.write_text(json.dumps(state))
    study, left_out = read_study(experiment)
    assert left_out == []
    assert study.problem.metric_information.item().goal.name == "MAXIMIZE"
    assert [trial.status.name for trial in study.trials[:2]] == ["ACTIVE", "COMPLETED"]
    assert len(study.trials[0].measurements) == 3


def test_folders_as_searchers_name_them(experiment):
    for position, folder in enumerate(sorted(experiment.glob("train_*")), 1):
        folder.rename(experiment / f"train_{position * 0x11111111:08x}_{9 - position}_lr=0.1_2026-11-23_05-24-03")
    for state in experiment.glob("experiment_state-*"):
        state.unlink()
    study, _ = only(experiment, metric="loss")
    assert [trial.id for trial in study.trials] == list(range(1, 9))
    assert [trial.id for trial in study.trials if trial.infeasible] == [5, 6]


def test_no_pickle_is_opened(experiment, monkeypatch):
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened(self, *a, **k) if self.suffix != ".pkl" else 1 / 0)
    assert only(experiment)[0].trials


def test_folders_that_are_no_experiment(tmp_path):
    with pytest.raises(SourceError, match="holds no results of Ray Tune"):
        detect_format(tmp_path)
    with pytest.raises(SourceError, match="no experiment of Ray Tune"):
        list(read(tmp_path, format="ray"))
    with pytest.raises(SourceError, match="format 'ray' needs a folder"):
        list(read(FIXTURE, format="ray"))
    with pytest.raises(SourceError, match="format 'optuna' needs a file"):
        list(read(tmp_path, format="optuna"))
