"""Studies that change hands: one teacher's first trials, another's name and all that follows."""

import gzip
import json
import re

import numpy as np
import optuna
import pytest
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.generation import generate_corpus, generate_study
from optformer.data.generation.openings import read_openings
from optformer.data.generation.plan import Plan, schedule
from optformer.data.problems import registry
from optformer.data.problems.infeasible import Failures
from optformer.data.sources import read
from optformer.data.sources.records import NAMESPACE

pytestmark = pytest.mark.integration

FIRST = Plan(
    teachers=("hill_climb", "eagle_strategy"),
    studies=8,
    trials=(6, 12),
    largest_dimension=3,
    infeasible_rate=0.5,
    noise_rate=0.0,
    seed=4,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = tmp_path_factory.mktemp("openings") / "first.jsonl.gz"
    assert generate_corpus(FIRST, path).failed == 0
    return path


def going_on(corpus, **changed):
    settings = {"teachers": ("random_search", "hill_climb", "regularized_evolution"), "trials": (8, 14), "studies": 16}
    shared = {"largest_dimension": 3, "infeasible_rate": 0.5, "noise_rate": 0.0}
    return Plan(**({**shared, **settings, "openings": str(corpus), "seed": 5} | changed))


def facts(study):
    return study.problem.metadata.ns(NAMESPACE)


def test_another_teacher_goes_on_with_the_same_problem_from_the_same_trials(corpus):
    begun = {facts(study)["study_id"]: study for study in read(corpus)}
    plan = going_on(corpus)
    lengths = []
    for index in range(16):
        study = generate_study(plan, index)
        told = facts(study)
        opening = begun[told["study_id"].removesuffix(f"-5-{index}")]
        assert told["opened_by"] == facts(opening)["algorithm"] != told["algorithm"]
        shared = ("problem", "problem_seed", "title", "description", "noise", "failures")
        assert [told.get(name) for name in shared] == [facts(opening).get(name) for name in shared]
        assert study.problem.search_space == opening.problem.search_space
        requested = [trial.is_requested for trial in study.trials]
        begins = sum(requested)
        assert requested == [True] * begins + [False] * (len(study.trials) - begins)
        assert 1 <= begins <= min(len(opening.trials), len(study.trials) - 1)
        for number, (trial, before) in enumerate(zip(study.trials[:begins], opening.trials, strict=False), 1):
            assert (trial.id, trial.parameters, trial.final_measurement) == (
                number,
                before.parameters,
                before.final_measurement,
            )
            assert trial.infeasible == before.infeasible
        assert all(trial.is_completed for trial in study.trials)
        # The function is the opening's too: it gives the same value to its last point.
        member = next(each for each in registry.problems("bbob", plan.settings) if each.name == told["problem"])
        experimenter = Failures(0.5).around(
            member.draw(int(told["problem_seed"])).experimenter, int(told["problem_seed"])
        )
        again = [vz.Trial(parameters=trial.parameters) for trial in study.trials]
        experimenter.evaluate(again)
        if "chance" not in told.get("failures", ""):
            assert [trial.final_measurement for trial in again] == [trial.final_measurement for trial in study.trials]
        lengths.append(begins)
    assert len(set(lengths)) > 3


def test_every_study_is_gone_on_with_before_any_is_again_and_by_all_others(corpus):
    plan = going_on(corpus, teachers=("random_search", "hill_climb"))
    turns = [schedule(plan).of(index) for index in range(12)]
    assert [turn.opening.facts["study_id"] for turn in turns[:8]] == [f"bbob-4-{index}" for index in range(8)]
    met = {(turn.opening.facts["study_id"], turn.teacher) for turn in turns}
    assert len(met) == 12  # 4 studies of hill climbing with one other, 4 of Eagle with two


def test_the_bytes_depend_on_plan_and_openings_alone(corpus, tmp_path):
    plan = going_on(corpus, studies=6)
    generate_corpus(plan, tmp_path / "one.jsonl.gz")
    generate_corpus(plan, tmp_path / "two.jsonl.gz", processes=2)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


def test_a_study_may_change_hands_twice(corpus, tmp_path):
    generate_corpus(going_on(corpus, studies=4), tmp_path / "second.jsonl")
    plan = going_on(tmp_path / "second.jsonl", teachers=("shuffled_grid_search",), seed=6)
    study = generate_study(plan, 1)
    assert facts(study)["study_id"] == "bbob-4-1-5-1-6-1"
    assert facts(study)["opened_by"] == facts(list(read(tmp_path / "second.jsonl"))[1])["algorithm"]
    requested = [trial.is_requested for trial in study.trials]
    assert requested == sorted(requested, reverse=True)
    assert set(requested) == {True, False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--largest-dimension", "3", "--infeasible-rate", "0.5"],
            r"study bbob-4-0 .* noise .*give the same --noise-rate",
        ),
        (["--largest-dimension", "3", "--noise-rate", "0"], r"failures .* give the same --infeasible-rate"),
        (["--infeasible-rate", "0.5", "--noise-rate", "0"], "give the same --largest-dimension"),
        (["--problems", "sklearn"], "no study of it that another teacher could continue"),
        (["--teachers", ","], "at least one teacher"),
        (["--trials", "1-4"], "need at least 2 trials, not 1"),
    ],
)
def test_other_settings_than_the_corpus_had_are_told_at_once(corpus, arguments, message, tmp_path, capsys):
    if "--teachers" not in arguments:
        arguments = ["--teachers", "random_search", *arguments]
    out = tmp_path / "out.jsonl"
    assert main(["corpus", "generate", "--out", str(out), "--openings", str(corpus), *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


def test_a_file_of_something_else_is_refused_with_the_study_and_what_it_lacks(corpus, tmp_path):
    lines = gzip.decompress(corpus.read_bytes()).splitlines()
    record = json.loads(lines[0])
    del record["problem"]["metadata"][0][1]["problem_seed"]
    for content, message in (
        (b"", "holds no study"),
        (b"[1]\n", "line 1 of bad.jsonl is not a study"),
        (lines[1] + b"\n" + json.dumps(record).encode(), "study bbob-4-0 of bad.jsonl lacks its problem_seed"),
    ):
        (tmp_path / "bad.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_openings(tmp_path / "bad.jsonl")
    with pytest.raises(OSError, match="nothing"):
        read_openings(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match="no study of it that another teacher could continue"):
        schedule(going_on(corpus, problems=("sklearn",)))


def test_openings_are_drawn_at_all_lengths(corpus):
    plan = going_on(corpus, teachers=("random_search",), trials=(40, 40))
    begun = [sum(trial.is_requested for trial in generate_study(plan, index).trials) for index in range(60)]
    lengths = [len(study.trials) for study in read(corpus)]
    assert 1 <= min(begun) <= 2
    assert np.mean(begun) == pytest.approx(np.mean([(length + 1) / 2 for length in lengths]), abs=1.5)
