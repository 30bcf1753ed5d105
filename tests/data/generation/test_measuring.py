"""Measured tables of known problems."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.data.generation.measuring import table_of
from optformer.data.problems import tables
from optformer.data.problems.registry import problems
from optformer.data.sources.records import NAMESPACE


def study(values: Sequence[float | None], levels: Sequence[float]) -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    facts = problem.metadata.ns(NAMESPACE)
    facts["source"], facts["problem"] = "made", "net@data"
    trials = []
    for value, level in zip(values, levels, strict=True):
        trial = vz.Trial({"x": level})
        if value is None:
            trial.complete(vz.Measurement(), infeasibility_reason="diverged")
        else:
            trial.complete(vz.Measurement({"loss": value}))
        trials.append(trial)
    return vz.ProblemAndTrials(problem, trials)


def test_repeats_are_averaged_and_failures_kept():
    table = table_of(study([1.0, 2.0, None, None, 1 / 3], [0.1, 0.1, 0.1, 0.2, 2 / 3]))
    assert table is not None
    assert (table.name, table.group) == ("made/net@data", "made/net")
    assert table.rows == [{"x": 0.1}, {"x": 0.2}, {"x": 0.666667}]
    np.testing.assert_array_equal(table.values, [1.5, math.nan, 0.333333])
    assert table_of(study([None, None], [0.1, 0.2])) is None


def test_a_part_of_the_problems_is_the_beginning_of_the_whole(tmp_path: Path):
    for name, first in (("part", ["--first", "3"]), ("whole", [])):
        arguments = ["--problems", "bbob", "--configurations", "3", "--out", str(tmp_path / f"{name}.jsonl")]
        assert main(["corpus", "measure", *arguments, *first]) == 0
    part, whole = ((tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("part", "whole"))
    assert part == whole[:3]


def test_every_problem_of_a_family_is_measured_and_the_same_command_gives_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = [tmp_path / name for name in ("a.jsonl.gz", "b.jsonl.gz")]
    for path in out:
        arguments = ["--problems", "bbob", "--configurations", "4", "--seed", "3", "--out", str(path)]
        assert main(["corpus", "measure", *arguments]) == 0
    assert out[0].read_bytes() == out[1].read_bytes()
    found = tables.load_tables(out[0])
    assert set(found) == {f"bbob/{problem.name}" for problem in problems("bbob")}
    assert all(1 <= len(table.rows) <= 4 for table in found.values())
    assert "a.jsonl.gz: 16 tables, " in capsys.readouterr().out
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.jsonl.gz", "b.jsonl.gz"]
