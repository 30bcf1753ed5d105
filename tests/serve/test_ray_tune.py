"""The Ray Tune searcher: the shared conformance suite, every domain, points, trial states, saved state, a real run."""

import builtins
import copy
import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import cloudpickle, tune
from ray.tune.search import ConcurrencyLimiter
from vizier import pyvizier as vz

from optformer import LinearConstraint
from optformer.serve import testing
from optformer.serve.ray_tune import OptFormerSearcher


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
    def __init__(self, problem, model, seed):
        goal = problem.metric_information.item().goal
        space = ray_space(problem.search_space)
        mode = "max" if goal.is_maximize else "min"
        self.searcher = OptFormerSearcher(space, "objective", mode, seed=seed, model=model)
        self.count = 0

    def suggest(self, count):
        suggestions = []
        for _ in range(count):
            self.count += 1
            suggestions.append(testing.Suggested(str(self.count), self.searcher.suggest(str(self.count))))
        return suggestions

    def complete(self, suggested, value):
        if value is None:
            self.searcher.on_trial_complete(suggested.handle, error=True)
        else:
            self.searcher.on_trial_complete(suggested.handle, {"objective": value})


class RayBackend:
    conditional = False

    def __init__(self, model, process_code=""):
        self.model, self.process_code = model, process_code

    def start(self, problem, seed):
        return RaySession(problem, self.model, seed)


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, model, model_code):
    here = f"import sys; sys.path.insert(0, {__file__.rsplit('/', 1)[0]!r})\n"
    code = f"{model_code}\n{here}from test_ray_tune import RayBackend\nbackend = RayBackend(model)\n"
    check(RayBackend(model, code))


def searcher(model, space=None, mode="min", **arguments):
    arguments = {"metric": "loss", "mode": mode, "seed": 0, "model": model} | arguments
    return OptFormerSearcher({"x": tune.uniform(0.0, 1.0)} if space is None else space, **arguments)


def run(search, count, loss=lambda config: 1.0, first=0):
    """A few trials one after the other."""
    configs = []
    for number in range(first, first + count):
        configs.append(search.suggest(f"t{number}"))
        search.on_trial_complete(f"t{number}", {"loss": loss(configs[-1])})
    return configs


# Domains.


class Thing:
    """No value semantics, and an address in its representation."""


def relu(x):
    return max(x, 0)


OBJECTS = [Thing(), Thing(), relu, (64, 64), [32], {"a": 1}, None, np.zeros(2)]


def multiple(value, step):
    return math.isclose(value / step, round(value / step), abs_tol=1e-9)


