"""What the routes share: the service and its queues, checks of what is asked, and how answers and faults leave."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query, Response
from pydantic import BaseModel

from segue.serving import schemas
from segue.serving.batcher import Batcher, Busy
from segue.serving.errors import Problem, track
from segue.serving.experiments.assignment import Experiments
from segue.serving.limits import Slots
from segue.serving.model_registry import Ready
from segue.serving.monitoring.live_stats import Figures
from segue.serving.service import Job, Service
from segue.serving.stores.store import UNSURE, Event, Exposure, StoreError

__all__ = ["CLASHING", "FAULTS", "MISSING", "Desk", "Limit", "Name", "Reply", "good", "invalid", "reply"]

logger = logging.getLogger("segue.serving")

T = TypeVar("T")

Reply = dict[int | str, dict[str, Any]]
"""What FastAPI is told of answers by status."""

FAULTS: Reply = {
    code: {"model": schemas.Fault, "description": text}
    for code, text in {
        400: "The request cannot be read.",
        401: "A key is needed.",
        403: "The key may not do that.",
        408: "The request took too long to arrive.",
        413: "The request is too large.",
        414: "The address is too long.",
        415: "Not JSON.",
        421: "This service is not known by the name in Host.",
        422: "The request is not as expected.",
        429: "Too many requests with this key.",
        503: "Too much is going on, or the store does not answer.",
    }.items()
}
MISSING: Reply = {404: {"model": schemas.Fault, "description": "There is no such thing."}}
CLASHING: Reply = {409: {"model": schemas.Fault, "description": "Not as things stand."}}
MOST_CALLS = 16
"""Calls of the store at a time, beside those of who answers and of who takes events."""
PAGE = 1_000
"""Items, users or events that one look shows at most."""

Limit = Annotated[int, Query(ge=1, le=PAGE, description="How many at most.")]
Name = Annotated[str, Path(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]


@dataclass(eq=False)
class Desk:
    """What the routes need."""

    service: Service
    experiments: Experiments
    answers: Batcher[Job, Any]
    """The queue in front of the thread that may use the engines."""
    intake: Batcher[Event, bool]
    """The queue in front of the thread that writes events."""
    exposed: Batcher[Exposure, None]
    """The queue in front of the thread that writes what experiments showed: nobody waits for it."""
    figures: Figures
    slots: Slots
    """Those of requests that are being answered."""
    background: set[asyncio.Task[None]] = field(default_factory=set)
    """What goes on after answers."""
    closing: bool = False
    """Whether the service ends: what can wait for another time is left."""

    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MOST_CALLS, "segue-stored"), init=False
    )
    _opening: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "segue-opening"), init=False)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on after the answer."""
        task = asyncio.get_running_loop().create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def drained(self) -> None:
        """Wait for what goes on after answers and cannot be left."""
        self.closing = True
        if self.background:
            await asyncio.wait(self.background, timeout=max(1.0, self.service.settings.drain_seconds))
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._opening.shutdown(wait=False, cancel_futures=True)

    async def asked(self, jobs: Sequence[Job]) -> list[Any]:
        """What each job came to, or its exception.

        Raises:
            Problem: too many wait.
        """
        try:
            return await self.answers.ask(jobs)
        except Busy as busy:
            raise Problem(503, retry_after=busy.seconds) from None

    async def away(self, call: Callable[[], T]) -> T:
        """What a call of the store comes to, on threads of its own: while the store is silent these wait, and whoever
        wants something else, such as metrics, does not."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def stored(self, operation: str, look: Callable[[], T]) -> T:
        """What the store answers, away from the event loop.

        Raises:
            Problem: it does not.
        """
        begun = time.monotonic()
        try:
            return await self.away(look)
        except StoreError as error:
            self.service.metrics.store(self.service.store.name, operation, time.monotonic() - begun, failed=True)
            raise self.broken(operation, error) from None

    def broken(self, operation: str, error: StoreError) -> Problem:
        """What is told when the store fails."""
        self.service.metrics.error("store")
        logger.error("store: %s failed", operation, extra={"traceback": track(error)})
        done = UNSURE if UNSURE in str(error) else "nothing was done"
        return Problem(503, message=f"the store does not answer; {done}", retry_after=2.0)

    async def ready(self, name: str | None, where: str = "model") -> Ready:
        """The model of this name, or the active one; one that has to be opened first keeps nobody else waiting.

        Raises:
            Problem: there is none, which is told of the field ``where``.
        """
        shelf = self.service.shelf
        try:
            if name is None or any(one.version.name == name for one in shelf.opened()):
                return shelf.find(name)
            return await asyncio.get_running_loop().run_in_executor(self._opening, shelf.find, name)
        except ValueError as error:
            raise invalid(where, str(error).removeprefix("model: ")) from None

    def check(self, questions: Sequence[schemas.Question], where: str) -> None:
        """See that questions keep the limits that the operator set.

        Raises:
            Problem: they do not.
        """
        settings = self.service.settings
        fields = {}
        for place, question in enumerate(questions):
            at = f"{where}[{place}]." if where else ""
            if question.k > settings.most_k:
                fields[f"{at}k"] = f"got {question.k}, expected at most {settings.most_k}"
            if question.history is not None and len(question.history) > settings.most_history:
                fields[f"{at}history"] = f"got {len(question.history)} events, expected at most {settings.most_history}"
        if fields:
            raise Problem(422, message="; ".join(f"{name}: {why}" for name, why in fields.items()), fields=fields)


def good(answer: Any) -> Any:
    """The answer, or the fault that its exception is."""
    if isinstance(answer, StoreError):
        raise Problem(503, message="the store does not answer", retry_after=2.0)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def invalid(field: str, why: str) -> Problem:
    """The fault of one field."""
    return Problem(422, message=f"{field}: {why}", fields={field: why})


def reply(told: BaseModel) -> Response:
    """An answer that is known to be as it must be, and is not checked again."""
    return Response(told.model_dump_json(), media_type="application/json")
