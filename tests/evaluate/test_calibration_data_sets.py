"""The studies that predictions are measured on: fresh, reproducible, single-objective, and grouped by origin."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.prior.config import PriorConfig
from optformer.data.problems.bbob import HELD_OUT, BBOBExperimenter
from optformer.data.sources import write_studies
from optformer.evaluate.calibration.data_sets import (
    EvaluationStudy,
    at_most_per_group,
    bbob_studies,
    prior_studies,
    run_design,
    single_objective_study,
    wild_studies,
)
from optformer.evaluate.optimization import objective_values
from optformer.serialization import tokens
from optformer.serialization.space import StudySchema

pytestmark = pytest.mark.integration

# One family and one behaviour: the whole prior takes minutes to compile.
SIMPLE_PRIOR = PriorConfig(
    families=(("bowl", 1.0),),
    combination_rate=0.0,
    output_warps=(("identity", 1.0),),
    failures=(("chance", 1.0),),
    behaviours=(("random_search", 1.0),),
    conditional_rate=0.5,
    infeasible_rate=0.5,
    stopped_rate=0.3,
)


@pytest.fixture(scope="module")
def prior() -> list[EvaluationStudy]:
    return list(prior_studies(24, 20, seed=0, config=SIMPLE_PRIOR))


def test_prior_studies_are_valid_and_of_all_sizes(prior):
    sizes, conditional, failed = set(), 0, 0
    for study in prior:
        schema = StudySchema(study.study.problem)
        rows = schema.encode(study.study.trials)
        assert rows.shape == (20, len(schema.slots))
        assert not (rows == tokens.MISSING).any()
        sizes.add(len(schema.slots))
        conditional += bool((rows == tokens.INACTIVE).any())
        values = objective_values(study.study.problem, study.study.trials)
        failed += int(np.isnan(values).sum())
        assert np.isfinite(values).any()
    assert len(sizes) >= 5
    assert max(sizes) <= 8
    assert conditional >= 2
    assert failed > 0


def test_prior_tokens_survive_the_way_through_vizier(prior):
    import jax

    from optformer.data.prior.sample import draw_record
    from optformer.evaluate.calibration import data_sets
    from optformer.serialization.batch import BatchShape

    config = dataclasses.replace(SIMPLE_PRIOR, uniform_slots_rate=1.0)
    shape = BatchShape(trials=20, slots=8, text=64, policy_trials=1)
    draw = jax.jit(draw_record, static_argnums=(1, 2, 3))
    _, record = draw(jax.random.key(data_sets._PRIOR_SEED), config, 24, shape)
    for index, study in enumerate(prior):
        schema = StudySchema(study.study.problem)
        order = [int(slot.name[1:]) for slot in schema.slots]
        on, q = np.asarray(record.trials.on[index])[:, order], np.asarray(record.trials.q[index])[:, order]
        np.testing.assert_array_equal(schema.encode(study.study.trials), np.where(on, q, tokens.INACTIVE))
        np.testing.assert_array_equal(schema.slot_kinds, np.asarray(record.space.kinds[index])[order])
        np.testing.assert_array_equal(schema.slot_levels, np.asarray(record.space.levels[index])[order])


def values(study: vz.ProblemAndTrials) -> list[float]:
    return list(objective_values(study.problem, study.trials))


def test_bbob_studies_take_turns_and_are_reproducible():
    studies = list(bbob_studies(10, 6, seed=3))
    assert [study.name.split(" ")[0] for study in studies] == [*HELD_OUT, *HELD_OUT]
    assert [study.name.split(" ")[2] for study in studies] == ["random"] * 5 + ["local_search"] * 5
    assert len({study.name for study in studies}) == 10
    again = list(bbob_studies(10, 6, seed=3))
    assert [values(study.study) for study in studies] == [values(study.study) for study in again]
    assert values(studies[0].study) != values(next(bbob_studies(1, 6, seed=4)).study)


def test_local_search_improves_on_random_trials():
    experimenter = BBOBExperimenter("Sphere", 4, seed=0)
    best = {
        design: np.mean([min(values(run_design(experimenter, design, 40, seed=s))) for s in range(5)])
        for design in ("random", "local_search")
    }
    assert best["local_search"] < best["random"]
    with pytest.raises(ValueError, match="unknown design 'grid'"):
        run_design(experimenter, "grid", 5, seed=0)


def logged(name: str, objectives: int = 1, trials: int = 6) -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    for index in range(objectives):
        problem.metric_information.append(vz.MetricInformation(f"m{index}", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    problem.metadata.ns("optformer")["study_id"] = name
    made = []
    for i in range(trials):
        trial = vz.Trial({"x": i / trials}, id=i + 1)
        if i == 1:
            trial.complete(vz.Measurement(), infeasibility_reason="crash")
        else:
            trial.complete(vz.Measurement({f"m{k}": float(i + 10 * k) for k in range(objectives)}))
        made.append(trial)
    return vz.ProblemAndTrials(problem, made)


def test_each_objective_of_a_logged_study_is_a_study(tmp_path):
    write_studies(tmp_path / "log.jsonl", [logged("wa"), logged("wb two", objectives=2)])
    (tmp_path / "index.csv").write_text("study_id,repo\nwa,one/repo\nwb,one/repo\n")
    studies = list(wild_studies(tmp_path / "log.jsonl", trials=4))
    assert [(study.name, study.group) for study in studies] == [
        ("wa", "one/repo"),
        ("wb two m0", "one/repo"),
        ("wb two m1", "one/repo"),
    ]
    assert values(studies[0].study) == [0.0, 2.0, 3.0, 4.0], "failed trials are left out"
    assert values(studies[2].study) == [10.0, 12.0, 13.0, 14.0]


def test_without_an_index_studies_are_their_own_groups(tmp_path):
    write_studies(tmp_path / "log.jsonl", [logged("wa")])
    assert [study.group for study in wild_studies(tmp_path / "log.jsonl")] == ["wa"]
    (tmp_path / "index.csv").write_text("something,else\n1,2\n")
    assert [study.group for study in wild_studies(tmp_path / "log.jsonl")] == ["wa"]


def test_stopped_trials_have_no_final_value(tmp_path):
    record = {
        "study_name": "pruned",
        "directions": ["minimize"],
        "params": {"x": {"type": "float", "low": 0.0, "high": 1.0, "log": False, "step": None}},
        "trials": [
            {"number": i, "state": state, "params": {"x": 0.1 * i}, "values": [float(i)], "intermediate": {"1": 0.5}}
            for i, state in enumerate(["COMPLETE", "PRUNED", "COMPLETE"])
        ],
    }
    path = tmp_path / "log.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(record) + "\n")
    (study,) = wild_studies(path)
    assert values(study.study) == [0.0, 2.0]


def test_groups_are_capped_evenly():
    study = single_objective_study(logged("s"), logged("s").problem.metric_information.item())
    many = [EvaluationStudy(study, f"a{i}", "a") for i in range(10)] + [EvaluationStudy(study, "b", "b")]
    assert [kept.name for kept in at_most_per_group(many, 3)] == ["a0", "a4", "a9", "b"]
    assert len(list(at_most_per_group(many, 20))) == 11
