"""How fast the corpus gives batches on one core.

    python benchmarks/corpus.py CORPUS [--batch 32] [--trials 48] [--slots 16] [--repeats 50]

CORPUS is a JSON-lines file or a cache folder.  Prints the time to open it, its coverage and studies per second.
"""

import argparse
import time

from optformer.data.corpus import Corpus
from optformer.serialization.batch import BatchShape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--text", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    shape = BatchShape(arguments.trials, arguments.slots, arguments.text, min(8, arguments.trials))

    start = time.perf_counter()
    corpus = Corpus.open(arguments.corpus)
    print(f"opened in {time.perf_counter() - start:.2f} s: {corpus.coverage(shape)}, {len(corpus.skipped)} skipped")
    corpus.batch(0, 0, arguments.batch, shape)
    start = time.perf_counter()
    for step in range(1, arguments.repeats + 1):
        corpus.batch(0, step, arguments.batch, shape)
    seconds = time.perf_counter() - start
    rate = arguments.batch * arguments.repeats / seconds
    print(f"{shape}, batch {arguments.batch}: {1e3 * seconds / arguments.repeats:.1f} ms, {rate:.0f} studies/s")


if __name__ == "__main__":
    main()
