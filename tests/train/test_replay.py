"""The chain of commands that makes the shipped checkpoint."""

import gzip
import json
from pathlib import Path

import pytest

from optformer.cli import _parser
from optformer.model import load_checkpoint
from optformer.train import replay
from optformer.train.config import load_config
from optformer.train.overrides import apply_overrides


@pytest.mark.parametrize(("tiny", "real", "last"), [(False, False, 1), (True, False, 3), (False, True, 3)])
def test_every_step_has_what_it_starts_from_and_a_command_that_parses(tiny, real, last, tmp_path):
    data = replay.RealData(tmp_path, tmp_path, tmp_path / "logs.db") if real else None
    made: set[str] = set()
    for step in replay.plan(tiny, data):
        if step.command:
            parsed = _parser().parse_args(step.command)
            needed = [getattr(parsed, name) for name in ("openings", "start", "trained") if getattr(parsed, name, None)]
        else:
            needed = list(step.parts)
        if step.stage_steps is not None:
            config = apply_overrides(load_config(step.out), parsed.overrides)
            assert config.steps == step.stage_steps
            assert config.init == load_config(step.out).init
            needed += [name for name in (config.init, config.corpus) if name]
        for name in needed:
            assert name in made or Path(name).is_file(), f"{step.out} needs {name}"
        made.add(step.out)
    assert step.out == f"nano-{last}"
    assert "nano-1" in made


def test_the_data_of_nano_2_is_named_as_a_whole(tmp_path, capsys):
    with pytest.raises(SystemExit):
        replay.main([str(tmp_path / "out"), "--tables", str(tmp_path)])
    assert "need all of --yahpo-dir, --tables and --logs" in capsys.readouterr().err
    absent = [argument for name in ("--yahpo-dir", "--tables", "--logs") for argument in (name, str(tmp_path / "no"))]
    assert replay.main([str(tmp_path / "out"), *absent]) == 2
    assert "No such file" in capsys.readouterr().err


def test_what_is_complete_is_not_made_again_and_a_failure_ends_the_chain(tmp_path, monkeypatch, capsys):
    (tmp_path / "piece").write_bytes(gzip.compress(b"a\n"))
    steps = [
        replay.Step("first", ("checkpoint", "average")),
        replay.Step("joined.gz", parts=("piece", "piece")),
        replay.Step("stage", ("train", "stage"), stage_steps=3),
        replay.Step("last", ("corpus", "generate")),
    ]
    monkeypatch.setattr(replay, "plan", lambda tiny, real: steps)
    ran: list[tuple[str, ...]] = []

    class Done:
        returncode = 0

    def run(command, **_):
        ran.append(tuple(command[3:]))
        done = Done()
        done.returncode = 130 if command[3] == "train" else 0
        return done

    monkeypatch.setattr(replay.subprocess, "run", run)
    (tmp_path / "first").mkdir()
    assert replay.main([str(tmp_path)]) == 130
    assert ran == [("train", "stage")]
    assert "the same command continues from here" in capsys.readouterr().err
    assert gzip.decompress((tmp_path / "joined.gz").read_bytes()) == b"a\na\n"
    (tmp_path / "stage" / "export").mkdir(parents=True)
    for complete, wanted in ((2, [("train", "stage")]), (3, [("corpus", "generate")])):
        ran.clear()
        (tmp_path / "stage" / "export" / "config.json").write_text(json.dumps({"card": {"steps": complete}}))
        replay.main([str(tmp_path)])
        assert ran == wanted
    assert replay.main([str(tmp_path), "--tiny"]) == 2
    assert "use another folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rehearsal_of_the_whole_chain(tmp_path):
    assert replay.main([str(tmp_path), "--tiny"]) == 0
    model, card = load_checkpoint(tmp_path / "nano-1")
    assert (card["name"], card["init"], card["average"]["share"]) == ("nano-1", "nano_1_policy", 0.6)
    assert model.config.policy_header
    model, card = load_checkpoint(tmp_path / "nano-2")
    assert (card["name"], card["init"]) == ("nano-2", "nano-1")
    assert model.config.experts == 4
    model, card = load_checkpoint(tmp_path / "nano-3")
    assert (card["name"], card["init"], card["average"]["share"]) == ("nano-3", "nano_3_mean", 0.5)
