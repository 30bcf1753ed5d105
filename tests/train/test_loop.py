"""Whole runs: metrics, kill and resume to the same losses, damage, limits, export, and what mistakes say."""

import dataclasses
import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from optformer.commands.train import main
from optformer.data.corpus import Corpus
from optformer.model import CheckpointError, load_checkpoint
from optformer.serialization.vocabulary import Vocabulary
from optformer.train import loop
from optformer.train.checkpoints import Checkpoints
from optformer.train.config import ConfigError
from optformer.train.loop import NonFiniteLossError, train
from optformer.train.mesh import make_mesh
from optformer.train.metrics import read_metrics
from optformer.train.step import make_steps
from optformer.train.workdir import only_run_in

pytestmark = pytest.mark.integration


def run_train(config: str, workdir: str, changes: Sequence[str] = (), **options: object) -> int:
    """`optformer train` with `--set` of each change, and `--max-minutes` and `--export` by their names."""
    words = [word for change in changes for word in ("--set", change)]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return main([config, "--workdir", workdir, *words])


def losses(workdir: Path) -> list[tuple[int, float, float, float]]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return [(line["step"], line["loss"], line["policy_loss"], line["gradient_norm"]) for line in lines]


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory):
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    assert run_train(config_file, str(workdir)) == 0
    return workdir


