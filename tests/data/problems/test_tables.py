"""Measured tables: which row answers, what files may hold, and what is said about those that cannot be read."""

import gzip
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.problems import registry, tables
from optformer.data.sources import read
from optformer.data.sources.records import NAMESPACE
from optformer.evaluate.optimization import random_trials

SPACE: list[dict[str, Any]] = [
    {"name": "lr", "type": "float", "low": 1e-4, "high": 1.0, "log": True},
    {"name": "layers", "type": "int", "low": 1, "high": 5},
    {"name": "block", "type": "ordinal", "choices": [16, 32, 256]},
    {"name": "optimizer", "type": "categorical", "choices": ["adam", "sgd"]},
]
ROWS = [[1e-2, 1, 16, "adam"], [1e-2, 5, 16, "adam"], [1.0, 3, 32, "sgd"], [1e-4, 3, 256, "sgd"]]


def record(**changes: Any) -> dict[str, Any]:
    whole = {
        "name": "net",
        "group": "nets",
        "metric": "loss",
        "goal": "minimize",
        "space": SPACE,
        "rows": ROWS,
        "values": [0.5, 0.25, None, 1.0],
    }
    return whole | changes


def write(path: Path, *records: dict[str, Any]) -> Path:
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(json.dumps(each) + "\n" for each in records)
    return path


def answers(table: tables.Table, *configurations: dict[str, Any]) -> list[float]:
    trials = [vz.Trial(configuration) for configuration in configurations]
    tables.TableExperimenter(table).evaluate(trials)
    return [math.nan if t.infeasible else t.final_measurement_or_die.metrics["loss"].value for t in trials]


def test_every_row_answers_for_itself_and_a_failed_one_makes_the_trial_infeasible(tmp_path: Path):
    (table,) = tables.load_tables(write(tmp_path / "one.jsonl.gz", record())).values()
    np.testing.assert_array_equal(answers(table, *table.rows), [0.5, 0.25, np.nan, 1.0])
    assert (table.name, table.group, table.metric.goal) == ("net", "nets", vz.ObjectiveMetricGoal.MINIMIZE)
    assert [len(trial.parameters) for trial in random_trials(tables.TableExperimenter(table), 3, seed=0)] == [4] * 3


def test_the_nearest_row_is_that_of_gowers_distance(tmp_path: Path):
    rng = np.random.default_rng(0)

    def drawn() -> list[Any]:
        block, optimizer = int(rng.integers(3)), int(rng.integers(2))
        return [
            float(10 ** rng.uniform(-4, 0)),
            int(rng.integers(1, 6)),
            [16, 32, 256][block],
            ["adam", "sgd"][optimizer],
        ]

    def apart(a: list[Any], b: list[Any]) -> float:
        order = [16, 32, 256]
        return (
            abs(math.log10(a[0]) - math.log10(b[0])) / 4
            + abs(a[1] - b[1]) / 4
            + abs(order.index(a[2]) - order.index(b[2])) / 2
            + (a[3] != b[3])
        )

    rows = [drawn() for _ in range(50)]
    (table,) = tables.load_tables(write(tmp_path / "t.jsonl", record(rows=rows, values=list(range(50))))).values()
    asked = [drawn() for _ in range(200)]
    names = [parameter["name"] for parameter in SPACE]
    found = answers(table, *(dict(zip(names, each, strict=True)) for each in asked))
    assert found == [min(range(50), key=lambda row: apart(each, rows[row])) for each in asked]


def test_of_rows_that_are_equally_near_the_first_one_answers(tmp_path: Path):
    (table,) = tables.load_tables(write(tmp_path / "t.jsonl", record())).values()
    between = {"lr": 1e-2, "layers": 3, "block": 16, "optimizer": "adam"}
    assert answers(table, between) == [0.5]
    thirds = [{"name": "x", "type": "float", "low": 0.0, "high": 0.3}]  # 0.1 - 0.0 and 0.3 - 0.2 differ in a float
    whole = record(space=thirds, rows=[[0.3], [0.1]], values=[1.0, 2.0])
    (table,) = tables.load_tables(write(tmp_path / "thirds.jsonl", whole)).values()
    assert answers(table, {"x": 0.2}) == [1.0]