DOMAINS = {
    "uniform": (tune.uniform(-1.5, 2.0), lambda v: type(v) is float and -1.5 <= v <= 2.0),
    "loguniform": (tune.loguniform(1e-7, 10), lambda v: type(v) is float and 1e-7 <= v <= 10.0),
    "quniform": (tune.quniform(0.1, 0.9, 0.2 / 2), lambda v: type(v) is float and 0.1 <= v <= 0.9 and multiple(v, 0.1)),
    "quniform of many": (tune.quniform(0, 1, 1e-4), lambda v: 0 <= v <= 1 and multiple(v, 1e-4)),
    "qloguniform": (tune.qloguniform(0.5, 64, 0.5), lambda v: type(v) is float and 0.5 <= v <= 64 and multiple(v, 0.5)),
    "randint": (tune.randint(3, 5), lambda v: type(v) is int and v in (3, 4)),
    "randint of many": (tune.randint(-(2**60), 2**60), lambda v: type(v) is int and -(2**60) <= v < 2**60),
    "lograndint": (tune.lograndint(1, 4097), lambda v: type(v) is int and 1 <= v <= 4096),
    "qrandint": (tune.qrandint(2, 11, 3), lambda v: type(v) is int and v in (3, 6, 9)),
    "qrandint of one": (tune.qrandint(0, 3), lambda v: type(v) is int and v in (0, 1, 2)),
    "qrandint of many": (tune.qrandint(0, 99_995, 7), lambda v: type(v) is int and 0 <= v <= 99_995 and v % 7 == 0),
    "qlograndint": (tune.qlograndint(8, 64, 8), lambda v: type(v) is int and v in range(8, 65, 8)),
    "choice of strings": (tune.choice(["adam", "sgd", ""]), lambda v: v in ("adam", "sgd", "")),
    "choice of bools": (tune.choice([True, False]), lambda v: type(v) is bool),
    "choice of numbers": (tune.choice([128, 16, 0.5]), lambda v: (type(v), v) in ((int, 128), (int, 16), (float, 0.5))),
    "choice of lookalikes": (tune.choice([1, "1", True, None, "None"]), lambda v: True),
    "choice of objects": (tune.choice(OBJECTS), lambda v: any(v is each for each in OBJECTS)),
    "choice of one": (tune.choice(["only"]), lambda v: v == "only"),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_values_are_exactly_those_of_the_domain(name, model):
    domain, holds = DOMAINS[name]
    search = searcher(model, {"p": domain, "other": tune.uniform(0, 1)})
    for config in run(search, 12, lambda config: config["other"]):
        assert holds(config["p"]), config["p"]
        # The round trip through what the model sees.
        converted = search._domains["p"]
        back = converted.from_model(json.loads(json.dumps(converted.to_model(converted.own(config["p"])))))
        assert back is config["p"] or (type(back) is type(config["p"]) and back == config["p"])


def test_both_ends_of_a_domain_are_reached(model):
    space = {"n": tune.randint(0, 3), "q": tune.quniform(0.0, 0.3, 0.1), "c": tune.choice([False, None])}
    configs = run(searcher(model, space), 24)
    assert len({tuple(config.values()) for config in configs}) == 24
    assert {config["q"] for config in configs} == {0.0, 0.1, 0.2, 0.3}


def test_nested_spaces_keep_their_shape_and_constants(model):
    space = {"net": {"width": tune.randint(1, 9), "act": "relu"}, "layers": [tune.choice(["a", "b"]), {"k": 3}], "c": 1}
    config = searcher(model, space).suggest("1")
    assert list(config) == ["net", "layers", "c"]
    assert config["net"]["act"] == "relu"
    assert config["layers"][0] in ("a", "b")
    assert (config["layers"][1], config["c"]) == ({"k": 3}, 1)
    # The constants of a `param_space` are known to Tune.
    later = OptFormerSearcher(seed=0, model=model)
    assert later.set_search_properties("loss", "min", space | {"pair": (tune.randint(0, 2), "x")})
    config = later.suggest("1")
    assert list(config) == ["net", "layers", "pair"]
    assert list(config["net"]) == ["width"]
    assert config["layers"][1] == {"k": 3}
    assert type(config["pair"]) is tuple
    assert config["pair"][1] == "x"


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (tune.grid_search([1, 2]), "grid search"),
        (tune.sample_from(lambda config: 1), "values of a function have no range"),
        ({"eval": "spec.config.x"}, "values of a function have no range"),
        (tune.randn(0, 1), "a normal distribution has no bounds"),
        (tune.qrandn(0, 1, 0.1), "a normal distribution has no bounds"),
        (tune.choice([{"a": tune.uniform(0, 1)}, 1]), "holds a search space of its own"),
        (tune.choice([]), "nothing to choose from"),
        (tune.choice([f"c{k}" for k in range(1001)]), "1001 choices; the model can tell 1000 apart"),
        (tune.uniform(1.0, 0.0), r"\[1.0, 0.0\] is no range"),
        (tune.randint(3, 3), r"no integer lies in \[3, 2\]"),
        (tune.qrandint(4, 5, 3), r"no multiple of 3 lies in \[4, 5\]"),
        (tune.quniform(0, 1, -0.5), "a step is positive"),
    ],
)
def test_domains_that_cannot_be_searched_are_refused_by_name(domain, message, model):
    with pytest.raises(ValueError, match=f"parameter 'a/p': .*{message}"):
        searcher(model, {"a": {"p": domain}, "x": tune.uniform(0, 1)})


