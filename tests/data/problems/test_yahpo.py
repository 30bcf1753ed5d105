"""YAHPO scenarios: spaces with conditions, inputs in the network's order, and errors that name the file.

The network stands in for YAHPO's: an ONNX graph is a protocol buffer, and this one is written by hand, so that
no package is needed to make it.  It casts the categorical codes to numbers and sets all inputs side by side as outputs.
"""

import json
import re
import shutil

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.generation import generate_corpus
from optformer.data.generation.plan import Plan, schedule
from optformer.data.problems import registry
from optformer.data.problems.disguises import Disguise, DisguisedExperimenter
from optformer.data.problems.yahpo import Scenario, Task, YahpoExperimenter, held_out, scenarios, tasks
from optformer.data.sources import read
from optformer.evaluate.calibration.data_sets import yahpo_studies
from optformer.serialization.space import StudySchema

pytestmark = pytest.mark.integration

NAMES = {
    "y_names": ["task", "booster", "eta", "depth", "size"],
    "y_minimize": [False, False, True, True, True],
    "cont_names": ["eta", "depth", "size"],
    "cat_names": ["task_id", "booster"],
    "fidelity_params": ["size"],
    "instance_names": "task_id",
}
SPACE = {
    "hyperparameters": [
        {"name": "booster", "type": "categorical", "choices": ["linear", "tree", "dart"]},
        {"name": "size", "type": "uniform_float", "lower": 0.1, "upper": 1.0, "log": False},
        {"name": "task_id", "type": "categorical", "choices": ["11", "12"]},
        {"name": "depth", "type": "uniform_int", "lower": 1, "upper": 9, "log": False},
        {"name": "eta", "type": "uniform_float", "lower": 1e-3, "upper": 1.0, "log": True},
    ],
    "conditions": [
        {"child": "depth", "parent": "booster", "type": "IN", "values": ["tree", "dart"]},
        {"child": "eta", "parent": "booster", "type": "EQ", "value": "dart"},
    ],
}
ENCODING = {"task_id": {"11": 1, "12": 2, "#na#": 0}, "booster": {"linear": 1, "tree": 2, "dart": 3, "#na#": 0}}


# --- An ONNX model, field by field (https://onnx.ai/onnx/repo-docs/IR.html) ---


def varint(number: int) -> bytes:
    out = b""
    while True:
        number, low = number >> 7, number & 0x7F
        out += bytes([low | (0x80 if number else 0)])
        if not number:
            return out


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, element: int, width: int) -> bytes:
    shape = field(1, field(2, "batch")) + field(1, field(1, width))
    return field(1, name) + field(2, field(1, field(1, element) + field(2, shape)))


def node(operator: str, inputs: list[str], output: str, attribute: tuple[str, int]) -> bytes:
    name, value = attribute
    parts = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, operator)
    return parts + field(5, field(1, name) + field(3, value) + field(20, 2))


def network(categories: int = 2, numbers: int = 3) -> bytes:
    single, integer = 1, 6
    graph = field(1, node("Cast", ["codes"], "cast", ("to", single)))
    graph += field(1, node("Concat", ["cast", "numbers"], "y", ("axis", 1)))
    graph += field(2, "side_by_side")
    graph += field(11, tensor("codes", integer, categories)) + field(11, tensor("numbers", single, numbers))
    graph += field(12, tensor("y", single, categories + numbers))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "toy"
    made.mkdir()
    (made / "names.json").write_text(json.dumps(NAMES))
    (made / "config_space.json").write_text(json.dumps(SPACE))
    (made / "encoding.json").write_text(json.dumps(ENCODING))
    (made / "model.onnx").write_bytes(network())
    return made


def test_inputs_are_coded_and_ordered_as_the_network_wants(folder):
    scenario = Scenario(folder)
    values = scenario.evaluate([{"booster": "dart", "depth": 4, "eta": 0.5}, {"booster": "linear"}], "12")
    # task, booster, eta, depth, size: full fidelity, inactive numbers 0.
    np.testing.assert_allclose(values, [[2, 3, 0.5, 4, 1.0], [2, 1, 0, 0, 1.0]])


def test_the_space_has_children_where_the_conditions_say(folder):
    space = Scenario(folder).search_space()
    assert [parameter.name for parameter in space.parameters] == ["booster"], "no instance, no fidelity"
    (booster,) = space.parameters
    children = {value: {child.name for child in subspace.parameters} for value, subspace in booster.subspaces()}
    assert {value: names for value, names in children.items() if names} == {"tree": {"depth"}, "dart": {"depth", "eta"}}
    eta = booster.get_subspace_deepcopy("dart").get("eta")
    assert eta.bounds == (1e-3, 1.0)
    assert eta.scale_type == vz.ScaleType.LOG


