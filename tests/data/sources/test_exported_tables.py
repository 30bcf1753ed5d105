"""Tables that Optuna, W&B, Ray Tune and scikit-learn export, without a mapping by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from optformer.data.sources import Quarantined, SourceError, read, read_study
from optformer.data.sources.importing import import_corpus
from optformer.serialization.space import StudySchema


def of(path: Path, **options):
    *left_out, study = read(path, **options)
    assert left_out == []
    return study


# --- Optuna -----------------------------------------------------------------------------------------------------------


def objective(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    optimizer = trial.suggest_categorical("optimizer", ["adam", "sgd"])
    if optimizer == "sgd":
        trial.suggest_int("warmup", 1, 9)
        trial.suggest_categorical("nesterov", [True, False])
    trial.suggest_categorical("features", [None, "sqrt", "log2"])
    trial.set_user_attr("note", "a, b")
    if trial.number == 7:
        raise RuntimeError("diverged")
    trial.report(rate, 1)
    if trial.number == 9:
        raise optuna.TrialPruned
    return rate


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("frame")
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "log")))
    study = optuna.create_study(storage=storage, study_name="s", sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=40, catch=RuntimeError)
    study.enqueue_trial({"rate": 0.01, "features": None})
    study.trials_dataframe().to_csv(folder / "trials.csv")
    study.trials_dataframe().to_csv(folder / "without-index.csv", index=False)
    return folder


@pytest.mark.parametrize("name", ["trials.csv", "without-index.csv"])
def test_a_data_frame_is_the_study_that_it_was_made_of(frame, name):
    table, (stored, _) = of(frame / name, goal="minimize"), read_study(frame / "log")
    assert table.problem.metric_information == stored.problem.metric_information
    assert set(table.problem.search_space.parameter_names) == {"rate", "optimizer", "features"}
    for config in table.problem.search_space.parameters:
        assert config.type == stored.problem.search_space.get(config.name).type
    sgd = table.problem.search_space.get("optimizer").subspace("sgd")
    assert {child.name: child.type.name for child in sgd.parameters} == {"warmup": "INTEGER", "nesterov": "CATEGORICAL"}
    assert len(table.trials) == len(stored.trials) == 41
    for trial, other in zip(table.trials, stored.trials, strict=True):
        assert (trial.id, trial.status, trial.infeasible) == (other.id, other.status, other.infeasible)
        assert trial.stopping_reason == other.stopping_reason
        values, expected = trial.parameters.as_dict(), other.parameters.as_dict()
        if trial.infeasible and expected["features"] == "None":
            del expected["features"]  # the frame does not say whether it failed before
        assert values == pytest.approx(expected)
        if trial.final_measurement and not trial.infeasible:
            ours, theirs = trial.final_measurement, other.final_measurement
            assert dict(ours.metrics) == dict(theirs.metrics)
            assert ours.elapsed_secs == pytest.approx(theirs.elapsed_secs, abs=1e-3)
            assert trial.creation_time == other.creation_time
            assert trial.metadata.ns("table")["note"] == "a, b"
    assert len(StudySchema(table.problem).encode(table.trials)) == 41


def test_the_goal_of_a_data_frame_has_to_be_said(frame):
    with pytest.raises(SourceError, match="does not record whether 'objective' is minimized or maximized"):
        list(read(frame / "trials.csv"))
    with pytest.raises(SourceError, match="no objective 'loss'; its columns have: objective"):
        list(read(frame / "trials.csv", metric="loss", goal="min"))
    for metric in ("value", "objective"):
        assert of(frame / "trials.csv", metric=metric, goal="max").problem.metric_information.item().name == "objective"


def test_several_objectives_and_their_names(tmp_path):
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), trial.number), n_trials=3)
    study.trials_dataframe().to_csv(tmp_path / "two.csv")
    metrics = of(tmp_path / "two.csv", goal="min,max", metric="objective_0,objective_1").problem.metric_information
    assert [(m.name, m.goal.name) for m in metrics] == [("objective_0", "MINIMIZE"), ("objective_1", "MAXIMIZE")]
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["loss", "accuracy"])
    study.trials_dataframe().to_csv(tmp_path / "named.csv")
    study = of(tmp_path / "named.csv", metric="loss,accuracy", goal="min,max")
    assert [trial.final_measurement.metrics["accuracy"].value for trial in study.trials] == [0, 1, 2]
    (one,) = of(tmp_path / "named.csv", metric="accuracy", goal="max").problem.metric_information
    assert one.name == "accuracy"


def test_a_mapping_beside_a_data_frame_still_decides(tmp_path, frame):
    path = tmp_path / "trials.csv"
    path.write_bytes((frame / "trials.csv").read_bytes())
    mapping = {"trial": "number", "status": "state", "parameters": ["params_rate"], "objectives": {"value": "max"}}
    path.with_name("trials.csv.mapping.json").write_text(json.dumps(mapping))
    study, left_out = read_study(path)
    assert list(study.problem.search_space.parameter_names) == ["params_rate"]
    assert [(record.trial, record.category) for record in left_out] == [(40, "no parameters")], "the one that waits"


# --- W&B --------------------------------------------------------------------------------------------------------------

FACTS = ["Name", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep"]
STATES = ["finished", "running", "crashed", "failed", "killed", "preempted", "preempting", "pending"]


def export(path: Path, columns: list[str], rows: list[list], facts: list[str] = FACTS) -> Path:
    """As W&B's own table of runs: newest first."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow([*facts, *columns])
        for number, row in reversed(list(enumerate(rows))):
            state = row[0]
            fact = {"Name": f"run-{number}", "State": state, "Notes": "-", "User": "ann", "Runtime": 60 + number}
            fact |= {"Created": f"2026-01-{1 + number:02}T12:00:00.000Z", "Sweep": "s1"}
            writer.writerow([*(fact.get(name, "") for name in facts), *row[1:]])
    return path


