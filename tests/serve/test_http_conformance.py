"""The conformance suite, in plain HTTP."""

import itertools

import pytest
from http_calls import Both, new_study
from vizier import pyvizier as vz

from optformer.serve import testing
from optformer.serve.vizier import ALGORITHM

pytestmark = pytest.mark.integration


class HttpSession:
    """A study; every call is a client of its own, for which all trials that it has are the others'."""

    def __init__(self, both):
        self.both = both
        self.clients = (f"client {number}" for number in itertools.count())

    def call(self, path, body):
        status, _, answer = self.both.call("POST", f"/v1/owners/me/studies{path}", body)
        assert status == 200, answer
        return answer

    def suggest(self, count):
        answer = self.call("/s/suggestions", {"client_id": next(self.clients), "count": count})
        return [testing.Suggested(trial["id"], trial["parameters"], trial["reasons"]) for trial in answer["trials"]]

    def complete(self, suggested, value):
        measured = value if isinstance(value, dict) else {"objective": value}
        how = {"infeasible_reason": "failed"} if value is None else {"metrics": measured}
        self.call(f"/s/trials/{suggested.handle}/complete", how)

    def report(self, suggested, step, value):
        self.call(f"/s/trials/{suggested.handle}/measurements", {"metrics": {"objective": value}, "step": step})

    def should_stop(self, suggested):
        return self.call(f"/s/trials/{suggested.handle}/stopping", None)["should_stop"]

    def stop(self, suggested):
        self.call(f"/s/trials/{suggested.handle}/complete", {})


class HttpBackend:
    offers = frozenset(testing.FEATURES)
    process_code = ""

    def __init__(self, model):
        self.model = model
        self.open = []

    def start(self, problem, seed, prior_studies=(), own_points=(), constraints=(), **options):
        both = Both(self.model, "sqlite:///:memory:", seed=seed)
        self.open.append(both)
        session = HttpSession(both)
        study = {"search_space": as_json(problem.search_space), "metrics": goals(problem), "algorithm": ALGORITHM}
        names = [f"earlier-{number}" for number in range(len(prior_studies))]
        for name, earlier in zip(names, prior_studies, strict=True):
            session.call("", new_study(name, **study))
            for trial in earlier.trials:
                if not trial.infeasible:
                    measured = {metric: each.value for metric, each in trial.final_measurement.metrics.items()}
                    session.call(f"/{name}/trials", {"parameters": trial.parameters.as_dict(), "metrics": measured})
        limits = [{"coefficients": dict(each.coefficients), "upper": each.upper} for each in constraints]
        options |= {"prior_studies": names, "constraints": limits, "early_stopping": True}
        session.call("", new_study(**study, **options))
        for point in own_points:
            session.call("/s/trials", {"parameters": point})
        return session


def goals(problem):
    return [
        {
            "name": metric.name,
            "goal": "minimize" if metric.goal.is_minimize else "maximize",
            "safety_threshold": metric.safety_threshold,
        }
        for metric in problem.metric_information
    ]


def as_json(space):
    """A search space as a caller without Vizier would write it."""
    written = []
    for config in space.parameters:
        parameter = {"name": config.name}
        match config.type:
            case vz.ParameterType.DOUBLE:
                parameter |= {"type": "float", "min": config.bounds[0], "max": config.bounds[1]}
                parameter |= {"scale": "log"} if config.scale_type == vz.ScaleType.LOG else {}
            case vz.ParameterType.INTEGER:
                parameter |= {"type": "int", "min": config.bounds[0], "max": config.bounds[1]}
            case vz.ParameterType.DISCRETE:
                parameter |= {"type": "discrete", "values": list(config.feasible_values)}
            case _:
                parameter |= {"type": "categorical", "values": list(config.feasible_values)}
        children = [
            {"when": [value], "parameters": as_json(inner)} for value, inner in config.subspaces() if inner.parameters
        ]
        written.append(parameter | ({"children": children} if children else {}))
    return written


@pytest.mark.parametrize("check", testing.ESSENTIAL, ids=lambda check: check.__name__)
def test_conformance(check, model, reader):
    backend = HttpBackend(reader if check is testing.check_stopping else model)
    try:
        check(backend)
    finally:
        for both in backend.open:
            both.vizier.stop()


def test_the_table_of_the_document_says_what_is_missing(lacking):
    assert lacking("service: gRPC, HTTP") == set(testing.FEATURES) - HttpBackend.offers