def test_values_of_inactive_parameters_are_not_used_and_active_ones_are_needed(folder):
    scenario = Scenario(folder)
    given = [{"booster": "tree", "depth": 4, "eta": 0.5}, {"booster": "linear", "depth": 4, "eta": 0.5}]
    np.testing.assert_allclose(scenario.evaluate(given, "11"), [[1, 2, 0, 4, 1.0], [1, 1, 0, 0, 1.0]])
    with pytest.raises(ValueError, match="toy, parameter eta: configuration 1 has no value for it"):
        scenario.evaluate([given[0], {"booster": "dart", "depth": 4}], "11")
    assert scenario.evaluate([], "11").shape == (0, 5)


# --- A scenario of several learners: conditions on two parents, a fidelity of categories, a single data set ---

LEARNERS = {
    "names": {
        "y_names": ["learner", "svm.kernel", "repl", "epoch", "svm.gamma", "cp"],
        "y_minimize": [True] * 6,
        "cont_names": ["epoch", "svm.gamma", "cp"],
        "cat_names": ["learner", "svm.kernel", "repl"],
        "fidelity_params": ["epoch", "repl"],
        "instance_names": None,
    },
    "config_space": {
        "hyperparameters": [
            # Children before their parents, as in some of YAHPO's files.
            {"name": "svm.gamma", "type": "uniform_float", "lower": 0.1, "upper": 10.0, "log": True},
            {"name": "svm.kernel", "type": "categorical", "choices": ["linear", "radial", "polynomial"]},
            {"name": "learner", "type": "categorical", "choices": ["rpart", "svm", "glmnet"]},
            {"name": "cp", "type": "uniform_float", "lower": 0.0, "upper": 1.0, "log": False},
            {"name": "epoch", "type": "uniform_int", "lower": 1, "upper": 98, "log": False},
            {"name": "repl", "type": "categorical", "choices": ["1", "2", "10"]},
        ],
        "conditions": [
            {"child": "svm.kernel", "parent": "learner", "type": "EQ", "value": "svm"},
            {"child": "cp", "parent": "learner", "type": "EQ", "value": "rpart"},
            {
                "child": "svm.gamma",
                "type": "AND",
                "conditions": [
                    {"child": "svm.gamma", "parent": "svm.kernel", "type": "IN", "values": ["polynomial", "radial"]},
                    {"child": "svm.gamma", "parent": "learner", "type": "EQ", "value": "svm"},
                ],
            },
        ],
    },
    "encoding": {
        "learner": {"#na#": 0, "rpart": 1, "svm": 2, "glmnet": 3},
        "svm.kernel": {"#na#": 0, "linear": 1, "radial": 2, "polynomial": 3},
        "repl": {"#na#": 0, "1": 1, "2": 2, "10": 3},
    },
}


def write_learners(folder, conditions=None):
    """The scenario as files, with other conditions if they are given."""
    folder.mkdir(parents=True)
    for name, content in LEARNERS.items():
        if name == "config_space" and conditions is not None:
            content = {**content, "conditions": conditions}
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "model.onnx").write_bytes(network(3, 3))
    return folder


def test_a_child_of_two_parents_hangs_on_the_lower_one(tmp_path):
    space = Scenario(write_learners(tmp_path / "super")).search_space()
    assert [parameter.name for parameter in space.parameters] == ["learner"]
    below = dict(space.get("learner").subspaces())
    children = {value: [child.name for child in subspace.parameters] for value, subspace in below.items()}
    assert {value: names for value, names in children.items() if names} == {"rpart": ["cp"], "svm": ["svm.kernel"]}
    below = dict(below["svm"].get("svm.kernel").subspaces())
    children = {value: [child.name for child in subspace.parameters] for value, subspace in below.items()}
    assert {value: names for value, names in children.items() if names} == {
        "radial": ["svm.gamma"],
        "polynomial": ["svm.gamma"],
    }


def test_children_of_inactive_parents_are_inactive(tmp_path):
    scenario = Scenario(write_learners(tmp_path / "super"))
    assert scenario.instances == ["CIFAR10"]
    everything = {"svm.kernel": "radial", "svm.gamma": 0.5, "cp": 0.25}
    given = [{"learner": learner, **everything} for learner in ("rpart", "svm", "glmnet")]
    # learner, kernel, repl, epoch, gamma, cp: full fidelity is category "10", the third, and epoch 98.
    wanted = [[1, 0, 3, 98, 0, 0.25], [2, 2, 3, 98, 0.5, 0], [3, 0, 3, 98, 0, 0]]
    np.testing.assert_allclose(scenario.evaluate(given, "CIFAR10"), wanted)


