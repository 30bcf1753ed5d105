"""The share of successful trials near a candidate, against a plain loop over trials and parameters."""

import math

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.inference.failures import RADIUS, nearby_success
from optformer.serialization import tokens
from optformer.serialization.study import EncodedStudy


def encoded_study(outcomes):
    problem = vz.ProblemStatement(
        metric_information=[vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE)]
    )
    root = problem.search_space.root
    root.add_float_param("x", 0.0, 1.0)
    kind = root.add_categorical_param("kind", ["a", "b"])
    kind.select_values(["a"]).add_int_param("depth", 1, 5)
    trials = []
    for number, (outcome, x, depth) in enumerate(outcomes, 1):
        parameters = {"x": x, "kind": "b"} if depth is None else {"x": x, "kind": "a", "depth": depth}
        trial = vz.Trial(id=number, parameters=parameters)
        if outcome != "pending":
            reason = "out of memory" if outcome == "failed" else None
            trial.complete(vz.Measurement(metrics={} if reason else {"loss": x}), infeasibility_reason=reason)
        trials.append(trial)
    return EncodedStudy(problem, trials)


OUTCOMES = [("failed", 0.5, 3), ("complete", 0.55, 3), ("failed", 0.52, 4), ("failed", 0.5, None), ("pending", 0.5, 3)]


def by_loop(study, row):
    good = total = 1.0
    for trial, status in zip(study.x_tokens, study.statuses, strict=True):
        if status == tokens.PENDING:
            continue
        square = 0.0
        for slot, one, other in zip(study.schema.slots, row, trial, strict=True):
            if slot.kind == tokens.CATEGORICAL or tokens.INACTIVE in (one, other):
                square += float(one != other)
            else:
                square += ((int(one) - int(other)) / (slot.levels - 1)) ** 2
        weight = math.exp(-square / (2 * RADIUS**2))
        total += weight
        good += weight * (status != tokens.INFEASIBLE)
    return good / total


def test_it_is_the_weighted_share_of_successful_trials():
    study = encoded_study(OUTCOMES)
    rows = np.concatenate([study.x_tokens, np.where(study.x_tokens < 5, study.x_tokens, 5)])
    np.testing.assert_allclose(nearby_success(study, rows), [by_loop(study, row) for row in rows])


def test_far_from_failed_trials_it_is_one_and_near_them_it_falls_with_their_number():
    once = encoded_study([("failed", 0.0, 1), ("complete", 1.0, 1)])
    thrice = encoded_study([("failed", 0.0, 1)] * 3 + [("complete", 1.0, 1)])
    near, far = once.x_tokens[:1], once.x_tokens[1:]
    assert nearby_success(once, far)[0] == pytest.approx(1.0, abs=1e-5)
    assert nearby_success(once, near)[0] == pytest.approx(1 / 2, abs=1e-3)
    assert nearby_success(thrice, near)[0] == pytest.approx(1 / 4, abs=1e-3)
