"""How fast the prior generates studies, and what share of a training step of `nano` that is.

    python benchmarks/prior.py [--batch 32] [--trials 48] [--slots 8] [--repeats 20]

Prints the time to compile, studies per second, and the time of one forward and backward pass of the same batch.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from optformer.data.prior import PriorConfig, sample_batch
from optformer.data.shapes import BatchShape
from optformer.model import ModelConfig, build_model, loss


def seconds(run: Callable[[int], Any], repeats: int) -> tuple[float, float]:
    """Wall time of the first call, and the median of the others."""
    start = time.perf_counter()
    jax.block_until_ready(run(0))
    first = time.perf_counter() - start
    times = []
    for index in range(1, repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run(index))
        times.append(time.perf_counter() - start)
    return first, sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--text", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    shape = BatchShape(arguments.trials, arguments.slots, arguments.text, min(8, arguments.trials))
    key, config = jax.random.key(0), PriorConfig()

    first, drawing = seconds(
        lambda index: sample_batch(jax.random.fold_in(key, index), config, arguments.batch, shape), arguments.repeats
    )
    print(f"{jax.devices()[0].device_kind}, {shape}, batch {arguments.batch}")
    print(
        f"prior   first call {first:6.1f} s, then {1e3 * drawing:7.1f} ms, {arguments.batch / drawing:8.0f} studies/s"
    )

    model_config = ModelConfig.nano()
    model = build_model(model_config, seed=0)
    batch = sample_batch(key, config, arguments.batch, shape)
    step = nnx.jit(nnx.value_and_grad(lambda m, b: loss(m(b), b, model_config).total))
    first, training = seconds(lambda _: step(model, batch), arguments.repeats)
    print(f"nano    first call {first:6.1f} s, then {1e3 * training:7.1f} ms forward and backward")
    print(f"the prior takes {drawing / training:.1%} of that")


if __name__ == "__main__":
    main()