def test_conditions_that_cannot_be_are_refused(tmp_path):
    gamma = {"child": "svm.gamma", "parent": "svm.kernel", "type": "EQ", "value": "radial"}
    kernel = {"child": "svm.kernel", "parent": "svm.gamma", "type": "EQ", "value": "1"}
    both = [gamma, {"child": "svm.gamma", "parent": "learner", "type": "EQ", "value": "svm"}]
    siblings = [{"child": "svm.gamma", "type": "AND", "conditions": both}]
    more = {"child": "svm.kernel", "parent": "learner", "type": "IN", "values": ["svm", "glmnet"]}
    for number, (conditions, message) in enumerate(
        [
            ([gamma, kernel], "its conditions have no categorical parent"),
            ([{**gamma, "parent": "nobody"}], "parameter svm.gamma: its conditions have no categorical parent"),
            ([{**gamma, "type": "GT"}], "conditions 'GT' are not known"),
        ]
    ):
        with pytest.raises(ValueError, match=message):
            Scenario(write_learners(tmp_path / str(number), conditions))
    for number, conditions in enumerate([siblings, [*siblings, more]]):
        scenario = Scenario(write_learners(tmp_path / f"tree{number}", conditions))
        with pytest.raises(ValueError, match=r"parameter svm\.gamma: its conditions do not form a tree"):
            scenario.search_space()


def test_tasks_are_data_sets_and_metrics_but_for_those_of_no_use(folder):
    names = {**NAMES, "y_names": ["mmce", "auc", "f1", "logloss", "timetrain"]}
    (folder / "names.json").write_text(json.dumps(names))
    space = json.loads(json.dumps(SPACE))
    space["hyperparameters"][2]["choices"] = ["11", "12", "1489", "31"]
    assert [held_out("toy", name) for name in ("11", "12", "1489", "31")] == [False, False, True, False]
    (folder / "config_space.json").write_text(json.dumps(space))
    training = [Task(folder, name, metric) for name in ("11", "12", "31") for metric in ("auc", "logloss", "mmce")]
    assert tasks(folder.parent, held_out=False) == training
    assert tasks(folder.parent, held_out=True) == [Task(folder, "1489", name) for name in ("auc", "logloss", "mmce")]
    quality = {"weak_targets": ["logloss"], "flat_instances": ["31"], "zero_by_construction": {"auc": ["12"]}}
    (folder.parent / "quality.json").write_text(json.dumps({"toy": quality}))
    for part in (True, False):  # scenarios are loaded once per process, so this one gets another name
        shutil.copytree(folder, folder.parent / f"again{part}")
    shutil.rmtree(folder)
    (folder.parent / "quality.json").write_text(json.dumps({"againTrue": quality, "againFalse": {}}))
    found = [(task.folder.name, task.instance, task.metric) for task in tasks(folder.parent, held_out=False)]
    assert found[:9] == [("againFalse", task.instance, task.metric) for task in training]
    assert found[9:] == [("againTrue", "11", "auc"), ("againTrue", "11", "mmce"), ("againTrue", "12", "mmce")]


def test_a_data_set_is_held_out_in_every_scenario_by_its_number():
    assert held_out("rbv2_svm", "1489")
    assert held_out("iaml_ranger", "1489")
    assert held_out("nb301", "CIFAR10") == held_out("rbv2_xgboost", "40927")
    assert held_out("fair_super", "14965") == held_out("rbv2_svm", "1461")  # task and data set
    assert held_out("lcbench", "11")
    assert not held_out("rbv2_svm", "11")


def test_trials_are_completed_with_one_metric(folder):
    experimenter = YahpoExperimenter(Scenario(folder), "11", metric="depth")
    problem = experimenter.problem_statement()
    assert problem.metric_information.item().goal == vz.ObjectiveMetricGoal.MINIMIZE
    assert "11" in problem.metadata.ns("optformer")["title"]
    trials = [vz.Trial({"booster": "tree", "depth": 7}, id=1), vz.Trial({"booster": "linear"}, id=2)]
    experimenter.evaluate(trials)
    assert [trial.final_measurement.metrics["depth"].value for trial in trials] == [7.0, 0.0]
    experimenter.evaluate([])
    assert YahpoExperimenter(Scenario(folder), "11").metric == "task"


