"""Orders of trials: which trials they have, that none trains the policy, and that a corpus of them is repeatable."""

import json
import re

import numpy as np
import pytest
from scipy.stats import spearmanr
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.cli import main
from optformer.data.corpus import Corpus
from optformer.data.generation import generate_corpus, generate_study
from optformer.data.generation.orders import ORDERS, _Rows, history, measured
from optformer.data.generation.plan import Plan, schedule
from optformer.data.problems.disguises import Disguise, DisguisedExperimenter
from optformer.data.problems.infeasible import InfeasibleExperimenter
from optformer.data.problems.tables import Table, TableExperimenter
from optformer.data.sources import read
from optformer.data.sources.study_json import study_to_json
from optformer.serialization.batch import BatchShape


class Bowl(experimenters.Experimenter):
    """Least at (.5, .5), in two dimensions."""

    def problem_statement(self):
        problem = vz.ProblemStatement()
        problem.search_space.root.add_float_param("x", 0.0, 1.0)
        problem.search_space.root.add_float_param("y", 0.0, 1.0)
        problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
        return problem

    def evaluate(self, suggestions):
        for trial in suggestions:
            point = np.array([trial.parameters.get_value("x"), trial.parameters.get_value("y")])
            trial.complete(vz.Measurement({"loss": float(((point - 0.5) ** 2).sum())}))


def grid(fails=lambda x, y: False):
    """The bowl, measured at 144 places."""
    rows = [{"x": x / 11, "y": y / 11} for x in range(12) for y in range(12)]
    values = [np.nan if fails(row["x"], row["y"]) else sum((each - 0.5) ** 2 for each in row.values()) for row in rows]
    return TableExperimenter(Table("bowl", "bowl", Bowl().problem_statement(), rows, values))


def losses(trials):
    return [np.inf if trial.infeasible else trial.final_measurement.metrics["loss"].value for trial in trials]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("problem", [Bowl(), grid(lambda x, y: x > 0.7)], ids=["function", "table"])
def test_trials_are_requested_completed_and_the_seeds(order, problem):
    trials = history(order, problem, 40, seed=3)
    assert [trial.id for trial in trials] == list(range(1, 41))
    assert all(trial.is_requested and trial.is_completed for trial in trials)
    again = [dict(trial.parameters.as_dict()) for trial in history(order, problem, 40, seed=3)]
    assert again == [trial.parameters.as_dict() for trial in trials]
    assert again != [trial.parameters.as_dict() for trial in history(order, problem, 40, seed=4)]
    assert len(history(order, problem, 1, seed=0)) == 1
    if isinstance(problem, TableExperimenter):
        assert any(trial.infeasible for trial in trials)
        rows = {tuple(row.values()) for row in problem.table.rows}
        shown = [(trial.parameters.get_value("x"), trial.parameters.get_value("y")) for trial in trials]
        assert set(shown) <= rows, "measured configurations, as they were measured"
        assert len(set(shown)) == 40, "each once"
        assert len(history(order, problem, 1000, seed=0)) == 144, "no more than were measured"


@pytest.mark.parametrize("order", ORDERS)
def test_where_the_nearest_row_answers_values_repeat(order):
    table = TableExperimenter(grid().table, rows_alone=False)
    trials = history(order, table, 200, seed=1)
    assert len(trials) == 200, "more than were measured"
    assert measured(table) is None
    configurations = {tuple(trial.parameters.as_dict().values()) for trial in trials}
    assert len(configurations) > 190
    assert len(set(losses(trials))) < 40, "of a grid whose 144 values are 21 different ones"


def test_good_ones_come_last_and_failed_ones_first():
    for seed in range(5):
        found = losses(history("good_last", grid(lambda x, y: x > 0.8), 60, seed))
        finite = np.isfinite(found)
        assert spearmanr(np.arange(60), np.where(finite, found, 1e9)).statistic < -0.5
    assert abs(spearmanr(np.arange(60), losses(history("random_order", grid(), 60, 0))).statistic) < 0.4


@pytest.mark.parametrize("problem", [Bowl(), grid()], ids=["function", "table"])
def test_local_moves_go_to_the_best(problem):
    last = [np.mean(losses(history("local_moves", problem, 50, seed))[-10:]) for seed in range(10)]
    any_ = [np.mean(losses(history("random_order", problem, 50, seed))[-10:]) for seed in range(10)]
    assert np.mean(last) < 0.7 * np.mean(any_)


def test_rows_are_found_behind_disguises_and_failures():
    table = grid()
    assert measured(Bowl()) is None
    assert measured(table) == table.table.rows
    disguised = DisguisedExperimenter(table, Disguise(names={"x": "u"}, bounds={"x": (0.25, 0.75)}))
    behind = InfeasibleExperimenter(disguised, "divergence", 0.3, seed=0)
    rows = measured(behind)
    assert len(rows) == 72
    assert rows[0].keys() == {"u", "y"}
    trials = history("random_order", behind, 100, seed=0)
    assert len(trials) == 72
    assert 0.1 < np.mean([trial.infeasible for trial in trials]) < 0.5
    values = {
        (t.parameters.get_value("u"), t.parameters.get_value("y")): v
        for t, v in zip(trials, losses(trials), strict=True)
    }
    assert all(np.isinf(v) or v == pytest.approx((u - 0.5) ** 2 + (y - 0.5) ** 2) for (u, y), v in values.items())


