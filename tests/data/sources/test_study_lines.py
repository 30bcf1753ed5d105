"""The project's own format: what goes in comes out, whatever it is."""

import datetime
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import any_pb2, duration_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined, SourceError, read, write_studies
from optformer.data.sources.importing import verify
from optformer.data.sources.study_json import StudyRecord, study_from_json, study_to_json
from optformer.data.sources.study_lines import StudyWriter

NAMES = st.text(min_size=1, max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ANY_FLOAT = st.floats()
TIMES = st.none() | st.datetimes(
    datetime.datetime(1975, 1, 1), datetime.datetime(2200, 1, 1), timezones=st.just(datetime.UTC)
)


@st.composite
def metadata(draw) -> vz.Metadata:
    drawn = vz.Metadata()
    for namespace in draw(st.lists(st.lists(st.text(max_size=4), max_size=2), max_size=2)):
        for key, value in draw(st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2)).items():
            drawn.abs_ns(namespace)[key] = value
    if draw(st.booleans()):
        drawn.ns("proto")["duration"] = duration_pb2.Duration(seconds=draw(st.integers(0, 1000)))
    return drawn


@st.composite
def bounds(draw, values):
    low, high = sorted([draw(values), draw(values)])
    return low, high


@st.composite
def parameters(draw, depth: int) -> vz.ParameterConfig:
    kind = draw(st.sampled_from(list(vz.ParameterType)))
    options: dict = {"scale_type": draw(st.none() | st.sampled_from(list(vz.ScaleType)))}
    values = st.nothing()
    if kind == vz.ParameterType.DOUBLE:
        options["bounds"] = draw(bounds(FINITE))
        values = st.floats(*options["bounds"])
    elif kind == vz.ParameterType.INTEGER:
        # Beyond, pyvizier refuses a value as a parent: a float does not hold it.
        options["bounds"] = draw(bounds(st.integers(-(2**53), 2**53)))
        values = st.integers(*options["bounds"])
    elif kind == vz.ParameterType.DISCRETE:
        options["feasible_values"] = draw(st.lists(FINITE, min_size=1, max_size=4, unique=True))
        options["external_type"] = draw(st.sampled_from(list(vz.ExternalType)))
        values = st.sampled_from(options["feasible_values"])
    elif kind == vz.ParameterType.CATEGORICAL:
        options["feasible_values"] = draw(st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True))
        options["external_type"] = draw(st.sampled_from([vz.ExternalType.INTERNAL, vz.ExternalType.BOOLEAN]))
        values = st.sampled_from(options["feasible_values"])
    else:
        values = st.text(max_size=3) | ANY_FLOAT | st.integers()
    default = draw(st.none() | values)
    if default == default:  # pyvizier's equality of configs cannot see through a NaN
        options["default_value"] = default
    if draw(st.integers(0, 5)) == 0:
        options["fidelity_config"] = vz.FidelityConfig(
            draw(st.sampled_from(["SEQUENTIAL", "NOT_SEQUENTIAL", "STEPS"])),
            cost_ratio=draw(st.lists(FINITE, max_size=2)),
        )
    config = vz.ParameterConfig.factory(draw(NAMES), **options)
    if depth and kind not in (vz.ParameterType.DOUBLE, vz.ParameterType.CUSTOM):
        for value in draw(st.lists(values, max_size=2, unique=True)):
            for child in draw(st.lists(parameters(depth=depth - 1), max_size=2, unique_by=lambda c: c.name)):
                config.subspace(value).add(child)
    return config


@st.composite
def metrics(draw) -> vz.MetricInformation:
    low, high = draw(bounds(st.floats(allow_nan=False)))
    return vz.MetricInformation(
        draw(st.text(max_size=5)),
        goal=draw(st.sampled_from(list(vz.ObjectiveMetricGoal))),
        safety_threshold=draw(st.none() | st.floats(allow_nan=False)),
        safety_std_threshold=draw(st.none() | FINITE),
        desired_min_safe_trials_fraction=draw(st.none() | st.floats(0, 1)),
        min_value=low,
        max_value=high,
    )


