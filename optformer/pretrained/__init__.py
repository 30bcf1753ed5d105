"""Checkpoints by name or directory.  Each folder beside this file is one that ships, with its card in `config.json`.

A shipped checkpoint never changes: `nano-1` is the same weights in every release that has it.  New weights of that size
get the next number.
"""

import os
from pathlib import Path
from typing import Final

EXPORT_FOLDER: Final = "export"
"""Where a training's working directory keeps its weights."""

FOLDER: Final = Path(__file__).parent

DEFAULT: Final = "default"
"""Stands for the first of `PREFERRED` that ships."""
PREFERRED: Final = ("small", "nano", "base")
"""Best first, for a laptop's CPU; `base` is for accelerators."""


def pretrained_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def aliases() -> dict[str, str]:
    """Other names of shipped checkpoints: `nano` is the `nano-N` of the highest N, `default` the best one for a CPU."""
    numbered = []
    for name in pretrained_names():
        series, _, number = name.rpartition("-")
        if series and number.isdecimal():
            numbered.append((int(number), series, name))
    newest = {series: name for _, series, name in sorted(numbered)}
    best = [newest[series] for series in PREFERRED if series in newest]
    return newest | ({DEFAULT: best[0]} if best else {})


def checkpoint_path(name_or_dir: str | os.PathLike[str]) -> Path:
    """The directory of a shipped checkpoint, of a checkpoint, or of the weights in a training's working directory.

    Args:
      name_or_dir: a name of `pretrained_names` or `aliases`, or a directory.

    Raises:
      ValueError: there is none of this name, neither shipped nor on disk.
    """
    shipped = pretrained_names()
    name = aliases().get(str(name_or_dir), str(name_or_dir))
    if name in shipped:
        return FOLDER / name
    path = Path(name_or_dir).expanduser()
    if not path.exists():
        names = f"shipped: {', '.join(shipped)}" if shipped else "none ships with this release"
        raise ValueError(
            f"no checkpoint {str(name_or_dir)!r}: name a shipped one ({names}) or the directory of a model or training"
        )
    if (path / EXPORT_FOLDER).is_dir():
        return (path / EXPORT_FOLDER).resolve()
    if (path / "checkpoints").is_dir():
        raise ValueError(
            f"{path} is a training that has not exported weights yet; wait for it, or run `optformer train CONFIG "
            f"--workdir {path} --export DIR`"
        )
    return path.resolve()
