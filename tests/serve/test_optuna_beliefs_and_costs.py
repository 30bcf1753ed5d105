"""The Optuna sampler: beliefs and costs."""

import json

import optuna
import pytest
from optuna.distributions import FloatDistribution

from optformer.serve.optuna import OptFormerSampler

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_a_belief_from_the_first_trial_on(model):
    belief = {"rate": ("log_normal", 1e-3, 2.0), "kind": {"svm": 1.0}, "c": ("normal", 0.5, 0.01)}
    study = optuna.create_study(sampler=OptFormerSampler(model, seed=0, belief=belief))

    def objective(trial):
        rate = trial.suggest_float("rate", 1e-5, 1.0, log=True)
        if trial.suggest_categorical("kind", ["forest", "svm"]) == "svm":
            return rate + trial.suggest_float("c", 0.0, 1.0)
        return rate + trial.suggest_int("depth", 1, 9)

    study.optimize(objective, n_trials=5)
    first = study.trials[0].params
    assert first["rate"] == pytest.approx(1e-3, rel=0.01)
    assert (first["kind"], first["c"]) == ("svm", pytest.approx(0.5, abs=1e-3))
    reasons = [json.loads(trial.system_attrs["optformer:reason"]) for trial in study.trials[1:]]
    assert reasons[0]["source"] == "belief"
    assert all("belief" in reason for reason in reasons)


def test_a_belief_about_what_no_trial_has_is_warned_of_once(model):
    belief = {"rat": ("log_normal", 1e-3, 2.0)}
    study = optuna.create_study(study_name="typo", sampler=OptFormerSampler(model, seed=0, belief=belief))
    study.optimize(lambda trial: trial.suggest_float("rate", 0.0, 1.0), n_trials=10)
    with pytest.warns(UserWarning, match="study 'typo': the belief names a parameter 'rat', which none") as said:
        study.optimize(lambda trial: trial.suggest_float("rate", 0.0, 1.0), n_trials=2)
    assert len(said) == 1


def test_a_belief_that_makes_no_sense_is_refused(model):
    with pytest.raises(ValueError, match="OptFormerSampler, parameter 'rate': the stddev is 0"):
        OptFormerSampler(model, belief={"rate": ("normal", 0.5, 0)})
    study = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, belief={"kind": {"tree": 1.0}}))
    with pytest.raises(ValueError, match="study 's', parameter 'kind': a belief: 'tree' is none of"):
        study.optimize(lambda trial: len(trial.suggest_categorical("kind", ["forest", "svm"])), n_trials=1)


def test_costs_are_user_attributes_or_durations(model, caplog):
    def objective(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.set_user_attr("dollars", 1.0 + x)
        return x

    for cost, least, most in (("dollars", 1.0, 2.0), ("duration", 0.0, 60.0)):
        study = optuna.create_study(sampler=OptFormerSampler(model, seed=0, cost=cost))
        study.optimize(objective, n_trials=5)
        reason = json.loads(study.trials[-1].system_attrs["optformer:reason"])
        assert least <= float(reason["cost"]) <= most
    study = optuna.create_study(study_name="s", sampler=OptFormerSampler(model, cost="dollars"))
    study.optimize(objective, n_trials=2)
    study.add_trial(
        optuna.trial.create_trial(
            value=1.0, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, user_attrs={"dollars": "many"}
        )
    )
    study.optimize(objective, n_trials=2)
    assert [message for message in caplog.messages if "cost" in message] == [
        "study 's', trial 2: its cost 'dollars' is 'many'; a cost is a positive, finite number; "
        "the trial counts as one without a cost"
    ]
