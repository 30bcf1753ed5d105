"""Search spaces inferred from values: types, scales, bounds, and what cannot be used."""

import contextlib
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined
from optformer.data.sources.inferred_space import Declared, InferredSpace, flattened, parsed_column
from optformer.data.sources.logged_study import LoggedStudy, LoggedTrial, Report, to_pyvizier
from optformer.data.sources.records import UnusableError
from optformer.serialization.space import StudySchema


def space_of(values: list, **declared) -> vz.ParameterConfig:
    (config,) = InferredSpace(
        [{"p": value} for value in values], {"p": Declared(**declared)} if declared else {}
    ).configs
    return config


def draws(draw, seed: int = 0, count: int = 60) -> list:
    rng = random.Random(seed)
    return [draw(rng) for _ in range(count)]


@pytest.mark.parametrize(
    "draw, scale",
    [
        (lambda rng: 10 ** rng.uniform(-5, -1), "LOG"),
        (lambda rng: rng.uniform(0, 1), "LINEAR"),
        (lambda rng: rng.uniform(0, 1000), "LINEAR"),
        (lambda rng: rng.uniform(-4, 3), "LINEAR"),
        (lambda rng: 10 ** rng.uniform(0, 1.5), "LINEAR"),
        (lambda rng: 2 ** rng.randint(0, 10), "LOG"),
        (lambda rng: rng.randint(1, 1000), "LINEAR"),
        (lambda rng: rng.choice([1e-4, 1e-3, 1e-2]), "LOG"),
    ],
)
def test_scales(draw, scale):
    values = draws(draw)
    config = space_of(values)
    assert config.scale_type.name == scale
    low, high = config.bounds
    assert low <= min(values) < max(values) <= high
    assert config.type.name == ("INTEGER" if isinstance(values[0], int) else "DOUBLE")
    if scale == "LOG":
        assert low > 0
        assert (high / low) < (max(values) / min(values)) ** 1.25


def test_bounds_have_a_margin_in_the_space_of_the_scale():
    assert space_of([1.0, 11.0]).bounds == (0.5, 11.5)
    assert space_of([1e-4, 1e-3, 1e-2, 1e-1]).bounds == (7.07e-05, 0.142)
    assert space_of([1, 2, 3]).bounds == (1, 3)
    assert space_of([10, 110]).bounds == (5, 115)
    assert space_of([0.0, 0.5]).bounds == (0.0, 0.525)
    assert space_of([0.25, 0.999]).bounds == (0.212, 1.0)
    assert space_of([-1e308, 1e308]).bounds == (-1e308, 1e308)


def test_kinds():
    assert space_of([True, False]).external_type == vz.ExternalType.BOOLEAN
    assert space_of(["a", "b", "a"]).feasible_values == ["a", "b"]
    assert space_of([1, 2.5]).type == vz.ParameterType.DOUBLE
    assert space_of(["sqrt", 0.5, None]).feasible_values == ["0.5", "None", "sqrt"]
    assert space_of([1, "1", "a"]).feasible_values == ["'1'", "'a'", "1"]
    assert space_of([[1, 2], [3], {"a": 1}]).feasible_values == ["[1, 2]", "[3]", '{"a": 1}']
    assert space_of([2**64, 2**65]).type == vz.ParameterType.CATEGORICAL


def test_values():
    trials = [
        {"x": 0.5, "n": 1, "c": "a", "k": 3, "some": 7},
        {"x": 1.5, "n": None, "k": 3},
        {"x": math.nan, "n": 9, "c": "b", "k": 3},
    ]
    space = InferredSpace([*trials, {}])
    assert space.constants == {"k": "3"}, "of all trials that have parameters at all"
    assert space.varied == {"x", "n", "c"}
    assert space.inferred
    assert space.values(trials[0]) == {"x": 0.5, "n": 1, "c": "a", "some": 7}
    assert space.values(trials[1]) == {"x": 1.5}
    with pytest.raises(UnusableError, match="value is not a number: nan") as error:
        space.values(trials[2])
    assert error.value.parameter == "x"


def test_the_order_of_trials_does_not_matter():
    trials = [{"a": 10.0 ** -(i % 5), "b": "xyz"[i % 3], "n": i} for i in range(30)]
    assert InferredSpace(trials).configs == InferredSpace(trials[::-1]).configs


def test_a_mixture_with_many_values_is_of_the_kind_most_trials_used():
    trials = [{"p": i / 10} for i in range(40)] + [{"p": "auto"}]
    space = InferredSpace(trials)
    assert space.configs[0].type == vz.ParameterType.DOUBLE
    with pytest.raises(UnusableError, match="kind of parameter differs from most trials"):
        space.values({"p": "auto"})


