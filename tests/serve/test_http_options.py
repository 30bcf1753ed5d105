"""What a study may ask for over HTTP: constraints, beliefs, costs, earlier studies, early stopping."""

import json

import pytest
from http_calls import FREE, GOOD, METRICS, SPACE, Owner, new_study
from vizier import pyvizier as vz
from vizier.service import pyvizier as svz

from optformer.serialization.space import StudySchema
from optformer.serve.client import Service
from optformer.serve.http_conversion import study_proto
from optformer.serve.http_schema import NewStudy
from optformer.serve.vizier import ALGORITHM

pytestmark = pytest.mark.integration


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
        ({"depth": ["normal", 1, 1]}, "study 's': the belief names 'depth', which is not a parameter"),
        ({"optimizer": {"rprop": 1}}, "parameter 'optimizer': 'rprop' is none of"),
        ({"optimizer": ["normal", 1, 1]}, "parameter 'optimizer': it is categorical"),
        ({"layers": ["normal", 1, 0]}, "parameter 'layers': the stddev is 0.0; it must be positive"),
        ({"layers": ["gamma", 1, 1]}, "parameter 'layers': ['gamma', 1.0, 1.0] is not a belief"),
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
    (after,) = owner.done("POST", "/dear/suggestions", {"client_id": "worker"})["trials"]
    assert 10 <= after["reasons"]["cost"] <= 14, "a cost of 0 does not count"


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
        (["secret"], f"names 'owners/{owner.name}/studies/secret', which does not exist"),
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
        for name, said in ((foreign, "not a study of the same owner"), ("gone", "which does not exist")):
            entry = vz.Metadata()
            entry.ns("optformer")["prior_studies"] = json.dumps([name])
            study.update_metadata(entry)
            status, _, message = owner.refused("POST", "/s/suggestions", {"client_id": "worker"})
            assert status == 409
            assert name in message
            assert said in message
            assert owner.refused("POST", "/s/predictions", {"candidates": [GOOD]})[0] == 422
    assert owner.done("GET", "/s") == made | {"prior_studies": ["gone"]}


@pytest.mark.parametrize(
    "given, searched",
    [
        ({}, ["LOG", "LOG"]),
        ({"scale": "linear"}, ["LINEAR", "LINEAR"]),
        ({"scale": "log"}, ["LOG", "LINEAR"]),
    ],
)
def test_declared_scales_are_kept(given, searched):
    wide, other = ({"type": "float", "name": name, "min": 1e-3, "max": 1e3} for name in "xy")
    branch = {"when": [True], "parameters": [wide | given]}
    space = [{"type": "boolean", "name": "on", "children": [branch]}, other]
    made = study_proto(NewStudy.model_validate({"name": "s", "search_space": space, "metrics": METRICS}))
    config = svz.StudyConfig.from_proto(made.study_spec)
    assert [slot.scale.name for slot in StudySchema(config).slots if slot.path != "on"] == searched


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
        (
            {"coefficients": {"depth": 1}, "upper": 8},
            "study 's': a constraint uses 'depth', which is not a parameter",
        ),
        ({"coefficients": {"optimizer": 1}, "upper": 8}, "'optimizer', which is not numeric"),
        ({"coefficients": {"layers": 1}}, "study 's': a linear constraint needs bounds"),
        ({"coefficients": {}, "upper": 8}, "coefficients"),
        ({"coefficients": {"layers": "1"}, "upper": 8}, "layers"),
    ],
)
def test_constraints_that_make_no_sense(owner, constraint, said):
    status, _, message = owner.refused("POST", "", new_study(constraints=[constraint]))
    assert status == 422
    assert said in message