CONDITIONAL: list[dict[str, Any]] = [
    {"name": "kernel", "type": "categorical", "choices": ["linear", "poly", "rbf"]},
    {"name": "gamma", "type": "float", "low": 0.0, "high": 1.0, "when": {"kernel": ["poly", "rbf"]}},
    {"name": "degree", "type": "int", "low": 1, "high": 3, "when": {"kernel": ["poly"]}},
    {"name": "offset", "type": "ordinal", "choices": [0, 1], "when": {"degree": [2, 3]}},
]


def conditional(**changes: Any) -> dict[str, Any]:
    rows = [
        ["linear", None, None, None],
        ["rbf", 0.25, None, None],
        ["rbf", 0.75, None, None],
        ["poly", 0.5, 1, None],
        ["poly", 0.5, 3, 1],
    ]
    return record(space=CONDITIONAL, rows=rows, values=[0.0, 1.0, 2.0, 3.0, 4.0]) | changes


def test_a_parameter_that_depends_on_another_is_in_the_rows_where_it_is_active(tmp_path: Path):
    (table,) = tables.load_tables(write(tmp_path / "t.jsonl", conditional())).values()
    assert table.rows[1] == {"kernel": "rbf", "gamma": 0.25}
    assert table.problem.search_space.is_conditional
    np.testing.assert_array_equal(
        table.places, [[0, -1, -1, -1], [2, 0.25, -1, -1], [2, 0.75, -1, -1], [1, 0.5, 0, -1], [1, 0.5, 1, 1]]
    )
    assert answers(table, *table.rows) == [0.0, 1.0, 2.0, 3.0, 4.0]
    # What is inactive does not count, nor does what depends on it.
    assert answers(table, {"kernel": "rbf", "gamma": 0.75, "degree": 2, "offset": 1}) == [2.0]
    # From rbf with gamma 1 to linear: another kernel, and a gamma more; to poly: two parameters more, and half a range.
    np.testing.assert_allclose(table.distances({"kernel": "rbf", "gamma": 1.0}), [2.0, 0.75, 0.25, 2.5, 3.5])
    for trial in random_trials(tables.TableExperimenter(table), 12, seed=0):
        assert ("gamma" in trial.parameters) == (trial.parameters["kernel"].value != "linear")


@st.composite
def whole_tables(draw: st.DrawFn) -> dict[str, Any]:
    """Tables of up to six parameters, of which each but the first may depend on an earlier one with a few values."""
    kinds = {
        "float": st.just({"low": 0.5, "high": 2.0}) | st.just({"low": 1e-3, "high": 1e3, "log": True}),
        "int": st.just({"low": 1, "high": 4}) | st.just({"low": 1, "high": 3, "log": True}),
        "ordinal": st.just({"choices": [0.5, 1, 8]}),
        "categorical": st.just({"choices": ["False", "None", "a b"]}),
    }
    space: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(sorted(kinds)))
        parameter = {"name": f"p{number}", "type": kind, **draw(kinds[kind])}
        parents = [each for each in space if each["type"] != "float"]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            values = parent.get("choices") or list(range(parent["low"], parent["high"] + 1))
            under = draw(st.lists(st.sampled_from(values), min_size=1, unique=True))
            parameter["when"] = {parent["name"]: sorted(under, key=values.index)}
        space.append(parameter)
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        row: dict[str, Any] = {}
        for parameter in space:
            ((parent, under),) = parameter.get("when", {"": [None]}).items()
            active = row.get(parent) in under
            choices = parameter.get("choices") or [parameter["low"], parameter["high"]]
            row[parameter["name"]] = draw(st.sampled_from(choices)) if active else None
        rows.append(list(row.values()))
    values = draw(st.lists(st.none() | st.floats(-1e9, 1e9), min_size=len(rows) - 1, max_size=len(rows) - 1))
    return record(space=space, rows=rows, values=[1.0, *values])


