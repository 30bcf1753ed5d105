"""Checkpoint directories: round trip, and a clear error for each way in which one can be broken."""

import dataclasses
import hashlib
import json
import logging
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from optformer.model import (
    CheckpointError,
    ModelConfig,
    build_model,
    load_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
)
from optformer.model.shards import MAX_BYTES

CARD = {"name": "test", "scores": {"log_density": 1.5}, "text": "Größe"}


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints") / "nested" / "model"
    save_checkpoint(directory, models["pooled"], CARD, vocabulary="abc")
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


def test_round_trip(models, saved, run, caplog):
    with caplog.at_level(logging.WARNING):
        model, card = load_checkpoint(saved)
    assert not caplog.records
    assert card == CARD
    assert model.config == models["pooled"].config
    for loaded, original in zip(leaves(model), leaves(models["pooled"]), strict=True):
        np.testing.assert_array_equal(loaded, original)
    batch = run.study(0)
    np.testing.assert_array_equal(run.forward(model, batch).function, run.forward(models["pooled"], batch).function)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("layout", ["flat", "plain"])
def test_round_trip_of_the_flat_layout(models, tmp_path, layout):
    save_checkpoint(tmp_path / "model", models[layout], {})
    model, _ = load_checkpoint(tmp_path / "model")
    for loaded, original in zip(leaves(model), leaves(models[layout]), strict=True):
        np.testing.assert_array_equal(loaded, original)


def test_info_needs_no_weights(copy, models):
    shutil.rmtree(copy / "weights")
    info = read_checkpoint_info(copy)
    assert (info.config, info.card, info.vocabulary) == (models["pooled"].config, CARD, "abc")


def test_sharded_weights_are_saved_whole(models, tmp_path):
    """Weights spread over two devices load onto one."""
    model = models["pooled"]
    mesh = jax.make_mesh((2,), ("x",))
    graph, state = nnx.split(model)
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    state = jax.tree.map(lambda leaf: jax.device_put(leaf, rows if leaf.shape[0] % 2 == 0 else spread), state)
    save_checkpoint(tmp_path / "model", nnx.merge(graph, state), {})
    loaded, _ = load_checkpoint(tmp_path / "model")
    for leaf, original in zip(leaves(loaded), leaves(model), strict=True):
        np.testing.assert_array_equal(leaf, original)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(nnx.state(loaded)))


def test_saving_again_replaces(models, copy):
    other = build_model(dataclasses.replace(ModelConfig.tiny(), text_vocabulary=64), seed=9)
    save_checkpoint(copy, other, {"name": "second"})
    model, card = load_checkpoint(copy)
    assert card == {"name": "second"}
    assert model.config.text_vocabulary == 64
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_checkpoint(copy, models):
    with pytest.raises(TypeError):
        save_checkpoint(copy, models["pooled"], {"name": object()})
    assert load_checkpoint(copy)[1] == CARD
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_other_directories_are_not_overwritten(models, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="contains something that is not a checkpoint"):
        save_checkpoint(tmp_path, models["pooled"], {})
    with pytest.raises(CheckpointError, match="is a file"):
        save_checkpoint(tmp_path / "notes.txt", models["pooled"], {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_missing_directory(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such checkpoint directory"):
        load_checkpoint(tmp_path / "nowhere")


def test_file_instead_of_directory(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(CheckpointError, match="model is a file"):
        load_checkpoint(tmp_path / "model")


def test_empty_directory(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path.name} is empty"):
        load_checkpoint(tmp_path)


def test_without_config(copy):
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json: it is incomplete"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": 2, "model": []}',
        '{"format": 2, "model": {"widht": 3}, "card": {}, "vocabulary": null}',
    ],
)
def test_unreadable_config(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_checkpoint(copy)


@pytest.mark.parametrize("version", [1, 3])
def test_other_formats(copy, version):
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**content, "format": version}))
    with pytest.raises(CheckpointError, match=f"checkpoint format {version}, but this release only reads format 2"):
        load_checkpoint(copy)


@pytest.mark.parametrize("part", ["", "00001-of-00001.safetensors"])
def test_without_weights(copy, part):
    path = copy / "weights" / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=r"incomplete: weights/\S+ has no of \d+ bytes"):
        load_checkpoint(copy)


def test_truncated_weights(copy):
    largest = max((copy / "weights").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=rf"model: .*{largest.name} has 100 of \d+ bytes"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 40}, r"parameter \S+ is \S.* in the weights and \S.* by the config"),
        ({"decoder_layers": 3}, r"parameter blocks\.2\.\S+ is absent in the weights"),
        ({"decoder_layers": 1}, r"parameter blocks\.1\.\S+ is .* and absent by the config"),
    ],
)
def test_weights_of_another_size(copy, change, message):
    content = json.loads((copy / "config.json").read_text())
    content["model"] |= change
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(copy)


