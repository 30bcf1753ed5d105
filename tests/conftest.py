"""Settings every test runs under: CPU, two virtual devices, no silent rank promotion, one cache of compiled code.

Compilation is most of what these tests spend their time on.  So they compile with few optimizations (none is run for
speed), and all processes of a run share one cache in `.cache/tests`, which the next run finds again.  The settings are
environment variables, so that the processes that tests start have them as well.
"""

import os
from pathlib import Path

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parent.parent / ".cache" / "tests"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
} | os.environ
# The older emitters of fused loops compile three times as fast, and run slower.
# Flags of the user's own come after these and win.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=2",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        os.environ.get("XLA_FLAGS", ""),
    ]
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """Folder of an untrained model of the smallest size, named random-tiny."""
    from optformer.model import ModelConfig, build_model, save_checkpoint

    directory = tmp_path_factory.mktemp("checkpoints") / "random-tiny"
    save_checkpoint(directory, build_model(ModelConfig.tiny()), {"name": "random-tiny", "steps": 0})
    return str(directory)
