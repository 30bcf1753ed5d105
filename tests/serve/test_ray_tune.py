"""The Ray Tune searcher: what it adds to `OptunaSearch`, its saved state, a real run with a restart."""

import builtins
import importlib
import math
import sys
import types
from pathlib import Path

import pytest
import ray
from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import ConcurrencyLimiter
from ray_searches import objects_as_choices, relu, run, searcher, trials
from vizier import pyvizier as vz

from optformer import LinearConstraint
from optformer.inference.stopped_trials import with_final_values
from optformer.serve import optuna_spaces, testing
from optformer.serve.ray_tune import OptFormerScheduler, OptFormerSearcher

pytestmark = pytest.mark.integration


def ray_space(space: vz.SearchSpace) -> dict:
    """A flat search space as a user of Ray Tune would write it."""
    found = {}
    for config in space.parameters:
        log = config.scale_type == vz.ScaleType.LOG
        if config.type == vz.ParameterType.DOUBLE:
            found[config.name] = (tune.loguniform if log else tune.uniform)(*config.bounds)
        elif config.type == vz.ParameterType.INTEGER:
            low, high = config.bounds
            found[config.name] = (tune.lograndint if log else tune.randint)(low, high + 1)
        else:
            found[config.name] = tune.choice(list(config.feasible_values))
    return found


class RaySession:
    """The searcher, and where the model reads reports the scheduler, as the tuner tells them of results."""

    def __init__(self, problem, model, seed, own_points=(), **options):
        goals = {each.name: "max" if each.goal.is_maximize else "min" for each in problem.metric_information}
        names, modes = (list(goals), list(goals.values())) if len(goals) > 1 else (*goals, *goals.values())
        space = ray_space(problem.search_space)
        points = list(own_points) or None
        self.searcher = OptFormerSearcher(space, names, modes, points, seed=seed, model=model, **options)
        self.scheduler = OptFormerScheduler(space, names, modes, model=model) if model.reads_reports else None
        self.count = 0

    def suggest(self, count):
        suggestions = []
        for _ in range(count):
            self.count += 1
            config = self.searcher.suggest(str(self.count))
            handle = types.SimpleNamespace(trial_id=str(self.count), config=config)
            suggestions.append(testing.Suggested(handle, config))
        return suggestions

    def complete(self, suggested, value):
        if value is None:
            self.searcher.on_trial_complete(suggested.handle.trial_id, error=True)
            return
        result = value if isinstance(value, dict) else {"objective": value}
        self.searcher.on_trial_complete(suggested.handle.trial_id, result)
        if self.scheduler is not None:
            self.scheduler.on_trial_complete(None, suggested.handle, result)

    def report(self, suggested, step, value):
        result = {"objective": value, "training_iteration": step}
        self.decision = self.scheduler.on_trial_result(None, suggested.handle, result)
        self.searcher.on_trial_result(suggested.handle.trial_id, result)

    def should_stop(self, suggested):
        return self.decision == TrialScheduler.STOP

    def stop(self, suggested):
        self.searcher.on_trial_complete(suggested.handle.trial_id, {})
        self.scheduler.on_trial_remove(None, suggested.handle)


class RayBackend:
    """Conditional parameters need a function as space: tested below."""

    offers = frozenset({"prior_studies", "belief", "cost", "constraints", "objectives", "own_points", "stopping"})
    process_code = ""

    def __init__(self, model):
        self.model = model

    def start(self, problem, seed, **options):
        return RaySession(problem, self.model, seed, **options)


@pytest.mark.parametrize("check", testing.ESSENTIAL, ids=lambda check: check.__name__)
def test_conformance(check, model, reader):
    check(RayBackend(reader if check is testing.check_stopping else model))


def test_the_table_of_the_document_says_what_is_missing(lacking):
    assert lacking("Ray Tune") == set(testing.FEATURES) - RayBackend.offers - {"conditional"}


# Points of one's own.

SPACE = {
    "lr": tune.loguniform(1e-5, 1e-1),
    "net": {"width": tune.qrandint(8, 64, 8), "act": tune.choice([relu, None])},
}


