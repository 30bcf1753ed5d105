"""Vizier's service as it is called within the process: suggestions, leases, stopping, and how much is taken."""

import concurrent.futures
import functools
import threading

import grpc
import pytest
from sqlalchemy.exc import OperationalError
from vizier import pythia
from vizier import pyvizier as vz
from vizier._src.service import custom_errors, key_value_pb2, study_pb2, vizier_service_pb2
from vizier.service import pyvizier as svz

from optformer.inference import early_stopping
from optformer.serve import testing
from optformer.serve.leases import Leases
from optformer.serve.limits import LimitError, Limits
from optformer.serve.statuses import status_of
from optformer.serve.studies import StudyService
from optformer.serve.vizier import ALGORITHM, OptFormerPolicyFactory, _default_factory

pytestmark = pytest.mark.integration

STATE = study_pb2.Trial.State


class Caller:
    """Calls a service as its servers do."""

    def __init__(self, service, study="s", algorithm="QUASI_RANDOM_SEARCH", problem=None, early_stopping=False):
        self.service = service
        config = svz.StudyConfig.from_problem(problem or testing.mixed_problem())
        config.algorithm = algorithm
        if early_stopping:
            config.automated_stopping_config = svz.AutomatedStoppingConfig.default_stopping_spec()
        spec = study_pb2.Study(display_name=study, study_spec=config.to_proto())
        self.name = service.CreateStudy(vizier_service_pb2.CreateStudyRequest(parent="owners/me", study=spec)).name

    def operation(self, client="worker", count=1):
        request = vizier_service_pb2.SuggestTrialsRequest(parent=self.name, suggestion_count=count, client_id=client)
        return self.service.SuggestTrials(request)

    def suggest(self, client="worker", count=1):
        operation = self.operation(client, count)
        assert operation.done
        assert not operation.HasField("error"), operation.error.message
        return list(vizier_service_pb2.SuggestTrialsResponse.FromString(operation.response.value).trials)

    def add(self, **parameters):
        good = {"learning_rate": 0.1, "dropout": 0.1, "layers": 3, "batch_size": 32, "optimizer": "adam"}
        trial = svz.TrialConverter.to_proto(vz.Trial(parameters=good | parameters))
        return self.service.CreateTrial(vizier_service_pb2.CreateTrialRequest(parent=self.name, trial=trial))

    def measure(self, trial, value=1.0, count=1, step=0):
        measurement = study_pb2.Measurement(step_count=step)
        for number in range(count):
            measurement.metrics.add(metric_id="objective" if not number else f"other {number}", value=value)
        request = vizier_service_pb2.AddTrialMeasurementRequest(trial_name=trial.name, measurement=measurement)
        return self.service.AddTrialMeasurement(request)

    def complete(self, trial, value=1.0):
        measurement = study_pb2.Measurement()
        measurement.metrics.add(metric_id="objective", value=value)
        request = vizier_service_pb2.CompleteTrialRequest(name=trial.name, final_measurement=measurement)
        return self.service.CompleteTrial(request)

    def should_stop(self, trial):
        request = vizier_service_pb2.CheckTrialEarlyStoppingStateRequest(trial_name=trial.name)
        return self.service.CheckTrialEarlyStoppingState(request).should_stop

    def update_metadata(self, value, trial=None, times=1):
        request = vizier_service_pb2.UpdateMetadataRequest(name=self.name)
        for number in range(times):
            update = request.delta.add(metadatum=key_value_pb2.KeyValue(key=f"k{number}", value=value))
            if trial is not None:
                update.trial_id = trial.id
        return self.service.UpdateMetadata(request)

    def trials(self):
        return {int(trial.id): trial for trial in self.service.datastore.list_trials(self.name)}


def serving(tmp_path, factory=None, **named):
    return StudyService(f"sqlite:///{tmp_path}/s.db?timeout=0.05", factory or _default_factory(), **named)


@pytest.fixture
def service(tmp_path):
    service = serving(tmp_path)
    yield service
    service.close()


