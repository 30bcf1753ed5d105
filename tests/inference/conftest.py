"""A model with random weights: what must hold for any weights can be tested without training."""

import pytest

from optformer import OptFormer
from optformer.inference.settings import SearchSettings
from optformer.model import ModelConfig, build_model


@pytest.fixture(scope="session")
def weights():
    return build_model(ModelConfig.tiny(), seed=0)


@pytest.fixture(scope="session")
def model(weights) -> OptFormer:
    settings = SearchSettings(
        first_candidates=256, round_candidates=128, rounds=2, policy_samples=32, check_trust=False
    )
    return OptFormer(weights, {"name": "random-tiny"}, settings)
