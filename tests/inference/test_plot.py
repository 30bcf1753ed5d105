"""Pictures: what is drawn is what was predicted, and importances are those of a function that is known."""

import dataclasses
import itertools

import numpy as np
import optuna
import pytest
from matplotlib.figure import Figure
from vizier import pyvizier as vz

from optformer import plot
from optformer.serve import optuna_spaces

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclasses.dataclass
class Known:
    """Predicts a function without doubt but for a band of its own width."""

    function: object
    width: float = 0.5

    def predict(self, problem, trials, candidates, *, metric=None):
        self.trials = list(trials)
        values = np.array([self.function(parameters.as_dict()) for parameters in candidates], float)
        return Certain(values, self.width)


@dataclasses.dataclass
class Certain:
    mean: np.ndarray
    width: float

    def quantile(self, q):
        return self.mean[None] + self.width * (2 * np.asarray(q)[:, None] - 1)


def problem(goal=vz.ObjectiveMetricGoal.MAXIMIZE):
    made = vz.ProblemStatement()
    made.metric_information.append(vz.MetricInformation("score", goal=goal))
    root = made.search_space.root
    root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_int_param("layers", 1, 4)
    kind = root.add_categorical_param("kind", ["a", "b", "c"])
    kind.select_values(["b"]).add_float_param("momentum", 0.0, 1.0)
    return made


def trial(number, value, **parameters):
    made = vz.Trial(id=number, parameters=parameters)
    return made if value is None else made.complete(vz.Measurement(metrics={"score": value}))


@pytest.fixture
def trials():
    return [
        trial(1, 1.0, rate=1e-3, layers=1, kind="a"),
        trial(2, 3.0, rate=1e-2, layers=2, kind="c"),
        trial(3, 2.0, rate=1e-1, layers=4, kind="b", momentum=0.5),
        trial(4, None, rate=1e-1, layers=3, kind="a"),
    ]


def function(p):
    return 10 * np.log10(p["rate"]) + p["layers"] + {"a": 0, "b": 5, "c": 1}[p["kind"]] + 2 * p.get("momentum", 0)


def test_slices_go_through_the_best_trial(trials):
    figure = plot.slices(Known(function), problem(), trials, points=16)
    axes = {axis.get_title(): axis for axis in figure.axes}
    assert len(axes) == 4
    rate = axes["rate"]
    assert rate.get_xscale() == "log"
    x, y = rate.lines[0].get_data()
    assert len(x) == 16
    np.testing.assert_allclose(y, 10 * np.log10(x) + 2 + 1, rtol=1e-5)  # layers and kind of trial 2
    layers = axes["layers"].lines[0].get_data()
    np.testing.assert_array_equal(layers[0], [1, 2, 3, 4])
    np.testing.assert_allclose(np.diff(layers[1]), 1.0)
    # A child is shown where it is active, though the best trial has none.
    (momentum,) = [axis for title, axis in axes.items() if "momentum" in title]
    x, y = momentum.lines[0].get_data()
    np.testing.assert_allclose(y - y[0], 2 * (x - x[0]), atol=1e-6)
    ring = [c for c in rate.collections if c.get_offsets().shape == (1, 2) and not len(c.get_facecolor())]
    np.testing.assert_allclose(ring[0].get_offsets()[0], [1e-2, 3.0], rtol=0.01)


def test_the_best_of_a_minimized_objective_is_the_lowest(trials):
    figure = plot.slices(Known(function), problem(vz.ObjectiveMetricGoal.MINIMIZE), trials)
    layers = next(axis for axis in figure.axes if axis.get_title() == "layers").lines[0].get_data()
    np.testing.assert_allclose(layers[1][0], 10 * -3 + 1, rtol=1e-2)  # rate and kind of trial 1


def test_each_trial_is_predicted_from_others_alone(trials):
    model = Known(function)
    figure = plot.predicted_against_observed(model, problem(), trials, folds=3)
    (axis,) = figure.axes
    assert axis.get_title() == "0 of 3 inside their 90 % interval"
    assert [t.id for t in model.trials] == [1, 2, 4]  # without the third, whose fold was the last; pending ones stay
    assert sorted(axis.collections[-1].get_offsets()[:, 0]) == [1.0, 2.0, 3.0]
    wide = plot.predicted_against_observed(Known(function, width=100.0), problem(), trials)
    assert wide.axes[0].get_title() == "3 of 3 inside their 90 % interval"


