"""Finds checkpoints by name or directory.  Each folder next to this file is a shipped checkpoint.

A shipped checkpoint never changes: `nano-1` has the same weights in every release that includes it.  New weights of
that size get the next number.
"""

import os
from pathlib import Path
from typing import Final

EXPORT_FOLDER: Final = "export"
"""Folder of the exported weights in a training's working directory."""

FOLDER: Final = Path(__file__).parent

DEFAULT: Final = "default"
"""Alias of the first shipped checkpoint of `PREFERRED`."""
PREFERRED: Final = ("small", "nano", "base")
"""Sizes in order of preference on a laptop's CPU; `base` is for accelerators."""


def pretrained_names() -> list[str]:
    """Names of the shipped checkpoints."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def aliases() -> dict[str, str]:
    """Alias -> shipped checkpoint: `nano` is the newest `nano-N`, `default` the preferred one for a CPU."""
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
      ValueError: no checkpoint of this name exists, neither shipped nor on disk.
    """
    shipped = pretrained_names()
    name = aliases().get(str(name_or_dir), str(name_or_dir))
    if name in shipped:
        return FOLDER / name
    path = Path(name_or_dir).expanduser()
    if not path.exists():
        names = f"shipped: {', '.join(shipped)}" if shipped else "this release ships none"
        raise ValueError(
            f"no checkpoint {str(name_or_dir)!r}: name a shipped one ({names}) or the directory of a model or training"
        )
    if (path / EXPORT_FOLDER).is_dir():
        return (path / EXPORT_FOLDER).resolve()
    if (path / "checkpoints").is_dir():
        raise ValueError(
            f"{path} is a training run that has not exported weights yet; wait for it, or run `optformer train CONFIG "
            f"--workdir {path} --export DIR`"
        )
    return path.resolve()