@pytest.fixture
def spawn(config_file):
    """Starts the same run in a process of its own, to be ended from outside."""

    def start(workdir: Path, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "optformer.train", config_file, "--workdir", str(workdir), *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    return start


def wait_for_lines(workdir: Path, count: int, process: subprocess.Popen) -> None:
    path = workdir / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def test_a_run_writes_each_step_once_and_validates(finished, config):
    assert [line[0] for line in losses(finished)] == list(range(1, config.steps + 1))
    for kind in ("validation_prior", "validation_corpus"):
        validation = read_metrics(finished / "metrics.jsonl", kind)
        assert [line["step"] for line in validation] == [4, 8, 12, 16, 20, 24]
    # The corpus is sixty studies of one kind; of the prior, 48 studies teach nothing.
    assert validation[-1]["loss"] < validation[0]["loss"]
    first = read_metrics(finished / "metrics.jsonl")[1]
    assert {"function_loss", "policy_loss", "function_density", "learning_rate", "tokens_per_second"} <= set(first)
    assert json.loads((finished / "config.json").read_text())["model"]["width"] == config.model.width
    assert list((finished / "tensorboard").iterdir())


def test_a_program_that_computes_in_64_bits_trains_to_the_same_losses(finished, config, tmp_path):
    with jax.enable_x64(True):
        train(dataclasses.replace(config, max_minutes=1e-6), tmp_path, "small_run")
    assert losses(tmp_path) == losses(finished)[:1]


def test_products_are_chosen_when_a_run_begins(config, tmp_path, monkeypatch):
    def go_on(workdir: Path, fast: bool, products: str = "auto") -> str:
        monkeypatch.setattr("optformer.train.config.has_fast_bfloat16", lambda: fast)
        train(dataclasses.replace(config, products=products, max_minutes=1e-6), workdir)
        return json.loads((workdir / "config.json").read_text())["products"]

    assert go_on(tmp_path / "a", fast=True) == "bfloat16"
    assert go_on(tmp_path / "a", fast=False) == "bfloat16"
    assert go_on(tmp_path / "a", fast=False, products="float32") == "float32"
    recorded = json.loads((tmp_path / "a" / "config.json").read_text())
    del recorded["products"]  # as an earlier release wrote it
    (tmp_path / "a" / "config.json").write_text(json.dumps(recorded))
    assert go_on(tmp_path / "a", fast=True) == "float32"
    assert go_on(tmp_path / "b", fast=False) == "float32"


def test_the_export_holds_the_average_and_a_card(finished, config):
    model, card = load_checkpoint(finished / "export")
    assert model.config == config.model
    assert card["name"] == "small_run"
    assert card["steps"] == config.steps
    assert card["studies"] == config.steps * config.batch_size
    assert card["metrics"]["validation_prior/function_loss"] > 0
    assert card["train_config"]["shape"]["trials"] == config.shape.trials


def test_a_finished_run_stays_as_it_is(finished, config_file, capsys):
    before = losses(finished), (finished / "export" / "config.json").stat().st_mtime_ns
    assert run_train(config_file, str(finished)) == 0
    assert (losses(finished), (finished / "export" / "config.json").stat().st_mtime_ns) == before
    assert "resuming from step 24" in capsys.readouterr().err


def test_killed_at_any_moment_it_resumes_to_the_same_losses(finished, spawn, tmp_path, config_file):
    chance = random.Random(os.getpid())
    process = spawn(tmp_path)
    wait_for_lines(tmp_path, chance.randint(1, 20), process)
    time.sleep(chance.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert run_train(config_file, str(tmp_path)) == 0
    assert losses(tmp_path) == losses(finished)
    kinds = [
        (line["kind"], line["step"]) for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    ]
    assert len(set(kinds)) == len(kinds)
    mine, theirs = (load_checkpoint(run / "export")[1]["metrics"] for run in (tmp_path, finished))
    assert mine == theirs


@pytest.mark.slow
def test_killed_ten_times_it_resumes_to_the_same_losses(finished, spawn, tmp_path, config_file):
    """Each time at a random moment, in the time that a leg takes from its first line to the end of the run."""
    chance = random.Random(0)
    for _ in range(10):
        process = spawn(tmp_path)
        path = tmp_path / "metrics.jsonl"
        before = path.stat().st_mtime_ns if path.exists() else 0
        while process.poll() is None and not (path.exists() and path.stat().st_mtime_ns > before):
            time.sleep(0.002)
        time.sleep(chance.random() * 0.4)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0), process.stderr.read()
        process.communicate()
    assert run_train(config_file, str(tmp_path)) == 0
    assert losses(tmp_path) == losses(finished)
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


@pytest.fixture
def compilations():
    """Counts what XLA is asked to compile, from a file of compiled code or anew."""
    seen: list[str] = []

    def note(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


def test_nothing_compiles_after_warm_up(config, tmp_path, compilations):
    """Neither steps, validations and checkpoints of a run, nor those of the run that goes on from it."""
    train(dataclasses.replace(config, max_minutes=1e-6), tmp_path)
    train(dataclasses.replace(config, max_minutes=1e-6), tmp_path)
    compilations.clear()
    train(config, tmp_path)
    assert not compilations
    steps = make_steps(config, make_mesh(config.mesh))
    assert steps.train._cache_size() == 1
    assert steps.validate._cache_size() == 1  # both sources have two studies a batch


@pytest.fixture
def small_files():
    """Limits the size of the files this process may write, which fails like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_does_not_lose_the_last_good_checkpoint(
    config_file, finished, tmp_path, monkeypatch, capsys, small_files
):
    save, calls = Checkpoints.save, itertools.count(1)

    def limited(self, *arguments):
        if next(calls) == 3:
            self.wait()
            small_files(20_000)
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", limited)
        assert run_train(config_file, str(tmp_path), ["keep=1"]) == 2
        small_files(resource.RLIM_INFINITY)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error")]
    assert f"a checkpoint in {tmp_path / 'checkpoints'} cannot be written" in line
    assert "the last complete one is of step 8" in line
    assert "free some space and run the same command again" in line
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name != "4"] == ["8"]
    assert run_train(config_file, str(tmp_path)) == 0
    assert losses(tmp_path) == losses(finished)


def test_writes_that_orbax_never_began_are_not_complained_about(tmp_path):
    """Neither as warnings nor, where those are errors, as errors that nobody can catch; others still are."""

    async def write_fragment():
        raise AssertionError("nobody awaits it")

    Checkpoints(tmp_path).close()
    write_fragment.__qualname__ = "async_serialize_from_host.<locals>.write_fragment"
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        with warnings.catch_warnings(record=True) as told:
            write_fragment()  # Freed before it runs.
        assert not told
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            patch.setattr(sys, "unraisablehook", heard.append)
            Checkpoints(tmp_path).close()
            warnings.simplefilter("error")
            write_fragment()
            write_fragment.__qualname__ = "another"
            write_fragment()
    assert [str(each.exc_value) for each in heard] == ["coroutine 'another' was never awaited"]


@pytest.mark.parametrize("what", ["log", "export"])
def test_a_full_disk_elsewhere(what, config_file, finished, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((loop.MetricsLog, "write") if what == "log" else (loop, "save_checkpoint")), full)
        assert run_train(config_file, str(tmp_path), max_minutes=1e-6) == 2
    said = capsys.readouterr().err
    assert f"no space left for {tmp_path}: free some space and run the same command again" in said
    assert "Traceback" not in said
    assert run_train(config_file, str(tmp_path)) == 0
    assert losses(tmp_path) == losses(finished)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_at_a_checkpoint(number, finished, tmp_path, config_file, monkeypatch, capsys):
    account, calls = loop.Window.add, itertools.count(1)

    def interrupted(self, values):
        account(self, values)
        if next(calls) == 3:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Window, "add", interrupted)
        assert run_train(config_file, str(tmp_path)) == 128 + number
    assert f"{signal.Signals(number).name}: ending at a checkpoint" in capsys.readouterr().err
    done = losses(tmp_path)[-1][0]
    assert load_checkpoint(tmp_path / "export")[1]["steps"] == done < 24
    if number == signal.SIGTERM:
        assert run_train(config_file, str(tmp_path)) == 0
        assert losses(tmp_path) == losses(finished)


def test_max_minutes_ends_at_a_checkpoint_and_a_log_line_goes_on_in_the_middle(config, finished, tmp_path):
    every_five = dataclasses.replace(config, log_every=5)
    result = train(dataclasses.replace(every_five, max_minutes=1e-6), tmp_path)
    assert (result.step, result.ended_by) == (1, "max_minutes")
    assert (result.export / "config.json").exists()
    assert losses(tmp_path) == []
    assert train(every_five, tmp_path).ended_by == "finished"
    by_step = [line[1] for line in losses(finished)]
    assert [line[0] for line in losses(tmp_path)] == [5, 10, 15, 20, 24]
    means = [np.mean(by_step[start : start + 5]) for start in range(0, 24, 5)]
    assert [line[1] for line in losses(tmp_path)] == pytest.approx(means, rel=1e-12)


def damage(step: Path, how: str) -> None:
    largest = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if how == "truncated":
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif how == "missing":
        largest.unlink()
    elif how == "one bit":
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    elif how == "emptied":
        for path in step.rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    else:
        (step / "progress" / "metadata").write_text("{")
        (step / "file_sizes.json").unlink()


def test_damaged_and_half_written_checkpoints_are_passed_over(config, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    checkpoints = tmp_path / "checkpoints"
    kept = {path.name for path in checkpoints.iterdir()}
    damage(checkpoints / "24", "truncated")
    for step, how in ((25, "missing"), (26, "emptied"), (27, "not seen by size"), (28, "one bit")):
        shutil.copytree(finished / "checkpoints" / "24", checkpoints / str(step))
        damage(checkpoints / str(step), how)
    (checkpoints / "29.orbax-checkpoint-tmp").mkdir()
    train(config, tmp_path)
    said = capsys.readouterr().err
    for step in (24, 25, 26, 27, 28):
        assert f"checkpoint {step} cannot be read" in said
        assert (tmp_path / "unreadable" / str(step)).is_dir()
    assert "resuming from step 20" in said
    assert {path.name for path in checkpoints.iterdir()} == kept
    assert losses(tmp_path) == losses(finished)


def test_if_no_checkpoint_can_be_read_the_run_does_not_begin_anew(config, tmp_path, config_file, capsys):
    train(dataclasses.replace(config, max_minutes=1e-6), tmp_path)
    for how in ("truncated", "emptied"):
        damage(tmp_path / "checkpoints" / "1", how)
        assert run_train(config_file, str(tmp_path)) == 2
        message = capsys.readouterr().err
        assert "checkpoint 1 in" in message
        assert "delete that folder" in message
        assert (tmp_path / "checkpoints" / "1").is_dir()


def test_the_latest_checkpoints_and_the_best_are_kept(config, tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(loop, "validate", lambda *_: {"validation_prior/function_loss": next(scores)})
    train(config, tmp_path)
    kept = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert kept.best_step() == 8
    kept.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [8, 20, 24]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(config, tmp_path, monkeypatch):
    make_steps = loop.make_steps

    def poisoned(*arguments):
        steps = make_steps(*arguments)

        def train_step(state, *parts):
            step = int(state.step)
            state, metrics = steps.train(state, *parts)
            return state, metrics | ({"loss": metrics["loss"] * np.nan} if step == 6 else {})

        return steps._replace(train=train_step)

    monkeypatch.setattr(loop, "make_steps", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 7 \(loss nan"):
        train(config, tmp_path)
    batch = np.load(tmp_path / "non_finite_step_7.npz")
    assert batch["x_tokens"].shape == (4, 6, 2)
    assert losses(tmp_path)[-1][0] == 6
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


def test_skipped_steps_are_counted_and_too_many_in_a_row_stop_the_run(config, tmp_path, monkeypatch):
    make_steps = loop.make_steps
    skipped = [1, 3, 4, *range(10, 24)]

    def skipping(*arguments):
        steps = make_steps(*arguments)

        def train_step(state, *parts):
            step = int(state.step)
            state, metrics = steps.train(state, *parts)
            return state, metrics | {"skipped_steps": np.float32(step in skipped)}

        return steps._replace(train=train_step)

    monkeypatch.setattr(loop, "make_steps", skipping)
    with pytest.raises(NonFiniteLossError, match=r"step 16 \("):
        train(config, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] - 1 for line in lines if line.get("skipped_steps")] == [step for step in skipped if step < 15]


def test_a_corpus_is_mixed_in_held_out_and_named(config, corpus_file, tmp_path, capsys):
    short = dataclasses.replace(config, max_minutes=1e-6)
    read = []
    batch = Corpus.batch

    def noted(self, seed, step, *rest):
        read.append((frozenset(self.study_names), step))
        return batch(self, seed, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Corpus, "batch", noted)
        result = train(short, tmp_path / "run")
    training, held_out = read[0][0], read[-1][0]
    assert read == [(training, 0), (training, 1), (training, 2), (held_out, 0)]  # two steps are read ahead
    assert training
    assert held_out
    assert not training & held_out
    assert {"validation_prior/function_loss", "validation_corpus/function_loss"} <= set(result.validation)
    said = capsys.readouterr().err
    assert "2 studies of the prior and 2 of the corpus" in said
    assert "10 of the corpus' 60 studies have more than 2 parameters" in said
    assert "corpus.jsonl of 60 studies (50%)" in load_checkpoint(result.export)[1]["data"]

    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(corpus_file.read_bytes())
    assert train(dataclasses.replace(short, corpus=str(moved)), tmp_path / "run").step == 2
    moved.write_bytes(b"".join(corpus_file.read_bytes().splitlines(keepends=True)[:50]))
    with pytest.raises(ConfigError, match="corpus_fingerprint"):
        train(dataclasses.replace(short, corpus=str(moved)), tmp_path / "run")


def test_export_at_any_time(finished, config_file, tmp_path, capsys):
    assert run_train(config_file, str(finished), export=str(tmp_path / "weights")) == 0
    model, card = load_checkpoint(tmp_path / "weights", vocabulary=Vocabulary.default().fingerprint)
    assert card["steps"] == 24
    assert (card["name"], card["recipe"]) == ("weights", "small_run")
    assert "weights of step 24" in capsys.readouterr().out
    trained, _ = load_checkpoint(finished / "export")
    for rounded, exact in zip(*(jax.tree.leaves(nnx.state(each)) for each in (model, trained)), strict=True):
        np.testing.assert_array_equal(rounded, np.asarray(exact).astype("bfloat16").astype(np.float32))
    with pytest.raises(CheckpointError, match="not with another"):
        load_checkpoint(tmp_path / "weights", vocabulary="another")
    assert run_train(config_file, str(tmp_path / "new"), export=str(tmp_path / "other")) == 2
    assert "train first" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_another_config_in_the_same_directory_is_refused_by_field(finished, config_file, tmp_path, capsys):
    changes = ["seed=1", "optimizer.learning_rate=0.5"]
    assert run_train(config_file, str(finished), changes) == 2
    message = capsys.readouterr().err
    assert "seed (0 there, 1 now)" in message
    assert "optimizer.learning_rate (0.003 there, 0.5 now)" in message
    assert run_train(config_file, str(finished), ["log_every=7", "keep=1"], max_minutes=5) == 0


def test_two_processes_cannot_train_in_one_directory(config, finished, tmp_path):
    with only_run_in(tmp_path), pytest.raises(ConfigError, match="another process is training"):
        train(config, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_config"], "no config file and no shipped config 'no_such_config'"),
        (["nano_cpu", "--set", "stps=3"], "did you mean steps"),
        (["tiny_logs"], "add --set corpus=FILE"),
        (["tiny_logs", "--set", "corpus=/no/such/file"], "/no/such/file"),
        (["nano_cpu", "--set", "batch_size=7", "--set", "accumulate=1"], "does not divide over 2 devices"),
        (["nano_cpu", "--set", "batch_size=7"], "batch_size 7 does not divide into accumulate = 4 equal parts"),
        (["nano_cpu", "--set", "mesh.data=3"], "there are 2"),
        (["nano_cpu", "--max-minutes", "-1"], "max_minutes must be positive"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--workdir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_working_directory_that_is_a_file(tmp_path, config_file, capsys):
    (tmp_path / "file").write_text("")
    assert run_train(config_file, str(tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_corpus_error_in_the_reading_thread_reaches_the_caller(config, tmp_path, monkeypatch):
    def broken(self, seed, step, *rest):
        raise RuntimeError("disk is gone")

    monkeypatch.setattr(Corpus, "batch", broken)
    with pytest.raises(RuntimeError, match="disk is gone"):
        train(config, tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("corpus")]
