"""Slow-client protection for uvicorn: HTTP timeouts and a header size limit.

By default uvicorn waits indefinitely for the end of the request headers, accepts headers of any size (with httptools),
and keeps a response that the client does not read. A few hundred connections that send a byte now and then would
exhaust the server (Slowloris). uvicorn has no settings for read and write timeouts, so its protocol class is extended
here.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

__all__ = ["HTTP_PROTOCOL", "make_timeout_protocol"]

HTTP_PROTOCOL = "segue.serving.middleware.http_timeouts:TimeoutHttpProtocol"
"""Value for ``uvicorn.Config(http=...)``: the default protocol under a name that worker processes can import."""


def __getattr__(name: str) -> Any:
    if name == "TimeoutHttpProtocol":
        return make_timeout_protocol()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def make_timeout_protocol(
    header_timeout: float = 10.0, max_header_bytes: int = 65_536, write_timeout: float = 60.0
) -> type[asyncio.Protocol]:
    """Create a protocol class for ``uvicorn.Config(http=...)`` with timeouts.

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
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'segue[serve]'") from None

    class TimeoutHttpProtocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._reading_headers, self._header_bytes = True, 0
            self._header_timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_header_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_header_timer()
            self._cancel_write_timer()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._reading_headers, self._header_bytes = True, 0
            self._start_header_timer()

        def on_headers_complete(self) -> None:
            self._reading_headers = False
            self._cancel_header_timer()
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._reading_headers and not self.transport.is_closing():
                self._header_bytes += len(data)
                if self._header_bytes > max_header_bytes:
                    self.send_400_response("Headers too large.")

        def pause_writing(self) -> None:
            super().pause_writing()
            self._start_write_timer()

        def resume_writing(self) -> None:
            self._cancel_write_timer()
            super().resume_writing()

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
                self._header_timer = self.loop.call_later(header_timeout, self._close_connection)

        def _cancel_header_timer(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _close_connection(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return TimeoutHttpProtocol