def runs(count: int = 24, states: list[str] | None = None) -> list[list]:
    """Parameters batch_size, lr, optimizer, out_dir; results acc, epoch, loss."""
    return [
        [
            (states or ["finished"])[i % len(states or [0])],
            *(2 ** (4 + i % 3), 10.0 ** -(1 + i % 5), ["adam", "sgd"][i % 2], f"out/{i}", i / count, 9, 1 / (i + 1)),
        ]
        for i in range(count)
    ]


COLUMNS = ["batch_size", "lr", "optimizer", "out_dir", "acc", "epoch", "loss"]


def test_a_table_of_runs(tmp_path):
    path = export(tmp_path / "wandb_export.csv", COLUMNS, runs())
    study = of(path, metric="loss", goal="min")
    assert list(study.problem.search_space.parameter_names) == ["batch_size", "lr", "optimizer"]
    assert study.problem.search_space.get("lr").scale_type.name == "LOG"
    assert study.problem.metric_information.item().name == "loss"
    # The order of time, not of the file.
    assert [trial.id for trial in study.trials] == list(range(1, 25))
    assert [trial.final_measurement.metrics["loss"].value for trial in study.trials] == [1 / (i + 1) for i in range(24)]
    assert study.trials[3].final_measurement.elapsed_secs == 63
    assert study.trials[3].creation_time.isoformat() == "2026-01-04T12:00:00+00:00"
    kept = study.trials[3].metadata.ns("table")
    assert (kept["Name"], kept["out_dir"]) == ("run-3", "out/3"), "free text is no parameter, and not lost"
    assert import_corpus([path], tmp_path / "c.jsonl", metric="loss", goal="min").trials_kept == 24


def test_states_of_runs_are_those_of_mlflow(tmp_path):
    path = export(tmp_path / "runs.csv", COLUMNS, runs(8, STATES))
    trials = of(path, metric="loss", goal="min").trials
    found = [
        "infeasible" if trial.infeasible else trial.stopping_reason or ("active" if not trial.is_completed else "done")
        for trial in trials
    ]
    assert found == ["done", "active", "infeasible", "infeasible", "killed", "preempted", "preempting", "active"]


def test_the_objective_has_to_be_said(tmp_path):
    path = export(tmp_path / "runs.csv", COLUMNS, runs())
    with pytest.raises(SourceError, match=r"name it with --metric and --goal \(reported: acc, epoch, loss\)"):
        list(read(path))
    with pytest.raises(SourceError, match="does not record whether 'loss' is minimized"):
        list(read(path, metric="loss"))
    with pytest.raises(SourceError, match="no column 'f1'; columns: batch_size, lr"):
        list(read(path, metric="f1", goal="max"))


@pytest.mark.parametrize(
    ("columns", "parameters"),
    [
        (["batch_size", "lr", "train/loss", "val/acc"], 2),  # one alphabet throughout: told by the names of results
        (["size", "lr", "batch", "val_loss"], 3),  # no alphabet
        (["lr", "size", "val_loss"], 2),
        (["size", "lr", "val_loss"], 2),  # the alphabet would say 1; but `lr` repeats
        (["beta", "lr", "_runtime", "artifact", "val_loss"], 2),  # unknown names of results: told by the alphabet
    ],
)
def test_where_parameters_end(tmp_path, columns, parameters):
    rows = [["finished", *((i % 3 if k < parameters else i) + 0.5 * k for k in range(len(columns)))] for i in range(9)]
    study = of(export(tmp_path / "runs.csv", columns, rows), metric=columns[-1], goal="min")
    assert list(study.problem.search_space.parameter_names) == columns[:parameters]


