"""Hard random studies: suggestions are legal and come out the same again, or the study is refused before the first."""

import dataclasses
import math

import pytest
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.inference.settings import SearchSettings
from optformer.model import ModelConfig, build_model
from optformer.serve.random_studies import assert_legal, check_random_study, configurations, random_study

pytestmark = pytest.mark.integration

FEW = (1, 4, 11, 12, 13, 22, 24)
"""Small ones, of few sizes that have to be compiled."""


@pytest.mark.parametrize("seed", FEW)
def test_hard_studies(seed, model):
    assert check_random_study(model, seed, steps=1) is None


def test_a_study_is_refused_before_the_first_suggestion(model):
    assert "parameter 'p6': scale REVERSE_LOG needs positive bounds" in check_random_study(model, 7)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_500_hard_studies(part):
    """With experts, whose arithmetic has most to lose.  Also by hand: `pytest -m slow -k 'hard_studies and part7'`."""
    config = dataclasses.replace(ModelConfig.tiny(), experts=4, policy_recall=True)
    settings = SearchSettings(first_candidates=128, round_candidates=64, policy_samples=16)
    model = OptFormer(build_model(config), {"name": "random-tiny"}, settings)
    refused = [check_random_study(model, seed) for seed in range(25 * part, 25 * (part + 1))]
    assert sum(reason is not None for reason in refused) < 5, refused


def test_the_studies_are_hard():
    studies = [random_study(seed) for seed in range(60)]
    configs = [config for problem, _ in studies for config in problem.search_space.parameters]
    assert max(len(problem.search_space.parameters) for problem, _ in studies) == 100
    assert max(len(trials) for _, trials in studies) == 500
    assert any(config.child_parameter_configs for config in configs)
    ranges = [c for c in configs if c.type in (vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER)]
    assert any(c.type == vz.ParameterType.INTEGER and c.bounds[1] > 2**53 for c in ranges)
    assert any(c.bounds == (1.0, math.nextafter(1.0, 2.0)) for c in ranges)
    assert any(c.bounds[0] == 1e-300 and c.scale_type == vz.ScaleType.LOG for c in ranges)
    assert any(c.type == vz.ParameterType.CATEGORICAL and len(c.feasible_values) == 1000 for c in configs)
    completed = [[trial for trial in trials if trial.is_completed] for _, trials in studies if trials]
    assert any(trials and all(trial.infeasible for trial in trials) for trials in completed), "no finite value"
    assert any(not trials for trials in completed), "nothing but pending trials"
    assert random_study(5)[0].search_space == studies[5][0].search_space


def test_what_is_illegal_is_found():
    space = vz.SearchSpace()
    kind = space.root.add_categorical_param("kind", ["a", "b"])
    kind.select_values(["b"]).add_int_param("depth", 1, 3)
    assert configurations(space) == 4
    for good in ({"kind": "a"}, {"kind": "b", "depth": 3}):
        assert_legal(good, space)
    for bad in ({"kind": "a", "depth": 1}, {"kind": "b"}, {"kind": "b", "depth": 4}, {"kind": "b", "depth": 1.0}, {}):
        with pytest.raises(AssertionError):
            assert_legal(bad, space)
