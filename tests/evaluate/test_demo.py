"""The demo: its log, its comparisons, its tables, and (slow) all of it in small."""

import json

import numpy as np
import optuna
import pytest
from rich.console import Console

from optformer.data.problems.sklearn import task_names
from optformer.data.sources import read
from optformer.data.teachers.optuna import SAMPLERS
from optformer.evaluate.calibration import Predicted
from optformer.evaluate.demo import comparisons, run
from optformer.evaluate.demo.comparisons import BEGUN, OURS, TOLD, TPE, Comparison
from optformer.evaluate.demo.held_out import FINE_TUNED, SHIPPED
from optformer.evaluate.demo.log import LOGGED, TOO_SLOW, log_studies
from optformer.evaluate.demo.objectives import EPOCHS, HELD_OUT, CrossValidated, NetworkWithReports, OneOfModels

pytestmark = pytest.mark.integration

NAMES = ("random search", "Optuna TPE", SHIPPED, FINE_TUNED)


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of four trials a study, with relatives of both pairs that are tuned after earlier studies."""
    path = tmp_path_factory.mktemp("demo") / "log.db"
    log_studies(path, ("mlp@wine", "elastic_net@diabetes", "boosting@breast_cancer"), trials=4)
    return path


def predicted(history: int) -> Predicted:
    rng = np.random.default_rng(history)
    observed = rng.normal(size=12 * 5)
    return Predicted(
        history=history,
        uniform=np.full(60, -1.0),
        gaussian_process=np.full(60, -0.5),
        model=np.full(60, 0.25),
        observed=observed,
        median=observed + 0.1,
        low=observed - 1.0,
        high=np.where(np.arange(60) < 54, observed + 1.0, observed - 0.5),
        study=np.repeat(np.arange(12), 5),
    )


def ended(value: float | None, reports: int) -> optuna.trial.FrozenTrial:
    state = optuna.trial.TrialState.PRUNED if value is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=state, value=value, intermediate_values={step + 1: 1.0 for step in range(reports)}
    )


def test_what_came_out_is_shown_and_the_page_is_named_last(tmp_path, log):
    rng = np.random.default_rng(0)

    def curves(engines, budget):
        return {name: np.minimum.accumulate(rng.uniform(0.1, 1, size=(5, budget)), axis=1) for name in engines}

    chosen = comparisons.comparisons(log)
    result = run.DemoResult(
        best={pair: curves(NAMES, 25) for pair in HELD_OUT},
        seconds=dict.fromkeys(NAMES, 0.1),
        log_density={
            n: {
                "uniform": (-1.0, -1.0),
                "gaussian_process": (-9.5, 0.5),
                "shipped": (0.5, 0.5),
                "fine_tuned": (0.25, 0.75),
            }
            for n in (5, 10, 20)
        },
        compared={each.name: curves(each.engines, each.budget) for each in chosen},
        minutes={"log": 1.0, "train": 4.5},
    )
    # No trial has finished by a third of the budget.
    result.compared[chosen[0].name][TPE][0, : chosen[0].early] = np.nan
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    run.show(result, [predicted(n) for n in (5, 10, 20)], 4, chosen, tmp_path, tmp_path / "report.html", console)
    text = console.export_text()
    console.file.close()
    assert "90 %" in text
    assert "-9.50, 0.50" in text
    assert "r2 (more is better)" in text
    for pair in HELD_OUT:
        for name in (SHIPPED, FINE_TUNED):
            assert f"{result.best[pair][name][:, -1].mean():.4f} ±" in text
    for each in chosen:
        assert each.name in text
        for engine in each.engines:
            assert f"{result.compared[each.name][engine][:, -1].mean():.4f} ±" in text
    assert f"{result.compared[chosen[0].name][OURS][:, chosen[0].early - 1].mean():.4f} ±" in text
    assert "nan" not in text
    for name in ("best-so-far.png", "predicted.png", "compared.png"):
        assert name in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert text.splitlines()[-1] == f"Page: {tmp_path / 'report.html'}"
    written = json.loads((tmp_path / "result.json").read_text())
    np.testing.assert_allclose(written["best"][HELD_OUT[1]]["Optuna TPE"], result.best[HELD_OUT[1]]["Optuna TPE"])
    assert written["log_density"]["10"]["fine_tuned"] == [0.25, 0.75]
    assert written["compared"][chosen[0].name][TPE][0][0] is None


def test_log_is_an_optuna_database_with_a_study_of_each_sampler(log):
    studies = list(read(log))
    titles = [study.problem.metadata.ns("optformer")["title"] for study in studies]
    pairs = ("mlp@wine", "elastic_net@diabetes", "boosting@breast_cancer")
    assert titles == [f"{pair} {sampler}" for pair in pairs for sampler in SAMPLERS]
    for study, sampler in zip(studies, 3 * list(SAMPLERS), strict=True):
        assert len(study.trials) == 4
        assert study.problem.metadata.ns("optformer")["algorithm"] == sampler
        assert all(trial.final_measurement is not None for trial in study.trials)


def test_kept_out_pairs_are_real_pairs_that_are_not_logged():
    assert set(HELD_OUT) <= set(task_names())
    assert set(LOGGED) == set(task_names()) - set(HELD_OUT) - set(TOO_SLOW)


def test_a_network_reports_each_epoch_and_heeds_the_pruner():
    class AfterThree(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1 and trial.last_step == 3

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=AfterThree())
    study.optimize(NetworkWithReports("breast_cancer"), n_trials=2)
    whole, stopped = study.trials
    assert list(whole.intermediate_values) == list(range(1, EPOCHS + 1))
    assert whole.value == whole.intermediate_values[EPOCHS]
    assert stopped.state == optuna.trial.TrialState.PRUNED
    assert list(stopped.intermediate_values) == [1, 2, 3]


def test_each_model_has_its_own_parameters():
    study = optuna.create_study()
    for model in ("logistic", "mlp"):
        study.enqueue_trial({"model": model})
    study.optimize(OneOfModels(("logistic", "mlp"), "wine"), n_trials=2)
    assert [set(trial.params) for trial in study.trials] == [
        {"model", "C", "l1_ratio", "fit_intercept"},
        {"model", "hidden_units", "learning_rate_init", "alpha", "activation", "batch_size"},
    ]
    alone = {name: value for name, value in study.trials[0].params.items() if name != "model"}
    assert study.trials[0].value == CrossValidated("logistic@wine")(optuna.trial.FixedTrial(alone))


def test_earlier_studies_are_those_of_the_same_model(log):
    chosen = {each.name: each for each in comparisons.comparisons(log)}
    for pair, relative in {"mlp@breast_cancer": "mlp@wine", "boosting@wine": "boosting@breast_cancer"}.items():
        expected = {f"{relative} {sampler}" for sampler in SAMPLERS}
        assert set(chosen[f"{pair} after earlier studies"].earlier) == expected


def test_a_pruned_study_pays_for_the_epochs_that_it_ran():
    comparison = Comparison("pruned", NetworkWithReports("wine"), (TPE,), early=2, budget=10, pruned=True)
    trials = [ended(0.5, 4), ended(None, 2), ended(0.25, 3), ended(0.125, 4)]
    assert comparisons.spent(comparison, trials).tolist() == [4, 6, 9, 13]
    # The last one ends when the budget is spent: it does not count.
    expected = [*[np.nan] * 3, *[0.5] * 5, *[0.25] * 2]
    np.testing.assert_array_equal(comparisons.best_by_budget(comparison, trials), expected)


def test_engines_share_objective_and_budget(log, tmp_path):
    pruned = Comparison("pruned", NetworkWithReports("wine"), (TPE, OURS), early=EPOCHS, budget=45, pruned=True)
    earlier = ("mlp@wine random", "mlp@wine tpe")
    told = Comparison("told", CrossValidated("mlp@breast_cancer"), (BEGUN, OURS, TOLD), 1, 3, earlier=earlier)
    best = comparisons.compare([pruned, told], 2, log, tmp_path / "studies.db")
    assert {name: list(curves) for name, curves in best.items()} == {"pruned": [TPE, OURS], "told": [BEGUN, OURS, TOLD]}
    for curves in best["pruned"].values():
        assert curves.shape == (2, 45)
        # A median is known after five trials only: none is pruned before.
        assert np.isnan(curves[:, : EPOCHS - 1]).all()
        assert (np.diff(curves[:, EPOCHS - 1 :]) <= 0).all()
    assert all(curves.shape == (2, 3) and np.isfinite(curves).all() for curves in best["told"].values())
    assert not np.array_equal(best["told"][OURS][:, 0], best["told"][TOLD][:, 0])
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    begun = optuna.load_study(study_name=f"told, {BEGUN}", storage=storage)
    first = [optuna.load_study(study_name=name, storage=f"sqlite:///{log}").best_params for name in earlier]
    assert [trial.params for trial in begun.trials[:2]] == first
    kept = optuna.load_study(study_name=f"pruned, {OURS}", storage=storage)
    np.testing.assert_array_equal(comparisons.best_by_budget(pruned, kept.trials), best["pruned"][OURS][0])


@pytest.mark.slow
def test_the_whole_demo_in_small(tmp_path):
    sizes = run.Sizes(
        logged=("mlp@wine", "boosting@breast_cancer"),
        steps=60,
        seeds=2,
        tuned_trials=10,
        histories=(5, 10),
        predicted=1,
        whole=3,
        branched=5,
        after_earlier=3,
    )
    result = run.run_demo(tmp_path, train_minutes=1.0, console=Console(quiet=True), sizes=sizes)
    for of_pair in result.best.values():
        for name in (SHIPPED, FINE_TUNED):
            assert of_pair[name].shape == (2, 10)
            np.testing.assert_array_equal(of_pair[name][:, :5], of_pair["random search"][:, :5])
    assert all(np.isfinite(list(row.values())).all() for row in result.log_density.values())
    assert all(np.isfinite(curves[:, -1]).all() for each in result.compared.values() for curves in each.values())
    assert (tmp_path / "train" / "export" / "config.json").exists()
    for name in ("slices", "importance"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert f"pruned network@breast_cancer, {OURS}" in page
