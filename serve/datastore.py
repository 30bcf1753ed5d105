"""Vizier's tables in a SQL database, with failed writes rolled back.

Vizier's own store leaves a transaction open if its COMMIT fails (a full disk, a reader that locks the file); then all
later calls fail as well.
"""

import contextlib
import itertools
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sql
from google.longrunning import operations_pb2
from sqlalchemy import exc as database_errors
from vizier._src.service import custom_errors, resources, study_pb2
from vizier._src.service.sql_datastore import SQLDataStore

from optformer.serve.database import sqlite_file

_TABLES: Final[dict[str, tuple[str, ...]]] = {
    "owners": ("owner_name",),
    "studies": ("study_name", "owner_id", "study_id", "serialized_study"),
    "trials": ("trial_name", "owner_id", "study_id", "trial_id", "serialized_trial"),
    "suggestion_operations": (
        "operation_name",
        "owner_id",
        "study_id",
        "client_id",
        "operation_number",
        "serialized_op",
    ),
    "early_stopping_operations": ("operation_name", "owner_id", "study_id", "trial_id", "serialized_op"),
}
"""Columns of each table, as Vizier has them; the first is the primary key."""
_INTEGERS: Final = ("trial_id", "operation_number")
_INDEXED: Final = {
    "trials": ("owner_id", "study_id", "trial_id"),
    "suggestion_operations": ("owner_id", "study_id", "client_id"),
}


_POSTGRESQL_LOCK: Final = int.from_bytes(b"optforme")
"""Key of the advisory lock; an arbitrary number that other programs are unlikely to use."""


class DatabaseError(ValueError):
    """The database belongs to another program, or the file is not a database."""


