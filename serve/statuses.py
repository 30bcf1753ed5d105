"""Statuses of failed calls: maps exceptions to gRPC and HTTP statuses."""

from http import HTTPStatus
from typing import Final

import grpc
from sqlalchemy import exc as database_errors
from vizier._src.service import custom_errors
from vizier._src.service.grpc_util import LocalRpcError

from optformer.serve.limits import LimitError
from optformer.serve.policies import SuggestionError
from optformer.terminal import shown

_STATUSES: Final[tuple[tuple[type[Exception], grpc.StatusCode], ...]] = (
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (custom_errors.AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (custom_errors.ImmutableStudyError, grpc.StatusCode.FAILED_PRECONDITION),
    (custom_errors.ImmutableTrialError, grpc.StatusCode.FAILED_PRECONDITION),
    (KeyError, grpc.StatusCode.NOT_FOUND),  # `NotFoundError` is a subclass
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),
    (database_errors.OperationalError, grpc.StatusCode.UNAVAILABLE),
)
"""Exceptions -> status; the first match counts, and others are INTERNAL."""

_LONGEST: Final = 2000
"""Largest number of characters of a message: it may quote long input, and gRPC sends it in a header."""
_HTTP: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.UNPROCESSABLE_ENTITY,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status of a failed call, and a message for the caller without control characters."""
    code, said = _status_of(error)
    return code, shown(said)[:_LONGEST]


def _status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, LocalRpcError):  # raised by Vizier, with UNKNOWN for a ValueError
        code = error.code()
        return grpc.StatusCode.INVALID_ARGUMENT if code is grpc.StatusCode.UNKNOWN else code, error.details() or ""
    if isinstance(error, SuggestionError):  # with its reason, for the operation
        return error.code(), str(error)
    for kind, code in _STATUSES:
        if isinstance(error, kind):
            # str() of a KeyError puts its text in quotes.
            said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            if code is grpc.StatusCode.UNAVAILABLE:
                said = "the database does not answer; try again"
            return code, said
    return grpc.StatusCode.INTERNAL, f"internal error ({type(error).__name__}); the server's log has the details"


def http_status(code: grpc.StatusCode) -> HTTPStatus:
    """The corresponding HTTP status; 500 for internal errors."""
    return _HTTP.get(code, HTTPStatus.INTERNAL_SERVER_ERROR)
