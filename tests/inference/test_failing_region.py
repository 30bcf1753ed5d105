"""The shipped model on problems of which a third of the space fails."""

import numpy as np
import pytest

from optformer.facade import load
from optformer.serve.ask_tell import AskTell

TRIALS = 40


def failures(seed: int) -> list[bool]:
    """Of each trial: a quadratic of three parameters, of which everything beyond a plane fails."""
    rng = np.random.default_rng([seed, 5])
    slope, points = rng.normal(size=3), rng.random((4000, 3))
    limit = np.quantile(points @ slope, 2 / 3)
    best = points[points @ slope < limit][0]
    tuner, failed = AskTell({f"x{k}": (0.0, 1.0) for k in range(3)}, load("nano"), seed=seed), []
    for _ in range(TRIALS):
        trial = tuner.ask()
        x = np.array(list(trial.parameters.values()))
        failed.append(bool(x @ slope > limit))
        tuner.tell(trial, None if failed[-1] else float(np.sum((x - best) ** 2)))
    return failed


@pytest.mark.slow
def test_failures_fall_with_trials_and_stay_below_random_searchs():
    failed = np.array([failures(seed) for seed in range(3)], float)
    first, second = failed[:, : TRIALS // 2].mean(), failed[:, TRIALS // 2 :].mean()
    assert first < 1 / 3
    assert second < first