def test_another_vocabulary(saved):
    load_checkpoint(saved, vocabulary="abc")
    with pytest.raises(CheckpointError, match="text vocabulary abc, not with xyz"):
        load_checkpoint(saved, vocabulary="xyz")


def test_small_files_of_half_the_size(models, tmp_path):
    """Tables that are larger than a file are cut, and put together again."""
    model, limit = models["pooled"], 20_000
    save_checkpoint(tmp_path / "model", model, CARD, dtype="bfloat16", max_bytes=limit)
    files = list((tmp_path / "model" / "weights").iterdir())
    sizes = [path.stat().st_size for path in files]
    weights = sum(leaf.size for leaf in leaves(model))
    assert max(sizes) <= limit
    assert 2 * weights < sum(sizes) < 2.2 * weights
    assert any("[" in path.read_bytes()[:2000].decode(errors="replace") for path in files)
    loaded, card = load_checkpoint(tmp_path / "model")
    assert card == CARD
    for leaf, original in zip(leaves(loaded), leaves(model), strict=True):
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, original.astype("bfloat16").astype(np.float32))


def test_a_row_that_fits_no_file(models, tmp_path):
    with pytest.raises(ValueError, match="a row of parameter"):
        save_checkpoint(tmp_path / "model", models["pooled"], {}, max_bytes=600)
    assert not list(tmp_path.iterdir())


def rewritten(copy, content: bytes) -> None:
    """The first file of weights, as if it had been saved like that."""
    path = copy / "weights" / "00001-of-00001.safetensors"
    path.write_bytes(content)
    config = json.loads((copy / "config.json").read_text())
    config |= {"files": {path.name: len(content)}, "sha256": {path.name: hashlib.sha256(content).hexdigest()}}
    (copy / "config.json").write_text(json.dumps(config))


def test_damage_that_sizes_do_not_show(copy):
    (path,) = (copy / "weights").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"weights/{path.name} is damaged: its SHA-256"):
        load_checkpoint(copy)


@pytest.mark.parametrize("field, value", [("width", 10**9), ("encoder_layers", 10**9), ("experts", 10**6)])
def test_an_absurd_config_is_refused_before_anything_is_built(copy, field, value):
    config = json.loads((copy / "config.json").read_text())
    config["model"][field] = value
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"ModelConfig.{field} must be at most"):
        load_checkpoint(copy)


def test_files_of_other_folders_are_not_read(copy):
    config = json.loads((copy / "config.json").read_text())
    config["files"] = {"../config.json": (copy / "config.json").stat().st_size}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"'../config.json' is not a file name in weights"):
        load_checkpoint(copy)


def test_a_checkpoint_without_checksums(copy, models):
    """As earlier releases wrote them."""
    config = json.loads((copy / "config.json").read_text())
    del config["sha256"]
    (copy / "config.json").write_text(json.dumps(config))
    assert read_checkpoint_info(copy).checksums == {}
    loaded, _ = load_checkpoint(copy)
    np.testing.assert_array_equal(loaded.start[...], models["pooled"].start[...])


@pytest.mark.parametrize("damage", [lambda content: b"\0" * len(content), lambda content: content[:-4]])
def test_what_is_no_safetensors_file(copy, damage):
    (path,) = (copy / "weights").iterdir()
    rewritten(copy, damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"weights/00001\S+ is not a complete safetensors file"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    "kind, value, message",
    [
        (np.float32, np.inf, r"weights/00001\S+: parameter start has numbers that are not finite"),
        (np.float64, 1.0, r"weights/00001\S+: parameter start is F64; weights are F32 or BF16"),
    ],
)
def test_arrays_that_cannot_be_weights(copy, kind, value, message):
    (path,) = (copy / "weights").iterdir()
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays["start"] = np.full(arrays["start"].shape, value, kind)
    rewritten(copy, safetensors.numpy.save(arrays))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(copy)


def test_any_reader_of_the_format_reads_the_weights(models, tmp_path):
    save_checkpoint(tmp_path / "model", models["pooled"], {}, dtype="bfloat16")
    with safetensors.safe_open(tmp_path / "model" / "weights" / "00001-of-00001.safetensors", "numpy") as file:
        start = file.get_slice("start")
        assert (start.get_dtype(), start.get_shape()) == ("BF16", [models["pooled"].config.width])
        assert len(file.keys()) == len(leaves(models["pooled"]))


def test_rounded_weights_predict_nearly_the_same(models, tmp_path, run):
    save_checkpoint(tmp_path / "model", models["pooled"], CARD, dtype="bfloat16")
    loaded, _ = load_checkpoint(tmp_path / "model")
    batch = run.study(0)
    exact, rounded = (
        jax.nn.log_softmax(run.forward(each, batch).function[..., :1000]) for each in (models["pooled"], loaded)
    )
    # Eight bits of mantissa.
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    assert not np.array_equal(rounded, exact)


def test_files_are_small_enough_for_repositories():
    assert MAX_BYTES == 15 * 2**20