class StudyStore(SQLDataStore):
    """Studies, trials and operations.

    Trials are numbered when they are written, so that numbers are unique.  Only the last operation of each client is
    kept: clients get the result in the reply to their call, and do not ask for older ones.
    """

    def __init__(self, database_url: str):
        """
        Raises:
          DatabaseError: the database belongs to another program; nothing is written into it.
          OSError: the database does not answer, or cannot be written.
        """
        check_database(database_url)
        with _answering(database_url):
            self._open(database_url)

    def _open(self, database_url: str) -> None:
        sqlite = sql.make_url(database_url).get_backend_name() == "sqlite"
        self._engine = sql.create_engine(
            database_url,
            connect_args={"check_same_thread": False} if sqlite else {},
            poolclass=sql.pool.StaticPool,
        )
        if self._engine.dialect.name == "postgresql":
            sql.event.listen(self._engine, "connect", _lock_postgresql)
        self._connection = self._engine.connect()
        self._root_metadata = sql.MetaData()
        tables = {name: self._table(name) for name in _TABLES}
        self._owners_table = tables["owners"]
        self._studies_table = tables["studies"]
        self._trials_table = tables["trials"]
        self._suggestion_operations_table = tables["suggestion_operations"]
        self._early_stopping_operations_table = tables["early_stopping_operations"]
        self._open_numbers: dict[str, set[int]] = {}
        self._versions: dict[str, int] = {}
        self._changes = itertools.count(1)
        self._lock = _Transaction(self._connection, self._open_numbers.clear)
        with self._lock:
            self._root_metadata.create_all(self._connection)
            for name, columns in _INDEXED.items():
                index = sql.Index(f"{name}_by_study", *(tables[name].c[column] for column in columns))
                index.create(self._connection, checkfirst=True)  # databases of earlier releases have none
            self._connection.commit()
            # Changes nothing, but fails if the database can only be read.
            self._connection.execute(self._owners_table.delete().where(sql.false()))
            self._connection.rollback()

    def _table(self, name: str) -> sql.Table:
        key, *others = _TABLES[name]
        return sql.Table(
            name,
            self._root_metadata,
            sql.Column(key, sql.String, primary_key=True),
            *(sql.Column(column, _column_type(column)) for column in others),
        )

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()
            self._engine.dispose()

    # Trials.

    def create_trial(self, trial: study_pb2.Trial) -> resources.TrialResource:
        """Writes a trial under the next free number, and sets `trial.id` and `trial.name` to it."""
        self.hand_out(resources.TrialResource.from_name(trial.name).study_resource.name, [], [trial])
        return resources.TrialResource.from_name(trial.name)

    def update_trial(self, trial: study_pb2.Trial) -> resources.TrialResource:
        """As Vizier's.  Raises `NotFoundError`."""
        resource = super().update_trial(trial)
        self._note(resource.study_resource.name, [trial])
        return resource

    def open_trials(self, study_name: str) -> list[study_pb2.Trial]:
        """The trials that have not ended, by number.  The others, which may be many, are not read."""
        study, table = resources.StudyResource.from_name(study_name), self._trials_table
        of_study = (table.c.owner_id == study.owner_id) & (table.c.study_id == study.study_id)
        query = sql.select(table.c.serialized_trial).where(of_study).order_by(table.c.trial_id)
        with self._lock:
            known = self._open_numbers.get(study_name)
            if known is not None:
                query = query.where(table.c.trial_id.in_(sorted(known)))
            rows = self._connection.execute(query).scalars()
            trials = [trial for trial in map(study_pb2.Trial.FromString, rows) if _is_open(trial)]
            self._open_numbers[study_name] = {int(trial.id) for trial in trials}
        return trials

    def _note(self, study_name: str, trials: Iterable[study_pb2.Trial]) -> None:
        """Updates the version of the study and the cached numbers of open trials, after trials were written."""
        self._changed(study_name)
        with self._lock:
            numbers = self._open_numbers.get(study_name)
            if numbers is not None:
                for trial in trials:
                    (numbers.add if _is_open(trial) else numbers.discard)(int(trial.id))

    def hand_out(
        self,
        study_name: str,
        changed: Iterable[study_pb2.Trial],
        new: Sequence[study_pb2.Trial],
        operation: Callable[[], operations_pb2.Operation] | None = None,
    ) -> None:
        """Writes these trials and the operation in one transaction.

        Args:
          changed: existing trials.
          new: new trials, which get their numbers here, as in `create_trial`.
          operation: called when the trials have their numbers; its result replaces the client's earlier operations.
        """
        study, table = resources.StudyResource.from_name(study_name), self._trials_table
        changed = list(changed)
        with self._lock:
            for trial in changed:
                query = table.update().where(table.c.trial_name == trial.name)
                self._connection.execute(query.values(serialized_trial=trial.SerializeToString()))
            self._insert_trials(study, new)
            if operation is not None:
                self._replace_operations(operation())
            self._connection.commit()
        self._note(study_name, [*changed, *new])

    def _insert_trials(self, study: resources.StudyResource, trials: Sequence[study_pb2.Trial]) -> None:
        table = self._trials_table
        of_study = (table.c.owner_id == study.owner_id) & (table.c.study_id == study.study_id)
        last = self._connection.execute(sql.select(sql.func.max(table.c.trial_id)).where(of_study)).scalar() or 0
        for number, trial in enumerate(trials, last + 1):
            trial.id, trial.name = str(number), study.trial_resource(str(number)).name
            values = {
                "trial_name": trial.name,
                "owner_id": study.owner_id,
                "study_id": study.study_id,
                "trial_id": number,
                "serialized_trial": trial.SerializeToString(),
            }
            try:
                self._connection.execute(table.insert().values(values))
            except database_errors.IntegrityError as error:  # another server on a database without a lock
                raise custom_errors.AlreadyExistsError(f"{trial.name} exists already; try again") from error

    def trial_bytes(self, study_name: str) -> int:
        """Bytes of all trials of a study."""
        study, table = resources.StudyResource.from_name(study_name), self._trials_table
        query = sql.select(sql.func.sum(sql.func.length(table.c.serialized_trial)))
        query = query.where(table.c.owner_id == study.owner_id, table.c.study_id == study.study_id)
        with self._lock:
            return int(self._connection.execute(query).scalar() or 0)

    # Operations.

    def next_operation(self, study_name: str, client_id: str) -> str:
        """The name of a client's next operation."""
        study = resources.StudyResource.from_name(study_name)
        table = self._suggestion_operations_table
        query = sql.select(sql.func.max(table.c.operation_number)).where(*self._of_client(study, client_id))
        with self._lock:
            last = self._connection.execute(query).scalar() or 0
        return str(resources.SuggestionOperationResource(study.owner_id, study.study_id, client_id, last + 1).name)

    def _replace_operations(self, operation: operations_pb2.Operation) -> None:
        named = resources.SuggestionOperationResource.from_name(operation.name)
        study, table = resources.StudyResource(named.owner_id, named.study_id), self._suggestion_operations_table
        self._connection.execute(table.delete().where(*self._of_client(study, named.client_id)))
        values = {
            "operation_name": operation.name,
            "owner_id": named.owner_id,
            "study_id": named.study_id,
            "client_id": named.client_id,
            "operation_number": named.operation_number,
            "serialized_op": operation.SerializeToString(),
        }
        self._connection.execute(table.insert().values(values))

    def _of_client(self, study: resources.StudyResource, client_id: str) -> list[sql.ColumnElement[bool]]:
        table = self._suggestion_operations_table
        return [
            table.c.owner_id == study.owner_id,
            table.c.study_id == study.study_id,
            table.c.client_id == client_id,
        ]

    # Studies.

    def study_names(self, after: str, count: int) -> list[str]:
        """Resource names of the studies of all owners that come after this one in order, at most `count`."""
        name = self._studies_table.c.study_name
        with self._lock:
            return list(
                self._connection.execute(sql.select(name).where(name > after).order_by(name).limit(count)).scalars()
            )

    def version(self, study_name: str) -> int:
        """A number that changes whenever this process has changed the study or its trials."""
        return self._versions.get(study_name, 0)

    def _changed(self, study_name: str) -> None:
        """Updates the version of the study, after something was written."""
        self._versions[study_name] = next(self._changes)

    def create_study(self, study: study_pb2.Study) -> resources.StudyResource:
        """As Vizier's.  Raises `AlreadyExistsError`."""
        resource = super().create_study(study)
        self._changed(study.name)
        return resource

    def update_study(self, study: study_pb2.Study) -> resources.StudyResource:
        """As Vizier's.  Raises `NotFoundError`."""
        resource = super().update_study(study)
        self._changed(study.name)
        return resource

    def delete_trial(self, trial_name: str) -> None:
        """As Vizier's.  Raises `NotFoundError`."""
        super().delete_trial(trial_name)
        self._changed(resources.TrialResource.from_name(trial_name).study_resource.name)

    def update_metadata(self, study_name: str, *updates: Any) -> None:
        """As Vizier's.  Raises `NotFoundError`."""
        super().update_metadata(study_name, *updates)
        self._changed(study_name)

    def delete_study(self, study_name: str) -> None:
        """Deletes a study with its trials and operations.  Raises `NotFoundError`."""
        study = resources.StudyResource.from_name(study_name)
        dependent = (self._trials_table, self._suggestion_operations_table, self._early_stopping_operations_table)
        with self._lock:
            table = self._studies_table
            deleted = self._connection.execute(table.delete().where(table.c.study_name == study_name))
            if not deleted.rowcount:
                raise custom_errors.NotFoundError(f"Study {study_name} does not exist.")
            for table in dependent:
                of_study = (table.c.owner_id == study.owner_id) & (table.c.study_id == study.study_id)
                self._connection.execute(table.delete().where(of_study))
            self._connection.commit()
            self._open_numbers.pop(study_name, None)
            self._versions.pop(study_name, None)


