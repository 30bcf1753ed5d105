"""HPO-B's protocol and published curves in the comparison; a formula stands for the surrogates, which need XGBoost."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from optformer.cli import main
from optformer.data.problems import hpob_surrogates
from optformer.evaluate.optimization import hpob_protocol, running
from optformer.evaluate.optimization.hpob_protocol import HPOBProblem, load_published

STARTS = hpob_surrogates.STARTS


class Formula:
    """What `load_surrogate` gives, as far as it is asked."""

    def num_features(self) -> int:
        return 2

    def inplace_predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(0.9 - (rows[:, 0] - 0.3) ** 2 - 0.2 * rows[:, 1])


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three data sets in HPO-B's layout: two of the test split, one of them with starts, and one of training."""
    folder = tmp_path / "hpob"
    (folder / "saved-surrogates").mkdir(parents=True)
    (folder / "hpob-data").mkdir()
    for name in ("5860-14965", "5860-9976", "5860-31"):
        (folder / "saved-surrogates" / f"surrogate-{name}.json").write_text("{}")
    ranges = {f"surrogate-5860-{each}": {"y_min": 0.1, "y_max": 0.9} for each in ("14965", "9976", "31")}
    (folder / "saved-surrogates" / "summary-stats.json").write_text(json.dumps(ranges))
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(30, 2))
    rows = {"5860": {"14965": {"X": x.tolist(), "y": (0.1 + 0.5 * x[:, :1]).tolist()}}}
    (folder / "hpob-data" / "meta-test-dataset.json").write_text(json.dumps(rows))
    starts = {"5860": {"14965": {name: list(range(5 * k, 5 * k + 5)) for k, name in enumerate(STARTS)}}}
    (folder / "hpob-data" / "bo-initializations.json").write_text(json.dumps(starts))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=importlib.util.find_spec: found(name) or True)
    monkeypatch.setattr(hpob_surrogates, "load_surrogate", lambda path: Formula())
    hpob_surrogates.load_archive.cache_clear()
    return folder


def curves(length: int = 101, best: float = 0.6) -> dict[str, list[float]]:
    return {name: np.linspace(best, 1.0, length).tolist() for name in STARTS}


def test_the_suite_is_the_test_split_and_starts_are_the_published_ones(archive: Path):
    found = hpob_protocol.suite(str(archive), 10)
    assert [(problem.name, problem.starts) for problem in found] == [
        ("hpob 5860/14965", True),
        ("hpob 5860/9976", False),
    ]
    assert [problem.name for problem in hpob_protocol.suite(str(archive), 1)] == ["hpob 5860/14965"]
    problem = found[0]
    experimenter = problem.experimenter(0)
    first = problem.first_trials(experimenter, 7, seed=2)
    assert [trial.id for trial in first] == list(range(1, 8))
    content = json.loads((archive / "hpob-data" / "meta-test-dataset.json").read_text())["5860"]["14965"]
    shown = np.array([[trial.parameters["x0"].value, trial.parameters["x1"].value] for trial in first])
    np.testing.assert_allclose(shown[:5], content["X"][10:15])
    values = problem.judged(first)
    np.testing.assert_allclose(values[:5], (np.array(content["y"][10:15])[:, 0] - 0.1) / 0.8, rtol=1e-9)
    expected = np.clip((Formula().inplace_predict(shown[5:]) - 0.1) / 0.8, 0.0, 1.0)
    np.testing.assert_allclose(values[5:], expected)
    other = found[1].first_trials(found[1].experimenter(0), 5, seed=0)
    assert len({trial.parameters["x0"].value for trial in other}) == 5
    assert (problem.scale().reference, problem.scale().best) == (0.0, 1.0)


def test_published_curves_stand_beside_runs(archive: Path, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "vizier.json").write_text(json.dumps({"5860": {"14965": curves(), "9976": curves()}}))
    (tmp_path / "curves" / "other.json").write_text(json.dumps({"4796": {"23": curves()}}))

    def here(jobs, plan, journal, *_):
        for job in jobs:
            outcome = journal.outcomes[job.key] = running.Outcome(job.key)
            running.carry_out(job, plan, lambda kind, content, outcome=outcome: running._take(outcome, kind, content))

    monkeypatch.setattr(running, "run_all", here)
    call = [
        "evaluate",
        "optimization",
        "--out",
        str(tmp_path / "out"),
        "--problems",
        "hpob",
        "--hpob-dir",
        str(archive),
    ]
    call += ["--optimizers", "random_search,tpe", "--trials", "15", "--seeds", "2", "--budget", "large"]
    assert main([*call, "--published", str(tmp_path / "curves")]) == 0
    printed = capsys.readouterr().out
    assert "First trials are random for problems without HPO-B's starts in the folder: hpob 5860/9976" in printed
    assert "other (published) has no curves" in printed
    assert "Problems that vizier (published) ran on" in printed
    figures = json.loads((tmp_path / "out" / "optimization.json").read_text())
    assert figures["problems"] == ["hpob 5860/14965", "hpob 5860/9976"]
    assert figures["optimizers"] == ["random_search", "tpe"], "no curve where the start is another one"

    # With the problem alone that has its starts, the published one is among all the others.
    monkeypatch.setattr(hpob_protocol, "HELD_OUT", {"5860": (14965,)})
    call[3] = str(tmp_path / "one")
    assert main([*call, "--published", str(tmp_path / "curves" / "vizier.json")]) == 0
    figures = json.loads((tmp_path / "one" / "optimization.json").read_text())
    assert figures["optimizers"] == ["random_search", "tpe", "vizier (published)"]
    assert figures["regret"]["15"]["vizier (published)"]["mean"] == pytest.approx(1.0 - np.linspace(0.6, 1.0, 101)[10])


def test_a_published_curve_is_as_if_it_had_been_run(tmp_path: Path):
    file = tmp_path / "gp.json"
    file.write_text(json.dumps({"5860": {"9976": curves(11)}}))
    [gp] = load_published(file)
    assert gp.name == "gp (published)"
    problem = HPOBProblem(tmp_path, "5860", "9976")
    values = gp.values(problem, seeds=3, trials=15)
    assert len(values) == 3
    np.testing.assert_allclose(values[0], [0.6] * 5 + np.linspace(0.6, 1.0, 11)[1:].tolist())
    assert gp.values(problem, seeds=3, trials=16) == [], "too short"
    assert gp.values(HPOBProblem(tmp_path, "5860", "14965"), seeds=1, trials=6) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "an object of search spaces is expected"),
        ("{", "not JSON"),
        ('{"5860": {}}', "an object of data sets of search space 5860"),
        ('{"5860": {"31": {"test0": []}}}', "5860/31, test0: a list of numbers"),
        ('{"5860": {"31": {"test0": [0.1, NaN]}}}', "5860/31, test0: not every value is a finite number"),
        ('{"5860": {"31": {"test0": [0.5, 0.4]}}}', "5860/31, test0: the best so far gets worse"),
    ],
)
def test_what_is_no_file_of_curves_is_told(content: str, message: str, tmp_path: Path):
    file = tmp_path / "gp.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="gp.json: .*" + message):
        load_published(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--problems", "hpob"], "--hpob-dir DIR"),
        (["--problems", "bbob", "--published", "x", "--first-trials", "4"], "--published needs --first-trials 5"),
        (["--problems", "bbob", "--published", "nowhere"], "nowhere: no file of published curves"),
    ],
)
def test_mistakes_are_told_in_one_line(options: list[str], message: str, tmp_path: Path, capsys):
    assert main(["evaluate", "optimization", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
