"""A run small enough to be trained many times, and one cache of compiled code for all tests and their processes."""

import dataclasses

import jax
import pytest

from optformer.data.prior import PriorConfig
from optformer.data.shapes import BatchShape
from optformer.model import ModelConfig
from optformer.train.config import MeshConfig, OptimizerConfig, TrainConfig


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Every test builds its own steps, and most of them are the same."""
    directory = str(tmp_path_factory.mktemp("compiled"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", directory)
    yield directory
    jax.config.update("jax_compilation_cache_dir", before)


def make_config(**changes) -> TrainConfig:
    config = TrainConfig(
        model=dataclasses.replace(ModelConfig.tiny(), decoder_layers=1),
        prior=PriorConfig(behaviours=(("quasi_random", 1.0),), features=8),
        shape=BatchShape(trials=6, slots=2, text=24, policy_trials=2),
        batch_size=4,
        steps=12,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
        mesh=MeshConfig(data=2),
        checkpoint_every=4,
        log_every=1,
        eval_every=4,
        eval_batches=1,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture
def config() -> TrainConfig:
    return make_config()
