"""Every teacher behaves as its name says, the same again for the same seed, and survives failures."""

import math

import numpy as np
import optuna
import pytest
from vizier import algorithms as vza
from vizier import pyvizier as vz

from optformer.data.teachers.pyglove import POPULATION
from optformer.data.teachers.registry import GRID_POINTS, PAPER, TEACHERS, make_teacher

pytestmark = pytest.mark.integration

HERE = [name for name, teacher in TEACHERS.items() if teacher.available and name not in ("gp", "gp_ucb")]
CONDITIONAL = [name for name in HERE if TEACHERS[name].conditional]


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def problem(goal=vz.ObjectiveMetricGoal.MINIMIZE, conditional=False):
    made = vz.ProblemStatement()
    root = made.search_space.root
    root.add_float_param("x", -1.0, 1.0)
    root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_int_param("layers", 1, 4)
    root.add_discrete_param("batch", [16, 32, 64])
    optimizer = root.add_categorical_param("optimizer", ["sgd", "adam"])
    if conditional:
        root.add_int_param("width", 1, 4096, scale_type=vz.ScaleType.LOG)
        optimizer.select_values(["sgd"]).add_float_param("momentum", 0.0, 0.99)
    made.metric_information.append(vz.MetricInformation("loss", goal=goal))
    return made


def loss(parameters):
    wide = {"sgd": 0.3, "adam": 0.0}[parameters["optimizer"]] + abs(math.log10(parameters["rate"]) + 2)
    return parameters["x"] ** 2 + wide + 0.1 * parameters["layers"]


def tune(name, trials, seed=0, sign=1.0, fails=lambda number: False, **kind):
    goal = vz.ObjectiveMetricGoal.MINIMIZE if sign > 0 else vz.ObjectiveMetricGoal.MAXIMIZE
    designer = make_teacher(name, problem(goal, **kind), seed)
    done = []
    for number in range(1, trials + 1):
        (suggestion,) = designer.suggest(1)
        trial = suggestion.to_trial(number)
        if fails(number):
            trial.complete(vz.Measurement(), infeasibility_reason="crashed")
        else:
            trial.complete(vz.Measurement({"loss": sign * loss(trial.parameters.as_dict())}))
        designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())
        done.append(trial)
    return done


def points(trials):
    return [trial.parameters.as_dict() for trial in trials]


@pytest.mark.parametrize("name", HERE)
def test_the_same_seed_gives_the_same_trials_inside_the_space_and_failures_end_nothing(name):
    def fails(number):
        return number % 4 == 0

    trials = tune(name, 40, seed=3, fails=fails)
    space = problem().search_space
    assert all(space.contains(trial.parameters) for trial in trials)
    assert points(trials) == points(tune(name, 40, seed=3, fails=fails))
    if name != "grid_search":
        assert points(trials) != points(tune(name, 40, seed=4, fails=fails))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_spaces(name):
    for trial in tune(name, 30, conditional=True):
        values = trial.parameters.as_dict()
        assert ("momentum" in values) == (values["optimizer"] == "sgd")
        assert 1 <= values["width"] <= 4096
        assert float(values["width"]).is_integer()


@pytest.mark.parametrize("name", [name for name in HERE if name not in ("grid_search", "shuffled_grid_search")])
def test_maximizing_is_minimizing_the_negative(name):
    assert points(tune(name, 30, sign=-1.0)) == points(tune(name, 30))


def test_grid_search_counts_through_the_grid():
    trials = points(tune("grid_search", 2 * GRID_POINTS))
    first = [point["x"] for point in trials]
    np.testing.assert_allclose(first[:GRID_POINTS], np.linspace(-1, 1, GRID_POINTS))
    np.testing.assert_allclose(first[GRID_POINTS:], first[:GRID_POINTS])
    assert {point["rate"] for point in trials[:GRID_POINTS]} == {trials[0]["rate"]}
    assert trials[GRID_POINTS]["rate"] == pytest.approx(1e-4 * (1e4 ** (1 / (GRID_POINTS - 1))))


