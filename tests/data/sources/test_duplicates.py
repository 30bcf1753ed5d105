"""Duplicate studies and anonymisation at import."""

import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import pytest
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.sources import Quarantined, SourceError, read, write_studies
from optformer.data.sources.anonymisation import Anonymiser
from optformer.data.sources.duplicates import fingerprint
from optformer.data.sources.importing import import_corpus
from optformer.data.sources.study_json import study_to_json

FIXTURES = Path(__file__).parent / "fixtures"


def study(
    name: str, shift: float = 0.0, *, first_id: int = 1, bound: float = 1.0, unit: str = "y"
) -> vz.ProblemAndTrials:
    goal = vz.ObjectiveMetricGoal.MAXIMIZE
    problem = vz.ProblemStatement(metric_information=[vz.MetricInformation(unit, goal=goal)])
    root = problem.search_space.root
    root.add_float_param("rate", 0.0, bound)
    root.add_bool_param("nesterov")
    root.add_categorical_param("customer", ["acme", "zeta"], default_value="acme").select_values(
        ["acme"]
    ).add_int_param("secret_depth", 1, 5)
    facts = problem.metadata.ns("optformer")
    facts["study_id"], facts["title"], facts["algorithm"] = name, "acme churn", "tpe"
    problem.metadata.ns("optuna").ns("user_attributes")["owner"] = "jane@acme.example"
    trials = []
    for index in range(4):
        parameters = {"rate": (index + shift) / 10, "nesterov": "True", "customer": "zeta"}
        if index % 2:
            parameters |= {"customer": "acme", "secret_depth": index}
        trial = vz.Trial(id=first_id + index, parameters=parameters, description="by jane", assigned_worker="host-7")
        trial.measurements.append(vz.Measurement({unit: 0.5}, steps=1, checkpoint_path="home/jane/model"))
        trial.complete(
            vz.Measurement({unit: index + shift}), infeasibility_reason="jane's disk" if index == 3 else None
        )
        trial.metadata.ns("team")["path"] = "home/jane"
        trials.append(trial)
    return vz.ProblemAndTrials(problem=problem, trials=trials)


def test_fingerprints():
    first = fingerprint(study_to_json(study("a")))
    assert first == fingerprint(study_to_json(study("b", first_id=7)))
    different = [study("a", 0.5), study("a", bound=2.0), study("a", unit="z")]
    reordered, unmeasured = study("a"), study("a")
    reordered.trials.reverse()
    unmeasured.trials[0].measurements.clear()
    for other in (*different, reordered, unmeasured):
        assert fingerprint(study_to_json(other)) != first


def test_fingerprints_go_by_content():
    def reversed_names(value):
        if isinstance(value, dict):
            return {name: reversed_names(value[name]) for name in reversed(value)}
        return [reversed_names(item) for item in value] if isinstance(value, list) else value

    record = study_to_json(study("a"))
    first = fingerprint(record)
    # Neither the order of names nor which objects are shared counts.
    assert fingerprint(reversed_names(record)) == first
    assert fingerprint(json.loads(json.dumps(record))) == first
    for change in (
        lambda trial: trial["parameters"].update(rate=0),
        lambda trial: trial["parameters"].update(rate=-0.0),
        lambda trial: trial["parameters"].pop("rate"),
        lambda trial: trial.update(infeasible=""),
        lambda trial: trial.update(requested=True),
        lambda trial: trial.update(stopping_reason="pruned"),
        lambda trial: trial.pop("final"),
        lambda trial: trial["final"].update(metrics={}),
        lambda trial: trial["final"].update(metrics={"y": [0.0, 1.0]}),
        lambda trial: trial["measurements"][0].update(steps=2),
        lambda trial: trial["measurements"][0].update(metrics={"y": "nan"}),
    ):
        other = json.loads(json.dumps(record))
        change(other["trials"][0])
        assert fingerprint(other) != first
    for kept in (lambda trial: trial.update(id=9), lambda trial: trial.pop("description")):
        other = json.loads(json.dumps(record))
        kept(other["trials"][0])
        assert fingerprint(other) == first


