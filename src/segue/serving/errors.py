"""One form for every error, :class:`segue.serving.schemas.Fault`: what is wrong and where, never with what was sent.

What a client sent is not repeated: it may be long, and it may name people. Of an error nobody thought of, the client
learns its number alone; the log gets the places in the code that it passed through, without the text of the exception,
which may hold what was sent too (``KeyError: 'alice'``).
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from segue.serving.route_templates import Routes
from segue.serving.schemas import Fault

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

__all__ = ["STATUSES", "Problem", "fault", "headers", "install", "track"]

STATUSES: Mapping[int, tuple[str, str]] = {
    400: ("invalid", "the request cannot be read"),
    401: ("unauthorised", "a key is needed: Authorization: Bearer segue_..., or X-API-Key"),
    403: ("forbidden", "this key may not do that"),
    404: ("missing", "there is nothing here"),
    405: ("invalid", "this address does not take this method"),
    408: ("slow", "the request took too long to arrive"),
    409: ("invalid", "this does not go together with what is there"),
    413: ("too_large", "the request is too large"),
    414: ("too_large", "the address is too long"),
    415: ("invalid", "expected a body with Content-Type: application/json, not compressed"),
    421: ("invalid", "this service is not known by the name in Host"),
    422: ("invalid", "the request is not as expected"),
    429: ("too_many", "too many requests with this key; try again later"),
    500: ("failed", "an error on this side; it is in the log under the request_id"),
    503: ("busy", "too much is going on; try again later"),
}
"""By status, the word and the text of a fault that says no more."""

MOST_FIELDS, MOST_TEXT, MOST_NAME = 20, 300, 64
"""Faulty fields that are named, characters of what is said, and of one name."""
MOST_LOOKED = 100
"""Faults that are looked at: a body can hold any number."""

TAG = re.compile(
    r"(?:constrained-)?(?:str|int|float)|bool|Given|(?:list|dict|tagged-union|union|nullable)\[.*\]|function-.*"
)
"""How pydantic calls the alternatives of a union, between the names of fields."""

logger = logging.getLogger("segue.serving.errors")


class Problem(Exception):
    """To be raised where a request cannot be answered as it is.

    Args:
        status: of HTTP, 400 or more.
        error: in one word; by default that of the status in :data:`STATUSES`.
        message: in words, without what was sent.
        fields: by field, such as ``history[3].value``, what is wrong with it.
        retry_after: seconds after which trying again may help.
    """

    def __init__(
        self,
        status: int,
        error: str | None = None,
        message: str | None = None,
        fields: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        word, text = STATUSES.get(status, STATUSES[500 if status >= 500 else 400])
        self.status, self.error, self.message = status, error or word, message or text
        self.fields, self.retry_after = dict(fields or {}), retry_after
        super().__init__(f"{status} {self.error}: {self.message}")


def fault(problem: Problem, request_id: str) -> bytes:
    """The body of the answer, as JSON."""
    fields = {_name(name): _text(text) for name, text in list(problem.fields.items())[:MOST_FIELDS]}
    told = Fault(error=problem.error, message=_text(problem.message), fields=fields, request_id=request_id)
    return told.model_dump_json().encode()


def headers(problem: Problem) -> dict[str, str]:
    """What goes with the body."""
    found = {"content-type": "application/json"}
    if problem.status == 401:
        found["www-authenticate"] = 'Bearer realm="segue"'
    if problem.retry_after is not None:
        found["retry-after"] = str(max(1, -int(-problem.retry_after // 1)))
    return found


def install(app: FastAPI) -> None:
    """Let the application answer every error as a :class:`~segue.serving.schemas.Fault`.

    An exception that nothing here knows is logged with its number and answered with that number alone.
    """
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    app.router.redirect_slashes = False  # an address with a slash too many is a 404, not a trip elsewhere
    app.add_exception_handler(Problem, _problem)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, partial(_http, Routes(app.routes)))
    app.add_exception_handler(Exception, _unforeseen)


def track(error: BaseException) -> str:
    """The kinds of an exception and of its causes, and where in the code each passed; no texts, no values.

    Of errors of the system what they are is told too: ``OSError 28``.
    """
    parts: list[str] = []
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        kind = f"{type(found).__module__}.{type(found).__qualname__}".removeprefix("builtins.")
        number = f" {found.errno}" if isinstance(found, OSError) and found.errno is not None else ""
        parts.append("".join(traceback.format_tb(found.__traceback__)) + kind + number)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return "\n\n".join(reversed(parts))


def _answer(request: Request, problem: Problem, more: Mapping[str, str] | None = None) -> Response:
    from fastapi import Response

    body = fault(problem, _id(request))
    return Response(body, problem.status, {**headers(problem), **(more or {})})


async def _problem(request: Request, problem: Problem) -> Response:
    return _answer(request, problem)


async def _http(routes: Routes, request: Request, error: HTTPException) -> Response:
    """An error of the framework: of its headers, ``Allow`` says what a wrong method should have been."""
    more = {name: value for name, value in (error.headers or {}).items() if name.lower() in ("allow", "retry-after")}
    if error.status_code == 405 and (methods := routes.methods(str(request.scope["path"]))):
        more = {"Allow": ", ".join(methods)}  # the framework names those of one of several routes alone
    return _answer(request, Problem(error.status_code), more)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """What pydantic found, without the values; JSON that cannot be read is a 400, all else a 422."""
    found = error.errors()[:MOST_LOOKED]
    if found[0]["type"] == "json_invalid":
        place = found[0]["loc"][-1]
        why = found[0].get("ctx", {}).get("error", "")
        return _answer(request, Problem(400, message=f"the body is not JSON, from character {place} on: {why}"))
    fields: dict[str, str] = {}
    for one in found:
        fields.setdefault(_place(one["loc"]), _text(str(one["msg"]).removeprefix("Value error, ")))
    for name in [name for name in fields if any(other.startswith((f"{name}.", f"{name}[")) for other in fields)]:
        del fields[name]  # another way to write the field, which was not meant
    first = next(iter(fields), "")
    more = f", and {len(fields) - 1} more" if len(fields) > 1 else ""
    return _answer(request, Problem(422, message=f"{first}: {fields.get(first, '')}{more}", fields=fields))


async def _unforeseen(request: Request, error: Exception) -> Response:
    """What nothing above knows; the shield, where there is one around, need not log it once more."""
    request.scope.setdefault("state", {})["told"] = True
    logger.error("unforeseen", extra={"request_id": _id(request), "traceback": track(error)})
    return _answer(request, Problem(500))


def _id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


def _place(loc: Sequence[Any]) -> str:
    """``history[3].value`` for ``("body", "history", 3, "Given", "value")``."""
    text = ""
    for part in loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not TAG.fullmatch(str(part)):
            text += ("." if text else "") + _name(str(part))
    return text or (str(loc[0]) if loc else "body")


def _name(text: str) -> str:
    """A name that a client chose, cut and in characters that can be shown."""
    return _shown(text if len(text) <= MOST_NAME else text[:MOST_NAME] + "...")


def _text(text: str) -> str:
    return _shown(text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "...")


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
