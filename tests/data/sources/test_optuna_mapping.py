"""Distributions that change, collide or lie: what becomes of them."""

import collections
import datetime
import json
import math
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined
from optformer.data.sources.local_times import LocalTimes
from optformer.data.sources.optuna_mapping import OptunaStudy, OptunaTrial, to_records
from optformer.data.sources.optuna_space import Distribution, Parameter, grid, parse_distribution
from optformer.data.sources.records import UnusableError
from optformer.data.sources.study_json import study_to_json, to_studies


def stored(name: str, **attributes) -> str:
    return json.dumps({"name": name, "attributes": attributes})


def parameter(*distributions: Distribution) -> Parameter:
    return Parameter("p", collections.Counter(distributions))


def study(trials: list[OptunaTrial], **fields) -> list:
    defaults = {"source": "a.db", "file_name": "a.db", "name": "s", "directions": ["MINIMIZE"]}
    return list(to_studies(to_records(OptunaStudy(**(defaults | fields), trials=trials))))


def trial(number: int, value: float | None, distribution: Distribution, state="COMPLETE", **fields) -> OptunaTrial:
    return OptunaTrial(number, state, [("p", value, distribution)], [1.0], **fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (stored("FloatDistribution", low=0.0, high=1.0, log=False, step=None), ("float", 0.0, 1.0, False, None)),
        (stored("UniformDistribution", low=0, high=1), ("float", 0.0, 1.0, False, None)),
        (stored("LogUniformDistribution", low=0.1, high=1), ("float", 0.1, 1.0, True, None)),
        (stored("DiscreteUniformDistribution", low=0, high=1, q=0.25), ("float", 0.0, 1.0, False, 0.25)),
        (stored("IntDistribution", low=1, high=9, log=True, step=1), ("int", 1, 9, True, None)),
        (stored("IntUniformDistribution", low=1, high=9), ("int", 1, 9, False, None)),
        (stored("IntUniformDistribution", low=1, high=9, step=2), ("int", 1, 9, False, 2)),
        (stored("IntLogUniformDistribution", low=1, high=9, step=1), ("int", 1, 9, True, None)),
    ],
)
def test_stored_distributions(text, expected):
    d = parse_distribution(text)
    assert (d.kind, d.low, d.high, d.log, d.step) == expected


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("not json", "unknown distribution"),
        ("[]", "unknown distribution"),
        (stored("BetaDistribution", low=0, high=1), "unknown distribution"),
        (stored("FloatDistribution", high=1), "unknown distribution"),
        (stored("FloatDistribution", low=0, high=float("inf")), "impossible distribution"),
        (stored("FloatDistribution", low=2, high=1), "impossible distribution"),
        (stored("LogUniformDistribution", low=0, high=1), "impossible distribution"),
        (stored("CategoricalDistribution", choices=[]), "impossible distribution"),
    ],
)
def test_distributions_that_cannot_be_used(text, category):
    with pytest.raises(UnusableError, match=f"^{category}: "):
        parse_distribution(text)


def test_ranges_unite():
    config = parameter(Distribution("float", 0.1, 1.0), Distribution("float", 0.5, 4.0)).config
    assert (config.type, config.bounds) == (vz.ParameterType.DOUBLE, (0.1, 4.0))
    config = parameter(Distribution("int", 1, 5), Distribution("int", -3, 2)).config
    assert (config.type, config.bounds) == (vz.ParameterType.INTEGER, (-3, 5))
    config = parameter(Distribution("int", 1, 5), Distribution("float", 0.5, 2.0)).config
    assert (config.type, config.bounds) == (vz.ParameterType.DOUBLE, (0.5, 5.0))


def test_the_scale_most_used_wins_where_it_is_possible():
    log, linear = Distribution("float", 1e-3, 1.0, log=True), Distribution("float", 0.1, 2.0)
    assert Parameter("p", collections.Counter({log: 3, linear: 2})).config.scale_type == vz.ScaleType.LOG
    assert Parameter("p", collections.Counter({log: 2, linear: 3})).config.scale_type == vz.ScaleType.LINEAR
    from_zero = Distribution("float", 0.0, 2.0)
    assert Parameter("p", collections.Counter({log: 3, from_zero: 2})).config.scale_type == vz.ScaleType.LINEAR


