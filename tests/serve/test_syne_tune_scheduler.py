"""The scheduler for Syne Tune: told of results as its tuner tells of them, and a real run."""

import pytest

# With xgboost and its CUDA libraries Syne Tune takes a gigabyte: an extra of its own, not one of the developers'.
pytest.importorskip("syne_tune", reason="pip install 'optformer[syne-tune]'")

import dill
from syne_tune import StoppingCriterion, Tuner
from syne_tune import config_space as spaces
from syne_tune.backend import LocalBackend
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.searchers.random_searcher import RandomSearcher
from syne_tune.optimizer.schedulers.single_objective_scheduler import SingleObjectiveScheduler
from vizier import pyvizier as vz

from optformer.serve.syne_tune import OptFormerScheduler, OptFormerSearcher

pytestmark = pytest.mark.integration

SPACE = {"x": spaces.uniform(0.0, 1.0), "n": spaces.randint(1, 8), "epochs": 9}


def scheduler_of(model, do_minimize=True, searching=None, **arguments):
    searcher = OptFormerSearcher(SPACE, random_seed=0, model=model, **(searching or {}))
    return OptFormerScheduler(SPACE, "loss", do_minimize, searcher=searcher, **arguments)


def run(scheduler, number, value, sign=1.0, **further):
    """The epoch at which a trial ends."""
    trial = Trial(trial_id=number, config=scheduler.suggest().config, creation_time=None)
    scheduler.on_trial_add(trial)
    for epoch in range(1, 10):
        result = {"loss": sign * (value + 1.0 / epoch), "epoch": epoch} | further
        if scheduler.on_trial_result(trial, result) == SchedulerDecision.STOP:
            scheduler.on_trial_remove(trial)
            return epoch
    scheduler.on_trial_complete(trial, result)
    return epoch


@pytest.mark.parametrize("time_attr", ["epoch", None])
@pytest.mark.parametrize(("threshold", "ends"), [(0.0, [9] * 6), (1.0, [9] * 4 + [3, 3])])
def test_it_stops_below_the_threshold(reader, asked, time_attr, threshold, ends):
    scheduler = scheduler_of(reader, time_attr=time_attr, threshold=threshold)
    assert [run(scheduler, number, float(number)) for number in range(6)] == ends
    scheduler.suggest()
    stopped = [trial.stopping_reason for trial in asked[-1]]
    assert stopped == [None if end == 9 else "stopped" for end in ends]
    assert [each.steps for each in asked[-1][0].measurements] == list(range(1, 10))


def test_minimizing_and_maximizing_are_mirror_images(reader):
    for minimizes in (True, False):
        scheduler = scheduler_of(reader, minimizes, time_attr="epoch", threshold=1.0)
        ends = [run(scheduler, number, float(number), 1.0 if minimizes else -1.0) for number in range(6)]
        assert ends == [9, 9, 9, 9, 3, 3]


def test_trials_that_run_are_pending_with_what_they_have_reported(model, asked):
    scheduler = scheduler_of(model, time_attr="epoch", threshold=0.0)
    trial = Trial(trial_id=0, config=scheduler.suggest().config, creation_time=None)
    scheduler.on_trial_result(trial, {"loss": 1.0, "epoch": 3})
    scheduler.suggest()
    (running,) = asked[-1]
    assert running.status == vz.TrialStatus.ACTIVE
    assert [each.steps for each in running.measurements] == [3]


def test_costs_are_told_with_the_last_result(model, caplog):
    searching = {"cost": "seconds", "belief": {"n": {3: 1.0}}}
    scheduler = scheduler_of(model, searching=searching, threshold=0.0)
    for number in range(6):
        run(scheduler, number, float(number), seconds=2.0 + number)
    trials = scheduler.searcher._study.pyvizier()
    assert [each.final_measurement.metrics["seconds"].value for each in trials] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert trials[0].parameters["n"].value == 3
    run(scheduler, 6, 1.0)  # not known of every trial
    run(scheduler, 7, 1.0, seconds=-1.0)
    assert "seconds" not in scheduler.searcher._study.pyvizier()[-1].final_measurement.metrics
    assert any("trial 7: its cost 'seconds' is -1.0" in message for message in caplog.messages)
    alone = OptFormerSearcher(SPACE, model=model, cost="seconds")
    with pytest.raises(ValueError, match=r"OptFormerSearcher\(cost='seconds'\) needs OptFormerScheduler"):
        SingleObjectiveScheduler(SPACE, "loss", searcher=alone).suggest()


def test_what_it_is_told_has_to_fit(model, reader):
    with pytest.raises(ValueError, match="was not trained with learning curves"):
        scheduler_of(model)
    with pytest.raises(ValueError, match="threshold is a probability between 0 and 1, not 2"):
        scheduler_of(reader, threshold=2)
    with pytest.raises(TypeError, match="needs an OptFormerSearcher, not RandomSearcher"):
        OptFormerScheduler(SPACE, "loss", searcher=RandomSearcher(SPACE))


# A real run.

SCRIPT = """
from argparse import ArgumentParser
from syne_tune import Reporter

parser = ArgumentParser()
parser.add_argument("--x", type=float)
parser.add_argument("--n", type=int)
parser.add_argument("--epochs", type=int)
known, _ = parser.parse_known_args()
report = Reporter()
for epoch in range(1, known.epochs + 1):
    report(epoch=epoch, loss=known.x + known.n + 1.0 / epoch)
"""


def test_a_tuner_runs_and_stops_trials_and_is_loaded(reader, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNETUNE_FOLDER", str(tmp_path))
    (tmp_path / "train.py").write_text(SCRIPT)
    scheduler = scheduler_of(reader, searching={"cost": "st_worker_time"}, time_attr="epoch", threshold=1.0)
    tuner = Tuner(
        trial_backend=LocalBackend(str(tmp_path / "train.py"), rotate_gpus=False),
        scheduler=scheduler,
        stop_criterion=StoppingCriterion(max_num_trials_finished=7, max_wallclock_time=120),
        n_workers=1,
        sleep_time=0.1,
        wait_trial_completion_when_stopping=True,
        tuner_name="run",
    )
    tuner.run()
    recorded = scheduler.searcher._study.trials
    states = [trial.state for trial in recorded]
    assert states[:4] == ["complete"] * 4
    assert "stopped" in states[4:]
    assert all(trial.costs["st_worker_time"] > 0 for trial in recorded if trial.state == "complete")
    loaded = dill.loads(dill.dumps(tuner.scheduler))
    assert loaded.suggest().config == tuner.scheduler.suggest().config
