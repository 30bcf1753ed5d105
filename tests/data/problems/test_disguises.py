"""Disguises: another look, the same values; and how often there is one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.generation.orders import history
from optformer.data.problems import synonyms
from optformer.data.problems.disguises import Disguise, DisguisedExperimenter, Disguises, draw_disguise
from optformer.serialization.space import StudySchema

LEAVES = {"svm": ["svm.cost", "svm.kernel"], "tree": ["tree.depth", "tree.rate"], "forest": ["forest.trees"]}


class Learners(experimenters.Experimenter):
    """A conditional space with every type; its value tells the configuration that it was asked for."""

    def problem_statement(self):
        problem = vz.ProblemStatement()
        root = problem.search_space.root
        root.add_discrete_param("batch", [16, 32, 64, 128, 256])
        learner = root.add_categorical_param("learner", ["forest", "svm", "tree"])
        learner.select_values(["svm"]).add_float_param("svm.cost", 1e-3, 1e3, scale_type=vz.ScaleType.LOG)
        kernel = learner.select_values(["svm"]).add_categorical_param("svm.kernel", ["linear", "poly", "radial"])
        kernel.select_values(["poly", "radial"]).add_float_param("svm.gamma", 0.1, 10.0, scale_type=vz.ScaleType.LOG)
        learner.select_values(["tree"]).add_int_param("tree.depth", 1, 30)
        learner.select_values(["tree"]).add_float_param("tree.rate", 0.0, 1.0)
        learner.select_values(["forest"]).add_int_param("forest.trees", 1, 1000, scale_type=vz.ScaleType.LOG)
        problem.metric_information.append(vz.MetricInformation("mmce", goal=vz.ObjectiveMetricGoal.MINIMIZE))
        problem.metadata.ns("optformer")["title"] = "learners"
        return problem

    @staticmethod
    def value(parameters):
        known = parameters["batch"] + {"svm": 1000, "tree": 2000, "forest": 3000}[parameters["learner"]]
        match parameters["learner"]:
            case "svm":
                kernel = parameters["svm.kernel"]
                gamma = parameters["svm.gamma"] if kernel != "linear" else 0.0
                return known + parameters["svm.cost"] + {"linear": 0.1, "poly": 0.2, "radial": 0.3}[kernel] + gamma
            case "tree":
                return known + parameters["tree.depth"] + parameters["tree.rate"]
        return known + parameters["forest.trees"]

    def evaluate(self, suggestions):
        for trial in suggestions:
            parameters = trial.parameters.as_dict()
            if parameters["learner"] == "tree" and parameters["tree.depth"] > 25:
                trial.complete(vz.Measurement(), infeasibility_reason="out of memory")
            else:
                value = self.value(parameters)
                trial.complete(vz.Measurement({"mmce": value}))


def names(problem):
    return {config.name for config in problem.search_space.root.select_all()}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), most=st.integers(1, 9))
def test_disguised_configurations_are_worth_what_they_stand_for(seed, most):
    original = Learners()
    disguise = draw_disguise(original.problem_statement(), np.random.default_rng(seed), most)
    disguised = DisguisedExperimenter(original, disguise)
    problem = disguised.problem_statement()
    assert min(2, most) <= len(names(problem)) <= most
    metric = problem.metric_information.item()
    assert metric.goal == vz.ObjectiveMetricGoal.MINIMIZE
    for trial in history("random_order", disguised, 5, seed):
        revealed = disguise.reveal(trial.parameters.as_dict())
        active = {name: value for name, value in revealed.items() if name in LEAVES[revealed["learner"]]}
        if revealed.get("svm.kernel", "linear") != "linear" and revealed["learner"] == "svm":
            active["svm.gamma"] = revealed["svm.gamma"]
        whole = active | {name: revealed[name] for name in ("batch", "learner")}
        StudySchema(original.problem_statement()).encode([vz.Trial(whole)])
        if revealed["learner"] == "tree" and revealed["tree.depth"] > 25:
            assert trial.infeasibility_reason == "out of memory"
        else:
            assert trial.final_measurement.metrics[metric.name].value == Learners.value(revealed)


def test_every_part_of_a_disguise_is_in_some_and_not_in_others():
    problem = Learners().problem_statement()
    drawn = [draw_disguise(problem, np.random.default_rng(seed), 20) for seed in range(200)]
    for part, least in (("names", 80), ("bounds", 60), ("values", 60), ("fixed", 40), ("metric", 80), ("untitled", 80)):
        assert least < sum(bool(getattr(each, part)) for each in drawn) < 170, part
    # Whole learners go as well as single parameters.
    assert {each.values.get("learner") for each in drawn} > {None, ("forest", "svm"), ("svm", "tree")}
    assert {"svm", "tree", "forest"} < {each.fixed.get("learner") for each in drawn}
    cropped = [each.bounds["svm.cost"] for each in drawn if "svm.cost" in each.bounds]
    assert all(1e-3 <= low < high <= 1e3 for low, high in cropped)
    assert all(float(f"{low:.2g}") == low for low, _ in cropped), "people write round numbers"
    batches = [each.values["batch"] for each in drawn if "batch" in each.values]
    steps = [16, 32, 64, 128, 256]
    assert all(list(kept) == steps[steps.index(kept[0]) :][: len(kept)] for kept in batches), "in a row"


def test_children_of_what_is_gone_are_gone_and_those_of_what_is_fixed_come_up():
    problem = Learners().problem_statement()
    only = Disguise(fixed={"learner": "svm"}, values={"svm.kernel": ("linear", "radial")}, names={"svm.cost": "C"})
    space = only.apply(problem).search_space
    assert [config.name for config in space.parameters] == ["batch", "C", "svm.kernel"]
    assert {
        value: [child.name for child in below.parameters] for value, below in space.get("svm.kernel").subspaces()
    } == {"radial": ["svm.gamma"]}
    assert list(only.tuned(problem.search_space.parameters)) == ["batch", "svm.cost", "svm.kernel", "svm.gamma"]
    two = Disguise(values={"learner": ("forest", "tree")}).apply(problem)
    assert names(two) == {"batch", "learner", "tree.depth", "tree.rate", "forest.trees"}


def test_rows_of_a_table_are_hidden_or_left_out():
    disguise = Disguise(
        names={"x": "u"},
        bounds={"x": (0.2, 0.8)},
        values={"kind": ("a", "b"), "size": (8.0, 64.0)},
        fixed={"fast": "no"},
    )
    row = {"x": 0.5, "kind": "a", "size": 64, "fast": "no", "depth": 3}
    assert disguise.hide(row) == {"u": 0.5, "kind": "a", "size": 64, "depth": 3}
    assert disguise.reveal(disguise.hide(row)) == row
    for other in ({"x": 0.1}, {"kind": "c"}, {"size": 16}, {"fast": "yes"}):
        assert disguise.hide(row | other) is None


def test_problems_are_disguised_at_a_rate_and_where_they_are_too_large():
    problem = Learners()
    disguised = [isinstance(Disguises(0.3, 20, 5).around(problem, seed), DisguisedExperimenter) for seed in range(200)]
    assert 40 < sum(disguised) < 80
    assert Disguises(0.0, 20, 5).around(problem, 0) is problem
    small = [Disguises(0.01, 4, 5).around(problem, seed).problem_statement() for seed in range(20)]
    assert all(len(names(each)) <= 4 for each in small)
    again = Disguises(0.01, 4, 5).around(problem, 7).problem_statement()
    assert again.search_space == small[7].search_space


def test_enough_measured_rows_are_left():
    problem = Learners()
    rows = [
        {"batch": batch, "learner": "forest", "forest.trees": trees}
        for batch, trees in itertools.product([16.0, 32.0, 64.0, 128.0, 256.0], [1, 10, 100, 1000])
    ]
    for seed in range(30):
        disguise = Disguises(1.0, 20, 12).around(problem, seed, rows).disguise
        assert sum(disguise.hide(row) is not None for row in rows) >= 12


def test_a_large_measured_problem_is_never_left_as_it_is():
    rng = np.random.default_rng(0)
    rows = [
        {"batch": 16, "learner": "svm", "svm.kernel": "poly", "svm.cost": rng.random(), "svm.gamma": rng.uniform(1, 9)}
    ]
    rows = rows * 3 + [{"batch": 16, "learner": "forest", "forest.trees": int(trees)} for trees in range(1, 21)]
    for seed in range(30):
        found = Disguises(0.3, 4, 12).around(Learners(), seed, rows)
        assert len(names(found.problem_statement())) <= 4
    with pytest.raises(ValueError, match="at most 2 parameters keeps 30 measured configurations"):
        Disguises(0.3, 2, 30).around(Learners(), 0, rows)


# --- Names ---


def test_no_name_is_in_two_groups_of_synonyms():
    for groups in (synonyms.PARAMETERS, synonyms.METRICS):
        every = [name for group in groups for name in group]
        assert len(set(every)) == len(every)
        assert every == [name.lower() for name in every]


def test_other_names_mean_the_same_and_keep_what_comes_before_the_dot():
    rng = np.random.default_rng(0)
    found = {synonyms.of_parameter(rng, "xgboost.eta") for _ in range(100)}
    assert found == {"xgboost.learning_rate", "xgboost.lr", "xgboost.step_size", "xgboost.shrinkage"}
    assert synonyms.of_parameter(rng, "min.node.size") in synonyms.PARAMETERS[4]
    assert synonyms.of_parameter(rng, "alpha") == "alpha", "another thing in every model"
    metrics = {synonyms.of_metric(rng, "acc", minimize=False) for _ in range(200)}
    assert {"accuracy", "score", "reward"} < metrics
    assert not {"acc", "loss", "error"} & metrics


@pytest.mark.parametrize(
    "style, wanted",
    [
        ("plain", "min_node_size"),
        ("camel", "minNodeSize"),
        ("dotted", "min.node.size"),
        ("dashed", "min-node-size"),
        ("upper", "MIN_NODE_SIZE"),
    ],
)
def test_names_are_written_in_a_style(style, wanted):
    assert synonyms.styled("min.node_size", style) == wanted
