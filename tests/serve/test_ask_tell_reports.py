"""The plain loop: trials that report on their way and are stopped, and what their journal keeps."""

import json

import pytest
from vizier import pyvizier as vz

from optformer.serve.ask_tell import AskTell, FinishedTrial

pytestmark = pytest.mark.integration

SPACE = {"x": (0.0, 1.0), "n": (1, 8)}
REPORTS = {1: 0.9, 2: 0.6, 3: 0.5}


def run(tuner, steps=9, value=1.0):
    """The step at which a trial ends; it is stopped where the tuner says so."""
    trial = tuner.ask()
    for step in range(1, steps + 1):
        tuner.report(trial, value + 1.0 / step, step)
        if tuner.should_stop(trial, threshold=1.0):
            tuner.tell(trial, "stopped")
            return step
    tuner.tell(trial, value)
    return steps


def test_a_trial_that_will_hardly_be_the_best_is_stopped(reader):
    tuner = AskTell(SPACE, reader)
    assert [run(tuner, value=float(number)) for number in range(1, 7)] == [9, 9, 9, 9, 3, 3]
    stopped = tuner.trials[-1]
    assert (stopped.values, stopped.stopped, list(stopped.reports)) == (None, True, [1, 2, 3])
    assert not any(trial.stopped for trial in tuner.trials[:4])
    assert tuner.best.number == 1
    trial = tuner.ask()
    assert not tuner.should_stop(trial), "it has not reported"
    with pytest.raises(ValueError, match="the threshold is a probability"):
        tuner.should_stop(trial, threshold=2.0)


def test_whether_to_stop_is_asked_of_models_that_read_reports(model):
    tuner = AskTell(SPACE, model)
    with pytest.raises(ValueError, match="was not trained with learning curves"):
        tuner.should_stop(tuner.ask())


def test_stopped_trials_count_with_what_they_would_have_come_to(model, asked):
    tuner = AskTell(SPACE, model)
    for final in (0.5, 0.2, 0.8):
        trial = tuner.ask()
        for step in (1, 2, 3):
            tuner.report(trial, final + 1.0 / step, step)
        tuner.tell(trial, final + 1.0 / 3)
    trial = tuner.ask()
    tuner.report(trial, 0.7 + 1.0, 1)
    tuner.tell(trial, "stopped")
    silent = tuner.ask()
    tuner.tell(silent, "stopped")
    running = tuner.ask()
    tuner.report(running, 0.3, 1)
    tuner.ask()
    *_, stopped, without, pending = asked[-1]
    assert stopped.final_measurement.metrics["objective"].value == pytest.approx(0.7 + 1.0 / 3)
    assert not without.final_measurement.metrics
    assert not without.infeasible
    assert pending.status == vz.TrialStatus.ACTIVE
    assert [each.steps for each in pending.measurements] == [1]


def test_reports_and_stopped_trials_are_in_the_journal(model, tmp_path):
    path = tmp_path / "tuning.jsonl"
    with AskTell(SPACE, model, journal=path) as tuner:
        done, stopped, running = tuner.ask(3)
        for step, value in REPORTS.items():
            for trial in (done, stopped, running):
                tuner.report(trial, value, step)
        tuner.tell(done, 0.4)
        tuner.tell(stopped, "stopped")
        added = tuner.add({"x": 0.25, "n": 3}, "stopped")
        before = tuner.trials, tuner.running
    assert added == FinishedTrial(4, {"x": 0.25, "n": 3}, None, stopped=True)
    with AskTell(SPACE, model, journal=path) as tuner:
        assert (tuner.trials, tuner.running) == before
        assert [trial.reports for trial in tuner.trials] == [REPORTS, REPORTS, {}]
        assert tuner.running[0].reports == REPORTS
        # The program was ended in this trial, and runs it again.
        tuner.report(running, 0.7, 2)
        assert tuner.running[0].reports == {1: 0.9, 2: 0.7}
        after = tuner.running
    with AskTell(SPACE, model, journal=path) as tuner:
        assert tuner.running[0] == after[0]


