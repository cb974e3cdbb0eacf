"""HTTP/1.1 protocol of uvicorn with limits and timeouts against hostile clients.

By default uvicorn waits indefinitely for the end of the request headers, accepts headers of any size and any number of
trailers (with httptools), keeps a response that the client does not read, and continues to work for clients that have
disconnected. uvicorn has no settings for this, so its protocol class is extended here. Everything that a client sends
before the application sees the request is bounded: headers, chunk framing, trailers and pipelined requests.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any

from segue.serving import errors
from segue.serving.connection_limits import Admission, ConnectionLimiter, peer_address
from segue.serving.errors import ApiError
from segue.serving.limits import SharedLimiter
from segue.serving.middleware.request_context import UNCOUNTED_BYTES as UNCOUNTED_RESPONSE_BYTES
from segue.serving.middleware.request_context import AccessRecord, log_access
from segue.serving.middleware.request_validation import has_body
from segue.serving.middleware.security_headers import UI_CSP, RequestHeaders, add_security_headers
from segue.serving.route_templates import UNMATCHED

__all__ = ["HTTP_PROTOCOL", "PROTOCOL_STATE", "ProtocolContext", "make_protocol"]

HTTP_PROTOCOL = "segue.serving.middleware.http_protocol:LimitedHttpProtocol"
"""Value for ``uvicorn.Config(http=...)``: the default protocol under a name that worker processes can import."""

PROTOCOL_STATE = "protocol"
"""Key of the :class:`ProtocolContext` in the lifespan state of the application."""

MAX_PIPELINED = 16
"""Maximum number of requests that a client sends ahead of their responses."""
MAX_FRAMING_BYTES, MAX_FRAMING_PER_BYTE = 65_536, 8
"""Maximum size of the framing of a chunked body: a fixed part, and bytes per byte of the body."""
MAX_UNREAD_BYTES, UNCOUNTED_BYTES = 64_000_000, 16_384
"""Maximum size of all parts of bodies that await the application, and size up to which a part is not counted.

