"""Values of the plain loop: the user's, the model's, and the journal's."""

import json

import pytest
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.space import StudySchema
from optformer.serve import dictionary_spaces
from optformer.serve.domains import search_space
from optformer.serve.plain_values import PlainValues

SPACE = {
    "rate": (1e-5, 1e-1, "log"),
    "units": (10, 100, 10),
    "kind": ["a", "b"],
    "early": [False, True],
    "layers": [None, (16,), (32, 16)],
}
POINT = {"rate": 0.00123456789, "units": 20, "kind": "b", "early": True, "layers": (32, 16)}


@pytest.fixture(scope="module")
def plain() -> PlainValues:
    domains = dictionary_spaces.domains(SPACE)
    return PlainValues(StudySchema(vz.ProblemStatement(search_space(domains))), domains)


def test_values_of_a_dictionary_come_back(plain):
    assert plain.from_model(plain.to_model("here", POINT)) == POINT
    trial = plain.trial(3, POINT)
    assert (trial.id, trial.parameters["layers"].value) == (3, "(32, 16)")
    assert plain.of_trial(trial) == POINT, "numbers between two levels are kept"
    row = plain.encode("here", POINT)
    assert plain.decode(row) == POINT | {"rate": pytest.approx(POINT["rate"], rel=0.01)}
    assert (plain.encode("here", {"units": 20}) == tokens.MISSING).sum() == 4


def test_the_journal_has_the_users_values_where_json_has_them(plain):
    kept = plain.to_json(POINT)
    assert kept == POINT | {"layers": "(32, 16)"}
    assert plain.from_json(json.loads(json.dumps(kept))) == POINT


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"depth": 3}, "here: the search space has no parameter 'depth'"),
        ({"units": 25}, "here: parameter 'units': 25 is no multiple of 10"),
        ({"layers": (8,)}, r"here: parameter 'layers': \(8,\) is none of"),
    ],
)
def test_values_outside_the_space_are_named(plain, point, message):
    with pytest.raises(ValueError, match=message):
        plain.encode("here", point)


def test_the_values_of_a_space_of_vizier_are_the_models():
    problem = vz.ProblemStatement()
    problem.search_space.root.add_bool_param("early")
    problem.search_space.root.select("early", ["True"]).add_float_param("patience", 1.0, 9.0)
    plain = PlainValues(StudySchema(problem), {})
    for point in ({"early": True, "patience": 2.34567}, {"early": False}):
        assert plain.of_trial(plain.trial(1, point)) == point
        assert plain.to_json(point) == plain.from_json(point) == point
    with pytest.raises(ValueError, match="parameter 'patience': has a value"):
        plain.trial(1, {"early": False, "patience": 2.0})