def test_importances_are_total_effects(trials):
    # f = a x + b 1[kind = b] with x uniform in log rate: Var = a^2 / 12 + b^2 * 2 / 9, additive.
    known = Known(lambda p: 3 * (np.log10(p["rate"]) / 4 + 1) + {"a": 0, "b": 1, "c": 0}[p["kind"]])
    found = plot.importances(known, problem(), trials, points=2048)
    total = 9 / 12 + 2 / 9
    assert found["rate"] == pytest.approx(9 / 12 / total, abs=0.05)
    assert found["kind"] == pytest.approx(2 / 9 / total, abs=0.05)
    assert found["layers"] == 0.0
    assert list(found) == sorted(found, key=found.get, reverse=True)
    for scale in (1e-200, 1e307):  # squares would be 0 or infinite
        scaled = Known(lambda p, scale=scale: scale * known.function(p))
        assert plot.importances(scaled, problem(), trials, points=2048) == pytest.approx(found)
    figure = plot.importance(known, problem(), trials, points=64)
    assert len(figure.axes[0].patches) == 4


def test_a_constant_prediction_has_no_importances(trials):
    assert set(plot.importances(Known(lambda p: 1.0), problem(), trials).values()) == {0.0}


@pytest.mark.parametrize("draw", [plot.slices, plot.predicted_against_observed, plot.importance])
def test_nothing_is_drawn_of_nothing(draw, trials):
    with pytest.raises(ValueError, match="no trial has an objective yet"):
        draw(Known(function), problem(), trials[3:])


def test_with_a_model_and_as_a_file(model, trials, tmp_path):
    for number, draw in enumerate([plot.slices, plot.predicted_against_observed, plot.importance]):
        file = tmp_path / f"{number}.png"
        draw(model, problem(), trials).savefig(file)
        assert file.stat().st_size > 5000


