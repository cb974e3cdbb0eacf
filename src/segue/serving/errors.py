"""Uniform error responses that never repeat the text of a request.

All errors use :class:`segue.serving.schemas.ErrorResponse`. Text is not echoed: it may be long and may identify people.
Exceptions are names of models and values of item features. Numbers, booleans and null are echoed. For an unhandled
error the client receives only the request id; the log receives the stack without the exception's message, which may
contain request content too (``KeyError: 'alice'``).
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from segue.serving.route_templates import RouteTemplates
from segue.serving.schemas import ErrorResponse

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

__all__ = [
    "DEFAULT_ERRORS",
    "ApiError",
    "describe_value",
    "error_body",
    "error_headers",
    "format_traceback",
    "register_exception_handlers",
]

DEFAULT_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("invalid", "bad request"),
    401: ("unauthorized", "an API key is required: Authorization: Bearer segue_..., or X-API-Key"),
    403: ("forbidden", "this API key does not permit the operation"),
    404: ("not_found", "not found"),
    405: ("method_not_allowed", "method not allowed"),
    408: ("request_timeout", "request timeout"),
    409: ("conflict", "conflict with the current state"),
    413: ("too_large", "request body too large"),
    414: ("too_large", "URI too long"),
    415: ("unsupported_media_type", "expected an uncompressed body with Content-Type: application/json"),
    421: ("misdirected_request", "this service does not serve the host name in Host"),
    422: ("invalid", "invalid request"),
    429: ("rate_limited", "rate limit exceeded for this client; try again later"),
    500: ("internal_error", "internal server error; the log has details under the request_id"),
    503: ("overloaded", "service overloaded; nothing was changed; try again later"),
}
"""Default error code and message by status."""

MAX_FIELDS, MAX_TEXT, MAX_NAME = 20, 300, 64
"""Maximum number of fields reported, and maximum length of a message and of a field name."""
MAX_ERRORS = 100
"""Maximum number of validation errors examined, as a body can contain any number."""

NO_VALUE = ("missing", "extra_forbidden", "too_long", "too_short", "too_many_keys", "contradiction", "json_invalid")
"""Types of validation errors that do not concern a single value."""

LOCATION_TAG = re.compile(
    r"(?:constrained-)?(?:str|int|float)|bool|HistoryEvent|(?:list|dict|tagged-union|union|nullable)\[.*\]|function-.*"
)
"""Names that pydantic inserts between field names for the members of a union."""

TYPE_NAMES = {
    "string_type": "text",
    "bool_type": "a truth value",
    "int_type": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
}
"""What is expected, by type of validation error, where a field may have several types."""

logger = logging.getLogger("segue.serving.errors")


class ApiError(Exception):
    """HTTP error to send to the client.

    Args:
        status: HTTP status, at least 400.
        error: error code; default: that of the status in :data:`DEFAULT_ERRORS`.
        message: plain text without request content.
        fields: errors by field, such as ``history[3].value``.
        retry_after: seconds after which a retry may succeed.
        allow: methods that the path supports.
    """

    def __init__(
        self,
        status: int,
        error: str | None = None,
        message: str | None = None,
        fields: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        allow: Sequence[str] = (),
    ) -> None:
        code, text = DEFAULT_ERRORS.get(status, DEFAULT_ERRORS[500 if status >= 500 else 400])
        self.status, self.error, self.message = status, error or code, message or text
        self.fields, self.retry_after, self.allow = dict(fields or {}), retry_after, allow
        super().__init__(f"{status} {self.error}: {self.message}")


def error_body(error: ApiError, request_id: str) -> bytes:
    """Return the response body as JSON."""
    fields = {_limit_name(name): _limit_text(text) for name, text in list(error.fields.items())[:MAX_FIELDS]}
    response = ErrorResponse(
        error=error.error, message=_limit_text(error.message), fields=fields, request_id=request_id
    )
    return response.model_dump_json().encode()


def error_headers(error: ApiError) -> dict[str, str]:
    """Return the response headers."""
    headers = {"content-type": "application/json"}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="segue"'
    if error.allow:
        headers["allow"] = ", ".join(error.allow)
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, -int(-error.retry_after // 1)))
    return headers


def register_exception_handlers(app: FastAPI) -> None:
    """Make the application answer every error with an ``ErrorResponse``.

    See :class:`segue.serving.schemas.ErrorResponse`. Unhandled exceptions are logged with the request id, and the
    client receives only that id.
    """
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    app.router.redirect_slashes = False  # a trailing slash gives 404, not a redirect
    app.add_exception_handler(ApiError, _handle_api_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _handle_validation_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, partial(_handle_http_exception, RouteTemplates(app.routes)))
    app.add_exception_handler(Exception, _handle_unhandled_error)


def format_traceback(error: BaseException) -> str:
    """Format an exception and its causes with their types and stacks.

    Messages and values are left out. System errors include their number, such as ``OSError 28``.
    """
    parts: list[str] = []
    visited: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in visited:
        visited.add(id(current))
        name = f"{type(current).__module__}.{type(current).__qualname__}".removeprefix("builtins.")
        number = f" {current.errno}" if isinstance(current, OSError) and current.errno is not None else ""
        parts.append("".join(traceback.format_tb(current.__traceback__)) + name + number)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\n".join(reversed(parts))


def _error_response(request: Request, error: ApiError, extra: Mapping[str, str] | None = None) -> Response:
    from fastapi import Response

    body = error_body(error, _request_id(request))
    return Response(body, error.status, {**error_headers(error), **(extra or {})})


async def _handle_api_error(request: Request, error: ApiError) -> Response:
    return _error_response(request, error)


async def _handle_http_exception(routes: RouteTemplates, request: Request, error: HTTPException) -> Response:
    """Convert an error of the framework to an error response.

    Of its headers, only ``Allow`` and ``Retry-After`` are kept.
    """
    extra = {name: value for name, value in (error.headers or {}).items() if name.lower() in ("allow", "retry-after")}
    if error.status_code == 405 and (methods := routes.allowed_methods(str(request.scope["path"]))):
        # the framework lists the methods of only one of several routes
        return _error_response(request, ApiError(405, allow=methods))
    return _error_response(request, ApiError(error.status_code), extra)


async def _handle_validation_error(request: Request, error: RequestValidationError) -> Response:
    """Report validation errors of pydantic without values.

    The status is 400 for malformed JSON, otherwise 422.
    """
    details = error.errors()[:MAX_ERRORS]
    if details[0]["type"] == "json_invalid":
        position = details[0]["loc"][-1]
        where = f" at character {position}" if position >= 0 else ""
        message = f"the body is not valid JSON{where}: {details[0].get('ctx', {}).get('error', '')}"
        return _error_response(request, ApiError(400, message=message))
    by_field: dict[str, list[Mapping[str, Any]]] = {}
    for detail in details:
        by_field.setdefault(_field_path(detail["loc"]), []).append(detail)
    fields = {name: _limit_text(_describe_errors(errors)) for name, errors in by_field.items()}
    for name in [name for name in by_field if _is_mixed_list(name, by_field)]:
        fields = {other: text for other, text in fields.items() if not other.startswith(f"{name}[")}
        fields[name] = "expected a list of texts or a list of numbers, got a list with other or different elements"
    for name in [name for name in fields if any(other.startswith((f"{name}.", f"{name}[")) for other in fields)]:
        del fields[name]  # another member of the field's union, which the client did not mean
    first = next(iter(fields), "")
    more = f", and {len(fields) - 1} more" if len(fields) > 1 else ""
    return _error_response(request, ApiError(422, message=f"{first}: {fields.get(first, '')}{more}", fields=fields))


async def _handle_unhandled_error(request: Request, error: Exception) -> Response:
    """Log an unhandled error and mark it as logged for the security middleware."""
    request.scope.setdefault("state", {})["error_logged"] = True
    logger.error("unhandled error", extra={"request_id": _request_id(request), "traceback": format_traceback(error)})
    return _error_response(request, ApiError(500))


def _request_id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


def _field_path(loc: Sequence[Any]) -> str:
    """Convert a pydantic location to a field path.

    ``("body", "history", 3, "HistoryEvent", "value")`` becomes ``history[3].value``.
    """
    text = ""
    for part in loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not LOCATION_TAG.fullmatch(str(part)):
            text += ("." if text else "") + _limit_name(str(part))
    return text or (str(loc[0]) if loc else "body")


def _is_mixed_list(name: str, by_field: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Return whether a list of texts or of numbers is neither."""
    elements = [details for other, details in by_field.items() if re.fullmatch(rf"{re.escape(name)}\[\d+\]", other)]
    wrong = [{detail["type"] for detail in details} for details in elements]
    return {"string_type"} in wrong and any(types <= {"int_type", "float_type"} for types in wrong)


