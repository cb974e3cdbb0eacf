"""What an operator can set of a service; each setting's text is its documentation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

from segue.core.config import Settings
from segue.serving.schemas import MOST, Rules

__all__ = ["Serving"]


class Serving(Settings):
    """Settings of ``segue serve``."""

    most_k: Annotated[int, Ge(10), Le(10_000)] = 200
    """Items that one question may ask for; not fewer than the 10 that it asks for of itself."""
    most_history: Annotated[int, Ge(1), Le(100_000)] = 2_000
    """Events that a question may send along."""
    recent: Annotated[int, Ge(1)] = 1_000
    """Newest events of a user that are looked at when nothing is sent along, those of training among them."""
    most_questions: Annotated[int, Ge(1), Le(MOST)] = 256
    """Questions in one batch."""
    most_events: Annotated[int, Ge(1), Le(MOST)] = 1_000
    """Events in one batch."""
    body_bytes: Annotated[int, Ge(1_000)] = 2_000_000
    """Bytes of a request."""
    body_seconds: Annotated[float, Gt(0)] = 10.0
    """Seconds in which a request's body must have arrived."""
    deadline_ms: Annotated[int, Ge(1)] = 1_000
    """Milliseconds until an answer, where the question does not say; what would take longer is answered by a cheaper
    step of the ladder."""
    store_ms: Annotated[int, Ge(1)] = 500
    """Milliseconds that an answer waits for the store; without it, nobody is known."""
    batch: Annotated[int, Ge(1), Le(1_024)] = 64
    """Questions of different requests that are answered together."""
    waiting: Annotated[int, Ge(1)] = 512
    """Requests with questions, and requests with events, that may wait; more are refused with 503."""
    concurrent: Annotated[int, Ge(1)] = 1_000
    """Requests at a time; more are refused with 503."""
    rate: Annotated[float, Ge(0)] = 0.0
    """Requests a second that each key may make, in bursts of up to two seconds' worth; more are refused with 429.
    0: no limit."""
    cors: tuple[str, ...] = ()
    """Origins of other sites whose pages may ask; none by default."""
    engine_threads: Annotated[int, Ge(0)] = 1
    """Threads of a single operation of an engine that has threads of its own, such as ONNX Runtime: of one question
    they make little, and more workers are the better use of more cores. 0: as many as other computations have."""
    fallback: str | None = None
    """The model, by its name, that answers where the active one cannot in time."""
    drain_seconds: Annotated[float, Ge(0)] = 20.0
    """Seconds that requests get to end in after SIGTERM."""
    rules: Rules = Rules()
    """Rules that hold for every answer, beside those of the question."""