def test_grids_unite_up_to_a_thousand_values():
    p = parameter(Distribution("int", 64, 128, step=16), Distribution("int", 64, 128, step=32))
    assert p.config.feasible_values == [64, 80, 96, 112, 128]
    p = parameter(Distribution("float", 0.0, 0.3, step=0.1), Distribution("float", 0.0, 0.3, step=0.15))
    assert p.config.feasible_values == [0.0, 0.1, 0.15, 0.2, 0.3]
    assert p.value(0.1 + 0.2, p.distributions[0]) == 0.3
    fine = parameter(Distribution("float", 0.0, 1.0, step=1e-4))
    assert (fine.config.type, fine.config.bounds) == (vz.ParameterType.DOUBLE, (0.0, 1.0))
    every = parameter(Distribution("int", 0, 10_000, step=2))
    assert (every.config.type, every.config.bounds) == (vz.ParameterType.INTEGER, (0, 10_000))


def test_categories_keep_their_names_unless_two_would_collide():
    plain = parameter(Distribution("categorical", choices=("relu", None, 3, 0.5)))
    assert [plain.value(i, plain.distributions[0]) for i in range(4)] == ["relu", "None", "3", "0.5"]
    clash = Distribution("categorical", choices=(1, "1", True, "True", 1.0, None, "None"))
    p = parameter(clash)
    labels = [p.value(i, clash) for i in range(7)]
    assert labels == ["1", "'1'", "True", "'True'", "1.0", "None", "'None'"]
    assert sorted(labels) == p.config.feasible_values
    nested = parameter(Distribution("categorical", choices=([64, 64], {"a": 1})))
    assert nested.config.feasible_values == ["[64, 64]", "{'a': 1}"]


def test_booleans_are_booleans():
    p = parameter(Distribution("categorical", choices=(True, False)))
    assert (p.config.external_type, p.config.feasible_values) == (vz.ExternalType.BOOLEAN, ["False", "True"])


def test_categories_unite_and_indices_follow_their_own_distribution():
    first, second = Distribution("categorical", choices=("a", "b")), Distribution("categorical", choices=("c", "a"))
    p = parameter(first, second)
    assert p.config.feasible_values == ["a", "b", "c"]
    assert [p.value(1, first), p.value(0, second), p.value(1, second)] == ["b", "c", "a"]


def test_where_kinds_differ_the_most_used_wins_and_the_others_are_quarantined():
    number, category = Distribution("float", 0.0, 1.0), Distribution("categorical", choices=("a",))
    *quarantined, kept = study([trial(0, 0.0, category), trial(1, 0.5, number), trial(2, 0.7, number)])
    assert [t.id for t in kept.trials] == [1, 2]
    assert kept.problem.search_space.get("p").type == vz.ParameterType.DOUBLE
    reason = "kind of parameter differs from most trials: categorical, mostly numeric"
    assert quarantined == [Quarantined("a.db", "s", 0, "p", reason)]


@pytest.mark.parametrize(
    ("distribution", "value", "reason"),
    [
        (Distribution("float", 0.0, 1.0), 1.5, "value outside its range: 1.5 is not in [0.0, 1.0]"),
        (Distribution("int", 0, 4), 5, "value outside its range: 5 is not in [0, 4]"),
        (Distribution("int", 0, 4), 2.5, "value outside its range: 2.5 is not an integer"),
        (Distribution("float", 0.0, 1.0, step=0.5), 0.3, "value outside its range: 0.3 is not on the grid 0.0 ... 1.0"),
        (Distribution("categorical", choices=("a", "b")), 2, "category not in the space: index 2 of 2 choices"),
        (Distribution("float", 0.0, 1.0), None, "value is not a number: None"),
    ],
)
def test_values_outside_their_own_range_cost_only_their_trial(distribution, value, reason):
    quarantined, kept = study([trial(0, distribution.low, distribution), trial(1, value, distribution)])
    assert quarantined == Quarantined("a.db", "s", 1, "p", reason)
    assert [t.id for t in kept.trials] == [0]


