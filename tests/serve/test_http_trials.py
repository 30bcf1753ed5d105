"""Trials over HTTP: measurements, completions, trials of one's own, values of all kinds, limits."""

import concurrent.futures
import itertools

import pytest
from http_calls import GOOD, SPACE, new_study

from optformer.serve import testing
from optformer.serve.vizier import ALGORITHM

pytestmark = pytest.mark.integration


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
    assert (status, code, message) == (405, "METHOD_NOT_ALLOWED", "this path does not support this method")
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
        ({"infeasible": True}, "study 's', trial 1: infeasible is not a known field"),
        ({"metrics": {"objective": 1}, "step": -1}, "study 's', trial 1: step should be greater than or equal to 0"),
        ({"metrics": {"objective": 1, "\ud800": 1}}, "study 's', trial 1: metrics is not valid Unicode text"),
        ({"metrics": {"objective": 1, "\x1b[2J": 1}}, "/s/trials/1: a metric '\\x1b[2J' has control characters"),
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


def test_what_has_ended_is_not_ended_again(owner, study):
    result, failure = {"metrics": {"objective": 1}}, {"infeasible_reason": "lost"}
    for trial, body in zip(owner.suggest(count=2), (result, failure), strict=True):
        path = f"/s/trials/{trial['id']}"
        ended = owner.done("POST", f"{path}/complete", body)
        for other in (result, {"metrics": {"objective": 2}}, failure, {}):
            assert owner.refused("POST", f"{path}/complete", other)[:2] == (409, "FAILED_PRECONDITION")
        assert owner.done("GET", path) == ended


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
        (GOOD | {"momentum": 0.1}, "sets 'momentum', which is not a parameter of the study under its other values"),
        ({"dropout": 0.1}, "does not set parameter 'learning_rate'"),
        (GOOD | {"dropout": None}, "sets parameter 'dropout' to null, which is none of its values"),
        (GOOD | {"dropout": [1]}, "study 's': parameters.dropout should be a finite number, a string"),
        (GOOD | {"dropout": 10**400}, "study 's': parameters.dropout should be a finite number, a string"),
        (GOOD | {"optimizer": "\ud800"}, "study 's': parameters.optimizer is not valid Unicode text"),
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
    assert (status, "study 's': parameter 'p' has different choices in two branches" in message) == (422, True)


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
    body = {"parameters": {"units": 16, "rate": 0.3}, "metrics": {"objective": 1.0}}  # 0.1 + 2 * 0.1 is another float
    assert owner.done("POST", "/s/trials", body)["parameters"]["rate"] == made["search_space"][1]["values"][2]
    status, _, message = owner.refused("POST", "/s/trials", body | {"parameters": {"units": 16, "rate": 0.31}})
    assert (status, "sets parameter 'rate' to 0.31, outside its range" in message) == (422, True)
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
    assert (status, code) == (422, "INVALID_ARGUMENT")
    assert message == f"owners/{owner.name}/studies/s: the number of suggestions must be from 1 to 5, not 6"
    for count in (0, -1, 1.5, 10**9, 10**400):
        status, _, message = owner.refused("POST", "/s/suggestions", {"client_id": "worker", "count": count})
        assert status == 422
        assert "studies/s: " in message or "study 's': count should be" in message
    owner.suggest(count=5)
    status, code, message = owner.refused("POST", "/s/suggestions", {"client_id": "other", "count": 4})
    assert (status, code) == (429, "RESOURCE_EXHAUSTED")
    assert message == f"owners/{owner.name}/studies/s has 5 trials; at most 8 are allowed"
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


def test_optimal_trials_of_two_metrics(owner):
    metrics = [{"name": "loss", "goal": "minimize"}, {"name": "speed", "goal": "maximize"}]
    owner.done("POST", body=new_study(metrics=metrics))
    for loss, speed in ((1, 1), (2, 2), (2, 1), (0, 0), (1, 1), (3, 2)):
        owner.done("POST", "/s/trials", {"parameters": GOOD, "metrics": {"loss": loss, "speed": speed}})
    assert [trial["id"] for trial in owner.done("GET", "/s/optimal_trials")["trials"]] == [1, 2, 4, 5]


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
