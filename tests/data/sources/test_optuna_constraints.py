"""Constraints on outcomes in Optuna's logs become safety metrics, as in studies that are still running."""

import json
import sqlite3
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined, read_study, write_studies
from optformer.data.sources.study_json import study_to_json
from optformer.serialization.study import EncodedStudy
from optformer.serve.optuna_spaces import problem_and_trials


def by_function(storage, sampler=optuna.samplers.TPESampler) -> optuna.Study:
    """Two constraints, x + y <= 1 and x <= 0.8; a trial that was pruned, one that failed, and one that runs."""

    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        trial.set_user_attr("outcomes", [x + y - 1, x - 0.8])
        if trial.number == 3:
            raise optuna.TrialPruned
        if trial.number == 4:
            raise ZeroDivisionError
        return float("inf") if trial.number == 5 else -x - y

    with warnings.catch_warnings():  # Optuna 5 would rather have `set_constraint`
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            storage=storage,
            study_name="s",
            sampler=sampler(seed=0, constraints_func=lambda trial: trial.user_attrs["outcomes"]),
        )
    study.optimize(objective, n_trials=12, catch=ZeroDivisionError)
    study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    return study


def storage_of(kind: str, folder: Path):
    path = folder / f"runs.{kind}"
    return path, f"sqlite:///{path}" if kind == "db" else JournalStorage(JournalFileBackend(str(path)))


def outcomes(trial: vz.Trial) -> dict[str, float]:
    final = trial.final_measurement
    return {name: each.value for name, each in final.metrics.items() if name != "objective"} if final else {}


@pytest.mark.parametrize("sampler", [optuna.samplers.TPESampler, optuna.samplers.NSGAIISampler])
@pytest.mark.parametrize("kind", ["db", "log"])
def test_values_of_constraints_func(kind, sampler, tmp_path):
    path, storage = storage_of(kind, tmp_path)
    study = by_function(storage, sampler)
    imported, quarantined = read_study(path)
    assert quarantined == []
    safety = imported.problem.metric_information.of_type(vz.MetricType.SAFETY)
    assert [(each.name, each.goal.name, each.safety_threshold) for each in safety] == [
        ("constraint 0", "MINIMIZE", 0.0),
        ("constraint 1", "MINIMIZE", 0.0),
    ]
    for stored, trial in zip(study.trials, imported.trials, strict=True):
        measured = stored.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        first, second = stored.user_attrs.get("outcomes", (None, None))
        assert outcomes(trial) == ({"constraint 0": first, "constraint 1": second} if measured else {})
    failed, infinite = imported.trials[4:6]
    assert (failed.infeasible, failed.final_measurement) == (True, None)
    assert infinite.infeasibility_reason == "objective is inf"
    assert imported.trials[3].status == vz.TrialStatus.COMPLETED
    assert imported.trials[12].status == vz.TrialStatus.ACTIVE
    encoded = EncodedStudy(imported.problem, imported.trials)
    broken = [any(value > 0 for value in stored.constraints.values()) for stored in study.trials]
    assert (~encoded.holds).tolist() == broken
    assert 2 < sum(broken) < 10
    assert imported.trials[encoded.best(0)].id == study.best_trial.number, "Optuna takes the best feasible one, too"
    # The study format keeps them.
    write_studies(tmp_path / "corpus.jsonl", [imported])
    again, _ = read_study(tmp_path / "corpus.jsonl")
    assert study_to_json(again) == study_to_json(imported)


