"""Tables with a fitted response: measured configurations keep their values, others get sensible ones."""

import json

import numpy as np
from scipy.stats import spearmanr
from vizier import pyvizier as vz

from optformer.data.problems.fitted_tables import FittedTableExperimenter
from optformer.data.problems.registry import Settings, problems
from optformer.data.problems.tables import Table, TableExperimenter


def surface(configuration):
    """Smooth but for the kind, with a long tail."""
    width, kind = configuration["width"], configuration["kind"]
    return float(np.exp(4.0 * abs(width - (0.3 if kind == "a" else 0.8)) + (2.0 if kind == "c" else 0.0)))


def made_up(rows, fails=lambda configuration: False):
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("width", 0.0, 1.0)
    problem.search_space.root.add_categorical_param("kind", ["a", "b", "c"])
    problem.metric_information.append(vz.MetricInformation("time", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    rng = np.random.default_rng(0)
    found = [{"width": float(rng.random()), "kind": str(rng.choice(["a", "b", "c"]))} for _ in range(rows)]
    return Table("made", "made", problem, found, [np.nan if fails(each) else surface(each) for each in found])


def answers(experimenter, configurations):
    trials = [vz.Trial(dict(configuration)) for configuration in configurations]
    experimenter.evaluate(trials)
    return [np.nan if each.infeasible else each.final_measurement.metrics["time"].value for each in trials]


def test_measured_configurations_keep_their_values_and_failures():
    table = made_up(60, fails=lambda each: each["width"] > 0.9)
    np.testing.assert_array_equal(answers(FittedTableExperimenter(table, 0), table.rows), table.values)
    beyond = [{"width": 0.999, "kind": kind} for kind in "abc"]
    assert np.isnan(answers(FittedTableExperimenter(table, 0), beyond)).all(), "the nearest row failed"
    FittedTableExperimenter(table, 0).evaluate([])


def test_between_them_the_forest_knows_more_than_the_nearest_row():
    table = made_up(60)
    rng = np.random.default_rng(1)
    others = [{"width": float(rng.random()), "kind": str(rng.choice(["a", "b", "c"]))} for _ in range(200)]
    truth = [surface(each) for each in others]
    fitted, nearest = answers(FittedTableExperimenter(table, 0), others), answers(TableExperimenter(table), others)
    assert spearmanr(fitted, truth).statistic > 0.95
    assert min(table.values) <= min(fitted) < max(fitted) <= max(table.values)
    assert len(set(fitted)) > 1.3 * len(set(nearest)), "fewer plateaus"
    assert answers(FittedTableExperimenter(table, 0), others) == fitted
    assert answers(FittedTableExperimenter(table, 1), others) != fitted


def test_what_is_held_out_has_no_fit(tmp_path):
    space = [{"name": "x", "type": "float", "low": 0.0, "high": 1.0}]
    line = {"name": "t", "metric": "time", "goal": "minimize", "space": space, "rows": [[0.1], [0.9]], "values": [1, 2]}
    for name in ("train.jsonl", "validation.jsonl"):
        (tmp_path / name).write_text(json.dumps(line))
    settings = Settings(tables_dir=str(tmp_path))
    (training,), (kept,) = problems("tables", settings), problems("tables-held-out", settings)
    fitted = [isinstance(training.draw(seed).experimenter, FittedTableExperimenter) for seed in range(200)]
    assert 0.65 < np.mean(fitted) < 0.85, "in one of four the nearest row answers"
    assert {type(kept.draw(seed).experimenter) for seed in range(20)} == {TableExperimenter}


def test_one_known_row_answers_for_all():
    table = made_up(1)
    assert set(answers(FittedTableExperimenter(table, 0), [{"width": 0.5, "kind": "a"}])) == set(table.values)


def test_parameters_that_depend_on_others_are_part_of_the_fit():
    problem = vz.ProblemStatement()
    root = problem.search_space.root
    root.add_categorical_param("kind", ["flat", "tilted"])
    root.select("kind", ["tilted"]).add_float_param("slope", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("time", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    slopes = np.linspace(0.0, 1.0, 30)
    rows = [{"kind": "flat"}, *({"kind": "tilted", "slope": float(slope)} for slope in slopes)]
    table = Table("made", "made", problem, rows, [-1.0, *slopes])
    (flat, *tilted) = answers(
        FittedTableExperimenter(table, 0), [{"kind": "flat"}, *({"kind": "tilted", "slope": s} for s in (0.11, 0.62))]
    )
    assert flat == -1.0
    np.testing.assert_allclose(tilted, [0.11, 0.62], atol=0.1)
