"""The Vizier designer: the shared conformance suite, a plain loop, and Vizier's own gRPC server."""

import numpy as np
import pytest
from vizier import algorithms as vza
from vizier import pythia
from vizier import pyvizier as vz
from vizier.service import clients, servers
from vizier.service import pyvizier as svz

from optformer import LinearConstraint
from optformer.inference.constraints import attach
from optformer.inference.early_stopping import stopping
from optformer.serve import testing
from optformer.serve.ask_tell import AskTell
from optformer.serve.vizier import ALGORITHM, OptFormerDesigner, OptFormerPolicyFactory

pytestmark = pytest.mark.integration


class DesignerSession:
    """A study as `DesignerPolicy` drives it: a new designer for every suggestion."""

    def __init__(self, problem, model, seed, **told):
        self.problem, self.model, self.seed, self.told = problem, model, seed, told
        self.trials: list[vz.Trial] = []

    def suggest(self, count):
        designer = OptFormerDesigner(self.problem, self.model, seed=self.seed, **self.told)
        completed = [trial for trial in self.trials if trial.status == vz.TrialStatus.COMPLETED]
        active = [trial for trial in self.trials if trial.status == vz.TrialStatus.ACTIVE]
        designer.update(vza.CompletedTrials(completed), vza.ActiveTrials(active))
        suggested = []
        for suggestion in designer.suggest(count):
            self.trials.append(suggestion.to_trial(len(self.trials) + 1))
            reason = dict(suggestion.metadata.ns("optformer").items())
            suggested.append(testing.Suggested(self.trials[-1], suggestion.parameters.as_dict(), reason))
        return suggested

    def complete(self, suggested, value):
        if value is None:
            suggested.handle.complete(vz.Measurement(), infeasibility_reason="failed")
        else:
            measured = value if isinstance(value, dict) else {"objective": value}
            suggested.handle.complete(vz.Measurement(metrics=measured))

    def report(self, suggested, step, value):
        suggested.handle.measurements.append(vz.Measurement(metrics={"objective": value}, steps=step))

    def should_stop(self, suggested):
        return stopping(self.model, self.problem, self.trials, suggested.handle).stop

    def stop(self, suggested):
        suggested.handle.stopping_reason = "stopped"
        suggested.handle.complete(vz.Measurement())


class DesignerBackend:
    """A designer is asked for suggestions alone: points of one's own are trials that nobody suggested."""

    offers = frozenset(testing.FEATURES) - {"own_points"}

    def __init__(self, model, process_code=""):
        self.model, self.process_code = model, process_code

    def start(self, problem, seed, **told):
        return DesignerSession(problem, self.model, seed, **told)


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, model, reader, code_of):
    check(DesignerBackend(reader if check is testing.check_stopping else model, code_of(DesignerBackend)))


def test_the_table_of_the_document_says_what_is_missing(lacking):
    assert lacking("Vizier designer") == set(testing.FEATURES) - DesignerBackend.offers


def test_one_designer_for_a_whole_study_and_one_per_suggestion_agree(model):
    problem = testing.mixed_problem()
    session = DesignerSession(problem, model, seed=3)
    designer = OptFormerDesigner(problem, model, seed=3)
    for number in range(1, 9):
        (suggested,) = session.suggest(1)
        (suggestion,) = designer.suggest()
        assert suggestion.parameters.as_dict() == suggested.parameters
        session.complete(suggested, testing.objective(suggested.parameters))
        trial = suggestion.to_trial(number)
        trial.complete(vz.Measurement(metrics={"objective": testing.objective(suggested.parameters)}))
        designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())


def test_a_trial_told_twice_counts_once_and_unnumbered_trials_count(model):
    problem = testing.mixed_problem()
    designer = OptFormerDesigner(problem, model)
    completed = [s.to_trial(1).complete(vz.Measurement(metrics={"objective": 1.0})) for s in designer.suggest(1)]
    designer.update(vza.CompletedTrials(completed), vza.ActiveTrials())
    designer.update(vza.CompletedTrials(completed), vza.ActiveTrials())
    other = OptFormerDesigner(problem, model)
    other.update(vza.CompletedTrials(completed), vza.ActiveTrials())
    assert designer.suggest(1)[0].parameters == other.suggest(1)[0].parameters
    still_active = vz.Trial(completed[0].parameters, id=1)
    other.update(vza.CompletedTrials([]), vza.ActiveTrials([still_active]))
    assert designer.suggest(1)[0].parameters == other.suggest(1)[0].parameters
    unnumbered = OptFormerDesigner(problem, model)
    completed[0].id = 0
    unnumbered.update(vza.CompletedTrials(completed), vza.ActiveTrials())
    assert unnumbered.suggest(1)[0].parameters == other.suggest(1)[0].parameters