def test_a_wide_range_is_logarithmic_only_if_the_scenario_declares_it(folder):
    """`mtry.ratio` of fair_ranger lies in [.001, 1] on a linear scale."""
    for log, scale in ((True, vz.ScaleType.LOG), (False, vz.ScaleType.LINEAR)):
        eta = {**SPACE["hyperparameters"][-1], "log": log}
        space = {**SPACE, "hyperparameters": [*SPACE["hyperparameters"][:-1], eta]}
        (folder / "config_space.json").write_text(json.dumps(space))
        slots = StudySchema(YahpoExperimenter(Scenario(folder), "11").problem_statement()).slots
        assert [slot.scale for slot in slots if slot.path.endswith("eta")] == [scale]


def test_trials_report_at_shares_of_their_budget(folder):
    """The network gives back its inputs, so that the metric `size` is the share of the budget."""
    experimenter = YahpoExperimenter(Scenario(folder), "11", metric="size", shares=(0.1, 0.25))
    trial = vz.Trial({"booster": "tree", "depth": 7}, id=1)
    experimenter.evaluate([trial])
    reports = [(each.steps, each.metrics["size"].value) for each in trial.measurements]
    assert reports == [(100, pytest.approx(0.1)), (250, 0.25), (1000, 1.0)]
    assert trial.final_measurement.metrics["size"].value == 1.0
    disguised = DisguisedExperimenter(experimenter, Disguise(names={"depth": "max_depth"}, metric="bytes"))
    trial = vz.Trial({"booster": "tree", "max_depth": 7}, id=1)
    disguised.evaluate([trial])
    assert [(each.steps, each.metrics["bytes"].value) for each in trial.measurements] == reports
    for share in (0.05, 1.5):
        with pytest.raises(ValueError, match=rf"share {share} of the budget is not in \[0.1, 1\]"):
            Scenario(folder).evaluate([{"booster": "linear"}], "11", share)


def test_epochs_are_whole(folder):
    space = json.loads(json.dumps(SPACE))
    space["hyperparameters"][1] |= {"type": "uniform_int", "lower": 1, "upper": 50}
    (folder / "config_space.json").write_text(json.dumps(space))
    scenario = Scenario(folder)
    assert scenario.least_share == 0.02
    assert [float(scenario.evaluate([{"booster": "linear"}], "11", share)[0, 4]) for share in (0.05, 0.5)] == [2, 25]


def test_the_seed_draws_the_shares(folder):
    plain, curves = (
        {each.name: each for each in registry.problems("yahpo", settings)}
        for settings in (registry.Settings(yahpo_dir=str(folder.parent), curves=on) for on in (False, True))
    )
    assert plain["toy/11"].draw(3).experimenter.shares == ()
    drawn = [curves["toy/11"].draw(seed).experimenter.shares for seed in range(20)]
    assert drawn[3] == curves["toy/11"].draw(3).experimenter.shares
    assert len(set(drawn)) == 20
    for shares in drawn:
        assert 3 <= len(shares) <= 6
        assert list(shares) == sorted(shares)
        assert 0.1 <= shares[0] < shares[-1] < 1.0
    with pytest.raises(ValueError, match="curves need yahpo among the problems"):
        Plan(problems=("bbob",), curves=True)


def test_wrong_names_are_refused(folder):
    scenario = Scenario(folder)
    with pytest.raises(ValueError, match="no instance '13'"):
        YahpoExperimenter(scenario, "13")
    with pytest.raises(ValueError, match="no metric 'auc'; it has task, booster"):
        YahpoExperimenter(scenario, "11", "auc")
    with pytest.raises(ValueError, match="no instance '13'; it has 11, 12"):
        scenario.evaluate([{"booster": "tree"}], "13")
    with pytest.raises(ValueError, match="parameter booster: 'forest' has no code"):
        scenario.evaluate([{"booster": "forest"}], "11")


