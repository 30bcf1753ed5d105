"""`optformer evaluate optimization` from the command line to the page."""

import json
from pathlib import Path

import pytest

from optformer.cli import main
from optformer.evaluate.optimization import problems
from optformer.page import PAGE

pytestmark = pytest.mark.integration

OPTIMIZERS = "optformer_policy,random_search,eagle_strategy,tpe"


@pytest.fixture
def two_small_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = [problems.BBOBProblem("SumOfPowers", 2), problems.BBOBProblem("LinearSlope", 2, "mixed")]
    monkeypatch.setattr(problems, "bbob_suite", lambda per_function: suite)


def test_the_command_compares_resumes_and_reports(
    two_small_problems: None, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    call = ["evaluate", "optimization", "--checkpoint", checkpoint, "--out", str(out), "--optimizers", OPTIMIZERS]
    call += ["--problems", "bbob,yahpo", "--trials", "9", "--first-trials", "4", "--seeds", "1"]
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert "2 problems x 1 seeds" in printed
    assert "name a folder of scenarios with --yahpo-dir" in printed

    figures = json.loads((out / "optimization.json").read_text())
    assert set(figures["optimizers"]) == set(OPTIMIZERS.split(","))
    assert figures["at"] == [9]
    for name in figures["optimizers"]:
        regret = figures["regret"]["9"][name]
        assert 0 <= regret["low"] <= regret["mean"] <= regret["high"]
        curve = figures["curves"][name]
        assert len(curve) == 9
        assert curve == sorted(curve, reverse=True)
        assert curve[:4] == figures["curves"]["tpe"][:4], "the first trials are shared"
        assert figures["seconds"][name] > 0
    assert sum(figures["rank"]["9"][name]["mean"] for name in figures["optimizers"]) == pytest.approx(10)
    page = (out / PAGE).read_text()
    for text in ("OptFormer (policy)", "Vizier Eagle", "LinearSlope 2d mixed", "Nemenyi"):
        assert text in page
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "reached.png", "ranks.png"}

    lines = (out / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 2 + 2 * 4
    assert main(call) == 0
    assert (out / "runs.jsonl").read_text().splitlines() == lines, "nothing is run twice"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--problems", "bbob,hpobench"], "--problems names 'hpobench'"),
        (["--problems", "yahpo"], "no problem can be run"),
        (["--budget", "huge"], "--budget is 'huge'"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--optimizers", "tpe,nothing"], "no optimizer 'nothing'"),
        (["--first-trials", "50"], "first trials"),
        (["--checkpoint", "giant"], "giant"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "optimization", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