def test_two_places_of_one_name_are_refused(model):
    with pytest.raises(ValueError, match="parameter 'a/b': two places"):
        searcher(model, {"a/b": tune.uniform(0, 1), "a": {"b": tune.uniform(0, 1)}})


# Points of one's own.

SPACE = {
    "lr": tune.loguniform(1e-5, 1e-1),
    "net": {"width": tune.qrandint(8, 64, 8), "act": tune.choice(OBJECTS)},
    "device": "cpu",
}


def test_points_come_first_and_as_they_are(model):
    points = [
        {"lr": 0.012345678901234567, "net": {"width": 16, "act": OBJECTS[1]}},
        {"lr": 1e-5, "net/width": 8, "net/act": relu, "device": "cpu"},
    ]
    search = searcher(model, SPACE, points_to_evaluate=points)
    first, second, third = (search.suggest(str(number)) for number in range(3))
    assert first == {"lr": 0.012345678901234567, "net": {"width": 16, "act": OBJECTS[1]}, "device": "cpu"}
    assert second == {"lr": 1e-5, "net": {"width": 8, "act": relu}, "device": "cpu"}
    assert third["lr"] not in (first["lr"], second["lr"])


def test_points_with_rewards_are_not_run(model):
    points = [{"x": 0.25}, {"x": 0.5}]
    search = OptFormerSearcher(points_to_evaluate=points, evaluated_rewards=[3.0, math.nan], seed=0, model=model)
    assert search.set_search_properties("loss", "min", {"x": tune.uniform(0, 1)})
    assert search.suggest("1")["x"] not in (0.25, 0.5)
    first, second, third = search._study.pyvizier()
    assert first.final_measurement.metrics["loss"].value == 3.0
    assert second.infeasible
    assert third.status == vz.TrialStatus.ACTIVE


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"x": 0.5}, "parameter 'n' is missing"),
        ({"x": 0.5, "n": 3, "y": 1}, "the search space has no parameter 'y'; it has x, n"),
        ({"x": 2.0, "n": 3}, r"parameter 'x': 2.0 is outside \[0.0, 1.0\]"),
        ({"x": 0.5, "n": 8}, r"parameter 'n': 8 is no integer in \[1, 7\]"),
        ({"x": math.nan, "n": 3}, "parameter 'x': nan is no finite number"),
        ({"x": "0.5", "n": 3}, "parameter 'x': '0.5' is no finite number"),
    ],
)
def test_points_outside_the_space_are_refused_by_name(point, message, model):
    space = {"x": tune.uniform(0.0, 1.0), "n": tune.randint(1, 8)}
    with pytest.raises(ValueError, match=rf"points_to_evaluate\[1\]: {message}"):
        searcher(model, space, points_to_evaluate=[{"x": 0.1, "n": 1}, point])


def test_choices_and_steps_say_what_they_hold(model):
    space = {"c": tune.choice(["a", "b"]), "q": tune.quniform(0.0, 1.0, 0.25), "k": tune.choice([16, 64])}
    good = {"c": "a", "q": 0.5, "k": 64}
    search = searcher(model, space)
    for name, value, message in (
        ("c", "z", r"'z' is none of \['a', 'b'\]"),
        ("q", 0.3, r"0.3 is no multiple of 0.25 in \[0.0, 1.0\]"),
        ("k", 32, r"32 is none of \[16, 64\]"),
    ):
        with pytest.raises(ValueError, match=f"evaluated point 0: parameter '{name}': {message}"):
            search.add_evaluated_point(good | {name: value}, 1.0)