@given(whole_tables())
def test_what_is_written_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, whole: dict[str, Any]):
    folder = tmp_path_factory.mktemp("tables")
    found = tables.load_tables(write(folder / "a.jsonl", whole))
    for name in ("b.jsonl.gz", "c.jsonl.gz"):
        tables.write_tables(folder / name, found.values())
    assert (folder / "b.jsonl.gz").read_bytes() == (folder / "c.jsonl.gz").read_bytes()
    written = json.loads(gzip.decompress((folder / "b.jsonl.gz").read_bytes()))
    # Vizier keeps a tree: what depends on a parameter stands behind it.
    names, places = ([each["name"] for each in table["space"]] for table in (whole, written))
    assert sorted(names) == sorted(places)
    assert {each["name"]: each for each in written.pop("space")} == {each["name"]: each for each in whole["space"]}
    assert [[row[places.index(name)] for name in names] for row in written.pop("rows")] == whole["rows"]
    assert written == {name: whole[name] for name in written}


def test_a_parameter_below_an_inactive_one_is_inactive_too(tmp_path: Path):
    choices = ["False", "None"]  # the word, which is not the null of an inactive parameter
    space = [
        {"name": "p0", "type": "categorical", "choices": choices},
        {"name": "p1", "type": "categorical", "choices": choices, "when": {"p0": ["False"]}},
        {"name": "p2", "type": "float", "low": 0.5, "high": 2.0, "when": {"p1": choices}},
    ]
    rows = [["None", None, None], ["False", "None", 1.5]]
    (table,) = tables.load_tables(
        write(tmp_path / "a.jsonl", record(space=space, rows=rows, values=[1.0, 2.0]))
    ).values()
    assert table.rows == [{"p0": "None"}, {"p0": "False", "p1": "None", "p2": 1.5}]


def test_columns_give_the_same_table_as_lines(tmp_path: Path):
    (of_lines,) = tables.load_tables(write(tmp_path / "a.jsonl", record())).values()
    header = "lr,layers,block,optimizer,loss,state"
    cells = ["0.01,1,16,adam,.5,ok", "0.01,5,16,adam,.25,ok", "1,3,32,sgd,,failed", "1e-4,3,256,sgd,1,ok"]
    path = tmp_path / "net.csv"
    path.write_text("\n".join([header, *cells]))
    mapping = {
        "status": "state",
        "parameters": {
            "lr": {"range": [1e-4, 1.0], "scale": "log"},
            "layers": {"range": [1, 5]},
            "block": {"range": [16, 256]},
            "optimizer": {"values": ["adam", "sgd"]},
        },
        "objectives": {"loss": "minimize"},
    }
    (tmp_path / "net.csv.mapping.json").write_text(json.dumps(mapping))
    (table,) = tables.load_tables(path).values()
    assert (table.name, table.group) == ("net.csv", "net.csv")
    np.testing.assert_array_equal(table.values, of_lines.values)
    np.testing.assert_allclose(table.places[:, [0, 1, 3]], of_lines.places[:, [0, 1, 3]])
    assert table.rows[3] == {"lr": 1e-4, "layers": 3, "block": 256, "optimizer": "sgd"}

    path.write_text("\n".join([header, *cells, "0.01,9,16,adam,.5,ok"]))
    with pytest.raises(ValueError, match=r"net.csv, table 'net.csv', row 5, parameter 'layers': value outside"):
        tables.load_tables.__wrapped__(path)
    path.write_text("\n".join([header, *cells, "0.01,,16,adam,.5,ok"]))
    with pytest.raises(ValueError, match=r"table 'net.csv': row 5, parameter 'layers': no value"):
        tables.load_tables.__wrapped__(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [[0.1, 9, 16, "adam"]], "values": [1.0]}, "row 1, parameter 'layers': 9 is not in its range"),
        ({"rows": [[0.1, 1, 17, "adam"]], "values": [1.0]}, "row 1, parameter 'block': 17 is not in its range"),
        ({"rows": [[0.1, 1, "16", "adam"]], "values": [1.0]}, "row 1, parameter 'block': '16' is not a number"),
        ({"rows": [[0.1, 1.5, 16, "adam"]], "values": [1.0]}, "row 1, parameter 'layers': 1.5 is not a whole number"),
        ({"rows": [[True, 1, 16, "adam"]], "values": [1.0]}, "row 1, parameter 'lr': True is not a number"),
        ({"rows": [[0.1, 1, 16, "lion"]], "values": [1.0]}, "row 1, parameter 'optimizer': 'lion' is not in"),
        ({"rows": [[0.1, 1, 16, None]], "values": [1.0]}, "row 1, parameter 'optimizer': no value"),
        ({"rows": [["high", 1, 16, "sgd"]], "values": [1.0]}, "row 1, parameter 'lr': 'high' is not a number"),
        ({"rows": [*ROWS, [0.1, 2]]}, "row 5 has 2 values, but the space has 4 parameters"),
        ({"values": [1.0]}, "4 rows, but 1 values"),
        ({"values": [None] * 4}, "no row has a value"),
        ({"goal": "both"}, "the goal must be minimize or maximize, not 'both'"),
        ({"space": [{"name": "x", "type": "complex"}]}, "parameter 'x': type 'complex' is not known"),
        ({"space": [{"name": "x", "type": "float", "low": 0.0}]}, "parameter 'x': no field 'high'"),
        ({"space": [{"name": "x", "type": "categorical", "choices": [1, 2]}]}, "categorical parameter must be strings"),
        ({"space": [{"name": "x", "type": "ordinal", "choices": ["a"]}]}, "parameter 'x': could not convert"),
        (
            {"space": [{"name": "x", "type": "float", "low": 0.0, "high": 1.0, "log": True}]},
            "parameter 'x': a log scale",
        ),
        ({"space": SPACE[:1] * 2}, "parameter 'lr': the space has two parameters of this name"),
        ({"space": CONDITIONAL[1:]}, "parameter 'gamma': it depends on 'kernel', which is not an earlier parameter"),
        (conditional(rows=[["rbf", None, None, None]], values=[1.0]), "row 1, parameter 'gamma': no value"),
        (conditional(rows=[["tanh", None, None, None]], values=[1.0]), "row 1, parameter 'kernel': 'tanh' is not in"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_table_and_parameter(
    tmp_path: Path, changes: dict[str, Any], message: str
):
    path = write(tmp_path / "bad.jsonl", record(), record() | changes | {"name": "second"})
    with pytest.raises(ValueError, match=f"bad.jsonl, line 2, table 'second': .*{message}"):
        tables.load_tables(path)


def test_files_that_hold_no_tables_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="no such folder; name the one that holds measured tables"):
        tables.files(tmp_path / "none")
    with pytest.raises(ValueError, match="no measured tables in it"):
        tables.files(tmp_path)
    with pytest.raises(ValueError, match="two tables have the name 'net'"):
        tables.load_tables(write(tmp_path / "twice.jsonl", record(), record()))
    path = write(tmp_path / "torn.jsonl", record())
    path.write_text(path.read_text() + '{"name": ')
    with pytest.raises(ValueError, match=r"line 2: unreadable line"):
        tables.load_tables(path)


