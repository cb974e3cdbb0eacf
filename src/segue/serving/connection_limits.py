"""Limits on open connections and on open files.

Every connection needs a file descriptor. A process without free descriptors resets all new connections, so the number
of connections stays below the limit of the operating system, with descriptors left for the event store and models.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv6Address
from pathlib import Path

from segue.serving.limits import SharedLimiter

__all__ = [
    "Admission",
    "ConnectionLimiter",
    "accept_backlog",
    "connection_limit",
    "peer_address",
    "raise_file_limit",
]

MAX_FILES = 65_536
"""Soft limit on open files that the service sets if the hard limit permits it."""
MAX_CONNECTIONS = 10_000
"""Default maximum number of connections per process."""
FILE_RESERVE = 64
"""Descriptors left for store connections, model files and logs."""
PROBE_CONNECTIONS, PROBE_CONNECTIONS_PER_ADDRESS = 32, 4
"""Connections above the limit on which only health probes are answered, in total and per address."""
LOG_SECONDS = 10.0
"""Minimum time between two log lines about connections above the limit."""

logger = logging.getLogger("segue.serving")


class Admission(Enum):
    """Decision about a new connection."""

    OPEN = "open"
    """All requests are answered."""
    PROBES = "probes"
    """The limit is reached: one request is answered, and only if it is a health probe."""
    REFUSED = "refused"


class ConnectionLimiter:
    """Limits the number of connections, in total and per client address.

    Above the limit, some connections are admitted for health probes: an attacker who opens all connections from one
    address must not make an orchestrator restart the service.

    Args:
        limit: maximum number of connections.
        per_address: maximum number of connections per address; 0: half of ``limit``.
        on_excess: called for every connection above the limit.
    """

    def __init__(
        self, limit: int = MAX_CONNECTIONS, per_address: int = 0, on_excess: Callable[[], None] = lambda: None
    ) -> None:
        self.limit, self._on_excess = limit, on_excess
        self._open = SharedLimiter(limit, per_address or max(1, limit // 2))
        self._probes = SharedLimiter(PROBE_CONNECTIONS, PROBE_CONNECTIONS_PER_ADDRESS)
        self._n_excess, self._logged_at = 0, float("-inf")

    @property
    def in_use(self) -> int:
        """Number of open connections."""
        return self._open.in_use + self._probes.in_use

    def admit(self, address: str) -> Admission:
        """Decide about a new connection; call :meth:`release` when it is closed."""
        if self._open.try_acquire(address):
            return Admission.OPEN
        self._on_excess()
        self._log_excess()
        return Admission.PROBES if self._probes.try_acquire(address) else Admission.REFUSED

    def release(self, address: str, admission: Admission) -> None:
        """Count the end of a connection."""
        if admission is Admission.OPEN:
            self._open.release(address)
        elif admission is Admission.PROBES:
            self._probes.release(address)

    def _log_excess(self) -> None:
        """Log the number of connections above the limit.

        A line is written a second after the first of them, and then at most every ten seconds.
        """
        self._n_excess += 1
        if self._n_excess == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(max(1.0, self._logged_at + LOG_SECONDS - loop.time()), self._write_log)

    def _write_log(self) -> None:
        logger.warning(
            "%d connections above the limit of %d, or of their address: refused, or limited to health probes",
            self._n_excess, self.limit,
            extra={"connections": self.in_use},
        )  # fmt: skip
        self._n_excess, self._logged_at = 0, asyncio.get_running_loop().time()


def peer_address(host: str) -> str:
    """Return the part of a client's IP address that identifies the client.

    A client of IPv6 usually has a whole network of 64 bits.
    """
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def file_limit() -> int:
    """Return the maximum number of open files of this process."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_FILES if soft == resource.RLIM_INFINITY else soft


def raise_file_limit() -> int:
    """Raise the limit on open files of this process and return it.

    The soft limit becomes the hard limit, but at most :data:`MAX_FILES`; it is never lowered.
    """
    try:
        import resource
    except ImportError:
        return MAX_FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if file_limit() < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return file_limit()


def accept_backlog(limit: int) -> int:
    """Return the maximum length of the queue of connections that are not yet accepted.

    All of them may be accepted, and need a descriptor, before the first is refused.

    Args:
        limit: maximum number of open files.
    """
    return max(1, min(2_048, limit // 8))


def connection_limit(max_connections: int) -> int:
    """Return the maximum number of connections of this process.

    It is logged if the limit on open files lowers it.

    Args:
        max_connections: number set by the operator; 0: :data:`MAX_CONNECTIONS`.
    """
    wanted = max_connections or MAX_CONNECTIONS
    limit = file_limit()
    available = limit - _count_open_files() - accept_backlog(limit) - FILE_RESERVE - PROBE_CONNECTIONS
    available = max(available, limit // 8, 1)
    if available < wanted:
        logger.warning(
            "connections are limited to %d instead of %d, because this process may open only %d files (ulimit -n)",
            available, wanted, limit,
        )  # fmt: skip
    return min(wanted, available)


def _count_open_files() -> int:
    """Return the number of open file descriptors of this process, or an estimate."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return len(os.listdir(folder))
    return 64