def test_several_objectives(model):
    problem = testing.mixed_problem()
    problem.metric_information.append(vz.MetricInformation("size", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    designer = OptFormerDesigner(problem, model)
    rng = np.random.default_rng(0)
    for number in range(1, 10):
        (suggestion,) = designer.suggest(1)
        values = {"objective": float(rng.normal()), "size": float(rng.normal())}
        trial = suggestion.to_trial(number).complete(vz.Measurement(metrics=values))
        designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())


def test_through_viziers_server_with_an_infeasible_and_two_pending_trials(model, tmp_path, monkeypatch):
    monkeypatch.setattr(clients.environment_variables, "new_suggestion_polling_secs", 0.01)
    server = servers.DefaultVizierServer(
        policy_factory=OptFormerPolicyFactory(model, seed=1), database_url=f"sqlite:///{tmp_path}/vizier.db"
    )
    monkeypatch.setattr(clients.environment_variables, "server_endpoint", server.endpoint)
    config = svz.StudyConfig.from_problem(testing.mixed_problem())
    config.algorithm = ALGORITHM
    study = clients.Study.from_study_config(config, owner="owner", study_id="through-the-server")

    pending = study.suggest(count=2, client_id="slow worker")
    assert len(pending) == 2
    for number in range(18):
        (trial,) = study.suggest(count=1, client_id="worker")
        # The service stores every number as a float; all else arrives as it was suggested.
        assert trial.parameters["layers"] == int(trial.parameters["layers"])
        testing.assert_in_space(trial.parameters | {"layers": int(trial.parameters["layers"])}, config.search_space)
        if number == 5:
            trial.complete(infeasible_reason="out of memory")
        else:
            trial.complete(vz.Measurement(metrics={"objective": testing.objective(trial.parameters)}))

    trials = list(study.trials().get())
    assert len(trials) == 20
    testing.assert_distinct([trial.parameters.as_dict() for trial in trials])
    assert [trial.status for trial in trials].count(vz.TrialStatus.ACTIVE) == 2
    assert [trial.infeasible for trial in trials].count(True) == 1
    # Reasons come back from the server's database.
    assert trials[0].metadata.ns("optformer")["source"] == "quasi-random"
    assert trials[-1].metadata.ns("optformer")["source"] == "ei"
    assert float(trials[-1].metadata.ns("optformer")["mean"])


@pytest.mark.filterwarnings("ignore:This function is deprecated")  # Vizier's random search
def test_the_factory_leaves_other_algorithms_to_vizier(model):
    problem = testing.small_problem()
    factory = OptFormerPolicyFactory(model)
    supporter = pythia.InRamPolicySupporter(vz.ProblemStatement(problem.search_space))
    policy = factory(problem, "QUASI_RANDOM_SEARCH", supporter, "study")
    assert type(policy).__module__.startswith("vizier.")
    (trial,) = supporter.SuggestTrials(factory(problem, "RANDOM_SEARCH", supporter, "study"), 1)
    assert trial.parameters.keys() == {parameter.name for parameter in problem.search_space.parameters}
    with pytest.raises(ValueError, match="not registered"):
        factory(problem, "UNKNOWN", supporter, "study")


def test_each_study_of_a_service_has_a_seed_of_its_own(model):
    problem = testing.mixed_problem()
    factory = OptFormerPolicyFactory(model)

    def first(study_name):
        supporter = pythia.InRamPolicySupporter(svz.StudyConfig.from_problem(problem))
        policy = factory(problem, ALGORITHM, supporter, study_name)
        (trial,) = supporter.SuggestTrials(policy, 1)
        return trial.parameters.as_dict()

    assert first("a") == first("a")
    assert first("a") != first("b")


def test_constraints_of_the_caller_and_of_the_problem(model):
    problem = testing.mixed_problem()
    attach(problem, [LinearConstraint({"layers": 1.0, "dropout": 10.0}, upper=12.0)])
    designer = OptFormerDesigner(problem, model, constraints=[lambda p: p["batch_size"] > p["layers"] * 10])
    for number in range(1, 9):
        for suggestion in designer.suggest(1):
            parameters = suggestion.parameters.as_dict()
            assert parameters["layers"] + 10.0 * parameters["dropout"] <= 12.0
            assert parameters["batch_size"] > parameters["layers"] * 10
            trial = suggestion.to_trial(number).complete(vz.Measurement(metrics={"objective": -parameters["layers"]}))
            designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())


def test_safety_metrics_are_constraints(model):
    problem = testing.mixed_problem()
    safety = vz.MetricInformation("memory", goal=vz.ObjectiveMetricGoal.MINIMIZE, safety_threshold=8.0)
    problem.metric_information.append(safety)
    designer = OptFormerDesigner(problem, model)
    for number in range(1, 9):
        (suggestion,) = designer.suggest(1)
        metrics = {"objective": float(number), "memory": 2.0 * number}
        trial = suggestion.to_trial(number).complete(vz.Measurement(metrics=metrics))
        designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())
    reason = suggestion.metadata.ns("optformer")
    assert reason["constraints_hold"] == reason["holds:memory"]
    assert reason["source"] == "ei"