# What came of trials.


def test_states_are_told_as_what_they_are(model):
    search = searcher(model)
    for number in range(6):
        search.suggest(str(number))
    search.on_trial_result("0", {"loss": 9.0, "training_iteration": 1})
    search.on_trial_result("0", {"training_iteration": 2})
    search.on_trial_complete("0", {"loss": 2.0})
    search.on_trial_complete("1", error=True)
    search.on_trial_complete("2", {"loss": math.inf})
    search.on_trial_complete("3", {"accuracy": 1.0})
    search.on_trial_complete("4")
    complete, failed, infinite, other, none, running = search._study.pyvizier()
    assert complete.final_measurement.metrics["loss"].value == 2.0
    assert [(m.steps, m.metrics["loss"].value) for m in complete.measurements] == [(1, 9.0)]
    assert failed.infeasible
    assert infinite.infeasible
    for stopped in (other, none):
        assert stopped.status == vz.TrialStatus.COMPLETED
        assert not stopped.infeasible
        assert not stopped.final_measurement.metrics
    assert running.status == vz.TrialStatus.ACTIVE
    assert search.suggest("5") == search.suggest("5")
    search.on_trial_complete("unheard of", {"loss": 1.0})
    search.on_trial_complete("unheard of", error=True)
    search.on_trial_complete("1", {"loss": 1.0})  # Tune had run it again
    assert not search._study.pyvizier()[1].infeasible
    assert len(search._study.trials) == 6


def test_a_trial_that_runs_again_under_another_id_is_known_by_its_config(model):
    search = searcher(model, SPACE)
    search.suggest("1")
    search.on_trial_complete("1", error=True)
    result = {"loss": 0.5, "config/lr": 1e-3, "config/net/width": 8, "config/net/act": relu, "config/device": "cpu"}
    search.on_trial_complete("2", result)
    assert search._study.trials[1].trial_id == "2"
    assert search._study.own(search._study.trials[1].parameters) == {"lr": 1e-3, "net/width": 8, "net/act": relu}
    assert search._study.trials[1].values == [0.5]


def test_a_nested_metric_and_several_objectives(model):
    search = searcher(model, metric="eval/loss")
    search.suggest("1")
    search.on_trial_complete("1", {"eval": {"loss": 0.5}})
    assert search._study.trials[0].values == [0.5]
    search = searcher(model, metric=["loss", "speed"], mode=["min", "max"])
    for number in range(5):
        config = search.suggest(str(number))
        search.on_trial_result(str(number), {"loss": 1.0, "speed": 1.0})
        search.on_trial_complete(str(number), {"loss": config["x"], "speed": config["x"]})
    search.add_evaluated_point({"x": 0.5}, [1.0, 2.0])
    assert [metric.goal.is_maximize for metric in search._study.problem.metric_information] == [False, True]
    with pytest.raises(ValueError, match=r"value 1\.0 does not give a number for each of loss, speed"):
        search.add_evaluated_point({"x": 0.5}, 1.0)


def test_evaluated_points(model):
    search = searcher(model)
    search.add_evaluated_point({"x": 0.25, "elsewhere": 1}, 2.0, intermediate_values=[4.0, math.nan, 3.0])
    search.add_evaluated_point({"x": 0.5}, None, error=True)
    search.add_evaluated_point({"x": 0.75}, 5.0, pruned=True, intermediate_values=[6.0])
    complete, failed, pruned = search._study.pyvizier()
    assert [(m.steps, m.metrics["loss"].value) for m in complete.measurements] == [(0, 4.0), (2, 3.0)]
    assert complete.final_measurement.metrics["loss"].value == 2.0
    assert failed.infeasible
    assert not pruned.infeasible
    assert not pruned.final_measurement.metrics
    with pytest.raises(ValueError, match="evaluated point 3: value None does not give a number for each of loss"):
        search.add_evaluated_point({"x": 0.5}, None)
    with pytest.raises(ValueError, match="evaluated point 3: parameter 'x' is missing"):
        search.add_evaluated_point({}, 1.0)
    assert search.suggest("1")["x"] not in (0.25, 0.5, 0.75)


