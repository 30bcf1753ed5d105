"""Result folders and tables with bytes overwritten or cut off: studies, quarantine or one clear error, nothing else."""

import contextlib
import gzip
import io
import json
import random
import tarfile
from pathlib import Path

import pytest

from optformer.data.sources import SourceError, read
from optformer.data.sources.importing import verify
from optformer.data.sources.records import Quarantined

FIXTURES = Path(__file__).parent / "fixtures"
OPTIONS = {"metric": "loss", "goal": "min"}


def unpacked(name: str, folder: Path) -> Path:
    if name.endswith(".tar.gz"):
        with tarfile.open(fileobj=io.BytesIO((FIXTURES / name).read_bytes())) as archive:
            archive.extractall(folder, filter="data")
        (root,) = folder.iterdir()
        return root
    path = folder / name.removesuffix(".gz")
    path.write_bytes(gzip.decompress((FIXTURES / name).read_bytes()))
    return path


def table(name: str, folder: Path) -> Path:
    path = folder / name
    rows = [(i, 10.0 ** -(i % 5), "ab"[i % 2], i / 7) for i in range(60)]
    if name.endswith(".csv"):
        path.write_text("id,lr,kind,loss\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    elif name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = dict(zip(("id", "lr", "kind", "loss"), map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(pyarrow.table(columns), path)
    else:
        points = {"X": [[row[1], row[3] / 10] for row in rows], "y": [[row[3]] for row in rows]}
        path.write_text(json.dumps({"1": {"a": points, "b": points}, "2": {"a": points}}))
        return path
    mapping = {"trial": "id", "parameters": ["lr", "kind"], "objectives": {"loss": "min"}}
    path.with_name(path.name + ".mapping.json").write_text(json.dumps(mapping))
    return path


def spoil(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    kind = rng.randrange(4)
    if kind == 0:
        del data[rng.randrange(len(data) + 1) :]
    elif kind == 1:
        for _ in range(rng.randint(1, 10)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        start = rng.randrange(len(data) + 1)
        data[start : start + rng.randint(1, 30)] = rng.choice([b"null", b"[]", b'"text"', b"-1", b"{", b"NaN", b"\n"])
    else:
        data.clear()
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "name",
    [
        "ray-2.60.tar.gz",
        "syne-tune-0.16.tar.gz",
        "mlflow-mlruns.tar.gz",
        "mlflow.db.gz",
        "runs.csv",
        "runs.parquet",
        "meta-dataset.json",
    ],
)
def test_garbled_bytes(tmp_path, name):
    format = {
        "ray": "ray",
        "syn": "syne-tune",
        "mlf": "mlflow",
        "run": "table",
        "met": "hpob",
    }[name[:3]]
    original = tmp_path / "original"
    original.mkdir()
    root = (unpacked if name.endswith(".gz") else table)(name, original)
    files = sorted(path for path in original.rglob("*") if path.is_file() and path.suffix not in (".pkl", ".dill"))
    whole = {path: path.read_bytes() for path in files}
    usable = 0
    for seed in range(40):
        rng = random.Random(seed)
        spoiled = rng.sample(files, min(len(files), rng.randint(1, 4)))
        for path in spoiled:
            spoil(path, rng)
        with contextlib.suppress(SourceError):
            for record in read(root, format, **OPTIONS):
                if isinstance(record, Quarantined):
                    assert record.reason
                else:
                    usable += len(list(verify(record)))
        for path in spoiled:
            path.write_bytes(whole[path])
    assert usable or name == "runs.parquet"  # whose checks leave nothing of a damaged file