def test_a_trial_that_is_completed_while_trials_are_read_is_not_forgotten(model):
    """The policy asks once: two questions, and it would be in neither answer."""
    problem = testing.small_problem()
    everything = [vz.Trial(id=k + 1, parameters={"color": "red", "size": k % 3 + 1}) for k in range(5)]
    everything[3].parameters["color"] = everything[4].parameters["color"] = "green"

    class Supporter:
        asked = 0

        def GetTrials(self, **_):
            self.asked += 1
            for trial in everything[: self.asked * 2]:
                if trial.status != vz.TrialStatus.COMPLETED:
                    trial.complete(vz.Measurement(metrics={"objective": 1.0}))
            return list(everything)

    supporter = Supporter()
    policy = OptFormerPolicyFactory(model)(problem, ALGORITHM, supporter, "owners/me/studies/s")
    config = svz.StudyConfig.from_problem(problem)
    descriptor = vz.StudyDescriptor(config=config, guid="owners/me/studies/s", max_trial_id=5)
    (suggestion,) = policy.suggest(pythia.SuggestRequest(study_descriptor=descriptor, count=1)).suggestions
    assert suggestion.parameters.as_dict() == {"color": "green", "size": 3}
    assert supporter.asked == 1
    assert policy.name == ALGORITHM
    asked = pythia.EarlyStopRequest(study_descriptor=descriptor, trial_ids=[4, 5])
    decided = policy.early_stop(asked).decisions
    assert [(each.id, each.should_stop) for each in decided] == [(4, False), (5, False)]
    assert "was not trained with learning curves" in decided[0].reason


def test_a_designer_without_a_seed(model):
    """Vizier's own factories of designers give None."""
    problem = testing.mixed_problem()
    first, second = (OptFormerDesigner(problem, model, seed=None).suggest(1)[0].parameters for _ in range(2))
    assert first != second
    testing.assert_in_space(first.as_dict(), problem.search_space)


def test_a_trial_completed_without_the_metric_of_the_problem_is_an_error(model):
    problem = testing.mixed_problem()
    designer = OptFormerDesigner(problem, model)

    def told(**how):
        (suggestion,) = designer.suggest(1)
        designer.update(vza.CompletedTrials([suggestion.to_trial(7).complete(**how)]), vza.ActiveTrials())

    with pytest.raises(ValueError, match=r"trial 7: was completed without the metric 'objective' \(it has 'loss'\)"):
        told(measurement=vz.Measurement(metrics={"loss": 1.0}))
    with pytest.raises(
        ValueError, match=r"trial 7: .* \(it has none\); if it failed, complete it with an infeasibility reason"
    ):
        told(measurement=vz.Measurement())
    told(measurement=vz.Measurement(), infeasibility_reason="out of memory")
    told(measurement=vz.Measurement(metrics={"objective": 1.0, "loss": 1.0}))


@pytest.mark.filterwarnings("ignore:This function is deprecated")  # Vizier's random search
@pytest.mark.parametrize("algorithm", [ALGORITHM, "RANDOM_SEARCH"])
def test_viziers_own_server_stops_no_trial_at_random(algorithm, model, tmp_path, monkeypatch):
    """It asks its random policy for early stopping, whatever the algorithm of the study."""
    monkeypatch.setattr(clients.environment_variables, "new_suggestion_polling_secs", 0.01)
    server = servers.DefaultVizierServer(
        policy_factory=OptFormerPolicyFactory(model, seed=1), database_url=f"sqlite:///{tmp_path}/vizier.db"
    )
    monkeypatch.setattr(clients.environment_variables, "server_endpoint", server.endpoint)
    config = svz.StudyConfig.from_problem(testing.mixed_problem())
    config.algorithm = algorithm
    study = clients.Study.from_study_config(config, owner="owner", study_id="stopped")
    for _ in range(3):
        (trial,) = study.suggest(count=1, client_id="worker")
        trial.add_measurement(vz.Measurement(metrics={"objective": 0.0}, steps=1))
        assert not trial.check_early_stopping()
        trial.complete()


def test_without_a_seed_every_one_draws_its_own(model):
    problem = testing.mixed_problem()
    supporter = pythia.InRamPolicySupporter(svz.StudyConfig.from_problem(problem))

    def of_a_factory():
        policy = OptFormerPolicyFactory(model, seed=None)(problem, ALGORITHM, supporter, "study")
        (trial,) = supporter.SuggestTrials(policy, 1)
        return trial

    def of_a_loop():
        return AskTell(problem, model, seed=None).ask()

    for suggest in (of_a_factory, of_a_loop, lambda: model.suggest(problem, [], seed=None)[0]):
        first, second = (suggest().parameters for _ in range(2))
        assert first != second


def test_a_cost_is_a_metric_that_the_problem_need_not_have(model, caplog):
    session = DesignerSession(testing.mixed_problem(), model, seed=0, cost="seconds")
    for number in range(4):
        (suggested,) = session.suggest(1)
        session.complete(suggested, float(number))
        suggested.handle.final_measurement.metrics["seconds"] = 10.0 + number
    (suggested,) = session.suggest(1)
    assert 10.0 <= float(suggested.handle.metadata.ns("optformer")["cost"]) <= 13.0
    session.trials[0].final_measurement.metrics["seconds"] = -1.0
    assert session.suggest(1)
    assert any("trial 1: its cost 'seconds' is -1.0" in message for message in caplog.messages)