def test_minimising_and_maximising_are_mirror_images(model):
    def loss(config):
        return (config["x"] - 0.3) ** 2

    low = run(searcher(model), 8, loss)
    high = run(searcher(model, mode="max"), 8, lambda config: -loss(config))
    assert low == high
    assert low != run(searcher(model, mode="max"), 8, loss)


def test_constraints_hold_on_the_values_of_the_user(model):
    space = {"a": {"x": tune.uniform(0, 1)}, "n": tune.quniform(0.0, 1.0, 1e-4), "act": tune.choice([relu, None])}
    constraints = [LinearConstraint({"a/x": 1.0, "n": 1.0}, upper=0.5), lambda values: values["act"] is relu]
    for config in run(searcher(model, space, constraints=constraints), 8):
        assert config["a"]["x"] + config["n"] <= 0.5
        assert config["act"] is relu


def test_the_limiter_gets_none_beyond_its_limit(model):
    limited = ConcurrencyLimiter(searcher(model, SPACE), max_concurrent=2)
    first, second, third = (limited.suggest(str(number)) for number in range(3))
    assert first["lr"] != second["lr"]
    assert third is None
    limited.on_trial_complete("0", {"loss": 1.0})
    assert limited.suggest("3") is not None
    limited.add_evaluated_point({"lr": 1e-3, "net": {"width": 8, "act": None}}, 1.0)
    assert len(limited.searcher._study.trials) == 4


# State.


