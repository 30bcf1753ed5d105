"""A trained model as a directory: `config.json` (model config, card) and the weights in small files.

    checkpoint/
      config.json   {"format": 2, "model": {...}, "vocabulary": fingerprint or null, "card": {...},
                     "files": bytes of each file, "sha256": checksum of each file}
      weights/      safetensors files of at most 15 MiB each, float32 or bfloat16 (`shards.py`)

A directory appears under its name only when it is complete.  These checkpoints are for inference; the trainer keeps
separate ones that include the optimizer state.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from flax import nnx

from optformer.files import new_folder, write_atomically
from optformer.model.build import Model, abstract_model
from optformer.model.config import DType, ModelConfig
from optformer.model.shards import MAX_BYTES, read_shards, write_shards

FORMAT: Final = 2
CONFIG_FILE: Final = "config.json"
WEIGHTS_FOLDER: Final = "weights"


class CheckpointError(ValueError):
    """A checkpoint directory that cannot be used; the message names the path and what to do."""


class CheckpointInfo(NamedTuple):
    """The content of `config.json`.

    Attributes:
      config: config of the model.
      card: as given to `save_checkpoint`.
      vocabulary: fingerprint of the text vocabulary; None if it was not given.
      files: size in bytes of each file of the weights.
      checksums: SHA-256 of each file, hexadecimal; empty if an earlier release wrote none.
    """

    config: ModelConfig
    card: dict[str, Any]
    vocabulary: str | None
    files: dict[str, int]
    checksums: dict[str, str]


def save_checkpoint(
    directory: str | os.PathLike[str],
    model: Model,
    card: Mapping[str, object],
    vocabulary: str | None = None,
    *,
    dtype: DType = "float32",
    max_bytes: int = MAX_BYTES,
) -> None:
    """Writes the model to `directory`, replacing an existing checkpoint.

    Args:
      directory: where to write.
      model: the model.
      card: description for users (data, training, scores), as JSON values.
      vocabulary: fingerprint of the text vocabulary the model was trained with.
      dtype: type of the written weights; bfloat16 halves the size.  Loading always gives float32.
      max_bytes: largest size of a file of weights.

    Raises:
      CheckpointError: `directory` is a file, or contains something other than a checkpoint.
      TypeError: the card cannot be written as JSON.
    """
    target = Path(directory).absolute()
    if target.is_file():
        raise CheckpointError(f"{target} is a file; a checkpoint needs a directory.")
    if target.is_dir() and any(target.iterdir()) and not (target / CONFIG_FILE).is_file():
        raise CheckpointError(f"{target} contains something that is not a checkpoint; choose another directory.")
    content = {"format": FORMAT, "model": model.config.to_dict(), "vocabulary": vocabulary, "card": dict(card)}
    json.dumps(content)  # fails on a card that is not JSON before anything is written
    weights = {name: np.asarray(leaf) for name, leaf in _named(nnx.state(model, nnx.Param)).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(target) as folder:
        (folder / WEIGHTS_FOLDER).mkdir()
        checksums = write_shards(folder / WEIGHTS_FOLDER, weights, dtype, max_bytes)
        content["files"] = {file: (folder / WEIGHTS_FOLDER / file).stat().st_size for file in checksums}
        content["sha256"] = checksums
        write_atomically(folder / CONFIG_FILE, json.dumps(content, indent=2) + "\n")


def load_checkpoint(directory: str | os.PathLike[str], vocabulary: str | None = None) -> tuple[Model, dict[str, Any]]:
    """The model of a checkpoint, on this process's default device, and its card.

    Args:
      directory: directory of the checkpoint.
      vocabulary: fingerprint of the vocabulary that will be used; checked if the checkpoint records one, too.

    Raises:
      CheckpointError: the directory does not exist, is empty, incomplete or damaged; the weights do not fit the config
        or are not finite; or the model has another vocabulary.
    """
    path = Path(directory).absolute()
    info = read_checkpoint_info(path)
    if vocabulary is not None and info.vocabulary is not None and vocabulary != info.vocabulary:
        raise CheckpointError(
            f"{path}: the model was trained with the text vocabulary {info.vocabulary}, not with {vocabulary}; "
            "use the release of optformer that wrote the checkpoint."
        )
    graph, state = nnx.split(abstract_model(info.config))
    weights = _restore(path, info, _named(state))
    state = jax.tree_util.tree_map_with_path(lambda key, _: weights[_name(key)], state)
    return nnx.merge(graph, state), info.card


def read_checkpoint_info(directory: str | os.PathLike[str]) -> CheckpointInfo:
    """Config, card and vocabulary fingerprint, without the weights.

    Raises:
      CheckpointError: as in `load_checkpoint`.
    """
    path = Path(directory).absolute()
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint directory.")
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file; a checkpoint is a directory with {CONFIG_FILE} and weights.")
    if not any(path.iterdir()):
        raise CheckpointError(f"{path} is empty; train a model into it or choose another checkpoint.")
    if not (path / CONFIG_FILE).is_file():
        raise CheckpointError(f"{path} has no {CONFIG_FILE}: it is incomplete or not a checkpoint of a model.")
    try:
        content = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path}: checkpoint format {content['format']}, but this release only reads format {FORMAT}."
            )
        config = ModelConfig.from_dict(content["model"])
        files, checksums = dict(content["files"]), dict(content.get("sha256", {}))
        return CheckpointInfo(config, dict(content["card"]), content["vocabulary"], files, checksums)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path / CONFIG_FILE} cannot be read: {error!r}.") from error


def _restore(path: Path, info: CheckpointInfo, expected: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    try:
        arrays = read_shards(path / WEIGHTS_FOLDER, info.files, info.checksums)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; copy or train the checkpoint again.") from error
    _check_shapes(path, expected, arrays)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {name: jax.device_put(array, device) for name, array in arrays.items()}


def _check_shapes(path: Path, expected: Mapping[str, jax.Array], found: Mapping[str, np.ndarray]) -> None:
    want = {name: tuple(leaf.shape) for name, leaf in expected.items()}
    have = {name: tuple(leaf.shape) for name, leaf in found.items()}
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            raise CheckpointError(
                f"{path}: the weights do not fit {CONFIG_FILE}: parameter {name} is {have.get(name, 'absent')} in the "
                f"weights and {want.get(name, 'absent')} by the config."
            )


def _named(state: nnx.State[str, Any]) -> dict[str, jax.Array]:
    """The leaves by name, such as `blocks.0.self_qkv.kernel`."""
    return {_name(key): leaf for key, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _name(key: tuple[object, ...]) -> str:
    return ".".join(str(part.key) for part in key if isinstance(part, jax.tree_util.DictKey))