@pytest.mark.parametrize(
    ("low", "high", "labels"), [(0.3, 8.0, ["0.5", "1", "2", "5"]), (1e-3, 3.0, ["0.001", "0.01", "0.1", "1"])]
)
def test_logarithmic_axes_have_plain_numbers_that_do_not_overlap(low, high, labels):
    figure = Figure(figsize=(2.5, 2.2))
    axis = figure.subplots()
    axis.plot([low, high], [0, 1])
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    plot.label_log_axis(axis.xaxis, low, high)
    figure.canvas.draw()
    shown = [label for minor in (False, True) for label in axis.get_xticklabels(minor=minor)]
    within = [label for label in shown if label.get_text() and low <= label.get_position()[0] <= high]
    assert sorted((label.get_text() for label in within), key=float) == labels
    boxes = sorted((label.get_window_extent() for label in within), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


# Readable axes.


def far_off(goal):
    """Ten trials in [1, 10], and two that are worse by orders of magnitude."""
    sign = 1 if goal == vz.ObjectiveMetricGoal.MINIMIZE else -1
    values = [*range(1, 11), 1e5, 1e9]
    return [trial(k + 1, sign * float(v), rate=1e-3, layers=1 + k % 4, kind="a") for k, v in enumerate(values)]


@pytest.mark.parametrize("goal", [vz.ObjectiveMetricGoal.MINIMIZE, vz.ObjectiveMetricGoal.MAXIMIZE])
def test_the_good_range_decides_the_axis(goal):
    sign = 1 if goal == vz.ObjectiveMetricGoal.MINIMIZE else -1
    known = far_off(goal)
    model = Known(lambda p: sign * (5.0 if p["layers"] < 4 else 1e7))
    pictures = [
        plot.slices(model, problem(goal), known).axes[0],
        plot.best_so_far(problem(goal), known).axes[0],
        plot.predicted_against_observed(model, problem(goal), known).axes[0],
    ]
    for axis in pictures:
        best, far = sorted(sign * end for end in axis.get_ylim())
        # The median is 6.5, the good range 5.5: three of these beyond it.
        assert -1.5 < best < 1.0
        assert 10.0 < far < 26.0
    for axis in pictures[:2]:  # trials beyond are not left out
        ends = axis.get_ylim()
        edge = ends[1] if sign > 0 else ends[0]
        beyond = [c for c in axis.collections if len(c.get_offsets()) and (c.get_offsets()[:, 1] == edge).all()]
        assert [len(c.get_offsets()) for c in beyond] == [2]


@pytest.mark.parametrize(
    "values", [[2.0], [1.0, 1.0, 1.0], [0.0, 0.0], [3.0, 3.0, 3.0, 4.0], [1e308, -1e308, 1.0], [1e-300, 2e-300]]
)
def test_axes_of_odd_objectives(values):
    known = [trial(k + 1, v, rate=1e-3, layers=1, kind="a") for k, v in enumerate(values)]
    low, high = plot.best_so_far(problem(), known).axes[0].get_ylim()
    assert low < min(max(values), 1e300) < high


def test_best_so_far(trials):
    failed = vz.Trial(id=5, parameters={"rate": 0.1, "layers": 1, "kind": "a"})
    failed.complete(vz.Measurement(), infeasibility_reason="out of memory")
    (axis,) = plot.best_so_far(problem(), [*trials, failed]).axes
    x, y = axis.lines[0].get_data()
    assert (list(x), list(y)) == ([1, 2, 3, 5], [1.0, 3.0, 3.0, 3.0])
    dots, *others = (c.get_offsets().tolist() for c in axis.collections)
    assert dots == [[1.0, 1.0], [2.0, 3.0], [3.0, 2.0]]
    assert [[place for place, _ in each] for each in others] == [[5.0], [], [4.0]]  # failed, stopped, running
    (axis,) = plot.best_so_far(problem(vz.ObjectiveMetricGoal.MINIMIZE), trials).axes
    assert list(axis.lines[0].get_ydata()) == [1.0] * 4


# Optuna's studies.


def test_an_optuna_study_is_drawn_as_its_problem_and_trials():
    study = optuna.create_study(study_name="s", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    high = 0.5

    def objective(t):
        x = t.suggest_float("x", 0.0, high)
        if t.suggest_categorical("kind", ["a", "b", "b"]) == "b":
            t.suggest_int("n", 1, 4)
        if t.number == 3:
            raise optuna.TrialPruned
        return x

    study.optimize(objective, n_trials=6)
    high = 1.0  # resumed with another range
    study.optimize(objective, n_trials=6)
    study.enqueue_trial({"x": 0.1})
    statement, known = optuna_spaces.problem_and_trials(study)
    assert [p.name for p in statement.search_space.parameters] == ["x", "kind"]
    assert [p.name for p in statement.search_space.get("kind").subspace("b").parameters] == ["n"]  # as inferred
    assert statement.search_space.get("x").bounds == (0.0, 1.0)
    assert [t.id for t in known] == list(range(12))
    model = Known(lambda p: p["x"] + 0.1 * p.get("n", 0))
    titles = [axis.get_title() for axis in plot.slices(model, study).axes]
    assert (
        titles == [axis.get_title() for axis in plot.slices(model, statement, known).axes] == ["x", "kind", "kind=b/n"]
    )
    assert plot.importances(model, study) == plot.importances(model, statement, known)
    assert len(plot.importance(model, study).axes[0].patches) == 3
    assert len(plot.best_so_far(study).axes[0].collections[0].get_offsets()) == 11
    assert "of 11 inside" in plot.predicted_against_observed(model, study).axes[0].get_title()
    with pytest.raises(TypeError, match="a ProblemStatement contains no trials"):
        plot.slices(model, statement)
    with pytest.raises(TypeError, match="or only an Optuna study, not Study"):
        plot.slices(model, study, known)
    with pytest.raises(TypeError, match="not dict"):
        plot.best_so_far({})


def test_the_best_trial_is_one_that_breaks_no_constraint(trials):
    statement = problem()
    statement.metric_information.append(
        vz.MetricInformation("memory", goal=vz.ObjectiveMetricGoal.MINIMIZE, safety_threshold=8.0)
    )
    for one, memory in zip(trials[:3], (9.0, 9.0, 8.0), strict=True):
        one.final_measurement.metrics["memory"] = memory
    (axis,) = plot.best_so_far(statement, trials).axes
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [np.nan, np.nan, 2.0, 2.0])
    slices = plot.slices(Known(function), statement, trials, points=16)
    rate = next(axis for axis in slices.axes if axis.get_title() == "rate")
    ring = [c for c in rate.collections if c.get_offsets().shape == (1, 2) and not len(c.get_facecolor())]
    np.testing.assert_allclose(ring[0].get_offsets()[0], [1e-1, 2.0], rtol=0.01)
    trials[2].final_measurement.metrics["memory"] = 9.0
    assert plot.best_so_far(statement, trials).axes
    assert plot.slices(Known(function), statement, trials, points=16, metric="score").axes
