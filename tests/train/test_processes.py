"""Runs of several processes: what is agreed upon, arguments, and two real processes against one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from optformer.commands.train import main
from optformer.model import load_checkpoint
from optformer.train import processes
from optformer.train.config import ConfigError
from optformer.train.mesh import make_mesh
from optformer.train.metrics import read_metrics
from optformer.train.processes import Verdict, Votes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "host:1234"], "all three"),
        (["--num-processes", "2", "--process-id", "0"], "all three"),
        (["--coordinator", "host:1234", "--num-processes", "2", "--process-id", "2"], "must be 0 to 1"),
        (["--coordinator", "host", "--num-processes", "2", "--process-id", "1"], "has no port"),
    ],
)
def test_arguments_that_do_not_fit_together(arguments, message, tmp_path, capsys):
    assert main(["nano_cpu", "--workdir", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_arguments_may_stand_in_the_environment(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    with pytest.raises(ConfigError, match="JAX_PROCESS_ID=first is not a number"):
        processes.start()
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: joined.append(arguments))
    processes.start()
    processes.start(process_id=0)
    assert [arguments["process_id"] for arguments in joined] == [1, 0]
    assert joined[0] == {"coordinator_address": "host:1234", "num_processes": 2, "process_id": 1}


def test_one_process_joins_nothing(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: pytest.fail("joined"))
    processes.start()
    processes.start("localhost:1234", 1, 0)
    assert processes.is_first()
    assert processes.together(lambda: 3) == processes.first_only(lambda: 3) == 3
    vote = Verdict(15, True, False)
    assert Votes(make_mesh_of_all()).cast(vote) == vote


def test_a_failure_elsewhere_is_told(monkeypatch):
    """As process 1 of two, of which the other fails."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", lambda mine: np.array([[True], mine]))
    with pytest.raises(processes.OtherProcessError, match="process 0 of the run has failed"):
        processes.together(lambda: 3)
    with pytest.raises(KeyError):
        processes.together(lambda: {}["absent"])
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", lambda mine: np.stack([mine + 1, mine]))
    with pytest.raises(ConfigError, match="process 1 of the run has another config"):
        processes.check_same(b"abc", "config")


def test_votes_are_read_one_step_later(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    votes = Votes(make_mesh_of_all())
    nothing = Verdict(0, False, False)
    assert votes.cast(Verdict(15, False, True)) == nothing
    assert votes.cast(nothing) == Verdict(15, False, True)
    assert votes.cast(Verdict(0, False, True)) == nothing
    votes.forget()
    assert votes.cast(nothing) == nothing


def make_mesh_of_all():
    from optformer.train.config import MeshConfig

    return make_mesh(MeshConfig())


# --- Two processes with one device each ---


@pytest.fixture
def pair(config_file):
    """Starts the same command as processes 0 and 1 of one run."""
    started = []

    def start(workdir, *arguments: str) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "optformer.train", config_file, "--workdir", str(workdir), *arguments]
        command += ["--coordinator", address, "--num-processes", "2"]
        environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
        started[:] = [
            subprocess.Popen(
                [*command, "--process-id", str(number)], env=environment, stderr=subprocess.PIPE, text=True
            )
            for number in (0, 1)
        ]
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(pair: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    said = [process.communicate(timeout=300)[1] for process in pair]
    return [process.returncode for process in pair], said


def curve(workdir) -> np.ndarray:
    lines = read_metrics(workdir / "metrics.jsonl")
    return np.array([[line["step"], line["loss"], line["policy_loss"], line["gradient_norm"]] for line in lines])


def wait_for(workdir, lines: int, pair: list[subprocess.Popen]) -> None:
    path = workdir / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < lines:
        assert all(process.poll() is None for process in pair), ends(pair)
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_end_together_are_killed_and_resume_to_the_losses_of_one(
    pair, config_file, tmp_path, tmp_path_factory
):
    alone, run = tmp_path / "alone", tmp_path / "run"
    assert main([config_file, "--workdir", str(alone)]) == 0

    running = pair(run)
    wait_for(run, 4, running)
    running[1].send_signal(signal.SIGTERM)  # one of them hears it, both end
    codes, said = ends(running)
    assert codes == [143, 143], said
    assert "training in" in said[0]
    assert "training in" not in said[1]
    ended = len(curve(run))
    assert ended < len(curve(alone))

    running = pair(run)
    wait_for(run, ended + 12, running)
    for process in running:
        process.kill()
    ends(running)

    codes, said = ends(pair(run, "--max-minutes", "0.0001"))
    assert codes == [0, 0], said
    assert "max_minutes" in said[0]
    codes, said = ends(pair(run))
    assert codes == [0, 0], said
    assert "resuming from step" in said[0]
    assert "of 2 processes" in said[0]
    np.testing.assert_allclose(curve(run), curve(alone), rtol=1e-3)
    mine, theirs = (load_checkpoint(workdir / "export")[1] for workdir in (run, alone))
    assert mine["steps"] == theirs["steps"]
    assert mine["metrics"] == pytest.approx(theirs["metrics"], rel=1e-3)

    # What two processes wrote, one reads.
    shutil.rmtree(run / "export")
    assert main([config_file, "--workdir", str(run), "--export", str(tmp_path / "weights")]) == 0
    assert load_checkpoint(tmp_path / "weights")[1]["steps"] == mine["steps"]


@pytest.mark.slow
def test_two_processes_stop_at_a_loss_that_is_not_finite(pair, tmp_path):
    codes, said = ends(pair(tmp_path, "--set", "optimizer.learning_rate=1e30"))
    assert codes == [1, 1], said
    assert all("loss is not finite at step" in text for text in said)
    (path,) = tmp_path.glob("non_finite_step_*.npz")
    assert np.load(path)["x_tokens"].shape == (4, 6, 2)


@pytest.mark.slow
def test_processes_of_different_configs_do_not_begin(pair, config_file, tmp_path):
    running = pair(tmp_path, "--set", "corpus=/no/such/file")
    codes, said = ends(running)
    assert codes == [2, 2]
    assert "/no/such/file" in said[0]
    assert "process 0 of the run has failed" in said[1]
