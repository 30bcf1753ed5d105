"""Vizier's service as we run it: statuses, limits, access, metrics, health, and what survives."""

import concurrent.futures
import itertools
import os
import shutil
import threading
import time
import urllib.request

import grpc
import pytest
import trustme
from google.longrunning import operations_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from vizier import pyvizier as vz
from vizier._src.service import resources, study_pb2, vizier_service_pb2
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer.serve import channels, testing
from optformer.serve.access import Access, AccessError
from optformer.serve.channels import Credentials, PythiaServers
from optformer.serve.client import Service
from optformer.serve.database import DatabaseLock, sqlite_file
from optformer.serve.grpc_server import PythiaServer, Settings, VizierServer, running
from optformer.serve.limits import Limits
from optformer.serve.statuses import status_of
from optformer.serve.vizier import ALGORITHM, OptFormerPolicyFactory

pytestmark = pytest.mark.integration

ANY_PORT = Settings(port=0, grace_seconds=2.0)
TOKEN = "correct-horse-battery-staple"


def configuration(algorithm="QUASI_RANDOM_SEARCH", problem=None):
    config = svz.StudyConfig.from_problem(problem or testing.mixed_problem())
    config.algorithm = algorithm
    return config


@pytest.fixture(scope="module")
def factory(model):
    return OptFormerPolicyFactory(model, seed=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Clients that do not wait between two looks at an operation."""
    monkeypatch.setattr(clients.environment_variables, "new_suggestion_polling_secs", 0.01)


@pytest.fixture(scope="module")
def server(factory, tmp_path_factory):
    """One for all tests that only need studies of their own: each has its `owner`."""
    limits = Limits(studies=3, trials=8, suggestions=5)
    url = f"sqlite:///{tmp_path_factory.mktemp('server')}/studies.db"
    with running(VizierServer(factory, url, ANY_PORT, limits=limits)) as server:
        yield server


@pytest.fixture(scope="module")
def service(server):
    with Service(server.endpoint) as service:
        yield service


OWNERS = itertools.count()


@pytest.fixture
def owner():
    return f"owner{next(OWNERS)}"


@pytest.fixture
def study(service, owner):
    return service.study(configuration(), owner=owner, study_id="s")


def refused(call):
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


def trial_of(**parameters):
    good = {"learning_rate": 0.1, "dropout": 0.1, "layers": 3, "batch_size": 32, "optimizer": "adam"}
    return vz.Trial(parameters=good | parameters)


def done(trial, **metrics):
    return trial.complete(vz.Measurement(metrics=metrics))


def test_a_study_with_our_algorithm_and_one_with_viziers(service, owner):
    for algorithm in (ALGORITHM, "QUASI_RANDOM_SEARCH"):
        study = service.study(configuration(algorithm), owner=owner, study_id=algorithm)
        for _ in range(3):
            for trial in study.suggest(count=2, client_id="worker"):
                trial.complete(vz.Measurement(metrics={"objective": testing.objective(trial.parameters)}))
        trials = list(study.trials().get())
        testing.assert_distinct([trial.parameters.as_dict() for trial in trials])
        assert [trial.status for trial in trials] == [vz.TrialStatus.COMPLETED] * 6
        assert bool(trials[0].metadata.ns("optformer")) == (algorithm == ALGORITHM)


def test_workers_at_once_get_different_trials(service, owner):
    study = service.study(configuration(ALGORITHM), owner=owner, study_id="parallel")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        handed = list(pool.map(lambda n: study.suggest(count=1, client_id=f"worker {n}")[0], range(8)))
    testing.assert_distinct([trial.parameters for trial in handed])
    assert sorted(trial.id for trial in handed) == list(range(1, 9))


def test_a_study_that_exists_is_loaded_if_it_is_the_same(service, study, owner):
    again = service.study(configuration(), owner=owner, study_id="s")
    assert again.resource_name == study.resource_name
    other = testing.mixed_problem()
    other.search_space.root.add_float_param("momentum", 0.0, 1.0)
    code, said = refused(lambda: service.study(configuration(problem=other), owner=owner, study_id="s"))
    assert (code, said) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "study 's' already exists with no parameter 'momentum', which the new one has; choose another name",
    )
    wider = testing.mixed_problem()
    wider.search_space.get("dropout")  # the same name
    wider.search_space.pop("dropout")
    wider.search_space.root.add_float_param("dropout", 0.0, 0.5)
    code, said = refused(lambda: service.study(configuration(problem=wider), owner=owner, study_id="s"))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "another range, scale or type of parameter 'dropout'" in said


def test_unknown_studies_trials_and_algorithms(service, study, owner):
    code, said = refused(lambda: service.load(f"owners/{owner}/studies/none").suggest(count=1))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "none" in said
    assert (
        refused(
            lambda: service.stub.GetTrial(vizier_service_pb2.GetTrialRequest(name=f"{study.resource_name}/trials/99"))
        )[0]
        is grpc.StatusCode.NOT_FOUND
    )
    code, said = refused(lambda: service.study(configuration("MAGIC"), owner=owner, study_id="m"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "unknown algorithm 'MAGIC'; known are OPTFORMER, DEFAULT" in said
    code, said = refused(lambda: service.study(configuration(), owner=owner, study_id=""))
    assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, "the study has no name")
    without = configuration()
    without.metric_information = vz.MetricsConfig()
    code, said = refused(lambda: service.study(without, owner=owner, study_id="m"))
    assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, "study 'm' has no objective metric")


@pytest.mark.parametrize(
    "metrics, said",
    [
        ({"other": 1.0}, "lacks 'objective'"),
        ({"objective": float("nan")}, "'objective' of {name} is nan; complete a trial that failed as infeasible"),
        ({"objective": float("inf")}, "'objective' of {name} is inf"),
        ({}, "the final measurement of {name} lacks 'objective'"),
    ],
)
def test_a_completion_needs_a_number_for_every_metric(study, metrics, said):
    (trial,) = study.suggest(count=1, client_id="worker")
    name = f"{study.resource_name}/trials/{trial.id}"
    code, answer = refused(lambda: trial.complete(vz.Measurement(metrics=metrics)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.format(name=name) in answer
    # Nothing has been lost by it.
    assert trial.materialize().status == vz.TrialStatus.ACTIVE
    trial.complete(vz.Measurement(metrics={"objective": 1.0}))
    assert trial.materialize().status == vz.TrialStatus.COMPLETED


def test_a_trial_is_completed_once(study):
    (trial,) = study.suggest(count=1, client_id="worker")
    trial.complete(vz.Measurement(metrics={"objective": 1.0}))
    code, said = refused(lambda: trial.complete(vz.Measurement(metrics={"objective": 2.0})))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "has state SUCCEEDED" in said
    assert trial.materialize().final_measurement.metrics["objective"].value == 1.0


def test_intermediate_measurements_are_numbers_and_the_last_may_be_final(study):
    (trial,) = study.suggest(count=1, client_id="worker")
    bad = vz.Measurement(metrics={"objective": float("nan")}, steps=1)
    assert refused(lambda: trial.add_measurement(bad))[0] is grpc.StatusCode.INVALID_ARGUMENT
    trial.add_measurement(vz.Measurement(metrics={"objective": 3.0}, steps=2))
    trial.complete()
    assert trial.materialize().final_measurement.metrics["objective"].value == 3.0


@pytest.mark.parametrize(
    "trial, said",
    [
        (trial_of(dropout=2.0), "sets parameter 'dropout' to 2.0, outside its range"),
        (trial_of(optimizer="sgdm"), "sets parameter 'optimizer' to 'sgdm', outside its range"),
        (trial_of(momentum=0.1), "sets 'momentum', which is not a parameter of the study"),
        (vz.Trial(parameters={"dropout": 0.1}), "does not set parameter 'learning_rate'"),
        (done(trial_of(), other=1.0), "lacks 'objective'"),
        (done(trial_of(), objective=float("nan")), "is nan"),
    ],
    ids=["range", "category", "unknown", "missing", "metric", "nan"],
)
def test_added_trials_belong_to_the_study(service, study, trial, said):
    request = vizier_service_pb2.CreateTrialRequest(
        parent=study.resource_name, trial=svz.TrialConverter.to_proto(trial)
    )
    code, answer = refused(lambda: service.stub.CreateTrial(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said in answer
    assert not list(study.trials())


def test_added_trials_are_known(study):
    study.add_trial(done(trial_of(), objective=1.0))
    study.request(vz.TrialSuggestion(trial_of(layers=4).parameters))
    (trial,) = study.suggest(count=1, client_id="worker")
    assert trial.parameters["layers"] == 4  # what was asked for comes first


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"optimizer": "sgd", "momentum": "on", "decay": 0.7}, ""),
        ({"optimizer": "adam"}, ""),
        ({"optimizer": "sgd", "momentum": "on"}, "does not set parameter 'decay'"),
        (
            {"optimizer": "adam", "momentum": "on"},
            "sets 'momentum', which is not a parameter of the study under its other",
        ),
        ({"optimizer": "sgd", "momentum": "on", "decay": 0.1}, "sets parameter 'decay' to 0.1, outside its range"),
    ],
)
def test_added_trials_of_a_conditional_study(service, parameters, said, owner):
    study = service.study(configuration(ALGORITHM, testing.conditional_problem()), owner=owner, study_id="tree")
    trial = done(vz.Trial(parameters={"learning_rate": 0.1, **parameters}), objective=1.0)
    request = vizier_service_pb2.CreateTrialRequest(
        parent=study.resource_name, trial=svz.TrialConverter.to_proto(trial)
    )
    if said:
        code, answer = refused(lambda: service.stub.CreateTrial(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert said in answer
    else:
        service.stub.CreateTrial(request)
        (kept,) = study.trials()
        assert dict(kept.parameters) == {"learning_rate": 0.1, **parameters}


def test_a_study_is_not_deleted_under_a_suggestion(server, service, study, owner):
    """Whose trials would be the next study's of that name."""
    inside, go_on = threading.Event(), threading.Event()
    suggest = server.service.default_pythia_service.Suggest

    def slow(*arguments):
        inside.set()
        assert go_on.wait(timeout=30)
        return suggest(*arguments)

    server.service.default_pythia_service.Suggest = slow
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        suggested = pool.submit(study.suggest, count=1)
        assert inside.wait(timeout=30)
        deleted = pool.submit(study.delete)
        time.sleep(0.1)
        assert not deleted.done()
        go_on.set()
        assert len(suggested.result(timeout=30)) == 1
        deleted.result(timeout=30)
    server.service.default_pythia_service.Suggest = suggest
    again = service.study(configuration(ALGORITHM), owner=owner, study_id="s")
    assert not list(again.trials())


def test_limits(service, study, owner):
    assert refused(lambda: study.suggest(count=6))[0] is grpc.StatusCode.INVALID_ARGUMENT
    study.suggest(count=5)
    code, said = refused(lambda: study.suggest(count=4, client_id="other"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert said == f"owners/{owner}/studies/s has 5 trials; at most 8 are allowed"
    study.suggest(count=3, client_id="other")
    # Full: but a worker still gets what it has not finished.
    assert len(study.suggest(count=5)) == 5
    assert refused(lambda: study.suggest(count=1, client_id="third"))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused(lambda: study.add_trial(trial_of()))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    for name in "ab":
        service.study(configuration(), owner=owner, study_id=name)
    code, said = refused(lambda: service.study(configuration(), owner=owner, study_id="c"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"owners/{owner} has 3 studies" in said
    service.study(configuration(), owner=owner, study_id="a")  # those that exist can be had
    service.study(configuration(), owner=f"{owner}b", study_id="c")


def test_a_huge_request_is_refused_and_the_server_goes_on(factory, tmp_path):
    settings = Settings(port=0, message_bytes=10_000)
    with (
        running(VizierServer(factory, f"sqlite:///{tmp_path}/s.db", settings)) as server,
        Service(server.endpoint) as s,
    ):
        large = study_pb2.Study(display_name="x" * 20_000, study_spec=configuration().to_proto())
        request = vizier_service_pb2.CreateStudyRequest(parent="owners/me", study=large)
        assert refused(lambda: s.stub.CreateStudy(request))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert s.study(configuration(), owner="me", study_id="small").suggest(count=1)


def test_an_operation_left_open_by_a_dead_server_keeps_nobody_waiting(server, service, study, owner):
    name = resources.SuggestionOperationResource(owner, "s", "worker", 1).name
    server.service.datastore.create_suggestion_operation(operations_pb2.Operation(name=name, done=False))
    assert len(study.suggest(count=1, client_id="worker")) == 1
    assert refused(lambda: service.stub.GetOperation(operations_pb2.GetOperationRequest(name=name)))[0] is (
        grpc.StatusCode.NOT_FOUND
    )


def test_a_policy_that_fails_ends_its_operation_with_the_reason(model, tmp_path):
    working = OptFormerPolicyFactory(model)
    broken = [True]

    def factory(*arguments):
        if broken[0]:
            raise RuntimeError("no weights")
        return working(*arguments)

    with (
        running(VizierServer(factory, f"sqlite:///{tmp_path}/s.db", ANY_PORT)) as server,
        Service(server.endpoint) as s,
    ):
        study = s.study(configuration(ALGORITHM), owner="me", study_id="s")
        with pytest.raises(Exception, match="no weights"):
            study.suggest(count=1, client_id="worker")
        broken[0] = False
        assert len(study.suggest(count=1, client_id="worker")) == 1


def test_a_client_that_goes_away_leaves_its_trial_to_be_asked_for_again(service, study):
    request = vizier_service_pb2.SuggestTrialsRequest(
        parent=study.resource_name, suggestion_count=1, client_id="worker"
    )
    service.stub.SuggestTrials.future(request).cancel()
    (first,) = study.suggest(count=1, client_id="worker")
    (again,) = study.suggest(count=1, client_id="worker")
    assert first.id == again.id


def test_a_checkpoint_that_is_removed_does_not_matter_to_a_running_server(checkpoint, tmp_path):
    mine = shutil.copytree(checkpoint, tmp_path / "mine")
    server = VizierServer(OptFormerPolicyFactory(str(mine)), f"sqlite:///{tmp_path}/s.db", ANY_PORT)
    shutil.rmtree(mine)
    with running(server), Service(server.endpoint) as service:
        study = service.study(configuration(ALGORITHM), owner="me", study_id="s")
        assert len(study.suggest(count=5)) == 5


def test_strangers_are_refused(factory, tmp_path):
    access = Access(token=TOKEN)
    with running(VizierServer(factory, f"sqlite:///{tmp_path}/s.db", ANY_PORT, access)) as server:
        with Service(server.endpoint, token=TOKEN) as friend:
            study = friend.study(configuration(), owner="me", study_id="s")
            assert len(study.suggest(count=1)) == 1
        for token in (None, TOKEN + "x"):
            with Service(server.endpoint, token=token) as stranger:
                code, said = refused(lambda: stranger.study(configuration(), owner="me", study_id="s"))
                assert code is grpc.StatusCode.UNAUTHENTICATED
                assert TOKEN not in said
        # A load balancer needs no token to see whether the server is up.
        with grpc.insecure_channel(server.endpoint) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_certificates(factory, tmp_path):
    ours, theirs = trustme.CA(), trustme.CA()
    own, friend, stranger = ours.issue_cert("localhost"), ours.issue_cert("friend"), theirs.issue_cert("stranger")
    authorities = ours.cert_pem.bytes()

    def pair(certificate):
        return {
            "certificate": certificate.cert_chain_pems[0].bytes(),
            "key": certificate.private_key_pem.bytes(),
        }

    access = Access(**pair(own), client_authorities=authorities)
    settings = Settings(host="localhost", port=0, grace_seconds=1.0)
    with running(VizierServer(factory, f"sqlite:///{tmp_path}/s.db", settings, access)) as server:
        with Service(server.endpoint, authorities=authorities, **pair(friend)) as service:
            assert service.study(configuration(), owner="me", study_id="s").suggest(count=1)
        for wrong in ({}, {"authorities": authorities}, {"authorities": authorities, **pair(stranger)}):
            with pytest.raises((OSError, grpc.RpcError)):
                Service(server.endpoint, timeout=0.3, **wrong).study(configuration(), owner="me", study_id="s")


def test_no_server_is_open_by_mistake(factory, tmp_path):
    with pytest.raises(AccessError, match=r"0\.0\.0\.0 can be reached from other machines"):
        VizierServer(factory, f"sqlite:///{tmp_path}/s.db", Settings(host="0.0.0.0", port=0))


def test_one_server_per_address_and_database(factory, tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    with running(VizierServer(factory, url, ANY_PORT)) as server:
        with pytest.raises(OSError, match=rf"database .*s\.db is used by another server \(process {os.getpid()}\)"):
            VizierServer(factory, url, ANY_PORT)
        with pytest.raises(OSError, match="cannot listen on"):
            VizierServer(factory, f"sqlite:///{tmp_path}/other.db", Settings(port=server.port))
    # What failed holds nothing, and neither does what has stopped.
    for name in ("s", "other"):
        with running(VizierServer(factory, f"sqlite:///{tmp_path}/{name}.db", ANY_PORT)):
            pass
    with pytest.raises(OSError, match=r"folder .* does not exist"):
        VizierServer(factory, f"sqlite:///{tmp_path}/no/s.db", ANY_PORT)


def test_a_database_is_locked_under_all_its_names(factory, tmp_path, monkeypatch):
    (tmp_path / "link.db").symlink_to(tmp_path / "s.db")
    (tmp_path / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = ("link.db", "folder/s.db", "file:s.db?uri=true", f"file:{tmp_path}/s.db?uri=true", "s.db?timeout=1")
    with running(VizierServer(factory, f"sqlite:///{tmp_path}/s.db", ANY_PORT)):
        for url in ("sqlite+pysqlite:///s.db", *(f"sqlite:///{name}" for name in names)):
            with pytest.raises(OSError, match=r"s\.db is used by another server"):
                VizierServer(factory, url, ANY_PORT)


def test_databases_that_are_no_file_are_not_locked():
    for url in ("sqlite:///:memory:", "sqlite://", "postgresql://host/name"):
        assert sqlite_file(url) is None
        DatabaseLock(url).release()


def test_studies_outlive_the_server(factory, tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    with running(VizierServer(factory, url, ANY_PORT)) as server, Service(server.endpoint) as service:
        study = service.study(configuration(ALGORITHM), owner="me", study_id="s")
        (trial,) = study.suggest(count=1, client_id="worker")
        before = trial.parameters
    with running(VizierServer(factory, url, ANY_PORT)) as server, Service(server.endpoint) as service:
        (trial,) = service.load("owners/me/studies/s").suggest(count=1, client_id="worker")
        assert trial.parameters == before


def test_calls_are_counted_and_timed(factory, tmp_path):
    limits = Limits(suggestions=5)
    with (
        running(VizierServer(factory, f"sqlite:///{tmp_path}/s.db", ANY_PORT, limits=limits)) as server,
        Service(server.endpoint) as service,
    ):
        study = service.study(configuration(), owner="me", study_id="s")
        study.suggest(count=1)
        refused(lambda: study.suggest(count=6))
        port = server.metrics.serve("127.0.0.1", 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
            text = reply.read().decode()
    assert 'optformer_calls_total{method="SuggestTrials",status="OK"} 1.0' in text
    assert 'optformer_calls_total{method="SuggestTrials",status="INVALID_ARGUMENT"} 1.0' in text
    assert 'optformer_call_seconds_count{method="SuggestTrials"} 2.0' in text
    assert "optformer_calls_running 0.0" in text


def test_a_fault_of_ours_is_told_without_its_details():
    code, said = status_of(ZeroDivisionError("secret"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in said


def test_stopping_lets_calls_end_and_takes_no_more(model, tmp_path):
    inner, begun = OptFormerPolicyFactory(model), []

    def slow(*arguments):
        begun.append(True)
        time.sleep(0.5)
        return inner(*arguments)

    server = VizierServer(slow, f"sqlite:///{tmp_path}/s.db", Settings(port=0, grace_seconds=20.0))
    with Service(server.endpoint) as service, concurrent.futures.ThreadPoolExecutor(1) as pool:
        study = service.study(configuration(ALGORITHM), owner="me", study_id="s")
        running_call = pool.submit(study.suggest, count=1)
        for _ in range(1000):
            if begun:
                break
            time.sleep(0.01)
        server.stop()
        assert len(running_call.result()) == 1
        assert refused(lambda: study.suggest(count=1))[0] in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        )


def test_pythia_apart(factory, server, service, owner):
    """Studies here, suggestions in a server of their own."""
    with running(PythiaServer(factory, server.endpoint, ANY_PORT)) as pythia:
        config = configuration(ALGORITHM)
        config.pythia_endpoint = pythia.endpoint
        study = service.study(config, owner=owner, study_id="apart")
        (trial,) = study.suggest(count=1)
        assert trial.materialize().metadata.ns("optformer")["checkpoint"] == "random-tiny"
        labels = {"method": "Suggest", "status": "OK"}
        assert pythia.metrics.registry.get_sample_value("optformer_calls_total", labels) == 1.0


def test_pythia_apart_knows_children_of_children_and_says_why_it_failed(model, server, service, owner):
    working, broken = OptFormerPolicyFactory(model, seed=1), []

    def factory(*arguments):
        if broken:
            raise RuntimeError("no weights")
        return working(*arguments)

    with running(PythiaServer(factory, server.endpoint, ANY_PORT)) as pythia:
        config = configuration(ALGORITHM, testing.conditional_problem())
        config.pythia_endpoint = pythia.endpoint
        study = service.study(config, owner=owner, study_id="deep")
        asked = [trial.parameters for trial in study.suggest(count=4) + study.suggest(count=4, client_id="other")]
        deep = [parameters for parameters in asked if parameters.get("momentum") == "on"]
        assert deep
        assert all("decay" in parameters for parameters in deep)
        broken.append(True)
        other = service.study(config, owner=f"{owner}b", study_id="deep")
        with pytest.raises(Exception, match="no weights"):
            other.suggest(count=1)


def test_servers_that_want_tokens_and_tls_show_them_to_each_other(factory, tmp_path):
    authority = trustme.CA()
    own = authority.issue_cert("localhost")
    access = Access(TOKEN, certificate=own.cert_chain_pems[0].bytes(), key=own.private_key_pem.bytes())
    credentials = Credentials(TOKEN, authority.cert_pem.bytes())
    settings = Settings(host="localhost", port=0, grace_seconds=1.0)
    with (
        running(
            VizierServer(
                factory,
                f"sqlite:///{tmp_path}/s.db",
                settings,
                access,
                pythia_servers=PythiaServers(credentials=credentials),
            )
        ) as server,
        running(PythiaServer(factory, server.endpoint, settings, access, credentials=credentials)) as pythia,
        Service(server.endpoint, token=TOKEN, authorities=authority.cert_pem.bytes()) as service,
    ):
        config = configuration(ALGORITHM)
        config.pythia_endpoint = pythia.endpoint
        study = service.study(config, owner="me", study_id="apart")
        assert len(study.suggest(count=2)) == 2
        labels = {"method": "Suggest", "status": "OK"}
        assert pythia.metrics.registry.get_sample_value("optformer_calls_total", labels) == 1.0


def test_only_servers_that_were_named_are_called_for_a_study(service, owner):
    config = configuration(ALGORITHM)
    config.pythia_endpoint = "tuning.example.org:443"
    code, said = refused(lambda: service.study(config, owner=owner, study_id="elsewhere"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "may not call the pythia_endpoint 'tuning.example.org:443'" in said
    PythiaServers(["tuning.example.org:443"]).check("tuning.example.org:443")
    PythiaServers().check("[::1]:443")


def test_a_pythia_server_that_has_gone_ends_the_operation(factory, server, service, monkeypatch, owner):
    with running(PythiaServer(factory, server.endpoint, ANY_PORT)) as pythia:
        config = configuration(ALGORITHM)
        config.pythia_endpoint = pythia.endpoint
    monkeypatch.setattr(channels, "WAIT_SECONDS", 0.2)
    study = service.study(config, owner=owner, study_id="orphan")
    with pytest.raises(Exception, match=f"no server answers at {pythia.endpoint}"):
        study.suggest(count=1)
