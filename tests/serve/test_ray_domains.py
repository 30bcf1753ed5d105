"""Domains of Ray Tune: their values, and those that cannot be searched."""

import math

import pytest
from ray import tune
from ray_searches import objects_as_choices, relu, run, searcher, trials

from optformer.serialization.branches import Branch
from optformer.serve.ray_tune import OptFormerSearcher

pytestmark = pytest.mark.integration


class Thing:
    """A class to choose."""


OBJECTS = [Thing, relu, (64, 64), [32], {"a": 1}, None]


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
    "choice of objects": (tune.choice(OBJECTS), lambda v: v in OBJECTS),
    "choice of one": (tune.choice(["only"]), lambda v: v == "only"),
}


@objects_as_choices
def test_values_are_exactly_those_of_the_domains(model):
    for config in run(searcher(model, {name: domain for name, (domain, _) in DOMAINS.items()}), 8, lambda config: 1.0):
        for name, (_, holds) in DOMAINS.items():
            assert holds(config[name]), (name, config[name])


def test_the_model_sees_numbers_in_order_and_steps_one_by_one(model):
    space = {"batch": tune.choice([64, 16, 32]), "act": tune.choice(["a", 1]), "n": tune.qrandint(2, 11, 3)}
    search = searcher(model, space)
    batch, act, n = search._sampler._domains(search._space).values()
    assert (batch.values, n.values) == ((16, 32, 64), (3, 6, 9))
    assert act.labels == ["a", "1"]


def test_both_ends_of_a_domain_are_reached(model):
    space = {"n": tune.randint(0, 3), "q": tune.quniform(0.0, 0.3, 0.1), "c": tune.choice([False, None])}
    configs = run(searcher(model, space), 24)
    assert len({tuple(config.values()) for config in configs}) == 24
    assert {config["q"] for config in configs} == {0.0, 0.1, 0.2, 0.3}


def test_nested_spaces_keep_their_shape(model):
    space = {"net": {"width": tune.randint(1, 9), "act": {"kind": tune.choice(["a", "b"])}}, "c": 1}
    search = OptFormerSearcher(seed=0, model=model)
    assert search.set_search_properties("loss", "min", space)
    config = search.suggest("1")
    assert config["net"]["act"]["kind"] in ("a", "b")
    assert config["net"]["width"] in range(1, 9)
    assert search.suggest("1") == config
    # Constants of a `param_space` are known to Tune, those of a space of the searcher's own are not.
    assert "c" not in config
    config = searcher(model, {"net": {"width": tune.randint(1, 9), "act": "relu"}, "c": 1}).suggest("1")
    assert (config.keys(), config["net"].keys(), config["c"]) == ({"net", "c"}, {"width", "act"}, 1)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (tune.grid_search([1, 2]), "Grid search"),
        (tune.sample_from(lambda config: 1), "does not support parameters of type `Function`"),
        ({"eval": "spec.config.x"}, "does not support parameters of type `Function`"),
        (tune.randn(0, 1), "_Normal"),
        (tune.qrandn(0, 1, 0.1), "does not support"),
        (tune.choice([{"a": tune.uniform(0, 1)}, 1]), "a choice contains a search space"),
        (tune.choice([]), "one or more elements"),
        (tune.uniform(1.0, 0.0), "low <= high"),
        (tune.randint(3, 3), "low <= high"),
        (tune.qrandint(4, 5, 3), r"no multiple of 3 lies in \[4, 5\]"),
        (tune.quniform(0, 1, -0.5), "the step must be positive"),
    ],
)
def test_domains_that_cannot_be_searched_are_refused_by_name(domain, message, model):
    with pytest.raises(ValueError, match=f"parameter 'a/p': .*{message}"):
        searcher(model, {"a": {"p": domain}, "x": tune.uniform(0, 1)})


def test_a_space_of_constants_is_refused(model):
    with pytest.raises(ValueError, match="the search space has only constants"):
        searcher(model, {"x": 3, "y": {"z": "a"}})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"a/b": tune.uniform(0, 1), "a": {"b": tune.uniform(0, 1)}}, "'a/b': two parameters have this name"),
        ({"layers": [tune.uniform(0, 1)]}, "'layers/0': domains in lists"),
    ],
)
def test_places_that_optuna_has_no_name_for_are_refused(space, message, model):
    with pytest.raises(ValueError, match=message):
        searcher(model, space)


@pytest.mark.filterwarnings("ignore:Define-by-run function")  # took long, on a busy machine
def test_a_function_asks_for_parameters_that_depend_on_others(model):
    def space(trial):
        if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd":
            trial.suggest_float("momentum", 0.5, 0.99)

    points = [{"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "adam"}]
    search = searcher(model, space, points_to_evaluate=points)
    configs = run(search, 8)
    assert configs[:2] == points
    assert all(("momentum" in config) == (config["optimizer"] == "sgd") for config in configs)
    assert search._sampler._known_space(trials(search)).branches == {"momentum": Branch("optimizer", ("sgd",))}
