"""Parse and validate large bodies in steps.

Other requests are answered between two steps. Most of the work holds Python's global lock, so a thread of its own would
not help: a large body is read as an expensive call of the engine thread, with fair shares for clients. What one body
may cost is limited by its number of values, which is known before it is parsed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from fastapi import Request
from pydantic import BaseModel, ValidationError

from segue.serving import schemas
from segue.serving.api.dependencies import invalid_field
from segue.serving.errors import ApiError
from segue.serving.limits import SharedLimiter
from segue.serving.scheduling.steps import Steps
from segue.serving.settings import ServingSettings

__all__ = ["LARGE_BODY_BYTES", "LargeBodies", "count_values", "parse_json"]

LARGE_BODY_BYTES = 32_768
"""Size above which a body is large."""

MAX_LARGE_BODIES = 4
"""Values of all large bodies together, by the maximum of one body; one client may have half of them."""

ELEMENT_SCHEMAS: dict[str, type[BaseModel]] = {
    "requests": schemas.RecommendRequest,
    "events": schemas.EventRequest,
    "items": schemas.ItemRequest,
}
"""Fields that hold many objects, with the schema of an object."""


class LargeBodies:
    """Reads large bodies, a limited number at a time.

    Args:
        submit: :meth:`segue.serving.api.dependencies.ApiDependencies.submit`.
    """

    def __init__(self, settings: ServingSettings, submit: Callable[..., Awaitable[list[Any]]]) -> None:
        self._settings, self._submit = settings, submit
        most = settings.max_body_values
        self._values = SharedLimiter(MAX_LARGE_BODIES * most, MAX_LARGE_BODIES // 2 * most)

    def acquire(self, body: bytes, client: str) -> int:
        """Return the number of values of a body, which are in use until :meth:`release`.

        Raises:
            ApiError: 413, the body has too many values; or 429 or 503, other bodies use all that is available.
        """
        n_values = count_values(body)
        if n_values > (most := self._settings.max_body_values):
            message = f"request body of more than {most} JSON values, counted by its commas and opening brackets"
            raise ApiError(413, message=message)
        if not self._values.try_acquire(client, n_values):
            if self._values.in_use + n_values > MAX_LARGE_BODIES * most:
                raise ApiError(503, retry_after=1.0)
            raise ApiError(429, message="too many large requests of this client; try again later", retry_after=1.0)
        return n_values

    def release(self, client: str, n_values: int) -> None:
        """Release what :meth:`acquire` counted."""
        self._values.release(client, n_values)

    async def read(self, body: bytes, caller: Request, schema: type[BaseModel]) -> Any:
        """Return the parsed body, as an object of ``schema`` if it is valid.

        If it is not JSON, the error is returned, for the error response of small bodies.

        Raises:
            ApiError: 422, it has more elements than the operator allows; or 503, the queue is full.
        """
        jobs = [lambda: read_in_steps(body, schema, self._settings)]
        (result,) = await self._submit(jobs, caller, is_expensive=True)
        if isinstance(result, Exception) and not isinstance(result, json.JSONDecodeError):
            raise result
        return result


def read_in_steps(body: bytes, schema: type[BaseModel], settings: ServingSettings) -> Steps[Any]:
    """Parse a body, and validate its parts one by one.

    Valid parts are returned as objects, which are not validated again. The first invalid part stays as it is: the
    validation of the whole body, which follows, reports it.
    """
    value = parse_json(body)
    yield
    if not isinstance(value, dict):
        return value
    check_lengths(value, settings)
    for name, element_schema in ELEMENT_SCHEMAS.items():
        if name in schema.model_fields and isinstance(elements := value.get(name), list):
            for index, element in enumerate(elements):
                try:
                    elements[index] = element_schema.model_validate(element)
                except ValidationError:
                    return value
                yield
    try:
        return schema.model_validate(value)
    except ValidationError:
        return value


def check_lengths(value: dict[str, Any], settings: ServingSettings) -> None:
    """Check the lengths of lists before their elements are validated.

    Raises:
        ApiError: 422.
    """
    limits = {
        "requests": settings.max_batch_requests,
        "events": settings.max_batch_events,
        "items": settings.max_batch_items,
        "rows": settings.max_batch_rows,
    }
    requests = value.get("requests")
    histories = [("history", value)]
    if isinstance(requests, list):
        histories += [(f"requests[{row}].history", one) for row, one in enumerate(requests) if isinstance(one, dict)]
    lists = [(name, value.get(name), limit) for name, limit in limits.items()]
    lists += [(name, one.get("history"), settings.max_history) for name, one in histories]
    for name, elements, limit in lists:
        if isinstance(elements, list) and len(elements) > limit:
            noun = " events" if name.endswith("history") else ""
            raise invalid_field(name, f"got {len(elements)}{noun}, expected at most {limit}")


def count_values(body: bytes) -> int:
    """Return an upper bound on the number of values in a JSON text."""
    return 1 + sum(body.count(mark) for mark in (b",", b"[", b"{"))


def parse_json(body: bytes) -> Any:
    """Parse JSON according to RFC 8259.

    It must be in UTF-8, without NaN and Infinity, and without duplicate keys.

    Raises:
        json.JSONDecodeError: it is malformed.
    """
    try:
        return _decoder.decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("expected UTF-8", "", error.start) from None
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", -1) from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # sys.get_int_max_str_digits
        raise json.JSONDecodeError("a number has too many digits", "", -1) from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise json.JSONDecodeError(f"duplicate key '{name}'", "", -1)
    return found


def _reject_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError("NaN and Infinity are not allowed; omit unknown values", "", -1)


_decoder = json.JSONDecoder(object_pairs_hook=_unique_pairs, parse_constant=_reject_constant)
