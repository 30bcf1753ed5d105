"""Suites of real problems: what they are made of, their scales, and what is told of a comparison."""

import collections
import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.cli import main
from optformer.data.problems import bbob, yahpo
from optformer.evaluate.calibration.data_sets import suite_studies
from optformer.evaluate.optimization import objective_values, real_report, real_suites
from optformer.evaluate.optimization.optimizers import Optimizer
from optformer.evaluate.optimization.problems import Scale
from optformer.evaluate.optimization.running import Job, Outcome
from optformer.page import PAGE

pytestmark = pytest.mark.integration

SPACE = [
    {"name": "x", "type": "float", "low": 0.0, "high": 1.0},
    {"name": "kind", "type": "categorical", "choices": ["a", "b"]},
]


def write_tables(folder: Path) -> Path:
    """Two tables for training, of two groups, and one for validation; the best row of each has the value 0."""
    rng = np.random.default_rng(0)
    rows = [[float(x), "ab"[i % 2]] for i, x in enumerate(rng.uniform(size=80))]
    values = [round(-float((x - 0.3) ** 2 + (kind == "b")), 4) for x, kind in rows]
    values[7], values[8] = 0.0, None

    def table(name: str, group: str) -> str:
        whole = {"name": name, "group": group, "metric": "gain", "goal": "maximize", "space": SPACE}
        return json.dumps(whole | {"rows": rows, "values": values}) + "\n"

    folder.mkdir()
    (folder / "train.jsonl").write_text(table("toy/one", "ones") + table("toy/two", "twos"))
    (folder / "validation.jsonl").write_text(table("toy/kept", "kept"))
    return folder


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of YAHPO's files: a scenario of 20 data sets, one of a single data set, and one that is held out."""

    def made(folder: str, *, held_out: bool) -> list[yahpo.Task]:
        first = 100 if held_out else 200
        many = [(f"{first + index}", metric) for index in range(20) for metric in ("acc", "auc")]
        return [
            *(yahpo.Task(Path(folder) / "many", *each) for each in many),
            *(yahpo.Task(Path(folder) / "few", f"{first}", metric) for metric in ("mmce", "auc", "logloss")),
            yahpo.Task(Path(folder) / "lcbench", f"{first}", "val_accuracy"),
        ]

    flat = SimpleNamespace(search_space=lambda: SimpleNamespace(is_conditional=False))
    monkeypatch.setattr(yahpo, "tasks", made)
    monkeypatch.setattr(yahpo, "load_scenario", lambda folder: flat)


def test_a_suite_has_some_of_every_kind_and_shares_nothing_with_the_one_for_choices(tasks: None, tmp_path: Path):
    folder = write_tables(tmp_path / "tables")
    suites = {name: real_suites.suite(name, str(tmp_path), str(folder)) for name in real_suites.SUITES}
    real, train = suites.values()
    assert collections.Counter(problem.kind for problem in real) == {"many": 17, "few": 3, "toy": 1, "bbob": 48}
    assert collections.Counter(problem.kind for problem in train) == {"many": 3, "few": 3, "toy": 2, "bbob": 16}
    assert len({problem.kind for problem in real[:4]}) == 4, "every beginning has some of all kinds"
    assert not {problem.name for problem in real} & {problem.name for problem in train}
    assert {problem.function for problem in real if problem.family == "bbob"} == set(bbob.TRAIN)
    many = [problem.task for problem in real if problem.kind == "many"]
    assert len({task.instance for task in many}) == 17, "first one metric of each data set"
    assert {task.metric for task in many} == {"acc", "auc"}
    assert [len(problem.seeds) for problem in [*real, *train] if problem.family == "tables"] == [4, 1, 1]
    for problem in real:
        assert pickle.loads(pickle.dumps(problem)) == problem
    again = real_suites.suite("real", str(tmp_path), str(folder))
    assert [problem.name for problem in again] == [problem.name for problem in real]
    (folder / "validation.jsonl").unlink()
    with pytest.raises(ValueError, match="no measured table for the suite real"):
        real_suites.suite("real", str(tmp_path), str(folder))