class _Transaction:
    """The lock that Vizier's store holds during each operation.  At its end, what is not committed is rolled back."""

    def __init__(self, connection: sql.Connection, failed: Callable[[], None]):
        """`failed`: called if something was, or may have been, rolled back."""
        self._connection, self._failed, self._lock = connection, failed, threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and not issubclass(kind, KeyError):  # a missing key is no failure of the database
                self._failed()
            if not self._connection.closed and (kind is not None or self._connection.in_transaction()):
                self._roll_back()
        finally:
            self._lock.release()

    def _roll_back(self) -> None:
        try:
            self._connection.rollback()
            # After a failed COMMIT, SQLAlchemy no longer asks the driver to roll back.
            self._connection.connection.rollback()
        except database_errors.SQLAlchemyError:
            # The connection is broken: the next call gets a new one.
            with contextlib.suppress(database_errors.SQLAlchemyError):
                self._connection.invalidate()
                self._connection.rollback()


def _lock_postgresql(connection: Any, record: object) -> None:
    """Locks the database for this server as long as the connection lasts, as `DatabaseLock` locks a file."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_try_advisory_lock({_POSTGRESQL_LOCK})")
        (locked,) = cursor.fetchone()
    connection.commit()
    if not locked:
        raise database_errors.OperationalError("lock", {}, Exception("another server uses it: stop that server first"))


def _is_open(trial: study_pb2.Trial) -> bool:
    return trial.state not in (study_pb2.Trial.State.SUCCEEDED, study_pb2.Trial.State.INFEASIBLE)


def _column_type(column: str) -> type[Any]:
    if column in _INTEGERS:
        return sql.INTEGER
    # Vizier declares String for bytes as well, which only SQLite accepts.
    return sql.LargeBinary if column.startswith("serialized_") else sql.String


def check_database(database_url: str) -> None:
    """Checks that the server may use a database; writes nothing.

    Raises:
      DatabaseError: it contains other data than Vizier's studies, or is not a database.
      OSError: it does not answer.
    """
    with _answering(database_url):
        file = sqlite_file(database_url)
        if file is not None and not file.exists():
            return
        with _untouched(database_url, file) as url:
            engine = sql.create_engine(url, poolclass=sql.pool.NullPool)
            try:
                inspected = sql.inspect(engine)
                names = inspected.get_table_names()
                columns = {name: {column["name"] for column in inspected.get_columns(name)} for name in names}
            finally:
                engine.dispose()
    other = any(not set(ours) <= columns[name] for name, ours in _TABLES.items() if name in columns)
    foreign, missing = columns.keys() - _TABLES.keys(), _TABLES.keys() - columns.keys()
    if other or (foreign and missing):
        raise DatabaseError(
            f"database {_shown(database_url)} belongs to another program (it has the tables "
            f"{', '.join(repr(name) for name in sorted(columns)[:5])}): give the server one of its own"
        )


@contextlib.contextmanager
def _answering(database_url: str) -> Iterator[None]:
    """Context manager for the first use of a database: turns SQLAlchemy's errors into clear ones."""
    try:
        yield
    except database_errors.OperationalError as error:
        raise OSError(f"database {_shown(database_url)} cannot be used: {error.orig}") from error
    except database_errors.DatabaseError as error:
        raise DatabaseError(f"database {_shown(database_url)} cannot be read as a database: {error.orig}") from error
    except database_errors.ArgumentError as error:
        raise DatabaseError(f"--database-url: {error}") from error


def _shown(database_url: str) -> str:
    """The URL for messages, without its password."""
    return str(sqlite_file(database_url) or sql.make_url(database_url).render_as_string(hide_password=True))


@contextlib.contextmanager
def _untouched(database_url: str, file: Path | None) -> Iterator[str]:
    """A URL for reading a database without any write to its file or folder."""
    if file is None:
        yield database_url
        return
    logs = [log for log in (file.with_name(file.name + ending) for ending in ("-journal", "-wal")) if log.exists()]
    if not logs:
        yield f"sqlite:///{file.as_uri()}?immutable=1&uri=true"
        return
    # A running or killed program has left a log that SQLite must first write into the file: do this in a copy.
    with tempfile.TemporaryDirectory(prefix="optformer-") as directory:
        for each in (file, *logs):
            shutil.copy(each, directory)
        yield f"sqlite:///{directory}/{file.name}"
