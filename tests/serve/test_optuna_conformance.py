"""The conformance suite through the Optuna sampler."""

import json

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from vizier import pyvizier as vz

from optformer.serve import testing
from optformer.serve.optuna import REASON, OptFormerSampler
from optformer.serve.optuna_pruner import OptFormerPruner

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


def distributions(space: vz.SearchSpace) -> dict:
    """A flat search space as an Optuna user would write it."""
    found = {}
    for config in space.parameters:
        log = config.scale_type == vz.ScaleType.LOG
        if config.type == vz.ParameterType.DOUBLE:
            found[config.name] = FloatDistribution(*config.bounds, log=log)
        elif config.type == vz.ParameterType.INTEGER:
            found[config.name] = IntDistribution(*config.bounds, log=log)
        else:
            found[config.name] = CategoricalDistribution(tuple(config.feasible_values))
    return found


def study_of(earlier: vz.ProblemAndTrials) -> optuna.Study:
    """An Optuna study with these trials."""
    study, space = optuna.create_study(study_name="earlier"), distributions(earlier.problem.search_space)
    for trial in earlier.trials:
        state = TrialState.FAIL if trial.infeasible else TrialState.COMPLETE
        value = None if trial.infeasible else trial.final_measurement.metrics["objective"].value
        params = trial.parameters.as_dict()
        study.add_trial(optuna.trial.create_trial(state=state, value=value, params=params, distributions=space))
    return study


class OptunaSession:
    def __init__(self, problem, sampler, pruner=None, own_points=()):
        metrics = list(problem.metric_information)
        self.objectives = [each.name for each in metrics if each.type.is_objective]
        self.limits = {each.name: each.safety_threshold for each in metrics if each.type.is_safety}
        directions = ["maximize" if each.goal.is_maximize else "minimize" for each in metrics if each.type.is_objective]
        self.study = optuna.create_study(
            study_name="conformance", sampler=sampler, pruner=pruner, directions=directions
        )
        self.distributions = distributions(problem.search_space)
        for point in own_points:
            self.study.enqueue_trial(point)

    def suggest(self, count):
        trials = [self.study.ask(self.distributions) for _ in range(count)]
        return [testing.Suggested(trial, dict(trial.params), self.reason(trial)) for trial in trials]

    def reason(self, trial):
        return json.loads(self.study.trials[trial.number].system_attrs.get(REASON, "{}"))

    def complete(self, suggested, value):
        if value is None:
            self.study.tell(suggested.handle, state=TrialState.FAIL)
            return
        measured = value if isinstance(value, dict) else {"objective": value}
        for name, threshold in self.limits.items():
            suggested.handle.set_constraint(name, measured[name] - threshold)
        if "seconds" in measured:
            suggested.handle.set_user_attr("seconds", measured["seconds"])
        self.study.tell(suggested.handle, [measured[name] for name in self.objectives])

    def report(self, suggested, step, value):
        suggested.handle.report(value, step)

    def should_stop(self, suggested):
        return suggested.handle.should_prune()

    def stop(self, suggested):
        self.study.tell(suggested.handle, state=TrialState.PRUNED)


class OptunaBackend:
    """Which parameters depend on others follows from trials: `test_optuna_conditionals.py`."""

    offers = frozenset(testing.FEATURES) - {"conditional"}

    def __init__(self, model, process_code=""):
        self.model, self.process_code = model, process_code

    def start(self, problem, seed, prior_studies=(), own_points=(), **options):
        earlier = [study_of(each) for each in prior_studies]
        sampler = OptFormerSampler(self.model, seed=seed, prior_studies=earlier, **options)
        pruner = OptFormerPruner(self.model) if self.model.reads_reports else None
        return OptunaSession(problem, sampler, pruner, own_points)


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, model, reader, code_of):
    check(OptunaBackend(reader if check is testing.check_stopping else model, code_of(OptunaBackend)))


def test_the_table_of_the_document_says_what_is_missing(lacking):
    assert lacking("Optuna") == set(testing.FEATURES) - OptunaBackend.offers - {"conditional"}
