"""Runs in processes: limits, failures, resuming."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from optformer.evaluate.optimization.optimizers import Optimizer, choose
from optformer.evaluate.optimization.running import JOURNAL, Job, Journal, Outcome, Plan, run_all

pytestmark = pytest.mark.integration

TOYS = '''
"""Problems and optimizers that processes can import."""
import dataclasses, os, time
import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters
from optformer.data.teachers.optuna import OptunaDesigner
from optformer.evaluate.optimization.problems import RandomStart, Scale
from optformer.evaluate.optimization.tuning import objective_values


class Line(experimenters.Experimenter):
    def problem_statement(self):
        problem = vz.ProblemStatement()
        problem.search_space.root.add_float_param("x", 0.0, 1.0)
        problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
        return problem

    def evaluate(self, suggestions):
        for trial in suggestions:
            x = trial.parameters["x"].value
            if x > 0.9:
                trial.complete(vz.Measurement(), infeasibility_reason="too far")
            else:
                trial.complete(vz.Measurement(metrics={"y": x}))


@dataclasses.dataclass(frozen=True)
class Problem(RandomStart):
    name: str = "line"
    family = "toy"
    conditional = False

    def experimenter(self, seed):
        return Line()

    def judged(self, trials):
        return objective_values(Line().problem_statement(), trials)

    def scale(self):
        return Scale(reference=0.45, best=0.9)


def uniform(problem, seed):
    return OptunaDesigner(problem, "random", seed)


class Hanging(OptunaDesigner):
    def suggest(self, count=None):
        if len(self.study.trials) == 4:
            time.sleep(60)
        return super().suggest(count)


def hanging(problem, seed):
    return Hanging(problem, "random", seed)


def failing(problem, seed):
    raise RuntimeError("no licence\\nfor this machine")


def dying(problem, seed):
    os._exit(3)
'''


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "evaluation_toys.py").write_text(TOYS)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return importlib.import_module("evaluation_toys")


def optimizer(name: str) -> Optimizer:
    return Optimizer(name, factory=f"evaluation_toys:{name}")


def run(jobs: list[Job], plan: Plan, folder: Path, executor: str = "local") -> dict[str, Outcome]:
    journal, told = Journal(folder, plan), []
    run_all(jobs, plan, journal, 2, executor, lambda done, total: told.append((done, total)))
    assert told[-1] == (len(jobs), len(jobs))
    return journal.outcomes


def test_what_goes_wrong_costs_its_own_run_only(toys: ModuleType, tmp_path: Path):
    plan = Plan(trials=8, first_trials=3, seconds=4.0)
    problem = toys.Problem()
    jobs = [Job(problem), *(Job(problem, optimizer(name)) for name in ("hanging", "failing", "dying", "uniform"))]
    outcomes = run(jobs, plan, tmp_path / "out")

    scale, hanging, failing, dying, uniform = (outcomes[job.key] for job in jobs)
    assert scale.scale is not None
    assert scale.scale.best == 0.9
    assert scale.usable
    assert hanging.ended_by == "time limit"
    assert hanging.usable
    assert len(hanging.values) == 4, "the trials until then are kept"
    assert failing.ended_by == "RuntimeError: no licence for this machine"
    assert not failing.usable
    assert dying.ended_by == "its process died (exit code 3)"
    assert not dying.usable
    assert uniform.ended_by == "finished"
    assert len(uniform.values) == 8
    assert len(uniform.seconds) == 5
    assert hanging.values[:3] == uniform.values[:3] == failing.values, "all are given the same first trials"
    feasible = [value for value in uniform.values if value is not None]
    assert all(0 <= value <= 0.9 for value in feasible)
    expected = [value if value is None or value <= 0.9 else None for value in uniform.values]
    assert uniform.values == expected


def test_a_process_is_replaced_before_its_memory_is_full_of_what_it_compiled(
    toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import optformer.evaluate.optimization.running as running

    started: list[Plan] = []

    class Counted(running._Worker):
        def __init__(self, plan: Plan):
            started.append(plan)
            super().__init__(plan)

    monkeypatch.setattr(running, "_Worker", Counted)
    monkeypatch.setattr(running.memory_regions, "allowed", lambda: 100)
    jobs = [Job(toys.Problem(), optimizer("uniform"), seed) for seed in range(3)]
    outcomes = list(running.run_locally(jobs, Plan(trials=2, first_trials=1), 1))
    assert [outcome.ended_by for outcome in outcomes] == ["finished"] * 3
    assert len(started) == 3


def test_an_evaluation_goes_on_where_it_ended(toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan, problem, out = Plan(trials=4, first_trials=2), toys.Problem(), tmp_path / "out"
    first = [Job(problem), Job(problem, optimizer("uniform"), seed=0), Job(problem, optimizer("failing"), seed=0)]
    before = run(first, plan, out)
    with (out / JOURNAL).open("a") as file:
        file.write('{"key": "torn')

    asked: list[str] = []
    import optformer.evaluate.optimization.running as running

    def spied(jobs, *rest, local=running.run_locally):
        asked.extend(job.key for job in jobs)
        return local(jobs, *rest)

    monkeypatch.setattr(running, "run_locally", spied)
    after = run([*first, Job(problem, optimizer("uniform"), seed=1)], plan, out)
    assert asked == ["line | failing | 0", "line | uniform | 1"], "what failed is tried again, what is new is run"
    assert after["line | uniform | 0"] == before["line | uniform | 0"]
    assert after["line | uniform | 1"].values != after["line | uniform | 0"].values
    assert set(Journal(out, plan).outcomes) == set(after), "the torn line spoils no other"

    with pytest.raises(ValueError, match="has runs of another plan"):
        Journal(out, Plan(trials=5, first_trials=2))


# Ray forks to start its processes, jax warns of any fork, and these start another program at once.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
@pytest.mark.slow
def test_ray_gives_the_same_values(toys: ModuleType, tmp_path: Path):
    ray = pytest.importorskip("ray")
    plan, problem = Plan(trials=5, first_trials=2), toys.Problem()
    jobs = [Job(problem, optimizer("uniform"), seed) for seed in (0, 1)] + [Job(problem, optimizer("failing"))]
    local = run(jobs, plan, tmp_path / "local")
    folder = str(Path(toys.__file__).parent)
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": folder}})
    try:
        remote = run(jobs, plan, tmp_path / "ray", executor="ray")
    finally:
        ray.shutdown()
    assert {key: (each.values, each.ended_by) for key, each in remote.items()} == {
        key: (each.values, each.ended_by) for key, each in local.items()
    }


def test_plans_and_executors_are_checked(tmp_path: Path):
    for mistake in ({"first_trials": -1}, {"first_trials": 50}, {"seconds": -1.0}):
        with pytest.raises(ValueError, match=r"first trials|time limit"):
            Plan(**mistake)
    journal = Journal(tmp_path, Plan())
    with pytest.raises(ValueError, match="'local' or 'ray'"):
        run_all([], Plan(), journal, 1, "slurm", lambda done, total: None)
    with pytest.raises(ValueError, match="number of processes must be at least 1, not 0"):
        run_all([], Plan(), journal, 0, "local", lambda done, total: None)
    assert json.loads((tmp_path / JOURNAL).read_text()) == {"trials": 50, "first_trials": 5, "seconds": 900.0}


def test_optimizers_are_chosen_by_name_or_by_factory(toys: ModuleType):
    chosen = choose(["optformer", "tpe", "mine=evaluation_toys:uniform"], "some/folder", "f00")
    assert [each.name for each in chosen] == ["optformer", "tpe", "mine"]
    assert chosen[0].fingerprint == "f00"
    assert chosen[1].fingerprint is None
    assert Job(toys.Problem(), chosen[0], 3).key == "line | optformer @f00 | 3"
    designer = chosen[2].build()(toys.Line().problem_statement(), 1)
    assert 0 <= designer.suggest(1)[0].parameters["x"].value <= 1

    for names, message in (
        (["tpe", "tp"], "no optimizer 'tp'; known are optformer"),
        (["tpe", "tpe"], "named twice"),
        (["tpe"], "at least two"),
        (["tpe", "gp=evaluation_toys:uniform"], "choose another name for yours"),
        (["tpe", "mine=evaluation_toys:none"], "no function 'none' in evaluation_toys"),
        (["tpe", "mine=no_such_module:f"], "No module named 'no_such_module'"),
    ):
        with pytest.raises(ValueError, match=message):
            choose(names, "some/folder", "f00")


def test_a_value_that_is_not_finite_counts_as_infeasible(toys: ModuleType):
    from optformer.evaluate.optimization.running import _plain

    assert _plain(np.array([1.0, np.nan, np.inf])) == [1.0, None, None]
