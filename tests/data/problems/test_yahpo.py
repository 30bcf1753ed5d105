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
from optformer.data.problems.yahpo import Scenario, YahpoExperimenter, held_out, scenarios
from optformer.data.sources import read
from optformer.evaluate.calibration.data_sets import yahpo_studies

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


def network() -> bytes:
    single, integer = 1, 6
    graph = field(1, node("Cast", ["codes"], "cast", ("to", single)))
    graph += field(1, node("Concat", ["cast", "numbers"], "y", ("axis", 1)))
    graph += field(2, "side_by_side")
    graph += field(11, tensor("codes", integer, 2)) + field(11, tensor("numbers", single, 3))
    graph += field(12, tensor("y", single, 5))
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
    assert "no teacher can meet any problem" in said
    assert "grid_search, eagle_strategy" in said
    assert main([*arguments, "--teachers", "random_search", "--largest-dimension", "2"]) == 2
    assert "have more than 2 parameters" in capsys.readouterr().err
    assert not (tmp_path / "c.jsonl.parts").exists()
