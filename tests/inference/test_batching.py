"""Calls of several threads run as one: the same answers, alone and together, and errors where they belong."""

import concurrent.futures
import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.inference import batching
from optformer.inference.batching import Batched
from optformer.inference.settings import SearchSettings

THREADS = 6


def at_once(calls):
    """All results, of calls that begin at the same moment."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait(timeout=30)
        return call()

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(run, call) for call in calls]]


@pytest.fixture
def patient(monkeypatch):
    """A window long enough for all threads of a test."""
    monkeypatch.setattr(batching, "WINDOW", 0.5)


@pytest.fixture
def groups(monkeypatch):
    """Sizes of the groups that were run."""
    seen: list[int] = []
    run = Batched._run
    monkeypatch.setattr(Batched, "_run", lambda self, group: seen.append(len(group)) or run(self, group))
    return seen


def test_calls_of_one_shape_run_together_and_each_gets_its_own_answer(patient, groups):
    scaled = Batched(lambda weights, x, other: {"y": weights * x["a"] + other}, jnp.float32(3.0), most=4)
    calls = [lambda k=k: scaled({"a": np.full(2, k, np.float32)}, np.float32(0.5)) for k in range(THREADS)]
    answers = at_once(calls)
    for k, answer in enumerate(answers):
        np.testing.assert_allclose(answer["y"], [3.0 * k + 0.5] * 2)
    assert sorted(groups) == [2, 4]


def test_other_shapes_wait_for_their_own_group(patient, groups):
    total = Batched(lambda weights, x: x.sum(), None, most=8)
    calls = [lambda k=k: float(total(np.ones(2 + k % 2, np.float32))) for k in range(THREADS)]
    assert at_once(calls) == [2.0, 3.0] * 3
    assert sorted(groups) == [3, 3]


def test_an_error_reaches_every_caller_and_the_next_call_works(patient):
    def function(weights, x):
        if x.shape[0] == 3:
            raise ValueError("three is too many")
        return x * 2

    double = Batched(function, None, most=4)
    with pytest.raises(ValueError, match="three is too many"):
        double(np.ones(3, np.float32))
    np.testing.assert_array_equal(double(np.ones(2, np.float32)), [2.0, 2.0])


def test_the_thread_ends_when_nobody_calls_and_comes_back(monkeypatch):
    monkeypatch.setattr(batching, "IDLE", 0.05)
    double = Batched(lambda weights, x: x * 2, None, most=4)
    for _ in range(2):
        assert float(double(np.float32(1.0))) == 2.0
        thread = double._thread
        if thread is not None:
            thread.join(timeout=30)
            assert not thread.is_alive()
        assert double._thread is None


def test_numbers_are_single_whatever_the_program_does(patient):
    with jax.enable_x64(True):
        drawn = Batched(lambda weights, key: jax.random.uniform(key, (3,)), None, most=4)(jax.random.key(0))
    assert drawn.dtype == np.float32


def problem(parameters: int) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    for index in range(parameters):
        statement.search_space.root.add_float_param(f"x{index}", 0.0, 1.0)
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    return statement


def history(parameters: int, count: int, seed: int) -> list[vz.Trial]:
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(1, count + 1):
        values = {f"x{index}": float(rng.random()) for index in range(parameters)}
        trials.append(vz.Trial(id=number, parameters=values).complete(vz.Measurement({"y": float(rng.normal())})))
    return trials


def test_studies_suggested_for_at_once_get_what_they_get_alone(weights, groups):
    """The predictions agree to rounding; so few candidates are never that close."""
    settings = SearchSettings(first_candidates=64, round_candidates=32, rounds=1, policy_samples=8, check_trust=False)
    alone = OptFormer(weights, {}, settings)
    together = OptFormer(weights, {}, dataclasses.replace(settings, batch=4))
    studies = [(problem(2 + k % 2), history(2 + k % 2, 9 + k, k)) for k in range(THREADS)]
    suggested = at_once([lambda s=s: together.suggest(*s, count=2) for s in studies])
    assert max(groups) > 1
    for study, suggestions in zip(studies, suggested, strict=True):
        expected = alone.suggest(*study, count=2)
        for one, other in zip(suggestions, expected, strict=True):
            assert one.parameters.as_dict() == pytest.approx(other.parameters.as_dict(), abs=1e-9)
            ours, theirs = (each.metadata.ns("optformer")["mean"] for each in (one, other))
            assert float(ours) == pytest.approx(float(theirs), rel=1e-4, abs=1e-4)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        SearchSettings(batch=0)
