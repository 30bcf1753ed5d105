"""Log densities against a uniform density and a fitted Gaussian process."""

import dataclasses

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.evaluate.calibration import gaussian_process_log_density, predict_studies, unit_features
from optformer.serialization.space import StudySchema


@dataclasses.dataclass
class NormalPrediction:
    mean: np.ndarray
    deviation: float

    def log_prob(self, y):
        return -0.5 * ((y - self.mean) / self.deviation) ** 2 - np.log(self.deviation * np.sqrt(2 * np.pi))

    def quantile(self, q):
        return self.mean + {0.05: -1.6449, 0.5: 0.0, 0.95: 1.6449}[q] * self.deviation


class KnowsTheFunction:
    """Stands in for a trained model: predicts the true objective with a known error."""

    def __init__(self):
        self.histories = []

    def predict(self, problem, trials, candidates):
        self.histories.append((len(trials), len(candidates)))
        return NormalPrediction(np.array([np.sin(5 * c.parameters["x"].value) for c in candidates]), 0.1)


def problem() -> vz.ProblemStatement:
    made = vz.ProblemStatement()
    made.search_space.root.add_float_param("x", 0.0, 1.0)
    made.search_space.root.add_categorical_param("kind", ["a", "b", "c"])
    made.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    return made


def study(num_trials: int, seed: int, infeasible: int = 0) -> vz.ProblemAndTrials:
    rng = np.random.default_rng(seed)
    trials = []
    for i in range(num_trials):
        x = float(rng.uniform())
        trial = vz.Trial({"x": x, "kind": "abc"[i % 3]}, id=i + 1)
        if i < infeasible:
            trial.complete(vz.Measurement(), infeasibility_reason="crash")
        else:
            trial.complete(vz.Measurement({"y": float(np.sin(5 * x) + 0.1 * rng.normal())}))
        trials.append(trial)
    return vz.ProblemAndTrials(problem(), trials)


def test_log_densities_are_those_of_the_predicted_distribution():
    model = KnowsTheFunction()
    studies = [study(30, 0), study(40, 1, infeasible=4), study(6, 2)]
    predicted = predict_studies(model, studies, history=8, max_predicted=20)
    assert model.histories == [(8, 20), (8, 20)], "infeasible trials are no history, short studies are left out"
    assert predicted.observed.shape == predicted.model.shape == (40,)
    np.testing.assert_array_equal(np.unique(predicted.study), [0, 1])
    # The stand-in is the true distribution: its expected log density is its negative entropy.
    assert predicted.model.mean() == pytest.approx(-np.log(0.1 * np.sqrt(2 * np.pi * np.e)), abs=0.35)
    assert 0.75 <= predicted.coverage() <= 1.0


def test_uniform_density_lies_over_the_range_of_the_whole_study():
    one = study(30, 0)
    values = [t.final_measurement.metrics["y"].value for t in one.trials]
    predicted = predict_studies(KnowsTheFunction(), [one], history=10)
    np.testing.assert_allclose(predicted.uniform, -np.log(max(values) - min(values)))


def test_gaussian_process_learns_a_smooth_function_and_is_a_density():
    rng = np.random.default_rng(0)
    x, x_new = rng.uniform(size=(25, 2)), rng.uniform(size=(40, 2))
    f = lambda x: 3.0 + 100 * np.sin(4 * x[:, 0])  # noqa: E731
    log_density = gaussian_process_log_density(x, f(x), x_new, f(x_new))
    assert log_density.mean() > -np.log(200.0) + 1.5, "well above a uniform density over the range"
    grid = np.linspace(-150, 150, 30_001)
    densities = gaussian_process_log_density(x, f(x), np.repeat(x_new[:1], len(grid), axis=0), grid)
    assert np.exp(densities).sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-2)


def test_features_are_unit_values_and_one_hot_categories():
    schema = StudySchema(problem())
    trials = [vz.Trial({"x": 0.0, "kind": "b"}, id=1), vz.Trial({"x": 1.0, "kind": "a"}, id=2)]
    np.testing.assert_array_equal(unit_features(schema, trials), [[0, 0, 1, 0], [1, 1, 0, 0]])


def test_studies_that_are_all_too_short_are_an_error():
    with pytest.raises(ValueError, match="more than 20"):
        predict_studies(KnowsTheFunction(), [study(12, 0)], history=20)
