"""Earlier studies that a service finds in a corpus."""

import pytest
from vizier import pythia
from vizier import pyvizier as vz
from vizier.service import pyvizier as svz

from optformer.cli import main
from optformer.serve import testing
from optformer.serve.prior_corpus import FOUND, PriorCorpus
from optformer.serve.vizier import ALGORITHM, OptFormerPolicyFactory

pytestmark = pytest.mark.integration


def study(name: str, metric: str = "loss", trials: int = 3, **ranges: tuple[float, float]) -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement()
    problem.metadata.ns("optformer")["title"] = name
    for parameter, (low, high) in ranges.items():
        log = vz.ScaleType.LOG if low > 0 else vz.ScaleType.LINEAR
        problem.search_space.root.add_float_param(parameter, low, high, scale_type=log)
    problem.metric_information.append(vz.MetricInformation(metric, goal=vz.ObjectiveMetricGoal.MINIMIZE))
    made = []
    for number in range(1, trials + 1):
        trial = vz.Trial({parameter: low for parameter, (low, _) in ranges.items()}, id=number)
        made.append(trial.complete(vz.Measurement({metric: float(number)})))
    return vz.ProblemAndTrials(problem=problem, trials=made)


def names(found: list[vz.ProblemAndTrials]) -> list[str]:
    return [each.problem.metadata.ns("optformer")["title"] for each in found]


RATE, DEPTH = (1e-4, 1.0), (0.0, 1.0)


def test_the_closest_come_first():
    corpus = PriorCorpus(
        [
            study("one more", rate=RATE, depth=DEPTH, width=DEPTH),
            study("narrower", rate=(1e-3, 1e-1), depth=DEPTH),
            study("other metric", metric="error", rate=RATE, depth=DEPTH),
            study("equal", rate=RATE, depth=DEPTH),
            study("longer", rate=RATE, depth=DEPTH, trials=5),
            study("half", rate=(1e-4, 1e-2), width=DEPTH),
            study("unlike", x=DEPTH, y=DEPTH),
            study("nothing has run", rate=RATE, depth=DEPTH, trials=0),
        ]
    )
    assert len(corpus) == 7
    found = corpus.closest(study("asked", rate=RATE, depth=DEPTH).problem)
    assert names(found) == ["longer", "equal", "other metric", "narrower", "one more"]


def test_kinds_and_values_count():
    def with_kinds(name: str, values: list[str] | list[float]) -> vz.ProblemAndTrials:
        made = study(name, rate=RATE)
        if isinstance(values[0], str):
            made.problem.search_space.root.add_categorical_param("kind", values)
        else:
            made.problem.search_space.root.add_discrete_param("kind", values)
        return made

    corpus = PriorCorpus(
        [with_kinds("numbers", [1.0, 2.0]), with_kinds("others", ["c", "d"]), with_kinds("same", ["b", "a"])]
    )
    asked = with_kinds("asked", ["a", "b"]).problem
    assert names(corpus.closest(asked)) == ["same", "others", "numbers"]


def test_so_many_are_found():
    corpus = PriorCorpus(study(str(number), rate=RATE) for number in range(2 * FOUND))
    assert names(corpus.closest(study("asked", rate=RATE).problem)) == [str(number) for number in range(FOUND)]


@pytest.mark.parametrize("named", [False, True])
def test_a_study_that_names_no_earlier_ones_is_shown_them(model, told_earlier, named):
    before = testing.earlier_study(testing.mixed_problem())
    problem = testing.mixed_problem()
    if named:
        problem.metadata.ns("optformer")["prior_studies"] = '["last"]'

    class Supporter:
        def GetTrials(self, **_):
            return before.trials[:2]

        def GetStudyConfig(self, _):
            return svz.StudyConfig.from_problem(before.problem)

    factory = OptFormerPolicyFactory(model, prior_corpus=PriorCorpus([before]))
    policy = factory(problem, ALGORITHM, Supporter(), "owners/me/studies/s")
    config = svz.StudyConfig.from_problem(problem)
    descriptor = vz.StudyDescriptor(config=config, guid="owners/me/studies/s", max_trial_id=2)
    policy.suggest(pythia.SuggestRequest(study_descriptor=descriptor, count=1))
    (told,) = told_earlier()
    assert len(told.trials) == (2 if named else len(before.trials))


def test_a_corpus_without_a_finished_trial_is_refused(tmp_path, capsys):
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    arguments = ["serve", "--prior-corpus", str(path), "--database-url", f"sqlite:///{tmp_path}/s.db", "--port", "0"]
    assert main(arguments) != 0
    assert "empty.jsonl" in capsys.readouterr().err
