"""From stores to a corpus: what is kept, what is left out and why, and what the user sees."""

import gc
import gzip
import json
from pathlib import Path

import pytest
from rich.console import Console
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.corpus.description import describe_corpus
from optformer.data.sources import Quarantined, SourceError, read, write_studies
from optformer.data.sources.importing import import_corpus

FIXTURES = Path(__file__).parent / "fixtures"


def study(name: str, values: list, *, algorithm: str = "") -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement(metric_information=[vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE)])
    root = problem.search_space.root
    root.add_float_param("x", 0.0, 1.0)
    root.add_categorical_param("c", ["a", "b"]).select_values(["a"]).add_int_param(
        "n", 1, 5, scale_type=vz.ScaleType.LOG
    )
    problem.metadata.ns("optformer")["study_id"] = name
    if algorithm:
        problem.metadata.ns("optformer")["algorithm"] = algorithm
    trials = [
        vz.Trial(id=i, parameters=parameters, final_measurement=vz.Measurement({"y": float(i)}))
        for i, parameters in enumerate(values)
    ]
    return vz.ProblemAndTrials(problem=problem, trials=trials)


GOOD = {"x": 0.5, "c": "b"}


@pytest.fixture
def database(tmp_path) -> Path:
    path = tmp_path / "optuna.db"
    path.write_bytes(gzip.decompress((FIXTURES / "optuna-4.0.0.db.gz").read_bytes()))
    return path


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "studies.jsonl"
    bad = [GOOD, {"x": 1.5, "c": "b"}, {"x": 0.5, "c": "unseen"}, {"x": 0.5, "c": "b", "n": 3}, {"x": 0.5, "z": 1.0}]
    custom = study("custom", [GOOD])
    custom.problem.search_space.root.add_custom_param("anything")
    fixed = study("fixed", [{"x": 0.0}])
    fixed.problem.search_space = vz.SearchSpace()
    fixed.problem.search_space.root.add_float_param("x", 0.0, 0.0)
    aimless = study("aimless", [GOOD])
    aimless.problem.metric_information = vz.MetricsConfig()
    all_bad = study("all bad", [{"x": float("nan")}])
    write_studies(path, [study("good", [GOOD] * 3, algorithm="tpe"), study("bad", bad), study("empty", [])])
    torn = path.read_text() + '{"format": "optformer-study", "ver\n'
    write_studies(path, [custom, fixed, aimless, all_bad])
    path.write_text(torn + path.read_text())
    return path


def test_import(tmp_path, database, lines):
    out = tmp_path / "corpus" / "all.jsonl.gz"
    seen = []
    summary = import_corpus([database, lines], out, progress=seen.append)
    assert summary.inputs == [
        {"path": str(database), "format": "optuna", "studies": 3, "trials": 22},
        {"path": str(lines), "format": "study-lines", "studies": 2, "trials": 4},
    ]
    assert (summary.studies_kept, summary.trials_kept) == (5, 26)
    assert (summary.studies_read, summary.trials_read) == (12, 34)
    assert summary.quarantined_studies == {
        "no trials": 2,
        "unreadable line": 1,
        "search space cannot be serialized": 1,
        "nothing to tune": 1,
        "no objective": 1,
        "no usable trials": 1,
    }
    assert summary.quarantined_trials == {"value not in the search space": 5, "of a quarantined study": 3}
    assert summary.studies_kept + sum(summary.quarantined_studies.values()) == summary.studies_read
    assert summary.trials_kept + sum(summary.quarantined_trials.values()) == summary.trials_read
    assert (seen[-1].studies, seen[-1].total_studies, seen[-1].trials) == (12, 12, 34)

    kept = list(read(out))
    assert [s.problem.metadata.ns("optformer")["study_id"] for s in kept] == [
        "every kind",
        "two objectives",
        "added",
        "good",
        "bad",
    ]
    assert json.loads(Path(f"{out}.summary.json").read_text()) == json.loads(json.dumps(summary.to_json()))
    refused = [json.loads(line) for line in Path(f"{out}.quarantine.jsonl").read_text().splitlines()]
    by_trial = {(r["study"], r["trial"]): r for r in refused}
    unseen = by_trial["bad", 2]
    assert (unseen["source"], unseen["parameter"]) == (str(lines), "c")
    assert "unseen" in unseen["reason"]
    assert by_trial["bad", 1]["parameter"] == "x"
    assert "inactive" in by_trial["bad", 3]["reason"]
    assert by_trial["bad", 4]["parameter"] == "z"
    assert by_trial["custom", None]["parameter"] == "anything"
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "all.jsonl.gz",
        "all.jsonl.gz.quarantine.jsonl",
        "all.jsonl.gz.summary.json",
    ]


