"""Safe output of untrusted text on a terminal: names of studies and parameters come from files and callers."""

import os
import re
from typing import Final

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Control characters, which a terminal would interpret."""


def shown(text: str) -> str:
    """The text with control characters escaped, except line breaks and tabs."""
    return CONTROL.sub(lambda found: found[0] if found[0] in "\n\t" else f"\\x{ord(found[0]):02x}", text)


def counted(number: int, one: str, many: str) -> str:
    """The number with its noun, such as "1 study" or "2,000 studies"."""
    return f"{number:,} {one if number == 1 else many}"


def without_alarms() -> None:
    """Silences XLA's warnings about slow compilation.  Call before jax is imported; errors are still raised.

    Does not override the environment variable if the user has set it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