@pytest.mark.parametrize("kind", ["db", "log"])
def test_values_of_set_constraint_are_those_that_the_sampler_sees(kind, tmp_path):
    path, storage = storage_of(kind, tmp_path)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        if trial.number:
            trial.set_constraint("memory, GB", x - 0.5)
        if trial.number == 2:
            trial.set_constraint("heat", float("inf"))
            raise ZeroDivisionError
        if trial.number == 3:
            trial.set_constraint("heat", -1)
            raise optuna.TrialPruned
        return x

    study.optimize(objective, n_trials=6, catch=ZeroDivisionError)
    imported, quarantined = read_study(path)
    assert quarantined == []
    problem, trials = problem_and_trials(study)
    live, logged = EncodedStudy(problem, trials), EncodedStudy(imported.problem, imported.trials)
    assert [each.name for each in logged.metrics] == ["objective", "constraint memory, GB", "constraint heat"]
    assert [each.name for each in live.metrics] == [each.name for each in logged.metrics]
    assert list(map(outcomes, imported.trials)) == list(map(outcomes, trials))
    assert logged.holds.tolist() == live.holds.tolist()
    assert not logged.holds[2], "it failed, and it is known that it would have been too hot"
    assert logged.holds[0], "not measured"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.5", "constraints are not a list: 0.5"),
        ('{"a": 1}', "constraints are not a list: {'a': 1}"),
        ("[0.5, NaN]", "constraint is not a number: '1' is nan"),
        ('[0.5, "low"]', "constraint is not a number: '1' is 'low'"),
        ("[[1], 0.5]", "constraint is not a number: '0' is [1]"),
        ("[0.5, nul", "constraints are not a list: '[0.5, nul'"),
        ("[0.5]", "number of constraints differs from most trials: 1, mostly 2"),
    ],
)
def test_malformed_values_cost_their_trial(text, reason, tmp_path):
    path, storage = storage_of("db", tmp_path)
    by_function(storage)
    with sqlite3.connect(path) as connection:
        change = "UPDATE trial_system_attributes SET value_json = ? WHERE key = 'constraints' AND trial_id = 2"
        assert connection.execute(change, (text,)).rowcount == 1
    connection.close()
    imported, quarantined = read_study(path)
    assert quarantined == [Quarantined(str(path), "s", 1, None, reason)]
    assert [trial.id for trial in imported.trials] == [0, *range(2, 13)]
    assert len(imported.problem.metric_information) == 3


@pytest.mark.parametrize("text", ["null", "[]"])
def test_a_trial_whose_constraints_were_not_found_counts_as_feasible(text, tmp_path):
    path, storage = storage_of("db", tmp_path)
    by_function(storage)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE trial_system_attributes SET value_json = ? WHERE trial_id = 2", (text,))
    connection.close()
    imported, quarantined = read_study(path)
    assert quarantined == []
    assert outcomes(imported.trials[1]) == {}


@pytest.mark.parametrize("key", ["nsga2:constraints", "botorch:constraints"])
def test_the_names_that_optuna_2_kept_them_under(key, tmp_path):
    path, storage = storage_of("db", tmp_path)
    by_function(storage)
    expected, _ = read_study(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE trial_system_attributes SET key = ? WHERE key = 'constraints'", (key,))
    connection.close()
    imported, _ = read_study(path)
    assert list(map(outcomes, imported.trials)) == list(map(outcomes, expected.trials))
    assert len(outcomes(imported.trials[0])) == 2


def test_an_objective_with_the_name_of_a_constraint_costs_the_study(tmp_path):
    path, storage = storage_of("db", tmp_path)
    study = by_function(storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["constraint 0"])
    with pytest.raises(ValueError, match="'s' cannot be used: metric cannot be told apart: 'constraint 0' is"):
        read_study(path)


@pytest.mark.parametrize("given", [[[0.5, -1.0], [-0.5, -1.0]], [{"heat": 0.5}, {"heat": -0.5}]])
def test_constraints_in_json_lines(given, tmp_path):
    trials = [
        {"number": number, "state": "COMPLETE", "params": {"x": 0.5}, "values": [1.0], "constraints": constraints}
        for number, constraints in enumerate([*given, None])
    ]
    study = {
        "study_name": "s",
        "directions": ["minimize"],
        "params": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
        "trials": trials,
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(study) + "\n")
    imported, quarantined = read_study(path)
    assert quarantined == []
    encoded = EncodedStudy(imported.problem, imported.trials)
    names = ["constraint heat"] if isinstance(given[0], dict) else ["constraint 0", "constraint 1"]
    assert [each.name for each in encoded.metrics] == ["objective", *names]
    assert encoded.holds.tolist() == [False, True, True]
