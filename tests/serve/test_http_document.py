"""The OpenAPI description, and the examples of the document."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
from http_calls import SECONDS, new_study

pytestmark = pytest.mark.integration


DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"


@pytest.fixture(scope="module")
def description(both):
    status, _, answer = both.call("GET", "/openapi.json")
    assert status == 200
    return answer


def validate(description, part, value):
    jsonschema.Draft202012Validator({**part, "components": description["components"]}).validate(value)


def described(description, method, path):
    """The description of a call, found by its path."""
    for template, calls in description["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path.partition("?")[0]) and method.lower() in calls:
            return calls[method.lower()]
    raise AssertionError(f"{method} {path} is not described")


def test_the_description_is_complete(description):
    for template, calls in description["paths"].items():
        for method, call in calls.items():
            assert call["description"], f"{method} {template}"
            if template.startswith("/v1/"):
                assert call["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith(
                    "/ErrorReply"
                )
    names = [call["operationId"] for calls in description["paths"].values() for call in calls.values()]
    assert len(set(names)) == len(names)
    for schema in description["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(description)
    assert "HTTPValidationError" not in text
    assert "securitySchemes" not in text  # this server wants no token


def test_there_are_no_pages_that_load_code_from_elsewhere(both):
    for path in ("/docs", "/redoc"):
        assert both.call("GET", path)[0] == 404


def examples():
    """Method, path under the owner's studies, and body of every curl call of the document."""
    shell = DOCUMENT.read_text().split("```sh")[1].split("```")[0].replace('"$json"', "JSON")
    pattern = r"""^curl (?:-X (?P<method>\w+) )?(?:-H JSON )?"?\$at(?P<path>[^\s"]*)"?(?: -d '(?P<body>[^']*)')?$"""
    found = [match.groupdict() for match in re.finditer(pattern, shell, re.MULTILINE)]
    assert len(found) == shell.count("\ncurl ")
    assert len(found) > 10
    return [
        (call["method"] or ("POST" if call["body"] else "GET"), call["path"], json.loads(call["body"] or "null"))
        for call in found
    ]


def test_the_examples_of_the_document_work_and_fit_the_description(owner, description):
    for method, path, body in examples():
        call = described(description, method, owner.root + path)
        if body is not None:
            validate(description, call["requestBody"]["content"]["application/json"]["schema"], body)
        answer = owner.done(method, path, body)
        if answer:
            validate(description, call["responses"]["200"]["content"]["application/json"]["schema"], answer)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_javascript_of_the_document_runs(owner, tmp_path):
    script = DOCUMENT.read_text().split("```js\n")[1].split("```")[0]
    address = "http://127.0.0.1:28081/v1/owners/me/studies/resnet"
    assert address in script
    script = script.replace(address, f"{owner.both.http.url}{owner.root}/s")
    owner.done("POST", body=new_study(metrics=[{"name": "loss", "goal": "minimize"}]))
    file = tmp_path / "example.mjs"
    file.write_text(f"const train = (parameters) => parameters.dropout;\n{script}")
    done = subprocess.run(["node", file], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    (trial,) = owner.done("GET", "/s/optimal_trials")["trials"]
    assert trial["final_measurement"]["metrics"] == {"loss": trial["parameters"]["dropout"]}
