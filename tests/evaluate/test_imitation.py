"""The figures of `optformer evaluate imitation`, on histories whose answers are known."""

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.data.generation import Plan, generate_study
from optformer.data.problems import bbob, randomized_bbob
from optformer.data.teachers.registry import PAPER, TEACHERS, make_teacher
from optformer.evaluate.imitation import draws, likelihood, nature, trajectories
from optformer.evaluate.optimization import running
from optformer.evaluate.optimization.optimizers import Optimizer
from optformer.evaluate.optimization.running import Outcome
from optformer.model import ModelConfig, build_model

pytestmark = pytest.mark.integration

TEACHERS_HERE = [name for name in PAPER if TEACHERS[name].available and name != "gp_ucb"]


@pytest.fixture(scope="module")
def model():
    return OptFormer(build_model(ModelConfig.tiny(), seed=0), {"name": "random-tiny"})


def study(teacher: str, index: int = 0, trials: int = 40) -> vz.ProblemAndTrials:
    plan = Plan(teachers=(teacher,), studies=50, trials=(trials, trials), largest_dimension=6)
    return generate_study(plan, index)


# --- Likelihoods ---


def test_a_trajectorys_likelihood_is_that_of_its_trials_one_by_one(model):
    made = study("hill_climb", trials=6)
    found = likelihood.likelihood(model, made, "hill_climb", 6)
    singly = [
        model.log_prob(made.problem, made.trials[:k], made.trials[k].parameters, algorithm="hill_climb")
        for k in range(6)
    ]
    assert found.total == pytest.approx(sum(singly), rel=1e-4)
    slots = len(made.problem.search_space.parameters)
    assert found.per_parameter == pytest.approx(found.total / (6 * slots), rel=1e-5)
    assert found.over_uniform > found.per_parameter


def test_histories_are_identified_by_the_likeliest_name(monkeypatch):
    told = {("a", "a"): -1.0, ("a", "b"): -2.0, ("b", "a"): -3.0, ("b", "b"): -3.5}

    def fake(model, made, algorithm, trials):
        value = told.get((made, algorithm), -9.0)
        return likelihood.Likelihood(value, value, value)

    monkeypatch.setattr(likelihood, "likelihood", fake)
    found = likelihood.identify(None, {"a": ["a", "a"], "b": ["b", "b"]}, trials=40)
    np.testing.assert_array_equal(found.matrix, [[1, 0], [1, 0]])
    assert found.accuracy == 0.5
    assert found.trajectories == 2
    assert found.likelihoods["b"][likelihood.NONE].total == -9.0


# --- Draws ---


@pytest.mark.parametrize("teacher", TEACHERS_HERE)
def test_a_teachers_draws_are_what_it_may_do_next(model, teacher):
    problem = trajectories.ImitationProblem("LinearSlope", 11, largest=4)
    found = draws.draw(model, teacher, problem.experimenter(0), history=30, count=24, seed=3)
    slots = len(found.levels)
    assert found.teacher.shape == found.model.shape == (24, slots)
    assert ((found.teacher >= 0) & (found.teacher < found.levels)).all()
    assert ((found.model >= 0) & (found.model < found.levels)).all()
    different = len(np.unique(found.teacher, axis=0))
    if teacher in ("grid_search", "shuffled_grid_search"):
        assert different == 1
    else:
        assert different > 3
    if teacher == "hill_climb":
        walk = nature.Walk.of(found.study)
        best = walk.rows[int(np.argmax(walk.values))]
        assert ((found.teacher != best).sum(axis=1) <= 1).all()


