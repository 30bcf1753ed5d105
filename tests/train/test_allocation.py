"""Memory that is freed stays with the process: no page has to be asked for twice."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from optformer.train.allocation import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24)  # 128 MiB
before = faults()
for _ in range(4):
    np.ones(2**24)
print(kept, faults() - before)
"""


def page_faults(how: str) -> tuple[str, int]:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    kept, count = ended.stdout.split()
    return kept, int(count)


def test_pages_are_asked_for_once():
    kept, with_it = page_faults("keep")
    if kept == "False":
        pytest.skip("another C library than GNU's")
    _, without = page_faults("free")
    assert with_it < 100
    assert without > 500 or without > 10 * with_it