def test_rounding_at_a_bound_is_no_violation():
    d = Distribution("float", 1e-5, 0.1, log=True)
    assert parameter(d).value(0.1 * (1 + 1e-15), d) == 0.1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_unusable_objectives_make_a_trial_infeasible(value):
    d = Distribution("float", 0.0, 1.0)
    (kept,) = study([OptunaTrial(0, "COMPLETE", [("p", 0.5, d)], [value])])
    assert kept.trials[0].infeasible
    told = "inf" if value == float("inf") else "not a number"
    assert kept.trials[0].infeasibility_reason == f"objective is {told}"


def test_one_unusable_objective_of_two_keeps_the_other():
    d = Distribution("float", 0.0, 1.0)
    (kept,) = study([OptunaTrial(0, "COMPLETE", [("p", 0.5, d)], [2.0, float("-inf")])], directions=["MINIMIZE"] * 2)
    assert kept.trials[0].infeasibility_reason == "objective_1 is -inf"
    assert kept.trials[0].final_measurement.metrics.as_float_dict() == {"objective_0": 2.0}


def test_odd_records_lose_nothing():
    d = Distribution("float", 0.0, 1.0)
    (kept,) = study(
        [
            trial(
                3, 0.5, d, start="yesterday", complete="2024-01-01 00:00:10", intermediate=[(-1, [2.0]), (4, [None])]
            ),
            trial(5, 0.1, d, state="FAIL", fail_reason="ValueError: nan"),
            trial(7, 0.2, d, state="PRUNED"),
            OptunaTrial(9, "WAITING", [], [], fixed={"p": 0.25, "unknown": 1}),
        ]
    )
    odd, failed, pruned, waiting = kept.trials
    notes = odd.metadata.ns("optuna")
    assert odd.creation_time is None
    assert (notes["datetime_start"], notes["intermediate -1"]) == ("yesterday", '{"objective": 2.0}')
    assert [m.steps for m in odd.measurements] == [4]
    assert failed.infeasibility_reason == "failed: ValueError: nan"
    assert pruned.metadata.ns("optuna")["value"] == "[1.0]"
    assert (waiting.status, waiting.parameters.as_dict()) == (vz.TrialStatus.REQUESTED, {"p": 0.25})


def test_studies_that_cannot_be_used():
    d = Distribution("float", 0.0, 1.0)
    assert [r.reason for r in study([])] == ["no trials"]
    assert [r.category for r in study([OptunaTrial(0, "FAIL", [], [])])] == ["no parameters", "of a quarantined study"]
    assert study([trial(0, 0.5, d)], directions=["SIDEWAYS"])[0].reason == "unknown direction: 'SIDEWAYS'"
    assert study([trial(0, 0.5, d)], directions=[])[0].category == "no objective"
    assert [r.category for r in study([trial(0, 2.0, d)])] == ["value outside its range", "no usable trials"]
    assert study([trial(0, 0.5, d, state="MAYBE")])[0].reason == "unknown trial state: 'MAYBE'"
    faulty = OptunaTrial(1, "COMPLETE", [], [1.0], fault=UnusableError("unknown distribution: x", "p"))
    quarantined, kept = study([trial(0, 0.5, d), faulty])
    assert quarantined == Quarantined("a.db", "s", 1, "p", "unknown distribution: x")
    assert len(kept.trials) == 1


def test_an_unset_direction_is_minimize_as_in_optuna():
    (kept,) = study([trial(0, 0.5, Distribution("float", 0.0, 1.0))], directions=["NOT_SET"])
    assert kept.problem.metric_information.item().goal == vz.ObjectiveMetricGoal.MINIMIZE


DISTRIBUTIONS = [
    ("x", Distribution("float", -1.0, 2.0)),
    ("x", Distribution("float", 1e-4, 1.0, log=True)),
    ("x", Distribution("int", 0, 3)),
    ("x", Distribution("categorical", choices=("a", 1, "1", None))),
    ("grid", Distribution("float", 0.0, 1.0, step=0.1)),
    ("grid", Distribution("int", 2, 8, step=3)),
    ("n", Distribution("int", 1, 2**53 + 1, log=True)),
    ("flag", Distribution("categorical", choices=(True, False))),
]
odd = st.sampled_from([None, math.nan, math.inf, -math.inf, -0.0, 0.5, 2.5, -1, 10**20, "text", b"\xff"])


