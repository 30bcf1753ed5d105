"""Families of problems: what is held out, what a seed decides, and what studies are told about them."""

import pickle

import pytest

from optformer.data.problems import registry, sklearn, sklearn_data
from optformer.evaluate.demo.objectives import HELD_OUT as TUNED_BY_DEMO
from optformer.evaluate.optimization import problems as compared
from optformer.evaluate.optimization import random_trials


@pytest.mark.parametrize("family", ["bbob", "sklearn"])
def test_every_problem_is_for_training_or_held_out(family):
    training, held_out = registry.problems(family), registry.problems(f"{family}-held-out")
    names = [problem.name for problem in training + held_out]
    assert len(set(names)) == len(names) == {"bbob": 21, "sklearn": 29}[family]
    assert all(problem.held_out for problem in held_out)
    assert not any(problem.held_out for problem in training)


def test_what_optimizers_are_compared_on_is_held_out():
    names = {problem.name for problem in registry.problems("sklearn-held-out")}
    assert names == set(sklearn.HELD_OUT)
    assert names >= {problem.task for problem in compared.sklearn_suite(8)}
    assert names >= set(TUNED_BY_DEMO)


def test_the_wide_pairs_train_on_nothing_that_is_held_out(monkeypatch):
    monkeypatch.setattr(sklearn_data, "check_packages", lambda: None)
    training = registry.problems("sklearn-wide")
    names = {problem.name for problem in training}
    for family in ("sklearn-held-out", "sklearn-wide-held-out"):
        assert not names & {problem.name for problem in registry.problems(family)}
    (drawn,) = (problem.draw(1) for problem in training if problem.name == "spline_ridge@friedman1")
    assert drawn.title == "ridge regression on splines on friedman1"
    assert drawn.description.startswith("scikit-learn's ridge regression on splines on its made-up data friedman1, ")


def test_a_seed_decides_everything_about_a_problem():
    for family in ("bbob", "sklearn"):
        problem = pickle.loads(pickle.dumps(registry.problems(family)[1]))
        assert problem == registry.problems(family)[1]
        same = [
            [t.final_measurement.metrics for t in random_trials(problem.draw(seed).experimenter, 3, seed=0)]
            for seed in (5, 5, 6)
        ]
        assert same[0] == same[1] != same[2]


def test_problems_say_what_they_are():
    (sphere, *_), fits = registry.problems("bbob"), registry.problems("sklearn")
    drawn = sphere.draw(5)
    assert drawn.title == "Sphere in 7 dimensions"
    assert drawn.description == (
        "BBOB function Sphere, shifted and rotated, 7 dimensions (3 continuous, 1 discrete, 3 categorical),"
        " moderate additive Gaussian noise"
    )
    (nearest,) = (problem for problem in fits if problem.name == "knn@breast_cancer")
    drawn = nearest.draw(1)
    assert drawn.title == "nearest neighbours on breast cancer"
    assert drawn.description.startswith("scikit-learn's nearest neighbours on its data set breast cancer, ")
    assert "rows of 30 features" in drawn.description


def test_search_spaces_are_known_before_a_problem_is_built():
    for problem in registry.problems("sklearn"):
        if problem.name.split("@")[1] == "wine":
            space = problem.draw(3).experimenter.problem_statement().search_space
            assert problem.conditional == space.is_conditional
            flat = len(space.parameters) + sum(len(p.child_parameter_configs) for p in space.parameters)
            assert problem.parameters == flat


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="no problems 'chess'; known are bbob, bbob-held-out, sklearn"):
        registry.problems("chess")
    with pytest.raises(ValueError, match="--yahpo-dir"):
        registry.problems("yahpo")
