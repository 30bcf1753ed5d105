"""`optformer serve`: a Vizier service with the algorithm OPTFORMER."""

import argparse
import dataclasses
import signal
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, Final

from optformer.extras import from_extra

if TYPE_CHECKING:
    from optformer.facade import OptFormer
    from optformer.serve.access import Access
    from optformer.serve.grpc_server import PythiaServer, VizierServer
    from optformer.serve.http_server import HttpServer
    from optformer.serve.prior_corpus import PriorCorpus

DATABASE: Final = "sqlite:///optformer-studies.db"
_LARGEST_PORT: Final = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database-url", metavar="URL", help=f"database of the studies; default: {DATABASE}")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    parser.add_argument(
        "--port", type=int, default=28080, help="port to listen on, 0 for any free one; default: %(default)s"
    )
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")
    parser.add_argument("--acquisition", default="ei", help="ei, pi, ucb, thompson or policy; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--pythia-for", metavar="HOST:PORT", help="only suggest, for studies that the service at this address stores"
    )
    parser.add_argument(
        "--pythia",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a server that studies may name as their pythia_endpoint, besides servers on this machine; repeatable",
    )
    parser.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="serve Prometheus metrics at this port of the same address"
    )
    parser.add_argument("--http", action="store_true", help="also serve JSON over HTTP, on the same address")
    parser.add_argument("--http-port", type=int, metavar="PORT", help="port of --http; default: 28081")
    parser.add_argument(
        "--prior-corpus",
        metavar="FILE",
        help="logged studies, in any format that `optformer corpus import` reads; a study that names no earlier ones"
        " uses the most similar of them",
    )
    parser.add_argument(
        "--lease",
        type=float,
        metavar="SECONDS",
        help="give the trials of a client to others after it has been silent for this long; default: never",
    )
    access = parser.add_argument_group("access; one of these is required to listen beyond this machine")
    access.add_argument("--token-file", metavar="FILE", help="callers send `authorization: Bearer TOKEN`")
    access.add_argument("--tls-certificate", metavar="PEM", help="certificate of this server")
    access.add_argument("--tls-key", metavar="PEM", help="private key of the certificate")
    access.add_argument(
        "--tls-client-authorities", metavar="PEM", help="authorities that must have signed the callers' certificates"
    )
    access.add_argument(
        "--tls-authorities",
        metavar="PEM",
        help="call other servers (--pythia, --pythia-for) over TLS: authorities that must have signed their "
        "certificates; this server presents its own token and certificate to them",
    )
    access.add_argument(
        "--insecure", action="store_true", help="no access control: whoever can reach the server may use it"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-studies", type=int, default=1000, help="studies per owner; default: %(default)s")
    limits.add_argument("--max-trials", type=int, default=10_000, help="trials per study; default: %(default)s")
    limits.add_argument("--max-megabytes", type=int, default=16, help="size of a request; default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM, then lets running calls end and returns 0.

    Raises:
      ValueError: arguments that exclude each other, a missing checkpoint, or an address beyond this machine without
        access control.
      OSError: the address or the database is in use.
    """
    from optformer.serve.access import Access, read_certificate, read_token

    if arguments.pythia_for and arguments.database_url:
        raise ValueError("--pythia-for uses the studies of another server: leave out --database-url")
    if arguments.pythia_for and arguments.pythia:
        raise ValueError("--pythia-for uses the studies of another server: give --pythia to that server")
    if arguments.pythia_for and arguments.http:
        raise ValueError("--pythia-for uses the studies of another server: give --http to that server")
    if arguments.http_port is not None and not arguments.http:
        raise ValueError("--http-port needs --http")
    if arguments.pythia_for and arguments.lease is not None:
        raise ValueError("--pythia-for uses the studies of another server: give --lease to that server")
    if arguments.lease is not None and not arguments.lease > 0.0:
        raise ValueError(f"--lease must be more than 0 seconds, not {arguments.lease:g}")
    for name in ("max_studies", "max_trials", "max_megabytes"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(arguments, name)}")
    for name in ("port", "http_port", "metrics_port"):
        # gRPC would take a larger number modulo 65536.
        if not 0 <= (getattr(arguments, name) or 0) <= _LARGEST_PORT:
            raise ValueError(
                f"--{name.replace('_', '-')} must be from 0 to {_LARGEST_PORT}, not {getattr(arguments, name)}"
            )
    access = Access(
        token=read_token(arguments.token_file) if arguments.token_file else None,
        certificate=read_certificate(arguments.tls_certificate),
        key=read_certificate(arguments.tls_key),
        client_authorities=read_certificate(arguments.tls_client_authorities),
        insecure=arguments.insecure,
    )
    access.check(arguments.host)  # before the slow loading of a model
    if not arguments.pythia_for:
        with from_extra("serve", user="the server"):
            from optformer.serve.datastore import check_database
        check_database(arguments.database_url or DATABASE)
    from optformer.inference.acquisition import check_acquisition

    check_acquisition(arguments.acquisition)
    model = _warm_model(arguments)
    server = make_server(arguments, access, model)
    try:
        http = _make_http_server(arguments, access, server, model) if arguments.http else None
    except BaseException:
        server.stop()
        raise
    print(f"OPTFORMER ({model.name}) at {server.endpoint}", flush=True)
    if http is not None:
        print(f"JSON over HTTP at {http.url}", flush=True)
    if arguments.metrics_port is not None:
        port = server.metrics.serve(arguments.host, arguments.metrics_port)
        print(f"metrics at http://{arguments.host}:{port}/metrics", flush=True)
    _stop_on_signals(server)
    server.wait()
    print("stopped", flush=True)
    return 0


def _warm_model(arguments: argparse.Namespace) -> "OptFormer":
    """Loads the model and suggests once, so that the first caller does not wait for compilation."""
    from optformer.facade import load

    model = load(arguments.checkpoint)
    model.warm_up()
    return model


def make_server(arguments: argparse.Namespace, access: "Access", model: "OptFormer") -> Any:
    """A running `VizierServer` or `PythiaServer`."""
    with from_extra("serve", user="the server"):
        from optformer.serve.channels import Credentials, PythiaServers
        from optformer.serve.grpc_server import PythiaServer, Settings, VizierServer
    from optformer.serve.access import read_certificate
    from optformer.serve.limits import Limits
    from optformer.serve.vizier import OptFormerPolicyFactory

    credentials = Credentials(access.token, read_certificate(arguments.tls_authorities), access.certificate, access.key)
    corpus = None if arguments.prior_corpus is None else _prior_corpus(arguments.prior_corpus)
    factory = OptFormerPolicyFactory(model, seed=arguments.seed, acquisition=arguments.acquisition, prior_corpus=corpus)
    settings = dataclasses.replace(
        Settings(), host=arguments.host, port=arguments.port, message_bytes=arguments.max_megabytes * 2**20
    )
    if arguments.pythia_for:
        return PythiaServer(factory, arguments.pythia_for, settings, access, credentials=credentials)
    limits = dataclasses.replace(Limits(), studies=arguments.max_studies, trials=arguments.max_trials)
    servers = PythiaServers(arguments.pythia, credentials)
    url = arguments.database_url or DATABASE
    return VizierServer(factory, url, settings, access, limits, pythia_servers=servers, lease_seconds=arguments.lease)


def _prior_corpus(path: str) -> "PriorCorpus":
    """Reads the earlier studies at `path` and prints how many there are.

    Raises:
      ValueError: `path` cannot be read, or none of its studies has a finished trial.
    """
    from optformer.data.sources import Quarantined, read
    from optformer.serve.prior_corpus import PriorCorpus

    corpus = PriorCorpus(study for study in read(path) if not isinstance(study, Quarantined))
    if not len(corpus):
        raise ValueError(f"--prior-corpus {path}: no study has a finished trial")
    print(f"{len(corpus)} earlier studies in {path}", flush=True)
    return corpus


def _make_http_server(
    arguments: argparse.Namespace, access: "Access", server: "VizierServer", model: "OptFormer"
) -> "HttpServer":
    """A running `HttpServer` for the studies of a `VizierServer`; it stops together with that server."""
    with from_extra("serve", user="the server"):
        from optformer.serve.http_server import HTTP_PORT, HttpServer

    port = HTTP_PORT if arguments.http_port is None else arguments.http_port
    settings = dataclasses.replace(server.settings, port=port)
    http = HttpServer(server.service, model, settings, access, server.metrics)
    server.stop_with(http.stop)
    return http


def _stop_on_signals(server: "VizierServer | PythiaServer") -> None:
    """Makes SIGINT and SIGTERM stop the server in a new thread, because a signal handler must not block."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        print("stopping: waiting for running calls to end", file=sys.stderr, flush=True)
        threading.Thread(target=server.stop, name="stop").start()
        # A second signal ends the process at once.
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
