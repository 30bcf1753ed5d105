"""Tables that the csv module and pyarrow wrote, with their mapping."""

import csv
import gzip
import json
import sys
from pathlib import Path

import pytest

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, read, read_study, study_name

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402, after the check that it is there

MAPPING = {
    "study": "sweep",
    "trial": "run",
    "status": "state",
    "parameters": {
        "lr": {"type": "double", "range": [1e-5, 1.0], "scale": "log"},
        "layers": {},
        "optimizer": {"values": ["adam", "sgd", "lion"]},
        "momentum": {},
    },
    "objectives": {"accuracy": "maximize", "seconds": "minimize"},
}
ROWS = [
    {
        "sweep": f"s{i % 2}",
        "run": i,
        "state": "FAILED" if i == 3 else "finished",
        "lr": 10.0 ** -(1 + i % 4),
        "layers": 1 + i % 5,
        "optimizer": ["adam", "sgd"][i // 2 % 2],
        "momentum": 0.5 + i / 40 if i // 2 % 2 else None,
        "accuracy": None if i == 3 else i / 12,
        "seconds": None if i == 3 else 10.0 + i,
        "note": "ignored",
    }
    for i in range(12)
]


def write(path: Path, rows: list[dict] = ROWS, mapping: dict | None = MAPPING) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "wt", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if mapping is not None:
        path.with_name(path.name + ".mapping.json").write_text(json.dumps(mapping))
    return path


def refused(path: Path, **options) -> str:
    with pytest.raises(SourceError) as error:
        list(read(path, **options))
    return str(error.value)


@pytest.mark.parametrize("name", ["runs.csv", "runs.csv.gz", "runs.parquet"])
def test_a_table(tmp_path, name):
    path = write(tmp_path / name)
    assert detect_format(path) == "table"
    assert count_studies(path) == 2
    first, second = read(path)
    assert [study_name(first), study_name(second)] == ["s0", "s1"]
    parameters = {config.name: config for config in first.problem.search_space.parameters}
    assert parameters["lr"].bounds == (1e-5, 1.0)
    assert parameters["lr"].scale_type.name == "LOG"
    assert parameters["layers"].type.name == "INTEGER"
    assert parameters["optimizer"].feasible_values == ["adam", "lion", "sgd"]
    goals = [(metric.name, metric.goal.name) for metric in first.problem.metric_information]
    assert goals == [("accuracy", "MAXIMIZE"), ("seconds", "MINIMIZE")]
    assert [trial.id for trial in second.trials] == [1, 3, 5, 7, 9, 11]
    failed = second.trials[1]
    assert failed.infeasibility_reason == "failed"
    one = second.trials[0]
    assert one.parameters.as_dict() == {"lr": 0.01, "layers": 2, "optimizer": "adam"}
    assert one.final_measurement.metrics["accuracy"].value == 1 / 12
    assert first.problem.metadata.ns("optformer")["space"] == "inferred"
    assert next(read(path, study="s1")).trials == second.trials


def test_csv_and_parquet_are_equal(tmp_path):
    a, b = read(write(tmp_path / "a.csv")), read(write(tmp_path / "a.parquet"))
    for one, other in zip(a, b, strict=True):
        assert one.problem.search_space == other.problem.search_space
        assert one.trials == other.trials


def test_steps_are_measurements(tmp_path):
    rows = [{"id": t, "epoch": e, "x": t / 10, "loss": t + 1 / e, "t": e * 2.0} for e in (2, 1, 3) for t in range(4)]
    mapping = {"trial": "id", "step": "epoch", "seconds": "t", "parameters": ["x"], "objectives": {"loss": "min"}}
    study, left_out = read_study(write(tmp_path / "runs.csv", rows, mapping))
    assert left_out == []
    trial = study.trials[2]
    assert [m.steps for m in trial.measurements] == [1, 2, 3]
    assert [m.elapsed_secs for m in trial.measurements] == [2.0, 4.0, 6.0]
    assert trial.final_measurement.metrics["loss"].value == 2 + 1 / 3
    assert trial.final_measurement.elapsed_secs == 6.0


def test_a_mapping_elsewhere(tmp_path):
    path = write(tmp_path / "export.txt", mapping=None)
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps(MAPPING))
    assert "no study store" in refused(path)
    assert len(list(read(path, mapping=mapping))) == 2
    assert "export.csv.mapping.json beside it or give --mapping" in refused(
        write(tmp_path / "export.csv", mapping=None)
    )


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"parameters": {"lr": {}, "depth": {}}}, "no column 'depth', which the mapping names; columns: sweep, run"),
        ({"objectives": {"f1": "max"}}, "no column 'f1'"),
        ({"step": "epoch"}, "no column 'epoch'"),
        ({"parameter": {}}, "unknown field 'parameter'; known: study"),
        ({"parameters": {}}, "must name at least one column"),
        ({"objectives": {"accuracy": "up"}}, "unknown goal 'up' of objective 'accuracy'"),
        ({"objectives": None}, "must name at least one column"),
        ({"parameters": {"lr": {"type": "float"}}}, "parameter 'lr': unknown type 'float'"),
        ({"parameters": {"lr": {"range": [1, 0]}}}, "parameter 'lr': range must be two numbers in order"),
        ({"parameters": {"lr": {"range": [0, 1], "scale": "log"}}}, "a log scale needs a positive range"),
        ({"parameters": {"lr": {"scale": "exp"}}}, "unknown scale 'exp'"),
        ({"parameters": {"lr": {"low": 1}}}, "unknown field 'low'"),
        ({"parameters": {"optimizer": {"values": []}}}, "values must be a list of categories"),
        ({"study": 3}, "'study' must be text"),
    ],
)
def test_mappings_that_do_not_fit(tmp_path, changed, message):
    assert message in refused(write(tmp_path / "runs.csv", mapping=MAPPING | changed))


