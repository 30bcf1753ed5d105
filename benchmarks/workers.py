"""A study tuned by eight Optuna workers and one by eight Vizier clients, each a process of its own.

    python benchmarks/workers.py [--workers 8] [--trials 6]

Optuna's share a SQLite file, Vizier's call `optformer serve`.  Printed: trials, configurations that were handed out
twice, failures (a tenth of the trials fail on purpose), the best value at the end, and the wall time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SPACE = {"rate": (1e-4, 1.0), "dropout": (0.0, 0.8), "layers": (1, 8)}


def value(parameters: dict[str, Any], number: int) -> float | None:
    """Least 0, at rate 0.03, dropout 0.2, 3 layers; None for the trials that fail."""
    if number % 10 == 7:
        return None
    time.sleep(0.05)
    return float(
        np.log10(parameters["rate"] / 0.03) ** 2
        + (parameters["dropout"] - 0.2) ** 2
        + 0.05 * (parameters["layers"] - 3) ** 2
    )


def optuna_worker(storage: str, trials: int, seed: int) -> None:
    import optuna

    from optformer.serve.optuna import OptFormerSampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="shared", storage=storage, sampler=OptFormerSampler("nano", seed=seed))

    def objective(trial: optuna.Trial) -> float:
        parameters = {
            "rate": trial.suggest_float("rate", *SPACE["rate"], log=True),
            "dropout": trial.suggest_float("dropout", *SPACE["dropout"]),
            "layers": trial.suggest_int("layers", *map(int, SPACE["layers"])),
        }
        result = value(parameters, trial.number)
        if result is None:
            raise RuntimeError("fails on purpose")
        return result

    study.optimize(objective, n_trials=trials, catch=(RuntimeError,))


def vizier_worker(endpoint: str, trials: int, seed: int) -> None:
    from vizier import pyvizier as vz
    from vizier.service import clients
    from vizier.service import pyvizier as svz

    from optformer.serve.client import Service
    from optformer.serve.vizier import ALGORITHM

    clients.environment_variables.new_suggestion_polling_secs = 0.05
    config = svz.StudyConfig()
    root = config.search_space.root
    root.add_float_param("rate", *SPACE["rate"], scale_type=vz.ScaleType.LOG)
    root.add_float_param("dropout", *SPACE["dropout"])
    root.add_int_param("layers", *map(int, SPACE["layers"]))
    config.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    config.algorithm = ALGORITHM
    with Service(endpoint) as service:
        study = service.study(config, owner="benchmark", study_id="shared")
        for _ in range(trials):
            (trial,) = study.suggest(count=1, client_id=f"worker {seed}")
            result = value(dict(trial.parameters), trial.id)
            if result is None:
                trial.complete(infeasible_reason="fails on purpose")
            else:
                trial.complete(vz.Measurement(metrics={"loss": result}))


def run_workers(kind: str, where: str, workers: int, trials: int) -> float:
    """Wall seconds."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--worker", kind, where, str(trials)]
    processes = [subprocess.Popen([*command, str(seed)]) for seed in range(workers)]
    if any(process.wait() for process in processes):
        raise SystemExit(f"a worker of {kind} failed")
    return time.perf_counter() - started


def report(kind: str, rows: list[tuple[dict[str, Any], float | None]], seconds: float) -> None:
    distinct = {json.dumps(parameters, sort_keys=True) for parameters, _ in rows}
    values = [result for _, result in rows if result is not None]
    print(
        f"| {kind} | {len(rows)} | {len(rows) - len(distinct)} | {len(rows) - len(values)} | {min(values):.4f} | "
        f"{seconds:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=6, help="of each worker; default: %(default)s")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, where, trials, seed = arguments.worker
        {"Optuna": optuna_worker, "Vizier": vizier_worker}[kind](where, int(trials), int(seed))
        return

    print("| workers | trials | handed out twice | failed | best | s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = f"sqlite:///{Path(folder, 'optuna.db')}"
        study = optuna.create_study(study_name="shared", storage=storage)
        seconds = run_workers("Optuna", storage, arguments.workers, arguments.trials)
        rows = [(trial.params, trial.value) for trial in study.get_trials()]
        report(f"{arguments.workers} of Optuna", rows, seconds)

        command = [sys.executable, "-m", "optformer.cli", "serve", "--port", "0", "--checkpoint", "nano"]
        server = subprocess.Popen(
            [*command, "--database-url", f"sqlite:///{Path(folder, 'vizier.db')}"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            endpoint = server.stdout.readline().split()[-1]
            seconds = run_workers("Vizier", endpoint, arguments.workers, arguments.trials)
            from optformer.serve.client import Service

            with Service(endpoint) as service:
                found = service.load("owners/benchmark/studies/shared").trials()
                trials = [trial.materialize() for trial in found]
        finally:
            server.terminate()
            server.wait()
        rows = [
            (
                trial.parameters.as_dict(),
                None if trial.infeasible else trial.final_measurement_or_die.metrics["loss"].value,
            )
            for trial in trials
        ]
        report(f"{arguments.workers} of Vizier", rows, seconds)


if __name__ == "__main__":
    main()
