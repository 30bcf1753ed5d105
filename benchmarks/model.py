"""Speed of a training step, beside the matrix-product peak of the same machine in the same run.

    python benchmarks/model.py [--size nano] [--layout pooled] [--batch 32] [--trials 48] [--slots 8] [--text 64]
                               [--policy-trials 4] [--steps 20]

One step is value_and_grad and AdamW, jitted.  Tokens are those of the serialized study, T * (D + 3) per study, for
both layouts, so that the layouts compare.  FLOP are XLA's own count for the compiled step (`cost_analysis`), which
includes element-wise work; the share of matrix products alone is counted by hand for the pooled layout.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from optformer.model import ModelConfig, build_model, count_parameters, loss
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch


def random_batch(studies: int, trials: int, slots: int, text: int, policy_trials: int, seed: int = 0) -> StudyBatch:
    """Full studies of continuous parameters with random values."""
    rng = np.random.default_rng(seed)
    segments = np.sort(np.arange(text) % (slots + 1))
    starts = np.searchsorted(segments, segments)
    return StudyBatch(
        text_tokens=rng.integers(0, 2048, (studies, text)).astype(np.int32),
        text_segments=np.broadcast_to(segments, (studies, text)).astype(np.int32),
        text_positions=np.broadcast_to(np.arange(text) - starts, (studies, text)).astype(np.int32),
        slot_kinds=np.full((studies, slots), tokens.CONTINUOUS, np.int32),
        slot_levels=np.full((studies, slots), tokens.NUM_LEVELS, np.int32),
        slot_identities=np.argsort(rng.random((studies, tokens.NUM_SLOT_IDENTITIES)))[:, :slots].astype(np.int32),
        x_tokens=rng.integers(0, tokens.NUM_LEVELS, (studies, trials, slots)).astype(np.int32),
        y_tokens=rng.integers(0, tokens.NUM_LEVELS, (studies, trials)).astype(np.int32),
        trial_mask=np.ones((studies, trials), bool),
        prefix_length=np.full(studies, 5, np.int32),
        order_free=rng.random(studies) < 0.5,
        function_weights=np.ones((studies, trials), np.float32),
        policy_trials=np.argsort(rng.random((studies, trials)))[:, :policy_trials].astype(np.int32),
        policy_weights=np.ones((studies, policy_trials, slots), np.float32),
    )


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def matmul_peak(dtype: jnp.dtype) -> float:
    """FLOP/s of the best square matrix product among a few sizes."""
    best = 0.0
    for size in (512, 1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192):
        matrix = jnp.ones((size, size), dtype)
        multiply = jax.jit(jnp.matmul)
        best = max(best, 2.0 * size**3 / seconds(lambda m=matrix, f=multiply: f(m, m), 5))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano", choices=["tiny", "nano", "small", "base"])
    parser.add_argument("--layout", default="pooled", choices=["pooled", "flat"])
    parser.add_argument("--dtype", default=None, choices=["float32", "bfloat16"])
    for name, default in (
        ("batch", 32),
        ("trials", 48),
        ("slots", 8),
        ("text", 64),
        ("policy-trials", 4),
        ("steps", 20),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    config = dataclasses.replace(getattr(ModelConfig, arguments.size)(), layout=arguments.layout)
    config = dataclasses.replace(config, dtype=arguments.dtype or config.dtype)
    model = build_model(config)
    graph, weights = nnx.split(model, nnx.Param)
    optimizer = optax.adamw(1e-3)
    state = (weights, optimizer.init(weights))
    batch = jax.device_put(
        random_batch(arguments.batch, arguments.trials, arguments.slots, arguments.text, arguments.policy_trials)
    )

    def step(state: tuple, batch: StudyBatch) -> tuple:
        weights, moments = state
        value, gradient = jax.value_and_grad(lambda w: loss(nnx.merge(graph, w)(batch), batch, config).total)(weights)
        updates, moments = optimizer.update(gradient, moments, weights)
        return (optax.apply_updates(weights, updates), moments), value

    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start
    flop = float(compiled.cost_analysis()["flops"])

    def run() -> object:
        nonlocal state
        state, value = compiled(state, batch)
        return value

    peak_before = matmul_peak(config.compute_dtype)
    step_seconds = seconds(run, arguments.steps)
    peak = max(peak_before, matmul_peak(config.compute_dtype))
    study_tokens = arguments.batch * arguments.trials * (arguments.slots + 3)
    print(f"device            {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"model             {arguments.size} {config.layout}, {count_parameters(model):,} parameters, {config.dtype}")
    print(f"batch             B={arguments.batch} T={arguments.trials} D={arguments.slots} S={arguments.text}")
    print(f"compilation       {compile_seconds:.1f} s")
    print(f"step              {1e3 * step_seconds:.1f} ms, {arguments.batch / step_seconds:.0f} studies/s")
    print(f"tokens            {study_tokens / step_seconds:,.0f} /s")
    print(f"achieved          {flop / step_seconds / 1e9:.1f} GFLOP/s ({flop / 1e9:.2f} GFLOP a step by XLA's count)")
    print(f"matmul peak       {peak / 1e9:.1f} GFLOP/s in {config.dtype}")
    print(f"fraction of peak  {flop / step_seconds / peak:.2f}")


if __name__ == "__main__":
    main()
