"""The measured tables that come with the project."""

import math
from importlib.resources import as_file, files

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.generation.plan import Plan, schedule
from optformer.data.generation.study import study_seed
from optformer.data.problems import sklearn_data, tables
from optformer.data.problems.sklearn import wide_held_out

FAMILY = "sklearn-wide"


@pytest.fixture(scope="module")
def recorded() -> dict[str, tables.Table]:
    with as_file(files("optformer.data") / "recorded" / "tables" / "sklearn.jsonl.gz") as path:
        return tables.load_tables(path)


def test_what_is_recorded_is_wide_and_none_of_it_is_held_out(recorded: dict[str, tables.Table]):
    tasks = [name.removeprefix(f"{FAMILY}/") for name in recorded]
    assert not any(wide_held_out(task) for task in tasks)
    models, data = ({task.split("@")[part] for task in tasks} for part in (0, 1))
    assert len(models) >= 12
    assert len(data & sklearn_data.REAL.keys()) >= 25
    assert len(data & sklearn_data.MADE_UP.keys()) >= 5
    assert models >= {"boosting", "hist_boosting", "mlp", "deep_mlp_regressor", "kernel_svc", "svr", "forest"}
    assert min(len(table.rows) for table in recorded.values()) >= 90
    assert any(table.problem.search_space.is_conditional for table in recorded.values())
    assert any(np.isnan(table.values).any() for table in recorded.values())


@pytest.mark.parametrize(
    "task", ["kernel_svc@iris", "discriminant@breast_cancer", "elastic_net@friedman1", "tree_regressor@friedman2"]
)
def test_what_is_recorded_is_what_the_command_measures(
    recorded: dict[str, tables.Table], task: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sklearn_data, "check_packages", lambda: None)
    plan = Plan((FAMILY,), ("random_search",))
    (turns,) = schedule(plan).turns
    index = [turn.problem.name for turn in turns].index(task)
    table = recorded[f"{FAMILY}/{task}"]
    trials = [vz.Trial(row) for row in table.rows[:8]]
    turns[index].problem.draw(study_seed(plan, index)).experimenter.evaluate(trials)
    values = [math.nan if t.infeasible else t.final_measurement_or_die.metrics[table.metric.name].value for t in trials]
    # Rows are rounded, and other versions of libraries sum in another order.
    np.testing.assert_allclose(values, table.values[:8], rtol=1e-3, atol=1e-3)
