"""Backends of a model with random weights, small enough to make hundreds of suggestions in a test."""

import contextlib
import re
from pathlib import Path

import jax
import optuna
import pytest

from optformer import OptFormer
from optformer.serve import testing

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
def code_of():
    """Called with a class of backends, source that makes one of the same model in another process, as `backend`."""

    def source(backend: type) -> str:
        found = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
        made = f"from {backend.__module__} import {backend.__name__}\nbackend = {backend.__name__}(model)"
        return f"{MODEL_CODE}\n{found}\n{made}\n"

    return source


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
        calls.append(self.prepared_trials(problem, trials))
        return suggest(self, problem, trials, *arguments, **named)

    monkeypatch.setattr(type(model), "suggest", noted)
    return calls


ROWS = {
    "conditional": "conditional parameters",
    "prior_studies": "[earlier studies](earlier-studies.md)",
    "belief": "[beliefs](beliefs.md)",
    "cost": "[costs](cost.md)",
    "constraints": "[constraints](constraints.md) on parameters",
    "outcomes": "[constraints on outcomes](constraints.md#on-outcomes)",
    "objectives": "several objectives",
    "own_points": "own points first, missing values chosen",
    "stopping": "reports, stopped trials, [early stopping](learning-curves.md)",
    "reasons": "why it was suggested",
}
"""Of the table "What works where" in docs/suggesting.md, by the feature of the conformance suite."""


@pytest.fixture
def lacking():
    """The features that a column of the table says a backend lacks."""
    text = (Path(__file__).parents[2] / "docs" / "suggesting.md").read_text(encoding="utf-8")
    lines = text.split("## What works where")[1].split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}
    assert set(ROWS) == set(testing.FEATURES)

    def of(column):
        return {feature for feature, row in ROWS.items() if re.match(r"no\b", rows[row][column])}

    return of


# Optuna.


@pytest.fixture
def asked_of_the_model(model, monkeypatch):
    """Called, a list that grows with each call of `model.suggest`: problem, trials as told, given values."""

    def begin():
        calls, suggest = [], type(model).suggest

        def recorded(self, problem, trials, **options):
            calls.append((problem, self.prepared_trials(problem, trials), options["given"]))
            return suggest(self, problem, trials, **options)

        monkeypatch.setattr(type(model), "suggest", recorded)
        return calls

    return begin


@pytest.fixture
def objective():
    """Of three parameters; every fifth trial is pruned, and every fifth fails."""

    def value(trial):
        x = trial.suggest_float("x", -2.0, 2.0)
        kind = trial.suggest_categorical("kind", [True, False])
        n = trial.suggest_int("n", 1, 64, log=True)
        if trial.number % 5 == 3:
            raise optuna.TrialPruned
        if trial.number % 5 == 4:
            raise RuntimeError("crashed")
        return (x - 0.5) ** 2 + 0.1 * n + (0.0 if kind else 1.0)

    return value


# HTTP.


@pytest.fixture(scope="module")
def both(model, tmp_path_factory):
    """A server of both protocols."""
    from http_calls import Both

    from optformer.serve.limits import Limits

    limits = Limits(studies=3, trials=8, suggestions=5)
    both = Both(model, f"sqlite:///{tmp_path_factory.mktemp('studies')}/studies.db", limits)
    yield both
    both.vizier.stop()


@pytest.fixture
def owner(both, request):
    """Calls for an owner of this test's own."""
    from http_calls import Owner

    return Owner(both, re.sub(r"\W+", "-", request.node.name))


@pytest.fixture
def study(owner):
    """A study `s` of that owner."""
    from http_calls import new_study

    return owner.done("POST", body=new_study())
