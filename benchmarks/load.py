"""Whether `optformer serve` loses or doubles anything under load, and how much it answers.

    python benchmarks/load.py [--clients 32] [--studies 8] [--minutes 8] [--checkpoint nano]
    python benchmarks/load.py --clients 16 --studies 16 --minutes 120 --trial-seconds 5 --kill-every 10

Starts a server of its own, with a database on disk.  The clients, of whom half call over gRPC and half over HTTP, share
the studies: each asks for a trial, completes it (a tenth of them as failed) and asks again.  With `--kill-every`, the
server is killed and started again after so many minutes each time.  In the end, all trials are read from the server.
Lost: a trial whose completion was acknowledged is not there with its value.  Twice: a trial was given to two clients,
or two trials of a study have the same values.  Exit code 1 if there is any, or if a call failed although no server was
killed.

Quote figures of an idle machine.
"""

import argparse
import contextlib
import http.client
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vizier import pyvizier as vz
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer.serve.client import Service
from optformer.serve.vizier import ALGORITHM

PAGE = resource.getpagesize()
NAMES = ("rate", "dropout", "layers")


class Done(NamedTuple):
    """A trial whose completion was acknowledged; `value` None: as failed."""

    study: str
    trial: int
    value: float | None


class Server:
    """`optformer serve` in a process of its own, with a database on disk; it keeps its ports when it starts again.

    Attributes:
      endpoint: HOST:PORT of gRPC.
      port: of HTTP.
      process: that runs.
      log: file of what it writes to stderr, of all starts.
    """

    def __init__(self, database: Path, log: Path, checkpoint: str, within: Sequence[str] = ()):
        """`within`: the command that runs the server, without the server's own words."""
        self._database, self._checkpoint, self._within = database, checkpoint, within
        self.endpoint, self.port, self.log = "127.0.0.1:0", 0, log

    def start(self) -> None:
        """Returns when it answers.  Raises RuntimeError where it ends before that."""
        command = [*self._within, sys.executable, "-m", "optformer.cli", "serve"]
        command += ["--port", self.endpoint.rpartition(":")[2], "--http", "--http-port", str(self.port)]
        command += ["--checkpoint", self._checkpoint, "--database-url", f"sqlite:///{self._database}"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        said = [self.process.stdout.readline().split() for _ in range(2)]
        if not all(said):
            raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")
        self.endpoint, self.port = said[0][-1], int(said[1][-1].rpartition(":")[2])

    def end(self, kill: bool = False) -> None:
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.end()


Complete = Callable[[int, float | None], None]
Ask = Callable[[], tuple[int, dict[str, Any]]]


def value_of(parameters: dict[str, Any], trial: int) -> float | None:
    return None if trial % 10 == 7 else float(sum(float(parameters[name]) for name in NAMES))


def config(algorithm: str = ALGORITHM) -> svz.StudyConfig:
    made = svz.StudyConfig()
    made.search_space.root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    made.search_space.root.add_float_param("dropout", 0.0, 0.8)
    made.search_space.root.add_int_param("layers", 1, 8)
    made.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    made.algorithm = algorithm
    return made


def over_grpc(study: clients.Study, client: str) -> tuple[Ask, Complete]:
    given: dict[int, clients.Trial] = {}

    def ask() -> tuple[int, dict[str, Any]]:
        (trial,) = study.suggest(count=1, client_id=client)
        given[trial.id] = trial
        return trial.id, dict(trial.parameters)

    def complete(trial: int, value: float | None) -> None:
        if value is None:
            given.pop(trial).complete(infeasible_reason="on purpose")
        else:
            given.pop(trial).complete(vz.Measurement(metrics={"loss": value}))

    return ask, complete


def over_http(port: int, study: str, client: str) -> tuple[Ask, Complete]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def call(path: str, body: dict[str, Any]) -> dict[str, Any]:
        root = f"/v1/owners/benchmark/studies/{study}"
        try:
            connection.request("POST", root + path, json.dumps(body), {"content-type": "application/json"})
            reply = connection.getresponse()
            answer: dict[str, Any] = json.loads(reply.read())
        except (OSError, http.client.HTTPException):
            connection.close()  # the next call opens it again
            raise
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {answer}")
        return answer

    def ask() -> tuple[int, dict[str, Any]]:
        (trial,) = call("/suggestions", {"client_id": client})["trials"]
        return trial["id"], trial["parameters"]

    def complete(trial: int, value: float | None) -> None:
        body = {"infeasible_reason": "on purpose"} if value is None else {"metrics": {"loss": value}}
        call(f"/trials/{trial}/complete", body)

    return ask, complete


class Memory(threading.Thread):
    """Attributes: most: megabytes that the server has taken since the thread was started."""

    def __init__(self, server: Server):
        super().__init__(daemon=True)
        self._server, self.most, self.ended = server, 0.0, threading.Event()

    def now(self) -> float:
        return int(Path(f"/proc/{self._server.process.pid}/statm").read_text().split()[1]) * PAGE / 2**20

    def run(self) -> None:
        while not self.ended.wait(0.1):
            with contextlib.suppress(OSError):  # the server is being started again
                self.most = max(self.most, self.now())


class Load:
    """The clients, and what they saw.

    Attributes:
      trial_seconds: a trial takes before it is completed.
      done: trials whose completion was acknowledged.
      given: per study and trial, the clients that got it.
      seconds: each suggestion took.
      failures: of calls.
    """

    def __init__(self, trial_seconds: float = 0.0) -> None:
        self.trial_seconds = trial_seconds
        self.done: list[Done] = []
        self.given: dict[tuple[str, int], list[str]] = {}
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()

    def run(self, study: str, client: str, ask: Ask, complete: Complete) -> None:
        while not self.ended.is_set():
            try:
                started = time.monotonic()
                trial, parameters = ask()
                took = time.monotonic() - started
                with self._lock:
                    self.seconds.append(took)
                    self.given.setdefault((study, trial), []).append(client)
                value = value_of(parameters, trial)
                self.ended.wait(self.trial_seconds)
                complete(trial, value)
                with self._lock:
                    self.done.append(Done(study, trial, value))
            except Exception as error:  # a client goes on, and the failure counts
                with self._lock:
                    self.failures.append(f"{client}: {type(error).__name__}: {error}"[:300])
                time.sleep(0.1)

    @contextlib.contextmanager
    def running(self, server: Server, studies: dict[str, clients.Study], count: int) -> Iterator[None]:
        """While so many clients call, of whom half do so over gRPC."""
        threads = []
        for number in range(count):
            name, client = list(studies)[number // 2 % len(studies)], f"client {number}"
            pair = over_grpc(studies[name], client) if number % 2 else over_http(server.port, name, client)
            threads.append(threading.Thread(target=self.run, args=(name, client, *pair)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.ended.set()
            for thread in threads:
                thread.join()

    def faults(self, kept: dict[str, list[vz.Trial]]) -> tuple[int, int]:
        """How many trials are lost, and how many are there twice."""
        found = {(name, trial.id): trial for name, trials in kept.items() for trial in trials}
        lost = sum(not is_kept(done, found.get((done.study, done.trial))) for done in self.done)
        twice = sum(len(set(names)) > 1 for names in self.given.values())
        for trials in kept.values():
            values = [json.dumps(trial.parameters.as_dict(), sort_keys=True) for trial in trials]
            twice += len(values) - len(set(values))
        return lost, twice


def kept_of(studies: dict[str, clients.Study]) -> dict[str, list[vz.Trial]]:
    return {name: [trial.materialize() for trial in study.trials()] for name, study in studies.items()}


def is_kept(done: Done, trial: vz.Trial | None) -> bool:
    if trial is None or not trial.is_completed or trial.infeasible != (done.value is None):
        return False
    final = trial.final_measurement
    return done.value is None or (final is not None and final.metrics["loss"].value == done.value)


def wait(server: Server, seconds: float, kill_every: float) -> int:
    """Waits, and meanwhile kills the server and starts it again.  Returns how often."""
    until, kills = time.monotonic() + seconds, 0
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, kill_every))
        if time.monotonic() < until:
            server.end(kill=True)
            server.start()
            kills += 1
    return kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--studies", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--trial-seconds", type=float, default=0.0, help="that a trial takes; default: none")
    parser.add_argument("--kill-every", type=float, metavar="MINUTES", help="kill the server and start it again")
    parser.add_argument("--checkpoint", default="nano", metavar="NAME|DIR")
    arguments = parser.parse_args()
    clients.environment_variables.new_suggestion_polling_secs = 0.02
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder, "studies.db"), Path(folder, "server.log"), arguments.checkpoint)
        load, names = Load(arguments.trial_seconds), [f"study-{number}" for number in range(arguments.studies)]
        with running(server), Service(server.endpoint) as service:
            studies = {name: service.study(config(), owner="benchmark", study_id=name) for name in names}
            for name in names:  # the largest sizes that are reached compile before the clock starts
                studies[name].suggest(count=1, client_id="first")[0].complete(vz.Measurement(metrics={"loss": 1.0}))
            memory = Memory(server)
            memory.start()
            began = time.monotonic()
            with load.running(server, studies, arguments.clients):
                kills = wait(server, 60 * arguments.minutes, 60 * (arguments.kill_every or math.inf))
            elapsed = time.monotonic() - began
            memory.ended.set()
            kept = kept_of(studies)
    lost, twice = load.faults(kept)
    print(
        "| clients | studies | minutes | kills | completed | lost | twice | failed calls | suggestions/s | median s "
        "| 99 % s | most MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    quantiles = statistics.quantiles(load.seconds, n=100) if len(load.seconds) > 1 else [0.0] * 99
    print(
        f"| {arguments.clients} | {arguments.studies} | {elapsed / 60:.1f} | {kills} | {len(load.done)} | {lost} "
        f"| {twice} | {len(load.failures)} | {len(load.seconds) / elapsed:.1f} | {quantiles[49]:.2f} "
        f"| {quantiles[98]:.2f} | {memory.most:.0f} |"
    )
    for failure in load.failures[:10]:
        print(failure, file=sys.stderr)
    return 1 if lost or twice or (load.failures and not kills) else 0


if __name__ == "__main__":
    sys.exit(main())