class Line(experimenters.Experimenter):
    """Maximize x in [0, 1]; so much of the upper end fails."""

    def __init__(self, failing: float):
        self.failing = failing

    def problem_statement(self) -> vz.ProblemStatement:
        problem = vz.ProblemStatement()
        problem.search_space.root.add_float_param("x", 0.0, 1.0)
        problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
        return problem

    def evaluate(self, suggestions):
        for trial in suggestions:
            x = trial.parameters["x"].value
            if x > 1 - self.failing:
                trial.complete(vz.Measurement(), infeasibility_reason="too far")
            else:
                trial.complete(vz.Measurement({"y": x}))


@pytest.mark.parametrize("failing", [0.0, 0.5])
def test_regret_1_is_the_median_best_of_ten_random_trials_and_0_what_a_search_finds(failing: float):
    scale = real_suites.searched_scale(Line(failing))
    assert scale.best == pytest.approx(1 - failing, abs=2e-3)
    drawn = np.random.default_rng(0).uniform(size=(10_000, 10))
    bests = np.where(drawn <= 1 - failing, drawn, 0.0).max(axis=1)
    assert scale.reference == pytest.approx(np.median(bests), abs=0.01)
    with pytest.raises(ValueError, match="the regret has no scale"):
        real_suites.searched_scale(Line(0.999))


def test_the_best_of_a_table_is_its_best_row_and_its_studies_are_its_rows(tmp_path: Path):
    file = write_tables(tmp_path / "tables") / "train.jsonl"
    problem = real_suites.MeasuredTable(file, "toy/one", runs=2)
    scale = problem.scale()
    assert scale.reference < scale.best == 0.0
    studies = list(suite_studies([problem], trials=30))
    assert [(study.group, len(study.study.trials)) for study in studies] == [("ones", 30)] * 2
    rows = {tuple(row.values()): value for row, value in zip(problem.table().rows, problem.table().values, strict=True)}
    for study in studies:
        asked = [tuple(trial.parameters.as_dict().values()) for trial in study.study.trials]
        assert len(set(asked)) == 30, "each row once"
        np.testing.assert_array_equal(
            objective_values(study.study.problem, study.study.trials), [rows[each] for each in asked]
        )


def outcomes_of(
    problems: list[real_suites.RealProblem], values: dict[str, list[float]], trials: int = 50
) -> tuple[dict[str, Optimizer], dict[str, Outcome], dict[str, Scale]]:
    """Runs that have one value throughout, on problems of which the best is 1 and the reference 0."""
    optimizers = {name: Optimizer(name) for name in values}
    outcomes = {
        job.key: Outcome(job.key, values=[1.0 - values[name][place]] * trials, seconds=[0.5])
        for name, optimizer in optimizers.items()
        for place, problem in enumerate(problems)
        for seed in problem.seeds
        for job in [Job(problem, optimizer, seed)]
    }
    return optimizers, outcomes, {problem.name: Scale(reference=0.0, best=1.0) for problem in problems}


def test_differences_are_paired_by_problem_and_traps_told_with_their_errors():
    problems = [real_suites.BBOBFunction(name, 7) for name in ("Sphere", "Discus", "Schwefel")]
    values = {"own": [0.1, 0.5, 0.9], "random_search": [0.2, 0.5, 0.7], "tpe": [0.3, 0.6, 0.9]}
    optimizers, outcomes, scales = outcomes_of(problems, values)
    result = real_report.result_of("free", outcomes, scales, problems, optimizers)
    difference = np.array(values["tpe"]) - np.array(values["own"])
    figures = result.figures()["regret"]["bbob"]["10"]["tpe"]
    assert figures["mean"] == pytest.approx(0.6)
    assert figures["more_than_first"] == pytest.approx(difference.mean())
    assert figures["error"] == pytest.approx(difference.std(ddof=1) / np.sqrt(3))
    assert result.seconds == {"own": 0.5, "random_search": 0.5, "tpe": 0.5}
    assert not result.trapped.get("random_search")
    assert [(trap.kind, trap.trials) for trap in result.trapped["own"]] == [("bbob", at) for at in (10, 25, 50)]
    assert not result.trapped["own"][0].sure
    assert result.trapped["tpe"][0].sure
    assert "by more than two standard errors 3 times: bbob after 10 (+0.133 ± 0.033)" in real_report.trap_line(
        result.trapped["tpe"], "tpe"
    )


