"""Earlier studies as backends are given them: values in other libraries' terms, and names of studies of a service."""

import json

import pytest
from vizier import pyvizier as vz

from optformer.serve.domains import Choices, Continuous, Numbers, Steps
from optformer.serve.prior_studies import MOST_NAMED, fetched, in_domains, named_studies, shown_names

OWN = "owners/me/studies/now"


def study(*rows) -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement()
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    trials = [vz.Trial(row, id=number).complete(vz.Measurement({"loss": 1.0})) for number, row in enumerate(rows, 1)]
    return vz.ProblemAndTrials(problem=problem, trials=trials)


def test_values_become_those_by_which_the_model_knows_them():
    domains = {
        "momentum": Continuous(0.5, 0.99, mirrored=True),
        "kind": Choices((None, "sgd", 16)),
        "size": Choices(("small", "large"), ordered=True),
        "batch": Numbers((16, 32, 64)),
        "units": Steps(0, 100, 10, integral=True),
    }
    earlier = study(
        {"momentum": 0.9, "kind": "None", "size": "large", "batch": 32.0, "units": 30.0, "other": 1.0},
        {"momentum": 0.1, "kind": 16, "size": "medium", "batch": 48, "units": 33},
    )
    running = vz.Trial({"momentum": 0.6}, id=3)
    earlier.trials.append(running)
    first, second = (trial.parameters.as_dict() for trial in in_domains(earlier, domains).trials)
    assert first == {"momentum": pytest.approx(0.1), "kind": "None", "size": 1, "batch": 32, "units": 30}
    assert second == {"kind": "16", "batch": 48, "units": 33}, "what lies between two steps is left to the model"
    assert earlier.trials[0].parameters["momentum"].value == 0.9, "the study itself is as it was"


def metadata(entry) -> vz.Metadata:
    problem = vz.ProblemStatement()
    problem.metadata.ns("optformer")["prior_studies"] = entry if isinstance(entry, str) else json.dumps(entry)
    return problem.metadata


def test_names_are_of_the_same_owner():
    named = metadata(["before", "owners/me/studies/b c", "before"])
    assert named_studies(named, OWN) == ["owners/me/studies/before", "owners/me/studies/b c"]
    assert shown_names(named, OWN) == ["before", "b c"]
    assert named_studies(vz.Metadata(), OWN) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("before", "should be a JSON list of names of studies"),
        ("[" * 100_000, "should be a JSON list of names of studies"),
        ("{}", "should be a JSON list of names of studies"),
        ([1], "should be a JSON list of names of studies"),
        ([""], "should be a JSON list of names of studies"),
        (["owners/you/studies/secret"], "names 'owners/you/studies/secret', which is not a study of the same owner"),
        (["../../you/studies/secret"], "which is not a study of the same owner"),
        (["owners/me/studies/../../you/studies/secret"], "which is not a study of the same owner"),
        (["now"], "names the study itself"),
        ([str(number) for number in range(MOST_NAMED + 1)], "has 21 names; at most 20 are allowed"),
    ],
)
def test_other_names_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        named_studies(metadata(entry), OWN)
    assert shown_names(metadata(entry), OWN) == []


class Supporter:
    """Of a service with one study."""

    def __init__(self, error):
        self.error, self.study = error, study({"rate": 0.1}, {"rate": 0.2})
        self.study.trials.append(vz.Trial({"rate": 0.3}, id=3))

    def GetStudyConfig(self, study_guid):
        if study_guid != "owners/me/studies/before":
            raise self.error
        return self.study.problem

    def GetTrials(self, study_guid):
        return self.study.trials[::-1]


class Missing(Exception):
    def code(self):
        return self

    name = "NOT_FOUND"


def test_studies_are_read_through_the_policy_supporter():
    (found,) = fetched(Supporter(KeyError()), metadata(["before"]), OWN)
    assert [trial.id for trial in found.trials] == [1, 2], "the third still runs"
    for error in (KeyError(), Missing()):
        with pytest.raises(ValueError, match="names 'owners/me/studies/gone', which does not exist"):
            fetched(Supporter(error), metadata(["before", "gone"]), OWN)
    with pytest.raises(OSError, match="the database"):
        fetched(Supporter(OSError("the database")), metadata(["gone"]), OWN)