@pytest.mark.parametrize("number", [2**53 + 1, -(2**60) - 1])
def test_integers_that_floats_cannot_tell_apart_are_real_numbers(number):
    trials = [{"a": None}, {"a": number}, {"a": 3}]
    space = InferredSpace(trials)
    assert [config.type for config in space.configs] == [vz.ParameterType.DOUBLE]
    assert space.values(trials[1]) == {"a": float(number)}
    assert space.configs[0].contains(space.values(trials[1])["a"])
    assert InferredSpace([{"a": 2**53 - 1}, {"a": 3}]).configs[0].type == vz.ParameterType.INTEGER


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=2)
)


@settings(max_examples=300, deadline=None)
@example([{"a": None}, {"a": 2**53 + 1}])
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), scalars), max_size=8))
def test_any_values_fit_the_space_that_was_inferred_from_them(trials):
    try:
        space = InferredSpace(trials)
    except UnusableError:
        return
    problem = vz.ProblemStatement()
    for config in space.configs:
        problem.search_space.add(config)
    for trial in trials:
        with contextlib.suppress(UnusableError):
            for name, value in space.values(trial).items():
                assert problem.search_space.get(name).contains(value)


def test_ten_thousand_categories_and_free_text():
    many, free = [f"v{i}" for i in range(10_000)] * 2, [f"output/run-{i}" for i in range(30)]
    with pytest.raises(UnusableError, match=r"too many categories: 10,000") as error:
        space_of(many, kind="categorical")
    assert error.value.parameter == "p"
    with pytest.raises(UnusableError, match="free text instead of categories: 30 different values in 30 trials"):
        space_of(free, kind="categorical")
    for texts in (many, free):
        space = InferredSpace([{"p": text, "x": i} for i, text in enumerate(texts)])
        assert (space.names, list(space.free_texts)) == (["x"], ["p"]), "nobody said that it is a parameter"
    assert len(space_of([f"layer{i}" for i in range(30)] * 3).feasible_values) == 30


def test_declared():
    config = space_of([0.5], bounds=(1e-5, 1.0), log=True, kind="double")
    assert (config.bounds, config.scale_type.name) == ((1e-5, 1.0), "LOG")
    space = InferredSpace([{"p": 0.5}], {"p": Declared("double", (0.0, 1.0))})
    assert not space.inferred
    with pytest.raises(UnusableError, match=r"value outside its range: 2.0 is not in \[0.0, 1.0\]"):
        space.values({"p": 2.0})
    with pytest.raises(UnusableError, match="category not in the space: 'z'"):
        InferredSpace([{"p": "a"}], {"p": Declared(values=("a", "b"))}).values({"p": "z"})
    with pytest.raises(UnusableError, match="needs positive values"):
        space_of([0.0, 1.0], log=True)