def test_bars_are_for_the_first_optimizer_against_the_best_of_the_others(tmp_path: Path):
    file = write_tables(tmp_path / "tables") / "train.jsonl"
    problems = [real_suites.MeasuredTable(file, name) for name in ("toy/one", "toy/two")]
    optimizers, outcomes, scales = outcomes_of(problems, {"own": [0.3] * 2, "tpe": [0.35] * 2, "gp": [0.4] * 2})
    result = real_report.result_of("free", outcomes, scales, problems, optimizers)
    assert result.regrets.values.shape == (2, 3, 1, 50), "the mean of four seeds is one figure"
    rows = real_report.bar_table(result.of_family, "Free").rows
    assert [(row[1], row[4], row[-1]) for row in rows] == [
        ("5", "Optuna TPE", "yes"),
        ("10", "Optuna TPE", "no"),  # .3 is not below .8 of .35
        ("25", "Optuna TPE", "yes"),
        ("50", "Optuna TPE", "yes"),
    ]
    alone = real_report.result_of("free", outcomes, scales, problems, {"own": optimizers["own"]})
    assert [table.title for table in alone.tables()] == [
        "Each from its first trial, all: 2 problems, mean regret",
        "Each from its first trial, tables: 2 problems, mean regret",
    ]
    incomplete = {key: outcome for key, outcome in outcomes.items() if not key.startswith("toy/two | gp")}
    left = real_report.result_of("free", incomplete, scales, problems, optimizers)
    assert left.regrets.problems == ["toy/one"], "all seeds of all optimizers, or the problem does not count"


def test_the_command_runs_both_settings_of_two_checkpoints_and_resumes(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = write_tables(tmp_path / "tables") / "validation.jsonl"
    problems = [real_suites.MeasuredTable(file, "toy/kept", runs=2)]
    monkeypatch.setattr(real_suites, "suite", lambda *arguments: problems)
    monkeypatch.setattr(real_report, "TRIALS", 7)
    monkeypatch.setattr(real_report, "AT", (5, 7))
    monkeypatch.setattr(real_report, "TRAPS_AT", (7,))
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    config["card"]["max_trials"] = 99  # another fingerprint
    (other / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    call = ["evaluate", "optimization", "--suite", "real", "--out", str(out), "--yahpo-dir", str(tmp_path)]
    call += [
        "--processes",
        "1",
        "--tables",
        str(file.parent),
        "--optimizers",
        "optformer,random_search,tpe",
        "--checkpoint",
        checkpoint,
    ]
    assert main([*call, "--checkpoint", str(other)]) == 0
    printed = capsys.readouterr().out
    for text in ("Each from its first trial, tables: 1 problems", "bars of random-tiny", "after 7"):
        assert text in printed
    figures = json.loads((out / "optimization.json").read_text())
    free = figures["settings"]["free"]
    assert list(free["regret"]["tables"]["7"]) == ["random-tiny", "other", "random_search", "tpe"]
    assert set(free["worse_than_random"]) == {"random-tiny", "other", "tpe"}
    shared = figures["settings"]["shared"]["regret"]["all"]["5"]
    assert len({each["mean"] for each in shared.values()}) == 1, "the first five trials are the same for all"
    assert (out / PAGE).exists()
    assert {path.name for path in out.glob("*.png")} == {"curves-free.png", "curves-shared.png"}

    kept = {name: (out / name / "runs.jsonl").read_text().splitlines() for name in ("free", "shared")}
    assert [len(lines) for lines in kept.values()] == [1 + 1 + 2 * 4, 1 + 2 * 4]
    assert main(call) == 0
    assert {name: (out / name / "runs.jsonl").read_text().splitlines() for name in kept} == kept, "all is kept"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "unreal"], "--suite is 'unreal'; known are real, real-train"),
        (["--suite", "real", "--tables", "t"], "--suite real needs --yahpo-dir DIR"),
        (["--suite", "real", "--yahpo-dir", "y"], "--suite real needs --tables DIR"),
        (
            ["--suite", "real", "--yahpo-dir", "y", "--tables", "t", "--seeds", "3"],
            "--suite determines --seeds: leave it out",
        ),
        (["--checkpoint", "nano-1", "--checkpoint", "default"], "several checkpoints are compared with --suite only"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "optimization", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
