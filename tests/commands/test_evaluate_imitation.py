"""`optformer evaluate imitation` from the command line to the page."""

import json
from pathlib import Path

import pytest

from optformer.cli import main
from optformer.evaluate.imitation import trajectories
from optformer.page import PAGE


@pytest.mark.slow
def test_the_command_compares_and_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chosen = [trajectories.ImitationProblem("LinearSlope", 11, 3), trajectories.ImitationProblem("SumOfPowers", 12, 3)]
    monkeypatch.setattr(trajectories, "problems", lambda per_function, largest: chosen)
    out = tmp_path / "out"
    call = ["evaluate", "imitation", "--checkpoint", "nano", "--out", str(out), "--trials", "30"]
    call += ["--teachers", "random_search,hill_climb"]
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert "Teacher identified by the model" in printed

    figures = json.loads((out / "imitation.json").read_text())
    assert figures["teachers"] == ["random_search", "hill_climb"]
    matrix = figures["identification"]["matrix"]
    assert [sum(row) for row in matrix] == pytest.approx([1, 1])
    assert [entry["trials"] for entry in figures["progress"]["hill_climb"]] == [20, 30]
    assert figures["nature"]["hill_climb"]["one parameter from the best"]["teacher"] == 1.0
    for of_teacher in figures["divergence"].values():
        assert of_teacher["model"] >= 0
    page = (out / PAGE).read_text()
    assert "named hill climb" in page
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "densities.png", "scatter.png"}
    lines = (out / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 2 + 2 * 2 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "huge"], "--budget is 'huge'"),
        (["--trials", "10"], "--trials must be at least 30"),
        (["--largest-dimension", "1"], "--largest-dimension must be between"),
        (["--teachers", "random_search,annealing"], "no teacher 'annealing'"),
        (["--teachers", "random_search"], "two or more different names"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "imitation", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
