"""What is logged: means over windows, and lines that survive a kill."""

import json
import sys

import pytest

from optformer.train.metrics import MetricsLog, Window, describe, read_metrics


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


def test_figures_in_one_line():
    values = {"function_loss": 6.5, "function_density": 0.25, "learning_rate": 1e-3, "tokens_per_second": 41200.0}
    assert describe(values) == "function 6.500  density +0.250  lr 1.0e-03  41.2k tokens/s"
    assert describe({"policy_loss": 4.0, "tokens_per_second": 412.3}) == "policy 4.000  412 tokens/s"
