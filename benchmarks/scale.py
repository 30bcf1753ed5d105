"""Memory of a training step on each device of a mesh, estimated and as compiled, on simulated devices.

    python benchmarks/scale.py --size paper --mesh 1x4x2 [--batch 32] [--accumulate 2] [--remat] [--lower-only] [--json]

The step is lowered and compiled for data x fsdp x tensor CPU devices that this process simulates; no weight is made and
no step is run.  `estimated` is `optformer.train.memory.estimate`; `compiled` is XLA's own count: arguments (state and
batch) and temporary buffers.  XLA's CPU backend computes bfloat16 products in float32 and fuses less than those for
accelerators: its temporary buffers are an upper bound for theirs.
"""

import argparse
import json
import math
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="paper", help="tiny, nano, small, base or paper; default: %(default)s")
    parser.add_argument("--mesh", default="1x4x2", metavar="DxFxT", help="data x fsdp x tensor; default: %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="studies per step, on all devices; default: %(default)s")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--lower-only", action="store_true", help="compile nothing (minutes for large sizes)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = tuple(int(size) for size in arguments.mesh.split("x"))
    # Before JAX looks for devices.
    flags = f"--xla_force_host_platform_device_count={math.prod(sizes)}"
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
    result = measure(arguments, sizes)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        shown = f"{value / 2**20:,.0f} MiB" if name.endswith("bytes") else f"{value}"
        print(f"{name.removesuffix('_bytes'):28} {shown}")


def measure(arguments: argparse.Namespace, sizes: tuple[int, ...]) -> dict:
    """All figures, memory in bytes per device."""
    import jax

    from optformer.model import ModelConfig
    from optformer.serialization.batch import BatchShape
    from optformer.train.config import MeshConfig, TrainConfig
    from optformer.train.memory import abstract_batch, estimate
    from optformer.train.mesh import batch_sharding, check_batch_size, make_mesh
    from optformer.train.step import make_steps

    config = TrainConfig(
        model=getattr(ModelConfig, arguments.size)(),
        shape=BatchShape(trials=48, slots=10, text=160, policy_trials=8),
        batch_size=arguments.batch,
        accumulate=arguments.accumulate,
        remat=arguments.remat,
        mesh=MeshConfig(*sizes),
    )
    mesh = make_mesh(config.mesh)
    check_batch_size(mesh, config.batch_size, config.accumulate)
    expected = estimate(config, mesh)
    result = {
        "size": arguments.size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(make_steps(config, mesh).abstract_state.params)),
        "mesh": arguments.mesh,
        "studies_per_step": config.batch_size,
        "accumulate": config.accumulate,
        "remat": config.remat,
        **{f"estimated_{name}_bytes": value for name, value in expected._asdict().items()},
        "estimated_total_bytes": expected.total,
    }
    place = batch_sharding(mesh)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract_batch(config, config.batch_size),
    )
    steps = make_steps(config, mesh)
    started = time.perf_counter()
    lowered = steps.train.lower(steps.abstract_state, batch, None)  # type: ignore[attr-defined]
    result["lower_seconds"] = round(time.perf_counter() - started, 1)
    if not arguments.lower_only:
        started = time.perf_counter()
        compiled = lowered.compile()
        result["compile_seconds"] = round(time.perf_counter() - started, 1)
        memory = compiled.memory_analysis()
        result["compiled_arguments_bytes"] = memory.argument_size_in_bytes
        result["compiled_temporary_bytes"] = memory.temp_size_in_bytes
        result["compiled_total_bytes"] = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        result["compiled_donated_bytes"] = memory.alias_size_in_bytes
    return result


if __name__ == "__main__":
    main()
