"""Generated corpora: the same bytes however they are made, resumed where they stopped, honest about what failed."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
import optuna
import pytest
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.cli import main
from optformer.data.generation import executors, generate_corpus, generate_study
from optformer.data.generation import study as one_study
from optformer.data.generation.plan import Plan, schedule
from optformer.data.problems import bbob
from optformer.data.problems.bbob import METRIC, BBOBExperimenter
from optformer.data.problems.infeasible import KINDS as FAILURE_KINDS
from optformer.data.problems.infeasible import Failures, InfeasibleExperimenter
from optformer.data.problems.randomized_bbob import KINDS, NOISES, QUIET, Layout, RandomizedBBOB, draw_layout
from optformer.data.problems.sklearn import SklearnExperimenter
from optformer.data.sources import read
from optformer.data.sources.records import NAMESPACE
from optformer.data.teachers.registry import TEACHERS
from optformer.evaluate.optimization import random_trials

pytestmark = pytest.mark.integration

FAST = ("shuffled_grid_search", "random_search", "hill_climb", "eagle_strategy")


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


# Problems.


def test_layouts_are_drawn_as_in_the_paper():
    layouts = [draw_layout("Sphere", seed) for seed in range(600)]
    assert {layout.dimension for layout in layouts} == set(range(1, 21))
    assert {layout.noise for layout in layouts} == set(NOISES)
    levels = np.concatenate([layout.levels for layout in layouts])
    assert {int(count) for count in levels} == {0, *range(2, 9)}
    assert np.mean(levels == 0) == pytest.approx(1 / len(KINDS), abs=0.03)
    assert min(draw_layout("Lunacek", seed, 3).dimension for seed in range(50)) == 2


def test_the_share_of_noisy_layouts_is_as_asked_for_and_the_rest_stays():
    papers = [draw_layout("Sphere", seed) for seed in range(3000)]
    assert np.mean([layout.noise != QUIET for layout in papers]) == pytest.approx(0.9, abs=0.02)
    for rate, kinds in ((0.0, {QUIET}), (0.2, set(NOISES)), (1.0, {*NOISES} - {QUIET})):
        layouts = [draw_layout("Sphere", seed, noise_rate=rate) for seed in range(3000)]
        assert {layout.noise for layout in layouts} == kinds
        assert np.mean([layout.noise != QUIET for layout in layouts]) == pytest.approx(rate, abs=0.03)
        assert [dataclasses.replace(layout, noise="") for layout in layouts] == [
            dataclasses.replace(layout, noise="") for layout in papers
        ]


def test_a_plan_hands_the_share_of_noisy_problems_on():
    for rate in (0.0, 1.0):
        plan = Plan(teachers=("random_search",), studies=8, trials=(2, 2), largest_dimension=3, noise_rate=rate)
        noises = [generate_study(plan, index).problem.metadata.ns(NAMESPACE)["noise"] for index in range(8)]
        assert [noise != QUIET for noise in noises] == [bool(rate)] * 8


def test_a_problem_maximizes_the_negative_function_on_parameters_of_three_kinds():
    layout = Layout(3, (0, 3, 5), (False, False, True), "NO_NOISE")
    problem = RandomizedBBOB("Sphere", 4, layout)
    space = problem.problem_statement().search_space
    assert [parameter.type.name for parameter in space.parameters] == ["DOUBLE", "DISCRETE", "CATEGORICAL"]
    assert space.get("x1").feasible_values == [-5.0, 0.0, 5.0]
    assert sorted(map(float, space.get("x2").feasible_values)) == [-5.0, -2.5, 0.0, 2.5, 5.0]
    trial = vz.Trial({"x0": 1.25, "x1": 5.0, "x2": "-2.5"})
    problem.evaluate([trial])
    plain = BBOBExperimenter("Sphere", 3, 4).value(np.array([1.25, 5.0, -2.5]))
    assert set(trial.final_measurement.metrics) == {METRIC}
    # A value to be minimized that is not near 0 gets the 1.01e-8 of the noisy functions' definition.
    assert trial.final_measurement.metrics[METRIC].value == pytest.approx(-plain, abs=1e-7)


def test_noise_is_noise():
    def spread(noise):
        problem = RandomizedBBOB("Sphere", 1, Layout(2, (0, 0), (False, False), noise))
        trials = [vz.Trial({"x0": 1.0, "x1": 2.0}) for _ in range(50)]
        problem.evaluate(trials)
        return np.std([trial.final_measurement.metrics[METRIC].value for trial in trials])

    assert spread("NO_NOISE") < 1e-12
    assert 0 < spread("MODERATE_GAUSSIAN") < spread("SEVERE_GAUSSIAN")


def test_a_region_over_few_levels_is_never_empty():
    for seed in range(20):
        inner = RandomizedBBOB("Sphere", 2, Layout(2, (3, 2), (False, True), "NO_NOISE"))
        problem = InfeasibleExperimenter(inner, "divergence", 0.1, seed)
        trials = [vz.Trial({"x0": x, "x1": "5.0"}) for x in (-5.0, 0.0, 5.0)]
        assert list(problem.fails(trials)) == [False, False, True]


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_a_share_of_the_space_fails(kind):
    inner = RandomizedBBOB("Sphere", 2, Layout(4, (0, 0, 4, 3), (False, False, False, True), "NO_NOISE"))
    problem = InfeasibleExperimenter(inner, kind, 0.3, seed=5)
    rng = np.random.default_rng(0)
    space = inner.problem_statement().search_space
    values = [parameter.feasible_values for parameter in space.parameters[2:]]
    trials = [
        vz.Trial({"x0": rng.uniform(-5, 5), "x1": rng.uniform(-5, 5), "x2": rng.choice(values[0]), "x3": str(choice)})
        for choice in rng.choice(values[1], 600)
    ]
    problem.evaluate(trials)
    failed = [trial.infeasible for trial in trials]
    assert np.mean(failed) == pytest.approx(0.3, abs=0.07)
    assert all(trial.infeasible or METRIC in trial.final_measurement.metrics for trial in trials)
    again = InfeasibleExperimenter(inner, kind, 0.3, seed=5)
    if kind != "chance":  # a region: the same points fail again
        assert list(again.fails(trials)) == failed


def test_a_region_of_a_conditional_space_is_bounded_by_what_every_trial_has():
    inner = SklearnExperimenter("svc@wine", max_samples=60)
    problem = InfeasibleExperimenter(inner, "memory", 0.4, seed=3)
    trials = random_trials(inner, 80, seed=0)
    fails = problem.fails(trials)
    poly = np.array(["degree" in trial.parameters for trial in trials])
    assert 0.2 < np.mean(fails) < 0.6
    assert any(fails & poly)
    assert any(fails & ~poly)
    # Children do not matter.
    for trial in trials:
        if "degree" in trial.parameters:
            trial.parameters["degree"] = 5
    assert list(problem.fails(trials)) == list(fails)
    problem.evaluate(trials[:3])
    assert [trial.infeasible for trial in trials[:3]] == list(fails[:3])


class OnlyChildrenAreOrdered(experimenters.Experimenter):
    def problem_statement(self):
        problem = vz.ProblemStatement()
        kind = problem.search_space.root.add_categorical_param("kind", ["a", "b"])
        kind.select_values(["b"]).add_float_param("rate", 0.0, 1.0)
        problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MINIMIZE))
        return problem

    def evaluate(self, suggestions):
        for trial in suggestions:
            trial.complete(vz.Measurement(metrics={"y": 0.0}))


def test_a_space_of_which_no_region_can_be_bounded_fails_by_chance():
    for kind in ("divergence", "memory"):
        with pytest.raises(ValueError, match=f"{kind} needs an ordered parameter that every trial has"):
            InfeasibleExperimenter(OnlyChildrenAreOrdered(), kind, 0.3, 0)
    for seed in range(6):
        assert str(Failures(1.0).around(OnlyChildrenAreOrdered(), seed)).startswith("chance, ")


# Corpora.


def test_a_study_tells_what_it_is():
    plan = Plan(teachers=FAST, studies=8, trials=(5, 9), largest_dimension=4)
    studies = [generate_study(plan, index) for index in range(8)]
    facts = [study.problem.metadata.ns("optformer") for study in studies]
    assert [each["algorithm"] for each in facts] == [*FAST, *FAST]
    assert [each["title"].split(" in ")[0] for each in facts] == [bbob.TRAIN[0]] * 4 + [bbob.TRAIN[1]] * 4
    assert all(5 <= len(study.trials) <= 9 for study in studies if study.trials[-1].id > 4)
    assert generate_study(plan, 5) == studies[5]
    assert all(f"function {each['problem']}, shifted and rotated" in each["description"] for each in facts)


def test_the_bytes_depend_on_plan_and_seed_alone(tmp_path):
    plan = Plan(teachers=FAST, studies=9, trials=(4, 12), largest_dimension=5, infeasible_rate=0.5, seed=3)
    one = generate_corpus(plan, tmp_path / "one.jsonl.gz")
    generate_corpus(plan, tmp_path / "two.jsonl.gz", processes=2)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()
    assert one.studies == {FAST[0]: 3, FAST[1]: 2, FAST[2]: 2, FAST[3]: 2}
    assert not (tmp_path / "one.jsonl.gz.parts").exists()
    records = list(read(tmp_path / "one.jsonl.gz"))
    assert len(records) == 9
    assert all(isinstance(record, vz.ProblemAndTrials) for record in records)
    assert any(trial.infeasible for record in records for trial in record.trials)


def test_families_take_turns(tmp_path):
    teachers = ("random_search", "eagle_strategy")
    plan = Plan(problems=("bbob", "sklearn-held-out"), teachers=teachers, studies=8, trials=(2, 4), largest_dimension=4)
    one = generate_corpus(plan, tmp_path / "one.jsonl")
    assert one.failed == 0
    facts = [study.problem.metadata.ns("optformer") for study in read(tmp_path / "one.jsonl")]
    assert [each["source"] for each in facts] == ["bbob", "sklearn-held-out"] * 4
    met = [(each["problem"], each["algorithm"]) for each in facts if each["source"] == "sklearn-held-out"]
    assert met == [
        ("svc@digits", "random_search"),  # a conditional space
        *(("kernel_ridge@diabetes", teacher) for teacher in teachers),
        ("forest@breast_cancer", "random_search"),
    ]
    (first, second) = schedule(plan).left_out
    assert re.fullmatch(r"sklearn-held-out: \d of 8 problems have more than 4 parameters", first)
    assert second.endswith("which these teachers do not support: eagle_strategy")


def test_a_family_that_is_named_twice_has_twice_the_studies():
    plan = Plan(problems=("bbob", "sklearn", "bbob"), teachers=("grid_search",), studies=9)
    families = [schedule(plan).of(index)[0] for index in range(9)]
    assert families == ["bbob", "sklearn", "bbob"] * 3
    assert len(schedule(plan).left_out) == 1


def test_what_is_left_out_of_a_plan_is_said_once(tmp_path, capsys):
    arguments = ["--problems", "bbob, sklearn-held-out", "--teachers", "random_search,shuffled_grid_search"]
    arguments += ["--studies", "2", "--trials", "2", "--out", str(tmp_path / "c.jsonl")]
    assert main(["corpus", "generate", *arguments]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "left out" in line] == [
        "left out of the plan: sklearn-held-out: 1 of 8 problems have conditional search spaces, which these teachers"
        " do not support: shuffled_grid_search"
    ]


def test_an_objective_that_is_no_number_is_a_failed_trial(monkeypatch):
    values = iter([1.0, float("nan"), 2.0, float("inf"), 3.0])

    def evaluate(self, suggestions):
        for trial in suggestions:
            trial.complete(vz.Measurement(metrics={METRIC: next(values)}))

    monkeypatch.setattr(RandomizedBBOB, "evaluate", evaluate)
    study = generate_study(Plan(teachers=("tpe",), studies=1, trials=(5, 5)), 0)
    assert [trial.infeasible for trial in study.trials] == [False, True, False, True, False]
    assert study.trials[1].infeasibility_reason == "the objective was nan"


@pytest.mark.slow
def test_ray_makes_the_same_bytes(tmp_path):
    pytest.importorskip("ray")
    plan = Plan(teachers=("random_search", "hill_climb"), studies=5, trials=(4, 8), largest_dimension=4)
    generate_corpus(plan, tmp_path / "local.jsonl")
    command = [sys.executable, "-m", "optformer.cli", "corpus", "generate", "--teachers", "random_search,hill_climb"]
    command += ["--studies", "5", "--trials", "4-8", "--largest-dimension", "4", "--executor", "ray"]
    command += ["--processes", "2", "--out", str(tmp_path / "ray.jsonl")]
    # A process of its own: Ray leaves threads and sockets behind.
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    plan = Plan(teachers=("random_search",), studies=6, trials=(4, 8), largest_dimension=3)
    generate_corpus(plan, tmp_path / "whole.jsonl")

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "pieces.jsonl"
    with pytest.raises(KeyboardInterrupt):
        generate_corpus(plan, out, progress=stop)
    assert not out.exists()
    (part,) = (tmp_path / "pieces.jsonl.parts").glob("*.jsonl")
    part.write_bytes(part.read_bytes() + b'{"index": 3, "rec')  # as if killed while it wrote
    with pytest.raises(ValueError, match="holds studies of another plan"):
        generate_corpus(Plan(teachers=("random_search",), studies=7, trials=(4, 8), largest_dimension=3), out)
    made = []
    honest = executors.try_generate
    monkeypatch.setattr(executors, "try_generate", lambda plan, index: made.append(index) or honest(plan, index))
    generate_corpus(plan, out)
    assert made == [3, 4, 5]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_two_runs_do_not_make_the_same_corpus_at_once(tmp_path):
    plan = Plan(teachers=("random_search",), studies=2, trials=(4, 4), largest_dimension=3)
    out = tmp_path / "c.jsonl"

    def second(done, total):
        if not done:
            with pytest.raises(OSError, match="another run is making the same corpus"):
                generate_corpus(plan, out)

    generate_corpus(plan, out, progress=second)
    assert len(list(read(out))) == 2


def test_a_process_that_dies_costs_the_study_that_it_dies_of(tmp_path, monkeypatch):
    """The second of two studies kills its process; children import this plan's teacher by name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Killer:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'optformer.data.teachers.pyglove':\n"
        "            import os; os._exit(9)\n"
        "sys.meta_path.insert(0, Killer())\n"
    )
    plan = Plan(teachers=("random_search", "hill_climb"), studies=2, trials=(4, 6), largest_dimension=3)
    out = tmp_path / "c.jsonl"
    summary = generate_corpus(plan, out, processes=2)
    assert summary.studies == {"random_search": 1, "hill_climb": 0}
    failures = [json.loads(line) for line in (tmp_path / "c.jsonl.failed.jsonl").read_text().splitlines()]
    assert [(failure["index"], failure["reason"]) for failure in failures] == [(i, "its process died") for i in (1,)]


