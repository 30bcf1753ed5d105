"""Whether `optformer serve` survives what it must: kills, full disks, a held database, malformed calls, silent callers.

    python benchmarks/robustness.py [--checkpoint nano]

Starts servers of its own, each with a database on disk and clients of both protocols that ask for trials and complete
them without a pause (the clients of `load.py`; the studies take Vizier's quasi-random search, which needs no model).
Meanwhile one thing goes wrong:

* The disk is full, five times, with room for another number of pages each time, so that another step of a write fails.
  The disk is a small tmpfs that only the server sees: Linux with `unshare` and user namespaces, no root rights needed.
* Another program reads the database for 12 seconds and so keeps the server from writing.
* 2,000 malformed HTTP calls and 1,500 malformed gRPC calls come (`optformer.serve.malformed_calls`, from a fixed seed),
  while 300 connections are held open that send nothing, half of their headers, or a body byte by byte.
* The server is killed (SIGKILL) in the middle of its calls, and started again, 20 times.

Prints a table of bars, and exits with 1 if one is not met.  Random search spaces are tested elsewhere:
`pytest -m slow tests/serve/test_random_studies.py`.
"""

import argparse
import collections
import contextlib
import http.client
import json
import random
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import grpc
from load import Load, Memory, Server, config, kept_of, over_grpc, over_http, running
from vizier.service import clients

from optformer.serve.client import Service
from optformer.serve.malformed_calls import STUDIES, STUDY, grpc_call, http_call, send

CLIENTS, STUDY_COUNT = 8, 4
KILLS = 20
FREE_PAGES = (0, 1, 2, 3, 5)
FULL_SECONDS, READ_SECONDS = 4.0, 12.0
HTTP_CALLS, GRPC_CALLS, SILENT = 2000, 1500, 300
CALLERS = 3
"""That make malformed calls at once, of each protocol."""
ANSWER_SECONDS = 30.0
"""Within which a server must answer again."""
MEGABYTES = 150
PAGE = 4096
FAULTS = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED")
"""Statuses of gRPC that no malformed call gets."""
HALF_A_HEAD = b"POST /v1/owners/me/studies HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
SILENCE = {
    "HTTP": (b"", HALF_A_HEAD, HALF_A_HEAD + b"content-length: 100000\r\n\r\n"),
    "gRPC": (b"", b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])),
}
"""What silent connections send at first."""


class Bar(NamedTuple):
    """Attributes: least, most: what the figure must be; neither: it tells how hard the test was."""

    name: str
    figure: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return not (
            (self.least is not None and self.figure < self.least) or (self.most is not None and self.figure > self.most)
        )

    def row(self) -> str:
        bar = "" if self.least is None else f"at least {self.least:g}"
        if self.most is not None:
            bar = f"at most {self.most:g}" if self.most else "none"
        figure = f"{self.figure:.0f}" if self.figure == int(self.figure) else f"{self.figure:.1f}"
        met = ("yes" if self.met else "no") if bar else ""
        return f"| {self.name} | {bar} | {figure} | {met} |"


def studies_of(service: Service) -> dict[str, clients.Study]:
    names = [f"study-{number}" for number in range(STUDY_COUNT)]
    made = config("QUASI_RANDOM_SEARCH")
    return {name: service.study(made, owner="benchmark", study_id=name) for name in names}


def kept_bars(what: str, load: Load, studies: dict[str, clients.Study]) -> list[Bar]:
    lost, twice = load.faults(kept_of(studies))
    return [
        Bar(f"{what}: trials whose completion was acknowledged", len(load.done)),
        Bar(f"{what}: of these lost", lost, most=0),
        Bar(f"{what}: trials given out or created twice", twice, most=0),
    ]


def seconds_to_answer(server: Server, study: clients.Study, name: str) -> float:
    """Until a trial has been asked for and completed over each protocol; more than `ANSWER_SECONDS`: it was not."""
    began = time.monotonic()
    for ask, complete in (over_grpc(study, "who waits"), over_http(server.port, name, "who waits too")):
        while time.monotonic() - began < ANSWER_SECONDS:
            with contextlib.suppress(Exception):
                complete(ask()[0], None)
                break
            time.sleep(0.05)
        else:
            break
    return time.monotonic() - began


def tracebacks(server: Server) -> int:
    return server.log.read_text().count("Traceback (most recent call last)")


