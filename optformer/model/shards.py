"""Weights in files of limited size, each a safetensors file: any tool that knows the format reads them.

A file is an 8-byte little-endian length, a JSON header of that length, and the arrays:

    {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}

Repositories and package registries refuse large files, so a checkpoint is as many small ones as it takes.  An array
that is larger than a file is cut along its first axis into `name[0:100]`, `name[100:200]`, ...
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np

MAX_BYTES: Final = 15 * 2**20
"""Most bytes of a file."""

_DTYPES: Final = {"float32": ("F32", np.dtype("<f4")), "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16))}
_HEADER_ROOM: Final = 512
"""Bytes of header that an array may need; names are far shorter."""


def write_shards(folder: Path, weights: Mapping[str, np.ndarray], dtype: str, max_bytes: int = MAX_BYTES) -> None:
    """Writes `weights`, rounded to `dtype` (`float32` or `bfloat16`), as `00001-of-00003.safetensors` and so on.

    Raises:
      ValueError: one row of an array does not fit into `max_bytes`.
    """
    tag, kind = _DTYPES[dtype]
    files: list[dict[str, np.ndarray]] = [{}]
    room = max_bytes
    for name, piece in _pieces(weights, kind, max_bytes):
        size = piece.nbytes + _HEADER_ROOM
        if size > room and files[-1]:
            files.append({})
            room = max_bytes
        files[-1][name] = piece
        room -= size
    for number, arrays in enumerate(files, start=1):
        header, end = {}, 0
        for name, array in arrays.items():
            begin, end = end, end + array.nbytes
            header[name] = {"dtype": tag, "shape": list(array.shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / f"{number:05d}-of-{len(files):05d}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(array.tobytes())


def read_shards(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of all files of a folder as float32.  Raises ValueError or KeyError where one cannot be read."""
    kinds = dict(_DTYPES.values())
    whole: dict[str, np.ndarray] = {}
    cut: dict[str, dict[int, np.ndarray]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8:start]).items():
            if name == "__metadata__":
                continue
            begin, end = (start + offset for offset in entry["data_offsets"])
            array = np.frombuffer(content[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"]).astype(np.float32)
            if rows := re.fullmatch(r"(.*)\[(\d+):\d+\]", name):
                cut.setdefault(rows[1], {})[int(rows[2])] = array
            else:
                whole[name] = array
    return whole | {name: np.concatenate([pieces[at] for at in sorted(pieces)]) for name, pieces in cut.items()}


def _pieces(weights: Mapping[str, np.ndarray], kind: np.dtype, max_bytes: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in weights.items():
        room = max_bytes - _HEADER_ROOM
        if array.size * kind.itemsize <= room:
            yield name, array.astype(kind)
            continue
        rows = room // (array[0].size * kind.itemsize)
        if not rows:
            raise ValueError(f"a row of parameter {name} takes more than the {max_bytes} bytes of a file")
        for start in range(0, len(array), rows):
            stop = min(start + rows, len(array))
            yield f"{name}[{start}:{stop}]", array[start:stop].astype(kind)
