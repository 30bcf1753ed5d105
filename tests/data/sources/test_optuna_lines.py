"""Optuna studies as JSON lines give what the database of the same studies gives."""

import json
from pathlib import Path

import pytest
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined, SourceError, detect_format, read, read_study

STUDY = {
    "study_id": "w1",
    "study_name": "boosting",
    "repo": "someone/project",
    "licence": "MIT",
    "directions": ["maximize"],
    "sampler": "NSGAII",
    "params": {
        "lr": {"type": "float", "low": 1e-3, "high": 0.1, "log": True, "step": None},
        "depth": {"type": "int", "low": 2, "high": 10, "log": False, "step": 2},
        "booster": {"type": "categorical", "choices": ["gbtree", 1, "1"]},
    },
    "param_variants": {
        "depth": [
            {"type": "int", "low": 2, "high": 10, "log": False, "step": 2},
            {"type": "int", "low": 2, "high": 14, "log": False, "step": 4},
        ]
    },
    "trials": [
        {
            "number": 0,
            "state": "COMPLETE",
            "params": {"lr": 0.01, "depth": 4, "booster": 1},
            "values": [0.5],
            "start": "2024-01-01 10:00:00.5",
            "complete": "2024-01-01 10:00:30.5",
        },
        {
            "number": 1,
            "state": "PRUNED",
            "params": {"lr": 0.1, "depth": 14},
            "values": None,
            "dist_variant": {"depth": 1},
            "intermediate": {"0": 0.1, "10": "nan"},
        },
        {"number": 4, "state": "COMPLETE", "params": {"lr": 0.02}, "values": ["-inf"], "start": None, "complete": None},
    ],
}


def written(path: Path, *studies: dict) -> Path:
    path.write_text("".join(json.dumps(study) + "\n" for study in studies))
    return path


def test_a_study(tmp_path):
    path = written(tmp_path / "a.jsonl", STUDY)
    assert detect_format(path) == "optuna-lines"
    study, quarantined = read_study(path, "boosting")
    assert quarantined == []
    facts = dict(study.problem.metadata.ns("optformer"))
    assert facts == {
        "study_id": "w1",
        "source": "a.jsonl",
        "title": "boosting",
        "algorithm": "nsga2",
        "repo": "someone/project",
        "licence": "MIT",
    }
    space = study.problem.search_space
    assert space.get("depth").feasible_values == [2, 4, 6, 8, 10, 14]
    assert space.get("booster").feasible_values == ["'1'", "'gbtree'", "1"]
    assert space.get("lr").scale_type == vz.ScaleType.LOG
    first, pruned, infinite = study.trials
    assert first.parameters.as_dict() == {"lr": 0.01, "depth": 4, "booster": "1"}
    assert (first.final_measurement.metrics["objective"].value, first.final_measurement.elapsed_secs) == (0.5, 30.0)
    assert (pruned.status, [m.steps for m in pruned.measurements]) == (vz.TrialStatus.COMPLETED, [0, 10])
    assert infinite.infeasibility_reason == "objective is -inf"
    assert infinite.id == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"params": {"lr": "fast"}}, "value is not a number: 'fast'"),
        ({"params": {"lr": 0.5}}, "value outside its range: 0.5 is not in [0.001, 0.1]"),
        ({"params": {"lr": 0.01, "booster": "dart"}}, "category not in the space: 'dart'"),
        ({"params": {"momentum": 0.9}}, "no distribution recorded"),
        ({"dist_variant": {"depth": 9}}, "no distribution recorded"),
        ({"values": 3}, "trial cannot be represented: 'int' object is not iterable"),
    ],
)
def test_trials_that_cannot_be_used(tmp_path, change, reason):
    study = STUDY | {"trials": [STUDY["trials"][0], STUDY["trials"][0] | {"number": 7} | change]}
    quarantined, kept = read(written(tmp_path / "a.jsonl", study))
    assert isinstance(quarantined, Quarantined)
    assert (quarantined.study, quarantined.trial, quarantined.reason) == ("w1", 7, reason)
    assert [trial.id for trial in kept.trials] == [0]


def test_studies_that_cannot_be_used(tmp_path):
    path = written(
        tmp_path / "a.jsonl",
        STUDY,
        STUDY | {"study_id": "w2", "trials": 3},
        STUDY | {"study_id": "w3", "directions": ["up"]},
    )
    refused = [r for r in read(path) if isinstance(r, Quarantined) and r.trial is None]
    assert [(r.study, r.reason) for r in refused] == [
        ("w2", "study cannot be represented: 'int' object is not iterable"),
        ("w3", "unknown direction: 'UP'"),
    ]
    with pytest.raises(SourceError, match="no study 'w2' that can be used; 'w2' cannot be used"):
        read_study(path, "w2")
