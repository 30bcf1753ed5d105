"""Reports of stopped and running trials, as the model is shown them: what must hold for any weights."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer import OptFormer
from optformer.inference.early_stopping import CHECKED_SHARES, FEWEST_FINISHED, stopping
from optformer.inference.shown_reports import EARLIER, shown_reports
from optformer.serialization.partial_trials import Reports
from tests.inference import test_search
from tests.inference.test_search import plain

pytestmark = pytest.mark.integration

STEPS = 10


def problem() -> vz.ProblemStatement:
    return test_search.problem(vz.ObjectiveMetricGoal.MINIMIZE, ("loss",))


def trial(number: int, steps: int = STEPS, *, stopped: bool = False, level: float = 0.0) -> vz.Trial:
    """A trial that has reported so many steps; a value falls towards its end."""
    rng = np.random.default_rng(number)
    kind = "ab"[number % 2]
    made = vz.Trial({"x": float(rng.random()), "rate": 10.0 ** float(rng.uniform(-4, 0)), "kind": kind}, id=number)
    made.parameters["depth"] = int(rng.integers(1, 9))
    end = (made.parameters["x"].value - 0.3) ** 2 + level
    for step in range(1, steps + 1):
        made.measurements.append(vz.Measurement({"loss": end + 1.0 / step}, steps=step))
    if stopped:
        made.stopping_reason = "pruned"
        made.complete(vz.Measurement())
    elif steps == STEPS:
        made.complete(vz.Measurement({"loss": end + 1.0 / STEPS}))
    return made


@pytest.fixture(scope="module")
def reader(model) -> OptFormer:
    """The model, as if it had been trained with learning curves."""
    card = {"name": "random-tiny", "train_config": {"augmentation": {"partial_rate": 0.5}}}
    reading = model.with_settings()
    reading.card = card
    return reading


FINISHED = [trial(number) for number in range(1, 7)]


def asked() -> list[dict[str, object]]:
    return [trial(number).parameters.as_dict() for number in (31, 32)]


def test_reports_of_running_trials_change_what_is_predicted(reader):
    early = reader.predict(problem(), [*FINISHED, trial(7, 3)], asked())
    late = reader.predict(problem(), [*FINISHED, trial(7, 8)], asked())
    alone = reader.predict(problem(), FINISHED, asked())
    assert not np.allclose(early.mean, late.mean)
    assert not np.allclose(alone.mean, early.mean)


def test_reports_of_stopped_trials_change_the_final_value_of_a_running_one(reader):
    early = reader.predict_final(problem(), [*FINISHED, trial(7, 3, stopped=True)], trial(8, 5))
    late = reader.predict_final(problem(), [*FINISHED, trial(7, 8, stopped=True)], trial(8, 5))
    alone = reader.predict_final(problem(), FINISHED, trial(8, 5))
    assert not np.allclose(early.mean, late.mean)
    assert not np.allclose(alone.mean, early.mean)


def test_where_every_trial_has_finished_reports_do_not_matter(reader):
    bare = []
    for each in FINISHED:
        bare.append(vz.Trial(each.parameters, id=each.id).complete(each.final_measurement))
    np.testing.assert_array_equal(
        reader.predict(problem(), FINISHED, asked()).mean, reader.predict(problem(), bare, asked()).mean
    )
    assert plain(reader.suggest(problem(), FINISHED)) == plain(reader.suggest(problem(), bare))


@pytest.mark.parametrize("with_curves", [False, True])
def test_stopped_trials_count_with_predicted_values(model, reader, with_curves):
    stopped = trial(7, 4, stopped=True)
    value = (stopped.parameters["x"].value - 0.3) ** 2 + 1.0 / STEPS
    ended = vz.Trial(stopped.parameters, id=7).complete(vz.Measurement({"loss": value}))
    asked_model = reader if with_curves else model
    ours = asked_model.predict(problem(), [*FINISHED, stopped], asked())
    np.testing.assert_allclose(ours.mean, asked_model.predict(problem(), [*FINISHED, ended], asked()).mean, rtol=1e-4)


def test_with_several_objectives_reports_of_stopped_trials_are_read(reader):
    """No rule predicts their final values."""
    several = test_search.problem(vz.ObjectiveMetricGoal.MINIMIZE, ("loss", "size"))
    for each in (finished := [trial(number) for number in range(1, 7)]):
        each.final_measurement.metrics["size"] = vz.Metric(float(each.id))
    early, late = (
        reader.predict(several, [*finished, trial(7, steps, stopped=True)], asked(), metric="loss") for steps in (3, 8)
    )
    assert not np.allclose(early.mean, late.mean)


def test_a_model_without_learning_curves_predicts_no_final_value(model):
    with pytest.raises(ValueError, match="not trained with learning curves"):
        model.predict_final(problem(), FINISHED, trial(7, 4))


def test_the_final_value_depends_on_the_trials_own_reports(reader):
    running = trial(7, 5)
    first = reader.predict_final(problem(), FINISHED, running)
    assert len(first) == 1
    assert math.isfinite(first.mean[0])
    among_them = reader.predict_final(problem(), [running, *FINISHED], running)
    np.testing.assert_allclose(first.mean, among_them.mean, rtol=1e-5)
    elsewhere = reader.predict_final(problem(), FINISHED, trial(7, 5, level=2.0))
    assert not np.allclose(first.mean, elsewhere.mean)
    with pytest.raises(ValueError, match="trial 1: it has a final value"):
        reader.predict_final(problem(), FINISHED, FINISHED[0])


def test_values_on_the_way_are_predicted(reader):
    running = trial(7, 3)
    final = reader.predict_final(problem(), FINISHED, running)
    half = reader.predict_final(problem(), FINISHED, running, share=0.5)
    assert not np.allclose(final.mean, half.mean)
    np.testing.assert_array_equal(reader.predict_final(problem(), FINISHED, running, share=1.0).mean, final.mean)
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="share must lie in"):
            reader.predict_final(problem(), FINISHED, running, share=share)
    with pytest.raises(ValueError, match="trial 7: it has not reported"):
        reader.predict_final(problem(), FINISHED, trial(7, 0), share=0.5)
    assert math.isfinite(reader.predict_final(problem(), FINISHED, trial(7, 0)).mean[0])


@pytest.mark.parametrize("finished", [0, 6])
def test_suggestions_from_stopped_trials(reader, finished):
    known = [*FINISHED[:finished], *(trial(number, 2, stopped=True) for number in range(11, 17)), trial(20, 4)]
    suggestions = reader.suggest(problem(), known, count=2)
    taken = plain(known)
    for suggestion in suggestions:
        assert problem().search_space.contains(suggestion.parameters)
        assert suggestion.parameters.as_dict() not in taken
    assert plain(suggestions) == plain(reader.suggest(problem(), known, count=2))
    policy = reader.suggest(problem(), known, acquisition="policy")
    assert problem().search_space.contains(policy[0].parameters)


def test_more_reports_than_the_model_is_shown(reader):
    few = reader.with_settings(max_trials=16)
    known = [*(trial(number) for number in range(1, 21)), *(trial(n, 3, stopped=True) for n in range(21, 41))]
    (suggestion,) = few.suggest(problem(), known)
    assert problem().search_space.contains(suggestion.parameters)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("srfn")), max_size=30), st.integers(0, 40), st.data())
def test_shown_reports_keep_their_promises(trials, most, data):
    """s stopped, r running, f finished, n failed."""
    reports = [Reports(np.arange(100, 100 - 10 * count, -10, np.int32), np.arange(float(count))) for count, _ in trials]
    states = np.array([state for _, state in trials], "U1")
    standing = np.isin(states, list("sr"))
    told = np.array([count > 0 for count, _ in trials], bool)
    choices = np.flatnonzero(standing & told).tolist()
    last = data.draw(st.sampled_from([None, *choices]))
    shown = shown_reports(reports, standing, states == "f", most, last)
    assert len(shown.trials) <= most
    pairs = list(zip(shown.trials.tolist(), shown.levels.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert pairs == sorted(pairs, key=lambda pair: (pair[0], -pair[1]))
    for number, level in pairs:
        if number == last:
            continue
        assert standing[number] or states[number] == "f"
        if standing[number]:
            assert level == reports[number].levels[-1], "its last report"
    if not choices:
        assert not pairs, "nothing to compare"
    elif last is not None and most:
        own = [level for number, level in pairs if number == last]
        assert reports[last].levels[-1] in own
        assert len(own) <= EARLIER + 1
    elif most >= 2 * len(trials):
        assert set(choices) <= set(shown.trials.tolist())


class Fixed:
    """Says of every running trial that it beats the best one with a certain probability."""

    def __init__(self, probability: float):
        self.probability, self.calls = probability, 0

    def predict_final(self, *_: object) -> "Fixed":
        self.calls += 1
        return self

    def probability_of_improvement(self, best: float) -> list[float]:
        return [self.probability]


def test_what_hardly_improves_is_stopped():
    hopeless, hopeful = Fixed(0.01), Fixed(0.2)
    running = trial(9, 5)
    stopped = stopping(hopeless, problem(), FINISHED, running)
    assert stopped.stop
    assert stopped.probability == 0.01
    assert "0.01" in stopped.reason
    assert not stopping(hopeful, problem(), FINISHED, running).stop
    assert stopping(hopeful, problem(), FINISHED, running, threshold=0.3).stop
    with pytest.raises(ValueError, match="probability between 0 and 1"):
        stopping(hopeless, problem(), FINISHED, running, threshold=5.0)


def test_nothing_is_asked_where_too_little_is_known():
    for trials, running in (
        (FINISHED[: FEWEST_FINISHED - 1], trial(9, 5)),
        (FINISHED, trial(9, 3)),
        (FINISHED, trial(9, 0)),
        ([trial(number, 9, stopped=True) for number in range(1, 9)], trial(9, 5)),
    ):
        model = Fixed(0.0)
        found = stopping(model, problem(), trials, running)
        assert not found.stop
        assert math.isnan(found.probability)
        assert model.calls == 0
    assert min(CHECKED_SHARES) == pytest.approx(1 / 3)


def test_it_is_asked_a_few_times_on_the_way():
    model = Fixed(1.0)
    for steps in range(1, STEPS):
        stopping(model, problem(), FINISHED, trial(9, steps))
    assert model.calls == 6, "0.4, 0.5, ... 0.9"


def test_the_one_that_is_ahead_of_those_that_run_goes_on():
    ahead, behind = trial(9, 5, level=-1.0), trial(10, 6, level=1.0)
    model = Fixed(0.0)
    assert not stopping(model, problem(), [*FINISHED, ahead, behind], ahead).stop
    assert stopping(model, problem(), [*FINISHED, ahead, behind], behind).stop