@objects_as_choices
def test_points_come_first_and_as_they_are(model):
    points = [
        {"lr": 0.012345678901234567, "net": {"width": 16, "act": None}},
        {"lr": 1e-5, "net/width": 8, "net/act": relu},
        {"net": {"width": 64}},
    ]
    search = searcher(model, SPACE, points_to_evaluate=points)
    first, second, third, fourth = (search.suggest(str(number)) for number in range(4))
    assert first == points[0]
    assert second == {"lr": 1e-5, "net": {"width": 8, "act": relu}}
    assert third["net"]["width"] == 64
    assert len({config["lr"] for config in (first, second, third, fourth)}) == 4


def test_points_with_rewards_are_not_run(model):
    points = [{"x": 0.25}, {"x": 0.5}]
    search = OptFormerSearcher(points_to_evaluate=points, evaluated_rewards=[3.0, 4.0], seed=0, model=model)
    assert search.set_search_properties("loss", "min", {"x": tune.uniform(0, 1)})
    assert search.suggest("1")["x"] not in (0.25, 0.5)
    first, second, third = trials(search)
    assert (first.values, second.values, third.state) == ([3.0], [4.0], TrialState.RUNNING)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"x": 0.5, "y": 1}, "the search space has no parameter 'y'; it has x, n, c"),
        ({"x": 2.0}, r"parameter 'x': 2.0 is outside \[0.0, 1.0\]"),
        ({"n": 8}, r"parameter 'n': 8 is no integer in \[1, 7\]"),
        ({"x": math.nan}, "parameter 'x': nan is not a finite number"),
        ({"x": "0.5"}, "parameter 'x': '0.5' is not a finite number"),
        ({"c": 32}, r"parameter 'c': 32 is none of \[16, 64\]"),
    ],
)
def test_points_outside_the_space_are_refused_by_name(point, message, model):
    space = {"x": tune.uniform(0.0, 1.0), "n": tune.randint(1, 8), "c": tune.choice([64, 16])}
    with pytest.raises(ValueError, match=rf"points_to_evaluate\[1\]: {message}"):
        searcher(model, space, points_to_evaluate=[{"x": 0.1, "n": 1}, point])


# What came of trials.


def test_states_of_trials(model):
    search = searcher(model)
    for number in range(7):
        search.suggest(str(number))
    search.on_trial_result("0", {"loss": 9.0, "training_iteration": 1})
    search.on_trial_complete("0", {"loss": 2.0})
    search.on_trial_complete("1", error=True)
    search.on_trial_complete("2", {"loss": math.inf})
    search.on_trial_complete("3", {"loss": math.nan})
    search.on_trial_complete("4", {"accuracy": 1.0})
    search.on_trial_complete("5")
    states = [trial.state.name for trial in trials(search)]
    assert states == ["COMPLETE", "FAIL", "FAIL", "FAIL", "PRUNED", "PRUNED", "RUNNING"]
    assert (trials(search)[0].values, trials(search)[0].intermediate_values) == ([2.0], {1: 9.0})
    search.on_trial_result("unheard of", {"loss": 1.0, "training_iteration": 1})
    search.on_trial_complete("unheard of", {"loss": 1.0})
    assert len(trials(search)) == 7


def train(search, number, final, steps, *, cut_off):
    """As Tune tells of a trial: of the last result as of all others, or only at the end if it is why it ends."""
    search.suggest(str(number))
    results = [{"loss": final + math.exp(-step), "training_iteration": step} for step in range(1, steps + 1)]
    for result in results[: -1 if cut_off else None]:
        search.on_trial_result(str(number), result)
    search.on_trial_complete(str(number), results[-1])


@pytest.mark.parametrize("mode", ["min", "max"])
def test_stopped_trials_count_with_what_they_would_have_come_to(mode, model, asked):
    search = searcher(model, mode=mode)
    ends = [(0.5, 8), (0.2, 8), (0.8, 1), (0.7, 2), (0.4, 8), (0.9, 1)]
    for number, (final, steps) in enumerate(ends):
        train(search, number, final, steps, cut_off=True)
    search.suggest("next")
    told = [trial.final_measurement.metrics["objective"].value for trial in asked[-1]]
    # The last result of those that came farthest, and what it would have been of the others.
    assert told == pytest.approx([final + math.exp(-8) for final, _ in ends])


