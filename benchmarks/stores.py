"""Synthetic stores of logged studies, as the libraries themselves write them, for `benchmarks/sources.py`.

Every function writes one store into an empty folder and returns the path to read.  All tune the same made-up model: a
learning rate, a dropout, a number of layers, a batch size and an optimizer, for a loss.  Where a library would take
hours for many trials (an SQL transaction for each value, a process for each trial), it creates the schema and the
rows go in beside it, or its own logger is called without running anything.
"""

import csv
import datetime
import importlib.util
import json
import os
import random
import sqlite3
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

START = datetime.datetime(2026, 1, 1)
OPTIMIZERS = ["adam", "sgd", "lion"]
REPORTS = 3
PER_STUDY = 4_000
"""Trials of one study in the large SQLite file."""


class Store(NamedTuple):
    """A kind of store.

    Attributes:
      write: (folder, number of trials) to the path of the store.
      trials: how many of them the table is made with.
      library: the package that has to be installed; empty for Python's own modules.
      options: of `read` and `import_corpus`.
    """

    write: Callable[[Path, int], Path]
    trials: int
    library: str = ""
    options: Mapping[str, str] = types.MappingProxyType({})

    @property
    def missing(self) -> bool:
        return bool(self.library) and importlib.util.find_spec(self.library) is None


def drawn(trials: int) -> Iterator[tuple[dict[str, Any], float]]:
    """Configuration and loss of each trial; the same on every call."""
    rng = random.Random(0)
    for _ in range(trials):
        configuration = {
            "lr": 10 ** rng.uniform(-5, -1),
            "dropout": rng.uniform(0, 0.9),
            "layers": rng.randint(1, 12),
            "batch": 16 * rng.randint(1, 32),
            "optimizer": rng.choice(OPTIMIZERS),
        }
        yield configuration, rng.gauss(0, 1)


def optuna_space() -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        "lr": FloatDistribution(1e-5, 1e-1, log=True),
        "dropout": FloatDistribution(0.0, 0.9),
        "layers": IntDistribution(1, 12),
        "batch": IntDistribution(16, 512, step=16),
        "optimizer": CategoricalDistribution(OPTIMIZERS),
    }


def optuna_database(folder: Path, trials: int) -> Path:
    """Studies of 4,000 trials: 90 % completed, 7 % pruned after three reports, 3 % failed.  Optuna's own schema."""
    from optuna.distributions import distribution_to_json
    from optuna.storages import RDBStorage

    path = folder / "optuna.db"
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    space = {name: (d, distribution_to_json(d)) for name, d in optuna_space().items()}
    rng = random.Random(1)
    connection = sqlite3.connect(path)
    drawings = drawn(trials)
    with connection:
        for study, first in enumerate(range(0, trials, PER_STUDY), 1):
            connection.execute("INSERT INTO studies (study_id, study_name) VALUES (?, ?)", (study, f"study {study}"))
            connection.execute(
                "INSERT INTO study_directions (study_id, direction, objective) VALUES (?, 'MINIMIZE', 0)", (study,)
            )
            rows: dict[str, list[tuple[Any, ...]]] = {"trials": [], "params": [], "values": [], "reports": []}
            for number in range(min(PER_STUDY, trials - first)):
                trial, (configuration, loss) = first + number + 1, next(drawings)
                lot = rng.random()
                state = "FAIL" if lot < 0.03 else "PRUNED" if lot < 0.1 else "COMPLETE"
                begin = START + datetime.timedelta(seconds=60 * trial + rng.random())
                end = begin + datetime.timedelta(seconds=rng.random() * 1000)
                times = (time.isoformat(" ", "microseconds") for time in (begin, end))
                rows["trials"].append((trial, number, study, state, *times))
                for name, (distribution, text) in space.items():
                    internal = distribution.to_internal_repr(configuration[name])
                    rows["params"].append((trial, name, internal, text))
                if state == "COMPLETE":
                    rows["values"].append((trial, loss))
                elif state == "PRUNED":
                    rows["reports"] += [(trial, step, loss + rng.random()) for step in range(REPORTS)]
            connection.executemany(
                "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                rows["trials"],
            )
            connection.executemany(
                "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
                rows["params"],
            )
            connection.executemany(
                "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')",
                rows["values"],
            )
            connection.executemany(
                "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
                "VALUES (?, ?, ?, 'FINITE')",
                rows["reports"],
            )
    connection.close()
    return path


