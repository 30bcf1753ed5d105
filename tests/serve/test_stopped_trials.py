"""Stopped trials of Vizier count with what they would have come to: in the designer, the policy and the service."""

import math

import pytest
from vizier import algorithms as vza
from vizier import pyvizier as vz
from vizier._src.service import study_pb2, vizier_service_pb2
from vizier.service import pyvizier as svz

from optformer.inference.stopped_trials import STOPPED, with_final_values
from optformer.serve.studies import StudyService
from optformer.serve.vizier import ALGORITHM, OptFormerDesigner, OptFormerPolicyFactory

MINIMIZE, MAXIMIZE = vz.ObjectiveMetricGoal.MINIMIZE, vz.ObjectiveMetricGoal.MAXIMIZE


def problem(goal=MINIMIZE, metrics=("loss",)):
    made = vz.ProblemStatement(metric_information=[vz.MetricInformation(name, goal=goal) for name in metrics])
    made.search_space.root.add_float_param("x", 0.0, 1.0)
    return made


def trial(number, reports=(), final=None, metric="loss", **how):
    """Reports are values, or (step, value)."""
    made = vz.Trial(id=number, parameters={"x": number / 100}, **how)
    for report in reports:
        step, value = report if isinstance(report, tuple) else (0, report)
        made.measurements.append(vz.Measurement(metrics={metric: value}, steps=step))
    return made if final is None else made.complete(vz.Measurement(metrics={metric: final}))


def objectives(trials, metric="loss"):
    return [
        each.final_measurement.metrics[metric].value
        if each.final_measurement and metric in each.final_measurement.metrics
        else None
        for each in trials
    ]


def curve(final, steps, numbered=True):
    """Reports that come down to the final value."""
    values = [final + math.exp(-step) for step in range(1, steps + 1)]
    return list(enumerate(values, 1)) if numbered else values


@pytest.mark.parametrize("numbered", [True, False])
def test_a_stopped_trial_counts_with_what_it_would_have_come_to(numbered):
    trials = [trial(k, curve(final, 6, numbered), final) for k, final in enumerate([0.5, 0.2, 0.8, 0.4, 0.9], 1)]
    told = trial(6, curve(0.7, 2, numbered), stopping_reason="told to")
    given_up = trial(7, curve(0.6, 3, numbered), stopping_reason="pruned").complete(vz.Measurement())
    last = curve(0.65, 2, numbered)[-1]
    marked = trial(8, curve(0.65, 2, numbered), last[1] if numbered else last)
    marked.metadata.ns("optformer")[STOPPED] = "True"
    running = trial(9, curve(0.3, 2, numbered))
    answered = with_final_values(problem(), [*trials, told, given_up, marked, running])
    assert objectives(answered[5:]) == [pytest.approx(0.7), pytest.approx(0.6), pytest.approx(0.65), None]
    assert answered[:5] == trials
    assert answered[8] is running
    assert (told.final_measurement, told.status) == (None, vz.TrialStatus.STOPPING)  # as it was
    assert answered[5].parameters == told.parameters


def test_a_maximized_objective_is_the_mirror_image():
    def answered(sign, goal):
        finals = [0.5, 0.2, 0.8]
        trials = [
            trial(k, [(s, sign * v) for s, v in curve(final, 4)], sign * final) for k, final in enumerate(finals, 1)
        ]
        trials.append(trial(4, [(1, sign * 1.1)], stopping_reason="pruned"))
        return objectives(with_final_values(problem(goal), trials))

    assert answered(1.0, MINIMIZE) == pytest.approx([-value for value in answered(-1.0, MAXIMIZE)])


def test_what_tells_nothing_stays_as_it_is():
    silent = trial(1, stopping_reason="pruned")
    failed = trial(2, [0.5], stopping_reason="pruned").complete(vz.Measurement(), infeasibility_reason="failed")
    other = trial(3, [0.5], stopping_reason="pruned", metric="other")
    not_a_number = trial(4, [math.nan, math.inf], stopping_reason="pruned")
    trials = [silent, failed, other, not_a_number]
    assert all(one is two for one, two in zip(with_final_values(problem(), trials), trials, strict=True))
    several = problem(metrics=("loss", "size"))
    stopped = [trial(1, [0.5], stopping_reason="pruned")]
    assert with_final_values(several, stopped) == stopped
    assert objectives(with_final_values(problem(), stopped)) == [0.5]  # nobody went on


@pytest.mark.integration
def test_the_designer_is_taught_by_stopped_trials(model, asked):
    designer = OptFormerDesigner(problem(), model)
    finished = [trial(k, curve(final, 4), final) for k, final in enumerate([0.5, 0.2, 0.8], 1)]
    pruned = trial(4, curve(0.7, 2), stopping_reason="pruned").complete(vz.Measurement())
    designer.update(vza.CompletedTrials([*finished, pruned]), vza.ActiveTrials([trial(5, curve(0.6, 1))]))
    designer.suggest(1)
    assert objectives(asked[-1]) == [0.5, 0.2, 0.8, pytest.approx(0.7), None]


@pytest.mark.integration
def test_the_service_is_taught_by_trials_that_were_told_to_stop(model, asked):
    service = StudyService("sqlite:///:memory:", OptFormerPolicyFactory(model))
    config = svz.StudyConfig.from_problem(problem())
    config.algorithm = ALGORITHM
    study = study_pb2.Study(display_name="s", study_spec=config.to_proto())
    name = service.CreateStudy(vizier_service_pb2.CreateStudyRequest(parent="owners/me", study=study)).name

    def measurement(step, value):
        made = study_pb2.Measurement(step_count=step)
        made.metrics.add(metric_id="loss", value=value)
        return made

    def run(final, steps, stopped=False):
        request = vizier_service_pb2.SuggestTrialsRequest(parent=name, suggestion_count=1, client_id="worker")
        reply = service.SuggestTrials(request).response.value
        (made,) = vizier_service_pb2.SuggestTrialsResponse.FromString(reply).trials
        for step, value in curve(final, steps):
            report = vizier_service_pb2.AddTrialMeasurementRequest(
                trial_name=made.name, measurement=measurement(step, value)
            )
            service.AddTrialMeasurement(report)
        request = vizier_service_pb2.CompleteTrialRequest(name=made.name)
        if stopped:
            service.StopTrial(vizier_service_pb2.StopTrialRequest(name=made.name))
        else:
            request.final_measurement.CopyFrom(measurement(6, final))
        return service.CompleteTrial(request)

    for final in (0.5, 0.2, 0.8, 0.4):
        run(final, 6)
    done = run(0.7, 2, stopped=True)
    run(0.9, 6)
    assert done.state == study_pb2.Trial.State.SUCCEEDED
    # Vizier's own view is what was measured.
    assert done.final_measurement.metrics[0].value == pytest.approx(0.7 + math.exp(-2))
    assert objectives(asked[-1]) == pytest.approx([0.5, 0.2, 0.8, 0.4, 0.7])
    service.close()
