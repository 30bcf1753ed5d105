"""Weights in safetensors files of limited size.

Repositories and package registries refuse large files, so a checkpoint consists of several small ones.  An array that
is larger than a file is split along its first axis into `name[0:100]`, `name[100:200]`, ...
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

MAX_BYTES: Final = 15 * 2**20
"""Largest size of a file in bytes."""

_DTYPES: Final = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# The safetensors library can write bfloat16 from NumPy, but cannot read it into NumPy.
_READ: Final = {"F32": _DTYPES["float32"], "BF16": _DTYPES["bfloat16"]}
_HEADER_ROOM: Final = 512
"""Bytes reserved in the header for each array; names are far shorter."""


def write_shards(
    folder: Path, weights: Mapping[str, np.ndarray], dtype: str, max_bytes: int = MAX_BYTES
) -> dict[str, str]:
    """Writes `weights`, rounded to `dtype` (`float32` or `bfloat16`), as `00001-of-00003.safetensors` and so on.

    Returns:
      SHA-256 of each file, hexadecimal.

    Raises:
      ValueError: a row of an array does not fit into `max_bytes`.
    """
    shards: list[dict[str, np.ndarray]] = [{}]
    room = max_bytes
    for name, piece in _pieces(weights, _DTYPES[dtype], max_bytes):
        size = piece.nbytes + _HEADER_ROOM
        if size > room and shards[-1]:
            shards.append({})
            room = max_bytes
        shards[-1][name] = piece
        room -= size
    checksums = {}
    for number, arrays in enumerate(shards, start=1):
        file, content = f"{number:05d}-of-{len(shards):05d}.safetensors", save(arrays)
        (folder / file).write_bytes(content)
        checksums[file] = hashlib.sha256(content).hexdigest()
    return checksums


def read_shards(folder: Path, sizes: Mapping[str, int], checksums: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Reads the arrays of all files as float32 and checks that all numbers are finite.

    Args:
      folder: folder of the files.
      sizes: file name -> size in bytes.
      checksums: file name -> SHA-256, hexadecimal; files without an entry are not verified.

    Raises:
      ValueError: a file is missing, truncated, damaged or not a safetensors file of float32 or bfloat16, or has a
        number that is not finite; the message names the file and the array.
    """
    whole: dict[str, np.ndarray] = {}
    cut: dict[str, dict[int, np.ndarray]] = {}
    for file, size in sizes.items():
        if Path(file).name != file:
            raise ValueError(f"{file!r} is not a file name in {folder.name}")
        path = folder / file
        content = path.read_bytes() if path.is_file() else None
        if content is None or len(content) != size:
            raise ValueError(
                f"the weights are incomplete: {folder.name}/{file} has {'no' if content is None else len(content)} "
                f"of {size} bytes"
            )
        if file in checksums and hashlib.sha256(content).hexdigest() != checksums[file]:
            raise ValueError(f"{folder.name}/{file} is damaged: its SHA-256 differs from the recorded one")
        for name, array in _arrays(content, f"{folder.name}/{file}"):
            if rows := re.fullmatch(r"(.*)\[(\d+):\d+\]", name):
                cut.setdefault(rows[1], {})[int(rows[2])] = array
            else:
                whole[name] = array
    return whole | {name: np.concatenate([pieces[at] for at in sorted(pieces)]) for name, pieces in cut.items()}


def _arrays(content: bytes, file: str) -> Iterator[tuple[str, np.ndarray]]:
    try:
        entries = deserialize(content)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a complete safetensors file: {error}") from error
    for name, entry in entries:
        if entry["dtype"] not in _READ:
            raise ValueError(f"{file}: parameter {name} is {entry['dtype']}; weights are {' or '.join(_READ)}")
        array = np.frombuffer(entry["data"], _READ[entry["dtype"]]).reshape(entry["shape"]).astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{file}: parameter {name} has numbers that are not finite")
        yield name, array


def _pieces(weights: Mapping[str, np.ndarray], kind: np.dtype, max_bytes: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in weights.items():
        room = max_bytes - _HEADER_ROOM
        if array.size * kind.itemsize <= room:
            yield name, np.ascontiguousarray(array, kind)
            continue
        rows = room // (array[0].size * kind.itemsize)
        if not rows:
            raise ValueError(f"a row of parameter {name} takes more than the {max_bytes} bytes of a file")
        for start in range(0, len(array), rows):
            stop = min(start + rows, len(array))
            yield f"{name}[{start}:{stop}]", np.ascontiguousarray(array[start:stop], kind)