def killed(server: Server) -> list[Bar]:
    chance, load, again = random.Random(0), Load(), 0
    with running(server), Service(server.endpoint) as service:
        studies = studies_of(service)
        with load.running(server, studies, CLIENTS):
            for _ in range(KILLS):
                before = len(load.done)
                while len(load.done) < before + CLIENTS:  # the load goes on
                    time.sleep(0.05)
                time.sleep(chance.uniform(0.0, 1.0))
                server.end(kill=True)
                server.start()
                again += seconds_to_answer(server, studies["study-0"], "study-0") < ANSWER_SECONDS
        bars = kept_bars(f"{KILLS} kills", load, studies)
    return [
        *bars,
        Bar(f"{KILLS} kills: calls that failed or found no server", len(load.failures)),
        Bar(f"{KILLS} kills: servers that answered after a restart", again, least=KILLS),
    ]


def refusal_bars(what: str, load: Load, slowest: float, server: Server) -> list[Bar]:
    """Of clients whom the database failed for a while."""
    wrong = [said for said in load.failures if "503:" not in said and "UNAVAILABLE" not in said]
    print(*wrong[:10], sep="\n", file=sys.stderr)
    return [
        Bar(f"{what}: calls rejected with 503 or UNAVAILABLE", len(load.failures) - len(wrong)),
        Bar(f"{what}: calls that failed otherwise", len(wrong), most=0),
        Bar(f"{what}: seconds until both protocols answer again", slowest, most=ANSWER_SECONDS),
        Bar(f"{what}: tracebacks in the log", tracebacks(server), most=0),
    ]


