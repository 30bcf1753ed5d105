"""Define-by-run programs: the conditional space of what Optuna itself logged."""

from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from vizier import pyvizier as vz

from optformer.data.sources import Quarantined, read, read_study
from optformer.data.sources.importing import import_corpus
from optformer.serialization.space import StudySchema


def program(trial: optuna.Trial) -> float:
    if trial.suggest_categorical("model", ["svm", "mlp"]) == "svm":
        kernel = trial.suggest_categorical("kernel", ["poly", "rbf"])
        if kernel == "poly":
            trial.suggest_int("degree", 2, 5)
        return trial.suggest_float("C", 1e-3, 1e3, log=True)
    if trial.suggest_categorical("bias", [True, False]):
        trial.suggest_float("offset", -1.0, 1.0)
    layers = trial.suggest_int("layers", 1, 3)
    if trial.number % 7 == 3:
        raise RuntimeError("out of memory")
    return sum(trial.suggest_float(f"width{layer}", 8, 64, step=8) for layer in range(layers))


def children(config: vz.ParameterConfig) -> dict[str, set]:
    found: dict[str, set] = {}
    for value, space in config.subspaces():
        for child in space.parameters:
            found.setdefault(child.name, set()).add(value)
    return found


def empty_study(path: Path) -> optuna.Study:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(storage=storage, study_name="s", sampler=optuna.samplers.RandomSampler(seed=0))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("optuna") / "branches.log"
    study = empty_study(path)
    study.optimize(program, n_trials=60, catch=RuntimeError)
    # A user who enqueues says everything, though the program will not ask for all of it.
    study.enqueue_trial({"model": "mlp", "kernel": "poly", "degree": 3, "layers": 2, "bias": False})
    return path


def test_the_tree_of_the_program_comes_back(log):
    study, left_out = read_study(log)
    assert left_out == []
    assert [config.name for config in study.problem.search_space.parameters] == ["model"]
    model = study.problem.search_space.get("model")
    assert children(model) == {
        "kernel": {"svm"},
        "C": {"svm"},
        "bias": {"mlp"},
        "layers": {"mlp"},
        "width0": {"mlp"},
    }
    svm, mlp = model.subspace("svm"), model.subspace("mlp")
    assert children(svm.get("kernel")) == {"degree": {"poly"}}
    assert children(mlp.get("bias")) == {"offset": {"True"}}
    assert children(mlp.get("layers")) == {"width1": {2, 3}, "width2": {3}}
    assert study.problem.metadata.ns("optformer")["branches"] == "inferred"


def test_every_trial_fits_into_the_tree(log):
    study, _ = read_study(log)
    schema = StudySchema(study.problem)
    decoded = [schema.decode(row) for row in schema.encode(study.trials)]
    assert [set(values) for values in decoded] == [set(trial.parameters) for trial in study.trials]
    failed = [trial for trial in study.trials if trial.infeasible]
    assert failed
    assert not any("width0" in trial.parameters for trial in failed)


def test_enqueued_values_of_another_branch_are_metadata(log):
    study, _ = read_study(log)
    last = study.trials[-1]
    assert last.status == vz.TrialStatus.REQUESTED
    assert last.parameters.as_dict() == {"model": "mlp", "layers": 2, "bias": "False"}
    assert dict(last.metadata.ns("optuna").ns("unused_values")) == {"kernel": "poly", "degree": "3"}


def test_a_corpus_keeps_the_tree(log, tmp_path):
    summary = import_corpus([log], tmp_path / "corpus.jsonl")
    assert (summary.studies_kept, summary.trials_kept, summary.quarantined_trials) == (1, 61, {})
    (record,) = read(tmp_path / "corpus.jsonl")
    assert not isinstance(record, Quarantined)
    assert record.problem.search_space == read_study(log)[0].problem.search_space


def test_two_runs_of_a_changed_program_stay_flat(tmp_path):
    study = empty_study(tmp_path / "changed.log")
    study.optimize(lambda trial: trial.suggest_int("size", 1, 3), n_trials=15)
    study.optimize(lambda trial: trial.suggest_int("size", 1, 3) + trial.suggest_float("rate", 0, 1), n_trials=15)
    read_back, left_out = read_study(tmp_path / "changed.log")
    assert [config.name for config in read_back.problem.search_space.parameters] == ["size", "rate"]
    assert not read_back.problem.search_space.is_conditional
    assert "branches" not in read_back.problem.metadata.ns("optformer")
    assert (len(read_back.trials), left_out) == (30, [])


def test_trials_pruned_before_a_report_may_lack_what_comes_later(tmp_path):
    def objective(trial: optuna.Trial) -> float:
        use = trial.suggest_categorical("use", ["a", "b"])
        if trial.number % 3 == 1:
            raise optuna.TrialPruned("too large")
        return trial.suggest_float("rate", 0, 1) if use == "a" else 0.5

    study = empty_study(tmp_path / "pruned.log")
    study.optimize(objective, n_trials=45)
    read_back, _ = read_study(tmp_path / "pruned.log")
    assert children(read_back.problem.search_space.get("use")) == {"rate": {"a"}}