def test_a_shuffled_grid_has_the_points_of_the_grid_in_another_order():
    made = vz.ProblemStatement()
    made.search_space.root.add_discrete_param("a", [1, 2, 3, 4])
    made.search_space.root.add_categorical_param("b", ["u", "v", "w"])
    made.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))

    def walk(name, seed):
        designer = make_teacher(name, made, seed)
        return [tuple(s.parameters.as_dict()[key] for key in "ab") for s in designer.suggest(12)]

    plain, shuffled = walk("grid_search", 0), walk("shuffled_grid_search", 5)
    assert plain == [(a, b) for b in "uvw" for a in (1, 2, 3, 4)]
    assert sorted(shuffled) == sorted(plain)
    assert shuffled != plain


def differing(one, other):
    return [name for name in one if one[name] != other[name]]


def test_hill_climbing_changes_one_parameter_of_its_best():
    trials = tune("hill_climb", 60, seed=1)
    incumbent = trials[0]
    for trial in trials[1:]:
        before = incumbent.parameters.as_dict()
        assert len(differing(trial.parameters.as_dict(), before)) <= 1
        if loss(trial.parameters.as_dict()) < loss(before):
            incumbent = trial
    assert loss(incumbent.parameters.as_dict()) < 0.5 * loss(trials[0].parameters.as_dict())


def test_evolution_mutates_one_parameter_of_a_tournaments_winner_among_the_last_of_its_population():
    trials = points(tune("regularized_evolution", 70, seed=2))
    for number in range(POPULATION, len(trials)):
        living = trials[number - POPULATION : number]
        parents = [point for point in living if len(differing(trials[number], point)) <= 1]
        assert parents
        # The best of five of 25: seldom among the worst.
        assert min(map(loss, parents)) <= sorted(map(loss, living))[-4]
    assert np.mean([loss(p) for p in trials[-20:]]) < 0.7 * np.mean([loss(p) for p in trials[:POPULATION]])


def test_model_based_teachers_improve_on_random_search():
    def best(name):
        return np.mean([min(map(loss, points(tune(name, 60, seed=seed)))) for seed in range(3)])

    random = best("random_search")
    assert best("eagle_strategy") < random
    assert best("tpe") < random


def test_evolution_takes_in_the_trials_of_others():
    designer = make_teacher("hill_climb", problem(conditional=True), 0)
    good = {"x": 0.0, "rate": 0.01, "layers": 1, "batch": 32, "optimizer": "sgd", "width": 77, "momentum": 0.5}
    trial = vz.Trial(good, id=1).complete(vz.Measurement({"loss": -5.0}))
    designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())
    designer.suggest(1)  # its own first random point
    for suggestion in designer.suggest(10):
        child = suggestion.parameters.as_dict()
        shared = [name for name in good if name in child and child[name] == pytest.approx(good[name])]
        assert len(shared) >= len(good) - 2  # a switch of the optimizer takes its momentum along


def test_mistakes():
    with pytest.raises(ValueError, match="no teacher 'annealing'; known are grid_search"):
        make_teacher("annealing", problem())
    with pytest.raises(ValueError, match=r"eagle_strategy \(Vizier\) does not support conditional"):
        make_teacher("eagle_strategy", problem(conditional=True))
    several = problem()
    several.metric_information.append(vz.MetricInformation("time", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    with pytest.raises(ValueError, match="tpe needs exactly one objective, but the problem has 2"):
        make_teacher("tpe", several)
    assert len(PAPER) == 7


@pytest.mark.parametrize("name", [name for name, teacher in TEACHERS.items() if not teacher.available])
def test_what_is_missing_is_named(name):
    with pytest.raises(ModuleNotFoundError, match=f"{name} .* needs '.*', which is not installed"):
        make_teacher(name, problem())