@contextlib.contextmanager
def full(disk: Path, pages: int) -> Iterator[None]:
    """While a disk has room for so many pages."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        file.truncate(max(0, ballast.stat().st_size // PAGE - pages) * PAGE)
    try:
        yield
    finally:
        ballast.unlink()


def disk_full(server: Server, disk: Path) -> list[Bar]:
    load, slowest, failed = Load(), 0.0, 0
    with running(server), Service(server.endpoint) as service:
        studies = studies_of(service)
        seen = Path(f"/proc/{server.process.pid}/root{disk}")
        with load.running(server, studies, CLIENTS):
            for pages in FREE_PAGES:
                time.sleep(1.0)
                before = len(load.failures)
                with full(seen, pages):
                    time.sleep(FULL_SECONDS)
                slowest = max(slowest, seconds_to_answer(server, studies["study-0"], "study-0"))
                failed += len(load.failures) > before
        disks = len(FREE_PAGES)
        what = f"{disks} full disks"
        return [
            Bar(f"{what}: disks that made calls fail", failed, least=disks),
            *kept_bars(what, load, studies),
            *refusal_bars(what, load, slowest, server),
        ]


def held(server: Server, database: Path) -> list[Bar]:
    load = Load()
    with running(server), Service(server.endpoint) as service:
        studies = studies_of(service)
        with load.running(server, studies, CLIENTS):
            time.sleep(1.0)
            with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM trials").fetchall()
                time.sleep(READ_SECONDS)
            slowest = seconds_to_answer(server, studies["study-0"], "study-0")
        what = "database locked by a reader"
        return [*kept_bars(what, load, studies), *refusal_bars(what, load, slowest, server)]


class Silent:
    """Connections that never make a call; one that the server closes is opened again."""

    def __init__(self, ports: dict[str, int]):
        kinds = [(ports[protocol], sent) for protocol, all_sent in SILENCE.items() for sent in all_sent]
        self._kinds = [kinds[number % len(kinds)] for number in range(SILENT)]
        self._open = [self._connect(*kind) for kind in self._kinds]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._trickle)
        self._thread.start()

    @staticmethod
    def _connect(port: int, sent: bytes) -> socket.socket | None:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=10.0)
            connection.sendall(sent)
        except OSError:
            return None
        connection.setblocking(False)
        return connection

    def _trickle(self) -> None:
        while not self._ended.wait(2.0):
            for number, (port, sent) in enumerate(self._kinds):
                connection = self._open[number]
                try:
                    if connection is None:
                        raise ConnectionError
                    if sent.startswith(HALF_A_HEAD):
                        connection.send(b" " if sent.endswith(b"\r\n\r\n") else b"a: b\r\n")
                    if connection.recv(65536) == b"":
                        raise ConnectionError
                except BlockingIOError:
                    continue
                except OSError:
                    if connection is not None:
                        connection.close()
                    self._open[number] = self._connect(port, sent)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for connection in self._open:
            if connection is not None:
                connection.close()


def warm(server: Server) -> None:
    """Has the server do once what malformed calls may have it do: what it keeps of that is no leak."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    for verb, path, body in (
        ("POST", STUDIES, STUDY),
        ("POST", f"{STUDIES}/s/suggestions", {"client_id": "worker"}),
        ("POST", f"{STUDIES}/s/trials/1/complete", {"metrics": {"objective": 1.0}}),
        ("POST", f"{STUDIES}/s/predictions", {"candidates": [{"dropout": 0.5, "optimizer": "adam"}]}),
        ("GET", "/owners/me/studies/s", None),
        ("GET", "/openapi.json", None),
    ):
        content = None if body is None else json.dumps(body)
        connection.request(verb, path, content, {} if body is None else {"content-type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 200, (verb, path, reply.status)
    connection.close()


def many_http(port: int, seed: int, calls: int) -> collections.Counter[str]:
    chance, seen = random.Random(seed), collections.Counter[str]()
    for _ in range(calls):
        call = http_call(chance)
        try:
            status, _ = send(port, call)
            seen["no answer" if status is None and call.whole else str(status)] += 1
        except OSError as error:
            seen[type(error).__name__] += 1
    return seen


def many_grpc(endpoint: str, seed: int, calls: int) -> collections.Counter[str]:
    chance, seen = random.Random(seed), collections.Counter[str]()
    with grpc.insecure_channel(endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        for _ in range(calls):
            call = grpc_call(chance)
            try:
                channel.unary_unary(f"/vizier.VizierService/{call.method}")(call.content, timeout=60.0)
                seen["OK"] += 1
            except grpc.RpcError as error:
                seen[error.code().name] += 1
    return seen


def malformed(server: Server) -> list[Bar]:
    load = Load()
    with running(server), Service(server.endpoint) as service:
        warm(server)
        studies = studies_of(service)
        for study in studies.values():
            seconds_to_answer(server, study, study.resource_name.rpartition("/")[2])
        memory = Memory(server)
        before = memory.now()
        silent = Silent({"HTTP": server.port, "gRPC": int(server.endpoint.rpartition(":")[2])})
        memory.start()
        try:
            with load.running(server, studies, 2), futures.ThreadPoolExecutor(2 * CALLERS) as pool:
                over = [pool.submit(many_http, server.port, seed, HTTP_CALLS // CALLERS + 1) for seed in range(CALLERS)]
                over_rpc = [
                    pool.submit(many_grpc, server.endpoint, seed, GRPC_CALLS // CALLERS) for seed in range(CALLERS)
                ]
                statuses = sum((future.result() for future in over), collections.Counter[str]())
                codes = sum((future.result() for future in over_rpc), collections.Counter[str]())
        finally:
            silent.close()
            memory.ended.set()
            memory.join()
        time.sleep(5.0)
        kept = kept_bars("valid calls during malformed ones", load, studies)
        after = memory.now()
    print(f"HTTP: {dict(statuses)}; gRPC: {dict(codes)}", *load.failures[:10], sep="\n", file=sys.stderr)
    wrong_http = sum(
        count for said, count in statuses.items() if said.startswith("5") or not (said.isdigit() or said == "None")
    )
    wrong_grpc = sum(codes[code] for code in FAULTS)
    slowest = max(load.seconds, default=ANSWER_SECONDS)
    return [
        Bar("malformed HTTP calls", statuses.total()),
        Bar("malformed HTTP calls: answered with 5xx, or with valid headers but not answered", wrong_http, most=0),
        Bar("malformed gRPC calls", codes.total()),
        Bar(f"malformed gRPC calls: answered {', '.join(FAULTS)}", wrong_grpc, most=0),
        Bar("silent connections kept open meanwhile", SILENT),
        Bar("malformed calls: tracebacks in the log", tracebacks(server), most=0),
        *kept,
        Bar("valid calls during malformed ones: failed calls", len(load.failures), most=0),
        Bar("valid calls during malformed ones: seconds of the slowest suggestion", slowest, most=ANSWER_SECONDS),
        Bar("MB of memory before malformed calls", before),
        Bar("highest MB above that during malformed calls", memory.most - before, most=MEGABYTES),
        Bar("MB above that afterwards", after - before, most=MEGABYTES),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="nano", metavar="NAME|DIR")
    checkpoint = parser.parse_args().checkpoint
    clients.environment_variables.new_suggestion_polling_secs = 0.02
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disk = folder / "disk"
        disk.mkdir()
        small = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        small += ['mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"', str(disk)]

        def server(name: str, database: Path | None = None, within: list[str] | None = None) -> Server:
            return Server(database or folder / f"{name}.db", folder / f"{name}.log", checkpoint, within or ())

        parts: tuple[Callable[[], list[Bar]], ...] = (
            lambda: malformed(server("malformed")),
            lambda: disk_full(server("full", disk / "studies.db", small), disk),
            lambda: held(server("held"), folder / "held.db"),
            lambda: killed(server("killed")),
        )
        print("| what | target | figure | met |", "|---|---|---|---|", sep="\n")
        for part in parts:
            made = part()
            print(*(bar.row() for bar in made), sep="\n", flush=True)
            bars += made
    return 0 if all(bar.met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
