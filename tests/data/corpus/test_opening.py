"""Opening a corpus: its cache, builds that fail, errors, and what cannot be used."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from mixed_studies import study
from vizier import pyvizier as vz

from optformer.data.corpus import Augmentation, Corpus, CorpusError, building
from optformer.data.sources import Quarantined, write_studies


def test_a_json_lines_file_is_cached_beside_it_and_rebuilt_when_it_changes(
    studies: list[vz.ProblemAndTrials], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "corpus.jsonl"
    write_studies(path, studies)
    first = Corpus.open(path)
    assert len(first) == 16
    assert (tmp_path / "corpus.jsonl.cache" / "index.json").is_file()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus.jsonl", "corpus.jsonl.cache"]
    assert len(Corpus.open(path, cache=tmp_path / "elsewhere")) == 16

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("built twice")

    with monkeypatch.context() as patched:
        patched.setattr(building, "build", refuse)
        assert Corpus.open(path).fingerprint == first.fingerprint

    write_studies(path, studies[:3])
    assert len(Corpus.open(path)) == 6
    _with_version(tmp_path / "corpus.jsonl.cache", 0)
    assert len(Corpus.open(path)) == 6


def _with_version(directory: Path, version: int) -> None:
    index = json.loads((directory / "index.json").read_text())
    (directory / "index.json").write_text(json.dumps(index | {"version": version}))


def test_a_build_that_fails_leaves_the_old_cache_and_no_debris(corpus: Corpus, tmp_path: Path) -> None:
    building.build([study("old")], tmp_path / "c")

    def broken():
        yield study("new")
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        building.build(broken(), tmp_path / "c")
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
    assert Corpus.open(tmp_path / "c").study_names == ["old", "old"]


def test_clear_errors(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no corpus at .*missing\.jsonl: give the JSON-lines file"):
        Corpus.open(tmp_path / "missing.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError, match=r"holds no corpus: expected index\.json"):
        Corpus.open(tmp_path / "folder")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(CorpusError, match=r"empty\.jsonl is empty"):
        Corpus.open(tmp_path / "empty.jsonl")
    with gzip.open(tmp_path / "junk.jsonl.gz", "wt") as file:
        file.write("hello\nworld\n")
    with pytest.raises(CorpusError, match=r"junk\.jsonl\.gz"):
        Corpus.open(tmp_path / "junk.jsonl.gz")

    copy = shutil.copytree(corpus._store.directory, tmp_path / "copy")
    (copy / "values.npy").write_bytes((copy / "values.npy").read_bytes()[:300])
    with pytest.raises(CorpusError, match=r"values\.npy is missing or damaged"):
        Corpus.open(copy)
    _with_version(copy, 0)
    with pytest.raises(CorpusError, match=r"version 0 .*which rebuilds it"):
        Corpus.open(copy)
    with pytest.raises(ValueError, match=r"drop_names is 2\.0"):
        Augmentation(drop_names=2.0)


def test_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    outside = study("outside", trials=8)
    outside.trials[2].parameters["lr"] = 7.0
    constant = vz.ProblemAndTrials(problem=vz.ProblemStatement(), trials=[])
    constant.problem.metadata.ns("optformer")["study_id"] = "no space"
    unfinished = study("unfinished", trials=8)
    for trial in unfinished.trials:
        trial.final_measurement = None
    quarantined = Quarantined("x.db", "broken", 4, None, "unreadable")
    summary = building.build([outside, constant, quarantined, unfinished], tmp_path / "c")
    assert (summary.studies, summary.records, summary.trials) == (1, 2, 7)
    listed = {(entry["study"], entry["trial"]) for entry in summary.skipped}
    assert listed == {("outside", 3), ("no space", None), ("broken", 4), ("unfinished", None)}
    assert any("'lr'" in entry["reason"] and "outside its bounds" in entry["reason"] for entry in summary.skipped)
    assert Corpus.open(tmp_path / "c").skipped == list(summary.skipped)

    building.build([unfinished], tmp_path / "none")
    with pytest.raises(
        CorpusError, match=r"no usable study; 2 were left out, the first:\n  unfinished: objective 'loss'"
    ):
        Corpus.open(tmp_path / "none")
