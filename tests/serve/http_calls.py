"""Calls of the HTTP API as its callers make them: real requests to a real server."""

import http.client
import json

from optformer.serve.grpc_server import Settings, VizierServer
from optformer.serve.http_server import HttpServer
from optformer.serve.vizier import OptFormerPolicyFactory

SECONDS = 60.0
"""After which a request counts as lost."""


def request(port, method, path, body=None, headers=None):
    """Status, headers and what the JSON of the reply says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, {"content-type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        text = reply.read()
    finally:
        connection.close()
    is_json = (reply.getheader("content-type") or "").startswith("application/json")
    return reply.status, reply.headers, json.loads(text) if is_json and text else text.decode()


class Both:
    """A server of both protocols."""

    def __init__(self, model, database_url, limits=None, seed=1):
        factory = OptFormerPolicyFactory(model, seed=seed)
        settings = Settings(port=0, grace_seconds=1.0)
        self.vizier = VizierServer(factory, database_url, settings, limits=limits)
        self.http = HttpServer(self.vizier.service, model, settings, metrics=self.vizier.metrics)
        self.vizier.stop_with(self.http.stop)

    def call(self, method, path, body=None):
        return request(self.http.port, method, path, body)


SPACE = [
    {"type": "float", "name": "learning_rate", "min": 1e-5, "max": 1, "scale": "log"},
    {"type": "float", "name": "dropout", "min": 0, "max": 0.9},
    {"type": "int", "name": "layers", "min": 1, "max": 12},
    {"type": "discrete", "name": "batch_size", "values": [16, 32, 64, 128]},
    {"type": "categorical", "name": "optimizer", "values": ["adam", "sgd", "lion"]},
]
"""`testing.mixed_problem`."""
GOOD = {"learning_rate": 0.1, "dropout": 0.1, "layers": 3, "batch_size": 32, "optimizer": "adam"}
METRICS = [{"name": "objective", "goal": "minimize"}]
FREE = {"safety_threshold": None, "desired_min_safe_trials_fraction": None}


def new_study(name="s", **changes):
    return {
        "name": name,
        "search_space": SPACE,
        "metrics": METRICS,
        "algorithm": "QUASI_RANDOM_SEARCH",
    } | changes


class Owner:
    """Calls for one owner; whatever is no success raises."""

    def __init__(self, both, name):
        self.both, self.name, self.root = both, name, f"/v1/owners/{name}/studies"

    def call(self, method, path="", body=None):
        return self.both.call(method, self.root + path, body)

    def done(self, method, path="", body=None):
        status, _, answer = self.call(method, path, body)
        assert status in (200, 204), answer
        return answer

    def refused(self, method, path="", body=None):
        status, headers, answer = self.call(method, path, body)
        assert status >= 400
        assert headers["content-type"] == "application/json"
        assert answer.keys() == {"error"}
        assert answer["error"].keys() == {"code", "message"}
        return status, answer["error"]["code"], answer["error"]["message"]

    def suggest(self, count=1, client="worker"):
        return self.done("POST", "/s/suggestions", {"client_id": client, "count": count})["trials"]