def test_trials_that_end_by_themselves_keep_their_results(model, asked):
    search = OptFormerSearcher(seed=0, model=model)
    space = {"x": tune.uniform(0, 1)}
    assert search.set_search_properties("loss", "min", space, stop={"training_iteration": 8, "bonus": 3}, num_samples=9)
    train(search, 0, 0.5, 8, cut_off=True)  # the experiment's `stop`
    train(search, 1, 0.2, 3, cut_off=False)
    search.suggest("2")
    search.on_trial_complete("2", {"loss": 0.7, "training_iteration": 1, "bonus": 3})
    train(search, 3, 0.9, 2, cut_off=True)
    search.suggest("next")
    assert [trial.state.name for trial in trials(search)[:4]] == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"]
    told = [trial.final_measurement.metrics["objective"].value for trial in asked[-1]]
    assert told[:3] == pytest.approx([0.5 + math.exp(-8), 0.2 + math.exp(-3), 0.7])
    assert trials(search)[3].intermediate_values.keys() == {1, 2}


@objects_as_choices
def test_evaluated_points(model):
    search = searcher(model, SPACE | {"q": tune.quniform(0.0, 0.9, 0.3)})
    point = {"lr": 1e-3, "net": {"width": 8, "act": None}, "q": 0.9, "elsewhere": 1}
    search.add_evaluated_point(point, 2.0, intermediate_values=[4.0, 3.0])
    search.add_evaluated_point(point, None, error=True)
    search.add_evaluated_point(point, 5.0, pruned=True)
    assert [trial.state.name for trial in trials(search)] == ["COMPLETE", "FAIL", "PRUNED"]
    params = trials(search)[0].params
    assert params.pop("q") == pytest.approx(0.9)  # three steps of .3 as floats
    assert params == {"lr": 1e-3, "net/width": 8, "net/act": None}
    assert trials(search)[0].intermediate_values == {0: 4.0, 1: 3.0}
    with pytest.raises(ValueError, match="evaluated point: parameter 'net/width': 9 is none of"):
        search.add_evaluated_point(point | {"net": {"width": 9, "act": None}}, 1.0)
    with pytest.raises(ValueError, match="Inconsistent parameters"):
        search.add_evaluated_point({"lr": 1e-3}, 1.0)


@pytest.mark.parametrize("trial_id", ["1", "2"], ids=["resume_errored", "restart_errored"])
@objects_as_choices
def test_a_failed_trial_that_runs_again_is_known_by_its_config(trial_id, model):
    search = searcher(model, SPACE)
    search.suggest("1")
    search.on_trial_complete("1", error=True)
    search.on_trial_result(trial_id, {"loss": 2.0, "training_iteration": 1})
    result = {"loss": 0.5, "config/lr": 1e-3, "config/net/width": 8, "config/net/act": relu, "config/device": "cpu"}
    search.on_trial_complete(trial_id, result)
    failed, again = trials(search)
    assert (failed.state, again.state, again.values) == (TrialState.FAIL, TrialState.COMPLETE, [0.5])
    assert again.params == {"lr": 1e-3, "net/width": 8, "net/act": relu}


def test_a_nested_metric_and_several_objectives(model):
    search = searcher(model, metric="eval/loss")
    search.suggest("1")
    search.on_trial_complete("1", {"eval": {"loss": 0.5}})
    assert trials(search)[0].values == [0.5]
    search = searcher(model, metric=["loss", "speed"], mode=["min", "max"])
    for number in range(5):
        config = search.suggest(str(number))
        search.on_trial_result(str(number), {"loss": 1.0, "speed": 1.0})
        search.on_trial_complete(str(number), {"loss": config["x"], "speed": config["x"]} if number else {"loss": 1.0})
    assert [trial.state.name for trial in trials(search)] == ["PRUNED"] + ["COMPLETE"] * 4


def test_minimizing_and_maximizing_are_mirror_images(model):
    def loss(config):
        return (config["x"] - 0.3) ** 2

    low = run(searcher(model), 8, loss)
    high = run(searcher(model, mode="max"), 8, lambda config: -loss(config))
    assert low == high
    assert low != run(searcher(model, mode="max"), 8, loss)


@objects_as_choices
def test_constraints_hold_from_the_first_trial_on(model):
    space = {"a": {"x": tune.uniform(0, 1)}, "n": tune.quniform(0.0, 1.0, 1e-4), "act": tune.choice([relu, None])}
    constraints = [LinearConstraint({"a/x": 1.0, "n": 1.0}, upper=0.5), lambda values: values["act"] is relu]
    for config in run(searcher(model, space, constraints=constraints), 8):
        assert config["a"]["x"] + config["n"] <= 0.5
        assert config["act"] is relu


