"""A run that gets worse says so."""

import json

from optformer.train.decline import TOLERANCE, Decline

SPOILT = [5.05, 4.94, 4.90, 4.85, 5.00, 5.12, 5.20, 5.22, 5.30, 5.30, 5.27, 5.20]
"""Function losses of a run whose rates were too high, every 500 steps."""


def warned(losses, decline):
    return [step for step, loss in enumerate(losses) if decline.observe(step, loss)]


def test_a_run_that_was_spoilt_is_told_of_at_its_third_worse_validation_and_now_and_then_after():
    assert warned(SPOILT, Decline()) == [6, 9]
    decline = Decline()
    (said,) = [said for step, loss in enumerate(SPOILT[:7]) if (said := decline.observe(500 * step, loss))]
    assert said.startswith("step 3000: the validation loss has been above that of step 1500 for 3 validations (5.200")


def test_learning_and_chance_are_no_decline():
    assert not warned([5.0 - 0.01 * step for step in range(20)], Decline())
    assert not warned([4.7, *[4.7 + 0.9 * TOLERANCE] * 20], Decline())
    assert not warned([4.7, 4.8, 4.8, 4.71, 4.8, 4.8, 4.71] * 3, Decline())


def test_it_goes_on_from_a_checkpoint():
    decline, steps = Decline(), []
    for step, loss in enumerate(SPOILT):
        decline = Decline(**json.loads(json.dumps(decline.to_json())))
        if decline.observe(step, loss):
            steps.append(step)
    assert steps == warned(SPOILT, Decline())