def optuna_journal(folder: Path, trials: int) -> Path:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / "journal.log"
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="sweep")
    space = optuna_space()
    study.add_trials(
        [optuna.trial.create_trial(params=params, distributions=space, value=loss) for params, loss in drawn(trials)]
    )
    return path


def problem() -> Any:
    """The made-up model's, as pyvizier."""
    from vizier import pyvizier as vz

    stated = vz.ProblemStatement()
    root = stated.search_space.root
    root.add_float_param("lr", 1e-5, 1e-1, scale_type=vz.ScaleType.LOG)
    root.add_float_param("dropout", 0.0, 0.9)
    root.add_int_param("layers", 1, 12)
    root.add_discrete_param("batch", [16 * k for k in range(1, 33)])
    root.add_categorical_param("optimizer", OPTIMIZERS)
    stated.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    return stated


def finished(trials: int) -> Iterator[Any]:
    """The trials, as pyvizier."""
    from vizier import pyvizier as vz

    for number, (configuration, loss) in enumerate(drawn(trials), 1):
        yield vz.Trial(id=number, parameters=configuration, final_measurement=vz.Measurement({"loss": loss}))


def vizier_database(folder: Path, trials: int) -> Path:
    import sqlalchemy
    from vizier._src.service import sql_datastore
    from vizier.service import pyvizier as service
    from vizier.service.protos import study_pb2

    path, name = folder / "vizier.db", "owners/team/studies/sweep"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    # The store commits every trial; nobody needs them to survive a power cut.
    sqlalchemy.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    store = sql_datastore.SQLDataStore(engine)
    spec = service.StudyConfig.from_problem(problem()).to_proto()
    store.create_study(study_pb2.Study(name=name, display_name="sweep", study_spec=spec))
    for trial in finished(trials):
        message = service.TrialConverter.to_proto(trial)
        message.name = f"{name}/trials/{trial.id}"
        store.create_trial(message)
    store._connection.close()
    engine.dispose()
    return path


def study_lines(folder: Path, trials: int) -> Path:
    from vizier import pyvizier as vz

    from optformer.data.sources import write_studies

    path = folder / "studies.jsonl.gz"
    write_studies(path, [vz.ProblemAndTrials(problem=problem(), trials=list(finished(trials)))])
    return path


def optuna_lines(folder: Path, trials: int) -> Path:
    space = {
        "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "dropout": {"type": "float", "low": 0.0, "high": 0.9},
        "layers": {"type": "int", "low": 1, "high": 12},
        "batch": {"type": "int", "low": 16, "high": 512, "step": 16},
        "optimizer": {"type": "categorical", "choices": OPTIMIZERS},
    }
    stored = [
        {"number": number, "state": "COMPLETE", "params": configuration, "values": [loss]}
        for number, (configuration, loss) in enumerate(drawn(trials))
    ]
    path = folder / "studies.jsonl"
    record = {"study_name": "sweep", "directions": ["minimize"], "params": space, "trials": stored}
    path.write_text(json.dumps(record) + "\n")
    return path


MAPPING = {"parameters": ["lr", "dropout", "layers", "batch", "optimizer"], "objectives": {"loss": "minimize"}}


def table(folder: Path, trials: int) -> Path:
    path = folder / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*MAPPING["parameters"], "loss"])
        writer.writerows([*configuration.values(), loss] for configuration, loss in drawn(trials))
    Path(f"{path}.mapping.json").write_text(json.dumps(MAPPING))
    return path