@pytest.mark.parametrize(
    "columns", [["lr", "width", "bytes", "val_loss", "d", "z"], ["lr", "width", "bytes", "val_loss"]]
)
def test_columns_that_cannot_be_told_apart_are_refused_with_the_way_out(tmp_path, columns):
    rows = [["finished", *(i + 0.5 * k for k in range(len(columns)))] for i in range(6)]
    path = export(tmp_path / "runs.csv", columns, rows)
    with pytest.raises(SourceError, match=r"write runs.csv.mapping.json beside it, such as \{.*columns: lr, width"):
        list(read(path, metric="val_loss", goal="min"))
    mapping = {"trial": "Name", "status": "State", "parameters": ["lr", "width"], "objectives": {"val_loss": "min"}}
    path.with_name("runs.csv.mapping.json").write_text(json.dumps(mapping))
    assert len(of(path).trials) == 6


def test_each_sweep_is_a_study(tmp_path):
    path = export(tmp_path / "runs.csv", ["lr", "loss"], [["finished", 0.1 * i, i] for i in range(1, 7)])
    path.write_text(path.read_text().replace('"s1","0.1"', '"s2","0.1"').replace('"s1","0.2"', '"s2","0.2"'))
    studies = [record for record in read(path, metric="loss", goal="min") if not isinstance(record, Quarantined)]
    assert {study.problem.metadata.ns("optformer")["study_id"]: len(study.trials) for study in studies} == {
        "s1": 4,
        "s2": 2,
    }


def test_the_script_of_the_documentation_for_the_api(tmp_path):
    path = tmp_path / "project.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "summary", "config", "name"])
        for i in range(6):
            summary = {"loss": float("nan") if i == 2 else 1.0 / (i + 1), "_step": 9, "curve": [1.0, float("inf")]}
            config = {"lr": 10.0**-i, "model": {"layers": 1 + i, "kind": "nan, 'inf'"}, "seed": 3, "_wandb": {}}
            writer.writerow([i, {} if i == 4 else summary, "torn {" if i == 5 else config, f"run-{i}"])
    left_out, study = read(path, metric="loss", goal="min")
    assert left_out.reason == "unreadable line: the cell of 'config' is not a dictionary"
    assert list(study.problem.search_space.parameter_names) == ["lr", "model/layers"]
    constants = study.problem.metadata.ns("optformer").ns("constants")
    assert dict(constants) == {"seed": "3", "model/kind": "nan, 'inf'"}
    assert [trial.parameters["model/layers"].value for trial in study.trials] == [1, 2, 3, 4, 5]
    assert [trial.metadata.ns("table")["name"] for trial in study.trials] == [f"run-{i}" for i in range(5)]
    assert study.trials[1].final_measurement.metrics["loss"].value == 0.5
    assert study.trials[2].infeasibility_reason == "loss is not a number"
    assert [trial.is_completed for trial in study.trials] == [True, True, True, True, False]
    with pytest.raises(SourceError, match="no result 'f1'; results: loss, curve"):
        list(read(path, metric="f1", goal="max"))


def test_a_table_of_nobody_still_needs_a_mapping(tmp_path):
    (tmp_path / "own.csv").write_text("number,rate,loss\n0,0.1,1.0\n")
    with pytest.raises(SourceError, match=r"own\.csv\.mapping\.json beside it or give --mapping"):
        list(read(tmp_path / "own.csv"))


def test_the_chart_of_a_metric_is_no_table_of_runs(tmp_path):
    columns = [f"run-{i} - loss{suffix}" for i in range(3) for suffix in ("", "__MIN", "__MAX")]
    with (path := tmp_path / "chart.csv").open("w") as file:
        csv.writer(file).writerows([["Step", *columns], [1, *([0.5] * 9)]])
    with pytest.raises(SourceError, match=r"the CSV of a chart of W&B, .*; export the table of runs instead"):
        list(read(path, metric="loss", goal="min"))


def test_free_text_of_runs_by_the_api(tmp_path):
    with (path := tmp_path / "project.csv").open("w") as file:
        rows = [[{"loss": 1 / (i + 1)}, {"lr": 0.1 + i, "out": f"out/{i}"}, f"run-{i}"] for i in range(30)]
        csv.writer(file).writerows([["summary", "config", "name"], *rows])
    study = of(path, metric="loss", goal="min")
    assert list(study.problem.search_space.parameter_names) == ["lr"]
    assert study.trials[4].metadata.ns("table")["out"] == "out/4"


# --- Ray Tune ---------------------------------------------------------------------------------------------------------