def test_a_table_without_a_mapping_is_told_what_to_write(tmp_path):
    path = write(tmp_path / "runs.csv", mapping=None)
    message = refused(path, metric="accuracy")
    assert "write runs.csv.mapping.json beside it or give --mapping FILE, such as" in message
    assert '"objectives": {"accuracy": "minimize or maximize"}}' in message
    assert f"columns: {', '.join(ROWS[0])}" in message
    wide = write(tmp_path / "wide.csv", [{f"c{i}": i for i in range(500)}], None)
    assert refused(wide).endswith("c18, c19 and 480 more")


def test_tables_that_are_aligned_for_the_eye(tmp_path):
    plain, aligned = write(tmp_path / "runs.csv"), tmp_path / "aligned.csv"
    with plain.open(newline="") as file:
        rows = list(csv.reader(file))
    quoted = [[f'"{cell}"' if cell == "adam" else cell for cell in row] for row in rows]
    aligned.write_text("\n".join(", ".join(cell.ljust(12) for cell in row) for row in [*quoted, ["", "", "", ""]]))
    studies = [list(read(path, mapping=tmp_path / "runs.csv.mapping.json")) for path in (plain, aligned)]
    assert [len(study.trials) for study in studies[0]] == [6, 6]
    for one, other in zip(*studies, strict=True):
        assert one.problem.search_space == other.problem.search_space
        assert one.trials == other.trials


def test_unreadable_mappings(tmp_path):
    path = write(tmp_path / "runs.csv")
    assert "needs a mapping" in refused(path, mapping=tmp_path / "absent.json")
    path.with_name("runs.csv.mapping.json").write_text("{")
    assert "mapping is not valid JSON" in refused(path)
    path.with_name("runs.csv.mapping.json").write_text("[]")
    assert "not a JSON object" in refused(path)