When the process is busy, hundreds of connections may each deliver a part of 256 KiB before the application runs.
"""
PROBE_SECONDS = 2.0
"""Header timeout of connections that are limited to health probes."""

logger = logging.getLogger("segue.serving.middleware.http_protocol")


@dataclass
class ProtocolContext:
    """State that all connections of a process share.

    The application passes it to the server by its lifespan state.
    """

    connections: ConnectionLimiter = field(default_factory=ConnectionLimiter)
    unread_bytes: SharedLimiter = field(default_factory=lambda: SharedLimiter(MAX_UNREAD_BYTES, MAX_UNREAD_BYTES // 2))
    """Limit on the parts of bodies that have arrived but were not yet read by the application, per address."""
    on_reject: Callable[[int], None] = lambda status: None
    """Called with the status of every request that is rejected before the application sees it."""


def __getattr__(name: str) -> Any:
    if name == "LimitedHttpProtocol":
        return make_protocol()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _TrailerError(Exception):
    """A request has trailers."""


class _BufferFullError(Exception):
    """Too many bytes of bodies await the application."""


class _ConnectError(Exception):
    """A request to open a tunnel (CONNECT) has a body.

    The parser would take it for the next request.
    """


class _PipelineError(Exception):
    """A client sent too many requests ahead of their responses."""


@cache
def make_protocol(
    header_timeout: float = 10.0, max_header_bytes: int = 65_536, write_timeout: float = 60.0
) -> type[asyncio.Protocol]:
    """Create a protocol class for ``uvicorn.Config(http=...)``.

    Args:
        header_timeout: seconds from the connection, or from the first byte of a later request, to the end of the
            headers.
        max_header_bytes: maximum size of the request line and headers.
        write_timeout: seconds without progress after which a client that does not read a large response is
            disconnected. The system's buffers drain in bursts, so less than half a minute would disconnect slow
            readers.

    Raises:
        ValueError: uvicorn or httptools is not installed.
    """
    try:
        from uvicorn.protocols.http import httptools_impl
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'segue[serve]'") from None

    httptools: Any = vars(httptools_impl)["httptools"]

    class LimitedHttpProtocol(httptools_impl.HttpToolsProtocol):
        def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._context: ProtocolContext = app_state.get(PROTOCOL_STATE) or ProtocolContext()
            self._application, self.app = self.app, self._run_application
            self._address, self._admission = "", Admission.OPEN
            self._running_cycle: Any = None  # request that is being answered; uvicorn's `cycle` is the newest one
            self._running_task: asyncio.Task[Any] | None = None
            self._discarded_cycle: Any = None  # request whose body is not kept
            self._is_in_headers = self._is_in_body = False
            self._upgrade_line: bytes | None = None  # request line, after headers that ask for another protocol
            self._n_begun = 0  # requests that began in the data received last
            self._header_bytes = self._body_bytes = self._framing_bytes = self._unparsed_bytes = 0
            self._new_body_bytes = self._n_unread = 0
            self._header_timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None

        # Connection

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            peer = transport.get_extra_info("peername")
            self._address = peer_address(str(peer[0])) if isinstance(peer, tuple) else ""
            self._admission = self._context.connections.admit(self._address)
            if self._admission is Admission.REFUSED:
                self.transport = transport
                message = "too many connections; nothing was changed; try again later"
                return self._reject(ApiError(503, message=message, retry_after=1.0))
            super().connection_made(transport)
            transport.set_write_buffer_limits(UNCOUNTED_RESPONSE_BYTES)
            return self._start_header_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_write_timer()
            if self._admission is Admission.REFUSED:
                return
            self._context.connections.release(self._address, self._admission)
            self._cancel_header_timer()
            for cycle in (self._running_cycle, *(cycle for cycle, _ in self.pipeline)):
                if cycle is not None and not cycle.response_complete:
                    cycle.disconnected = True
            super().connection_lost(exc)
            self._release_unread()
            self._cancel_handler()

        def _cancel_handler(self) -> None:
            """Cancel the handler of the current request, unless it changes something."""
            if self._running_task is None or self._running_cycle.response_complete:
                return
            state = self._running_cycle.scope["state"]
            if not state.get("must_finish"):
                state["is_disconnected"] = True
                self._running_task.cancel()

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self._running_cycle = cycle
            super()._start_asgi_task(cycle, app)

        async def _run_application(self, scope: Any, receive: Any, send: Any) -> None:
            """Call the application; a canceled request ends quietly, as the access log has it."""
            if self._running_cycle.disconnected:
                return
            self._running_task = task = asyncio.current_task()
            has_arrived = not self._running_cycle.more_body
            scope["state"].update(has_arrived=has_arrived, drain=self.flow.drain, discard_body=self._discard_body)
            try:
                is_small = has_arrived and self._n_unread == 0
                await self._application(scope, receive if is_small else self._count_reads(receive), send)
            except asyncio.CancelledError:
                if not self.transport.is_closing():
                    self.transport.close()
            finally:
                if self._running_task is task:
                    self._running_task = None

        # Requests

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._n_begun += 1
            self._is_in_headers, self._header_bytes = True, 0
            if self._admission is Admission.PROBES:
                self.scope["state"]["is_probe_only"] = True

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._is_in_body:
                raise _TrailerError
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            is_upgrade = self.parser.should_upgrade()
            if is_upgrade and (method := self.parser.get_method()) != b"CONNECT":
                self._upgrade_line = b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())
                return  # until `_ignore_upgrade`
            self._is_in_headers, self._is_in_body = False, True
            self._body_bytes = self._framing_bytes = self._unparsed_bytes = 0
            self._cancel_header_timer()
            if len(self.pipeline) >= MAX_PIPELINED:
                raise _PipelineError
            if is_upgrade and has_body(RequestHeaders(self.headers)):
                raise _ConnectError
            super().on_headers_complete()
            if is_upgrade or self._admission is Admission.PROBES:
                self.cycle.keep_alive = False

        def on_body(self, body: bytes) -> None:
            size = len(body)
            self._new_body_bytes += size
            if self.cycle is self._discarded_cycle:
                return
            if size > UNCOUNTED_BYTES and not self.cycle.response_complete:
                if not self._context.unread_bytes.try_acquire(self._address, size):
                    raise _BufferFullError
                self._n_unread += size
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self._upgrade_line is None:
                self._is_in_body = False
                super().on_message_complete()

        def on_response_complete(self) -> None:
            if self._is_in_body and not self.pipeline:  # the rest of this body would have no timeout
                self.transport.close()
            self._release_unread()
            super().on_response_complete()
            if self.transport.is_closing():
                self._limit_closing()

        def _count_reads(self, receive: Any) -> Any:
            """Return ``receive`` that takes what it returns from the unread bytes."""

            async def receive_and_count() -> Any:
                message = await receive()
                self._release_unread()
                return message

            return receive_and_count

        def _discard_body(self) -> None:
            """Discard the rest of the body of the current request when it arrives."""
            self._discarded_cycle = self._running_cycle
            self._running_cycle.body = bytearray()
            self._release_unread()

        def _release_unread(self) -> None:
            if self._n_unread:
                self._context.unread_bytes.release(self._address, self._n_unread)
                self._n_unread = 0

        def data_received(self, data: bytes) -> None:
            self._unset_keepalive_if_required()
            was_idle = not (self._is_in_headers or self._is_in_body)
            self._n_begun = self._new_body_bytes = 0
            rest: bytes | None = None
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                return self._reject(_describe_parse_error(error))
            if rest is not None and (parse_error := self._ignore_upgrade(rest)) is not None:
                return self._reject(parse_error)
            if self.transport.is_closing():
                return None
            if self._is_in_headers:
                self._start_header_timer()  # only here, because most requests arrive as a whole
                if self._n_begun <= was_idle:  # otherwise a part of the data belongs to an earlier request
                    self._count_header_bytes(len(data))
            elif self._is_in_body and self._n_begun == 0:
                self._count_body_bytes(len(data))
            elif was_idle and self._n_begun == 0 and self._running_task is None:
                self._start_header_timer()  # empty lines before a request
            return None

        def _ignore_upgrade(self, rest: bytes) -> ApiError | None:
            """Parse headers again without ``Upgrade``, and then what follows them.

            The request is answered as one of HTTP/1.1, as RFC 9110, section 7.8, permits. httptools ends a request with
            ``Upgrade`` after its headers and takes its body for the next request, so a new parser reads the headers
            without it and knows where the body ends. The connection is closed after the response, unless the client
            asks for HTTP/2: such clients continue with HTTP/1.1.

            Args:
                rest: data after the headers.

            Returns:
                The error, if the data is malformed.
            """
            while self._upgrade_line is not None:  # CONNECT: the rest is discarded, and the connection closed
                lines, is_http2 = [self._upgrade_line], True
                for name, value in self.headers:
                    if name == b"upgrade":
                        is_http2 = is_http2 and value.strip().lower() == b"h2c"
                    else:
                        lines.append(b"%s: %s" % (name, value))
                self._upgrade_line = None
                self._n_begun -= 1  # the same request begins again
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                try:
                    self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))
                    if not is_http2:
                        self.cycle.keep_alive = False
                    self.parser.feed_data(rest)
                except httptools.HttpParserUpgrade as upgrade:
                    rest = rest[upgrade.args[0] :]
                except httptools.HttpParserError as error:
                    return _describe_parse_error(error)
            return None

        def _count_header_bytes(self, size: int) -> None:
            self._header_bytes += size
            if self._header_bytes > max_header_bytes:
                self._reject(ApiError(400, message=f"request headers larger than {max_header_bytes} bytes"))

        def _count_body_bytes(self, size: int) -> None:
            """Limit the framing of a body.

            The parser keeps incomplete chunk headers and trailers, so what follows the last byte of the body is
            limited too.
            """
            self._body_bytes += self._new_body_bytes
            self._framing_bytes += size - self._new_body_bytes
            self._unparsed_bytes = 0 if self._new_body_bytes else self._unparsed_bytes + size
            limit = MAX_FRAMING_BYTES + MAX_FRAMING_PER_BYTE * self._body_bytes
            if self._framing_bytes > limit or self._unparsed_bytes > MAX_FRAMING_BYTES:
                self._reject(ApiError(400, message="the framing of the chunked body is too large"))

        def _reject(self, error: ApiError) -> None:
            """Answer a request that the application does not see, and close the connection.

            Nothing is sent while a response to an earlier request is outstanding, because it would be taken for that
            response.
            """
            has_own_cycle = self._is_in_body and self.cycle is not None and self.cycle.scope is self.scope
            is_idle = self.cycle is None or self.cycle.response_complete
            can_answer = is_idle or (has_own_cycle and not self.pipeline and not self.cycle.response_started)
            if can_answer and not self.transport.is_closing():
                self.transport.write(_error_response(error, request_id := f"{random.getrandbits(64):016x}"))
                if self._admission is not Admission.REFUSED:  # the log has one line for many of those
                    log_access(AccessRecord("OTHER", UNMATCHED, error.status, 0.0, request_id, None))
                self._context.on_reject(error.status)
            self.transport.close()
            self._limit_closing()

        # Timers

        def pause_writing(self) -> None:
            super().pause_writing()
            self._start_write_timer()

        def resume_writing(self) -> None:
            self._cancel_write_timer()
            super().resume_writing()
            if self.transport.is_closing():
                self._limit_closing()

        def _start_write_timer(self) -> None:
            self._cancel_write_timer()
            size = self.transport.get_write_buffer_size()
            self._write_timer = self.loop.call_later(write_timeout, self._check_write_progress, size)

        def _check_write_progress(self, previous_size: int) -> None:
            if self.transport.get_write_buffer_size() < previous_size:
                self._start_write_timer()
            else:
                self.transport.abort()

        def _cancel_write_timer(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

        def _start_header_timer(self) -> None:
            if self._header_timer is None:
                is_open = self._admission is Admission.OPEN
                seconds = header_timeout if is_open else min(header_timeout, PROBE_SECONDS)
                self._header_timer = self.loop.call_later(seconds, self._close_connection)

        def _cancel_header_timer(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._limit_closing()

        def _close_connection(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()
            self._limit_closing()

        def _limit_closing(self) -> None:
            """Start the timeout for a client that does not read the end of its last response.

            A connection is closed only after its write buffer was sent.
            """
            if self._write_timer is None and self.transport.get_write_buffer_size():
                self._start_write_timer()

    return LimitedHttpProtocol


def _describe_parse_error(error: Exception) -> ApiError:
    """Return the error for a request that the parser or a callback rejected."""
    cause = error.__context__
    if isinstance(cause, _TrailerError):
        return ApiError(400, message="trailers are not accepted")
    if isinstance(cause, _BufferFullError):
        message = "too many unfinished requests; nothing was changed; try again later"
        return ApiError(503, message=message, retry_after=1.0)
    if isinstance(cause, _ConnectError):
        return ApiError(400, message="CONNECT is not supported")
    if isinstance(cause, _PipelineError):
        return ApiError(400, message=f"more than {MAX_PIPELINED} pipelined requests")
    if type(error).__name__ == "HttpParserInvalidMethodError":
        return ApiError(400, message="invalid HTTP request: unknown method or malformed request line")
    return ApiError(400, message="invalid HTTP request")


def _error_response(error: ApiError, request_id: str) -> bytes:
    body = errors.error_body(error, request_id)
    own = {**errors.error_headers(error), "content-length": str(len(body)), "connection": "close"}
    raw_headers = [(name.encode(), value.encode()) for name, value in own.items()]
    lines = [b"%s: %s\r\n" % pair for pair in add_security_headers(raw_headers, request_id, UI_CSP, {})]
    status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
    return b"".join([status, *lines, b"\r\n", body])