def test_tables_are_a_family_and_files_called_validation_are_kept_for_comparisons(tmp_path: Path):
    write(tmp_path / "mine.jsonl", record(), record(name="other", group="others"), record(name="net 2"))
    write(tmp_path / "validation.jsonl.gz", record(name="kept"))
    settings = registry.Settings(tables_dir=str(tmp_path))
    training = registry.problems("tables", settings)
    assert [each.name for each in training] == ["net", "other", "net 2"], "groups take turns"
    (kept,) = registry.problems("tables-held-out", settings)
    assert kept.name == "kept"
    drawn = pickle.loads(pickle.dumps(kept)).draw(3)
    assert drawn.description.startswith("the loss of kept, measured at 4 configurations")
    assert registry.digest(["tables"], settings) != registry.digest(["tables-held-out"], settings)
    with pytest.raises(ValueError, match="--tables FOLDER"):
        registry.problems("tables")


def test_studies_are_generated_on_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, out = tmp_path / "measured", tmp_path / "corpus.jsonl"
    folder.mkdir()
    write(folder / "train.jsonl", record())
    arguments = f"corpus generate --problems tables --tables {folder} --teachers random_search --studies 2"
    assert main([*arguments.split(), "--trials", "12", "--out", str(out)]) == 0
    capsys.readouterr()
    studies = list(read(out))
    assert len(studies) == 2
    for study in studies:
        assert study.problem.metadata.ns(NAMESPACE)["problem"] == "net"
        values = {
            None if trial.infeasible else trial.final_measurement_or_die.metrics["loss"].value for trial in study.trials
        }
        assert all(value is None or 0.25 <= value <= 1.0 for value in values), "a fit between the measured ones"
        assert len(study.trials) == 12