@pytest.fixture
def study(service):
    return Caller(service)


# Suggestions.


def test_numbers_of_trials_do_not_collide(study):
    """Trials are added while others are suggested: both count from the last number."""

    def work(worker):
        mine = []
        for _ in range(12):
            if worker % 2:
                mine.append(study.add().id)
            else:
                (trial,) = study.suggest(f"worker {worker}")
                study.complete(trial)
                mine.append(trial.id)
        return mine

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        numbers = [number for mine in pool.map(work, range(8)) for number in mine]
    assert len(numbers) == 96
    assert sorted(study.trials()) == list(range(1, len(study.trials()) + 1))
    assert len(study.trials()) >= 48


def test_a_suggestion_is_written_whole_or_not_at_all(study, monkeypatch):
    store = study.service.datastore
    insert, written = store._replace_operations, []

    def fails(operation):
        written.append(len(store._connection.exec_driver_sql("SELECT 1 FROM trials").all()))
        raise OperationalError("INSERT", {}, Exception("the disk is full"))

    monkeypatch.setattr(store, "_replace_operations", fails)
    with pytest.raises(OperationalError):
        study.suggest(count=3)
    assert written == [3]  # and were taken back
    assert not study.trials()
    monkeypatch.setattr(store, "_replace_operations", insert)
    assert [trial.id for trial in study.suggest(count=3)] == ["1", "2", "3"]


def test_what_waits_is_handed_out_first_and_in_its_order(study):
    added = [study.add(layers=layers).id for layers in (2, 3, 4)]
    assert [trial.id for trial in study.suggest("a")] == added[:1]
    assert [trial.id for trial in study.suggest("b", count=4)] == [*added[1:], "4", "5"]
    # Who asks again gets what is his.
    assert [trial.id for trial in study.suggest("b", count=2)] == added[1:]
    assert [trial.id for trial in study.suggest("a", count=2)] == ["1", "6"]


class Decided:
    """A policy that gives any number of suggestions."""

    name = "Decided"

    def __init__(self, count):
        self.count = count

    def suggest(self, request):
        from vizier import pythia

        values = {"learning_rate": 0.1, "dropout": 0.1, "layers": 3, "batch_size": 32, "optimizer": "adam"}
        return pythia.SuggestDecision([vz.TrialSuggestion(values) for _ in range(self.count)], vz.MetadataDelta())


@pytest.mark.parametrize("decided, handed, there", [(0, 0, 0), (1, 1, 1), (2, 2, 2), (4, 2, 4), (9, 2, 6)])
def test_policies_that_suggest_more_or_fewer_than_asked(tmp_path, decided, handed, there):
    service = serving(tmp_path, lambda *_: Decided(decided), limits=Limits(trials=6))
    study = Caller(service)
    assert len(study.suggest(count=2)) == handed
    assert len(study.trials()) == there
    service.close()


def test_a_policy_that_fails_leaves_nothing_behind(tmp_path):
    def broken(*_):
        raise RuntimeError("no weights")

    service = serving(tmp_path, broken)
    study = Caller(service)
    waiting = study.add()
    for client in ("a", "b"):
        operation = study.operation(client, count=2)
        assert operation.done
        assert "no weights" in operation.error.message
    assert [trial.id for trial in study.suggest("a")] == [waiting.id]  # it is his; only the other is missing
    assert len(study.trials()) == 1
    service.close()


