"""The database: writes that fail, numbers of trials, what is kept of operations, and databases of other programs."""

import contextlib
import shutil
import sqlite3

import pytest
import sqlalchemy as sql
from google.longrunning import operations_pb2
from sqlalchemy.exc import OperationalError
from vizier._src.service import custom_errors, key_value_pb2, study_pb2
from vizier._src.service.sql_datastore import SQLDataStore

from optformer.cli import main
from optformer.serve.datastore import DatabaseError, StudyStore, check_database

pytestmark = pytest.mark.integration

STUDY = "owners/me/studies/s"


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/s.db?timeout=0.05"


@pytest.fixture
def store(url):
    store = StudyStore(url)
    store.create_study(study_pb2.Study(name=STUDY, display_name="s"))
    yield store
    store.close()


def new_trial(study=STUDY, **fields):
    return study_pb2.Trial(name=f"{study}/trials/1", **fields)


def numbers(store, study=STUDY):
    return sorted(int(trial.id) for trial in store.list_trials(study))


# Writes that fail.


@contextlib.contextmanager
def reading(path):
    """Another program that reads the file for long: a COMMIT must wait for it, and gives up."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM trials").fetchall()
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def full(store):
    """A disk without room for another page."""
    with store._lock:
        (pages,) = store._connection.exec_driver_sql("PRAGMA page_count").one()
        store._connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    yield
    with store._lock:
        store._connection.exec_driver_sql("PRAGMA max_page_count = 1000000")


def writes(store):
    """Each way to write, with something that makes it need room."""
    large = "x" * 50_000
    trial = store.list_trials(STUDY)[0]
    operation = operations_pb2.Operation(name="owners/me/operations/suggestion/s/worker/1", done=True)
    operation.response.value = large.encode()
    return {
        "create_study": lambda: store.create_study(study_pb2.Study(name="owners/me/studies/t", display_name=large)),
        "update_study": lambda: store.update_study(study_pb2.Study(name=STUDY, display_name=large)),
        "create_trial": lambda: store.create_trial(new_trial(infeasible_reason=large)),
        "update_trial": lambda: store.update_trial(study_pb2.Trial(name=trial.name, id="1", infeasible_reason=large)),
        "hand_out": lambda: store.hand_out(STUDY, [trial], [new_trial(), new_trial()], lambda: operation),
        "update_metadata": lambda: store.update_metadata(STUDY, [metadatum(large)], []),
    }


def metadatum(value):
    return key_value_pb2.KeyValue(key="k", value=value)


@pytest.mark.parametrize("how", ["a reader", "a full disk"])
@pytest.mark.parametrize(
    "name", ["create_study", "update_study", "create_trial", "update_trial", "hand_out", "update_metadata"]
)
def test_a_write_that_fails_leaves_nothing_and_the_next_one_works(store, tmp_path, how, name):
    store.create_trial(new_trial())
    before = (store.load_study(STUDY), store.list_trials(STUDY), len(store.list_studies("owners/me")))
    for _ in range(2):
        with reading(tmp_path / "s.db") if how == "a reader" else full(store):
            with pytest.raises(OperationalError):
                writes(store)[name]()
            # Meanwhile the others read what there was.
            assert before == (store.load_study(STUDY), store.list_trials(STUDY), len(store.list_studies("owners/me")))
    writes(store)[name]()
    assert before != (store.load_study(STUDY), store.list_trials(STUDY), len(store.list_studies("owners/me")))
    # Nobody is kept out of the file either.
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db", timeout=0.05)) as other:
        other.execute("DELETE FROM early_stopping_operations")
        other.commit()


def test_what_was_written_is_on_the_disk(store, url):
    store.create_trial(new_trial())
    store.close()
    again = StudyStore(url)
    assert numbers(again) == [1]
    again.close()


# Trials and operations.


def test_trials_are_numbered_as_they_are_written(store):
    for expected in (1, 2):
        trial = new_trial()
        store.create_trial(trial)
        assert (trial.id, trial.name) == (str(expected), f"{STUDY}/trials/{expected}")
    both = [new_trial(), new_trial()]
    store.hand_out(STUDY, [], both)
    assert [trial.id for trial in both] == ["3", "4"]
    assert numbers(store) == [1, 2, 3, 4]


def test_open_trials_are_those_that_have_not_ended(store):
    state = study_pb2.Trial.State
    for each in (state.ACTIVE, state.SUCCEEDED, state.REQUESTED, state.INFEASIBLE, state.STOPPING):
        store.create_trial(new_trial(state=each))
    for _ in range(2):  # read, then remembered
        assert [trial.id for trial in store.open_trials(STUDY)] == ["1", "3", "5"]
    ended = store.get_trial(f"{STUDY}/trials/3")
    ended.state = state.SUCCEEDED
    store.update_trial(ended)
    store.create_trial(new_trial(state=state.ACTIVE))
    assert [trial.id for trial in store.open_trials(STUDY)] == ["1", "5", "6"]
    store.delete_trial(f"{STUDY}/trials/1")
    assert [trial.id for trial in store.open_trials(STUDY)] == ["5", "6"]


def test_one_operation_is_kept_of_each_client(store):
    for _ in range(5):
        for client in ("a", "b"):
            operation = operations_pb2.Operation(name=store.next_operation(STUDY, client), done=True)
            store.hand_out(STUDY, [], [], lambda operation=operation: operation)
    for client in ("a", "b"):
        (kept,) = store.list_suggestion_operations(STUDY, client)
        assert kept.name == f"owners/me/operations/suggestion/s/{client}/5"


def test_a_deleted_study_leaves_nothing_to_the_next_of_its_name(store):
    operation = operations_pb2.Operation(name=store.next_operation(STUDY, "a"), done=True)
    store.hand_out(STUDY, [], [new_trial()], lambda: operation)
    assert store.open_trials(STUDY)
    store.delete_study(STUDY)
    with pytest.raises(custom_errors.NotFoundError):
        store.delete_study(STUDY)
    store.create_study(study_pb2.Study(name=STUDY, display_name="s"))
    assert not store.list_trials(STUDY)
    assert not store.open_trials(STUDY)
    assert store.next_operation(STUDY, "a").endswith("/1")


# Databases of others.


def test_databases_of_vizier_s_own_service_are_gone_on_with(tmp_path):
    """And the other way round; what earlier releases kept of operations goes with the next suggestion."""
    url = f"sqlite:///{tmp_path}/vizier.db"

    def viziers():
        return SQLDataStore(sql.create_engine(url, poolclass=sql.pool.NullPool))

    theirs = viziers()
    theirs.create_study(study_pb2.Study(name=STUDY, display_name="s"))
    theirs.create_trial(study_pb2.Trial(name=f"{STUDY}/trials/1", id="1", client_id="a"))
    for number in range(1, 6):
        name = f"owners/me/operations/suggestion/s/a/{number}"
        theirs.create_suggestion_operation(operations_pb2.Operation(name=name, done=number < 5))
    theirs._connection.close()
    store = StudyStore(url)
    assert store.get_trial(f"{STUDY}/trials/1").client_id == "a"
    operation = operations_pb2.Operation(name=store.next_operation(STUDY, "a"), done=True)
    store.hand_out(STUDY, [], [new_trial(client_id="b")], lambda: operation)
    assert [kept.name for kept in store.list_suggestion_operations(STUDY, "a")] == [operation.name]
    store.close()
    theirs = viziers()
    assert [trial.client_id for trial in theirs.list_trials(STUDY)] == ["a", "b"]
    theirs._connection.close()


def foreign(path, kind):
    if kind == "text":
        path.write_text("a file of notes\n" * 100)
        return
    with contextlib.closing(sqlite3.connect(path)) as other:
        if kind == "write-ahead log":
            other.execute("PRAGMA journal_mode = wal")
        if kind == "studies of another program":  # Optuna's, say
            other.execute("CREATE TABLE studies (study_id INTEGER PRIMARY KEY, study_name TEXT)")
            other.execute("CREATE TABLE trials (trial_id INTEGER PRIMARY KEY, study_id INTEGER)")
        else:
            other.execute("CREATE TABLE recipes (name TEXT)")
        other.commit()


@pytest.mark.parametrize("kind", ["text", "other tables", "write-ahead log", "studies of another program"])
def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path, capsys, kind):
    path = tmp_path / "theirs.db"
    foreign(path, kind)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    said = (
        r"cannot be read as a database: file is not a database"
        if kind == "text"
        else r"theirs\.db belongs to another program \(it has"
    )
    with pytest.raises(DatabaseError, match=said):
        StudyStore(f"sqlite:///{path}")
    assert main(["serve", "--database-url", f"sqlite:///{path}", "--port", "0"]) == 2
    assert "theirs.db" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_is_still_in_a_log_counts(tmp_path):
    path = tmp_path / "theirs.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute("CREATE TABLE recipes (name TEXT)")
        other.commit()
        with pytest.raises(DatabaseError, match="'recipes'"):
            check_database(f"sqlite:///{path}")


@pytest.mark.parametrize("theirs", [False, True])
def test_a_server_that_was_killed_in_the_middle_of_a_write(tmp_path, theirs):
    """Its journal is rolled back by the next one, and by nobody where the database is another program's."""
    (tmp_path / "killed").mkdir()
    killed = tmp_path / "killed" / "s.db"
    if theirs:
        foreign(tmp_path / "s.db", "other tables")
    else:
        store = StudyStore(f"sqlite:///{tmp_path}/s.db")
        store.create_study(study_pb2.Study(name=STUDY, display_name="s"))
        store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as writing:
        writing.execute("PRAGMA cache_size = 1")
        writing.execute("BEGIN IMMEDIATE")
        for number in range(200):  # too much to be kept in memory until the end
            if theirs:
                writing.execute("INSERT INTO recipes VALUES (?)", ("x" * 4000,))
            else:
                writing.execute("INSERT INTO owners VALUES (?)", (f"owners/{number}" + "x" * 4000,))
        for name in ("s.db", "s.db-journal"):
            shutil.copy(tmp_path / name, killed.parent)
        writing.execute("ROLLBACK")
    before = {file.name: file.read_bytes() for file in killed.parent.iterdir()}
    assert before["s.db-journal"]
    if theirs:
        with pytest.raises(DatabaseError, match="'recipes'"):
            StudyStore(f"sqlite:///{killed}")
        assert {file.name: file.read_bytes() for file in killed.parent.iterdir()} == before
    else:
        store = StudyStore(f"sqlite:///{killed}")
        assert [study.name for study in store.list_studies("owners/me")] == [STUDY]
        assert store._connection.exec_driver_sql("SELECT count(*) FROM owners").scalar() == 1
        store.close()


