"""What is kept between calls changes no answer; predictions averaged over orders are the mean of their parts."""

import dataclasses
import pickle

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.inference.compiled import CompiledModel
from optformer.inference.engine import Engine
from optformer.inference.known import Objective, StudyInput, history_batch, slot_identities
from optformer.inference.settings import SearchSettings


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


def told(suggestions) -> list[tuple[dict, dict]]:
    """Parameters and reasons."""
    return [(each.parameters.as_dict(), dict(each.metadata.ns("optformer").items())) for each in suggestions]


QUICK = SearchSettings(first_candidates=128, round_candidates=64, rounds=1, policy_samples=16)


def encodings(model: OptFormer) -> list[int]:
    """Counts the histories that are really encoded."""
    compiled = model._engine._model
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
        assert told(answers[0]) == told(answers[1])
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
    expected = told(model.suggest(problem(), history(10)))
    assert len(model._engine._model._kept._histories) > 0
    engine = pickle.loads(pickle.dumps(model._engine))
    assert len(engine._model._kept._histories) == 0
    assert engine._model._kept.most == QUICK.kept_histories
    copy = OptFormer(weights, {}, QUICK)
    copy._engine = engine
    assert told(copy.suggest(problem(), history(10))) == expected


# Orders.


def test_the_mean_over_orders_is_that_of_the_probabilities(weights):
    study = StudyInput(problem(), history(9))
    focus = Objective.of(study, study.values[:, 0], 0, 128)
    compiled = CompiledModel(weights)
    together = history_batch(study, study.text(None, 0), study.rows, focus.y_tokens, True, orders=3)
    alone = [type(together)(*(field[k : k + 1] for field in together)) for k in range(3)]
    assert len({tuple(each.slot_identities[0, :4]) for each in alone}) == 3

    def mass(batch):
        _, logits = compiled.score(compiled.encode(batch), study.rows)
        return np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))

    np.testing.assert_allclose(mass(together), np.mean([mass(each) for each in alone], axis=0), atol=1e-6)
    assert np.abs(mass(alone[0]) - mass(alone[1])).max() > 1e-6


def test_identities_are_distinct_and_always_the_same():
    drawn = slot_identities(5, 20)
    assert drawn.shape == (5, 20)
    assert all(len(set(row)) == 20 for row in drawn.tolist())
    np.testing.assert_array_equal(drawn, slot_identities(5, 20))
    assert slot_identities(1, 100).max() < 64


def test_suggestions_and_predictions_over_several_orders(weights):
    one, several = (Engine(weights, dataclasses.replace(QUICK, orders=orders)) for orders in (1, 4))
    study = StudyInput(problem(), history(9))
    means = [engine.predict(study, study.rows, 0, None).mean for engine in (one, several)]
    assert not np.allclose(*means)
    rows = [proposal.row for proposal in several.suggest(study, 2, "ei", None, 0)]
    again = [proposal.row for proposal in several.suggest(study, 2, "ei", None, 0)]
    np.testing.assert_array_equal(rows, again)
    with pytest.raises(ValueError, match="orders must be at least 1"):
        SearchSettings(orders=0)
    with pytest.raises(ValueError, match="kept_histories must not be negative"):
        SearchSettings(kept_histories=-1)