def test_duplicates_are_left_out_with_their_reason(tmp_path):
    write_studies(tmp_path / "a.jsonl", [study("one"), study("two", 1.0), study("again")])
    write_studies(tmp_path / "b.jsonl", [study("elsewhere", first_id=10), study("three", 2.0)])
    summary = import_corpus([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out.jsonl")
    assert (summary.studies_read, summary.studies_kept, summary.trials_read, summary.trials_kept) == (5, 3, 20, 12)
    assert summary.quarantined_studies == {"duplicate study": 2}
    assert summary.quarantined_trials == {"of a quarantined study": 8}
    kept = [record.problem.metadata.ns("optformer")["study_id"] for record in read(tmp_path / "out.jsonl")]
    assert kept == ["one", "two", "three"]
    left_out = [json.loads(line) for line in (tmp_path / "out.jsonl.quarantine.jsonl").read_text().splitlines()]
    reasons = {record["study"]: record["reason"] for record in left_out if record["trial"] is None}
    where = f"duplicate study: the same space, trials and values as 'one' of {tmp_path / 'a.jsonl'}"
    assert reasons == {"again": where, "elsewhere": where}


def words(tmp_path: Path) -> str:
    return "".join(path.read_text() for path in sorted(tmp_path.glob("out.jsonl*")))


def test_nothing_of_the_owner_remains(tmp_path):
    bad = study("bad")
    bad.trials[0].parameters["customer"] = "unheard of"
    source = tmp_path / "acme.jsonl"
    write_studies(source, [study("acme-study"), bad])
    import_corpus([source], tmp_path / "out.jsonl", anonymiser=Anonymiser("key"))
    text = words(tmp_path)
    for word in ("acme", "zeta", "jane", "host-7", 'rate"', "secret", "customer", "churn", "owner", "team", "unheard"):
        assert word not in text.replace("infeasible_rate", ""), word
    assert str(tmp_path) not in text
    assert '"algorithm":"tpe"' in text
    first = next(iter(read(tmp_path / "out.jsonl")))
    original = study("acme-study")
    configs = list(first.problem.search_space.root.select_all())
    assert [config.type for config in configs] == [
        config.type for config in original.problem.search_space.root.select_all()
    ]
    assert all(re.fullmatch("parameter-[0-9a-f]{12}", config.name) for config in configs)
    for trial, before in zip(first.trials, original.trials, strict=True):
        assert len(trial.parameters) == len(before.parameters)
        values = trial.parameters.as_dict()
        assert before.parameters["rate"].value in values.values()
        assert "True" in values.values()
        assert trial.infeasible == before.infeasible
    again = import_corpus([tmp_path / "out.jsonl"], tmp_path / "again.jsonl")
    assert (again.studies_kept, again.quarantined_trials) == (2, {})
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_hashes_are_stable_under_a_key(tmp_path):
    write_studies(tmp_path / "in.jsonl", [study("a")])
    texts = []
    for key in ("k", "k", "other"):
        import_corpus([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", anonymiser=Anonymiser(key))
        texts.append((tmp_path / "out.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert Anonymiser().key != Anonymiser().key
    hidden = Anonymiser("k").quarantined(Quarantined("path", "s", 3, "lr", "value outside its range: 7"))
    assert hidden.reason == "value outside its range"
    assert hidden.parameter == Anonymiser("k").hashed("parameter", "lr")


def test_the_command(tmp_path, capsys):
    write_studies(tmp_path / "in.jsonl", [study("a"), study("b")])
    command = ["corpus", "import", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert main([*command, "--anonymise"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "left out: duplicate study" in printed
    drawn = re.search(r"Key of the hashes.*: ([0-9a-f]{32})", printed)[1]
    text = (tmp_path / "out.jsonl").read_text()
    assert main([*command, "--anonymise", "--key", drawn]) == 0
    assert (tmp_path / "out.jsonl").read_text() == text
    assert drawn not in words(tmp_path)
    capsys.readouterr()
    assert main([*command, "--key", "k"]) == 2
    assert "--key needs --anonymise" in capsys.readouterr().err


def test_stores_of_all_kinds_in_one_import(tmp_path, capsys):
    for name in ("ray-2.60", "syne-tune-0.16", "mlflow-mlruns"):
        with tarfile.open(fileobj=io.BytesIO((FIXTURES / f"{name}.tar.gz").read_bytes())) as archive:
            archive.extractall(tmp_path, filter="data")
    (tmp_path / "mlflow.db").write_bytes(gzip.decompress((FIXTURES / "mlflow.db.gz").read_bytes()))
    (tmp_path / "runs.csv").write_text("x,loss\n1,2\n2,3\n3,1\n")
    (tmp_path / "map.json").write_text('{"parameters": ["x"], "objectives": {"loss": "minimize"}}')
    inputs = [str(tmp_path / name) for name in ("digits", "sweep", "mlruns", "mlflow.db", "runs.csv")]
    out = str(tmp_path / "out.jsonl")
    options = ["--metric", "loss", "--mode", "min", "--mapping", str(tmp_path / "map.json")]
    assert main(["corpus", "import", *inputs, "--out", out, *options]) == 0
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    found = [(entry["format"], entry["studies"], entry["trials"]) for entry in summary["inputs"]]
    # The two stores of MLflow hold the same runs.
    assert found == [("ray", 1, 8), ("syne-tune", 1, 8), ("mlflow", 3, 12), ("mlflow", 0, 0), ("table", 1, 3)]
    assert summary["quarantined_studies"] == {"duplicate study": 3}
    assert main(["corpus", "info", out]) == 0
    assert main(["corpus", "import", inputs[0], "--out", out]) == 2
    assert "--goal minimize" in capsys.readouterr().err


def test_wrong_options_are_errors_before_anything_is_read(tmp_path):
    with pytest.raises(SourceError, match="2 goals for 1 metrics"):
        import_corpus([tmp_path / "absent"], tmp_path / "out.jsonl", metric="a", goal="min,max")