def test_bad_cells_cost_their_trial(tmp_path):
    rows = [dict(row, sweep="s") for row in ROWS]
    rows[0]["accuracy"], rows[1]["state"], rows[2]["lr"] = "high", "asleep", 5.0
    rows[4]["run"], rows[5]["optimizer"], rows[6]["sweep"] = None, "rmsprop", None
    rows[7]["run"] = rows[8]["run"]
    path = write(tmp_path / "runs.csv", rows)
    path.write_text(path.read_text() + "s,99,finished\n")
    *left_out, study = read(path)
    reasons = [(record.study, record.parameter, record.category) for record in left_out]
    assert reasons == [
        ("line 8", None, "no study"),
        ("line 14", None, "unreadable line"),
        ("s", None, "objective is not a number"),
        ("s", None, "unknown trial state"),
        ("s", "lr", "value outside its range"),
        ("s", None, "no trial id"),
        ("s", "optimizer", "category not in the space"),
        ("s", None, "several rows of one trial"),
    ]
    assert len(study.trials) == 4


def test_ten_thousand_categories(tmp_path):
    rows = [{"x": f"value {i}", "y": i} for i in range(10_000)]
    mapping = {"parameters": ["x"], "objectives": {"y": "minimize"}}
    first, *rest = read(write(tmp_path / "runs.csv", rows, mapping))
    assert isinstance(first, Quarantined)
    assert (first.parameter, first.category, len(rest)) == ("x", "too many categories", 10_000)