def test_a_killed_run_goes_on(tmp_path):
    out = tmp_path / "killed.jsonl"
    command = [sys.executable, "-m", "optformer.cli", "corpus", "generate", "--teachers", "random_search"]
    command += ["--studies", "40", "--trials", "20-40", "--largest-dimension", "4", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size for part in tmp_path.glob("killed.jsonl.parts/*.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert main(command[3:]) == 0
    plan = Plan(teachers=("random_search",), studies=40, trials=(20, 40), largest_dimension=4)
    generate_corpus(plan, tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_study_that_fails_is_set_aside(tmp_path, monkeypatch, capsys):
    honest = one_study.make_teacher

    def flaky(name, problem, seed):
        if name == "hill_climb":
            raise RuntimeError("no\nluck")
        return honest(name, problem, seed)

    monkeypatch.setattr(one_study, "make_teacher", flaky)
    out = tmp_path / "corpus.jsonl"
    arguments = [
        "--teachers",
        "hill_climb,random_search",
        "--studies",
        "4",
        "--trials",
        "5",
        "--largest-dimension",
        "3",
    ]
    assert main(["corpus", "generate", "--out", str(out), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "2 studies failed; " in printed
    assert "studies/s of one process" in printed
    failures = [json.loads(line) for line in (tmp_path / "corpus.jsonl.failed.jsonl").read_text().splitlines()]
    assert failures == [{"index": i, "teacher": "hill_climb", "reason": "RuntimeError: no luck"} for i in (0, 2)]
    assert len(list(read(out))) == 2
    monkeypatch.setattr(one_study, "make_teacher", honest)
    assert main(["corpus", "generate", "--out", str(out), *arguments]) == 0
    assert not (tmp_path / "corpus.jsonl.failed.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teachers", "annealing"], "no teacher 'annealing'"),
        (["--teachers", ","], "at least one teacher"),
        (["--problems", "chess"], "no problems 'chess'; known are bbob"),
        (["--problems", ","], "at least one family of problems"),
        (["--problems", "bbob,yahpo"], "--yahpo-dir DIR"),
        (["--hpob-starts"], "need hpob among the problems"),
        (["--problems", "yahpo", "--yahpo-dir", "/nowhere/at/all"], "no such folder"),
        (["--trials", "many"], "--trials must be a number or a range"),
        (["--trials", "9-3"], "the smaller one first"),
        (["--studies", "0"], "at least 1"),
        (["--largest-dimension", "40"], "from 2 to 20"),
        (["--infeasible-rate", "2"], r"in \[0, 1\]"),
        (["--noise-rate", "-1"], r"noisy problems must lie in \[0, 1\]"),
        (["--seed", "-1"], "must not be negative"),
        (["--processes", "0"], "number of processes must be at least 1"),
        (["--executor", "slurm"], "'local' or 'ray'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, tmp_path, capsys):
    if "--teachers" not in arguments:
        arguments = ["--teachers", "random_search", *arguments]
    assert main(["corpus", "generate", "--out", str(tmp_path / "c.jsonl"), *arguments]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(message, said)
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(TEACHERS["gp"].available, reason="says what is missing")
def test_a_teacher_that_is_not_installed_is_refused_before_anything_is_made(tmp_path, capsys):
    assert main(["corpus", "generate", "--out", str(tmp_path / "c.jsonl"), "--teachers", "gp"]) == 2
    assert "needs what is not installed: torch" in capsys.readouterr().err


def test_gaussian_processes_are_generated_in_processes_of_their_own(monkeypatch, tmp_path):
    """Their compiled functions are never unmapped: also a single process is one of several that follow each other."""
    opened = []

    class Pool(futures.ThreadPoolExecutor):
        def __init__(self, processes, context, max_tasks_per_child, initializer):
            opened.append((processes, max_tasks_per_child))
            super().__init__(processes)

    monkeypatch.setattr(executors.futures, "ProcessPoolExecutor", Pool)
    replaced = dataclasses.replace(TEACHERS["random_search"], needs=())
    monkeypatch.setitem(TEACHERS, "gp_ucb", replaced)
    for teacher, expected in (("random_search", []), ("gp_ucb", [(1, 8)])):
        out = tmp_path / f"{teacher}.jsonl.gz"
        generate_corpus(Plan(teachers=(teacher,), studies=3, trials=(4, 4), largest_dimension=3), out)
        assert opened == expected
        assert len(list(read(out))) == 3


_WITH_A_WORKER = """
import concurrent.futures, multiprocessing, os, time
from optformer.data.generation.executors import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def test_the_processes_of_a_pool_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "with_a_worker.py"
    script.write_text(_WITH_A_WORKER)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # it is there
        parent.kill()
    patience = time.monotonic() + 10.0
    while time.monotonic() < patience:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
