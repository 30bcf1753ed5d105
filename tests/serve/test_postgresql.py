"""The service on a real PostgreSQL server: `OPTFORMER_TEST_POSTGRESQL` is the URL of a database that may be emptied.

OPTFORMER_TEST_POSTGRESQL=postgresql+psycopg2://me@127.0.0.1/empty pytest tests/serve/test_postgresql.py
"""

import os

import pytest
import sqlalchemy as sql
from sqlalchemy.exc import OperationalError
from vizier._src.service import study_pb2, vizier_service_pb2
from vizier.service import pyvizier as svz

from optformer.serve import testing
from optformer.serve.datastore import DatabaseError, StudyStore, check_database
from optformer.serve.studies import StudyService
from optformer.serve.vizier import _default_factory

URL = os.environ.get("OPTFORMER_TEST_POSTGRESQL", "")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not URL, reason="OPTFORMER_TEST_POSTGRESQL names no server"),
]


def execute(statement):
    engine = sql.create_engine(URL, poolclass=sql.pool.NullPool)
    with engine.begin() as connection:
        return connection.execute(sql.text(statement)).rowcount


STUDY = "owners/me/studies/s"


def make_study(service):
    config = svz.StudyConfig.from_problem(testing.mixed_problem())
    config.algorithm = "QUASI_RANDOM_SEARCH"
    study = study_pb2.Study(display_name="s", study_spec=config.to_proto())
    service.CreateStudy(vizier_service_pb2.CreateStudyRequest(parent="owners/me", study=study))


def suggest(service, client, count=1):
    request = vizier_service_pb2.SuggestTrialsRequest(parent=STUDY, suggestion_count=count, client_id=client)
    answer = vizier_service_pb2.SuggestTrialsResponse.FromString(service.SuggestTrials(request).response.value)
    return list(answer.trials)


def complete(service, trial):
    request = vizier_service_pb2.CompleteTrialRequest(name=trial.name)
    request.final_measurement.metrics.add(metric_id="objective", value=1.0)
    return service.CompleteTrial(request)


@pytest.fixture
def empty():
    execute("DROP SCHEMA public CASCADE")
    execute("CREATE SCHEMA public")


@pytest.fixture
def service(empty):
    service = StudyService(URL, _default_factory())
    yield service
    service.close()


def test_a_study_from_its_first_trial_to_its_end(service):
    make_study(service)
    trials = suggest(service, "a", count=3)
    assert [trial.id for trial in trials] == ["1", "2", "3"]
    for trial in trials:
        request = vizier_service_pb2.UpdateMetadataRequest(name=STUDY)
        update = request.delta.add(trial_id=trial.id)
        update.metadatum.key, update.metadatum.value = "key", "value"
        assert not service.UpdateMetadata(request).error_details
        assert complete(service, trial).state == study_pb2.Trial.State.SUCCEEDED
    assert [entry.value for entry in service.datastore.get_trial(f"{STUDY}/trials/2").metadata] == ["value"]
    assert not service.datastore.open_trials(STUDY)
    assert service.datastore.trial_bytes(STUDY) > 100
    service.datastore.delete_study(STUDY)
    assert not service.datastore.list_studies("owners/me")


def test_what_was_written_is_there_for_the_next_server(empty):
    for number in ("1", "2"):
        service = StudyService(URL, _default_factory())
        make_study(service)
        (trial,) = suggest(service, f"worker {number}")
        assert trial.id == number
        service.close()


def test_a_connection_that_breaks_is_made_anew(service):
    make_study(service)
    (trial,) = suggest(service, "a")
    execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    with pytest.raises(OperationalError):
        suggest(service, "b")
    assert [each.id for each in suggest(service, "b")] == ["2"]
    complete(service, trial)
    with pytest.raises(OSError, match="another server"):  # it is locked again
        StudyStore(URL)


def test_one_server_at_a_time(service):
    with pytest.raises(OSError, match="another server uses it: stop that server first"):
        StudyStore(URL)


def test_a_database_of_another_program_is_left_alone(empty):
    execute("CREATE TABLE recipes (name text)")
    with pytest.raises(DatabaseError, match=r"belongs to another program .*'recipes'"):
        StudyStore(URL)
    assert execute("SELECT * FROM pg_tables WHERE schemaname = 'public'") == 1
    check_database("sqlite://")


def test_a_write_that_fails_leaves_nothing_and_the_next_one_works(service):
    make_study(service)
    (before,) = suggest(service, "a")
    execute("ALTER TABLE trials ADD CONSTRAINT small CHECK (length(serialized_trial) < 1000)")
    with pytest.raises(sql.exc.IntegrityError):
        service.datastore.update_trial(study_pb2.Trial(name=before.name, id="1", infeasible_reason="x" * 2000))
    assert service.datastore.list_trials(STUDY) == [before]
    execute("ALTER TABLE trials DROP CONSTRAINT small")
    assert len(suggest(service, "b")) == 1