def test_a_restored_searcher_goes_on_as_if_it_had_never_stopped(model, tmp_path):
    def fresh(seed=0):
        return searcher(
            model, SPACE, seed=seed, points_to_evaluate=[{"lr": 1e-3, "net": {"width": 8, "act": None}}] * 4
        )

    def loss(config):
        return config["lr"]

    old = fresh()
    run(old, 3, loss)
    old.suggest("t3")
    old.on_trial_result("t3", {"loss": 2.0, "training_iteration": 1})
    old.save(str(tmp_path / "state"))
    json.loads((tmp_path / "state").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    new = fresh(seed=77)
    new.restore(str(tmp_path / "state"))
    assert new.suggest("t3") == old.suggest("t3")
    assert new._study.trials == old._study.trials
    new.on_trial_complete("t3", {"loss": 1.0})
    old.on_trial_complete("t3", {"loss": 1.0})
    assert run(new, 6, loss, first=4) == run(old, 6, loss, first=4)


def test_tune_saves_to_a_folder_and_the_space_may_come_after_the_state(model, tmp_path):
    old = searcher(model)
    run(old, 5, lambda config: config["x"])
    ConcurrencyLimiter(old, 1).save(str(tmp_path / "by limiter"))
    old.save_to_dir(str(tmp_path), "session")
    new = OptFormerSearcher(model=model)
    new.restore_from_dir(str(tmp_path))
    new.save(str(tmp_path / "again"))
    assert (tmp_path / "again").read_text() == (tmp_path / "by limiter").read_text()
    assert new.set_search_properties("loss", "min", {"x": tune.uniform(0.0, 1.0)})
    assert new.suggest("next") == old.suggest("next")
    empty = OptFormerSearcher(model=model)
    empty.save(str(tmp_path / "empty"))
    empty.restore(str(tmp_path / "empty"))


PLAIN = {
    "x": tune.uniform(0.0, 1.0),
    "net": {"width": tune.qrandint(8, 64, 8), 3: tune.quniform(0.0, 1.0, 0.5)},
    "layers": [tune.choice([(64, [1]), {"a": {2: None}}, True]), {"k": (1, "2")}],
    "c": tune.choice([16, 64]),
    "device": "cpu",
}


@pytest.mark.parametrize("constants", [True, False])
def test_a_space_of_plain_values_is_restored_too(constants, model, tmp_path):
    old = searcher(model, PLAIN) if constants else OptFormerSearcher(seed=0, model=model)
    old.set_search_properties("loss", "min", PLAIN)
    run(old, 5, lambda config: config["x"])
    old.save(str(tmp_path / "state"))
    new, given = OptFormerSearcher(model=model), OptFormerSearcher(model=model)
    for search in (new, given):
        search.restore(str(tmp_path / "state"))
    assert (new.metric, new.mode) == ("loss", "min")
    with pytest.raises(ValueError, match=r"another study: parameter 'y' is .* here and missing there"):
        copy.copy(given).set_search_properties("loss", "min", PLAIN | {"y": tune.uniform(0, 1)})
    if not constants:
        assert given.set_search_properties("loss", "min", PLAIN)
        assert not given.set_search_properties("loss", "min", PLAIN)
    new.save(str(tmp_path / "again"))
    assert (tmp_path / "again").read_text() == (tmp_path / "state").read_text()
    expected = run(old, 4, lambda config: config["x"], first=5)
    assert run(new, 4, lambda config: config["x"], first=5) == expected
    assert run(given, 4, lambda config: config["x"], first=5) == expected
    assert ("device" in expected[0]) == constants
    assert expected[0]["layers"][1] == {"k": (1, "2")}


def test_a_space_of_objects_has_to_be_given_again(model, tmp_path):
    old = searcher(model, SPACE)
    run(old, 2)
    old.save(str(tmp_path / "state"))
    new = OptFormerSearcher(model=model)
    new.restore(str(tmp_path / "state"))
    with pytest.raises(RuntimeError, match="lacks the space, which holds objects: give `param_space` again"):
        new.suggest("next")
    assert new.set_search_properties("loss", "min", SPACE)
    assert new.suggest("next")["lr"] == old.suggest("next")["lr"]


def test_states_that_do_not_fit_are_refused(model, tmp_path):
    old = searcher(model)
    run(old, 2)
    state = tmp_path / "state"
    old.save(str(state))
    with pytest.raises(ValueError, match=r"parameter 'x' is .*2\.0.* here and .*1\.0.* there"):
        searcher(model, {"x": tune.uniform(0.0, 2.0)}).restore(str(state))
    with pytest.raises(ValueError, match="objective 'loss' is True here and False there"):
        searcher(model, mode="max").restore(str(state))
    kept = json.loads(state.read_text())
    for change, message in (
        ({"format": "other"}, "state: is no state of this searcher: 'other'"),
        ({"study": {}}, "does not fit: no record of trials"),
        ({"waiting": None}, "does not fit"),
        ({"study": kept["study"] | {"trials": [{"trial_id": "1", "parameters": {"x": 7.0}}]}}, "7.0 is outside"),
        ({"study": kept["study"] | {"trials": [kept["study"]["trials"][0] | {"state": "lost"}]}}, "is 'lost'"),
    ):
        state.write_text(json.dumps(kept | change))
        with pytest.raises(ValueError, match=message):
            searcher(model).restore(str(state))
    for space in (
        {},
        {"places": {"set": []}, "domains": {}, "choices": {"dict": []}},
        kept["space"] | {"domains": {"x": []}},
    ):
        state.write_text(json.dumps(kept | {"space": space}))
        with pytest.raises(ValueError, match="state: is no state of this searcher"):
            OptFormerSearcher(model=model).restore(str(state))
    for text in ("no json", "[]"):
        state.write_text(text)
        with pytest.raises(ValueError, match="state: is no state of this searcher"):
            searcher(model).restore(str(state))
    with pytest.raises(FileNotFoundError):
        searcher(model).restore(str(tmp_path / "none"))


def test_a_named_model_travels_by_name(checkpoint):
    search = OptFormerSearcher(SPACE | {"net": tune.choice([relu, None])}, "loss", "min", seed=0, model=checkpoint)
    run(search, 2)
    sent = cloudpickle.dumps(search)
    assert len(sent) < 20_000
    assert cloudpickle.loads(sent).suggest("next") == copy.deepcopy(search).suggest("next")


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
    ("arguments", "message"),
    [
        ({"acquisition": "best"}, "unknown acquisition"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"model": "no-such-model"}, "no checkpoint 'no-such-model'"),
        ({"mode": "minimize"}, "mode is 'min' or 'max', not 'minimize'"),
        ({"mode": ["min"]}, r"metric 'loss' and mode \['min'\]"),
        ({"points_to_evaluate": [{"x": 0.5}], "evaluated_rewards": [1.0, 2.0]}, "2 evaluated_rewards for 1 points"),
    ],
)
def test_mistakes(arguments, message, model):
    with pytest.raises(ValueError, match=message):
        searcher(**({"model": model} | arguments))