def _describe_errors(details: Sequence[Mapping[str, Any]]) -> str:
    """Describe the errors of a field, in one text for all types that it may have."""
    expected = list(dict.fromkeys(TYPE_NAMES.get(detail["type"], "") for detail in details))
    if "a finite number" in expected:  # the value is a number
        return _describe_error(next(detail for detail in details if detail["type"] == "finite_number"))
    if len(expected) == 1 or "" in expected:
        return _describe_error(next((one for one in details if one["type"] not in TYPE_NAMES), details[0]))
    names = f"{', '.join(expected[:-1])} or {expected[-1]}"
    return f"expected {names}, got {describe_value(details[0].get('input'))}"


def _describe_error(detail: Mapping[str, Any]) -> str:
    """Return the message of a validation error and its value, without text."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message if detail["type"] in NO_VALUE else f"{message}, got {describe_value(detail.get('input'))}"


def describe_value(value: Any) -> str:
    """Describe a value of a request without its text."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else f"an integer of {len(str(abs(value)))} digits"
    if isinstance(value, str):
        return f"text of {len(value)} character{'' if len(value) == 1 else 's'}" if value else "empty text"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return str(value) if isinstance(value, float) else "an object"


def _limit_name(text: str) -> str:
    """Truncate a client-chosen name and replace unprintable characters."""
    return _replace_unprintable(text if len(text) <= MAX_NAME else text[:MAX_NAME] + "...")


def _limit_text(text: str) -> str:
    return _replace_unprintable(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "...")


def _replace_unprintable(text: str) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