def test_the_limiter_gets_none_beyond_its_limit(model):
    limited = ConcurrencyLimiter(searcher(model), max_concurrent=2)
    first, second, third = (limited.suggest(str(number)) for number in range(3))
    assert first["x"] != second["x"]
    assert third is None
    limited.on_trial_complete("0", {"loss": 1.0})
    assert limited.suggest("3") is not None


# State.


@objects_as_choices
def test_a_restored_searcher_goes_on_as_if_it_had_never_stopped(model, tmp_path):
    def fresh(seed=0):
        points = [{"lr": 1e-3, "net": {"width": 8, "act": None}}] * 4
        return OptFormerSearcher(points_to_evaluate=points, seed=seed, model=model)

    old, new = fresh(), fresh(seed=77)
    assert old.set_search_properties("loss", "min", SPACE)
    run(old, 3, lambda config: config["lr"])
    old.suggest("t3")
    old.save_to_dir(str(tmp_path), "session")
    new.restore_from_dir(str(tmp_path))
    assert new.suggest("t3") == old.suggest("t3")
    for search in (old, new):
        search.on_trial_complete("t3", {"loss": 1.0})
    assert run(new, 6, lambda config: config["lr"], first=4) == run(old, 6, lambda config: config["lr"], first=4)


@objects_as_choices
def test_a_named_model_travels_by_name_and_lambdas_travel(checkpoint, tmp_path):
    space = {"x": tune.uniform(0, 1), "act": tune.choice([lambda x: x, None])}
    search = OptFormerSearcher(space, "loss", "min", seed=0, model=checkpoint)
    run(search, 2)
    search.save(str(tmp_path / "state"))
    assert (tmp_path / "state").stat().st_size < 20_000
    assert len(cloudpickle.dumps(search)) < 20_000
    restored = OptFormerSearcher(model=checkpoint)
    restored.restore(str(tmp_path / "state"))
    assert restored.suggest("next")["x"] == search.suggest("next")["x"]


def test_earlier_studies_are_told_in_the_terms_of_the_space_and_saved(model, told_earlier, tmp_path):
    earlier = testing.earlier_study(testing.mixed_problem(), count=8)
    space = {"batch_size": tune.choice([128, 64, 16]), "layers": tune.choice([2, 4, 6])}
    search = searcher(model, space, prior_studies=[earlier])
    run(search, 2)
    search.save(str(tmp_path / "state"))
    restored = OptFormerSearcher(model=model)
    restored.restore(str(tmp_path / "state"))
    restored.suggest("next")
    (told,) = told_earlier()
    assert {type(trial.parameters["batch_size"].value) for trial in told.trials} <= {int, float}
    assert len(told.trials) == 8
    assert {"batch_size", "layers"} >= set(told.trials[0].parameters)
    with pytest.raises(TypeError, match=r"prior_studies\[0\] is of type str; wanted: Optuna studies"):
        searcher(model, space, prior_studies=["~/ray_results/run"])


def test_the_example_of_the_documentation(monkeypatch, tmp_path):
    # A tuner writes as soon as it is made, to the home folder where nothing else is said.
    monkeypatch.setattr("ray.train.constants.DEFAULT_STORAGE_PATH", str(tmp_path))
    text = (Path(__file__).parents[2] / "docs" / "ray-and-syne-tune.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    assert "results = tuner.fit()" in example
    names = {}
    exec(example.replace("tuner.fit()", "None"), names)
    search, space = names["searcher"], names["tuner"]._local_tuner.param_space
    assert search.set_search_properties("loss", "min", space)
    assert search.suggest("1") == {"lr": 1e-3, "net": {"layers": 2, "activation": "relu"}}
    assert search.suggest("2")["net"]["activation"] in ("relu", "gelu")


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"acquisition": "best"}, ValueError, "unknown acquisition"),
        ({"seed": -1}, ValueError, "seed must not be negative, got -1"),
        ({"model": "no-such-model"}, ValueError, "no checkpoint 'no-such-model'"),
        ({"mode": "minimize"}, AssertionError, "must be 'min' or 'max'"),
        ({"mode": ["min"]}, AssertionError, "metric and mode must be of the same type"),
        (
            {"points_to_evaluate": [{"x": 0.5}], "evaluated_rewards": [1.0, 2.0]},
            ValueError,
            "2 evaluated_rewards for 1 points",
        ),
    ],
)
def test_mistakes(arguments, error, message, model):
    with pytest.raises(error, match=message):
        searcher(**({"model": model} | arguments))


