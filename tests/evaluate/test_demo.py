"""The demo: its log, its report, and (slow) all of it in small."""

import json

import numpy as np
import optuna
import pytest
from rich.console import Console

from optformer.data.sources import read
from optformer.evaluate import demo
from optformer.evaluate.calibration import Predicted

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


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


def test_report_writes_figures_and_pictures_and_says_where(tmp_path):
    rng = np.random.default_rng(0)
    names = ("random search", "Optuna TPE", "OptFormer (EI)")
    result = demo.DemoResult(
        best={
            pair: {name: np.minimum.accumulate(rng.uniform(0.1, 1, size=(5, 25)), axis=1) for name in names}
            for pair in demo.HELD_OUT
        },
        seconds=dict.fromkeys(names, 0.1),
        log_density={
            n: {"uniform": (-1.0, -1.0), "gaussian_process": (-9.5, 0.5), "optformer": (0.25, 0.75)}
            for n in demo.HISTORIES
        },
        minutes={"log": 1.0, "train": 4.5},
    )
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    demo.report(result, [predicted(n) for n in demo.HISTORIES], tmp_path, console)
    text = console.export_text()
    console.file.close()
    assert "90 %" in text
    assert "-9.50, 0.50" in text
    for pair in demo.HELD_OUT:
        assert f"{result.best[pair]['OptFormer (EI)'][:, -1].mean():.4f} ±" in text
    assert "r2 (more is better)" in text
    for name in ("best-so-far.png", "predicted.png"):
        assert name in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "result.json").read_text())
    pair = demo.HELD_OUT[1]
    np.testing.assert_allclose(written["best"][pair]["Optuna TPE"], result.best[pair]["Optuna TPE"])
    assert written["log_density"]["10"]["optformer"] == [0.25, 0.75]


def test_log_is_an_optuna_database_without_the_kept_out_pairs(tmp_path, monkeypatch):
    tasks = ["elastic_net@diabetes", demo.HELD_OUT[0]]
    monkeypatch.setattr(demo, "task_names", lambda: tasks)
    demo.log_studies(tmp_path / "log.db", Console(quiet=True))
    studies = list(read(tmp_path / "log.db"))
    titles = [study.problem.metadata.ns("optformer")["title"] for study in studies]
    assert titles == [f"elastic_net@diabetes {sampler}" for sampler in demo.SAMPLERS]
    for study, sampler in zip(studies, demo.SAMPLERS, strict=True):
        assert len(study.trials) == demo.LOGGED_TRIALS
        assert study.problem.metadata.ns("optformer")["algorithm"] == sampler
        assert all(trial.final_measurement is not None for trial in study.trials)


def test_kept_out_pairs_are_real_pairs():
    assert set(demo.HELD_OUT) <= set(demo.task_names())
    assert not set(demo.HELD_OUT) & set(demo.TOO_SLOW)


@pytest.mark.slow
def test_the_whole_demo_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "task_names", lambda: ["elastic_net@diabetes", "svc@wine", *demo.HELD_OUT])
    monkeypatch.setattr(demo, "SEEDS", 2)
    monkeypatch.setattr(demo, "PREDICTED_STUDIES", 1)
    monkeypatch.setattr(demo, "TUNED_TRIALS", 10)
    monkeypatch.setattr(demo, "SUGGESTED", range(5, 10))
    monkeypatch.setattr(demo, "STEPS", 60)
    monkeypatch.setattr(demo, "HISTORIES", (5, 10))
    result = demo.run_demo(tmp_path, train_minutes=1.0, console=Console(quiet=True))
    for of_pair in result.best.values():
        assert of_pair["OptFormer (EI)"].shape == (2, 10)
        np.testing.assert_array_equal(of_pair["OptFormer (EI)"][:, :5], of_pair["random search"][:, :5])
    assert all(np.isfinite(list(row.values())).all() for row in result.log_density.values())
    assert (tmp_path / "train" / "export" / "config.json").exists()
    for name in ("slices", "importance"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
