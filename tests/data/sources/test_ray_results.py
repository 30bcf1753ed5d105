"""Result folders that Ray Tune wrote (`fixtures/make_ray_fixture.py`), whole and damaged."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, read, read_study
from optformer.data.sources.importing import import_corpus

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
    assert by_id[1].infeasibility_reason == "failed"
    # What folders do not tell any more, the experiment's state does.
    for number in (0, 5):
        assert [measurement.steps for measurement in by_id[number].measurements] == [3]
        assert by_id[number].final_measurement.metrics["loss"].value > 0
    for state in experiment.glob("experiment_state-*"):
        state.unlink()
    by_id = {trial.id: trial for trial in only(experiment, metric="loss")[0].trials}
    assert by_id[0].status.name == "ACTIVE"
    assert 5 not in by_id


def test_torn_reports_and_half_written_states(experiment):
    results = trial_folder(experiment, 0) / "result.json"
    results.write_bytes(results.read_bytes()[:-50])
    (state,) = experiment.glob("experiment_state-*")
    (experiment / "experiment_state-2999-01-01_00-00-00.json").write_text(state.read_text()[:500])
    study, left_out = only(experiment)
    (torn,) = left_out
    assert torn.reason.startswith("unreadable line: report 3 of trial 0")
    assert [m.steps for m in study.trials[0].measurements] == [1, 2, 3], "the third is in the state"
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


def test_an_experiment_of_which_only_the_state_is_left(experiment):
    whole, _ = only(experiment)
    for folder in experiment.glob("train_*"):
        shutil.rmtree(folder)
    assert (detect_format(experiment.parent), count_studies(experiment.parent)) == ("ray", 1)
    study, left_out = only(experiment)
    assert left_out == []
    assert [trial.id for trial in study.trials] == [trial.id for trial in whole.trials]
    for trial, before in zip(study.trials, whole.trials, strict=True):
        assert trial.parameters == before.parameters
        assert trial.status == before.status
        assert trial.infeasible == before.infeasible
        if not trial.infeasible:
            assert trial.final_measurement.metrics["loss"] == before.final_measurement.metrics["loss"]
            assert [m.steps for m in trial.measurements] == [3], "the state has the last result only"


@pytest.mark.parametrize(
    ("status", "result", "expected"),
    [
        ("TERMINATED", {"loss": 0.5, "training_iteration": 4}, "COMPLETED"),
        ("TERMINATED", {}, "COMPLETED"),
        ("ERROR", {"loss": 0.5}, "INFEASIBLE"),
        ("RUNNING", {"loss": 0.5}, "ACTIVE"),
        ("PAUSED", {"loss": 0.5}, "ACTIVE"),
        ("PENDING", {}, "REQUESTED"),
        (None, {}, "REQUESTED"),
    ],
)
def test_how_a_trial_of_the_state_ended(tmp_path, status, result, expected):
    stored = [
        {"trial_id": f"t_{i}", "logdir": f"/gone/t_{i}", "status": s, "config": {"lr": 0.1 * (i + 1)}, "last_result": r}
        for i, (s, r) in enumerate([(status, result), ("TERMINATED", {"loss": 0.25, "training_iteration": 9})])
    ]
    (tmp_path / "experiment_state-2021-01-02_03-04-05.json").write_text(json.dumps({"checkpoints": stored}))
    (study,) = read(tmp_path, metric="loss", goal="min")
    trial, other = study.trials
    assert ("INFEASIBLE" if trial.infeasible else trial.status.name) == expected
    assert [m.metrics["loss"].value for m in trial.measurements] == ([0.5] if result else [])
    assert other.final_measurement.metrics["loss"].value == 0.25
    if expected == "COMPLETED":
        final = trial.final_measurement.metrics
        assert {name: metric.value for name, metric in final.items()} == ({"loss": 0.5} if result else {})
    first, *_ = read(tmp_path, metric="nonsense", goal="min")
    assert first.reason == "no objective: no trial reports the metric 'nonsense'; reported: loss"
    with pytest.raises(SourceError, match="no trial reports the metric 'nonsense'; reported: loss"):
        import_corpus([tmp_path], tmp_path / "out.jsonl", metric="nonsense", goal="min")


def test_the_last_result_of_the_state_when_reports_are_lost(experiment):
    results = trial_folder(experiment, 0) / "result.json"
    complete = only(experiment)[0].trials[0]
    results.write_text(results.read_text().splitlines()[0] + "\n")
    trial = only(experiment)[0].trials[0]
    assert [m.steps for m in trial.measurements] == [1, 3]
    assert trial.final_measurement.metrics["loss"] == complete.final_measurement.metrics["loss"]
