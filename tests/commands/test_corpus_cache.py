"""`optformer corpus cache`: what it writes, what it never replaces, what it says.  Needs no TensorFlow."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.corpus import Corpus
from optformer.data.sources import write_studies
from optformer.serialization.batch import BatchShape

SHAPE = BatchShape(trials=8, slots=3, text=64, policy_trials=2)


def study(name: str, trials: int = 6, outside: bool = False) -> vz.ProblemAndTrials:
    rng = np.random.default_rng(len(name))
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("lr", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    problem.search_space.root.add_categorical_param("kind", ["a", "b"])
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    problem.metadata.ns("optformer")["study_id"] = name
    logged = []
    for index in range(trials):
        lr = 7.0 if outside and index == 2 else float(10 ** rng.uniform(-4, 0))
        trial = vz.Trial(id=index + 1, parameters={"lr": lr, "kind": "a"})
        logged.append(trial.complete(vz.Measurement({"loss": float(rng.normal())})))
    return vz.ProblemAndTrials(problem=problem, trials=logged)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["corpus", "cache", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl.gz"
    write_studies(path, [study("one"), study("three", outside=True)])
    return path


def test_the_cache_is_the_one_that_the_trainer_builds_itself(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, corpus, "--out", tmp_path / "cache")
    assert code == 0
    assert "2 studies, 2 records (one per objective), 11 trials" in out
    assert "left out: 0 studies or objectives and 1 trials" in out
    assert "'three', trial 3, parameter 'lr'" in out
    assert f"--set corpus={tmp_path / 'cache'}" in out

    built, own = Corpus.open(tmp_path / "cache"), Corpus.open(corpus)
    assert built.fingerprint == own.fingerprint
    for one, other in zip(built.batch(1, 2, 4, SHAPE), own.batch(1, 2, 4, SHAPE), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_cache_that_is_up_to_date_is_left_alone_and_a_stale_one_replaced(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run(capsys, corpus, "--out", cache)
    written = (cache / "index.json").stat().st_mtime_ns
    code, out, _ = run(capsys, corpus, "--out", cache)
    assert (code, "up to date: 2 studies, 11 trials" in out) == (0, True)
    assert (cache / "index.json").stat().st_mtime_ns == written
    # The trainer, given the file and this folder, finds nothing to build either.
    Corpus.open(corpus, cache=cache)
    assert (cache / "index.json").stat().st_mtime_ns == written

    write_studies(corpus, [study("one")])
    code, out, _ = run(capsys, corpus, "--out", cache)
    assert (code, "1 studies" in out) == (0, True)
    assert Corpus.open(cache).study_names == ["one"]


def test_its_batches_need_neither_vizier_nor_tensorflow_and_are_mapped(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    run(capsys, corpus, "--out", tmp_path / "cache")
    program = (
        "import sys\n"
        "from optformer.data.corpus import Corpus\n"
        "from optformer.serialization.batch import BatchShape\n"
        f"corpus = Corpus.open({str(tmp_path / 'cache')!r})\n"
        "corpus.batch(0, 0, 4, BatchShape(trials=8, slots=3, text=64, policy_trials=2))\n"
        "assert not {'vizier', 'tensorflow', 'seqio', 'tensorflow_datasets'} & set(sys.modules)\n"
        "import numpy\n"
        "tokens = corpus._store.columns['text_tokens']\n"
        "assert isinstance(tokens.base, numpy.memmap)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mistakes_are_told_in_one_line_and_nothing_is_replaced(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    cache, own = tmp_path / "cache", tmp_path / "own"
    run(capsys, corpus, "--out", cache)
    own.mkdir()
    (own / "thesis.tex").write_text("years of work")
    junk = tmp_path / "junk.jsonl"
    junk.write_text("hello\n")
    unfinished = study("unfinished")
    for trial in unfinished.trials:
        trial.final_measurement = None
    useless = tmp_path / "useless.jsonl"
    write_studies(useless, [unfinished])
    mistakes = {
        (corpus, own): "other content: name a new or empty one",
        (corpus, own / "thesis.tex"): "is a file: name a folder",
        (cache, tmp_path / "c"): "is a cache already: train on it with --set corpus=",
        (tmp_path / "none.jsonl", tmp_path / "c"): "no such file",
        (own, tmp_path / "c"): "a folder; name the database or JSON-lines file in it",
        (junk, tmp_path / "c"): "no study store",
        (useless, tmp_path / "c"): "has no usable study; 1 were left out, the first: unfinished: objective 'loss'",
    }
    for (given, out), message in mistakes.items():
        code, printed, error = run(capsys, given, "--out", out)
        assert (code, printed) == (2, "")
        assert message in error
        assert error.count("\n") == 1
    assert (own / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "c").exists()