def test_what_is_missing_is_said_and_what_was_given_stays(model):
    with pytest.raises(
        RuntimeError, match="Trying to sample a configuration from OptFormerSearcher, but no search space"
    ):
        OptFormerSearcher(metric="loss", mode="min", model=model).suggest("1")
    search = OptFormerSearcher({"x": tune.uniform(0, 1)}, model=model)
    with pytest.raises(RuntimeError, match="metric"):
        search.suggest("1")
    assert not search.set_search_properties("loss", "max", {"y": tune.uniform(0, 1)})
    assert (search.metric, search.mode) == ("loss", "max")
    assert set(search.suggest("1")) == {"x"}
    unnamed = OptFormerSearcher({"x": tune.uniform(0, 1)}, mode="min", model=model)
    unnamed.suggest("1")
    assert unnamed.metric == "_metric"
    twofold = OptFormerSearcher({"x": tune.uniform(0, 1)}, ["loss", "speed"], model=model)
    twofold.set_search_properties(None, "min", {})
    with pytest.raises(ValueError, match=r"metric \['loss', 'speed'\] and mode 'min'"):
        twofold.suggest("1")
    assert OptFormerSearcher(model=model)._seed != OptFormerSearcher(model=model)._seed


# A real run.


@pytest.fixture
def small_cluster(tmp_path, monkeypatch):
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
    def train(config):
        if config["net"]["act"] == "broken":
            raise RuntimeError("as it must")
        for _ in range(2):
            tune.report({"loss": config["lr"] + config["net"]["width"]})

    space = {
        "lr": tune.loguniform(1e-4, 1e-1),
        "net": {"width": tune.randint(1, 9), "act": tune.choice(["relu", "broken"])},
        "device": "cpu",
    }
    points = [{"lr": 1e-2, "net": {"width": 2, "act": act}} for act in ("broken", "relu")]
    search = OptFormerSearcher(points_to_evaluate=points, seed=0, model=model)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=7,
            search_alg=search,
            max_concurrent_trials=2,
            reuse_actors=True,
            time_budget_s=120,
        ),
        run_config=tune.RunConfig(name="run", storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert len(results) == 7
    configs = [result.config for result in results]
    assert [{"device": "cpu"} | point for point in points] == configs[:2]
    testing.assert_distinct([config["net"] | {"lr": config["lr"]} for config in configs])
    states = [trial.state for trial in search._study.trials]
    assert states == ["failed" if config["net"]["act"] == "broken" else "complete" for config in configs]
    assert search._study.trials[1].values == [2.01]
    again = OptFormerSearcher(model=model)
    again.restore_from_dir(str(tmp_path / "run"))
    again.set_search_properties("loss", "min", space)
    assert again._ready().trials == search._study.trials
    assert again.suggest("next") == search.suggest("next")


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
