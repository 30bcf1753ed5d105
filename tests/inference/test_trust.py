"""When half of the suggestions do not follow the model: its predictions are poor, or the study is on a plateau."""

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.inference.search import QUASI_RANDOM
from optformer.inference.settings import SearchSettings
from optformer.inference.trust import marginal, on_plateau
from optformer.serialization import tokens


def sources(weights, values: list[float], **settings: object) -> set[str]:
    """Sources of twelve suggestions, in a study of trials with these objectives."""
    problem = vz.ProblemStatement(metric_information=[vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE)])
    root = problem.search_space.root
    root.add_float_param("x", 0.0, 1.0)
    root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_int_param("depth", 1, 9)
    root.add_categorical_param("kind", ["a", "b", "c"])
    rng = np.random.default_rng(0)
    trials = []
    for number, value in enumerate(values, 1):
        parameters = {
            "x": float(rng.random()),
            "rate": float(10 ** rng.uniform(-4, 0)),
            "depth": int(rng.integers(1, 10)),
            "kind": "abc"[rng.integers(3)],
        }
        trial = vz.Trial(parameters, id=number)
        trials.append(trial.complete(vz.Measurement({"y": value})))
    small = SearchSettings(rounds=0, first_candidates=64, policy_samples=32, **settings)
    model = OptFormer(weights, settings=small)
    suggested = [model.suggest(problem, trials, seed=seed)[0] for seed in range(12)]
    return {suggestion.metadata.ns("optformer")["source"] for suggestion in suggested}


@pytest.mark.integration
def test_a_model_that_predicts_worse_than_the_marginal_is_not_followed_blindly(weights):
    # Random weights spread over all bins; a history of two values far apart is predicted far better by its marginal.
    values = [float(index % 2) for index in range(24)]
    assert sources(weights, values) == {"ei", QUASI_RANDOM}
    assert sources(weights, values, check_trust=False) == {"ei"}


@pytest.mark.integration
def test_the_model_is_tested_after_every_fourth_trial(weights):
    values = [float(index % 2) for index in range(12)]  # twelve are the fewest for a test
    assert sources(weights, values[:11]) == {"ei"}
    assert sources(weights, [*values, 0.5, 0.4, 0.6]) == sources(weights, values) == {"ei", QUASI_RANDOM}


@pytest.mark.integration
def test_a_study_whose_best_trials_are_nearly_equal_explores(weights):
    nearly_equal = [136_990.0 + index % 2 for index in range(5)]
    assert sources(weights, [0.0, *nearly_equal]) == {"ei", QUASI_RANDOM}
    assert sources(weights, [0.0, *nearly_equal], check_trust=False) == {"ei"}
    assert sources(weights, [136_950.0, *nearly_equal]) == {"ei"}


@pytest.mark.parametrize(
    "values, expected",
    [
        ([136_992.0, 136_993.0, 86_158.0], True),
        ([0.1, 0.1, 0.0], True),
        ([-0.3, -0.5, -1e6], False),  # a penalty
        ([0.1, 0.3, -5e4, 0.2, -9e6], False),  # R2 of models that sometimes diverge
        ([-0.6931, -0.6932, -0.6931, -27.0], True),  # networks that do not learn
        ([3.0, 2.0, 1.0], False),
        ([2.0, 2.0, 2.0], False),
        ([1.0, 0.0], False),
        ([1.7e308, 1.7e308, -1.7e308], True),
        ([*np.linspace(0.9999, 1.0, 38), 0.0], True),
        ([*np.linspace(0.9999, 1.0, 39), 0.0], False),
    ],
)
def test_plateaus(values, expected):
    assert on_plateau(np.array(values)) == expected


def test_the_marginal_is_a_distribution_around_what_was_seen():
    density = marginal(np.array([300, 310, 320, 700]))
    assert density.sum() == pytest.approx(1.0, abs=1e-9)
    assert density.min() >= 0.1 / tokens.NUM_LEVELS
    assert density[310] > density[700] > density[0]
