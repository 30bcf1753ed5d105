"""`optformer checkpoint list` and `info`."""

import json
import shutil

import pytest

from optformer import pretrained
from optformer.cli import main
from optformer.model import ModelConfig, build_model, save_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of two shipped checkpoints of the smallest size."""
    folder = tmp_path_factory.mktemp("shipped")
    for number, steps in ((1, 7), (2, 900)):
        card = {"name": f"nano-{number}", "steps": steps, "train_config": {"seed": 12345}}
        save_checkpoint(folder / f"nano-{number}", build_model(ModelConfig.tiny()), card, "abc", dtype="bfloat16")
    return folder


@pytest.fixture
def shipped(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", shutil.copytree(saved, tmp_path / "shipped"))
    return tmp_path / "shipped"


def test_list_has_a_line_for_each(shipped, capsys):
    assert main(["checkpoint", "list"]) == 0
    heads, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert heads == ["name", "also", "parameters", "MB", "steps"]
    assert rows == [["nano-1", "-", "244,006", "0.5", "7"], ["nano-2", "nano, default", "244,006", "0.5", "900"]]


def test_list_on_a_terminal_is_a_table(shipped, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["checkpoint", "list"]) == 0
    out = capsys.readouterr().out
    assert "nano-2" in out
    assert "\t" not in out


def test_info_shows_card_config_and_parameters_by_part(shipped, capsys):
    assert main(["checkpoint", "info", "nano"]) == 0
    out = capsys.readouterr().out
    for told in ("checkpoint nano-2 in ", "  steps: 900", "  width: 32", "  vocabulary: abc", "  all: 244,006"):
        assert told in out
    assert "12345" not in out
    of_parts = out.split("parameters\n")[1].split("  all:")[0].splitlines()
    assert sum(int(line.split(": ")[1].replace(",", "")) for line in of_parts) == 244_006
    assert any(line.startswith("  policy: ") for line in of_parts)
    assert out.endswith("verified: checksums, shapes, and that all numbers are finite\n")


def test_info_of_one_without_checksums(shipped, capsys):
    config = json.loads((shipped / "nano-1" / "config.json").read_text())
    del config["sha256"]
    (shipped / "nano-1" / "config.json").write_text(json.dumps(config))
    assert main(["checkpoint", "info", str(shipped / "nano-1")]) == 0
    assert "no checksums are recorded; sizes, shapes" in capsys.readouterr().out


def test_info_of_a_damaged_one_is_a_mistake(shipped, capsys):
    (file,) = (shipped / "nano-1" / "weights").iterdir()
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    assert main(["checkpoint", "info", "nano-1"]) == 2
    out, err = capsys.readouterr()
    assert "verified" not in out
    assert "00001-of-00001.safetensors is damaged" in err
    assert main(["checkpoint", "info", "huge"]) == 2
    assert "shipped: nano-1, nano-2" in capsys.readouterr().err