@st.composite
def measurements(draw) -> vz.Measurement:
    stds = st.none() | st.floats(min_value=0)
    values = st.builds(vz.Metric, st.floats(allow_nan=False), std=stds)
    return vz.Measurement(
        metrics=draw(st.dictionaries(st.text(max_size=5), values, max_size=2)),
        elapsed_secs=draw(st.floats(0, 1e12)),
        steps=draw(st.integers(0, 2**60)),
        checkpoint_path=draw(st.text(max_size=4)),
    )


@st.composite
def trials(draw) -> vz.Trial:
    values = st.text(max_size=5) | st.floats(allow_nan=False) | st.integers() | st.booleans()
    trial = vz.Trial(
        id=draw(st.integers(0, 2**40)),
        parameters=draw(st.dictionaries(st.text(max_size=5), values, max_size=3)),
        metadata=draw(metadata()),
        is_requested=draw(st.booleans()),
        assigned_worker=draw(st.none() | st.text(max_size=4)),
        stopping_reason=draw(st.none() | st.text(max_size=4)),
        infeasibility_reason=draw(st.none() | st.text(max_size=4)),
        description=draw(st.none() | st.text(max_size=4)),
        related_links=draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)),
        final_measurement=draw(st.none() | measurements()),
        measurements=draw(st.lists(measurements(), max_size=2)),
        creation_time=draw(TIMES),
        completion_time=draw(TIMES),
    )
    if draw(st.booleans()):
        trial.completion_time = None
    return trial


@st.composite
def studies(draw) -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement(
        metric_information=draw(st.lists(metrics(), max_size=2, unique_by=lambda metric: metric.name)),
        metadata=draw(metadata()),
    )
    for config in draw(st.lists(parameters(depth=2), max_size=3, unique_by=lambda c: c.name)):
        problem.search_space.add(config)
    return vz.ProblemAndTrials(problem=problem, trials=draw(st.lists(trials(), max_size=2)))


def items(metadata: vz.Metadata) -> list:
    """All namespaces; pyvizier's own equality compares the current one only.  Messages are packed on the way."""

    def packed(value):
        if isinstance(value, str | any_pb2.Any):
            return value
        message = any_pb2.Any()
        message.Pack(value)
        return message

    return [(tuple(namespace), key, packed(value)) for namespace, key, value in metadata.all_items()]


def assert_same(first: vz.ProblemAndTrials, second: vz.ProblemAndTrials) -> None:
    assert second.problem.search_space == first.problem.search_space
    assert second.problem.metric_information == first.problem.metric_information
    assert items(second.problem.metadata) == items(first.problem.metadata)
    assert [c.name for c in second.problem.search_space.parameters] == [
        c.name for c in first.problem.search_space.parameters
    ]
    for one, other in zip(first.trials, second.trials, strict=True):
        assert items(other.metadata) == items(one.metadata)
        assert other.completion_time == one.completion_time
        for name, value in one.parameters.items():
            assert type(other.parameters[name].value) is type(value.value)
        one.metadata, other.metadata = vz.Metadata(), vz.Metadata()
        assert other == one


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(studies())
def test_export_and_import_are_inverse(study):
    text = json.dumps(study_to_json(study), allow_nan=False)
    back = study_from_json(json.loads(text))
    assert json.dumps(study_to_json(back)) == text
    assert_same(study, back)