@pytest.mark.parametrize(
    "algorithm, raised, code",
    [
        (ALGORITHM, ValueError, grpc.StatusCode.FAILED_PRECONDITION),
        (ALGORITHM, TypeError, grpc.StatusCode.INTERNAL),
        ("EAGLE_STRATEGY", TypeError, grpc.StatusCode.FAILED_PRECONDITION),
        ("CMA_ES", ModuleNotFoundError, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_an_algorithm_that_cannot_do_a_study_is_no_fault_of_the_server(tmp_path, algorithm, raised, code):
    class Refusing(pythia.Policy):
        def suggest(self, request):
            raise raised("one objective only")

        def early_stop(self, request):
            raise NotImplementedError

    service = serving(tmp_path, lambda *_: Refusing())
    error = Caller(service, algorithm=algorithm).operation().error
    assert (error.code, error.message) == (code.value[0], f"algorithm {algorithm}: one objective only")
    service.close()


# Trials of a caller's own.


def far_away(trial):
    trial.state = STATE.SUCCEEDED
    trial.end_time.seconds = 2**62
    trial.final_measurement.metrics.add(metric_id="objective", value=1.0)


UNREADABLE = {
    "no calendar": (far_away, "a trial of owners/me/studies/s cannot be read"),
    "no value": (lambda trial: trial.parameters[0].ClearField("value"), "sets parameter 'learning_rate' to a value"),
    "a list": (lambda trial: trial.parameters[0].value.list_value.values.add(), "not a number, a string or a boolean"),
    "two values": (
        lambda trial: trial.measurements.add(metrics=[{"metric_id": "m", "value": v} for v in (1.0, 2.0)]),
        r"two values of one metric, \['m', 'm'\]",
    ),
    "negative time": (lambda trial: setattr(trial.measurements.add().elapsed_duration, "seconds", -1), "negative time"),
}


@pytest.mark.parametrize("how, said", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_trial_that_could_not_be_read_again_is_not_kept(study, how, said):
    sound = study.add()
    trial = study_pb2.Trial(parameters=sound.parameters)
    how(trial)
    with pytest.raises(ValueError, match=said):
        study.service.CreateTrial(vizier_service_pb2.CreateTrialRequest(parent=study.name, trial=trial))
    assert list(study.trials()) == [1]


@pytest.mark.parametrize("seconds, step", [(-1, 0), (2**62, -1), (0, -1)])
def test_a_measurement_that_could_not_be_read_again_is_not_kept(study, seconds, step):
    (trial,) = study.suggest()
    measurement = study_pb2.Measurement(step_count=step)
    measurement.elapsed_duration.seconds = seconds
    measurement.metrics.add(metric_id="objective", value=1.0)
    added = vizier_service_pb2.AddTrialMeasurementRequest(trial_name=trial.name, measurement=measurement)
    ended = vizier_service_pb2.CompleteTrialRequest(name=trial.name, final_measurement=measurement)
    for call, request in ((study.service.AddTrialMeasurement, added), (study.service.CompleteTrial, ended)):
        with pytest.raises(ValueError, match="studies/s/trials/1 has a measurement with a negative time or step"):
            call(request)
    study.complete(trial)
    assert len(study.suggest()) == 1


def partial(study, **parameters):
    trial = svz.TrialConverter.to_proto(vz.Trial(parameters=parameters))
    return study.service.CreateTrial(vizier_service_pb2.CreateTrialRequest(parent=study.name, trial=trial))


def test_what_a_requested_trial_lacks_is_chosen_by_the_model(tmp_path, model, monkeypatch):
    given, suggest = [], type(model).suggest

    def noted(self, *arguments, **named):
        given.append(named["given"])
        return suggest(self, *arguments, **named)

    monkeypatch.setattr(type(model), "suggest", noted)
    service = serving(tmp_path, OptFormerPolicyFactory(model))
    study = Caller(service, algorithm=ALGORITHM)
    for value in range(6):
        study.complete(study.suggest()[0], float(value))
    added = [partial(study, layers=7, optimizer="lion"), partial(study, layers=7, optimizer="lion"), partial(study)]
    assert given[-3:] == [{"layers": 7, "optimizer": "lion"}, {"layers": 7, "optimizer": "lion"}, {}]
    space = testing.mixed_problem().search_space
    for trial in added:
        assert trial.state == STATE.REQUESTED
        parameters = svz.TrialConverter.from_proto(trial).parameters.as_dict()
        testing.assert_in_space(parameters | {"layers": int(parameters["layers"])}, space)
    kept = [svz.TrialConverter.from_proto(trial) for trial in added]
    for each in kept[:2]:
        assert (each.parameters.get_value("layers"), each.parameters.get_value("optimizer")) == (7, "lion")
    assert kept[0].parameters != kept[1].parameters  # the second one knows of the first
    assert kept[0].metadata.ns("optformer")["given"] == "layers, optimizer"
    assert study.suggest("other", 3)[0].name == added[0].name
    # They are not written with the study.
    assert "given" not in str(service.datastore.load_study(study.name))
    service.close()


def test_parts_of_a_point_that_nobody_fills_up_are_refused(tmp_path, model):
    service = serving(tmp_path, OptFormerPolicyFactory(model))
    study, other = Caller(service, algorithm=ALGORITHM), Caller(service, "random", "QUASI_RANDOM_SEARCH")
    with pytest.raises(ValueError, match="does not set parameter 'learning_rate'"):
        partial(other, layers=7)
    with pytest.raises(ValueError, match="'layers' to 99"):
        partial(study, layers=99)
    with pytest.raises(ValueError, match="'layer', which is not a parameter"):
        partial(study, layer=7)
    finished = vz.Trial(parameters={"layers": 7}).complete(vz.Measurement(metrics={"objective": 1.0}))
    request = vizier_service_pb2.CreateTrialRequest(parent=study.name, trial=svz.TrialConverter.to_proto(finished))
    with pytest.raises(ValueError, match="does not set parameter 'learning_rate'"):
        service.CreateTrial(request)
    assert study.trials() == other.trials() == {}
    service.close()


def test_metadata_is_not_lost_to_a_trial_that_is_completed(study):
    trials = study.suggest(count=20)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        told = [pool.submit(call, trial) for trial in trials for call in (study.complete, study.measure)]
        marked = [pool.submit(study.update_metadata, "value", trial) for trial in trials]
        for future in marked:
            future.result()
        concurrent.futures.wait(told)
    for trial in study.trials().values():
        assert trial.state == STATE.SUCCEEDED
        assert [entry.value for entry in trial.metadata] == ["value"]


def test_the_work_of_a_suggestion_does_not_grow_with_the_study(study, monkeypatch):
    read = []
    monkeypatch.setattr("optformer.serve.datastore._is_open", lambda trial: read.append(trial) or is_open(trial))
    for _ in range(60):
        (trial,) = study.suggest()
        study.complete(trial)
    read.clear()
    (trial,) = study.suggest()
    assert len(read) <= 2
    rows = study.service.datastore._connection.exec_driver_sql("SELECT count(*) FROM suggestion_operations").scalar()
    assert rows == 1


def is_open(trial):
    return trial.state not in (STATE.SUCCEEDED, STATE.INFEASIBLE)


def test_trials_that_have_not_changed_are_converted_once(tmp_path, model, monkeypatch):
    service = serving(tmp_path, OptFormerPolicyFactory(model, seed=1))
    study = Caller(service, algorithm=ALGORITHM)
    for value in range(6):
        (trial,) = study.suggest()
        study.complete(trial, value)
    converted, convert = [], svz.TrialConverter.from_proto
    monkeypatch.setattr(svz.TrialConverter, "from_proto", lambda proto: converted.append(proto.id) or convert(proto))
    study.suggest("other")
    assert len(converted) <= 1  # the last
    service.close()


# Leases.


@pytest.fixture
def clock():
    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    return Clock()


def test_who_was_not_heard_of_for_a_lease_is_dead(clock):
    leases = Leases(60.0, clock)
    leases.heard("s", "a")
    assert not leases.expired("s", "a")
    assert not leases.expired("s", "never")  # the server has just started
    clock.now += 40.0
    leases.heard("s", "a")
    clock.now += 40.0
    assert not leases.expired("s", "a")
    assert leases.expired("s", "never")
    clock.now += 40.0
    assert leases.expired("s", "a")
    leases.heard("s", "b")
    assert not leases.expired("s", "b")
    assert leases.expired("t", "b")
    assert len(leases._heard) == 1  # the dead are not kept in mind


def test_without_a_lease_nobody_is_dead(clock):
    leases = Leases(None, clock)
    leases.heard("s", "a")
    clock.now += 1e9
    assert not leases.expired("s", "a")
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="longer than 0 seconds"):
            Leases(seconds)


def test_trials_of_dead_workers_are_given_to_others(tmp_path, clock):
    service = serving(tmp_path)
    service._leases = Leases(60.0, clock)
    study = Caller(service)
    dead, alive, polling = study.suggest("dead", 2), study.suggest("alive"), study.suggest("polling")
    clock.now += 50.0
    study.measure(alive[0])
    assert not study.should_stop(polling[0])
    clock.now += 50.0
    taken = study.suggest("heir", 3)
    assert [trial.id for trial in taken] == [*(trial.id for trial in dead), "5"]
    assert [trial.client_id for trial in taken] == ["heir"] * 3
    assert [trial.parameters for trial in taken[:2]] == [trial.parameters for trial in dead]
    assert study.trials()[int(alive[0].id)].client_id == "alive"
    # Both may finish it; the first result counts.
    assert study.complete(dead[0], 7.0).final_measurement.metrics[0].value == 7.0
    with pytest.raises(grpc.RpcError, match="has state SUCCEEDED"):
        study.complete(taken[0], 8.0)
    # The dead one comes back, and gets another trial.
    assert [trial.id for trial in study.suggest("dead")] == ["6"]
    service.close()


def test_without_a_lease_trials_stay_with_their_client(study):
    (trial,) = study.suggest("dead")
    assert [other.id for other in study.suggest("other")] != [trial.id]


# Early stopping.


@pytest.mark.filterwarnings("ignore:This function is deprecated")  # Vizier's random search
@pytest.mark.parametrize("algorithm", ["RANDOM_SEARCH", "QUASI_RANDOM_SEARCH", ALGORITHM])
def test_no_trial_is_told_to_stop_without_a_reason(tmp_path, model, algorithm):
    service = serving(tmp_path, OptFormerPolicyFactory(model))
    study = Caller(service, algorithm=algorithm)
    for _ in range(4):
        (trial,) = study.suggest()
        for value in (0.0, 1e9):
            study.measure(trial, value)
            assert not study.should_stop(trial)
        study.complete(trial)
        with pytest.raises(custom_errors.ImmutableTrialError, match="has state SUCCEEDED"):
            study.should_stop(trial)
    service.close()


@pytest.mark.parametrize("asks", [True, False])
def test_a_study_that_asks_for_it_has_hopeless_trials_stopped(tmp_path, reader, monkeypatch, asks):
    monkeypatch.setattr("optformer.serve.vizier.stopping", functools.partial(early_stopping.stopping, threshold=1.0))
    service = serving(tmp_path, OptFormerPolicyFactory(reader))
    study = Caller(service, algorithm=ALGORITHM, early_stopping=asks)
    stopped = []
    for _ in range(6):
        (trial,) = study.suggest()
        for step in range(1, 6):
            study.measure(trial, 1.0 / step, step=step)
            if study.should_stop(trial):
                stopped.append(step)
                break
        study.complete(trial)
    assert stopped == ([2, 2] if asks else []), "four trials go on, then from a third of five steps on"
    trials = service.ListTrials(vizier_service_pb2.ListTrialsRequest(parent=study.name)).trials
    assert [len(trial.measurements) for trial in trials] == ([5] * 4 + [2] * 2 if asks else [5] * 6)
    service.close()


def test_who_was_stopped_by_somebody_is_told_so(study):
    (trial,) = study.suggest()
    study.service.StopTrial(vizier_service_pb2.StopTrialRequest(name=trial.name))
    assert study.should_stop(trial)
    assert study.complete(trial).state == STATE.SUCCEEDED


# How much is taken.


def wide(parameters=1, values=2, name="p{}", metrics=1, depth=1):
    problem = vz.ProblemStatement()
    for number in range(parameters):
        root = problem.search_space.root
        for level in range(depth):
            choices = [f"v{value}" for value in range(values)]
            added = root.add_categorical_param(name.format(number) + "'" * level, choices)
            root = added.select_values(["v0"])
    for number in range(metrics):
        problem.metric_information.append(vz.MetricInformation(f"m{number}", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    return problem


@pytest.mark.parametrize(
    "problem, said",
    [
        (wide(parameters=31), "study 's' has more than 30 parameters"),
        (wide(parameters=16, depth=2), "study 's' has more than 30 parameters"),
        (wide(parameters=3, values=35), "study 's' has more than 100 discrete and categorical values"),
        (wide(metrics=6), "study 's' has more than 5 metrics"),
        (wide(name="p{}" + "x" * 1001), "at most 1000 are allowed"),
    ],
    ids=["parameters", "children", "values", "metrics", "name"],
)
def test_studies_have_an_end(tmp_path, problem, said):
    service = serving(tmp_path, limits=Limits(parameters=30, values=100, metrics=5))
    with pytest.raises(LimitError, match=said):
        Caller(service, problem=problem)
    Caller(service, problem=wide(parameters=30))
    service.close()


def test_calls_at_once_keep_the_limits(tmp_path):
    service = serving(tmp_path, limits=Limits(studies=3, trials=8))
    study = Caller(service)

    def refused(call):
        try:
            call()
        except LimitError:
            return True
        return False

    def work(number):
        return refused(lambda: Caller(service, f"s{number}")), refused(study.add)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        studies, trials = zip(*pool.map(work, range(32)), strict=True)
    assert (studies.count(False), trials.count(False)) == (2, 8)
    assert len(service.datastore.list_studies("owners/me")) == 3
    assert sorted(study.trials()) == list(range(1, 9))
    service.close()


@pytest.mark.parametrize("low, high", [(0, 2**60), (2**53 - 2, 2**53 + 3), (-(2**53) - 1, 0)])
def test_integers_that_a_double_cannot_hold_are_refused_with_the_study(service, low, high):
    problem = testing.mixed_problem()
    problem.search_space.root.add_int_param("seed", low, high)
    with pytest.raises(ValueError, match=r"study 'big', parameter 'seed': integers in .* cannot be stored exactly"):
        Caller(service, "big", problem=problem)


def test_records_have_an_end(tmp_path):
    service = serving(tmp_path, limits=Limits(record_bytes=10_000, study_bytes=30_000))
    study = Caller(service)
    (trial,) = study.suggest()
    with pytest.raises(LimitError, match=f"{study.name} may have at most 10000 bytes"):
        study.update_metadata("x" * 200, times=60)
    with pytest.raises(LimitError, match=f"trial {trial.id} of {study.name} may have at most 10000 bytes"):
        study.update_metadata("x" * 200, trial, times=60)

    def measure_for_ever(trial):
        while True:
            study.measure(trial, count=50)

    for _ in range(2):
        with pytest.raises(LimitError, match=f"{trial.name} would have .*; at most 10000 are allowed"):
            measure_for_ever(trial)
        assert len(study.trials()[int(trial.id)].measurements) > 5
        study.complete(trial)
        (trial,) = study.suggest()
    with pytest.raises(LimitError, match=f"{trial.name} would have .*; at most 10000 are allowed"):
        measure_for_ever(trial)
    (trial,) = study.suggest("other")
    full = f"the trials of {study.name} have .* bytes; at most 30000 are allowed"
    with pytest.raises(LimitError, match=full):
        measure_for_ever(trial)
    with pytest.raises(LimitError, match=full):
        study.suggest("third")
    assert study.complete(trial).state == STATE.SUCCEEDED  # results are always taken
    large = study_pb2.Trial(infeasible_reason="x" * 20_000)
    with pytest.raises(LimitError):
        service.CreateTrial(vizier_service_pb2.CreateTrialRequest(parent=study.name, trial=large))
    with pytest.raises(LimitError):
        service.CompleteTrial(
            vizier_service_pb2.CompleteTrialRequest(
                name=trial.name, trial_infeasible=True, infeasible_reason="x" * 20_000
            )
        )
    service.close()


def test_metadata_of_a_trial_that_is_missing_is_vizier_s_to_tell(study):
    reply = study.update_metadata("value", study_pb2.Trial(id="7"))
    assert reply.error_details


ESCAPE = "a\x1b[31mb"


def test_names_that_a_terminal_would_obey_are_refused(service, study):
    for problem, name in ((wide(name="{}" + ESCAPE), "t"), (wide(), ESCAPE), (wide(), "a\u009b2J")):
        with pytest.raises(ValueError, match="control characters") as raised:
            Caller(service, name, problem=problem)
        assert "\x1b" not in str(raised.value)
    with pytest.raises(ValueError, match="a client 'a"):
        study.suggest(ESCAPE)
    with pytest.raises(ValueError, match="a client has no name"):
        study.suggest("")
    (trial,) = study.suggest()
    for name, said in ((ESCAPE, r"s/trials/1: a metric 'a.*has control characters"), ("", "a metric has no name")):
        measurement = study_pb2.Measurement(metrics=[{"metric_id": "objective", "value": 1.0}])
        measurement.metrics.add(metric_id=name, value=1.0)
        added = vizier_service_pb2.AddTrialMeasurementRequest(trial_name=trial.name, measurement=measurement)
        ended = vizier_service_pb2.CompleteTrialRequest(name=trial.name, final_measurement=measurement)
        for call, request in ((service.AddTrialMeasurement, added), (service.CompleteTrial, ended)):
            with pytest.raises(ValueError, match=said):
                call(request)


@pytest.mark.parametrize("error", [ValueError(f"study {ESCAPE}"), KeyError(f"{ESCAPE}"), LimitError(ESCAPE)])
def test_no_answer_makes_a_terminal_do_anything(error):
    _, said = status_of(error)
    assert "a\\x1b[31mb" in said
    assert "\x1b" not in said


def test_names_that_do_not_exist_leave_no_lock_behind(service, study):
    for call, request in (
        (service.SuggestTrials, vizier_service_pb2.SuggestTrialsRequest(suggestion_count=1, client_id="a")),
        (service.DeleteStudy, vizier_service_pb2.DeleteStudyRequest()),
        (service.SetStudyState, vizier_service_pb2.SetStudyStateRequest()),
        (service.CreateTrial, vizier_service_pb2.CreateTrialRequest()),
        (service.UpdateMetadata, vizier_service_pb2.UpdateMetadataRequest()),
    ):
        field = "parent" if "parent" in request.DESCRIPTOR.fields_by_name else "name"
        setattr(request, field, "owners/me/studies/made-up")
        with pytest.raises(KeyError):
            call(request)
    assert "owners/me/studies/made-up" not in {*service._operation_lock, *service._study_name_to_lock}


def test_the_best_of_thousands_are_found_at_once(study):
    done = threading.Event()
    proto = svz.TrialConverter.to_proto(
        vz.Trial(
            parameters={"learning_rate": 0.1, "dropout": 0.1, "layers": 3, "batch_size": 32, "optimizer": "adam"}
        ).complete(vz.Measurement(metrics={"objective": 1.0}))
    )
    trials = []
    for number in range(3000):
        trial = study_pb2.Trial(name=f"{study.name}/trials/1")
        trial.MergeFrom(proto)
        trial.name = f"{study.name}/trials/1"
        trial.final_measurement.metrics[0].value = float((number * 7919) % 3001)
        trials.append(trial)
    study.service.datastore.hand_out(study.name, [], trials)
    timer = threading.Timer(20.0, done.set)
    timer.start()
    reply = study.service.ListOptimalTrials(vizier_service_pb2.ListOptimalTrialsRequest(parent=study.name))
    timer.cancel()
    assert not done.is_set()
    assert [trial.id for trial in reply.optimal_trials] == ["1"]