def test_folders_are_searched_for_scenarios(folder, tmp_path):
    assert scenarios(tmp_path) == ["toy"]
    with pytest.raises(ValueError, match="no such folder"):
        scenarios(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no YAHPO scenario in it"):
        scenarios(folder)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("encoding.json", None, "encoding.json missing"),
        ("encoding.json", b"{", "encoding.json: not JSON"),
        ("names.json", b"{}", "not as expected"),
        ("config_space.json", b"[]", "not as expected"),
        ("model.onnx", b"no graph", "model.onnx: cannot be loaded"),
        ("../quality.json", b"{", "quality.json: not JSON"),
        ("../quality.json", b'{"toy": {"flat_instances": {}}}', "quality.json: not as expected for toy"),
    ],
)
def test_damaged_files_are_named(folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Scenario(folder)


# --- Corpora ---


@pytest.fixture
def many(folder):
    """Twelve data sets instead of two."""
    instances = [str(number) for number in range(11, 23)]
    space = json.loads(json.dumps(SPACE))
    space["hyperparameters"][2]["choices"] = instances
    codes = {"#na#": 0} | {name: number for number, name in enumerate(instances, 1)}
    (folder / "config_space.json").write_text(json.dumps(space))
    (folder / "encoding.json").write_text(json.dumps({**ENCODING, "task_id": codes}))
    return folder.parent


def test_a_part_of_the_data_sets_and_all_of_a_scenario_is_held_out(many):
    settings = registry.Settings(yahpo_dir=str(many))
    training = {problem.name for problem in registry.problems("yahpo", settings)}
    kept = {problem.name for problem in registry.problems("yahpo-held-out", settings)}
    assert len(training | kept) == 12
    assert not training & kept
    assert {f"toy/{name}" for name in range(11, 23) if held_out("toy", str(name))} == kept
    assert 1 <= len(kept) <= 6
    shutil.copytree(many / "toy", many / "second")
    turns = [problem.name.split("/")[0] for problem in registry.problems("yahpo", registry.Settings(18, str(many)))]
    assert turns == ["second", "toy"] * len(training)
    shutil.rmtree(many / "second")
    (many / "toy").rename(many / "lcbench")
    settings = registry.Settings(yahpo_dir=str(many), largest_dimension=19)
    assert len(registry.problems("yahpo-held-out", settings)) == 12
    with pytest.raises(ValueError, match="all are held out"):
        registry.problems("yahpo", settings)


def test_calibration_is_measured_on_held_out_data_sets(many, folder, tmp_path):
    studies = list(yahpo_studies(many, 6, trials=4))
    assert len(studies) == 6
    assert all(held_out("toy", study.group.split()[1]) for study in studies)
    space = json.loads(json.dumps(SPACE))
    space["hyperparameters"][2]["choices"] = ["11"]
    assert not held_out("toy", "11")
    alone = tmp_path / "alone" / "toy"
    shutil.copytree(folder, alone)
    (alone / "config_space.json").write_text(json.dumps(space))
    with pytest.raises(ValueError, match="none of its scenarios has a data set that is held out"):
        next(yahpo_studies(alone.parent, 6, trials=4))


def test_corpora_of_conditional_problems_with_regions_that_fail(many, tmp_path):
    plan = Plan(
        problems=("yahpo", "yahpo-held-out"),
        teachers=("random_search", "grid_search", "hill_climb", "regularized_evolution", "tpe", "cma_es"),
        studies=20,
        trials=(6, 10),
        infeasible_rate=0.5,
        yahpo_dir=str(many),
    )
    (first, second) = schedule(plan).left_out
    assert re.fullmatch(r"yahpo: (\d+) of \1 problems have conditional search spaces, which .*: grid_search", first)
    assert second.startswith("yahpo-held-out: ")
    summary = generate_corpus(plan, tmp_path / "one.jsonl")
    generate_corpus(plan, tmp_path / "two.jsonl", processes=2)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert summary.failed == 0
    assert summary.studies["grid_search"] == 0
    studies = list(read(tmp_path / "one.jsonl"))
    assert sum(summary.studies.values()) == len(studies) == 20
    assert any(trial.infeasible for study in studies for trial in study.trials)
    facts = [study.problem.metadata.ns("optformer") for study in studies]
    assert {each["source"] for each in facts} == set(plan.problems)
    assert all(held_out("toy", each["problem"].split("/")[1]) == ("held-out" in each["source"]) for each in facts)
    assert "the scenario toy on the data set" in facts[0]["description"]


def test_a_plan_of_which_nothing_can_be_is_refused(many, tmp_path, capsys):
    arguments = [
        "corpus",
        "generate",
        "--problems",
        "yahpo",
        "--yahpo-dir",
        str(many),
        "--out",
        str(tmp_path / "c.jsonl"),
    ]
    assert main([*arguments, "--teachers", "grid_search,eagle_strategy"]) == 2
    said = capsys.readouterr().err
    assert "no teacher accepts any of the problems" in said
    assert "grid_search, eagle_strategy" in said
    assert main([*arguments, "--teachers", "random_search", "--largest-dimension", "2"]) == 2
    assert "have more than 2 parameters" in capsys.readouterr().err
    assert not (tmp_path / "c.jsonl.parts").exists()