def test_the_line_of_a_study():
    problem = vz.ProblemStatement(
        metric_information=[vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE)]
    )
    problem.metadata.ns("optformer")["title"] = "digits"
    root = problem.search_space.root
    model = root.add_categorical_param("model", ["svm", "tree", "forest"])
    model.select_values(["tree", "forest"]).add_int_param("depth", 1, 9)
    root.add_float_param("C", 0.1, 10.0, scale_type=vz.ScaleType.LOG, default_value=1.0)
    time = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    trial = vz.Trial(id=3, parameters={"model": "tree", "depth": 2, "C": 0.5}, creation_time=time, completion_time=time)
    trial.final_measurement = vz.Measurement({"loss": math.inf}, steps=5)
    trial.measurements.append(vz.Measurement({"loss": vz.Metric(0.5, std=0.1)}, elapsed_secs=1.5))
    record = study_to_json(vz.ProblemAndTrials(problem=problem, trials=[trial]))
    created = trial.creation_time.isoformat()
    assert record == {
        "format": "optformer-study",
        "version": 1,
        "problem": {
            "parameters": [
                {
                    "name": "model",
                    "type": "CATEGORICAL",
                    "values": ["forest", "svm", "tree"],
                    "children": [
                        {
                            "when": ["tree", "forest"],
                            "parameters": [{"name": "depth", "type": "INTEGER", "bounds": [1, 9]}],
                        }
                    ],
                },
                {"name": "C", "type": "DOUBLE", "bounds": [0.1, 10.0], "scale": "LOG", "default": 1.0},
            ],
            "metrics": [{"name": "loss", "goal": "MINIMIZE"}],
            "metadata": [[["optformer"], {"title": "digits"}]],
        },
        "trials": [
            {
                "id": 3,
                "parameters": {"model": "tree", "depth": 2, "C": 0.5},
                "final": {"metrics": {"loss": "inf"}, "steps": 5},
                "measurements": [{"metrics": {"loss": [0.5, 0.1]}, "elapsed_secs": 1.5}],
                "created": created,
                "completed": created,
            }
        ],
    }


def test_the_example_of_the_documentation(tmp_path):
    text = (Path(__file__).parents[3] / "docs" / "corpora.md").read_text()
    example = json.loads(text.split("```json\n")[1].split("```")[0])
    rate = example["problem"]["parameters"][0]
    assert rate.pop("scale") == "LOG"
    rate["bounds"] = [0, 1]  # as programs without a type for floats write it
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(example))
    (study,) = read(path)
    assert study.problem.search_space.get("lr").bounds == (0.0, 1.0)
    assert study.problem.search_space.get("lr").type == vz.ParameterType.DOUBLE
    assert [trial.status.name for trial in study.trials] == ["COMPLETED", "COMPLETED", "ACTIVE"]
    assert list(verify(study)) == [StudyRecord.of(study)]


def test_nan_survives():
    trial = vz.Trial(id=1, parameters={"x": math.nan, "text": "nan"}, final_measurement=vz.Measurement({"y": math.nan}))
    back = study_from_json(study_to_json(vz.ProblemAndTrials(problem=vz.ProblemStatement(), trials=[trial])))
    assert math.isnan(back.trials[0].parameters["x"].value)
    assert back.trials[0].parameters["text"].value == "nan"
    assert math.isnan(back.trials[0].final_measurement.metrics["y"].value)


def test_numpy_values_are_written_as_numbers():
    trial = vz.Trial(id=1, parameters={"x": np.float64(0.5)}, final_measurement=vz.Measurement({"y": np.float64(1)}))
    text = json.dumps(study_to_json(vz.ProblemAndTrials(problem=vz.ProblemStatement(), trials=[trial])))
    assert '"x": 0.5' in text


def small_study(name: str = "s") -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement(metric_information=[vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE)])
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.metadata.ns("optformer")["study_id"] = name
    trial = vz.Trial(id=1, parameters={"x": 0.5}, final_measurement=vz.Measurement({"y": 1.0}), creation_time=None)
    return vz.ProblemAndTrials(problem=problem, trials=[trial])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_files(tmp_path, name):
    path = tmp_path / "new folder" / name
    assert write_studies(path, [small_study("a"), small_study("b")]) == 2
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    for written, back in zip([small_study("a"), small_study("b")], read(path), strict=True):
        assert_same(written, back)
    assert len(list(read(path, study="b"))) == 1
    first = path.read_bytes()
    write_studies(path, [small_study("a"), small_study("b")])
    assert path.read_bytes() == first, "equal studies give equal files"


