"""The TFDS builder: records, splits, command line, and reading without TensorFlow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.corpus import Corpus
from optformer.data.sources import SourceError, read, write_studies
from optformer.data.sources.study_json import study_to_json
from optformer.data.tfds import reading

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

from optformer.data.tfds.study_corpus import CorpusConfig, StudyCorpus

# TFDS and what it imports warn about their own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")


def study(name: str, repo: str, seed: int = 0) -> vz.ProblemAndTrials:
    """Two objectives, a conditional parameter, an infeasible trial and an active one."""
    rng = np.random.default_rng(seed)
    problem = vz.ProblemStatement()
    root = problem.search_space.root
    root.add_float_param("lr", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    model = root.add_categorical_param("model", ["linear", "mlp"])
    model.select_values(["mlp"]).add_int_param("width", 1, 64)
    root.add_float_param("fixed", 3.0, 3.0)
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    problem.metric_information.append(vz.MetricInformation("speed", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    facts = problem.metadata.ns("optformer")
    facts["study_id"], facts["title"], facts["algorithm"] = name, f"Größe of {name}", "random_search"
    facts["repo"], facts["source"] = repo, "log.db"
    trials = []
    for index in range(6):
        trial = vz.Trial(id=index + 1, parameters={"lr": float(10 ** rng.uniform(-4, 0)), "model": "linear"})
        if index == 2:
            trial.complete(vz.Measurement(), infeasibility_reason="diverged")
        elif index != 4:
            trial.complete(vz.Measurement({"loss": float(rng.normal()), "speed": float(rng.normal())}))
        trials.append(trial)
    return vz.ProblemAndTrials(problem=problem, trials=trials)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "mine.jsonl.gz"
    write_studies(path, [study(f"s{index}", f"repo{index // 2}", index) for index in range(40)])
    return path


def prepared(path: Path, folder: Path, name: str = "mine") -> Path:
    builder = StudyCorpus(config=CorpusConfig(name=name, path=str(path)), data_dir=folder)
    builder.download_and_prepare()
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(corpus, tmp_path_factory.mktemp("datasets"))


def test_a_record_keeps_the_study_whole_with_its_facts_and_counts(corpus: Path, dataset: Path) -> None:
    given = {str(study.problem.metadata.ns("optformer")["study_id"]): study for study in read(corpus)}
    splits = reading.open_splits(dataset)
    records = [record for split in splits.values() for record in split]
    assert {record["id"].decode() for record in records} == set(given)
    for record in records:
        assert json.loads(record["study"]) == study_to_json(given[record["id"].decode()])
        assert (record["algorithm"], record["source"]) == (b"random_search", b"log.db")
        assert record["group"].decode() == f"repo repo{int(record['id'][1:]) // 2}"
        counts = ("trials", "observed", "infeasible", "parameters", "objectives", "group_records")
        assert [int(record[count]) for count in counts] == [6, 4, 1, 3, 2, 4]


def test_files_are_array_record_in_the_order_of_the_corpus(dataset: Path) -> None:
    assert [path.name for path in dataset.glob("*train*")] == ["study_corpus-train.array_record-00000-of-00001"]
    for split in reading.open_splits(dataset).values():
        positions = [int(record["position"]) for record in split]
        assert positions == sorted(positions)
    names = [study.problem.metadata.ns("optformer")["study_id"] for study in reading.read_studies(dataset)]
    assert names == [f"s{index}" for index in range(40)]
    assert len(list(reading.read_studies(dataset, "validation"))) < 20


def test_the_splits_are_those_of_the_cache(corpus: Path, dataset: Path, tmp_path: Path) -> None:
    cached = Corpus.open(corpus, cache=tmp_path / "cache")
    names = {}
    for part in ("train", "validation"):
        names[part] = {record["id"].decode() for record in reading.open_splits(dataset)[part]}
        assert names[part] == set(cached.split(part).study_names)  # type: ignore[arg-type]
    assert not names["train"] & names["validation"]
    assert min(map(len, names.values())) > 0


def test_a_split_without_studies_is_left_out(tmp_path: Path) -> None:
    write_studies(tmp_path / "one.jsonl", [study("one", "repo0")])
    assert list(reading.open_splits(prepared(tmp_path / "one.jsonl", tmp_path))) == ["train"]


def test_a_data_source_needs_no_tensorflow(dataset: Path) -> None:
    program = (
        "import sys\n"
        "import tensorflow_datasets as tfds\n"
        f"train = tfds.data_source('study_corpus/mine', data_dir={str(dataset.parents[2])!r}, split='train')\n"
        "record = train[len(train) - 1]\n"
        "from optformer.data.tfds.reading import open_splits, read_studies\n"
        f"assert len(open_splits({str(dataset)!r})['train']) == len(train)\n"
        f"studies = list(read_studies({str(dataset)!r}))\n"
        "assert 'tensorflow' not in sys.modules, 'TensorFlow is imported'\n"
        "print(len(train), record['id'].decode(), len(studies))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    train = reading.open_splits(dataset)["train"]
    assert done.stdout.split() == [str(len(train)), train[len(train) - 1]["id"].decode(), "40"]


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optformer.data.tfds", "study_corpus", "--data_dir", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})


def test_the_command_line_builds_a_corpus_by_path_and_by_folder(corpus: Path, dataset: Path, tmp_path: Path) -> None:
    config = json.dumps({"name": "mine", "path": str(corpus)})
    done = build(tmp_path / "by-path", "--config", config)
    assert done.returncode == 0, done.stderr
    done = build(tmp_path / "by-folder", "--config", '{"name": "mine"}', "--manual_dir", str(corpus.parent))
    assert done.returncode == 0, done.stderr
    for way in ("by-path", "by-folder"):
        built = tmp_path / way / "study_corpus" / "mine" / "1.0.0"
        for split, records in reading.open_splits(built).items():
            expected = reading.open_splits(dataset)[split]
            assert [record["study"] for record in records] == [record["study"] for record in expected]


def test_the_command_line_names_what_is_wrong(tmp_path: Path) -> None:
    done = build(tmp_path / "out", "--config", '{"name": "absent"}', "--manual_dir", str(Path(__file__).parent))
    assert done.returncode == 1
    assert "no corpus for the config 'absent': neither" in done.stderr.splitlines()[-1]
    assert not reading.is_dataset(tmp_path / "out" / "study_corpus" / "absent" / "1.0.0")


def test_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    pointless = study("pointless", "repo")
    pointless.problem.search_space = vz.SearchSpace()
    for trial in pointless.trials:
        trial.parameters = vz.ParameterDict()
    path = tmp_path / "mixed.jsonl"
    write_studies(path, [pointless, study("good", "repo")])
    path.write_text("no study\n" + path.read_text())
    folder = prepared(path, tmp_path)
    assert [study.problem.metadata.ns("optformer")["study_id"] for study in reading.read_studies(folder)] == ["good"]
    listed = json.loads((folder / "metadata.json").read_text())["left_out"]
    assert [entry["study"] for entry in listed] == ["line 1", "pointless"]
    assert "no parameter with more than one feasible value" in listed[1]["reason"]

    write_studies(path, [pointless])
    with pytest.raises(SourceError, match="holds no usable study; 1 were left out, the first: pointless: its search"):
        prepared(path, tmp_path, "none")
    with pytest.raises(SourceError, match="no such file"):
        prepared(tmp_path / "missing.jsonl", tmp_path, "missing")


def test_reading_tells_what_is_no_dataset_of_studies(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"not a dataset folder; .* DATA_DIR/study_corpus/NAME/VERSION"):
        reading.open_splits(tmp_path)
    with pytest.raises(SourceError, match="no split 'test'; it has train, validation"):
        next(reading.read_studies(dataset, "test"))
    damaged = shutil.copytree(dataset, tmp_path / "damaged")
    (file,) = damaged.glob("*train*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 4])
    with pytest.raises(SourceError, match=r"damaged: .* cannot be read"):
        list(reading.read_studies(damaged))
    (tmp_path / "dataset_info.json").write_text("{ half a file")
    with pytest.raises(SourceError, match="the dataset cannot be read"):
        reading.open_splits(tmp_path)


def test_the_cache_of_a_dataset_is_that_of_its_corpus(
    corpus: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", "cache", str(dataset), "--out", str(tmp_path / "from-dataset")]) == 0
    assert "40 studies, 80 records" in capsys.readouterr().out
    assert main(["corpus", "cache", str(corpus), "--out", str(tmp_path / "from-file")]) == 0
    from_dataset, from_file = Corpus.open(tmp_path / "from-dataset"), Corpus.open(tmp_path / "from-file")
    assert from_dataset.fingerprint == from_file.fingerprint
