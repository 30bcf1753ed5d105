"""Vizier's process sees one shape for many numbers of trials, and is the teacher it was."""

import jax
import numpy as np
import pytest
from vizier import pyvizier as vz
from vizier.pyvizier import converters

from optformer.data.teachers.gp_bandit import SIZES, FewSizes, padded
from optformer.data.teachers.registry import TEACHERS, make_teacher


def test_there_is_always_a_place_more_than_trials_and_few_sizes():
    sizes = [padded(trials) for trials in range(1, 1001)]
    assert all(size > trials for trials, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert sorted(set(sizes))[:4] == [*SIZES, 200]
    assert len(set(sizes)) == 13
    assert padded(0) == 0


def test_what_is_compiled_for_one_trial_serves_until_the_size_is_full():
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.search_space.root.add_categorical_param("c", ["a", "b", "c"])
    problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    converter = converters.TrialToModelInputConverter.from_problem(problem, padding_schedule=FewSizes())
    trials = [
        vz.Trial({"x": number / 30, "c": "abc"[number % 3]}, id=number).complete(vz.Measurement({"y": float(number)}))
        for number in range(1, 31)
    ]

    def compiled_for(count):
        data = converter.to_xy(trials[:count])
        leaves, structure = jax.tree.flatten(data)
        return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]

    assert compiled_for(1) == compiled_for(SIZES[0] - 1)
    assert compiled_for(SIZES[0] - 1) != compiled_for(SIZES[0])
    assert compiled_for(SIZES[0]) == compiled_for(30)
    data = converter.to_xy(trials)
    continuous, categorical = data.features.continuous, data.features.categorical
    np.testing.assert_allclose(continuous.unpad(), [[number / 30] for number in range(1, 31)], rtol=1e-6)
    assert np.isnan(continuous.padded_array[30:]).all()
    assert (np.asarray(categorical.padded_array[30:]) == -1).all()
    np.testing.assert_allclose(data.labels.unpad()[:, 0], np.arange(1.0, 31.0))


@pytest.mark.slow
@pytest.mark.skipif(not TEACHERS["gp_ucb"].available, reason="Vizier's Gaussian process needs packages of its own")
# jaxopt says that it is no longer maintained, tensorflow-probability uses what jax gives up: Vizier needs both.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_begins_at_the_centre_and_finds_a_bowl():
    from vizier import algorithms as vza

    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.search_space.root.add_float_param("z", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MINIMIZE))

    def tuned():
        designer, points = make_teacher("gp_ucb", problem, 0), []
        for number in range(1, 16):
            trial = designer.suggest(1)[0].to_trial(number)
            x, z = trial.parameters.get_value("x"), trial.parameters.get_value("z")
            trial.complete(vz.Measurement({"y": (x - 0.8) ** 2 + (z - 0.3) ** 2}))
            designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())
            points.append((x, z))
        return points

    with jax.numpy_rank_promotion("allow"):  # Vizier's code relies on it
        points, again = tuned(), tuned()
    assert points[0] == (0.5, 0.5)
    assert min((x - 0.8) ** 2 + (z - 0.3) ** 2 for x, z in points) < 1e-3
    assert again == points
