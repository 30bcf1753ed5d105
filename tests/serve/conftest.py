"""Backends of a model with random weights, small enough to make hundreds of suggestions in a test."""

import contextlib

import jax
import pytest

from optformer import OptFormer

MODEL_CODE = """
from optformer import OptFormer
from optformer.inference.settings import SearchSettings
from optformer.model import ModelConfig, build_model

settings = SearchSettings(
    first_candidates=128, round_candidates=64, rounds=1, policy_samples=16, max_trials=12, check_trust=False
)
model = OptFormer(build_model(ModelConfig.tiny(), seed=0), {"name": "random-tiny"}, settings)
"""
"""Source, so that another process can make the same model."""


@contextlib.contextmanager
def precision_kept():
    """Vizier's service switches the process to 64 bits, which is no business of the tests that follow."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True)
def precision_kept_by_a_test():
    with precision_kept():
        yield


@pytest.fixture(autouse=True, scope="module")
def precision_kept_by_a_module():
    """Its fixtures start servers before its first test."""
    with precision_kept():
        yield


@pytest.fixture(scope="session")
def model_code() -> str:
    return MODEL_CODE


@pytest.fixture(scope="session")
def model() -> OptFormer:
    names: dict = {}
    exec(MODEL_CODE, names)
    return names["model"]


@pytest.fixture
def reader(model) -> OptFormer:
    """The model, as if it had been trained with learning curves."""
    reading = model.with_settings()
    reading.card = {"name": "random-tiny", "train_config": {"prior": {"partial_rate": 0.5}}}
    return reading


@pytest.fixture
def told_earlier(monkeypatch):
    """Called, the earlier studies that the last call of `suggest` of any model was given."""
    last, suggest = [], OptFormer.suggest

    def noted(self, *arguments, prior_studies=(), **named):
        last[:] = [list(prior_studies)]
        return suggest(self, *arguments, prior_studies=prior_studies, **named)

    monkeypatch.setattr(OptFormer, "suggest", noted)
    return lambda: last[0]


@pytest.fixture
def asked(model, monkeypatch):
    """The trials of each call of `model.suggest`, as the model is told of them."""
    calls, suggest = [], type(model).suggest

    def noted(self, problem, trials, *arguments, **named):
        calls.append(self.as_told(problem, trials))
        return suggest(self, problem, trials, *arguments, **named)

    monkeypatch.setattr(type(model), "suggest", noted)
    return calls
