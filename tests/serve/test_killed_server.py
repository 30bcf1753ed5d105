"""A server that is killed a hundred times in the middle of its calls loses nothing that a client was told."""

import random
import subprocess
import sys
import threading
import time

import grpc
import pytest
from vizier import pyvizier as vz
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer.serve import testing
from optformer.serve.client import Service

KILLS, WORKERS = 100, 3

SERVER = """
import sys
from optformer.serve.grpc_server import Settings, VizierServer
from optformer.serve.vizier import _default_factory
server = VizierServer(_default_factory(), sys.argv[1], Settings(port=int(sys.argv[2])))
print(server.port, flush=True)
server.wait()
"""


class Servers:
    """One server after the other, on one database and port."""

    def __init__(self, url):
        self.url, self.port = url, 0
        self.ended = threading.Event()

    def start(self):
        command = [sys.executable, "-c", SERVER, self.url, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        with self.process:  # closes the pipe
            self.process.kill()


class Worker(threading.Thread):
    """Asks and completes without a pause, and writes down what it was told had been done."""

    def __init__(self, servers, number):
        super().__init__()
        self.servers, self.client = servers, f"worker {number}"
        self.suggested, self.completed, self.interrupted = {}, {}, 0

    def run(self):
        while not self.servers.ended.is_set():
            try:
                with Service(f"127.0.0.1:{self.servers.port}", timeout=30.0) as service:
                    self.work(service.load("owners/me/studies/s"))
            except OSError:
                continue  # the server is gone; another comes
            except grpc.RpcError:
                self.interrupted += 1

    def work(self, study):
        while not self.servers.ended.is_set():
            (trial,) = study.suggest(count=1, client_id=self.client)
            parameters = trial.parameters
            assert self.suggested.setdefault(trial.id, parameters) == parameters
            value = testing.objective(parameters)
            try:
                trial.complete(vz.Measurement(metrics={"objective": value}))
            except grpc.RpcError as error:
                # Completed before the server died, but it had no time to say so.
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    raise
            self.completed[trial.id] = value


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(clients.environment_variables, "new_suggestion_polling_secs", 0.01)
    servers, chance = Servers(f"sqlite:///{tmp_path}/s.db"), random.Random(0)
    servers.start()
    config = svz.StudyConfig.from_problem(testing.mixed_problem())
    config.algorithm = "QUASI_RANDOM_SEARCH"
    with Service(f"127.0.0.1:{servers.port}") as service:
        service.study(config, owner="me", study_id="s")
    workers = [Worker(servers, number) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.1, 1.5))
        servers.kill()
        servers.start()
    time.sleep(2.0)  # the last server finishes what it finds
    servers.ended.set()
    for worker in workers:
        worker.join()

    with Service(f"127.0.0.1:{servers.port}") as service:
        trials = {trial.id: trial for trial in service.load("owners/me/studies/s").trials().get()}
    servers.kill()
    assert sorted(trials) == list(range(1, len(trials) + 1))
    handed = [number for worker in workers for number in worker.suggested]
    assert len(handed) == len(set(handed))  # no trial to two workers
    assert sum(worker.interrupted for worker in workers) > KILLS / 2
    for worker in workers:
        assert len(worker.completed) > KILLS / 10
        for number, parameters in worker.suggested.items():
            assert trials[number].parameters.as_dict() == pytest.approx(parameters)
        for number, value in worker.completed.items():
            assert trials[number].final_measurement.metrics["objective"].value == pytest.approx(value)
