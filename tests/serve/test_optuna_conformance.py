"""The conformance suite through the Optuna sampler."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from vizier import pyvizier as vz

from optformer.serve import testing
from optformer.serve.optuna import OptFormerSampler

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
    def __init__(self, problem, sampler):
        goal = problem.metric_information.item().goal
        self.study = optuna.create_study(
            study_name="conformance", sampler=sampler, direction="maximize" if goal.is_maximize else "minimize"
        )
        self.distributions = distributions(problem.search_space)

    def suggest(self, count):
        trials = [self.study.ask(self.distributions) for _ in range(count)]
        return [testing.Suggested(trial, dict(trial.params)) for trial in trials]

    def complete(self, suggested, value):
        if value is None:
            self.study.tell(suggested.handle, state=TrialState.FAIL)
        else:
            self.study.tell(suggested.handle, value)


class OptunaBackend:
    conditional = False
    prior_studies = True
    beliefs = True

    def __init__(self, model, process_code=""):
        self.model, self.process_code = model, process_code

    def start(self, problem, seed, prior_studies=(), belief=None):
        earlier = [study_of(each) for each in prior_studies]
        return OptunaSession(problem, OptFormerSampler(self.model, seed=seed, prior_studies=earlier, belief=belief))


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, model, model_code):
    here = f"import sys; sys.path.insert(0, {__file__.rsplit('/', 1)[0]!r})\n"
    code = f"{model_code}\n{here}from test_optuna_conformance import OptunaBackend\nbackend = OptunaBackend(model)\n"
    check(OptunaBackend(model, code))
