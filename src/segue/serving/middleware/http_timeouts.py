"""How long a connection may take to say what it wants and to take the answer, and in how many bytes it may say it.

Of itself uvicorn waits for the end of a request's headers for ever, reads them however many there are (with
httptools), and keeps answers for ever that nobody reads: a few hundred connections that send a byte now and then would
hold all that the system has (Slowloris). There is no setting for that, so its protocol is extended here, at the calls
that the parser and the transport make.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

__all__ = ["HTTP", "patient"]

HTTP = "segue.serving.middleware.http_timeouts:Patient"
"""For ``uvicorn.Config(http=...)``: :func:`patient` with its defaults, by a name that other processes find too."""


def __getattr__(name: str) -> Any:
    if name == "Patient":
        return patient()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def patient(seconds: float = 10.0, most: int = 65_536, reading: float = 60.0) -> type[asyncio.Protocol]:
    """A protocol for ``uvicorn.Config(http=...)`` that closes connections whose headers do not end, or who do not read.

    Args:
        seconds: from the connection, or the first byte of a later request, to the end of the headers.
        most: bytes of the headers, and of the address.
        reading: seconds in which nothing is taken of an answer that is too large for the system's buffers. These empty
            in leaps, so that less than half a minute would cut off who reads slowly.

    Raises:
        ValueError: uvicorn or httptools is not installed.
    """
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'segue[serve]'") from None

    class Patient(HttpToolsProtocol):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._heading, self._size = True, 0
            self._timer: asyncio.TimerHandle | None = None
            self._unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._taken()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._heading, self._size = True, 0
            self._arm()

        def on_headers_complete(self) -> None:
            self._heading = False
            self._disarm()
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._heading and not self.transport.is_closing():
                self._size += len(data)
                if self._size > most:
                    self.send_400_response("Headers too large.")

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait()

        def resume_writing(self) -> None:
            self._taken()
            super().resume_writing()

        def _wait(self) -> None:
            self._taken()
            self._unread = self.loop.call_later(reading, self._look, self.transport.get_write_buffer_size())

        def _look(self, before: int) -> None:
            if self.transport.get_write_buffer_size() < before:
                self._wait()
            else:
                self.transport.abort()

        def _taken(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _arm(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(seconds, self._end)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _end(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return Patient
