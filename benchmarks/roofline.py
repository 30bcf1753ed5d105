"""What a training step could cost on an accelerator that is not there: the roofline of a config, and its fusions.

    python benchmarks/roofline.py --config base_gpu [--peak 800e12] [--bandwidth 3.35e12] [--fusions 20]

Floating-point operations and the least traffic of the descent (forward, backward, optimizer; not the prior) by XLA's
count, against a peak and a memory bandwidth that you name (defaults: an H100 SXM's 989e12 dense bfloat16 operations per
second at the 80 % that large products reach, and 3.35e12 bytes per second).  Two bounds on the time of a step: with all
element-wise work fused away (weights, optimizer state and what is kept of the forward pass go through memory once), and
with nothing fused.  The fusions are those of this machine's compiler for a batch of two studies; an accelerator's own
differ.
"""

import argparse
import collections
import dataclasses
import re

import jax

from optformer.train.config import load_config
from optformer.train.memory import abstract_batch, estimate
from optformer.train.mesh import make_mesh
from optformer.train.overrides import apply_overrides
from optformer.train.step import make_steps


def lowered_step(config):
    """The training step, lowered from shapes alone."""
    steps = make_steps(config, make_mesh(config.mesh))
    return steps.train.lower(steps.abstract_state, abstract_batch(config, config.batch_size), None)


def counted(lowered) -> dict[str, float]:
    cost = lowered.cost_analysis()
    return cost[0] if isinstance(cost, list) else cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="base_gpu")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--peak", type=float, default=0.8 * 989e12, help="operations per second; default: %(default)g")
    parser.add_argument("--bandwidth", type=float, default=3.35e12, help="bytes per second; default: %(default)g")
    parser.add_argument("--fusions", type=int, default=20, help="how many kinds to list")
    arguments = parser.parse_args()
    config = apply_overrides(
        load_config(arguments.config), ["corpus=none", "corpus_fraction=0", "mesh.fsdp=1", *arguments.overrides]
    )

    cost = counted(lowered_step(config))
    memory = estimate(config, make_mesh(config.mesh))
    state, kept = memory.state, memory.activations
    # The state is read and written, what is kept of the forward pass is written and read.
    least = 2.0 * (state + kept)
    arithmetic = cost["flops"] / arguments.peak
    fused, unfused = least / arguments.bandwidth, cost["bytes accessed"] / arguments.bandwidth
    best = max(arithmetic, fused)
    rows = {
        "studies per step": config.batch_size,
        "teraflop per step": cost["flops"] / 1e12,
        "gibibyte of state": state / 2**30,
        "gibibyte kept of the forward pass": kept / 2**30,
        "milliseconds of arithmetic at the peak": 1e3 * arithmetic,
        "milliseconds of traffic, all fused": 1e3 * fused,
        "milliseconds of traffic, nothing fused": 1e3 * unfused,
        "fraction of the peak, all fused": arithmetic / best,
        "fraction of the peak, nothing fused": arithmetic / max(arithmetic, unfused),
        "studies per second, all fused": config.batch_size / best,
    }
    for name, value in rows.items():
        print(f"{name:42} {value:,.4g}")

    small = dataclasses.replace(config, batch_size=2, accumulate=1)
    text = lowered_step(small).compile().as_text()
    kinds: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?([\w\-]+?)(?:\.\d+)* = \S+ (fusion|dot|custom-call|call)\(", line)
        if found:
            kinds[f"{found.group(2):12} {found.group(1)}"] += 1
    print(f"\nfusions and products of the compiled step ({jax.default_backend()}, batch of 2):")
    for kind, count in kinds.most_common(arguments.fusions):
        print(f"{count:6} {kind}")


if __name__ == "__main__":
    main()