def parquet(folder: Path, trials: int) -> Path:
    import pyarrow
    from pyarrow import parquet

    path = folder / "runs.parquet"
    rows = [configuration | {"loss": loss} for configuration, loss in drawn(trials)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    Path(f"{path}.mapping.json").write_text(json.dumps(MAPPING))
    return path


def ray(folder: Path, trials: int) -> Path:
    """What Tune's own logger leaves of each trial: three reports."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial
    from ray.tune.logger import JsonLoggerCallback

    class Here(StorageContext):
        """Without a cluster, whose driver would first write elsewhere."""

        @property
        def experiment_driver_staging_path(self) -> str:
            return str(self.experiment_fs_path)

        @property
        def trial_driver_staging_path(self) -> str:
            return str(self.trial_fs_path)

    logger = JsonLoggerCallback()
    for number, (configuration, loss) in enumerate(drawn(trials)):
        name = f"{number:08d}"
        storage = Here(storage_path=str(folder), experiment_dir_name="sweep", trial_dir_name=f"train_{name}")
        trial = Trial("train", stub=True, config=configuration, trial_id=name, storage=storage)
        trial.init_local_path()
        logger.log_trial_start(trial)
        for step in range(1, REPORTS + 1):
            times = {"timestamp": 1_767_225_600 + number, "time_total_s": 10.0 * step, "training_iteration": step}
            logger.log_trial_result(step, trial, {"loss": loss + 1 / step, **times, "trial_id": name})
        logger.log_trial_end(trial)
    return folder / "sweep"


def syne_tune(folder: Path, trials: int) -> Path:
    """What a tuner's own callback writes: three reports of each trial."""
    os.environ["SYNETUNE_FOLDER"] = str(folder)
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice, loguniform, randint, uniform
    from syne_tune.optimizer.baselines import RandomSearch
    from syne_tune.results_callback import StoreResultsCallback

    script = folder / "train.py"
    script.touch()
    space = {
        "lr": loguniform(1e-5, 1e-1),
        "dropout": uniform(0, 0.9),
        "layers": randint(1, 12),
        "batch": choice([16 * k for k in range(1, 33)]),
        "optimizer": choice(OPTIMIZERS),
    }
    tuner = Tuner(
        trial_backend=LocalBackend(str(script)),
        scheduler=RandomSearch(space, metrics=["loss"], do_minimize=True),
        stop_criterion=StoppingCriterion(max_num_trials_finished=trials),
        n_workers=1,
        results_update_interval=1e9,
        tuner_name="sweep",
        suffix_tuner_name=False,
    )
    tuner.tuner_path.mkdir(parents=True)
    tuner._save_metadata()
    callback = StoreResultsCallback()
    callback.on_tuning_start(tuner)
    for number, (configuration, loss) in enumerate(drawn(trials)):
        trial = Trial(trial_id=number, config=configuration, creation_time=START)
        for step in range(1, REPORTS + 1):
            status, decision = ("Completed", "STOP") if step == REPORTS else ("InProgress", "CONTINUE")
            callback.on_trial_result(trial, status, {"epoch": step, "loss": loss + 1 / step}, decision)
    callback.on_tuning_end()
    return Path(tuner.tuner_path)


def mlflow(folder: Path, trials: int) -> Path:
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    path = folder / "mlflow.db"
    client = MlflowClient(f"sqlite:///{path}")
    experiment = client.create_experiment("sweep", artifact_location=str(folder / "artifacts"))
    for configuration, loss in drawn(trials):
        run = client.create_run(experiment).info.run_id
        metrics = [Metric("loss", loss + 1 / step, step, step) for step in range(1, REPORTS + 1)]
        client.log_batch(run, metrics, [Param(name, str(value)) for name, value in configuration.items()])
        client.set_terminated(run)
    return path


def hpob(folder: Path, trials: int) -> Path:
    """The published structure, with two search spaces of five data sets each."""
    rng = random.Random(0)
    rows = trials // 10
    data = {
        space: {
            str(data_set): {
                "X": [[rng.random() for _ in range(width)] for _ in range(rows)],
                "y": [[rng.random()] for _ in range(rows)],
            }
            for data_set in range(5)
        }
        for space, width in (("5860", 2), ("5970", 6))
    }
    path = folder / "meta-train-dataset.json"
    path.write_text(json.dumps(data))
    return path


OBJECTIVE = {"metric": "loss", "goal": "minimize"}
STORES = {
    "Optuna, SQLite": Store(optuna_database, 40_000, "optuna"),
    "Optuna, journal": Store(optuna_journal, 4_000, "optuna"),
    "Optuna, JSON lines": Store(optuna_lines, 20_000),
    "Vizier": Store(vizier_database, 4_000, "sqlalchemy"),
    "Ray Tune": Store(ray, 4_000, "ray", OBJECTIVE),
    "Syne Tune": Store(syne_tune, 4_000, "syne_tune"),
    "MLflow, SQLite": Store(mlflow, 1_000, "mlflow", OBJECTIVE),
    "CSV": Store(table, 20_000),
    "Parquet": Store(parquet, 20_000, "pyarrow"),
    "HPO-B": Store(hpob, 20_000),
    "study format": Store(study_lines, 20_000),
}
