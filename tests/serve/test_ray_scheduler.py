"""The trial scheduler for Ray Tune, told of results as Tune tells of them."""

import types

import pytest
from ray import tune

from optformer.serve.ray_tune import OptFormerScheduler

pytestmark = pytest.mark.integration

SPACE = {"x": tune.uniform(0.0, 1.0), "model": {"kind": tune.choice(["a", "b"])}, "constant": 3}


def trial(number: int):
    config = {"x": (0.618 * number) % 1.0, "model": {"kind": "ab"[number % 2]}, "constant": 3}
    return types.SimpleNamespace(trial_id=f"t{number}", config=config)


def run(scheduler: OptFormerScheduler, number: int, steps: int = 9, metric: str = "loss") -> int:
    """The step at which a trial ends."""
    running, result = trial(number), {}
    for step in range(1, steps + 1):
        result = {metric: running.config["x"] + 1.0 / step, "training_iteration": step}
        if scheduler.on_trial_result(None, running, result) == "STOP":
            scheduler.on_trial_complete(None, running, result)
            return step
    scheduler.on_trial_complete(None, running, result)
    return steps


@pytest.mark.parametrize(("threshold", "ends"), [(0.0, [9] * 6), (1.0, [9] * 4 + [3, 3])])
def test_it_stops_below_the_threshold(reader, threshold, ends):
    scheduler = OptFormerScheduler(SPACE, model=reader, threshold=threshold)
    assert scheduler.set_search_properties("loss", "min")
    assert [run(scheduler, number) for number in range(6)] == ends
    assert scheduler.debug_string() == f"OptFormerScheduler: {ends.count(3)} trials stopped."


def test_trials_without_a_number_do_not_count(reader):
    scheduler = OptFormerScheduler(SPACE, "loss", "max", model=reader, threshold=1.0)
    assert [run(scheduler, number, metric="other") for number in range(4)] == [9] * 4
    for number in range(4, 8):
        run(scheduler, number)
    scheduler.on_trial_error(None, trial(4))
    scheduler.on_trial_remove(None, trial(5))
    assert run(scheduler, 8) == 9, "two trials that finished are left"


def test_what_it_is_told_has_to_fit(model, reader):
    with pytest.raises(ValueError, match="was not trained with learning curves"):
        OptFormerScheduler(SPACE, model=model)
    with pytest.raises(ValueError, match="threshold is a probability"):
        OptFormerScheduler(SPACE, model=reader, threshold=2.0)
    with pytest.raises(ValueError, match="mode must be 'min' or 'max', not 'least'"):
        OptFormerScheduler(SPACE, "loss", "least", model=reader)
    scheduler = OptFormerScheduler(SPACE, "loss", "min", model=reader)
    assert not scheduler.set_search_properties("accuracy", "max")
    with pytest.raises(ValueError, match="needs metric and mode"):
        OptFormerScheduler(SPACE, model=reader).on_trial_result(None, trial(1), {"loss": 1.0, "training_iteration": 1})
