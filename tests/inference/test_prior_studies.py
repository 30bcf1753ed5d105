"""Suggestions and predictions that are shown earlier studies: what must hold for any weights."""

import threading

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import OptFormer, facade
from tests.inference.test_search import history, plain, problem

pytestmark = pytest.mark.integration


def earlier(count=12, seed=5, **of_problem) -> vz.ProblemAndTrials:
    return vz.ProblemAndTrials(problem=problem(**of_problem), trials=history(count, seed=seed))


def test_they_change_what_is_predicted(model):
    asked = [trial.parameters.as_dict() for trial in history(3, seed=9)]
    alone = model.predict(problem(), history(6), asked)
    told = model.predict(problem(), history(6), asked, prior_studies=[earlier()])
    assert not np.allclose(alone.mean, told.mean)
    twice = model.predict(problem(), history(6), asked, prior_studies=[earlier()])
    np.testing.assert_array_equal(told.mean, twice.mean)
    one_by_one = [model.predict(problem(), history(6), [each], prior_studies=[earlier()]).mean[0] for each in asked]
    np.testing.assert_allclose(told.mean, one_by_one, rtol=1e-4)


def test_their_units_do_not_matter(model):
    asked = [trial.parameters.as_dict() for trial in history(3, seed=9)]
    scaled = vz.ProblemAndTrials(problem=problem(), trials=history(12, scale=1000.0, shift=77.0, seed=5))
    one = model.predict(problem(), history(6), asked, prior_studies=[earlier()])
    other = model.predict(problem(), history(6), asked, prior_studies=[scaled])
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-5)


def test_suggestions_are_of_the_present_space(model):
    begins = model.with_settings(start="model")
    suggestions = begins.suggest(problem(), [], count=3, prior_studies=[earlier(), earlier(seed=6)])
    for suggestion in suggestions:
        assert set(suggestion.parameters) == {"x", "rate", "depth", "kind"}
        assert problem().search_space.contains(suggestion.parameters)
    again = begins.suggest(problem(), [], count=3, prior_studies=[earlier(), earlier(seed=6)])
    assert plain(suggestions) == plain(again)
    assert plain(suggestions) != plain(begins.suggest(problem(), [], count=3))


def test_the_policy_and_likelihoods_take_them(model):
    asked = history(1, seed=9)[0].parameters.as_dict()
    alone, told = (model.log_prob(problem(), history(6), asked, prior_studies=prior) for prior in ([], [earlier()]))
    assert np.isfinite(told)
    assert told != alone
    drawn = model.suggest(problem(), history(6), acquisition="policy", prior_studies=[earlier()])
    assert problem().search_space.contains(drawn[0].parameters)


def test_more_trials_than_the_model_is_shown(model):
    few = model.with_settings(max_trials=16)
    (suggestion,) = few.suggest(problem(), history(20), prior_studies=[earlier(40), earlier(40, seed=8)])
    assert problem().search_space.contains(suggestion.parameters)


def test_a_study_that_tells_nothing_changes_nothing(model):
    other = vz.ProblemStatement()
    other.search_space.root.add_float_param("unlike", 0.0, 1.0)
    other.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    trial = vz.Trial({"unlike": 0.5}, id=1).complete(vz.Measurement({"y": 1.0}))
    nothing = vz.ProblemAndTrials(problem=other, trials=[trial])
    asked = [history(1, seed=9)[0].parameters.as_dict()]
    few = model.with_settings(max_trials=16)  # of which none may be kept free for it
    one = few.predict(problem(), history(15), asked)
    other_one = few.predict(problem(), history(15), asked, prior_studies=[nothing])
    np.testing.assert_array_equal(one.mean, other_one.mean)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (earlier(), "a list of studies with their trials .*, not ProblemAndTrials"),
        ("other.db", "a list of studies with their trials .*, not str"),
        ([earlier(), problem()], r"prior_studies\[1\] is of type ProblemStatement; wanted: studies with their trials"),
    ],
)
def test_what_is_no_study_is_refused(model, given, message):
    with pytest.raises(TypeError, match=message):
        model.suggest(problem(), [], prior_studies=given)


def test_a_checkpoint_that_has_not_learned_from_them_says_so_once(weights, caplog, monkeypatch):
    monkeypatch.setattr(facade, "_warned_of_earlier", threading.Lock())
    asked = [history(1, seed=9)[0].parameters.as_dict()]
    for card in ({"augmentation": {"earlier_rate": 0.5}}, {"prior": {"earlier_rate": 0.1}, "augmentation": None}):
        OptFormer(weights, {"train_config": card}).predict(problem(), [], asked, prior_studies=[earlier()])
    assert not caplog.records
    untrained = OptFormer(weights, {"name": "plain", "train_config": {"augmentation": {"earlier_rate": 0.0}}})
    untrained.predict(problem(), [], asked)
    assert not caplog.records
    told = [untrained.predict(problem(), history(6), asked, prior_studies=[earlier()]) for _ in range(2)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'plain' was not trained with earlier studies" in caplog.text
    assert not np.allclose(told[0].mean, untrained.predict(problem(), history(6), asked).mean), "used all the same"
