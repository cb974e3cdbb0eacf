"""Client of the attack scripts: bounded, on loopback only, with one line of JSON about what it did and saw.

Each script beside this file is one attack and runs alone: ``python tests/serving/attacks/trailers.py ADDRESS``. It ends
after ``--seconds``, opens at most 2,000 connections at a time and sends at most 2 GB. ``--strength`` scales the number
of connections. Connections come from 127.0.0.2, so that a service that limits connections by address can tell the
attacker from its other clients on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

__all__ = ["Attacker", "run"]

MAX_SECONDS, MAX_CONNECTIONS, MAX_BYTES = 60.0, 2_000, 2_000_000_000
"""Bounds of one attack."""

GRACE_SECONDS = 5.0
"""Time for which an attack waits for responses after its end."""

PART_BYTES = 65_536
"""Bytes that are sent at a time."""

RETRY_SECONDS = 1.0
"""Pause before a connection that the service closed is opened again."""


class Attacker:
    """One attack on one service: opens connections, sends, and counts what comes back.

    Args:
        options: arguments of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.host, self.port = parse_address(options.address)
        self.strength: float = options.strength
        self.until = time.monotonic() + options.seconds
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.found: dict[str, Any] = {}
        """Further figures of an attack."""
        self._n_open = 0

    def is_running(self) -> bool:
        """Return whether the attack still has time and bytes."""
        return time.monotonic() < self.until and self.counts["sent_bytes"] < MAX_BYTES

    def scale(self, count: int) -> int:
        """Scale a number of connections by the strength; at least one."""
        return max(1, min(MAX_CONNECTIONS, round(count * self.strength)))

    async def gather(self, count: int, client: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Run ``count`` scaled clients at the same time."""
        await asyncio.gather(*(client(number) for number in range(self.scale(count))))

    async def occupy(self, opening: bytes, more: bytes = b"", pause: float = 0.25) -> None:
        """Hold a connection until the end; open it again when the service closes it.

        Args:
            opening: sent first.
            more: sent again and again, every ``pause`` seconds.
        """
        while self.is_running():
            try:
                reader, writer = await asyncio.wait_for(self._connect(), 5)
            except (OSError, TimeoutError):
                self.counts["refused"] += 1
                await asyncio.sleep(RETRY_SECONDS)
                continue
            response: asyncio.Future[Any] = asyncio.ensure_future(reader.read(65_536))
            try:
                await self._send(writer, opening, response)
                while self.is_running() and not response.done():
                    if more:
                        await self._send(writer, more, response)
                    await asyncio.wait([response], timeout=pause)
            except OSError:
                await asyncio.wait([response], timeout=0.5)
            finally:
                self._n_open -= 1
                await self._record(response)
                writer.transport.abort()
            if self.is_running():
                await asyncio.sleep(RETRY_SECONDS)

    def client(self, timeout: float = 30.0) -> httpx.AsyncClient:
        """Create a client for well-formed HTTP, with the key if there is one."""
        headers = {} if self.options.key is None else {"Authorization": f"Bearer {self.options.key}"}
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS)
        transport = httpx.AsyncHTTPTransport(verify=False, local_address=self.options.source, limits=limits)
        return httpx.AsyncClient(base_url=self.address, headers=headers, timeout=timeout, transport=transport)

    @property
    def address(self) -> str:
        """Address of the service."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def request(self, client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
        """Send a request, count its outcome, and return the response, or ``None`` if there is none.

        Args:
            body: bytes, or a value that is sent as JSON.
        """
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        self.counts["requests"] += 1
        self.counts["sent_bytes"] += len(content or b"")
        try:
            response = await client.request(method, path, content=content, headers=headers)
        except httpx.TimeoutException:
            self.counts["timeouts"] += 1
        except httpx.ConnectError:
            self.counts["refused"] += 1
            await asyncio.sleep(0.1)
        except httpx.HTTPError:
            self.counts["resets"] += 1
            await asyncio.sleep(0.1)
        else:
            self.statuses[str(response.status_code)] += 1
            if response.status_code in (401, 403, 429, 503):
                await asyncio.sleep(0.05)
            return response
        return None

    async def item_ids(self, client: httpx.AsyncClient) -> list[str]:
        """Return ids of some items, or invented ones if the service does not list its items."""
        response = await self.request(client, "GET", "/v1/items?limit=100")
        if response is not None and response.status_code == 200:
            found = [item["id"] for item in response.json()["items"]]
            if found:
                return found
        return [f"i{number}" for number in range(100)]

    def report(self, name: str) -> dict[str, Any]:
        """Return what the attack did and saw."""
        return {"attack": name, **self.counts, "statuses": dict(self.statuses), **self.found}

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._n_open >= MAX_CONNECTIONS:
            raise OSError("too many connections")
        self._n_open += 1
        try:
            connection = await asyncio.open_connection(self.host, self.port, local_addr=(self.options.source, 0))
        except BaseException:
            self._n_open -= 1
            raise
        self.counts["connections"] += 1
        return connection

    async def _send(self, writer: asyncio.StreamWriter, data: bytes, response: asyncio.Future[Any]) -> None:
        """Send in parts, and wait until each has left; stop when the service responds or the time is over."""
        for start in range(0, len(data), PART_BYTES):
            part = data[start : start + PART_BYTES]
            writer.write(part)
            self.counts["sent_bytes"] += len(part)
            drained: asyncio.Future[Any] = asyncio.ensure_future(writer.drain())
            remaining = max(0.05, self.until - time.monotonic())
            await asyncio.wait([drained, response], timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            if not drained.done():
                drained.cancel()
                return
            await drained
            if response.done() or not self.is_running():
                return

    async def _record(self, response: asyncio.Future[Any]) -> None:
        if not response.done():
            self.counts["held"] += 1
            response.cancel()
            return
        if response.exception() is not None:
            self.counts["resets"] += 1
        elif response.result().startswith(b"HTTP/1.1 "):
            self.statuses[response.result()[9:12].decode("latin-1")] += 1
        else:
            self.counts["closed"] += 1


def parse_address(text: str) -> tuple[str, int]:
    """Parse ``http://127.0.0.1:8000``.

    Raises:
        ValueError: the host is not an address of this machine's loopback interface, or there is no port.
    """
    parts = urlsplit(text if "//" in text else f"//{text}")
    try:
        is_loopback = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(f"address: got '{text}', expected a loopback address, such as http://127.0.0.1:8000")
    if parts.port is None:
        raise ValueError(f"address: got '{text}', expected a port, such as http://127.0.0.1:8000")
    return str(parts.hostname), parts.port


def run(attack: Callable[[Attacker], Awaitable[None]], **more: str) -> None:
    """Parse the command line, run an attack and print its report as a line of JSON.

    Args:
        more: further options by name, each a text, with their help.
    """
    module = sys.modules[attack.__module__]
    parser = argparse.ArgumentParser(description=module.__doc__)
    parser.add_argument("address", help="address of the service, on loopback, such as http://127.0.0.1:8000")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--seconds", type=float, default=5.0, help=f"at most {MAX_SECONDS:g}; default %(default)s")
    parser.add_argument("--strength", type=float, default=1.0, help="factor on the number of connections")
    parser.add_argument("--source", default="127.0.0.2", help="address to connect from; default %(default)s")
    for name, text in more.items():
        parser.add_argument(f"--{name}", help=text)
    options = parser.parse_args()
    if not 0 < options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds: got {options.seconds:g}, expected more than 0 and at most {MAX_SECONDS:g}")
    if not (math.isfinite(options.strength) and options.strength > 0):
        parser.error(f"--strength: got {options.strength:g}, expected more than 0")
    try:
        parse_address(options.address)
    except ValueError as error:
        parser.error(str(error))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def bounded() -> dict[str, Any]:
        attacker = Attacker(options)
        with suppress(TimeoutError):
            async with asyncio.timeout(options.seconds + GRACE_SECONDS):
                await attack(attacker)
        return attacker.report(Path(str(module.__file__)).stem)

    print(json.dumps(asyncio.run(bounded())))
