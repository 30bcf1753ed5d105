"""Text of others on a terminal: names of studies and parameters come from files and callers."""

import os
import re
from typing import Final

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys."""


def shown(text: str) -> str:
    """The text with these characters escaped, save line breaks and tabs."""
    return CONTROL.sub(lambda found: found[0] if found[0] in "\n\t" else f"\\x{ord(found[0]):02x}", text)


def without_alarms() -> None:
    """For a command, before jax is imported: XLA does not print that it compiles slowly.  What fails is raised.

    The variable's own value, if the user has set it, stands.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
