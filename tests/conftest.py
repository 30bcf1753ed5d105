"""Settings every test runs under: CPU, two virtual devices, and no silent rank promotion."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def own_compilation_cache(tmp_path_factory):
    """No test writes to the user's cache; models of one shape compile once for all tests and their processes."""
    from optformer.inference import compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiled.CACHE_VARIABLE, str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """Folder of an untrained model of the smallest size, named random-tiny."""
    from optformer.model import ModelConfig, build_model, save_checkpoint

    directory = tmp_path_factory.mktemp("checkpoints") / "random-tiny"
    save_checkpoint(directory, build_model(ModelConfig.tiny()), {"name": "random-tiny", "steps": 0})
    return str(directory)
