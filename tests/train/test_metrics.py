"""What is logged: means over windows, lines that survive a kill, and the plain progress lines."""

import io
import json
import sys

import pytest

from optformer.train.metrics import MetricsLog, Window, read_metrics
from optformer.train.progress import Progress


def sums(policy: float, weight: float) -> dict[str, float]:
    return {
        "steps": 1.0,
        "loss": 2.0,
        "policy_loss": policy * weight,
        "policy_weight": weight,
        "function_loss": 0.0,
        "function_weight": 0.0,
    }


def test_losses_are_means_over_tokens_not_over_steps():
    window = Window()
    window.add(sums(policy=1.0, weight=1.0))
    window.add(sums(policy=4.0, weight=3.0))
    means = window.means()
    assert means["policy_loss"] == pytest.approx(13 / 4)
    assert means["loss"] == 2.0
    assert "function_loss" not in means  # no token of that kind had weight


def test_a_window_goes_on_from_its_saved_sums():
    whole, first = Window(), Window()
    for window in (whole, first):
        window.add(sums(0.1, 3.0))
    second = Window(json.loads(json.dumps(first.sums)))
    for window in (whole, second):
        window.add(sums(0.7, 2.0))
    assert second.means() == whole.means()


def test_lines_beyond_the_restored_step_and_torn_lines_go(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, "train", {"loss": float(step)})
    log.write(4, "validation_prior", {"loss": 0.5})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "kind": "tra')
    log = MetricsLog(tmp_path, 2)
    log.write(3, "train", {"loss": 30.0})
    log.close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert read_metrics(tmp_path / "metrics.jsonl", "validation_prior") == []


def test_tensorboard_gets_the_same_numbers(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, "train", {"loss": 0.25})
    log.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_without_tensorboard_the_lines_remain(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log = MetricsLog(tmp_path, 0)
    assert log.tensorboard_missing
    log.write(1, "train", {"loss": 0.25})
    log.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_off_a_terminal_progress_is_plain_lines():
    stream = io.StringIO()
    with Progress(total=4, done=1, stream=stream) as bar:
        bar.say("training")
        for step in (2, 3, 4):
            bar.update(step, {"function_loss": 6.5, "function_density": 0.25, "tokens_per_second": 41200.0})
    assert stream.getvalue().splitlines() == ["training", "step 4/4  function 6.500  density +0.250  41.2k tokens/s"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_without_rich_lines():
    stream = Terminal()
    with Progress(total=2, done=0, stream=stream) as bar:
        bar.update(1, {"function_loss": 6.5})
        bar.say("[half] way")
        bar.update(2)
    assert "2/2" in stream.getvalue()
    assert "[half] way" in stream.getvalue()


def test_on_a_terminal_without_rich_there_are_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    stream = Terminal()
    with Progress(total=1, done=0, stream=stream) as bar:
        bar.update(1, {"function_loss": 6.5})
    assert stream.getvalue() == "step 1/1  function 6.500\n"