def test_what_is_missing_is_said(model):
    with pytest.raises(RuntimeError, match="from OptFormerSearcher, but no search space"):
        OptFormerSearcher(metric="loss", mode="min", model=model).suggest("1")
    with pytest.raises(RuntimeError, match="metric"):
        OptFormerSearcher({"x": tune.uniform(0, 1)}, model=model).suggest("1")


# A real run.


@pytest.fixture
def small_cluster(monkeypatch):
    """Ray on this machine alone, with as little of it as it starts with."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token to the home folder
    monkeypatch.setenv("RAY_DISABLE_MEMORY_MONITOR", "1")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the new default, without the warning about it
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


# Ray forks to start its processes, jax warns of any fork, and these start another program at once.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_a_tuner_runs_trials_at_the_same_time_and_is_restored(model, small_cluster, tmp_path):
    marker = tmp_path / "mended"

    def train(config):
        if config["net"]["act"] == "broken" and not marker.exists():
            raise RuntimeError("as it must")
        for _ in range(2):
            tune.report({"loss": config["lr"] + config["net"]["width"]})

    space = {
        "lr": tune.loguniform(1e-4, 1e-1),
        "net": {"width": tune.randint(1, 9), "act": tune.choice(["relu", "broken"])},
        "device": "cpu",
    }
    points = [{"lr": 1e-2, "net": {"width": 2, "act": act}} for act in ("broken", "relu")]
    trainable = tune.with_resources(train, {"cpu": 1})
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=5,
            search_alg=OptFormerSearcher(points_to_evaluate=points, seed=0, model=model),
            reuse_actors=True,
            time_budget_s=120,
        ),
        run_config=tune.RunConfig(name="run", storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    configs = [result.config for result in results]
    assert [{"device": "cpu"} | point for point in points] == configs[:2]
    testing.assert_distinct([config["net"] | {"lr": config["lr"]} for config in configs])
    search = OptFormerSearcher(model=model)
    search.restore_from_dir(str(tmp_path / "run"))
    states = [trial.state.name for trial in trials(search)]
    assert states == ["FAIL" if config["net"]["act"] == "broken" else "COMPLETE" for config in configs]
    assert trials(search)[1].values == [2.01]

    marker.touch()
    results = tune.Tuner.restore(str(tmp_path / "run"), trainable, param_space=space, restart_errored=True).fit()
    assert results.num_errors == 0
    search.restore_from_dir(str(tmp_path / "run"))
    assert len(trials(search)) == 5 + states.count("FAIL")
    assert all(trial.state == TrialState.COMPLETE for trial in trials(search)[5:])


@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_a_scheduler_of_ray_stops_trials_that_count_nevertheless(model, small_cluster, tmp_path):
    def train(config):
        for step in range(1, 10):
            tune.report({"loss": config["x"] + 1 / step})

    points = [{"x": x} for x in (0.1, 0.9, 0.5, 0.05)]
    results = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=4,
            max_concurrent_trials=1,
            search_alg=OptFormerSearcher(points_to_evaluate=points, seed=0, model=model),
            scheduler=tune.schedulers.ASHAScheduler(max_t=9, grace_period=3, reduction_factor=3),
        ),
        run_config=tune.RunConfig(name="run", storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert [result.metrics["training_iteration"] for result in results] == [9, 3, 3, 9]
    search = OptFormerSearcher(model=model)
    search.restore_from_dir(str(tmp_path / "run"))
    reports = [trial.intermediate_values for trial in trials(search)]
    assert [max(each) for each in reports] == [9, 3, 3, 9]
    told = with_final_values(*optuna_spaces.problem_and_trials(search._ot_study))
    finals = [value for trial in told for value in trial.final_measurement.metrics.as_float_dict().values()]
    assert finals == pytest.approx([x + 1 / 9 for x in (0.1, 0.9, 0.5, 0.05)])


def test_without_ray_it_says_what_to_install(monkeypatch):
    found = builtins.__import__

    def missing(name, *arguments, **keywords):
        if name.startswith("ray"):
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return found(name, *arguments, **keywords)

    monkeypatch.delitem(sys.modules, "optformer.serve.ray_tune")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'optformer\[ray\]'"):
        importlib.import_module("optformer.serve.ray_tune")