def ray_frame(path: Path) -> Path:
    """The columns of `results.get_dataframe()`; the last trial ended without its metric."""
    with path.open("w") as file:
        own = ["loss", "timestamp", "training_iteration", "time_total_s", "pid", "done", "trial_id"]
        writer = csv.writer(file)
        writer.writerow(["", *own, "config/lr", "config/model/layers", "config/seed", "config/folder", "logdir"])
        for i in range(30):
            loss = "" if i == 29 else 1 / (i + 1)
            facts = [loss, 1_700_000_000 + i, 5, 60.5 + i, 4000 + i, True, f"a1b2c_{i:05}"]
            writer.writerow([i, *facts, 10.0 ** -(1 + i % 4), 1 + i % 3, 7, f"out/{i}", f"/tmp/{i}"])
    return path


def test_a_data_frame_of_ray(tmp_path):
    study = of(ray_frame(tmp_path / "ray.csv"), metric="loss", goal="min")
    parameters = {config.name: config for config in study.problem.search_space.parameters}
    assert list(parameters) == ["lr", "model/layers"]
    assert (parameters["lr"].scale_type.name, parameters["model/layers"].bounds) == ("LOG", (1, 3))
    assert study.problem.metadata.ns("optformer").ns("constants")["seed"] == "7"
    third = study.trials[2]
    assert third.parameters.as_dict() == {"lr": 1e-3, "model/layers": 3}
    assert (third.final_measurement.metrics["loss"].value, third.final_measurement.elapsed_secs) == (1 / 3, 62.5)
    kept = third.metadata.ns("table")
    assert (kept["trial_id"], kept["folder"]) == ("a1b2c_00002", "out/2")
    assert study.trials[29].status.name == "ACTIVE"


def test_the_objective_of_a_data_frame_of_ray_has_to_be_said(tmp_path):
    path = ray_frame(tmp_path / "ray.csv")
    with pytest.raises(SourceError, match=r"name it with --metric and --goal \(reported: loss\)"):
        list(read(path))
    with pytest.raises(SourceError, match="no result 'accuracy'; results: loss"):
        list(read(path, metric="accuracy", goal="max"))


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def searched(path: Path, scores: dict[str, float], more: dict[str, list] | None = None) -> Path:
    """As `DataFrame(search.cv_results_).to_csv`; where the kernel is linear, there is no gamma, and one fit failed."""
    rows, rng = [], np.random.default_rng(1)
    for i, c in enumerate(10.0 ** np.arange(-10, 10)):
        kernel = "linear" if i == 4 else "rbf" if i == 3 else rng.choice(["linear", "rbf"])
        gamma = "" if kernel == "linear" else 10.0 ** -(1 + i % 4)
        values = {"mean_fit_time": 0.1, "param_C": c, "param_gamma": gamma, "param_kernel": kernel, "params": "{...}"}
        for name, best in scores.items():
            values |= {f"split0_test_{name}": best, f"mean_test_{name}": "" if i == 3 else best - i}
        rows.append(values | {name: column[i] for name, column in (more or {}).items()})
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_results_of_a_search_of_scikit_learn(tmp_path):
    study = of(searched(tmp_path / "cv_results.csv", {"score": 0.9}))
    (metric,) = study.problem.metric_information
    assert (metric.name, metric.goal.name) == ("score", "MAXIMIZE")
    (kernel,) = [config for config in study.problem.search_space.parameters if config.name == "kernel"]
    assert [child.name for child in kernel.subspace("rbf").parameters] == ["gamma"]
    assert study.problem.search_space.get("C").scale_type.name == "LOG"
    assert [trial.final_measurement.metrics["score"].value for trial in study.trials[:3]] == [0.9, 0.9 - 1, 0.9 - 2]
    assert study.trials[3].infeasibility_reason == "no objective", "its fit failed"
    assert study.trials[4].parameters.as_dict() == pytest.approx({"C": 1e-6, "kernel": "linear"})


def test_one_of_several_scores(tmp_path):
    path = searched(tmp_path / "cv_results.csv", {"r2": 0.9, "neg_rmse": -4.0})
    with pytest.raises(SourceError, match=r"name it with --metric and --goal \(reported: neg_rmse, r2\)"):
        list(read(path))
    for metric in ("neg_rmse", "mean_test_neg_rmse"):
        (found,) = of(path, metric=metric).problem.metric_information
        assert (found.name, found.goal.name) == ("neg_rmse", "MAXIMIZE")
    with pytest.raises(SourceError, match="no result 'f1'; results: r2, neg_rmse"):
        list(read(path, metric="f1"))


def test_what_a_candidate_was_given_is_a_parameter(tmp_path):
    path = searched(tmp_path / "cv_results.csv", {"score": 0.9}, {"n_resources": [20, 60] * 10})
    assert of(path).problem.search_space.get("n_resources").bounds == (18, 62)