def test_divergence_is_zero_for_equal_draws_and_grows_with_what_is_missed():
    rng = np.random.default_rng(0)
    levels = np.array([1000, 3], np.int32)
    uniform = rng.integers(levels, size=(4000, 2)).astype(np.int32)
    low = (rng.integers(levels, size=(4000, 2)) // [4, 1]).astype(np.int32)
    nothing = vz.ProblemAndTrials(vz.ProblemStatement(), [])
    assert draws.Draws(nothing, uniform, uniform, levels).divergence() == 0
    assert draws.Draws(nothing, low, uniform, levels).floor() < 0.01
    apart = draws.Draws(nothing, low, uniform, levels).divergence()
    # A quarter of the range, two and a half bins of ten, against all of it; nothing in the other parameter.
    assert apart == pytest.approx((0.8 * np.log(4) + 0.2 * np.log(2)) / 2, rel=0.1)


def test_a_density_is_the_policys_probability_per_unit_of_the_square():
    model = OptFormer.from_pretrained("nano")
    problem = vz.ProblemStatement()
    for name in "ab":
        problem.search_space.root.add_discrete_param(name, list(range(8)))
    problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    # Told hill climbing, the model keeps to the values of the only trial: most of the mass is in a row and a column.
    trials = [vz.Trial({"a": 6, "b": 1}, id=1).complete(vz.Measurement({"y": 1.0}))]
    found = draws.density(model, vz.ProblemAndTrials(problem, trials), "hill_climb", 4)
    assert found.shape == (4, 4)
    assert found.mean() == pytest.approx(1)
    expected = np.zeros((4, 4))
    for a in range(8):
        for b in range(8):
            joint = model.log_prob(problem, trials, {"a": a, "b": b}, algorithm="hill_climb")
            expected[b // 2, a // 2] += np.exp(joint) * 16
    assert expected[0].sum() > expected[2].sum()
    assert expected[:, 3].sum() > expected[:, 1].sum()
    # 16,384 draws: the standard deviation of a cell with density d is sqrt(16 d / 16,384).
    assert (np.abs(found - expected) < 5 * np.sqrt(16 * expected / 16_384) + 0.01).all()
    problem.search_space.root.add_float_param("c", 0.0, 1.0)
    with pytest.raises(ValueError, match="two parameters, not 3"):
        draws.density(model, vz.ProblemAndTrials(problem, []), None, 10)


# --- Nature ---


def test_counts_tell_the_teachers_apart():
    counts = {
        teacher: {name: np.mean([count(nature.Walk.of(study(teacher, index))) for index in range(2)])
                  for name, count in nature.COUNTS.items()}
        for teacher in ("grid_search", "random_search", "hill_climb", "regularized_evolution")
    }  # fmt: skip
    assert counts["grid_search"]["counts through a grid"] > 0.8
    assert counts["random_search"]["counts through a grid"] < 0.4
    assert counts["hill_climb"]["one parameter from the best"] == 1.0
    assert counts["regularized_evolution"]["one parameter from the last 25"] == 1.0
    assert counts["regularized_evolution"]["one parameter from the best"] < 0.95
    assert counts["hill_climb"]["distance to the best"] < 0.7 < counts["random_search"]["distance to the best"]
    assert counts["random_search"]["distance from uniform"] < counts["hill_climb"]["distance from uniform"]
    same = nature.compare([study("hill_climb")] * 2, [study("hill_climb")] * 2)
    assert all(count.teacher == count.model for count in same.values())


def test_a_grid_may_be_counted_in_any_order_of_its_parameters():
    """The model sees no order of the parameters, so it cannot know which one counts fastest."""
    digits = np.array([(a, b, c) for a in range(4) for b in range(3) for c in range(5)])
    values = np.zeros(len(digits))

    def share(rows):
        levels = np.array(rows.max(axis=0) + 1)
        return nature.counting(nature.Walk(rows, levels, np.zeros(3, bool), values))

    assert share(digits) == share(digits[:, ::-1]) == share(digits[:, [1, 2, 0]]) == 1.0
    assert share(np.random.default_rng(0).permutation(digits)) < 0.1


# --- Roll-outs ---


def test_progress_compares_runs_at_a_trial():
    rng = np.random.default_rng(0)
    teacher = np.sort(rng.random((6, 4, 100)), axis=2)
    same = trajectories.progress(teacher, teacher, 100)
    assert same.within
    assert same.paired == same.effect == 0
    assert same.ks == pytest.approx(1.0)
    worse = trajectories.progress(teacher, teacher - 0.5, 60)
    assert not worse.within
    assert worse.paired == pytest.approx(-0.5)
    assert worse.ks < 1e-6
    assert worse.teacher_error == pytest.approx(teacher[..., 59].std(ddof=1) / np.sqrt(24))
    assert worse.effect == pytest.approx(-0.5 / teacher[..., 59].std(ddof=1))


def test_every_problem_has_a_search_space_of_its_own():
    """The number of an instance draws its space, whatever the function: the functions must not share numbers."""
    problems = trajectories.problems(6, 16)
    assert {problem.function for problem in problems} == set(bbob.HELD_OUT)
    layouts = {randomized_bbob.draw_layout(p.function, p.instance, p.largest) for p in problems}
    assert len(layouts) == len({problem.name for problem in problems}) == len(problems) == 30


def test_problems_are_judged_without_their_noise_and_maximized():
    problem = next(
        p for p in trajectories.problems(4, 6) if "ADDITIVE" in p.experimenter(0).layout.noise
    )  # fmt: skip
    made = problem.experimenter(0)
    trial = vz.Trial({c.name: c.feasible_values[0] if c.type != vz.ParameterType.DOUBLE else 1.0
                      for c in made.problem_statement().search_space.parameters}, id=1)  # fmt: skip
    made.evaluate([trial])
    (observed,) = (m.value for m in trial.final_measurement_or_die.metrics.values())
    (judged,) = problem.judged([trial])
    assert judged != observed
    assert judged <= 0
    assert problem.judged([trial]) == judged
    scale = problem.scale()
    assert scale.reference < scale.best <= 0


def test_a_teachers_first_trial_is_its_own():
    """Not a random one: the order of a grid would begin in its middle, as it does in no corpus."""
    problem = trajectories.ImitationProblem("LinearSlope", 11, largest=4)
    told = []
    job = running.Job(problem, Optimizer("grid_search"), recorded=True)
    running.carry_out(job, running.Plan(3, first_trials=0), lambda kind, news: told.append((kind, news)))
    assert [kind for kind, _ in told] == ["first", "trial", "trial", "trial"]
    statement = problem.experimenter(0).problem_statement()
    designer = make_teacher("grid_search", statement, seed=0)
    (expected,) = designer.suggest(1)
    _, ((parameters,), _) = told[1][1][:2]
    assert parameters == expected.parameters.as_dict()


def test_runs_become_studies_again():
    problem = trajectories.ImitationProblem("LinearSlope", 11, largest=4)
    space = problem.experimenter(0).problem_statement().search_space
    parameters = {c.name: 0.5 if c.type == vz.ParameterType.DOUBLE else c.feasible_values[0] for c in space.parameters}
    outcome = Outcome("key", values=[1.0, None], parameters=[parameters, parameters], observed=[1.5, None])
    first, second = trajectories.trajectory(problem, 0, outcome).study.trials
    assert first.parameters.as_dict() == parameters
    assert [m.value for m in first.final_measurement_or_die.metrics.values()] == [1.5]
    assert second.infeasible
