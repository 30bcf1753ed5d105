"""What the paths of the HTTP API do, as their callers see it: real requests to a real server."""

import concurrent.futures
import http.client
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from vizier import pyvizier as vz
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer.inference.hypervolume import undominated
from optformer.serve import testing
from optformer.serve.client import Service
from optformer.serve.grpc_server import Settings, VizierServer
from optformer.serve.http_server import HttpServer
from optformer.serve.limits import Limits
from optformer.serve.vizier import ALGORITHM, OptFormerPolicyFactory

pytestmark = pytest.mark.integration

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"
SECONDS = 60.0
"""After which a request counts as lost."""


def request(port, method, path, body=None, headers=None):
    """Status, headers and what the JSON of the reply says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, {"content-type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        text = reply.read()
    finally:
        connection.close()
    is_json = (reply.getheader("content-type") or "").startswith("application/json")
    return reply.status, reply.headers, json.loads(text) if is_json and text else text.decode()


class Both:
    """A server of both protocols."""

    def __init__(self, model, database_url, limits=None, seed=1):
        factory = OptFormerPolicyFactory(model, seed=seed)
        settings = Settings(port=0, grace_seconds=1.0)
        self.vizier = VizierServer(factory, database_url, settings, limits=limits)
        self.http = HttpServer(self.vizier.service, model, settings, metrics=self.vizier.metrics)
        self.vizier.stop_with(self.http.stop)

    def call(self, method, path, body=None):
        return request(self.http.port, method, path, body)


@pytest.fixture(scope="module")
def both(model, tmp_path_factory):
    limits = Limits(studies=3, trials=8, suggestions=5)
    both = Both(model, f"sqlite:///{tmp_path_factory.mktemp('studies')}/studies.db", limits)
    yield both
    both.vizier.stop()


SPACE = [
    {"type": "float", "name": "learning_rate", "min": 1e-5, "max": 1, "scale": "log"},
    {"type": "float", "name": "dropout", "min": 0, "max": 0.9},
    {"type": "int", "name": "layers", "min": 1, "max": 12},
    {"type": "discrete", "name": "batch_size", "values": [16, 32, 64, 128]},
    {"type": "categorical", "name": "optimizer", "values": ["adam", "sgd", "lion"]},
]
"""`testing.mixed_problem`."""
GOOD = {"learning_rate": 0.1, "dropout": 0.1, "layers": 3, "batch_size": 32, "optimizer": "adam"}
METRICS = [{"name": "objective", "goal": "minimize"}]
FREE = {"safety_threshold": None, "desired_min_safe_trials_fraction": None}


def new_study(name="s", **changes):
    return {
        "name": name,
        "search_space": SPACE,
        "metrics": METRICS,
        "algorithm": "QUASI_RANDOM_SEARCH",
    } | changes


class Owner:
    """Calls for one owner; whatever is no success raises."""

    def __init__(self, both, name):
        self.both, self.name, self.root = both, name, f"/v1/owners/{name}/studies"

    def call(self, method, path="", body=None):
        return self.both.call(method, self.root + path, body)

    def done(self, method, path="", body=None):
        status, _, answer = self.call(method, path, body)
        assert status in (200, 204), answer
        return answer

    def refused(self, method, path="", body=None):
        status, headers, answer = self.call(method, path, body)
        assert status >= 400
        assert headers["content-type"] == "application/json"
        assert answer.keys() == {"error"}
        assert answer["error"].keys() == {"code", "message"}
        return status, answer["error"]["code"], answer["error"]["message"]

    def suggest(self, count=1, client="worker"):
        return self.done("POST", "/s/suggestions", {"client_id": client, "count": count})["trials"]


@pytest.fixture
def owner(both, request):
    return Owner(both, re.sub(r"\W+", "-", request.node.name))


@pytest.fixture
def study(owner):
    return owner.done("POST", body=new_study())


def test_a_study_from_beginning_to_end(owner):
    asked = new_study(algorithm=ALGORITHM)
    made = owner.done("POST", body=asked)
    assert made["owner"] == owner.name
    assert (made["name"], made["algorithm"], made["state"]) == ("s", ALGORITHM, "active")
    assert [parameter["name"] for parameter in made["search_space"]] == [parameter["name"] for parameter in SPACE]
    assert made["search_space"][0] | SPACE[0] == made["search_space"][0]
    assert made["metrics"] == [FREE | metric for metric in METRICS]
    assert owner.done("GET", "/s") == made
    assert owner.done("POST", body=asked) == made  # as often as one likes
    assert owner.done("GET")["studies"] == [{"name": "s", "algorithm": ALGORITHM, "state": "active"}]
    for value in range(7):
        (trial,) = owner.suggest()
        assert trial["status"] == "active"
        assert trial["client_id"] == "worker"
        assert trial["parameters"].keys() == GOOD.keys()
        assert trial["reasons"]["checkpoint"] == "random-tiny"
        last = owner.done("POST", f"/s/trials/{trial['id']}/complete", {"metrics": {"objective": value}})
        assert last["status"] == "completed"
        assert last["final_measurement"]["metrics"] == {"objective": value}
    # After D + 1 trials the model is asked, and says what it expects in numbers.
    assert last["reasons"]["source"] in ("ei", "quasi-random")
    if last["reasons"]["source"] == "ei":
        assert last["reasons"]["quantile_05"] <= last["reasons"]["quantile_50"] <= last["reasons"]["quantile_95"]
    (best,) = owner.done("GET", "/s/optimal_trials")["trials"]
    assert best == owner.done("GET", f"/s/trials/{best['id']}")
    assert best["final_measurement"]["metrics"] == {"objective": 0.0}
    assert owner.done("DELETE", "/s") == ""
    assert owner.refused("GET", "/s")[:2] == (404, "NOT_FOUND")
    assert owner.done("GET")["studies"] == []


def test_an_owner_without_studies_has_none(owner):
    assert owner.done("GET") == {"studies": []}


def test_both_protocols_see_one_study(both, owner, monkeypatch):
    monkeypatch.setattr(clients.environment_variables, "new_suggestion_polling_secs", 0.01)
    config = svz.StudyConfig.from_problem(testing.mixed_problem())
    config.algorithm = ALGORITHM
    with Service(both.vizier.endpoint) as service:
        # Made here, asked there: the very same study, or the service would refuse it.
        owner.done("POST", body=new_study(algorithm=ALGORITHM))
        there = service.study(config, owner=owner.name, study_id="s")
        (trial,) = there.suggest(count=1, client_id="worker")
        (again,) = owner.suggest()
        assert again["id"] == trial.id
        assert again["parameters"] == pytest.approx(dict(trial.parameters))
        owner.done("POST", f"/s/trials/{trial.id}/complete", {"metrics": {"objective": 2.5}})
        assert trial.materialize().final_measurement.metrics["objective"].value == 2.5
        # And the other way round, children of children and booleans too.
        problem = testing.conditional_problem()
        problem.search_space.root.add_bool_param("nesterov", default_value=True)
        deep = svz.StudyConfig.from_problem(problem)
        deep.algorithm = "RANDOM_SEARCH"
        service.study(deep, owner=owner.name, study_id="deep")
        reply = owner.done("GET", "/deep")
        rate, optimizer, nesterov = reply["search_space"]
        assert (rate["type"], rate["scale"]) == ("float", "log")
        (branch,) = optimizer["children"]
        assert branch["when"] == ["sgd"]
        (momentum,) = branch["parameters"]
        assert momentum["children"][0]["when"] == ["on"]
        assert momentum["children"][0]["parameters"][0]["name"] == "decay"
        assert nesterov == {"type": "boolean", "name": "nesterov", "default_value": True, "children": []}
        same = {name: reply[name] for name in ("name", "search_space", "metrics", "algorithm")}
        assert owner.done("POST", body=same) == reply


def test_conditional_parameters(owner):
    deeper = {"type": "float", "name": "decay", "min": 0.5, "max": 0.99}
    space = [
        {
            "type": "boolean",
            "name": "warm",
            "children": [{"when": [True], "parameters": [deeper | {"name": "warmup"}]}],
        },
        {
            "type": "int",
            "name": "layers",
            "min": 1,
            "max": 3,
            "children": [{"when": [2, 3], "parameters": [{"type": "int", "name": "skip", "min": 0, "max": 1}]}],
        },
        {
            "type": "categorical",
            "name": "kind",
            "values": ["a", "b"],
            "children": [
                {
                    "when": ["a"],
                    "parameters": [
                        {
                            "type": "discrete",
                            "name": "size",
                            "values": [1, 2.5],
                            "children": [{"when": [2.5], "parameters": [deeper]}],
                        }
                    ],
                }
            ],
        },
    ]
    made = owner.done("POST", body=new_study(search_space=space, algorithm=ALGORITHM))
    assert made["search_space"][1]["children"][0]["when"] == [2, 3]
    seen = set()
    for client in ("one", "two"):
        for trial in owner.suggest(count=4, client=client):
            values = trial["parameters"]
            expected = {"warm", "layers", "kind"}
            expected |= {"warmup"} if values["warm"] is True else set()
            expected |= {"skip"} if values["layers"] > 1 else set()
            expected |= {"size"} if values["kind"] == "a" else set()
            expected |= {"decay"} if values.get("size") == 2.5 else set()
            assert values.keys() == expected
            assert type(values["warm"]) is bool
            assert type(values["layers"]) is int
            seen.add(frozenset(expected))
    assert len(seen) > 2


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"search_space": [SPACE[1] | {"max": -1}]}, "study 's', parameter 'dropout': Lower cannot be greater than"),
        ({"search_space": [SPACE[1] | {"default_value": 2}]}, "'dropout': the default value 2.0 is none of its values"),
        ({"search_space": [SPACE[1] | {"default_value": 0}]}, "'dropout': a default value of 0.0 is not kept"),
        ({"search_space": [SPACE[3] | {"values": [1, 1]}]}, "'batch_size': Feasible values cannot have duplicates"),
        ({"search_space": [SPACE[0], SPACE[0]]}, "study 's', parameter 'learning_rate': the name is there already"),
        ({"search_space": [SPACE[1] | {"scale": "log"}], "algorithm": ALGORITHM}, "study 's', parameter 'dropout'"),
        (
            {"search_space": [SPACE[4] | {"children": [{"when": ["x"], "parameters": [SPACE[0]]}]}]},
            "parameter 'optimizer': `when` names ['x'], not all of which are its values",
        ),
        ({"metrics": METRICS * 2}, "study 's' has two metrics of one name"),
        ({"metrics": []}, "study 's': metrics list should have at least 1 item"),
        ({"search_space": []}, "study 's': search_space list should have at least 1 item"),
        ({"algorithm": "MAGIC"}, "unknown algorithm 'MAGIC'; known are OPTFORMER, DEFAULT"),
        ({"nmae": "s"}, "study 's': nmae is no known field"),
        ({"search_space": [SPACE[2] | {"min": 1.5}]}, "study 's', parameter 'layers': search_space[0].min should be a"),
        ({"search_space": [SPACE[2] | {"min": "1"}]}, "study 's', parameter 'layers': search_space[0].min should be a"),
        ({"search_space": [{"type": "float", "name": "x"}]}, "'s', parameter 'x': search_space[0].min is missing"),
        ({"search_space": [{"type": "complex", "name": "x"}]}, "search_space[0] tag 'complex' found using 'type'"),
        ({"search_space": [SPACE[0] | {"min": float("nan")}]}, "search_space[0].min should be a finite number"),
        ({"search_space": [SPACE[2] | {"max": 2**60}]}, "search_space[0].max should be less than or equal to"),
        ({"metrics": [{"name": "y", "goal": "improve"}]}, "metrics[0].goal should be 'minimize' or 'maximize'"),
        ({"metrics": [METRICS[0] | {"safety_threshold": 1}]}, "study 's' has no objective: every metric has a "),
        ({"metrics": [METRICS[0] | {"desired_min_safe_trials_fraction": 0.5}]}, "fraction without safety_threshold"),
        ({"name": "a/b"}, "name string should match pattern"),
        ({"name": ".."}, "name no URL can name it"),
        ({"name": ""}, "name string should have at least 1 character"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_studies_that_make_no_sense(owner, changes, said):
    status, code, message = owner.refused("POST", body=new_study(**changes))
    assert (status, code) == (422, "INVALID_ARGUMENT")
    assert said in message
    assert "\n" not in message
    assert owner.done("GET") == {"studies": []}


def test_children_are_not_nested_without_end(owner):
    parameter = {"type": "categorical", "name": "p", "values": ["a", "b"]}
    for _ in range(20):
        parameter = parameter | {"children": [{"when": ["a"], "parameters": [parameter]}]}
    status, _, message = owner.refused("POST", body=new_study(search_space=[parameter]))
    assert status == 422
    assert "more than 16 levels of conditional parameters" in message


def test_a_study_of_that_name_with_another_space(owner, study):
    status, code, message = owner.refused("POST", body=new_study(search_space=SPACE[:2]))
    assert (status, code) == (409, "ALREADY_EXISTS")
    assert "study 's' exists with a parameter 'layers' that is missing now" in message


def test_constraints_are_kept_told_and_met(owner):
    asked = [{"coefficients": {"layers": 1, "dropout": 10}, "upper": 8}]
    kept = owner.done("POST", "", new_study("bounded", algorithm=ALGORITHM, constraints=asked))
    assert kept["constraints"] == [{"coefficients": {"layers": 1, "dropout": 10}, "upper": 8, "lower": None}]
    assert owner.done("GET", "/bounded") == kept
    for _ in range(4):
        (trial,) = owner.done("POST", "/bounded/suggestions", {"client_id": "worker"})["trials"]
        assert trial["parameters"]["layers"] + 10 * trial["parameters"]["dropout"] <= 8
        value = {"metrics": {"objective": trial["parameters"]["dropout"]}}
        owner.done("POST", f"/bounded/trials/{trial['id']}/complete", value)


def test_a_belief_is_kept_told_and_followed(owner):
    space = [*SPACE, {"type": "categorical", "name": "norm", "values": [None, "batch", 16]}]
    belief = {"layers": ["uniform", 4, 4], "optimizer": {"sgd": 1.0}, "norm": {"16": 2.0, "null": 1.0}}
    kept = owner.done("POST", "", new_study("sure", algorithm=ALGORITHM, search_space=space, belief=belief))
    assert kept["belief"] == belief | {"norm": {"16": 2.0, "None": 1.0}}, "choices by their labels"
    assert owner.done("GET", "/sure") == kept
    (trial,) = owner.done("POST", "/sure/suggestions", {"client_id": "worker"})["trials"]
    chosen = trial["parameters"]
    assert (chosen["layers"], chosen["optimizer"], chosen["norm"]) == (4, "sgd", 16)
    assert (trial["reasons"]["source"], trial["reasons"]["belief"]) == ("belief", 1.0)


@pytest.mark.parametrize(
    ("belief", "said"),
    [
        ({"depth": ["normal", 1, 1]}, "study 's': a belief is about 'depth', which is no parameter"),
        ({"optimizer": {"rprop": 1}}, "parameter 'optimizer': 'rprop' is none of"),
        ({"optimizer": ["normal", 1, 1]}, "parameter 'optimizer': it is categorical"),
        ({"layers": ["normal", 1, 0]}, "parameter 'layers': the stddev is 0.0; it must be positive"),
        ({"layers": ["gamma", 1, 1]}, "parameter 'layers': ['gamma', 1.0, 1.0] is no belief"),
        ({"layers": 3}, "belief.layers"),
    ],
)
def test_beliefs_that_make_no_sense(owner, belief, said):
    status, _, message = owner.refused("POST", "", new_study(belief=belief))
    assert status == 422
    assert said in message


def test_a_cost_is_told_with_the_metrics(owner):
    kept = owner.done("POST", "", new_study("dear", algorithm=ALGORITHM, cost="seconds"))
    assert kept["cost"] == "seconds"
    for number in range(5):
        (trial,) = owner.done("POST", "/dear/suggestions", {"client_id": "worker"})["trials"]
        measured = {"metrics": {"objective": number, "seconds": 10 + number}}
        done = owner.done("POST", f"/dear/trials/{trial['id']}/complete", measured)
        assert done["final_measurement"]["metrics"]["seconds"] == 10 + number
    assert 10 <= trial["reasons"]["cost"] <= 13
    (trial,) = owner.done("POST", "/dear/suggestions", {"client_id": "worker"})["trials"]
    owner.done("POST", f"/dear/trials/{trial['id']}/complete", {"metrics": {"objective": 1, "seconds": 0}})
    status, _, message = owner.refused("POST", "/dear/suggestions", {"client_id": "worker"})
    assert status == 409
    assert f"trial {trial['id']}: its cost 'seconds' is 0.0" in message


def test_a_study_names_earlier_ones(owner, told_earlier):
    owner.done("POST", "", new_study("before"))
    for layers in (1, 4, 9):
        owner.done(
            "POST", "/before/trials", {"parameters": GOOD | {"layers": layers}, "metrics": {"objective": layers}}
        )
    owner.done("POST", "/before/suggestions", {"client_id": "worker"})
    made = owner.done("POST", "", new_study("s", algorithm=ALGORITHM, prior_studies=["before"]))
    assert made["prior_studies"] == ["before"]
    assert owner.done("GET", "/s") == made
    assert owner.done("GET", "/before")["prior_studies"] == []
    (trial,) = owner.suggest()
    assert trial["parameters"].keys() == GOOD.keys()
    (earlier,) = told_earlier()
    assert [each.parameters["layers"].value for each in earlier.trials] == [1, 4, 9], "those that have ended"
    assert earlier.problem.metric_information.item().name == "objective"
    asked = {"candidates": [GOOD]}
    told = owner.done("POST", "/s/predictions", asked)["predictions"]
    alone = owner.done("POST", "", new_study("alone", algorithm=ALGORITHM))
    assert alone["prior_studies"] == []
    assert owner.done("POST", "/alone/predictions", asked)["predictions"] != told


def test_earlier_studies_that_are_none_of_the_owners(owner, both):
    stranger = Owner(both, owner.name + "-stranger")
    stranger.done("POST", "", new_study("secret"))
    for names, said in (
        (["secret"], f"names 'owners/{owner.name}/studies/secret', and there is no such study"),
        (["s"], "names the study itself"),
    ):
        status, code, message = owner.refused("POST", "", new_study(algorithm=ALGORITHM, prior_studies=names))
        assert (status, code) == (422, "INVALID_ARGUMENT")
        assert said in message
    foreign = f"owners/{stranger.name}/studies/secret"
    assert owner.refused("POST", "", new_study(prior_studies=[foreign]))[0] == 422
    # Whoever writes metadata over gRPC gets no further.
    made = owner.done("POST", "", new_study(algorithm=ALGORITHM))
    with Service(both.vizier.endpoint) as service:
        study = service.load(f"owners/{owner.name}/studies/s")
        for name, said in ((foreign, "no study of the same owner"), ("gone", "there is no such study")):
            entry = vz.Metadata()
            entry.ns("optformer")["prior_studies"] = json.dumps([name])
            study.update_metadata(entry)
            status, _, message = owner.refused("POST", "/s/suggestions", {"client_id": "worker"})
            assert status == 409
            assert name in message
            assert said in message
            assert owner.refused("POST", "/s/predictions", {"candidates": [GOOD]})[0] == 422
    assert owner.done("GET", "/s") == made | {"prior_studies": ["gone"]}


def test_a_study_may_ask_for_early_stopping(owner):
    """The model of these tests has not read learning curves: it stops nothing."""
    made = owner.done("POST", "", new_study("patient", algorithm=ALGORITHM, early_stopping=True))
    assert made["early_stopping"] is True
    assert owner.done("GET", "/patient") == made
    (trial,) = owner.done("POST", "/patient/suggestions", {"client_id": "worker"})["trials"]
    path = f"/patient/trials/{trial['id']}"
    owner.done("POST", f"{path}/measurements", {"metrics": {"objective": 1.0}, "step": 1})
    assert owner.done("POST", f"{path}/stopping") == {"should_stop": False}
    owner.done("POST", f"{path}/complete", {"metrics": {"objective": 1.0}})
    assert owner.refused("POST", f"{path}/stopping")[0] == 409
    assert owner.done("POST", "", new_study("impatient"))["early_stopping"] is False


def test_constraints_on_outcomes_are_kept_predicted_and_told(owner):
    limits = [
        {"name": "memory", "goal": "minimize", "safety_threshold": 0, "desired_min_safe_trials_fraction": 0.5},
        {"name": "accuracy", "goal": "maximize", "safety_threshold": 0.5},
    ]
    kept = owner.done("POST", "", new_study("safe", algorithm=ALGORITHM, metrics=[*METRICS, *limits]))
    # Vizier sorts them.
    assert kept["metrics"] == [FREE | metric for metric in sorted([*METRICS, *limits], key=lambda each: each["name"])]
    assert owner.done("GET", "/safe") == kept
    for number in range(7):
        (trial,) = owner.done("POST", "/safe/suggestions", {"client_id": "worker"})["trials"]
        path = f"/safe/trials/{trial['id']}/complete"
        measured = {"objective": number, "memory": number - 3, "accuracy": 0.4 + number / 10}
        assert "'accuracy'" in owner.refused("POST", path, {"metrics": {"objective": 1.0, "memory": 1.0}})[2]
        owner.done("POST", path, {"metrics": measured})
    assert 0.0 <= trial["reasons"]["constraints_hold"] <= trial["reasons"]["holds:memory"] <= 1.0
    assert isinstance(trial["reasons"]["mean"], float)
    assert [each["id"] for each in owner.done("GET", "/safe/optimal_trials")["trials"]] == [2]
    named = owner.done("POST", "/safe/predictions", {"candidates": [GOOD], "metric": "memory"})
    plain = owner.done("POST", "/safe/predictions", {"candidates": [GOOD]})
    assert (named["metric"], plain["metric"]) == ("memory", "objective")


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ({"coefficients": {"depth": 1}, "upper": 8}, "study 's': a constraint is over 'depth', which is no parameter"),
        ({"coefficients": {"optimizer": 1}, "upper": 8}, "'optimizer', which is no number"),
        ({"coefficients": {"layers": 1}}, "study 's': a linear constraint needs bounds"),
        ({"coefficients": {}, "upper": 8}, "coefficients"),
        ({"coefficients": {"layers": "1"}, "upper": 8}, "layers"),
    ],
)
def test_constraints_that_make_no_sense(owner, constraint, said):
    status, _, message = owner.refused("POST", "", new_study(constraints=[constraint]))
    assert status == 422
    assert said in message


def test_what_is_unknown(owner, study):
    assert owner.refused("GET", "/none") == (
        404,
        "NOT_FOUND",
        f"Failed to find study name: owners/{owner.name}/studies/none",
    )
    for method, path, body in (
        ("DELETE", "/none", None),
        ("GET", "/none/trials", None),
        ("GET", "/none/optimal_trials", None),
        ("POST", "/none/suggestions", {"client_id": "worker"}),
        ("POST", "/none/trials", {"parameters": GOOD}),
        ("POST", "/none/predictions", {"candidates": [GOOD]}),
        ("GET", "/s/trials/99", None),
        ("POST", "/s/trials/99/measurements", {"metrics": {"objective": 1}}),
        ("POST", "/s/trials/99/complete", {"metrics": {"objective": 1}}),
        ("POST", "/s/trials/99/complete", {"infeasible_reason": "lost"}),
        ("GET", "/s/nothing", None),
        ("GET", "/s/trials/1/nothing", None),
        ("GET", "/a%2Fb", None),
    ):
        assert owner.refused(method, path, body)[:2] == (404, "NOT_FOUND")
    status, code, message = owner.refused("PUT", "/s", {})
    assert (status, code, message) == (405, "METHOD_NOT_ALLOWED", "this path does not know that method")
    for path in ("/s/trials/x", "/s/trials/0", "/s/trials/" + "9" * 5000, "/s/trials?limit=0", "/s/trials?after=-1"):
        assert owner.refused("GET", path)[:2] == (422, "INVALID_ARGUMENT")


def test_measurements_and_completions(owner, study):
    (trial,) = owner.suggest()
    path = f"/s/trials/{trial['id']}"
    reply = owner.done("POST", f"{path}/measurements", {"metrics": {"objective": 3}, "step": 2, "elapsed_seconds": 1.5})
    assert reply["measurements"] == [{"metrics": {"objective": 3.0}, "step": 2, "elapsed_seconds": 1.5}]
    assert owner.done("POST", f"{path}/stopping", None) == {"should_stop": False}
    for body, said in (
        ({"metrics": {"other": 1}}, f"of owners/{owner.name}/studies/s/trials/1 lacks 'objective'"),
        ({"metrics": {"objective": None}}, "study 's', trial 1: metrics.objective should be a valid number"),
        (b'{"metrics": {"objective": NaN}}', "study 's', trial 1: metrics.objective should be a finite number"),
        (b'{"metrics": {"objective": -1e999}}', "study 's', trial 1: metrics.objective should be a finite number"),
        ({"metrics": {}}, "study 's', trial 1: metrics dictionary should have at least 1 item"),
        ({"metrics": {"objective": 1}, "infeasible_reason": "x"}, "either metrics or an infeasible_reason, not both"),
        ({"infeasible": True}, "study 's', trial 1: infeasible is no known field"),
    ):
        status, code, message = owner.refused("POST", f"{path}/complete", body)
        assert (status, code) == (422, "INVALID_ARGUMENT")
        assert said in message
    assert owner.done("GET", path)["status"] == "active"  # nothing has been lost by it
    reply = owner.done("POST", f"{path}/complete", {})  # the last measurement is the final one
    assert (reply["status"], reply["final_measurement"]["metrics"]) == ("completed", {"objective": 3.0})
    for call, body in (("complete", {"metrics": {"objective": 1}}), ("measurements", {"metrics": {"objective": 1}})):
        status, code, message = owner.refused("POST", f"{path}/{call}", body)
        assert (status, code) == (409, "FAILED_PRECONDITION")
        assert "has state SUCCEEDED" in message


def test_a_trial_that_failed(owner, study):
    (trial,) = owner.suggest()
    reply = owner.done("POST", f"/s/trials/{trial['id']}/complete", {"infeasible_reason": "out of memory"})
    assert (reply["status"], reply["infeasible_reason"]) == ("infeasible", "out of memory")
    assert reply["final_measurement"] is None
    status, code, message = owner.refused("POST", "/s/trials/1/measurements", {"metrics": {"objective": 1}})
    assert (status, code) == (409, "FAILED_PRECONDITION")
    assert "has been completed as infeasible" in message
    assert owner.done("GET", "/s/optimal_trials") == {"trials": []}


def test_trials_of_ones_own(owner, study):
    done = owner.done("POST", "/s/trials", {"parameters": GOOD, "metrics": {"objective": 0.5}})
    assert (done["id"], done["status"], done["parameters"]) == (1, "completed", GOOD)
    asked = owner.done("POST", "/s/trials", {"parameters": GOOD | {"layers": 4}})
    assert asked["status"] == "requested"
    (trial,) = owner.suggest()
    assert (trial["id"], trial["parameters"]["layers"]) == (asked["id"], 4)  # what was asked for comes first
    assert owner.done("GET", "/s/optimal_trials")["trials"] == [done]


@pytest.mark.parametrize(
    "parameters, said",
    [
        (GOOD | {"dropout": 2}, "sets parameter 'dropout' to 2.0, outside its range"),
        (GOOD | {"dropout": "0.1"}, "sets parameter 'dropout' to '0.1', which should be a number"),
        (GOOD | {"dropout": True}, "sets parameter 'dropout' to True, which should be a number"),
        (GOOD | {"layers": 2.5}, "sets parameter 'layers' to 2.5, which should be an integer"),
        (GOOD | {"optimizer": "sgdm"}, "sets parameter 'optimizer' to 'sgdm', outside its range"),
        (GOOD | {"optimizer": 1}, "sets parameter 'optimizer' to 1, which should be a string"),
        (GOOD | {"momentum": 0.1}, "sets 'momentum', which is no parameter of the study under its other values"),
        ({"dropout": 0.1}, "does not set parameter 'learning_rate'"),
        (GOOD | {"dropout": None}, "sets parameter 'dropout' to null, which is none of its values"),
        (GOOD | {"dropout": [1]}, "study 's': parameters.dropout should be a finite number, a string"),
        (GOOD | {"dropout": 10**400}, "study 's': parameters.dropout should be a finite number, a string"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_trials_that_are_not_of_the_study(owner, study, parameters, said):
    status, code, message = owner.refused("POST", "/s/trials", {"parameters": parameters})
    assert (status, code) == (422, "INVALID_ARGUMENT")
    assert said in message
    assert owner.done("GET", "/s/trials")["trials"] == []


CHOICES = [
    {"type": "categorical", "name": "features", "values": [None, "sqrt", 0.5, 1, "1", True]},
    {
        "type": "categorical",
        "name": "units",
        "values": [16, 32],
        "default_value": 32,
        "children": [{"when": [32], "parameters": [{"type": "float", "name": "x", "min": 0, "max": 1}]}],
    },
]


def test_choices_may_be_null_numbers_and_booleans(owner):
    made = owner.done("POST", body=new_study(search_space=CHOICES, algorithm=ALGORITHM))
    features, units = made["search_space"]
    assert features["values"] == [None, "sqrt", 0.5, 1, "1"], "True is 1, as in Python"
    assert [type(value) for value in features["values"]] == [type(None), str, float, int, str]
    assert (units["values"], units["default_value"], units["children"][0]["when"]) == ([16, 32], 32, [32])
    assert owner.done("POST", body=new_study(search_space=CHOICES, algorithm=ALGORITHM)) == made
    first = {"features": None, "units": 32, "x": 0.5}
    done = owner.done("POST", "/s/trials", {"parameters": first, "metrics": {"objective": 0.5}})
    assert done["parameters"] == first
    for trial in owner.suggest(count=5):
        values = trial["parameters"]
        assert values["features"] in features["values"]
        assert values["units"] in (16, 32)
        assert ("x" in values) == (values["units"] == 32)
        owner.done("POST", f"/s/trials/{trial['id']}/complete", {"metrics": {"objective": 1.0}})
    assert owner.done("GET", "/s/optimal_trials")["trials"] == [done]
    assert len(owner.done("POST", "/s/predictions", {"candidates": [first, {"features": 1, "units": 16}]})) == 3
    for path, body in (
        ("/s/trials", {"parameters": first | {"features": 2}}),
        ("/s/predictions", {"candidates": [first | {"features": 2}]}),
    ):
        status, _, message = owner.refused("POST", path, body)
        assert status == 422
        assert "sets parameter 'features': 2 is none of [None, 'sqrt', 0.5, 1, '1']" in message
    status, _, message = owner.refused("POST", "/s/predictions", {"candidates": [first | {"x": None}]})
    assert (status, "sets parameter 'x' to null" in message) == (422, True)


def test_choices_of_one_name_are_the_same_in_all_branches(owner):
    def under(value, values):
        return {"when": [value], "parameters": [{"type": "categorical", "name": "p", "values": values}]}

    space = [SPACE[4] | {"children": [under("adam", ["a", "b"]), under("sgd", [None, "a"])]}]
    status, _, message = owner.refused("POST", body=new_study(search_space=space))
    assert (status, "study 's': parameter 'p' has other choices in another branch" in message) == (422, True)


def test_ranges_with_a_step(owner):
    space = [
        {"type": "int", "name": "units", "min": 16, "max": 100, "step": 16},
        {"type": "float", "name": "rate", "min": 0.1, "max": 0.5, "step": 0.1},
    ]
    made = owner.done("POST", body=new_study(search_space=space, algorithm=ALGORITHM))
    assert made["search_space"][0]["values"] == [16, 32, 48, 64, 80, 96]
    assert made["search_space"][1]["values"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    for trial in owner.suggest(count=4):
        assert type(trial["parameters"]["units"]) is int
        assert trial["parameters"]["units"] in made["search_space"][0]["values"]
        assert trial["parameters"]["rate"] in made["search_space"][1]["values"]
    for changes, said in (
        ({"step": 0}, "parameter 'units': search_space[0].step should be greater than 0"),
        (
            {"max": 10**6, "step": 2},
            "study 't', parameter 'units': 499993 values; a range with a step has at most 1000",
        ),
        ({"max": 1}, "study 't', parameter 'units': Lower cannot be greater than upper"),
    ):
        status, _, message = owner.refused("POST", body=new_study("t", search_space=[space[0] | changes]))
        assert (status, said in message) == (422, True), message


def test_the_model_chooses_what_a_trial_of_ones_own_lacks(owner):
    owner.done("POST", body=new_study(algorithm=ALGORITHM))
    trial = owner.done("POST", "/s/trials", {"parameters": {"layers": 7}})
    assert trial["parameters"].keys() == GOOD.keys()
    assert trial["parameters"]["layers"] == 7
    assert (trial["status"], trial["reasons"]["given"]) == ("requested", "layers")


def test_trials_come_in_pages(owner, study):
    for number in range(5):
        owner.done("POST", "/s/trials", {"parameters": GOOD, "metrics": {"objective": number}})
    pages, after = [], 0
    while after is not None:
        page = owner.done("GET", f"/s/trials?after={after}&limit=2")
        pages.append([trial["id"] for trial in page["trials"]])
        after = page["next_after"]
    assert pages == [[1, 2], [3, 4], [5]]
    assert owner.done("GET", "/s/trials?after=5") == {"trials": [], "next_after": None}


def test_limits(owner, study):
    status, code, message = owner.refused("POST", "/s/suggestions", {"client_id": "worker", "count": 6})
    assert (status, code, message) == (422, "INVALID_ARGUMENT", "between 1 and 5 suggestions per call, not 6")
    owner.suggest(count=5)
    status, code, message = owner.refused("POST", "/s/suggestions", {"client_id": "other", "count": 4})
    assert (status, code) == (429, "RESOURCE_EXHAUSTED")
    assert message == f"owners/{owner.name}/studies/s has 5 trials, and may have 8"
    owner.suggest(count=3, client="other")
    assert len(owner.suggest(count=5)) == 5  # full: but a worker still gets what it has not finished
    assert owner.refused("POST", "/s/trials", {"parameters": GOOD})[:2] == (429, "RESOURCE_EXHAUSTED")
    for name in "ab":
        owner.done("POST", body=new_study(name))
    assert owner.refused("POST", body=new_study("c"))[:2] == (429, "RESOURCE_EXHAUSTED")
    candidates = [GOOD] * 1001
    assert owner.refused("POST", "/s/predictions", {"candidates": candidates})[0] == 422


@pytest.mark.parametrize("client", ["", "a/b", "x" * 201, 1, None, "a\nb"])
def test_clients_have_names(owner, study, client):
    status, code, message = owner.refused("POST", "/s/suggestions", {"client_id": client})
    assert (status, code) == (422, "INVALID_ARGUMENT")
    assert message.startswith("study 's': client_id ")


@pytest.mark.parametrize("algorithm", [ALGORITHM, "QUASI_RANDOM_SEARCH"])
def test_predictions_are_the_models(owner, model, algorithm):
    owner.done("POST", body=new_study(algorithm=algorithm, metrics=[*METRICS, {"name": "time", "goal": "maximize"}]))
    trials = []
    for number in range(5):
        values = GOOD | {"layers": number + 1}
        measured = {"objective": float(number), "time": 1.0}
        owner.done("POST", "/s/trials", {"parameters": values, "metrics": measured})
        trial = vz.Trial(id=number + 1, parameters=values)
        trials.append(trial.complete(vz.Measurement(metrics=measured)))
    owner.suggest(count=1)  # pending ones count too
    pending = owner.done("GET", "/s/trials?after=5")["trials"][0]
    trials.append(vz.Trial(id=6, parameters=pending["parameters"]))
    candidates = [GOOD | {"layers": 7}, GOOD | {"optimizer": "sgd"}]
    answer = owner.done("POST", "/s/predictions", {"candidates": candidates, "metric": "objective"})
    assert (answer["checkpoint"], answer["metric"]) == ("random-tiny", "objective")
    problem = testing.mixed_problem()
    problem.metric_information.append(vz.MetricInformation("time", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    expected = model.predict(problem, trials, candidates, metric="objective")
    for index, reply in enumerate(answer["predictions"]):
        assert reply["mean"] == pytest.approx(expected.mean[index], rel=1e-3)
        assert reply["stddev"] == pytest.approx(expected.stddev[index], rel=1e-3)
        assert reply["infeasible"] == pytest.approx(expected.infeasible[index], rel=1e-3)
        quantiles = [reply["quantile_05"], reply["quantile_50"], reply["quantile_95"]]
        assert quantiles == pytest.approx(expected.quantile([0.05, 0.5, 0.95])[:, index], rel=1e-3, abs=1e-6)
    for body, said in (
        ({"candidates": candidates}, "several objectives; name one of 'objective', 'time'"),
        ({"candidates": candidates, "metric": "loss"}, "no metric 'loss'"),
        ({"candidates": [GOOD | {"layers": 20}], "metric": "time"}, "parameter 'layers': 20 is outside its bounds"),
        ({"candidates": [GOOD | {"x": 1}], "metric": "time"}, "parameter 'x': the search space has no parameter"),
        (b'{"candidates": [{"dropout": Infinity}]}', "study 's': candidates[0].dropout should be a finite number"),
        ({"candidates": []}, "study 's': candidates list should have at least 1 item"),
        ({"candidates": {}}, "study 's': candidates should be a valid list"),
    ):  # fmt: skip
        status, code, message = owner.refused("POST", "/s/predictions", body)
        assert (status, code) == (422, "INVALID_ARGUMENT")
        assert said in message
        assert "study '" in message


def test_optimal_trials_of_two_metrics(owner):
    metrics = [{"name": "loss", "goal": "minimize"}, {"name": "speed", "goal": "maximize"}]
    owner.done("POST", body=new_study(metrics=metrics))
    for loss, speed in ((1, 1), (2, 2), (2, 1), (0, 0), (1, 1), (3, 2)):
        owner.done("POST", "/s/trials", {"parameters": GOOD, "metrics": {"loss": loss, "speed": speed}})
    assert [trial["id"] for trial in owner.done("GET", "/s/optimal_trials")["trials"]] == [1, 2, 4, 5]


def test_undominated_rows_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    assert undominated(np.array([])) == []
    for metrics in (1, 2, 3):
        values = rng.integers(0, 5, (60, metrics)).astype(float)
        expected = [
            row
            for row, value in enumerate(values)
            if not any((other >= value).all() and (other > value).any() for other in values)
        ]
        assert sorted(undominated(values)) == expected


def test_bodies_that_are_no_json(owner, study):
    for body in (b"{", b"", b"[" * 100_000, b'{"count": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"[]", b"1"):
        status, code, message = owner.refused("POST", "/s/suggestions", body)
        assert (status, code) in ((400, "INVALID_ARGUMENT"), (422, "INVALID_ARGUMENT"))
        assert "the body" in message
    # Half a character is a string in JSON and in none of the encodings.
    for body in (b'{"client_id": "\\ud800"}', b'{"client_id": "a", "\\ud800": 1}'):
        assert owner.refused("POST", "/s/suggestions", body)[0] == 422
    (trial,) = owner.suggest()
    for name in (b"infeasible_reason", b"\\udfff"):
        status, _, _ = owner.refused("POST", f"/s/trials/{trial['id']}/complete", b'{"%b": "\\ud800"}' % name)
        assert status == 422
    assert len(owner.refused("POST", "/s/suggestions", {"x" * 1_000_000: 1})[2]) <= 2000


def test_studies_at_once_get_trials_of_their_own(both, owner):
    """Different studies and workers, from many connections: nothing is lost and nothing handed out twice."""
    for name in ("one", "two"):
        owner.done("POST", body=new_study(name, algorithm=ALGORITHM))

    def work(number):
        name = ("one", "two")[number % 2]
        (trial,) = owner.done("POST", f"/{name}/suggestions", {"client_id": f"worker {number}"})["trials"]
        owner.done("POST", f"/{name}/trials/{trial['id']}/complete", {"metrics": {"objective": number}})
        return name, trial

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        handed = list(pool.map(work, range(12)))
    for name in ("one", "two"):
        own = [trial for study, trial in handed if study == name]
        assert sorted(trial["id"] for trial in own) == list(range(1, 7))
        testing.assert_distinct([trial["parameters"] for trial in own])


# The description and the document.


@pytest.fixture(scope="module")
def description(both):
    status, _, answer = both.call("GET", "/openapi.json")
    assert status == 200
    return answer


def validate(description, part, value):
    jsonschema.Draft202012Validator({**part, "components": description["components"]}).validate(value)


def described(description, method, path):
    """The description of a call, found by its path."""
    for template, calls in description["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path.partition("?")[0]) and method.lower() in calls:
            return calls[method.lower()]
    raise AssertionError(f"{method} {path} is not described")


def test_the_description_is_complete(description):
    for template, calls in description["paths"].items():
        for method, call in calls.items():
            assert call["description"], f"{method} {template}"
            if template.startswith("/v1/"):
                assert call["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith(
                    "/ErrorReply"
                )
    names = [call["operationId"] for calls in description["paths"].values() for call in calls.values()]
    assert len(set(names)) == len(names)
    for schema in description["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(description)
    assert "HTTPValidationError" not in text
    assert "securitySchemes" not in text  # this server wants no token


def test_there_are_no_pages_that_load_code_from_elsewhere(both):
    for path in ("/docs", "/redoc"):
        assert both.call("GET", path)[0] == 404


def examples():
    """Method, path under the owner's studies, and body of every curl call of the document."""
    shell = DOCUMENT.read_text().split("```sh")[1].split("```")[0].replace('"$json"', "JSON")
    pattern = r"""^curl (?:-X (?P<method>\w+) )?(?:-H JSON )?"?\$at(?P<path>[^\s"]*)"?(?: -d '(?P<body>[^']*)')?$"""
    found = [match.groupdict() for match in re.finditer(pattern, shell, re.MULTILINE)]
    assert len(found) == shell.count("\ncurl ")
    assert len(found) > 10
    return [
        (call["method"] or ("POST" if call["body"] else "GET"), call["path"], json.loads(call["body"] or "null"))
        for call in found
    ]


