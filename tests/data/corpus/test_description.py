"""`optformer corpus info`: what it counts, samples, prints and draws."""

import datetime
import json
import re

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.corpus.description import CURVE_TRIALS, Reservoir, best_so_far, describe_corpus
from optformer.data.sources import SourceError, write_studies
from optformer.evaluate.corpus_report import tables, write_page
from optformer.serialization.batch import BatchShape
from optformer.serialization.metadata import metadata_segments

pytestmark = pytest.mark.filterwarnings("error")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def study(name: str, trials: int, parameters: int = 2, algorithm: str = "", metrics: int = 1) -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement()
    for index in range(parameters):
        scale = vz.ScaleType.LOG if index else vz.ScaleType.LINEAR
        problem.search_space.root.add_float_param(f"x{index}", 0.1, 1.0, scale_type=scale)
    for index in range(metrics):
        problem.metric_information.append(vz.MetricInformation(f"loss{index}", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    problem.metadata.ns("optformer")["study_id"] = name
    if algorithm:
        problem.metadata.ns("optformer")["algorithm"] = algorithm
    rng = np.random.default_rng(len(name) + trials)
    logged = []
    for number in range(trials):
        values = {f"x{index}": float(value) for index, value in enumerate(rng.uniform(0.1, 1.0, parameters))}
        trial = vz.Trial(values, id=number + 1, creation_time=START)
        if number % 5 == 4:
            trial.complete(vz.Measurement(), infeasibility_reason="diverged")
        else:
            trial.complete(vz.Measurement({f"loss{index}": float(rng.random()) for index in range(metrics)}))
        trial.completion_time = START + datetime.timedelta(seconds=number + 1)
        logged.append(trial)
    return vz.ProblemAndTrials(problem, logged)


STUDIES = (
    *(study(f"r{index}", 40, 2, "random_search") for index in range(6)),
    *(study(f"t{index}", 60, 3, "tpe") for index in range(5)),
    study("two objectives", 30, 4, metrics=2),
    study("short", 3),
)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl.gz"
    write_studies(path, STUDIES)
    return path


def test_counts(corpus):
    found = describe_corpus(corpus, shape=BatchShape(trials=40, slots=3, text=1000))
    assert (found.studies, found.trials) == (13, 573)
    assert (found.kinds, found.scales) == ({"DOUBLE": 33}, {"LOG": 20, "LINEAR": 13})
    assert found.statuses == {"completed": 459, "infeasible": 114}
    assert found.algorithms == {"random_search": 6, "tpe": 5, "": 2}
    assert found.algorithm_trials == {"tpe": 300, "random_search": 240, "": 33}
    assert (found.objectives, found.goals, found.spaces) == ({1: 12, 2: 1}, {"MINIMIZE": 14}, {"recorded": 13})
    assert found.failed.tolist() == [0.2] * 12 + [0.0]
    assert found.trials_per_study.tolist() == [40] * 6 + [60] * 5 + [30, 3]
    assert found.trial_tokens.tolist() == [120] * 6 + [240] * 5 + [150, 9]
    assert found.text_tokens.tolist() == [sum(map(len, metadata_segments(one.problem))) for one in STUDIES]
    assert found.beyond == {"trials": 5, "slots": 1, "text": 0, "any": 6}
    assert (found.timed, found.seconds.max()) == (573, 60.0)
    assert {name: curves.studies for name, curves in found.curves.items()} == {"random_search": 6, "tpe": 5}
    assert (found.quarantine, bool(found.quarantined), bool(found.unusable)) == ("", False, False)


def test_families_are_counted_apart(tmp_path):
    studies = [study(f"g{index}", 10, 2 + index) for index in range(3)]
    for one, instance in zip(studies, ("a", "a", "b"), strict=True):
        facts = one.problem.metadata.ns("optformer")
        facts["source"], facts["problem"], facts["group"] = "tables", instance, f"tables {instance}"
    logged = [study("l1", 5), study("l2", 5)]
    logged[0].problem.metadata.ns("optformer")["source"] = "train.db"  # an import names its file
    write_studies(tmp_path / "corpus.jsonl", [*studies, *logged])
    found = describe_corpus(tmp_path / "corpus.jsonl")
    counts = {name: (len(each.groups), each.studies, each.trials, each.failed) for name, each in found.families.items()}
    assert counts == {"tables": (2, 3, 30, 6), "logged": (1, 2, 10, 2)}
    table = tables(found)[1]
    assert table.rows == [["tables", "2", "3", "30", "20 %"], ["logged", "1", "2", "10", "20 %"]]


def test_constraints_on_outcomes_are_counted_and_curves_are_of_trials_that_hold_them(tmp_path):
    plain, constrained = study("one", 40), study("one", 40)
    heat = vz.MetricInformation("heat", goal=vz.ObjectiveMetricGoal.MINIMIZE, safety_threshold=0.0)
    constrained.problem.metric_information.append(heat)
    failed, late = plain.trials[-2], constrained.trials[-2]
    failed.complete(vz.Measurement(), infeasibility_reason="too hot")
    late.final_measurement.metrics["heat"], late.final_measurement.metrics["loss0"] = 2.0, -1e9
    write_studies(tmp_path / "plain.jsonl", [plain])
    write_studies(tmp_path / "constrained.jsonl", [constrained])
    found, expected = (describe_corpus(tmp_path / f"{name}.jsonl") for name in ("constrained", "plain"))
    assert (found.constrained, found.broken, found.objectives) == (1, 1, {1: 1})
    assert ["constraints on outcomes", "1 (100 %) studies; trials that break one: 1"] in tables(found)[0].rows
    np.testing.assert_array_equal(found.curves[""].sample, expected.curves[""].sample)


def test_texts_beyond_the_shape(corpus):
    assert describe_corpus(corpus, shape=BatchShape(trials=100, slots=9, text=1)).beyond["text"] == 13


def test_times_are_not_invented(tmp_path):
    untimed = study("untimed", 10)
    for trial in untimed.trials:
        trial.creation_time = trial.completion_time = None
    write_studies(tmp_path / "corpus.jsonl", [untimed])
    found = describe_corpus(tmp_path / "corpus.jsonl")
    assert (found.timed, len(found.seconds)) == (0, 0)
    assert ["wall time of a trial", "not recorded"] in tables(found)[0].rows


def test_a_curve_runs_from_the_median_of_the_first_values_to_the_best():
    values = np.concatenate([np.arange(10.0), [np.nan], np.full(8, 4.5), [14.5], np.zeros(6)])
    curve = best_so_far(values)
    assert curve is not None
    known = dict(zip(CURVE_TRIALS.tolist(), curve.tolist(), strict=True))
    assert known[1] == pytest.approx(1.45)
    assert known[5] == pytest.approx(1.05)
    assert known[10] == known[13] == pytest.approx(0.55)
    assert known[20] == known[25] == 0.0
    assert all(np.isnan(value) for trial, value in known.items() if trial > 26)
    assert np.nanmax(np.diff(curve)) <= 0


@pytest.mark.parametrize(
    "values", [np.arange(19.0), np.full(30, 2.0), np.full(30, np.nan)], ids=["few", "constant", "failed"]
)
def test_no_curve(values):
    assert best_so_far(values) is None


def test_a_reservoir_is_a_uniform_sample():
    kept = np.zeros(20)
    for seed in range(2000):
        reservoir = Reservoir[int](5, seed)
        for item in range(20):
            reservoir.add(item)
        assert len(set(reservoir.items)) == 5
        kept[reservoir.items] += 1
    # Five standard deviations of a binomial count.
    assert np.abs(kept - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_reasons_of_now_and_of_the_import(corpus, tmp_path):
    broken = tmp_path / "broken.jsonl"
    write_studies(broken, STUDIES[:1])
    with broken.open("a") as file:
        file.write("{torn\n")
    rejected = tmp_path / "broken.jsonl.quarantine.jsonl"
    records = [(None, "no trials"), (3, "not a number: nan"), (4, "not a number: inf")]
    rejected.write_text("".join(json.dumps({"trial": trial, "reason": reason}) + "\n" for trial, reason in records))
    found = describe_corpus(broken)
    assert (found.unusable.studies, found.unusable.trials) == ({"unreadable line": 1}, {})
    assert (found.quarantined.studies, found.quarantined.trials) == ({"no trials": 1}, {"not a number": 2})
    assert [list(row) for row in tables(found)[-1].rows] == [["not a number", "", "2"], ["no trials", "1", ""]]
    rejected.write_text("")
    assert not describe_corpus(broken).quarantined


def test_a_study_that_cannot_be_serialized_is_counted(tmp_path):
    odd = study("odd", 3, parameters=1)
    odd.problem.search_space.root.add_custom_param("any")
    write_studies(tmp_path / "corpus.jsonl", [odd])
    found = describe_corpus(tmp_path / "corpus.jsonl")
    assert (found.studies, found.serialized) == (1, 0)
    assert found.unusable.studies == {"search space cannot be serialized": 1}
    assert write_page(found, tmp_path / "page.html").is_file()


def test_the_page_is_one_file_and_always_the_same(corpus, tmp_path):
    pages = [write_page(describe_corpus(corpus), tmp_path / name / "page.html") for name in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert list(pages[0].parent.iterdir()) == [pages[0]]
    text = pages[0].read_text()
    assert text.count("data:image/png;base64,") == 4
    for told in ("random_search", "Beyond the training shape", "any of these"):
        assert told in text


def test_the_command(corpus, tmp_path, capsys):
    config = tmp_path / "large.py"
    config.write_text(
        "from optformer.configs import nano_cpu\nimport dataclasses\n"
        "from optformer.serialization.batch import BatchShape\n"
        "def get_config():\n"
        "    return dataclasses.replace(nano_cpu.get_config(), shape=BatchShape(trials=59, slots=4, text=500))\n"
    )
    page = tmp_path / "page.html"
    assert main(["corpus", "info", str(corpus), "--html", str(page), "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "more than 59 trials" in printed
    assert f"Page: {page}" in printed
    assert page.is_file()


def test_mistakes(corpus, tmp_path, capsys):
    before = corpus.read_bytes()
    assert main(["corpus", "info", str(corpus), "--html", str(corpus)]) == 2
    assert "must end in .html" in capsys.readouterr().err
    assert corpus.read_bytes() == before
    assert main(["corpus", "info", str(corpus), "--config", "absent"]) == 2
    assert "'absent'" in capsys.readouterr().err
    assert main(["corpus", "cache", str(corpus), "--out", str(tmp_path / "cache")]) == 0
    with pytest.raises(SourceError, match="name the corpus that it was built from"):
        describe_corpus(tmp_path / "cache")


def test_a_table_is_described_by_a_mapping_elsewhere(tmp_path, capsys):
    table, mapping = tmp_path / "export.csv", tmp_path / "columns.json"
    table.write_text("run,rate,loss\n" + "".join(f"a,{0.1 * n:.1f},{1 / n:.3f}\n" for n in range(1, 6)))
    mapping.write_text(json.dumps({"study": "run", "parameters": ["rate"], "objectives": {"loss": "minimize"}}))
    assert main(["corpus", "info", str(table), "--mapping", str(mapping)]) == 0
    assert re.search(r"trials\W+5\b", capsys.readouterr().out)
    assert describe_corpus(table, mapping=mapping).trials == 5
    assert main(["corpus", "info", str(table)]) == 2
    assert "mapping" in capsys.readouterr().err
