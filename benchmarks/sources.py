"""Rate and memory of reading and importing logged studies, on one core.

    python benchmarks/sources.py PATH

PATH is an Optuna or Vizier database or a JSON-lines file.  Prints studies, trials and what was left out, trials per
second of reading alone and of the whole import (reading, serializing once, writing compressed), and the peak memory
of the process, which does not grow with the number of studies.  Seconds are of processor time of the one thread, so
that other work on the machine does not count.
"""

import argparse
import collections
import resource
import sys
import tempfile
import time
from pathlib import Path

from optformer.data.sources import Quarantined, detect_format, read
from optformer.data.sources.importing import import_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description="Rate of reading and importing logged studies.")
    parser.add_argument("path")
    path = parser.parse_args().path

    baseline = peak_mebibytes()
    started = time.process_time()
    studies = trials = largest = 0
    refused: collections.Counter[str] = collections.Counter()
    for record in read(path):
        if isinstance(record, Quarantined):
            refused[record.category] += 1
        else:
            studies += 1
            trials += len(record.trials)
            largest = max(largest, len(record.trials))
    seconds = time.process_time() - started
    print(f"{path} ({detect_format(path)}): {studies:,} studies, {trials:,} trials, at most {largest:,} in one study")
    print(f"quarantined: {dict(refused) or 'nothing'}")
    print(f"reading      {seconds:7.2f} s  {trials / seconds:10,.0f} trials/s")

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "corpus.jsonl.gz"
        started = time.process_time()
        summary = import_corpus([path], out)
        seconds = time.process_time() - started
        print(f"import       {seconds:7.2f} s  {summary.trials_read / seconds:10,.0f} trials/s")
        back = time.process_time()
        count = sum(len(record.trials) for record in read(out) if not isinstance(record, Quarantined))
        back = time.process_time() - back
        print(f"corpus back  {back:7.2f} s  {count / back:10,.0f} trials/s  ({out.stat().st_size / 2**20:.1f} MiB)")
    print(f"peak memory  {peak_mebibytes():,.0f} MiB ({baseline:,.0f} MiB of it before the first study)")


def peak_mebibytes() -> float:
    """Peak resident memory; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