def test_the_examples_of_the_document_work_and_fit_the_description(owner, description):
    for method, path, body in examples():
        call = described(description, method, owner.root + path)
        if body is not None:
            validate(description, call["requestBody"]["content"]["application/json"]["schema"], body)
        answer = owner.done(method, path, body)
        if answer:
            validate(description, call["responses"]["200"]["content"]["application/json"]["schema"], answer)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_javascript_of_the_document_runs(owner, tmp_path):
    script = DOCUMENT.read_text().split("```js\n")[1].split("```")[0]
    address = "http://127.0.0.1:28081/v1/owners/me/studies/resnet"
    assert address in script
    script = script.replace(address, f"{owner.both.http.url}{owner.root}/s")
    owner.done("POST", body=new_study(metrics=[{"name": "loss", "goal": "minimize"}]))
    file = tmp_path / "example.mjs"
    file.write_text(f"const train = (parameters) => parameters.dropout;\n{script}")
    done = subprocess.run(["node", file], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    (trial,) = owner.done("GET", "/s/optimal_trials")["trials"]
    assert trial["final_measurement"]["metrics"] == {"loss": trial["parameters"]["dropout"]}


# The conformance suite, in plain HTTP.


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
        return [testing.Suggested(trial["id"], trial["parameters"]) for trial in answer["trials"]]

    def complete(self, suggested, value):
        how = {"infeasible_reason": "failed"} if value is None else {"metrics": {"objective": value}}
        self.call(f"/s/trials/{suggested.handle}/complete", how)


class HttpBackend:
    conditional = True
    process_code = ""

    def __init__(self, model):
        self.model = model
        self.open = []

    def start(self, problem, seed):
        both = Both(self.model, "sqlite:///:memory:", seed=seed)
        self.open.append(both)
        session = HttpSession(both)
        session.call(
            "", new_study(search_space=as_json(problem.search_space), metrics=goals(problem), algorithm=ALGORITHM)
        )
        return session


def goals(problem):
    return [
        {"name": metric.name, "goal": "minimize" if metric.goal.is_minimize else "maximize"}
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


@pytest.mark.parametrize("check", [*testing.ESSENTIAL, testing.check_conditional], ids=lambda check: check.__name__)
def test_conformance(check, model):
    backend = HttpBackend(model)
    try:
        check(backend)
    finally:
        for both in backend.open:
            both.vizier.stop()
