"""How many examples a second one core reads from a cached corpus.

    optformer corpus cache corpus.jsonl.gz --out cache
    python benchmarks/cache.py cache [--trials 32] [--slots 9] [--text 128] [--batch 32] [--seconds 5]

An example is one study, drawn, augmented, scaled and padded.  The default shape has 512 tokens: 128 of metadata and 32
trials of 9 parameters, `*`, objective and `|`.  Prints examples/s, and tokens/s with and without padding.  Seconds are
processor time of this process, which has one thread, so that other work on the machine does not count.
"""

import argparse
import time

import numpy as np

from optformer.data.corpus import Corpus
from optformer.serialization.batch import BatchShape, StudyBatch


def main() -> None:
    parser = argparse.ArgumentParser(description="Rate of reading a cached corpus.")
    parser.add_argument("cache", help="folder that `optformer corpus cache` wrote")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--slots", type=int, default=9)
    parser.add_argument("--text", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    shape = BatchShape(arguments.trials, arguments.slots, arguments.text, min(8, arguments.trials))
    padded = shape.text + shape.trials * (shape.slots + 3)

    start = time.process_time()
    corpus = Corpus.open(arguments.cache)
    coverage = corpus.coverage(shape)
    seconds = time.process_time() - start
    left_out = f"{coverage.too_many_slots:,} of them with more than {shape.slots} parameters, which are left out"
    print(f"opened in {seconds:.2f} s: {coverage.records:,} records, {left_out}")
    corpus.batch(0, 0, arguments.batch, shape)
    examples = tokens = step = 0
    seconds = 0.0
    while seconds < arguments.seconds:
        step += 1
        start = time.process_time()
        batch = corpus.batch(0, step, arguments.batch, shape)
        seconds += time.process_time() - start
        examples += arguments.batch
        tokens += real_tokens(batch)
    print(f"{examples:,} examples of {padded} tokens in {seconds:.1f} s, batches of {arguments.batch}")
    print(
        f"{examples / seconds:,.0f} examples/s, {examples * padded / seconds:,.0f} tokens/s, {tokens / seconds:,.0f} "
        "tokens/s without padding"
    )


def real_tokens(batch: StudyBatch) -> int:
    """Tokens of metadata and of `p_1 ... p_D * y |` per trial that are no padding."""
    width = np.sum(batch.slot_kinds > 0, axis=1) + 3
    return int(np.sum(batch.text_segments >= 0) + np.sum(batch.trial_mask.sum(axis=1) * width))


if __name__ == "__main__":
    main()
