"""The tree of a search space, told by which parameters trials have."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.serialization.branches import Branch, branched, infer_branches
from optformer.serialization.space import StudySchema


def categorical(name: str, *values: str) -> vz.ParameterConfig:
    return vz.ParameterConfig.factory(name, feasible_values=list(values))


def number(name: str) -> vz.ParameterConfig:
    return vz.ParameterConfig.factory(name, bounds=(0.0, 1.0))


def whole(name: str, low: int, high: int) -> vz.ParameterConfig:
    return vz.ParameterConfig.factory(name, bounds=(low, high))


def history(program, count: int, seed: int = 0) -> list[dict]:
    draws = random.Random(seed)
    return [program(draws) for _ in range(count)]


def problem_of(parameters: list[vz.ParameterConfig]) -> vz.ProblemStatement:
    problem = vz.ProblemStatement(metric_information=[vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MINIMIZE)])
    for config in parameters:
        problem.search_space.add(config)
    return problem


def three_models(draws: random.Random) -> dict:
    kind = draws.choice(["svm", "mlp", "gbm"])
    names = {"svm": ["C", "gamma"], "mlp": ["rate", "depth"], "gbm": ["eta"]}[kind]
    return {"kind": kind} | {name: draws.random() for name in names}


MODELS = [categorical("kind", "gbm", "mlp", "svm"), *map(number, ("C", "gamma", "rate", "depth", "eta"))]


def test_branches_of_a_categorical_parameter():
    expected = {
        "C": Branch("kind", ("svm",)),
        "gamma": Branch("kind", ("svm",)),
        "rate": Branch("kind", ("mlp",)),
        "depth": Branch("kind", ("mlp",)),
        "eta": Branch("kind", ("gbm",)),
    }
    assert infer_branches(MODELS, history(three_models, 20)) == expected


def test_the_tree_has_the_children_below_their_parent_and_encodes_the_history():
    trials = history(three_models, 20)
    problem = problem_of(branched(MODELS, infer_branches(MODELS, trials)))
    assert [config.name for config in problem.search_space.parameters] == ["kind"]
    kind = problem.search_space.get("kind")
    assert [child.name for child in kind.subspace("svm").parameters] == ["C", "gamma"]
    schema = StudySchema(problem)
    assert [slot.parent for slot in schema.slots] == [-1, 0, 0, 0, 0, 0]
    assert [schema.decode(row) for row in schema.encode(trials)] == [pytest.approx(t, abs=1e-3) for t in trials]


def test_a_child_of_a_child():
    def program(draws):
        trial = {"model": draws.choice(["linear", "svm"])}
        if trial["model"] == "svm":
            trial["kernel"] = draws.choice(["poly", "rbf"])
            if trial["kernel"] == "poly":
                trial["degree"] = draws.randint(2, 5)
        return trial

    parameters = [categorical("model", "linear", "svm"), categorical("kernel", "poly", "rbf"), whole("degree", 2, 5)]
    trials = history(program, 40)
    branches = infer_branches(parameters, trials)
    assert branches == {"kernel": Branch("model", ("svm",)), "degree": Branch("kernel", ("poly",))}
    (root,) = branched(parameters, branches)
    (kernel,) = root.subspace("svm").parameters
    assert [child.name for child in kernel.subspace("poly").parameters] == ["degree"]
    assert not list(root.subspace("linear").parameters)


def test_layers_are_used_from_a_number_on():
    def program(draws):
        trial = {"layers": draws.randint(1, 4), "rate": draws.random()}
        return trial | {f"width{layer}": draws.randint(1, 9) for layer in range(trial["layers"])}

    parameters = [whole("layers", 1, 4), number("rate"), *(whole(f"width{layer}", 1, 9) for layer in range(4))]
    assert infer_branches(parameters, history(program, 40)) == {
        "width1": Branch("layers", (2, 3, 4)),
        "width2": Branch("layers", (3, 4)),
        "width3": Branch("layers", (4,)),
    }


def test_values_that_no_trial_had_go_with_their_neighbours_or_the_majority():
    def program(draws):
        trial = {"size": draws.choice([1, 2, 9, 10]), "mode": draws.choice(["a", "b", "c"])}
        if trial["size"] > 5:
            trial["large"] = draws.random()
        if trial["mode"] != "c":
            trial["not_c"] = draws.random()
        if trial["mode"] == "c":
            trial["only_c"] = draws.random()
        return trial

    parameters = [whole("size", 1, 10), categorical("mode", "a", "b", "c", "never")]
    parameters += map(number, ("large", "not_c", "only_c"))
    branches = infer_branches(parameters, history(program, 60))
    assert branches["large"] == Branch("size", (6, 7, 8, 9, 10))
    assert branches["not_c"] == Branch("mode", ("a", "b", "never"))
    assert branches["only_c"] == Branch("mode", ("c",))


def test_a_condition_on_two_parameters_stays_at_the_root():
    def program(draws):
        trial = {"a": draws.choice("xy"), "b": draws.choice("xy")}
        return trial | ({"both": 0.5} if trial["a"] == trial["b"] == "x" else {})

    parameters = [categorical("a", "x", "y"), categorical("b", "x", "y"), number("both")]
    assert infer_branches(parameters, history(program, 60)) == {}
    assert [config.name for config in branched(parameters, {})] == ["a", "b", "both"]


def test_a_program_that_was_changed_is_no_branch():
    # The range of `size` was moved when `rate` was added: a threshold would explain it.
    trials = [{"size": 1 + i % 3} for i in range(40)] + [{"size": 4 + i % 3, "rate": 0.5} for i in range(40)]
    assert infer_branches([whole("size", 1, 6), number("rate")], trials) == {}


def test_three_trials_prove_nothing():
    trials = history(three_models, 3)
    assert infer_branches(MODELS, trials) == {}


def test_trials_that_ended_amid_their_suggestions():
    trials = history(three_models, 40)
    cut = [dict(list(trial.items())[: i % 3]) if i % 2 else trial for i, trial in enumerate(trials)]
    finished = [i % 2 == 0 for i in range(40)]
    assert set(infer_branches(MODELS, cut, finished)) == {"C", "gamma", "rate", "depth", "eta"}
    assert infer_branches(MODELS, cut) == {}, "as finished trials they contradict every rule"


def test_what_a_failed_trial_lacks_counts_once_it_got_past_it():
    def program(draws):
        trial = {"optimizer": draws.choice(["adam", "sgd"])}
        return trial | ({"momentum": 0.9} if trial["optimizer"] == "sgd" else {}) | {"rate": draws.random()}

    parameters = [categorical("optimizer", "adam", "sgd"), number("momentum"), number("rate")]
    trials = history(program, 20)
    expected = {"momentum": Branch("optimizer", ("sgd",))}
    assert infer_branches(parameters, trials, [False] * 20) == expected
    before = [{name: value for name, value in trial.items() if name != "rate"} for trial in trials]
    assert infer_branches(parameters[:2], before, [False] * 20) == {}, "all may have failed before momentum"


def test_the_nearest_of_two_parents_that_explain_equally():
    trials = [{"a": v, "b": v, "child": 0.5} if v == "x" else {"a": v, "b": v} for v in "xyxyxxyxyyxyxy"]
    parameters = [categorical("a", "x", "y"), categorical("b", "x", "y"), number("child")]
    assert infer_branches(parameters, trials) == {"child": Branch("b", ("x",))}
    backwards = [dict(reversed(trial.items())) for trial in trials]
    assert infer_branches(parameters, backwards)["child"].values == ("x",), "the order may be lost"


def test_only_a_number_that_is_whole_can_be_a_parent():
    trials = [{"rate": i / 30} | ({"child": 0.5} if i > 15 else {}) for i in range(30)]
    random.Random(0).shuffle(trials)
    assert infer_branches([number("rate"), number("child")], trials) == {}


def test_a_value_that_the_space_does_not_have():
    with pytest.raises(ValueError, match="parameter 'kind': 'tree' is none of its values"):
        infer_branches(MODELS, [{"kind": "tree"}])


def test_trials_of_a_flat_space_and_none_at_all():
    assert infer_branches(MODELS, []) == {}
    assert infer_branches(MODELS[:1], [{"kind": "svm"}, {"kind": "mlp"}]) == {}


@pytest.mark.parametrize("count", [8, 20, 60])
def test_chance_and_changed_programs_are_hardly_ever_taken_for_branches(count):
    parameters = [categorical("a", "x", "y", "z"), categorical("b", "x", "y"), whole("c", 1, 5), whole("d", 1, 500)]
    parameters.append(number("child"))
    draws = random.Random(count)
    wrong = 0
    for study in range(300):
        trials = [{p.name: draws.choice(list(p.feasible_values)) for p in parameters[:4]} for _ in range(count)]
        first, last = sorted(draws.sample(range(1, count), 2))
        for number_of_trial, trial in enumerate(trials):
            if draws.random() < 0.5 if study % 2 else first <= number_of_trial < last:
                trial["child"] = 0.5
        wrong += bool(infer_branches(parameters, trials))
    assert wrong <= 15  # 5 %; odds of 10 promise no more than 10 %


TRIALS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "a": st.sampled_from(["x", "y"]),
            "b": st.integers(1, 3),
            "c": st.sampled_from(["x", "y", "z"]),
            "d": st.just(0.5),
            "e": st.just(0.5),
        },
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=200)
@given(TRIALS, st.integers(1, 3))
def test_every_history_fits_into_its_own_tree(trials, patterns):
    # Few different sets of parameters, repeated, so that rules are found.
    trials = [trials[(i * i + i // 3) % min(patterns + 1, len(trials))] for i in range(20)]
    parameters = [categorical("a", "x", "y"), whole("b", 1, 3), categorical("c", "x", "y", "z")]
    parameters += [number("d"), number("e")]
    schema = StudySchema(problem_of(branched(parameters, infer_branches(parameters, trials))))
    assert len(schema.slots) == 5
    assert [schema.decode(row) for row in schema.encode(trials)] == [pytest.approx(t, abs=1e-3) for t in trials]
