"""Parameters of other libraries, at the ends of what numbers hold: each level of the model is a value of the user's."""

import logging
import math
import sys
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from vizier import pyvizier as vz

from optformer.serialization.space import StudySchema
from optformer.serve import dictionary_spaces, optuna_spaces
from optformer.serve.domains import Continuous, Domain, search_space, unequal
from optformer.serve.recorded_study import RecordedStudy

LARGEST = sys.float_info.max
ENDS = [
    0.0,
    5e-324,
    1e-300,
    1e-9,
    0.1,
    0.3,
    1.0,
    1.0 + 1e-12,
    math.nextafter(1, 2),
    1e15,
    2.0**53,
    1e16,
    1e300,
    LARGEST,
]
FLOATS = st.sampled_from([*ENDS, *(-end for end in ENDS)])
INTEGERS = st.sampled_from([0, 1, 2, 7, 999, 1000, 1001, 10**6, 2**53 - 1, 2**53 + 1, 2**62, 2**63 - 1])
STEPS = st.sampled_from([5e-324, 1e-300, 1e-9, 0.1, 0.3, 1.0, 7.0, 1e300])
CHOICES = st.lists(st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3), min_size=1)


def checked(domain: Domain, holds) -> None:
    """All that the model can say is a value of the user's, and is known again."""
    problem = vz.ProblemStatement(search_space({"x": domain}))
    schema = StudySchema(problem)
    said = schema.slots[0].values if schema.slots else [schema.fixed[0].value]
    for value in said[:: max(1, len(said) // 50)]:
        own = domain.from_model(value)
        assert holds(own), f"{own!r} of {domain}"
        assert domain.own(own) == own
        schema.encode([{"x": domain.to_model(own)}])


def contains(distribution):
    def on_step(own: float) -> bool:
        # Optuna's own test allows 1e-8 of a step, which is less than floats keep of a long range of short steps.
        step = distribution.step
        return step is None or math.isclose(
            distribution.low + round((own - distribution.low) / step) * step, own, rel_tol=1e-9, abs_tol=1e-6 * step
        )

    return lambda own: distribution.low <= own <= distribution.high and on_step(own)


@given(FLOATS, FLOATS, st.booleans(), STEPS | st.none())
@example(-LARGEST, LARGEST, False, 1.0)
@example(0.0, 1.0, False, 5e-324)
@example(1e16, 1e16 + 100, False, 1.0)
@settings(max_examples=150, deadline=None)
def test_floats_of_optuna(low, high, log, step):
    low, high = sorted((low, high))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            distribution = FloatDistribution(low, high, log=log, step=step)
    except (ValueError, ArithmeticError):
        return  # by Optuna itself
    try:
        domain = optuna_spaces.domain(distribution)
    except ValueError as error:
        told = str(error)
        assert "cannot be divided into steps" in told or "no range of finite" in told
        return
    if domain is not None:
        checked(domain, contains(distribution))


@given(INTEGERS, INTEGERS, st.booleans(), st.sampled_from([1, 2, 1000, 2**61]))
@settings(max_examples=100, deadline=None)
def test_integers_of_optuna(low, high, log, step):
    low, high = sorted((low, high))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            distribution = IntDistribution(low, high, log=log, step=step)
    except ValueError:
        return
    domain = optuna_spaces.domain(distribution)
    if domain is not None:
        # Not by Optuna's own test, which goes through floats.
        checked(domain, lambda own: low <= own <= high and (own - low) % step == 0)


@given(CHOICES)
@settings(max_examples=50, deadline=None)
def test_choices_of_optuna(values):
    distribution = CategoricalDistribution(values)
    domain = optuna_spaces.domain(distribution)
    if domain is None:
        assert len(unequal(values)) == 1, "a constant"
    else:
        checked(domain, lambda own: own in values)


@given(
    st.tuples(FLOATS, FLOATS)
    | st.tuples(INTEGERS, INTEGERS)
    | st.tuples(FLOATS, FLOATS, st.just("log"))
    | st.tuples(INTEGERS, INTEGERS, st.just("log"))
    | st.tuples(FLOATS, FLOATS, STEPS)
    | st.tuples(INTEGERS, INTEGERS, INTEGERS)
)
@settings(max_examples=200, deadline=None)
def test_ranges_of_dictionaries(values):
    try:
        domain = dictionary_spaces.domains({"x": values})["x"]
    except ValueError:
        return
    low, high = values[:2]
    checked(domain, lambda own: low <= own <= high and (not isinstance(low, int) or isinstance(own, int)))


@pytest.mark.parametrize(
    "values, said",
    [
        ((-LARGEST, LARGEST, 1.0), "cannot be divided into steps"),
        ((0.0, 1.0, 5e-324), "cannot be divided into steps"),
        ((1e16, 1e16 + 100, 1.0), "cannot be divided into steps"),
    ],
)
def test_steps_that_floats_cannot_take(values, said):
    with pytest.raises(ValueError, match=f"parameter 'x': .*{said}"):
        dictionary_spaces.domains({"x": values})


def problem_of_optuna(domains):
    return optuna_spaces.problem("", domains, [StudyDirection.MINIMIZE], None, {})


def problem_of_a_recorded_study(domains):
    return RecordedStudy(domains, {"loss": False}).problem


@pytest.mark.parametrize("problem", [problem_of_optuna, problem_of_a_recorded_study])
def test_a_wide_range_is_logarithmic_only_if_declared(problem):
    statement = problem({"linear": Continuous(1e-8, 5.0), "log": Continuous(1e-8, 5.0, log=True)})
    assert [slot.scale for slot in StudySchema(statement).slots] == [vz.ScaleType.LINEAR, vz.ScaleType.LOG]


def test_the_root_logger_stays_as_the_program_left_it(monkeypatch):
    """absl, through which Vizier logs, would give it a handler: a program with one of its own printed all twice."""
    monkeypatch.setattr(logging.root, "handlers", [])
    space = {"x": (0.0, 1.0), "n": (1, 8), "m": (1, 8, "log"), "s": (0, 9, 3), "v": [1, 2, 5], "c": ["a", "b"]}
    search_space(dictionary_spaces.domains(space))
    assert logging.root.handlers == []
