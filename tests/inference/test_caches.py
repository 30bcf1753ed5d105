"""What is kept between calls changes no answer."""

import copy
import dataclasses
import pickle
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.inference import compiled, memory_regions
from optformer.inference.history import Objective, history_batch
from optformer.inference.settings import SearchSettings
from optformer.model import ModelConfig, build_model
from optformer.serialization.study import EncodedStudy

pytestmark = pytest.mark.integration


def problem() -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    for name in "abcd":
        statement.search_space.root.add_float_param(name, 0.0, 1.0)
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    return statement


def history(count: int, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> list[vz.Trial]:
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(1, count + 1):
        trial = vz.Trial(id=number, parameters={name: float(rng.random()) for name in "abcd"})
        trials.append(trial.complete(vz.Measurement(metrics={"y": float(scale * rng.normal() + shift)})))
    return trials


def plain(suggestions) -> list[tuple[dict, dict]]:
    """Parameters and reasons."""
    return [(each.parameters.as_dict(), dict(each.metadata.ns("optformer").items())) for each in suggestions]


QUICK = SearchSettings(first_candidates=128, round_candidates=64, rounds=1, policy_samples=16)


def encodings(model: OptFormer) -> list[int]:
    """Counts the histories that are really encoded."""
    compiled = model._model
    seen: list[int] = []
    call = compiled._call
    compiled._call = lambda kind, *rest: (seen.append(1) if kind == "_encode" else None) or call(kind, *rest)
    return seen


@pytest.mark.parametrize("acquisition", ["ei", "policy"])
def test_answers_are_the_same_without_the_cache(weights, acquisition):
    with_cache, without = (OptFormer(weights, {}, dataclasses.replace(QUICK, kept_histories=kept)) for kept in (16, 0))
    trials = history(10)
    for step in range(3):
        answers = [
            model.suggest(problem(), trials, count=2, acquisition=acquisition, seed=step)
            for model in (with_cache, without)
        ]
        assert plain(answers[0]) == plain(answers[1])
        predicted = [model.predict(problem(), trials, answers[0]).mean for model in (with_cache, without)]
        np.testing.assert_array_equal(*predicted)
        trial = answers[0][0].to_trial(len(trials) + 1)
        trials = [*trials, trial.complete(vz.Measurement(metrics={"y": float(step) * 100.0}))]  # moves the scale


def test_the_history_is_encoded_once_as_long_as_nothing_is_new(weights):
    model = OptFormer(weights, {}, QUICK)
    seen, trials = encodings(model), history(10)
    model.predict(problem(), trials, [trials[0].parameters])
    model.predict(problem(), trials, [trials[1].parameters])
    assert len(seen) == 1
    scaled = history(10, scale=7.0, shift=3.0)  # on the model's scale the same study
    model.predict(problem(), scaled, [trials[0].parameters])
    assert len(seen) == 1
    model.predict(problem(), [*trials[:-1], *history(1, scale=100.0, seed=5)], [trials[0].parameters])
    model.predict(problem(), trials[:-1], [trials[0].parameters])
    model.predict(problem(), trials, [trials[0].parameters], algorithm="tpe")
    assert len(seen) == 4
    model.predict(problem(), trials, [trials[0].parameters])
    assert len(seen) == 4


def test_the_oldest_histories_are_given_up(weights):
    model = OptFormer(weights, {}, dataclasses.replace(QUICK, kept_histories=2))
    seen = encodings(model)
    for seed in (0, 1, 0, 2, 0, 1):
        model.predict(problem(), history(5, seed=seed), [history(1)[0].parameters])
    assert len(seen) == 4


def test_a_model_sent_to_another_process_leaves_its_cache_behind(weights):
    model = OptFormer(weights, {}, QUICK)
    expected = plain(model.suggest(problem(), history(10)))
    assert len(model._model._kept._histories) > 0
    sent = pickle.loads(pickle.dumps(model))
    assert len(sent._model._kept._histories) == 0
    assert sent._model._kept.most == QUICK.kept_histories
    assert plain(sent.suggest(problem(), history(10))) == expected


def test_a_copy_compiles_nothing_anew(weights):
    """Such as that of a study, which has the model in its sampler."""
    model = OptFormer(weights, {}, QUICK)
    expected = plain(model.suggest(problem(), history(10)))
    compiled = {name: function.func._cache_size() for name, function in model._model._functions.items()}
    copied = copy.deepcopy(model)
    assert plain(copied.suggest(problem(), history(10))) == expected
    assert {name: function.func._cache_size() for name, function in copied._model._functions.items()} == compiled
    assert copied._model._functions is model._model._functions


def test_other_settings_compile_nothing_anew(weights):
    model = OptFormer(weights, {}, QUICK)
    model.suggest(problem(), history(10), count=2)
    compiled = model._model._functions
    sizes = {name: function.func._cache_size() for name, function in compiled.items()}
    other = model.with_settings(rounds=2, max_trials=12, kept_histories=2)
    other.suggest(problem(), history(14), count=2)
    assert other._model._functions is compiled
    assert {name: function.func._cache_size() for name, function in compiled.items()} == sizes
    # Each keeps as many histories as it was asked to.
    assert len(other._model._kept._histories) == 2
    assert model._model._kept.most == QUICK.kept_histories


def test_compiled_functions_are_given_up_before_the_system_refuses_memory(weights, monkeypatch):
    model = OptFormer(weights, {}, QUICK)
    expected = plain(model.suggest(problem(), history(10), count=2))
    compiled = model._model
    assert compiled._functions
    monkeypatch.setattr(memory_regions, "allowed", lambda: 100)
    before = list(compiled._functions.values())
    model.predict(problem(), history(100), [history(1)[0].parameters])  # a size that was not compiled yet
    assert not compiled._functions
    assert sum(function.func._cache_size() for function in before) == 0
    monkeypatch.setattr(memory_regions, "allowed", lambda: 10**6)
    assert plain(model.suggest(problem(), history(10), count=2)) == expected
    assert compiled._functions


def test_threads_with_the_same_new_shape_compile_it_once_and_then_run_together(weights):
    model = OptFormer(weights, {}, QUICK)._model
    compiled_alone, together = threading.Event(), threading.Barrier(4, timeout=30.0)

    def function(value: np.ndarray) -> np.ndarray:
        if not compiled_alone.is_set():
            time.sleep(0.1)  # the others come meanwhile, and wait
            compiled_alone.set()
        else:
            together.wait()
        return value + 1

    model._functions["slow", None] = function
    results: list[float] = []
    threads = [
        threading.Thread(target=lambda n=number: results.append(float(model._call("slow", None, np.full(1, n))[0])))
        for number in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_slow_compilation_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(compiled, "_PATIENCE", 0.05)
    monkeypatch.setattr(compiled, "_said", threading.Event())
    with compiled.said_if_slow():
        pass
    time.sleep(0.1)
    assert not caplog.records, "it was quick"
    for _ in range(2):
        with compiled.said_if_slow():
            assert compiled._said.wait(10.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "compiling the model for studies of this size" in caplog.text


def test_the_memory_regions_of_this_process_are_counted():
    if Path("/proc/self/maps").exists():
        assert 10 < memory_regions.count() < memory_regions.allowed()
    assert memory_regions.count(10**8) == 0
    assert not memory_regions.too_many(10**8)


def test_a_negative_number_of_kept_histories_is_refused():
    with pytest.raises(ValueError, match="kept_histories must not be negative"):
        SearchSettings(kept_histories=-1)


def test_histories_of_both_heads_share_a_compiled_encoder():
    weights = build_model(dataclasses.replace(ModelConfig.tiny(), experts=4), seed=0)
    study = EncodedStudy(problem(), history(10))
    focus = Objective.of(study, study.values[:, 0], metric=0, limit=16)
    batch = history_batch(study.row(study.x_tokens, focus.y_tokens))
    model = compiled.CompiledModel(weights)
    whole, policy = model.encode(batch), model.encode(batch, objective=False)
    sizes = {kind: function.func._cache_size() for (kind, _), function in model._functions.items()}
    assert sizes == {"_encode": 1, "_fit": 1}
    assert policy.known is None
    expected = jax.jit(lambda plain: plain.encode(batch))(weights)
    for own, other in zip(jax.tree.leaves(whole), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)
