"""Searchers for Ray Tune and what the tests of their domains and of their trials share."""

import pytest
from ray import tune

from optformer.serve.ray_tune import OptFormerSearcher

# Optuna says so of any choice that its databases could not keep; a searcher's study is in memory.
objects_as_choices = pytest.mark.filterwarnings("ignore:Choices for a categorical distribution should be a tuple")


def searcher(model, space=None, mode="min", **arguments):
    arguments = {"metric": "loss", "mode": mode, "seed": 0, "model": model} | arguments
    return OptFormerSearcher({"x": tune.uniform(0.0, 1.0)} if space is None else space, **arguments)


def run(search, count, loss=lambda config: 1.0, first=0):
    """A few trials one after the other."""
    configs = []
    for number in range(first, first + count):
        configs.append(search.suggest(f"t{number}"))
        search.on_trial_complete(f"t{number}", {"loss": loss(configs[-1])})
    return configs


def trials(search):
    return search._ot_study.get_trials(deepcopy=False)


def relu(x):
    return max(x, 0)