def test_a_corpus_imports_into_itself_unchanged(tmp_path, database):
    import_corpus([database], tmp_path / "a.jsonl")
    import_corpus([tmp_path / "a.jsonl"], tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("fixture", sorted(path.name for path in FIXTURES.glob("optuna-*.db.gz")))
def test_an_import_is_what_reading_and_writing_gives(tmp_path, fixture):
    """Studies of Optuna are imported without pyvizier's objects in between."""
    path = tmp_path / "optuna.db"
    path.write_bytes(gzip.decompress((FIXTURES / fixture).read_bytes()))
    import_corpus([path], tmp_path / "imported.jsonl.gz")
    records = list(read(path))
    write_studies(tmp_path / "written.jsonl.gz", [r for r in records if not isinstance(r, Quarantined)])
    assert (tmp_path / "imported.jsonl.gz").read_bytes() == (tmp_path / "written.jsonl.gz").read_bytes()
    refused = Path(f"{tmp_path / 'imported.jsonl.gz'}.quarantine.jsonl").read_text().splitlines()
    assert [Quarantined(**json.loads(line)) for line in refused] == [r for r in records if isinstance(r, Quarantined)]


def test_the_collector_is_left_as_it_was(tmp_path, database):
    before = gc.get_threshold()
    import_corpus([database], tmp_path / "a.jsonl")
    with pytest.raises(SourceError):
        import_corpus([tmp_path / "a.jsonl", database], tmp_path / "b.jsonl", format="optuna")
    assert gc.get_threshold() == before


def test_a_bad_input_leaves_nothing_behind(tmp_path, database):
    broken = tmp_path / "broken.db"
    broken.write_bytes(database.read_bytes()[:20_000])
    folder = tmp_path / "out"
    for inputs in ([database, broken], [database, tmp_path / "absent"], []):
        with pytest.raises(SourceError, match=r"broken\.db: truncated|absent: no such file|no input"):
            import_corpus(inputs, folder / "corpus.jsonl")
    assert not folder.exists() or list(folder.iterdir()) == []
    with pytest.raises(SourceError, match="both input and output"):
        import_corpus([database], database)
    write_studies(tmp_path / "useless.jsonl", [study("empty", []), study("e2", [])])
    with pytest.raises(SourceError, match=r"no study can be used; no trials \(2\)"):
        import_corpus([tmp_path / "useless.jsonl"], folder / "corpus.jsonl")
    assert not folder.exists() or list(folder.iterdir()) == []


def test_what_a_store_holds(lines):
    info = describe_corpus(lines)
    assert (info.studies, info.trials, info.conditional) == (7, 12, 6)
    assert info.kinds == {"DOUBLE": 7, "CATEGORICAL": 6, "INTEGER": 6, "CUSTOM": 1}
    assert info.scales["LOG"] == 6
    assert info.goals == {"MAXIMIZE": 6}
    assert info.objectives == {1: 6, 0: 1}
    assert info.statuses == {"completed": 12}
    assert info.algorithms == {"": 6, "tpe": 1}
    assert sorted(info.trials_per_study.tolist()) == [0, 1, 1, 1, 1, 3, 5]
    assert "unreadable line" in info.unusable.studies


def test_statuses(database):
    (everything,) = read(database, study="every kind")
    path = database.with_suffix(".jsonl")
    write_studies(path, [everything])
    assert describe_corpus(path).statuses == {
        "completed": 6,
        "stopped": 3,
        "infeasible": 3,
        "active": 1,
        "requested": 1,
    }


def test_the_commands(tmp_path, database, lines, capsys):
    out = tmp_path / "corpus.jsonl"
    assert main(["corpus", "import", str(database), str(lines), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "value not in the search space" in printed
    assert "5 studies, 26 trials" in printed
    assert f"{out}.quarantine.jsonl" in printed
    assert main(["corpus", "info", str(out)]) == 0
    assert "min 1, 25 % 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["corpus", "import", "absent.db", "--out", "x.jsonl"],
        ["corpus", "import", __file__, "--out", "x.jsonl"],
        ["corpus", "import", __file__, "--out", "x.jsonl", "--format", "csv"],
        ["corpus", "info", __file__],
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert "absent.db" in printed.err or "test_importing" in printed.err or "csv" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_rich_prints_summaries(database, tmp_path):
    console = Console(width=300, record=True, file=(tmp_path / "console").open("w"))
    console.print(import_corpus([database.rename(tmp_path / "a[b].db")], tmp_path / "out.jsonl"))
    console.file.close()
    text = console.export_text()
    assert "a[b].db" in text
    assert "left out: no trials" in text


def test_quarantined_reasons_have_a_category():
    assert Quarantined("a.db", "s", 1, "x", "value outside its range: 3 is not in [0, 1]").category == (
        "value outside its range"
    )
