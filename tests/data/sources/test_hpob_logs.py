"""HPO-B's files: structure, splits, descriptors, and reading in pieces."""

import json
import random

import pytest

from optformer.data.sources import Quarantined, SourceError, count_studies, detect_format, hpob_logs, read, study_name

DESCRIPTORS = {
    "5860": {
        "variables": {"alpha": {"min": 0.0, "max": 1.0}, "lambda": {"min": -6.9, "max": 6.9}},
        "variables_to_apply_log": ["lambda"],
        "variables_order": ["alpha", "lambda"],
    }
}


def meta_dataset(spaces=(("5860", 2), ("4796", 3)), data_sets=2, rows=5) -> dict:
    rng = random.Random(0)
    return {
        space: {
            str(data_set): {
                "X": [[rng.random() for _ in range(width)] for _ in range(rows)],
                "y": [[rng.random()] for _ in range(rows)],
            }
            for data_set in range(data_sets)
        }
        for space, width in spaces
    }


@pytest.fixture
def folder(tmp_path):
    for name in ("meta-train-dataset.json", "meta-validation-dataset.json", "meta-test-dataset.json"):
        (tmp_path / name).write_text(json.dumps(meta_dataset()))
    (tmp_path / "meta-dataset-descriptors.json").write_text(json.dumps(DESCRIPTORS))
    return tmp_path


def test_one_file(folder):
    path = folder / "meta-train-dataset.json"
    assert detect_format(path) == "hpob"
    assert count_studies(path) == 4
    studies = list(read(path))
    assert [study_name(study) for study in studies] == ["5860/0", "5860/1", "4796/0", "4796/1"]
    first, *_, last = studies
    stored = meta_dataset()["5860"]["0"]
    assert [config.name for config in first.problem.search_space.parameters] == ["alpha", "lambda"]
    assert [config.name for config in last.problem.search_space.parameters] == ["x0", "x1", "x2"]
    for config in first.problem.search_space.parameters:
        assert (config.bounds, config.scale_type.name) == ((0.0, 1.0), "LINEAR")
    assert [list(trial.parameters.as_dict().values()) for trial in first.trials] == stored["X"]
    assert [[trial.final_measurement.metrics["accuracy"].value] for trial in first.trials] == stored["y"]
    assert first.problem.metric_information.item().goal.name == "MAXIMIZE"
    facts = first.problem.metadata.ns("hpob")
    assert (facts["split"], facts["search_space"], facts["data_set"]) == ("train", "5860", "0")
    assert json.loads(facts["descriptor"]) == DESCRIPTORS["5860"]
    assert "space" not in first.problem.metadata.ns("optformer")
    assert len(list(read(path, study="4796/1"))) == 1


def test_a_folder_holds_all_splits(folder):
    (folder / "meta-dataset.json").write_text(json.dumps(meta_dataset()))
    assert detect_format(folder) == "hpob"
    assert count_studies(folder) == 12
    splits = [study.problem.metadata.ns("hpob")["split"] for study in read(folder)]
    assert splits == ["train"] * 4 + ["validation"] * 4 + ["test"] * 4


@pytest.mark.parametrize("indent", [None, 1])
def test_pieces_of_any_size_give_the_same(tmp_path, monkeypatch, indent):
    path = tmp_path / "meta-dataset.json"
    path.write_text(json.dumps(meta_dataset(data_sets=3), indent=indent))
    whole = [
        (space, data_set, record)
        for space, sets in meta_dataset(data_sets=3).items()
        for data_set, record in sets.items()
    ]
    for size in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(hpob_logs, "_CHUNK", size)
        assert list(hpob_logs.entries(path)) == whole
        assert hpob_logs.count(path) == 6


def test_a_file_that_ends_early(tmp_path):
    path = tmp_path / "meta-dataset.json"
    text = json.dumps(meta_dataset())
    path.write_text(text[: len(text) // 2])
    *kept, last = read(path)
    assert len(kept) == 2
    assert (last.study, last.category) == ("data set 3 of meta-dataset.json", "file ends early")
    path.write_text(text[:200])
    with pytest.raises(SourceError, match="not a file of HPO-B"):
        list(read(path, format="hpob"))
    path.write_text(json.dumps({"a": 1}))
    with pytest.raises(SourceError, match="not a file of HPO-B"):
        list(read(path, format="hpob"))


def test_bad_rows_cost_themselves(tmp_path):
    path = tmp_path / "meta-dataset.json"
    stored = meta_dataset()
    rows = stored["5860"]["0"]
    rows["X"][1], rows["X"][2][0], rows["y"][3], rows["X"][4][1] = [0.5], 1.5, [None], "high"
    stored["5860"]["1"]["y"].pop()
    path.write_text(json.dumps(stored))
    records = list(read(path))
    left_out = [(r.study, r.trial, r.parameter, r.category) for r in records if isinstance(r, Quarantined)]
    assert left_out == [
        ("5860/0", 2, None, "trial cannot be represented"),
        ("5860/0", 4, None, "objective is not a number"),
        ("5860/0", 3, "x0", "value outside its range"),
        ("5860/0", 5, "x1", "kind of parameter differs from most trials"),
        ("5860/1", None, None, "study cannot be represented"),
    ]
    assert sum(not isinstance(r, Quarantined) for r in records) == 3
