"""Studies over HTTP, as callers see them: real requests to a real server."""

import itertools

import pytest
from http_calls import FREE, GOOD, METRICS, SPACE, new_study
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer.serve import testing
from optformer.serve.client import Service
from optformer.serve.vizier import ALGORITHM

pytestmark = pytest.mark.integration


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
        ({"search_space": [SPACE[1] | {"default_value": 0}]}, "'dropout': Vizier cannot store the default value 0.0"),
        ({"search_space": [SPACE[3] | {"values": [1, 1]}]}, "'batch_size': Feasible values cannot have duplicates"),
        ({"search_space": [SPACE[0], SPACE[0]]}, "study 's', parameter 'learning_rate': two parameters have this name"),
        ({"search_space": [SPACE[1] | {"scale": "log"}], "algorithm": ALGORITHM}, "study 's', parameter 'dropout'"),
        (
            {"search_space": [SPACE[4] | {"children": [{"when": ["x"], "parameters": [SPACE[0]]}]}]},
            "parameter 'optimizer': `when` names ['x'], but not all of these are values of the parameter",
        ),
        ({"metrics": METRICS * 2}, "study 's' has two metrics with the same name"),
        ({"metrics": []}, "study 's': metrics list should have at least 1 item"),
        ({"search_space": []}, "study 's': search_space list should have at least 1 item"),
        ({"algorithm": "MAGIC"}, "unknown algorithm 'MAGIC'; known are OPTFORMER, DEFAULT"),
        ({"nmae": "s"}, "study 's': nmae is not a known field"),
        ({"search_space": [SPACE[2] | {"min": 1.5}]}, "study 's', parameter 'layers': search_space[0].min should be a"),
        ({"search_space": [SPACE[2] | {"min": "1"}]}, "study 's', parameter 'layers': search_space[0].min should be a"),
        ({"search_space": [{"type": "float", "name": "x"}]}, "'s', parameter 'x': search_space[0].min is missing"),
        ({"search_space": [{"type": "complex", "name": "x"}]}, "search_space[0] has an unknown `type`; known are"),
        ({"search_space": [{"name": "x", "min": 0, "max": 1}]}, "study 's': search_space[0] has no `type`"),
        ({"search_space": [None]}, "study 's': search_space[0] should be an object"),
        ({"search_space": [SPACE[0] | {"name": "x" * 5000}]}, "x...': search_space[0].name string should have at most"),
        ({"search_space": [SPACE[4] | {"values": ["a", "\ud800"]}]}, "'optimizer': search_space[0].values[1] is not"),
        ({"algorithm": "\ud800"}, "study 's': algorithm is not valid Unicode text"),
        ({"cost": "a\x1b[2J"}, "study 's': the cost 'a\\x1b[2J' has control characters in its name"),
        ({"x" * 5000: 1}, "x... is not a known field"),
        ({"search_space": [SPACE[0] | {"min": float("nan")}]}, "search_space[0].min should be a finite number"),
        ({"search_space": [SPACE[2] | {"max": 2**60}]}, "search_space[0].max should be less than or equal to"),
        ({"metrics": [{"name": "y", "goal": "improve"}]}, "metrics[0].goal should be 'minimize' or 'maximize'"),
        ({"metrics": [METRICS[0] | {"safety_threshold": 1}]}, "study 's' has no objective: every metric has a "),
        ({"metrics": [METRICS[0] | {"desired_min_safe_trials_fraction": 0.5}]}, "fraction needs a safety_threshold"),
        ({"name": "a/b"}, "study 'a/b': name has a slash or a control character"),
        ({"name": "\ud800"}, "name is not valid Unicode text"),
        ({"name": "s" * 5000}, "s...': name string should have at most 200 characters"),
        ({"name": ".."}, "study '..': name cannot be part of a URL"),
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
    assert "study 's' already exists with a parameter 'layers', which the new one lacks" in message
