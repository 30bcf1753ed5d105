"""How many regions of memory a process has mapped: Linux allows it a number, and without another one it dies.

Each kernel that is compiled for a CPU takes three.  A model with experts takes 2,500 for each size of study.
"""

import functools
from pathlib import Path
from typing import Final

MOST: Final = 0.5
"""Share of the regions allowed, beyond which what is compiled is given up."""


def too_many(process: int | str = "self") -> bool:
    """Whether a process has more regions than it should; false where the system does not say.

    Args:
      process: its number.
    """
    return count(process) > MOST * allowed()


def count(process: int | str = "self") -> int:
    """Regions of a process; 0 where the system does not say, or where it has ended."""
    try:
        with open(f"/proc/{process}/maps", "rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


@functools.cache
def allowed() -> int:
    """How many a process may have."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65_530