@st.composite
def internal_values(draw, distribution: Distribution):
    """Mostly values that the distribution can suggest, with Optuna's type, which is float for all kinds."""
    if draw(st.integers(0, 19)) == 0:
        return draw(odd)
    if distribution.kind == "categorical":
        return float(draw(st.integers(0, len(distribution.choices) - 1)))
    if distribution.step:
        return float(draw(st.sampled_from(grid(distribution))))
    if distribution.kind == "int":
        return float(draw(st.integers(int(distribution.low), min(int(distribution.high), 1000))))
    return draw(st.floats(distribution.low, distribution.high * (1 + 1e-15)))


numbers = st.none() | st.floats()
times = (
    st.none() | st.datetimes().map(str) | st.sampled_from(["yesterday", "", 7, "2026-01-01T10:00:00+02:00", "20260101"])
)


@st.composite
def trials(draw, number: int) -> OptunaTrial:
    chosen = draw(st.lists(st.sampled_from(DISTRIBUTIONS), unique_by=lambda named: named[0]))
    return OptunaTrial(
        number=number,
        state=draw(st.sampled_from(["COMPLETE"] * 6 + ["FAIL", "PRUNED", "RUNNING", "WAITING", "LOST"])),
        params=[(name, draw(internal_values(d)), d) for name, d in chosen],
        values=draw(st.lists(numbers, max_size=3)),
        intermediate=draw(st.lists(st.tuples(st.integers(-2, 5) | odd, st.lists(numbers, max_size=2)), max_size=3)),
        start=draw(times),
        complete=draw(times),
        user_attributes=draw(
            st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["1", "x" * 2000])), max_size=2)
        ),
        fixed=draw(st.none() | st.just({"x": 0.5, "flag": True, "grid": 0.2, "other": 1}) | st.just({"x": "?"})),
        fail_reason=draw(st.none() | st.just("why " * 100)),
        fault=draw(st.sampled_from([None] * 9 + [UnusableError("unknown distribution: x", "p")])),
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_records_are_what_the_objects_give(data):
    """Records are made without pyvizier's objects, so none of its objections and conversions may be missing."""
    given_trials = [data.draw(trials(number)) for number in range(data.draw(st.integers(1, 6)))]
    names = ["loss", "accuracy"][: data.draw(st.integers(1, 2))]
    stored = OptunaStudy(
        "a.db", "a.db", "s", ["MINIMIZE"] * len(names), given_trials, names, user_attributes=[("owner", '"me"')]
    )
    *left_out, record = to_records(stored)
    *as_before, whole = to_studies(to_records(stored))
    assert left_out == as_before
    if isinstance(record, Quarantined):
        assert record == whole
        return
    text = json.dumps(record.to_json(), allow_nan=False)
    assert text == json.dumps(study_to_json(whole), allow_nan=False)
    assert len(record.trials) + len(left_out) == len(given_trials)


@pytest.fixture
def zone(request):
    """The machine in another time zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="no time zones to choose here")
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"], indirect=True)
def test_times_are_local_times(zone):
    """Also within hours in which clocks are changed: by half an hour on Lord Howe, at 00:01 in Newfoundland."""
    local = LocalTimes()
    changes = ["2026-03-29 02:00", "2026-10-25 02:00", "2026-04-05 01:30", "2026-10-04 02:00", "2006-04-02 00:00"]
    texts = [
        str(datetime.datetime.fromisoformat(change) + datetime.timedelta(minutes=minutes, microseconds=minutes % 2))
        for change in changes
        for minutes in range(-90, 91, 5)
    ]
    for start, complete in zip(texts, texts[7:] + texts[:7], strict=True):
        begin, end = (datetime.datetime.fromisoformat(text).astimezone() for text in (start, complete))
        seconds = max((end - begin).total_seconds(), 0.0)
        assert local(start, complete) == (begin.isoformat(), end.isoformat(), seconds)
        assert local(start, None) == (begin.isoformat(), None, 0.0)
