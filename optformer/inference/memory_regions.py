"""The number of memory regions that a process has mapped.  Linux limits it; a process at the limit crashes.

Each kernel compiled for a CPU takes three regions.  A model with experts takes 2,500 for each size of study.
"""

import functools
from pathlib import Path
from typing import Final

MOST: Final = 0.5
"""Share of the allowed regions beyond which compiled functions are dropped."""


def too_many(process: int | str = "self") -> bool:
    """Whether a process has used more than `MOST` of its regions; False if the system does not tell.

    Args:
      process: process id, or "self".
    """
    return count(process) > MOST * allowed()


def count(process: int | str = "self") -> int:
    """Number of regions of a process; 0 if the system does not tell or the process has ended."""
    try:
        with open(f"/proc/{process}/maps", "rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


@functools.cache
def allowed() -> int:
    """Largest number of regions of a process."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65_530