def test_a_journal_that_was_written_before_there_were_reports_is_read(model, tmp_path):
    path = tmp_path / "tuning.jsonl"
    first = {"study": {"parameters": {"x": ["ScaleType.LINEAR", 0.0, 1.0, 1000]}, "metrics": {"objective": "MINIMIZE"}}}
    lines = [
        first,
        {"ask": 1, "parameters": {"x": 0.5}},
        {"tell": 1, "values": {"objective": 1.5}},
        {"ask": 2, "parameters": {"x": 0.25}},
        {"tell": 2, "values": None},
        {"ask": 3, "parameters": {"x": 0.75}},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with AskTell({"x": (0.0, 1.0)}, model, journal=path) as tuner:
        assert tuner.trials == [
            FinishedTrial(1, {"x": 0.5}, {"objective": 1.5}),
            FinishedTrial(2, {"x": 0.25}, None),
        ]
        assert [(trial.number, trial.parameters) for trial in tuner.running] == [(3, {"x": 0.75})]


def test_stopped_trials_of_an_earlier_journal_are_told(model, tmp_path, told_earlier):
    path = tmp_path / "before.jsonl"
    with AskTell(SPACE, model, journal=path) as before:
        for number in range(3):
            trial = before.ask()
            for step, value in REPORTS.items():
                before.report(trial, value, step)
            before.tell(trial, 0.4 if number < 2 else "stopped")
    AskTell(SPACE, model, prior_studies=[path, before]).ask()
    for study in told_earlier():
        assert [each.stopping_reason for each in study.trials] == [None, None, "stopped"]
        assert [each.steps for each in study.trials[-1].measurements] == [1, 2, 3]


def test_a_single_report_keeps_its_step(model, tmp_path):
    with AskTell(SPACE, model, journal=tmp_path / "tuning.jsonl") as tuner:
        first, second = tuner.ask(2)
        tuner.report(first, 1.0, 0)
        tuner.report(second, 2.0, 7)
        tuner.tell(second, "stopped")
    with AskTell(SPACE, model, journal=tmp_path / "tuning.jsonl") as tuner:
        assert [trial.reports for trial in (*tuner.running, *tuner.trials)] == [{0: 1.0}, {7: 2.0}]


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ((1.0, -1), "trial 1: the step must be an integer of at least 0, not -1"),
        ((1.0, 1.5), "trial 1: the step must be an integer of at least 0, not 1.5"),
        ((1.0, True), "trial 1: the step must be an integer of at least 0, not True"),
        ((1.0, 10**30), "trial 1: the step 10+ is too large"),
        ((float("nan"), 1), "trial 1: 'objective' is nan, not a finite number; tell None"),
        (("low", 1), "trial 1: 'objective' is 'low', not a number"),
    ],
)
def test_reports_that_make_no_sense_change_nothing(report, message, model):
    tuner = AskTell(SPACE, model)
    trial = tuner.ask()
    with pytest.raises(ValueError, match=message):
        tuner.report(trial, *report)
    assert tuner.running[0].reports == {}
    with pytest.raises(ValueError, match="trial 2: no such trial; there are 1"):
        tuner.report(2, 1.0, 1)
    tuner.tell(trial, "stopped")
    with pytest.raises(ValueError, match="trial 1: already has a result"):
        tuner.report(trial, 1.0, 1)


def test_of_several_objectives_none_is_reported(model):
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    for name in ("loss", "size"):
        problem.metric_information.append(vz.MetricInformation(name, goal=vz.ObjectiveMetricGoal.MINIMIZE))
    tuner = AskTell(problem, model)
    with pytest.raises(ValueError, match="has several"):
        tuner.report(tuner.ask(), 1.0, 1)
