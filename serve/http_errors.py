"""Errors of the HTTP API, all with the body `{"error": {"code": ..., "message": ...}}`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from optformer.serve.http_schema import ErrorReply, Fault

_LONGEST: Final = 2000
"""Largest number of characters of a message."""
_PATHS: Final = {
    HTTPStatus.NOT_FOUND: ("NOT_FOUND", "no such path; /openapi.json describes all paths"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("METHOD_NOT_ALLOWED", "this path does not support this method"),
    HTTPStatus.BAD_REQUEST: ("INVALID_ARGUMENT", "the body is not valid JSON"),
}
_LONGEST_NAME: Final = 100
"""Largest number of characters of a quoted name: a longer one would leave no room for what is wrong with it."""
_PHRASES: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "model_attributes_type": "should be an object",
    "string_pattern_mismatch": "has a slash or a control character",
    "string_unicode": "is not valid Unicode text",
    "union_tag_not_found": "has no `type`",
}


class Refusal(Exception):
    """Exception that makes the server answer with this status, code, message and headers."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def response(self) -> Response:
        # A message quotes the caller's input, which may be long or contain lone surrogates.
        message = self.message[:_LONGEST].encode("utf-8", "backslashreplace").decode()
        content = ErrorReply(error=Fault(code=self.code, message=message)).model_dump_json()
        return Response(content, self.status, self.headers, media_type="application/json")


def answer_errors(app: FastAPI) -> None:
    """Makes the application answer its own errors and those of FastAPI with this body."""

    async def refused(request: Request, error: Refusal) -> Response:
        return error.response()

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if error.errors()[0]["type"] == "json_invalid":
            said = f"the body is not valid JSON: {error.errors()[0]['ctx']['error']}"
            return Refusal(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", said).response()
        said = validation_sentence(error, request.path_params)
        return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_ARGUMENT", said).response()

    async def failed(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        code, said = _PATHS.get(status, (status.name, str(error.detail)))
        return Refusal(status, code, said, error.headers).response()

    app.exception_handler(Refusal)(refused)
    app.exception_handler(RequestValidationError)(invalid)
    app.exception_handler(HTTPException)(failed)


def validation_sentence(error: RequestValidationError, path: Mapping[str, object]) -> str:
    """A message about the first invalid field of a request, with the study, trial and parameter."""
    first = error.errors()[0]
    fields, parameters = _place(first, error.body)
    study = path.get("study") or (error.body.get("name") if isinstance(error.body, dict) else None)
    where = [f"study {_short(study)!r}"] if isinstance(study, str) else []
    where += [f"trial {path['trial']}"] if "trial" in path and first["loc"][0] != "path" else []
    where += [f"parameter {_short(name)!r}" for name in parameters]
    same_place = [other for other in error.errors() if _place(other, error.body)[0] == fields]
    first = next((other for other in same_place if other["type"] == "value_error"), first)
    if first["type"] == "union_tag_invalid":
        said = f"has an unknown `type`; known are {first['ctx']['expected_tags']}"
    elif first["type"] != "value_error" and len(same_place) > 1:  # one for each type that a value may have
        said = "should be a finite number, a string, true or false"
    else:
        said = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        said = _PHRASES.get(first["type"], said[:1].lower() + said[1:])
    sentence = f"{fields or 'the body'} {said}"
    return f"{', '.join(where)}: {sentence}" if where else sentence


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def _place(error: Mapping[str, Any], body: object) -> tuple[str, list[str]]:
    """The field as a path, and the names of the parameters of the search space that contain it."""
    fields, parameters, node = "", [], body
    kind, *steps = error["loc"]
    for index, step in enumerate(steps):
        if isinstance(node, list) and isinstance(step, int) and step < len(node):
            node = node[step]
            fields += f"[{step}]"
            if isinstance(node, dict) and isinstance(node.get("name"), str) and "type" in node:
                parameters.append(node["name"])
        elif isinstance(node, dict) and step in node:
            node = node[step]
            fields += f".{_short(str(step))}"
        elif kind != "body" or (index == len(steps) - 1 and error["type"] == "missing"):
            fields += f".{_short(str(step))}"
        # Other elements are names of the types that were tried, not fields.
    return fields.removeprefix("."), parameters