def test_an_interrupted_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_studies(path, [small_study("old")])

    def interrupted():
        yield small_study("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_studies(path, interrupted())
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    assert '"old"' in path.read_text()


def test_torn_lines_are_quarantined_by_number(tmp_path):
    path = tmp_path / "a.jsonl"
    write_studies(path, [small_study("a"), small_study("b")])
    first, second = path.read_text().splitlines()
    path.write_bytes(f"{first}\n\n{second[:100]}\n[1]\n".encode() + b'{"x": "\xff"}\n' + second.encode())
    records = list(read(path))
    assert [(r.study, r.category) for r in records if isinstance(r, Quarantined)] == [
        (f"line {number}", "unreadable line") for number in (3, 4, 5)
    ]
    assert sum(isinstance(r, vz.ProblemAndTrials) for r in records) == 2


def test_damaged_studies_and_trials_cost_only_themselves(tmp_path):
    good, broken, newer = (study_to_json(small_study(name)) for name in ("good", "broken", "newer"))
    good["trials"] += [{"id": 7, "parameters": {"x": None}}, "no trial"]
    broken["problem"]["parameters"][0]["type"] = "INTEGER"
    newer["version"] = 2
    path = tmp_path / "a.jsonl"
    with StudyWriter(path) as writer:
        for record in (good, broken, newer):
            writer.write_record(record)
    records = list(read(path))
    (kept,) = [r for r in records if isinstance(r, vz.ProblemAndTrials)]
    assert [t.id for t in kept.trials] == [1]
    quarantined = [(r.study, r.trial, r.category) for r in records if isinstance(r, Quarantined)]
    assert quarantined == [
        ("good", 7, "trial cannot be represented"),
        ("good", 2, "trial cannot be represented"),
        ("line 2", None, "study cannot be represented"),
        ("line 2", 1, "of a quarantined study"),
        ("line 3", None, "study cannot be represented"),
        ("line 3", 1, "of a quarantined study"),
    ]
    reasons = [r.reason for r in records if isinstance(r, Quarantined)]
    assert "parameter 'x' says INTEGER but describes a DOUBLE" in reasons[2]
    assert "this program reads version 1" in reasons[4]


def test_a_file_that_was_cut_off_between_two_lines_is_noticed(tmp_path):
    path = tmp_path / "a.jsonl"
    write_studies(path, map(small_study, "abcd"))
    lines = path.read_text().splitlines(keepends=True)

    def told(*kept: str) -> tuple[int, list[str]]:
        path.write_text("".join(kept))
        records = list(read(path))
        refused = [record.category for record in records if isinstance(record, Quarantined)]
        return len(records) - len(refused), refused

    assert told(*lines) == (4, [])
    assert told(*lines[:3]) == (3, ["file ends early"])
    assert told(*lines[:1]) == (1, ["file ends early"])
    assert told(*lines[1:]) == (3, ["studies are missing"])
    assert told(lines[0], *lines[2:]) == (3, ["studies are missing"])
    assert told(*lines, *lines) == (8, []), "two files, one after the other"
    assert told(*lines[:2], *lines) == (6, ["file ends early"])
    assert told(*(line.replace(',"counted":true', "").replace(',"studies":4', "") for line in lines)) == (4, [])
    write_studies(path, map(small_study, "a"))
    assert told(*path.read_text().splitlines(keepends=True)) == (1, [])
    write_studies(path, [])
    assert path.read_text() == ""


def test_a_truncated_gzip_keeps_what_came_before(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    rng = np.random.default_rng(0)
    names = ["".join(map(chr, rng.integers(97, 123, 2000))) for _ in range(50)]
    write_studies(path, map(small_study, names))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    *kept, last = read(path)
    assert 10 < len(kept) < 40
    assert isinstance(last, Quarantined)
    assert last.category == "file ends early"
    path.write_bytes(whole[:40])
    with pytest.raises(SourceError, match="truncated or corrupt"):
        list(read(path))
    path.write_bytes(gzip.compress(b"\n"))
    with pytest.raises(SourceError, match="no study store"):
        list(read(path))