def test_texts_stand_for_numbers_where_all_do():
    assert parsed_column(["1", "-2", "None"]) == [1, -2, None]
    assert parsed_column(["1", "2e-3"]) == [1.0, 0.002]
    assert parsed_column(["True", "false"]) == [True, False]
    assert parsed_column(["1", "two"]) == ["1", "two"]
    assert parsed_column(["1_000", "2"]) == ["1_000", "2"]
    assert flattened({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a/b": 1, "a/c": {}, "d": [1]}


def study(trials: list[LoggedTrial], objectives: dict | None = None) -> list:
    return list(to_pyvizier(LoggedStudy("s.csv", "s.csv", "table", "s", objectives or {"y": "MINIMIZE"}, trials)))


def test_states_of_trials():
    trials = [
        LoggedTrial(1, {"x": 0.1}, "completed", [Report(0, {"y": 3.0}, 1.0), Report(1, {"y": 2.0}, 2.0)]),
        LoggedTrial(2, {"x": 0.2}, "completed", [Report(0, {"y": math.nan})]),
        LoggedTrial(3, {"x": 0.3}, "infeasible", reason="failed: out of memory"),
        LoggedTrial(4, {"x": 0.4}, "stopped", [Report(0, {"y": 1.0})], reason="killed"),
        LoggedTrial(5, {"x": 0.5}, "active"),
        LoggedTrial(6, {"x": 0.6}, "requested"),
        LoggedTrial(7, {"x": 0.7}, "completed", [Report(0, {"z": 1.0})]),
        LoggedTrial(8, {"x": math.inf}, "completed", final={"y": 1.0}),
        LoggedTrial(9, {"x": 0.1}, "wandering"),
        LoggedTrial(10, {}, "completed", fault=UnusableError("torn")),
    ]
    *left_out, kept = study(trials)
    assert [(record.trial, record.parameter, record.category) for record in left_out] == [
        (8, "x", "value is not a number"),
        (9, None, "unknown trial state"),
        (10, None, "torn"),
    ]
    one, two, three, four, five, six, seven = kept.trials
    assert one.final_measurement.metrics["y"].value == 2.0
    assert one.final_measurement.elapsed_secs == 2.0
    assert [measurement.steps for measurement in one.measurements] == [0, 1]
    assert two.infeasibility_reason == "y is not a number"
    assert three.infeasibility_reason == "failed: out of memory"
    assert (four.stopping_reason, dict(four.final_measurement.metrics)) == ("killed", {})
    assert (five.status.name, six.status.name) == ("ACTIVE", "REQUESTED")
    assert seven.stopping_reason == "no value of y"
    assert kept.problem.metadata.ns("optformer")["space"] == "inferred"


@pytest.mark.parametrize(
    "trials, category",
    [
        ([], "no trials"),
        ([LoggedTrial(1, {"x": 1}, "completed", final={"y": 1.0})], "nothing to tune"),
        ([LoggedTrial(1, {}, "active")], "no parameters"),
        ([LoggedTrial(i, {"x": i}, "completed", final={"loss": 1.0}) for i in (1, 2)], "no objective"),
        ([LoggedTrial(i, {"x": f"{i}"}, "completed", final={"y": 1.0}) for i in range(10_000)], "too many categories"),
    ],
)
def test_studies_that_are_refused_whole(trials, category):
    first, *rest = study(trials)
    assert isinstance(first, Quarantined)
    assert (first.trial, first.category) == (None, category)
    assert [record.trial for record in rest] == [trial.number for trial in trials]


def test_two_decades_are_logarithmic_and_an_even_sample_is_not():
    logarithmic = [space_of(draws(lambda rng: 10 ** rng.uniform(-5, -3), seed)) for seed in range(40)]
    assert {config.scale_type.name for config in logarithmic} == {"LOG"}
    even = [space_of(draws(lambda rng: rng.uniform(0, 1), seed)) for seed in range(40)]
    assert {config.scale_type.name for config in even} == {"LINEAR"}


def test_bounds_below_positive_values_are_positive():
    for seed in range(20):
        values = draws(lambda rng: rng.uniform(0, 1), seed)
        low, high = space_of(values).bounds
        assert 0 < low <= min(values) < max(values) <= high
    assert space_of([0.02, 0.5]).bounds == (0.01, 0.524)
    assert space_of([0.0, 0.02, 0.5]).bounds[0] == 0.0
    assert space_of([-0.5, -0.02]).bounds == (-0.524, -0.01), "nor do bounds above negative values reach 0"
    assert space_of([-90, -1]).bounds == (-94, -1)
    assert space_of([-1.0, 0.0]).bounds == (-1.05, 0.0)


def test_a_linear_scale_over_three_decades_stays_linear():
    # 0.0003 is the least of 1,000 even values; without a word the serialization would take the range for logarithmic.
    values = [0.0003, *(0.001 * k for k in range(1, 1000))]
    for declared in ({}, {"x": Declared("double", (0.0001, 1.0), log=False)}):
        space = InferredSpace([{"x": value} for value in values], declared)
        assert (space.configs[0].scale_type.name, space.auto_log) == ("LINEAR", False)
    declared_only = InferredSpace([{"x": value} for value in values], {"x": Declared("double", (0.0001, 1.0))})
    assert (declared_only.configs[0].scale_type.name, declared_only.auto_log) == ("LOG", True)
    trials = [LoggedTrial(i, {"x": value}, "completed", final={"y": 1.0}) for i, value in enumerate(values)]
    (kept,) = study(trials)
    assert StudySchema(kept.problem).slots[0].scale == vz.ScaleType.LINEAR


def test_trials_of_another_program_are_set_aside():
    tuned = [LoggedTrial(i, {"lr": 0.1 * i, "seed": 3}, "completed", final={"y": 1.0}) for i in range(1, 4)]
    other = [LoggedTrial(4, {"mode": "ridge"}, "completed", final={"y": 2.0}), LoggedTrial(5, {}, "active")]
    *left_out, kept = study([*other, *tuned])
    assert [(record.trial, record.reason) for record in left_out] == [
        (4, "no parameters: it has none of those that the study varies (it has: 'mode')"),
        (5, "no parameters: it has none of those that the study varies (it has: none)"),
    ]
    assert [trial.id for trial in kept.trials] == [1, 2, 3]
    assert [config.name for config in kept.problem.search_space.parameters] == ["lr"]
    constants = kept.problem.metadata.ns("optformer").ns("constants")
    assert dict(constants) == {"seed": "3"}, "all trials that are left have it"


def test_a_single_value_that_some_trials_lack_is_kept_with_those_that_have_it():
    trials = [LoggedTrial(i, {"lr": 0.1 * i}, "completed", final={"y": 1.0}) for i in range(1, 4)]
    trials[1] = trials[1]._replace(parameters={"lr": 0.2, "warmup": "cosine", "steps": 10})
    (kept,) = study(trials)
    assert [trial.parameters.as_dict() for trial in kept.trials] == [
        {"lr": 0.1},
        {"lr": 0.2, "warmup": "cosine", "steps": 10},
        {"lr": pytest.approx(0.3)},
    ]
    assert not dict(kept.problem.metadata.ns("optformer").ns("constants"))
    assert len(StudySchema(kept.problem).encode(kept.trials)) == 3