def test_databases_that_may_be_used(tmp_path):
    empty, missing = tmp_path / "empty.db", tmp_path / "missing.db"
    empty.touch()
    for url in (f"sqlite:///{empty}", f"sqlite:///{missing}", "sqlite:///:memory:", "sqlite://"):
        for _ in range(2):  # new, then its own
            StudyStore(url).close()
    with contextlib.closing(sqlite3.connect(missing)) as other:  # somebody looks at it through a table of his own
        other.execute("CREATE TABLE notes (text TEXT)")
        other.commit()
    StudyStore(f"sqlite:///{missing}").close()


def test_a_database_that_can_only_be_read_is_refused(tmp_path):
    StudyStore(f"sqlite:///{tmp_path}/s.db").close()
    with pytest.raises(OSError, match=r"s\.db cannot be used: attempt to write a readonly database"):
        StudyStore(f"sqlite:///file:{tmp_path}/s.db?mode=ro&uri=true")


@pytest.mark.parametrize(
    "url, error",
    [
        ("sqlite:////no/such/folder/s.db", OSError),
        ("nonsense", ValueError),
        ("nosuchdatabase://host/name", ValueError),
    ],
)
def test_databases_that_cannot_be_opened(url, error):
    with pytest.raises(error):
        StudyStore(url)