def test_damaged_files(tmp_path):
    path = write(tmp_path / "runs.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated or corrupt" in refused(path)
    packed = write(
        tmp_path / "runs.csv.gz", [dict(row, note=str(hash((i, row["run"])))) for i in range(200) for row in ROWS]
    )
    packed.write_bytes(packed.read_bytes()[:3000])
    assert any(isinstance(r, Quarantined) and r.category == "file ends early" for r in read(packed))


def test_a_missing_pyarrow_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "runs.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow" in refused(path)


EMPTY_CELLS = [{"depth": 1 + i, "cut": ["sqrt", None, None][i % 3], "loss": i} for i in range(9)]


def cut_of(path: Path, **declared) -> tuple[list, list]:
    """The categories of the column `cut`, and what trials have there."""
    mapping = {"parameters": {"depth": {}, "cut": declared}, "objectives": {"loss": "min"}}
    study, left_out = read_study(write(path, EMPTY_CELLS, mapping))
    assert left_out == []
    found = [trial.parameters.as_dict().get("cut") for trial in study.trials]
    return study.problem.search_space.get("cut").feasible_values, found


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
@pytest.mark.parametrize("declared", [{}, {"values": ["", "sqrt"]}, {"values": [None, "sqrt"]}])
def test_empty_cells_may_be_a_category(tmp_path, name, declared):
    assert cut_of(tmp_path / name, **declared) == (["None", "sqrt"], ["sqrt", "None", "None"] * 3)


def test_empty_cells_of_a_column_with_declared_values_are_missing(tmp_path):
    assert cut_of(tmp_path / "runs.csv", values=["log2", "sqrt"]) == (["log2", "sqrt"], ["sqrt", None, None] * 3)


def test_declared_categories_that_are_numbers(tmp_path):
    # Choices [None, 3, 5], as pandas writes them.
    rows = [{"rate": i, "depth": ["3.0", "", "5.0"][i % 3], "loss": i} for i in range(6)]
    mapping = {"parameters": {"rate": {}, "depth": {"values": [None, 3, 5]}}, "objectives": {"loss": "min"}}
    study, left_out = read_study(write(tmp_path / "runs.csv", rows, mapping))
    assert left_out == []
    assert study.problem.search_space.get("depth").feasible_values == ["3", "5", "None"]
    assert [trial.parameters["depth"].value for trial in study.trials] == ["3", "None", "5"] * 2


def test_one_number_beside_empty_cells_is_no_constant(tmp_path):
    rows = [{"depth": 1 + i, "momentum": 0.9 if i % 2 else None, "loss": i} for i in range(6)]
    mapping = {"parameters": ["depth", "momentum"], "objectives": {"loss": "min"}}
    study, left_out = read_study(write(tmp_path / "runs.csv", rows, mapping))
    assert left_out == []
    assert [trial.parameters.as_dict().get("momentum") for trial in study.trials] == [None, 0.9] * 3
    assert not dict(study.problem.metadata.ns("optformer").ns("constants"))


PLAIN = {"parameters": ["lr", "kind"], "objectives": {"loss": "minimize"}}
LINES = ["lr,kind,loss", "0.001,a,0.5", "0.01,b,1.25", "0.1,a,12"]


def stored(path: Path, content: bytes, mapping: dict = PLAIN) -> Path:
    path.write_bytes(content)
    path.with_name(path.name + ".mapping.json").write_text(json.dumps(mapping))
    return path


@pytest.mark.parametrize(
    "lines",
    [
        [line.replace(",", ";").replace(".", ",") for line in LINES],
        [line.replace(",", "\t").replace(".", ",") for line in LINES],
        [",".join(f'"{cell.replace(".", ",")}"' for cell in line.split(",")) for line in LINES],
    ],
)
def test_decimal_commas(tmp_path, lines):
    expected, _ = read_study(stored(tmp_path / "points.csv", "\n".join(LINES).encode()))
    study, left_out = read_study(stored(tmp_path / "commas.csv", "\n".join(lines).encode()))
    assert left_out == []
    assert study.trials == expected.trials
    assert study.problem.search_space == expected.problem.search_space


def test_commas_that_are_not_decimal(tmp_path):
    lines = ["lr;kind;loss", "0.1;64,32;1,000", "0.2;16,8;900", "0.3;64,32;800"]
    study, left_out = read_study(stored(tmp_path / "a.csv", "\n".join(lines).encode()))
    assert [trial.parameters["kind"].value for trial in study.trials] == ["16,8", "64,32"]
    assert [each.reason for each in left_out] == ["objective is not a number: '1,000' in 'loss'"]
    lines = ["lr;kind;loss", "0,1;0,5;1,5", "0,2;1,5;1,6", "0,3;0,5;1,6"]
    mapping = PLAIN | {"parameters": {"lr": {}, "kind": {"type": "categorical"}}}
    study, _ = read_study(stored(tmp_path / "b.csv", "\n".join(lines).encode(), mapping))
    assert [trial.parameters.as_dict() for trial in study.trials[:2]] == [
        {"lr": 0.1, "kind": "0,5"},
        {"lr": 0.2, "kind": "1,5"},
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_encodings_of_spreadsheets(tmp_path, encoding, suffix):
    text = "\n".join(LINES).replace("kind", "größe").replace("a", "ä").replace("b", "ö")
    content = text.encode(encoding)
    mapping = PLAIN | {"parameters": ["lr", "größe"]}
    path = stored(tmp_path / f"a.{suffix}", gzip.compress(content) if suffix == "csv.gz" else content, mapping)
    study, _ = read_study(path)
    assert [trial.parameters["größe"].value for trial in study.trials] == ["ä", "ö", "ä"]


def test_a_mapping_with_a_byte_order_mark(tmp_path):
    path = stored(tmp_path / "a.csv", "\n".join(LINES).encode())
    path.with_name("a.csv.mapping.json").write_text(json.dumps(PLAIN), encoding="utf-8-sig")
    assert len(read_study(path)[0].trials) == 3


def test_a_column_with_two_roles_is_refused(tmp_path):
    path = stored(tmp_path / "a.csv", "\n".join(LINES).encode(), PLAIN | {"parameters": ["lr", "loss"]})
    assert "the column 'loss' cannot be a parameter and an objective" in refused(path)


def test_a_table_without_a_usable_trial_says_why(tmp_path):
    path = stored(tmp_path / "a.csv", b"lr,kind,loss\n0.1,a,low\n0.2,b,high\n")
    assert next(read(path)).reason == "no usable trials: trial 1: objective is not a number: 'low' in 'loss'"


def test_missing_numbers_do_not_make_categories(tmp_path):
    lines = ["lr,kind,loss", "0.1,NA,0.5", "N/A,NA,0.5", "0.2,b,0.4", "-,b,0.4"]
    study, _ = read_study(stored(tmp_path / "a.csv", "\n".join(lines).encode()))
    assert study.problem.search_space.parameters[0].type.name == "DOUBLE"
    assert study.trials[0].parameters.as_dict() == {"lr": 0.1, "kind": "NA"}
    assert "lr" not in study.trials[1].parameters
