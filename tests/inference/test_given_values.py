"""Suggestions some of whose values are given."""

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import LinearConstraint


def problem(goal=vz.ObjectiveMetricGoal.MINIMIZE, metrics=1):
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    root.add_float_param("x", -1.0, 1.0)
    root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    kind = root.add_categorical_param("kind", ["a", "b", "c"])
    kind.select_values(["b"]).add_float_param("momentum", 0.0, 1.0)
    root.add_int_param("n", 1, 4)
    for index in range(metrics):
        statement.metric_information.append(vz.MetricInformation(f"y{index}", goal=goal))
    return statement


def trials(count, metrics=1):
    rng, made = np.random.default_rng(0), []
    for number in range(1, count + 1):
        parameters = {"x": rng.uniform(-1, 1), "rate": 10 ** rng.uniform(-4, 0), "kind": "abc"[number % 3]}
        parameters |= {"n": int(rng.integers(1, 5))} | ({"momentum": rng.random()} if number % 3 == 1 else {})
        trial = vz.Trial(id=number, parameters=parameters)
        made.append(trial.complete(vz.Measurement(metrics={f"y{k}": rng.normal() for k in range(metrics)})))
    return made


@pytest.mark.parametrize("known", [0, 12])
@pytest.mark.parametrize("acquisition", ["ei", "policy"])
@pytest.mark.parametrize(
    "given", [{"kind": "b"}, {"x": 0.25, "n": 2.0}, {"momentum": 0.5}, {"rate": 1e-3, "kind": "c", "x": 1.0, "n": 3}]
)
def test_all_suggestions_have_them(given, acquisition, known, model):
    asked = model.suggest(problem(), trials(known), 3, acquisition, given=given)
    for suggestion in asked:
        values = suggestion.parameters.as_dict()
        assert ("momentum" in values) == (values["kind"] == "b")
        assert values | given == values  # also between two of the model's levels
        assert type(values["n"]) is int
    free = {"x", "rate", "n"} - set(given)
    if free:
        assert len({tuple(each.parameters.as_dict().items()) for each in asked}) == 3


def test_with_constraints_and_several_objectives(model):
    limit = LinearConstraint({"x": 1.0, "n": 1.0}, upper=2.0)
    for suggestion in model.suggest(problem(metrics=2), trials(12, 2), 3, given={"kind": "a"}, constraints=[limit]):
        values = suggestion.parameters.as_dict()
        assert values["kind"] == "a"
        assert values["x"] + values["n"] <= 2.0


def test_what_is_to_be_improved_on_is_the_best_with_these_values(model):
    """With the others it may be out of reach."""
    known = trials(12)
    search = model.search(problem(), known, {"kind": "c"})
    focus = search._focused(np.random.default_rng(0))
    history = search._function_history(focus)
    alike = [index for index, trial in enumerate(known) if trial.parameters["kind"].value == "c"]
    assert 0 < len(alike) < len(known)
    mean = search.predict(search.study.x_tokens).mean
    expected = (-mean[alike].min() - focus.scaling.center) / focus.scaling.scale
    assert search._incumbent(focus, history) == pytest.approx(min(expected, 1.0), rel=1e-3)
    # No trial has the value: the median of the study.
    without = model.search(
        problem(), [trial for trial in known if trial.parameters["kind"].value != "c"], {"kind": "c"}
    )
    assert without._incumbent(without._focused(np.random.default_rng(0)), history) == 0.0


@pytest.mark.parametrize(
    ("given", "message"),
    [({"x": 3.0}, "parameter 'x': 3.0 is outside"), ({"y": 1.0}, "parameter 'y': .*no parameter of this name")],
)
def test_values_outside_the_space_name_the_parameter(given, message, model):
    with pytest.raises(ValueError, match=message):
        model.suggest(problem(), [], given=given)
