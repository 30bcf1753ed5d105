"""Predictions over HTTP, and what an optimal trial is."""

import numpy as np
import pytest
from http_calls import GOOD, METRICS, new_study
from vizier import pyvizier as vz

from optformer.inference.hypervolume import undominated
from optformer.serve import testing
from optformer.serve.vizier import ALGORITHM

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("algorithm", [ALGORITHM, "QUASI_RANDOM_SEARCH"])
def test_predictions_are_the_models(owner, model, algorithm):
    owner.done("POST", body=new_study(algorithm=algorithm, metrics=[*METRICS, {"name": "time", "goal": "maximize"}]))
    trials = []
    for number in range(5):
        values = GOOD | {"layers": number + 1}
        measured = {"objective": float(number), "time": 1.0}
        owner.done("POST", "/s/trials", {"parameters": values, "metrics": measured})
        trial = vz.Trial(id=number + 1, parameters=values)
        trials.append(trial.complete(vz.Measurement(metrics=measured)))
    owner.suggest(count=1)  # pending ones count too
    pending = owner.done("GET", "/s/trials?after=5")["trials"][0]
    trials.append(vz.Trial(id=6, parameters=pending["parameters"]))
    candidates = [GOOD | {"layers": 7}, GOOD | {"optimizer": "sgd"}]
    answer = owner.done("POST", "/s/predictions", {"candidates": candidates, "metric": "objective"})
    assert (answer["checkpoint"], answer["metric"]) == ("random-tiny", "objective")
    problem = testing.mixed_problem()
    problem.metric_information.append(vz.MetricInformation("time", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    expected = model.predict(problem, trials, candidates, metric="objective")
    for index, reply in enumerate(answer["predictions"]):
        assert reply["mean"] == pytest.approx(expected.mean[index], rel=1e-3)
        assert reply["stddev"] == pytest.approx(expected.stddev[index], rel=1e-3)
        assert reply["infeasible"] == pytest.approx(expected.infeasible[index], rel=1e-3)
        quantiles = [reply["quantile_05"], reply["quantile_50"], reply["quantile_95"]]
        assert quantiles == pytest.approx(expected.quantile([0.05, 0.5, 0.95])[:, index], rel=1e-3, abs=1e-6)
    for body, said in (
        ({"candidates": candidates}, "several objectives; name one of 'objective', 'time'"),
        ({"candidates": candidates, "metric": "loss"}, "no metric 'loss'"),
        ({"candidates": [GOOD | {"layers": 20}], "metric": "time"}, "parameter 'layers': 20 is outside its bounds"),
        ({"candidates": [GOOD | {"x": 1}], "metric": "time"}, "parameter 'x': the search space has no parameter"),
        (b'{"candidates": [{"dropout": Infinity}]}', "study 's': candidates[0].dropout should be a finite number"),
        ({"candidates": []}, "study 's': candidates list should have at least 1 item"),
        ({"candidates": {}}, "study 's': candidates should be a valid list"),
    ):  # fmt: skip
        status, code, message = owner.refused("POST", "/s/predictions", body)
        assert (status, code) == (422, "INVALID_ARGUMENT")
        assert said in message
        assert "study '" in message


def test_undominated_rows_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    assert undominated(np.array([])) == []
    for metrics in (1, 2, 3):
        values = rng.integers(0, 5, (60, metrics)).astype(float)
        expected = [
            row
            for row, value in enumerate(values)
            if not any((other >= value).all() and (other > value).any() for other in values)
        ]
        assert sorted(undominated(values)) == expected
