"""Token for token, the `StudyBatch` of a study, of the corpus and of inference.

`golden/batches.json` holds every field.  To write it anew: OPTFORMER_WRITE_GOLDEN=1 pytest tests/test_golden_batches.py
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.corpus import Augmentation, Corpus
from optformer.data.corpus import building as corpus_building
from optformer.inference.history import Objective, history_batch
from optformer.serialization.batch import BatchShape, StudyBatch
from optformer.serialization.metadata import MetadataOptions
from optformer.serialization.study import EncodedStudy

GOLDEN = Path(__file__).parent / "golden" / "batches.json"


def problem() -> vz.ProblemStatement:
    """A child under one of two parents, a fixed parameter, one objective to minimize and one to maximize."""
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    model = root.add_categorical_param("model", ["linear", "mlp", "tree"])
    model.select_values(["mlp"]).add_int_param("width", 1, 64)
    root.add_discrete_param("batch", [16, 32, 64])
    root.add_float_param("seed", 3.0, 3.0)
    statement.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    statement.metric_information.append(vz.MetricInformation("speed", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    facts = statement.metadata.ns("optformer")
    facts["study_id"], facts["title"], facts["algorithm"] = "golden", "a small study", "random_search"
    return statement


def trials() -> list[vz.Trial]:
    """Every status, a parameter and an objective that are missing, and three trials that were requested."""
    mlp = {"rate": 0.01, "model": "mlp", "width": 17, "batch": 32.0}
    tree = {"rate": 0.3, "model": "tree", "batch": 64.0}
    logged = [
        vz.Trial(parameters=mlp, is_requested=True).complete(vz.Measurement({"loss": 0.5, "speed": 3.0})),
        vz.Trial(parameters=tree, is_requested=True).complete(vz.Measurement({"loss": 0.25, "speed": -1.0})),
        vz.Trial(parameters=mlp | {"width": 64}).complete(vz.Measurement(), infeasibility_reason="diverged"),
        vz.Trial(parameters=tree | {"rate": 1e-4}).complete(vz.Measurement({"loss": 0.75, "speed": 2.5})),
        vz.Trial(parameters=mlp | {"width": 1}),
        vz.Trial(parameters={"model": "linear", "batch": 16.0}, stopping_reason="slow"),
        vz.Trial(parameters=tree | {"rate": 0.02}, is_requested=True).complete(vz.Measurement({"loss": 0.125})),
        vz.Trial(parameters=mlp | {"rate": 1.0}).complete(vz.Measurement({"loss": math.nan, "speed": 9.0})),
        vz.Trial(parameters=tree | {"rate": 0.5}).complete(vz.Measurement({"loss": -40.0, "speed": 2.75})),
        vz.Trial(parameters=mlp | {"rate": 0.05}).complete(vz.Measurement({"loss": 0.3, "speed": 0.5})),
    ]
    for number, trial in enumerate(logged, 1):
        trial.id = number
    return logged


def check(name: str, found: dict[str, Any]) -> None:
    """Compares with the file, or writes it."""
    if os.environ.get("OPTFORMER_WRITE_GOLDEN"):
        golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        golden[name] = found
        lines = [
            f'"{case}": {{\n' + ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in golden[case].items()) + "\n}"
            for case in sorted(golden)
        ]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    expected = json.loads(GOLDEN.read_text())[name]
    assert list(found) == list(expected)
    for field, value in found.items():
        assert value == expected[field], field


def fields(batch: StudyBatch) -> dict[str, Any]:
    """Type and values of every field."""
    return {name: [array.dtype.name, array.tolist()] for name, array in batch._asdict().items()}


def digests(batch: StudyBatch) -> dict[str, Any]:
    """Type and digest of every field, and the objectives to read."""
    found = {
        name: [array.dtype.name, list(array.shape), hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]]
        for name, array in batch._asdict().items()
    }
    return found | {"objectives": batch.y_tokens.tolist()}


# A study by itself.

SERIALIZED: dict[str, dict[str, Any]] = {
    "all known": {},
    "a prefix without order": {"prefix_length": 6, "order_free": True},
    "the other objective": {"prefix_length": 5, "metric": 1, "algorithm": "tpe"},
    "a given objective": {
        "prefix_length": 4,
        "values": [1.0, 2.0, math.nan, math.nan, math.nan, math.nan, 3.0, math.nan, 0.0, 1e6],
        "options": MetadataOptions(names=False, goal=False),
    },
    "a chosen policy": {"prefix_length": 3, "policy_trials": [9, 6, 4], "identities": [7, 63, 0, 12]},
    "another order of slots": {"prefix_length": 3, "slot_order": [3, 1, 2, 0], "policy_trials": [5]},
}


@pytest.mark.parametrize("case", SERIALIZED)
def test_a_study(reference: Callable[..., Any], case: str) -> None:
    batch, _ = reference(problem(), trials(), BatchShape(12, 5, 100, 10), **SERIALIZED[case])
    check(f"serializer, {case}", fields(batch))


def test_several_studies_in_one_batch(reference: Callable[..., Any]) -> None:
    known, shape = trials(), BatchShape(10, 4, 100, 10)
    batches = [reference(problem(), known[:count], shape, prefix_length=min(2, count))[0] for count in (1, 4, 10)]
    together = StudyBatch(*(np.concatenate(field) for field in zip(*batches, strict=True)))
    check("serializer, several studies", digests(together))


# The corpus.

PLAIN = Augmentation(
    **dict.fromkeys((f"drop_{part}" for part in ("names", "ranges", "title", "description", "algorithm")), 0.0),
    **dict.fromkeys(("drop_metric", "drop_goal", "flip_goal", "order_free_rate", "pending_rate"), 0.0),
    permute_slots=False,
)
DRAWN: dict[str, Augmentation] = {
    "default": Augmentation(),
    "plain": PLAIN,
    "order-free and pending": dataclasses.replace(PLAIN, order_free_rate=1.0, pending_rate=1.0),
    "flipped and permuted": dataclasses.replace(PLAIN, flip_goal=1.0, permute_slots=True, drop_goal=0.5),
    "one known trial": dataclasses.replace(PLAIN, single_prefix_rate=1.0),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    known = trials()
    failing = [trial for trial in known if trial.infeasible or not trial.is_completed]
    later = failing + [trial for trial in known if trial not in failing]
    directory = tmp_path_factory.mktemp("golden") / "cache"
    corpus_building.build(
        [
            vz.ProblemAndTrials(problem=problem(), trials=known),
            vz.ProblemAndTrials(problem=problem(), trials=later),  # fails first: nothing to scale on
            vz.ProblemAndTrials(problem=problem(), trials=known * 3),  # more trials than fit
        ],
        directory,
    )
    return Corpus.open(directory)


@pytest.mark.parametrize("case", DRAWN)
def test_the_corpus(corpus: Corpus, case: str) -> None:
    shape = BatchShape(trials=12, slots=5, text=90, policy_trials=4)
    check(f"corpus, {case}", digests(corpus.batch(3, 5, 8, shape, DRAWN[case])))
    tight = BatchShape(trials=7, slots=4, text=30, policy_trials=7)
    check(f"corpus, {case}, some rows, tight", digests(corpus.batch(1, 2, 8, tight, DRAWN[case], rows=range(3, 6))))


# Inference.

HISTORIES: dict[str, dict[str, Any]] = {
    "for predictions": {"order_free": True},
    "for the policy": {"order_free": False, "algorithm": "tpe"},
    "the other objective": {"order_free": True, "metric": 1},
    "a window": {"order_free": False, "limit": 6},
    "a scalarization": {"order_free": True, "values": [0.5, 0.25, math.nan, 1.0, *[math.nan] * 4, 7.0, 0.0]},
    "nothing known": {"order_free": True, "count": 0},
}


@pytest.mark.parametrize("case", HISTORIES)
def test_inference(case: str) -> None:
    given = {"metric": 0, "limit": 128, "algorithm": None, "count": 10, "values": None} | HISTORIES[case]
    study = EncodedStudy(problem(), trials()[: given["count"]])
    values = study.values[:, given["metric"]] if given["values"] is None else np.array(given["values"])
    focus = Objective.of(study, values, given["metric"], given["limit"])
    asked = {name: given[name] for name in ("algorithm", "metric", "order_free")}
    batch = history_batch(study.row(study.x_tokens[focus.shown], focus.y_tokens[focus.shown], **asked))
    facts = {"scaling": list(focus.scaling), "incumbent": float(focus.incumbent), "shown": focus.shown.tolist()}
    check(f"inference, {case}", fields(batch) | facts)
