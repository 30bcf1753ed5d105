"""A service that tunes for many programs: start it, tune as two workers, stop it.

    python vizier_service.py [TRIALS]

Studies are in a database, so the server may be stopped and started again.  Other clients of Vizier can use it, too.
"""

import math
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from vizier import pyvizier as vz
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer.serve.client import Service

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 16


def tune(study: clients.Study, worker: str) -> None:
    """What each worker runs; usually workers are processes on several machines."""
    for _ in range(TRIALS // 2):
        (trial,) = study.suggest(count=1, client_id=worker)
        rate, layers = trial.parameters["learning_rate"], trial.parameters["layers"]
        loss = (math.log10(rate) + 2) ** 2 + abs(layers - 3) / 10  # train your model here
        trial.complete(vz.Measurement(metrics={"loss": loss}))


# The same as `optformer serve --port 0 --database-url ...` in a shell.  Port 0 means any free port.
folder = tempfile.TemporaryDirectory()
command = [sys.executable, "-m", "optformer.cli", "serve", "--port", "0"]
command += ["--database-url", f"sqlite:///{folder.name}/studies.db"]
with folder, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
        # Its first line says where it listens: OPTFORMER (nano-3) at 127.0.0.1:34567
        address = server.stdout.readline().split()[-1]

        problem = vz.ProblemStatement()
        problem.search_space.root.add_float_param("learning_rate", 1e-5, 1.0, scale_type=vz.ScaleType.LOG)
        problem.search_space.root.add_int_param("layers", 1, 8)
        problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
        config = svz.StudyConfig.from_problem(problem)
        config.algorithm = "OPTFORMER"

        with Service(address) as service:
            study = service.study(config, owner="me", study_id="my model")
            with ThreadPoolExecutor() as workers:
                list(workers.map(tune, [study, study], ["worker 1", "worker 2"]))
            best, *_ = study.optimal_trials().get()  # several if there is a tie
            loss = best.final_measurement.metrics["loss"].value
            print(f"best of {len(list(study.trials()))} trials: loss {loss:.3f}")
            print(f"with {best.parameters}")
    finally:
        server.terminate()
print(f"the server has stopped with exit code {server.returncode}")
