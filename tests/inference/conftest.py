"""A model with random weights: what must hold for any weights can be tested without training."""

import pytest

from optformer import OptFormer
from optformer.inference import compiled
from optformer.inference.engine import SearchSettings
from optformer.model import ModelConfig, build_model


@pytest.fixture(scope="session", autouse=True)
def own_compilation_cache(tmp_path_factory):
    """No test writes to the user's cache; models of one shape compile once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiled.CACHE_VARIABLE, str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="session")
def weights():
    return build_model(ModelConfig.tiny(), seed=0)


@pytest.fixture(scope="session")
def model(weights, own_compilation_cache) -> OptFormer:
    settings = SearchSettings(
        first_candidates=256, round_candidates=128, rounds=2, policy_samples=32, check_trust=False
    )
    return OptFormer(weights, {"name": "random-tiny"}, settings)
