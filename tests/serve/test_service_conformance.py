"""The conformance suite through the gRPC service: requests, database and all."""

import itertools
import json

import pytest
from vizier import pyvizier as vz
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer import LinearConstraint
from optformer.inference import beliefs, costs
from optformer.inference.constraints import attach
from optformer.serve import testing
from optformer.serve.client import Service
from optformer.serve.grpc_server import Settings, VizierServer
from optformer.serve.vizier import ALGORITHM, OptFormerPolicyFactory

pytestmark = pytest.mark.integration


class ServiceSession:
    """A study on a server; every call is a client of its own, for which all trials that it has are the others'."""

    def __init__(self, study, space):
        self.study, self.space = study, space
        self.clients = (f"client {number}" for number in itertools.count())

    def suggest(self, count):
        trials = self.study.suggest(count=count, client_id=next(self.clients))
        return [testing.Suggested(trial, self.typed(trial.parameters), self.reason(trial)) for trial in trials]

    def reason(self, trial):
        return dict(trial.materialize().metadata.ns("optformer").items())

    def typed(self, parameters):
        """Vizier's service stores every number as a float: integers are made such again, as its users do."""
        integers = {config.name for config in self.space.parameters if config.type == vz.ParameterType.INTEGER}
        return {name: int(value) if name in integers else value for name, value in dict(parameters).items()}

    def complete(self, suggested, value):
        if value is None:
            suggested.handle.complete(infeasible_reason="failed")
        else:
            measured = value if isinstance(value, dict) else {"objective": value}
            suggested.handle.complete(vz.Measurement(metrics=measured))

    def report(self, suggested, step, value):
        suggested.handle.add_measurement(vz.Measurement(metrics={"objective": value}, steps=step))

    def should_stop(self, suggested):
        return suggested.handle.check_early_stopping()

    def stop(self, suggested):
        suggested.handle.stop()
        suggested.handle.complete()


class ServiceBackend:
    offers = frozenset(testing.FEATURES)
    process_code = ""

    def __init__(self, model):
        self.model = model
        self.open = []

    def start(self, problem, seed, prior_studies=(), belief=None, cost=None, constraints=(), own_points=()):
        clients.environment_variables.new_suggestion_polling_secs = 0.01
        factory = OptFormerPolicyFactory(self.model, seed=seed)
        server = VizierServer(factory, "sqlite:///:memory:", Settings(port=0, grace_seconds=1.0))
        service = Service(server.endpoint)
        self.open += [service.close, server.stop]
        config = svz.StudyConfig.from_problem(problem)
        config.algorithm = ALGORITHM
        config.automated_stopping_config = svz.AutomatedStoppingConfig.default_stopping_spec()
        if belief:
            beliefs.attach(config, belief)
        if cost:
            costs.attach(config, cost)
        if constraints:
            attach(config, constraints)
        names = [f"earlier {number}" for number in range(len(prior_studies))]
        for name, earlier in zip(names, prior_studies, strict=True):
            study = service.study(config, owner="me", study_id=name)
            for trial in earlier.trials:
                study.add_trial(trial)
        if names:
            config.metadata.ns("optformer")["prior_studies"] = json.dumps(names)
        study = service.study(config, owner="me", study_id="s")
        for point in own_points:
            study.request(vz.TrialSuggestion(point))
        return ServiceSession(study, problem.search_space)


@pytest.mark.parametrize("check", testing.ESSENTIAL, ids=lambda check: check.__name__)
def test_conformance(check, model, reader, monkeypatch):
    monkeypatch.setattr(clients.environment_variables, "new_suggestion_polling_secs", 0.01)
    backend = ServiceBackend(reader if check is testing.check_stopping else model)
    try:
        check(backend)
    finally:
        for close in backend.open:
            close()


def test_the_table_of_the_document_says_what_is_missing(lacking):
    assert lacking("service: gRPC, HTTP") == set(testing.FEATURES) - ServiceBackend.offers


def test_constraints_travel_with_the_study(model, monkeypatch):
    monkeypatch.setattr(clients.environment_variables, "new_suggestion_polling_secs", 0.01)
    problem = testing.mixed_problem()
    attach(problem, [LinearConstraint({"layers": 1.0, "dropout": 10.0}, upper=8.0)])
    backend = ServiceBackend(model)
    try:
        session = backend.start(problem, seed=0)
        for _ in range(8):
            (suggested,) = session.suggest(1)
            assert suggested.parameters["layers"] + 10.0 * suggested.parameters["dropout"] <= 8.0
            session.complete(suggested, suggested.parameters["dropout"])
    finally:
        for close in backend.open:
            close()