def test_an_inactive_parameter_is_as_far_from_an_active_one_as_two_values_can_be():
    problem = vz.ProblemStatement()
    root = problem.search_space.root
    root.add_float_param("x", 0.0, 1.0)
    root.add_float_param("y", 0.0, 1.0)
    kind = root.add_categorical_param("kind", ["a", "b"])
    kind.select_values(["b"]).add_discrete_param("size", [1.0, 2.0, 4.0])
    rows = [
        {"x": 0.0, "y": 0.0, "kind": "b", "size": 1.0},
        {"x": 1.0, "y": 0.9, "kind": "b", "size": 4.0},  # 2.9 from the first
        {"x": 0.0, "y": 0.0, "kind": "a"},  # 2
        {"x": 0.5, "y": 0.0, "kind": "b", "size": 4.0},  # 1.5
    ]
    source = _Rows(np.random.default_rng(0), problem, rows)
    assert [source.near(0) for _ in range(5)] == [[0], [3], [2], [1], []]


# --- Corpora ---


@pytest.fixture
def folder(tmp_path):
    """Two tables for training and one that is held out."""
    made = tmp_path / "tables"
    made.mkdir()
    space = [
        {"name": "eta", "type": "float", "low": 0.01, "high": 1.0, "log": True},
        {"name": "max_depth", "type": "int", "low": 1, "high": 12},
        {"name": "booster", "type": "categorical", "choices": ["dart", "linear", "tree"]},
    ]
    rng = np.random.default_rng(0)
    rows = [
        [float(10 ** rng.uniform(-2, 0)), int(rng.integers(1, 13)), str(rng.choice(["dart", "tree"]))]
        for _ in range(80)
    ]
    values = [None if row[1] > 10 else float(row[0] * row[1]) for row in rows]
    lines = [
        json.dumps(
            {"name": name, "group": "g", "metric": "auc", "goal": "maximize"}
            | {"space": space, "rows": rows, "values": values}
        )
        for name in ("one", "two")
    ]
    (made / "train.jsonl").write_text("\n".join(lines))
    (made / "validation.jsonl").write_text(lines[0].replace('"one"', '"kept"'))
    return made


def test_a_corpus_of_orders_teaches_no_policy_and_groups_by_problem(folder, tmp_path):
    plan = Plan(("tables",), (*ORDERS, "hill_climb"), 48, (10, 30), tables_dir=str(folder), disguise_rate=0.5)
    generate_corpus(plan, tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    for index in (40, 7, 3):
        assert json.loads(lines[index]) == study_to_json(generate_study(plan, index)), "whatever was made before"
    studies = list(read(tmp_path / "a.jsonl"))
    facts = [study.problem.metadata.ns("optformer") for study in studies]
    assert [each.get("order") or each["algorithm"] for each in facts[:8]] == [*ORDERS, "hill_climb"] * 2
    assert {each["group"] for each in facts} == {"tables one", "tables two"}
    assert any(trial.infeasible for study in studies for trial in study.trials)
    looks = {tuple(sorted(c.name for c in s.problem.search_space.root.select_all())) for s in studies}
    assert len(looks) > 8, "disguises"
    assert sum("title" in each for each in facts) < len(facts)
    spaces = [study.problem.search_space for study in studies]
    assert all(
        space.contains(trial.parameters) for study, space in zip(studies, spaces, strict=True) for trial in study.trials
    )

    corpus = Corpus.open(tmp_path / "a.jsonl")
    orders = np.flatnonzero([each.get("order") is not None for each in facts])
    batch = Corpus(corpus._store, orders).batch(0, 0, 64, BatchShape(trials=30, slots=3))
    assert not batch.policy_weights.any()
    assert batch.function_weights.any()
    taught = np.setdiff1d(np.arange(48), orders)
    assert Corpus(corpus._store, taught).batch(0, 0, 64, BatchShape(trials=30, slots=3)).policy_weights.any()


def test_large_problems_are_disguised_in_place_of_left_out(folder, tmp_path):
    plan = Plan(("tables",), ("random_order",), 6, (10, 10), 2, tables_dir=str(folder))
    with pytest.raises(ValueError, match="have more than 2 parameters"):
        schedule(plan)
    plan = Plan(("tables",), ("random_order",), 6, (10, 10), 2, tables_dir=str(folder), disguise_rate=0.01)
    assert not schedule(plan).left_out
    generate_corpus(plan, tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--disguise-rate", "1.5"], "share of disguised studies must lie in"),
        (["--teachers", "any_order"], "known are grid_search, .*random_order, good_last, local_moves"),
        (["--openings", "c.jsonl"], "random_order is an order of trials: it cannot continue"),
        (["--problems", "hpob", "--hpob-starts", "--disguise-rate", "0.5"], "cannot be used with disguised studies"),
    ],
)
def test_plans_that_cannot_be_are_refused(options, message, capsys, tmp_path):
    call = ["corpus", "generate", "--out", str(tmp_path / "c.jsonl"), "--teachers", "random_order", *options]
    assert main(call) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
