"""The examples run as they are, each in a process of its own, in small."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.integration


def run(name: str, size: int, folder: Path) -> str:
    """What the example prints; warnings of Python are errors."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), str(size)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers that the pattern's group matches."""
    return [float(each) for each in re.findall(pattern, text)]


def test_the_list_names_every_example_and_each_is_short():
    scripts = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    listed = re.findall(r"^\| \[(\w+\.py)\]\(\1\)", (EXAMPLES / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(scripts)
    assert {name for name, text in scripts.items() if not 20 <= text.count("\n") <= 60} == set()


def test_a_plain_loop_goes_on_from_its_journal(tmp_path):
    first = run("plain_loop.py", 3, tmp_path)
    second = run("plain_loop.py", 2, tmp_path)
    assert first.startswith("0 trials are in the journal\nbest of 3 trials")
    assert second.startswith("3 trials are in the journal\nbest of 5 trials")
    (before,), (after,) = (numbers(r"accuracy ([\d.]+)", text) for text in (first, second))
    assert 0.6 < before <= after


def test_pruners_of_optuna_and_of_optformer_spend_no_more_epochs_than_none(tmp_path):
    printed = run("optuna_with_pruner.py", 7, tmp_path)
    assert re.findall(r"^\w+Pruner", printed, flags=re.MULTILINE) == ["NopPruner", "MedianPruner", "OptFormerPruner"]
    assert all(best > 0.5 for best in numbers(r"accuracy ([\d.]+)", printed))
    whole, median, own = numbers(r"(\d+) epochs", printed)
    assert whole == 7 * 12
    assert 0 < median <= whole  # so few trials need not have a bad one
    assert 0 < own <= whole


def test_two_workers_tune_over_the_service_and_it_stops(tmp_path):
    printed = run("vizier_service.py", 6, tmp_path)
    assert "best of 6 trials" in printed
    assert "stopped with exit code 0" in printed


def test_a_study_is_told_of_earlier_ones(tmp_path):
    printed = run("earlier_studies.py", 3, tmp_path)
    without, told = re.findall(r"told of (\d) earlier studies: accuracy(?: 0\.\d+){3}, best 0\.\d+", printed)
    assert (without, told) == ("0", "3")


def test_a_prediction_has_a_value_an_interval_and_a_picture(tmp_path):
    printed = run("read_a_prediction.py", 8, tmp_path)
    found = re.findall(
        r"expected ([\d.]+), with 90 % between ([\d.]+) and ([\d.]+); better than the best with (\d+)%", printed
    )
    assert len(found) == 3
    for median, low, high, chance in (map(float, each) for each in found):
        assert low <= median <= high
        assert 0 <= chance <= 100
    assert (tmp_path / "prediction.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_model_learns_from_an_optuna_database(tmp_path):
    printed = run("finetune_on_logs.py", 50, tmp_path)
    assert len(numbers(r"mean log density of 15 unseen trials (-?[\d.]+) nats", printed)) == 2
