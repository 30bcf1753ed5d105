"""Speed of a training step: tokens/s, the fraction of the machine's matrix-product peak, and the prior's share.

    python benchmarks/training.py --config nano_cpu [--set batch_size=64] [--beside products=bfloat16] [--seconds 20]

With `--beside`, only the descent is measured, of the config and of the same with those changes.  The two take turns,
and what is quoted is the median of the ratios, on which other load of the machine falls alike.
The peak is measured in the same run, on a square matrix product in the model's own type.  Floating-point operations of
a step are XLA's count for the descent compiled as one part and without recomputation: XLA counts what a loop repeats
once, and what is computed twice is no work done.
Tokens are counted as the flat layout would write them, trials x (slots + 3) without padding (`train/step.py`).
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optformer.inference.compiled import cache_compilations
from optformer.train.config import TrainConfig, load_config
from optformer.train.mesh import make_mesh
from optformer.train.overrides import apply_overrides
from optformer.train.step import TRAINING, make_steps


def seconds_per_call(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median time of each call, all compiled before.  They take turns, so that other load falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: sorted(taken)[len(taken) // 2] for name, taken in times.items()}


def matrix_product_peak(dtype: Any, seconds: float) -> float:
    """Floating-point operations per second of the best of several square products, on one device."""
    sizes = (512, 1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192)

    def product(size: int) -> Callable[[], Any]:
        a = jax.random.normal(jax.random.key(0), (size, size), dtype)
        multiply = jax.jit(lambda a: a @ a)
        return lambda: multiply(a)

    taken = seconds_per_call({str(size): product(size) for size in sizes}, seconds)
    return max(2.0 * size**3 / taken[str(size)] for size in sizes)


def compared(config: TrainConfig, other: TrainConfig, seconds: float) -> dict[str, float]:
    """Time of the descent of either, in turns, on the same studies."""
    cache_compilations()
    mesh = make_mesh(config.mesh)
    batch = make_steps(config, mesh).draw_prior(TRAINING, 0)
    taken: dict[str, list[float]] = {"one": [], "other": []}
    states: dict[str, Any] = {}
    descents = {name: make_steps(each, mesh) for name, each in zip(taken, (config, other), strict=True)}
    for name, steps in descents.items():
        states[name], _ = steps.train(steps.init(), batch, None)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken["one"]) < 5:
        for name, steps in descents.items():
            started = time.perf_counter()
            states[name], metrics = steps.train(states[name], batch, None)
            jax.block_until_ready(metrics)
            taken[name].append(time.perf_counter() - started)
    ratios = sorted(b / a for a, b in zip(*taken.values(), strict=True))
    medians = {name: sorted(times)[len(times) // 2] for name, times in taken.items()}
    return {
        "descent_seconds": medians["one"],
        "descent_seconds_beside": medians["other"],
        "ratio_beside": ratios[len(ratios) // 2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="nano_cpu")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--beside", action="append", default=[], help="a change to compare with; may be repeated")
    parser.add_argument("--seconds", type=float, default=20.0, help="of measurement; default: %(default)s")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    # A recipe that starts from a checkpoint costs the same from fresh weights.
    overrides = ["corpus=none", "corpus_fraction=0", "init=none", *arguments.overrides]
    config = apply_overrides(load_config(arguments.config), overrides)
    if arguments.beside:
        print(json.dumps(compared(config, apply_overrides(config, arguments.beside), arguments.seconds)))
        return
    mesh = make_mesh(config.mesh)
    steps = make_steps(config, mesh)
    state = steps.init()
    started = time.perf_counter()
    batch = jax.block_until_ready(steps.draw_prior(TRAINING, 0))
    compile_prior = time.perf_counter() - started

    train: Any = steps.train
    started = time.perf_counter()
    compiled = train.lower(state, batch, None).compile()
    compile_step = time.perf_counter() - started
    whole = make_steps(dataclasses.replace(config, accumulate=1, remat=False), mesh)
    if whole is not steps:
        compiled = whole.train.lower(state, batch, None).compile()  # type: ignore[attr-defined]
    cost = compiled.cost_analysis()
    flops = float((cost[0] if isinstance(cost, list) else cost)["flops"])
    position = 0

    # The prior is drawn for several steps at once: every call goes over all of them.
    together = config.prior_steps

    def full_steps() -> Any:
        nonlocal state, position
        for _ in range(together):
            state, metrics = steps.train(state, steps.draw_prior(TRAINING, position), None)
            position += 1
        return metrics

    def draw() -> Any:
        nonlocal position
        position += together
        return steps.draw_prior(TRAINING, position)

    def descent() -> Any:
        nonlocal state
        state, metrics = steps.train(state, batch, None)
        return metrics

    taken = seconds_per_call({"full": full_steps, "descent": descent, "prior": draw}, arguments.seconds)
    with_prior, without_prior, prior = taken["full"] / together, taken["descent"], taken["prior"] / together
    peak = matrix_product_peak(config.model.compute_dtype, arguments.seconds / 2) * mesh.devices.size
    mean_tokens = float(jnp.sum(batch.trial_mask.sum(-1) * ((batch.slot_kinds > 0).sum(-1) + 3)))
    result = {
        "config": arguments.config,
        "overrides": arguments.overrides,
        "device": f"{mesh.devices.size} {mesh.devices.flat[0].device_kind}",
        "jax": jax.__version__,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "studies_per_step": config.batch_size,
        "tokens_per_step": mean_tokens,
        "compile_prior_seconds": compile_prior,
        "compile_step_seconds": compile_step,
        "step_seconds": with_prior,
        "step_without_prior_seconds": without_prior,
        "prior_alone_seconds": prior,
        "prior_share": prior / (prior + without_prior),
        "studies_per_second": config.batch_size / with_prior,
        "tokens_per_second": mean_tokens / with_prior,
        "gigaflop_per_step": flops / 1e9,
        "gigaflop_per_second": flops / without_prior / 1e9,
        "peak_gigaflop_per_second": peak / 1e9,
        "fraction_of_peak": flops / without_prior / peak,
        "fraction_of_peak_with_prior": flops / with_prior / peak,
    }
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:28} {value:,.4g}" if isinstance(value, float) else f"{name:28} {value}")


if __name__ == "__main__":
    main()
