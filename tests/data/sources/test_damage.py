"""Random damage: whatever a store holds, the reader yields records or one clear error, never another exception."""

import contextlib
import gzip
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from optformer.data.sources import Quarantined, SourceError, read, write_studies
from optformer.data.sources.importing import import_corpus

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("optuna-*.db.gz"))
ODD_CELLS = [None, "x", "", b"\xff", -1, float("inf"), 2.5, "null", "[]", "{}", '{"name": 1}', 10**15]
ODD_JSON = [None, "x", -1, 2.5, [], {}, True, 10**30, "nan"]


def assert_survived(path: Path) -> None:
    with contextlib.suppress(SourceError):
        import_corpus([path], path.with_suffix(".corpus.jsonl"))


@pytest.mark.parametrize("seed", range(4))
def test_bytes_of_a_database(tmp_path, seed):
    rng = random.Random(seed)
    for _ in range(10):
        content = bytearray(gzip.decompress(rng.choice(FIXTURES).read_bytes()))
        for _ in range(rng.choice([1, 5, 30])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path = tmp_path / "a.db"
        path.write_bytes(content)
        assert_survived(path)


@pytest.mark.parametrize("seed", range(4))
def test_cells_of_a_database(tmp_path, seed):
    rng = random.Random(seed)
    for _ in range(10):
        path = tmp_path / "a.db"
        path.write_bytes(gzip.decompress(rng.choice(FIXTURES).read_bytes()))
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for _ in range(5):
                table = rng.choice([name for name in tables if "version" not in name])
                column = rng.choice([row[1] for row in connection.execute(f"PRAGMA table_info({table})")])
                rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")] or [0]
                with contextlib.suppress(sqlite3.IntegrityError):
                    cell = rng.choice(ODD_CELLS)
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (cell, rng.choice(rows)))
        assert_survived(path)


@pytest.mark.parametrize("seed", range(4))
def test_fields_of_a_line(tmp_path, seed):
    rng = random.Random(seed)

    def damaged(value: Any) -> Any:
        if rng.random() < 0.01:
            return rng.choice(ODD_JSON)
        if isinstance(value, dict):
            return {key: damaged(field) for key, field in value.items() if rng.random() > 0.002}
        return [damaged(field) for field in value] if isinstance(value, list) else value

    database = tmp_path / "a.db"
    database.write_bytes(gzip.decompress(FIXTURES[-1].read_bytes()))
    path = tmp_path / "a.jsonl"
    write_studies(path, [record for record in read(database) if not isinstance(record, Quarantined)])
    studies = [json.loads(line) for line in path.read_text().splitlines()]
    for _ in range(10):
        path.write_text("".join(json.dumps(damaged(study)) + "\n" for study in studies))
        assert_survived(path)
