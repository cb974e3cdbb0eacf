"""Event store in Redis, for services on several machines.

It needs the extra ``redis`` and Redis 6.2 or later. Durability of acknowledged events depends on the server's
``appendonly`` and ``appendfsync``: with ``always`` they survive a power failure, with ``everysec`` all but those of
the last second; a warning is logged if persistence is off. All data must fit into the server's memory. One server with
replicas is supported but not a cluster, because one script stores a batch of events of many users.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from segue.serving.stores import redis_migration, redis_scripts
from segue.serving.stores.background_erasure import BackgroundErasure
from segue.serving.stores.deletion_markers import CLOCK_SKEW_SECONDS, create_deletion_key, create_deletion_marker
from segue.serving.stores.redis_erasure import rewrite_files
from segue.serving.stores.store import (
    OUTCOME_UNKNOWN,
    STORE_FULL,
    Deletion,
    Event,
    Exposure,
    ItemChange,
    StoreError,
    UserEvents,
    UserState,
)

__all__ = ["Redis"]

logger = logging.getLogger("segue.serving.stores")

PAGE_SIZE = 1_000
"""Entries per read of an iterator."""
TIMEOUTS = {"socket_connect_timeout": 3.0, "socket_timeout": 10.0}
"""Default timeouts in seconds; the address may override them."""
MIGRATION_SECONDS = 600.0
"""Timeout for one step of the conversion of a store of the previous format."""
ERASURE_SECONDS = 1.0
"""Maximum time for which a deletion waits until the user is erased from the server's files."""


class Redis:
    """Redis implementation of :class:`segue.serving.stores.store.Store`.

    Args:
        address: redis-py URL, ``redis://[[user]:password@]host[:port][/number]``, or ``rediss://`` with TLS. The server
            is contacted on first use.

    Raises:
        ValueError: the extra is not installed, or the address is invalid.
    """

    name, is_in_process = "redis", False

    def __init__(self, address: str) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise ValueError("redis is not installed: pip install 'segue[redis]'") from None
        no_retry = Retry(NoBackoff(), 0)  # a failed command may have been executed: a retry would store events twice
        try:
            if not re.fullmatch(r"/?\d*", urlsplit(address).path):
                raise ValueError
            self._client: Any = redis.Redis.from_url(address, protocol=2, retry=no_retry, **TIMEOUTS)
            self._client.connection_pool.make_connection()  # rejects unknown options
        except (ValueError, TypeError):  # the message may contain parts of the address
            raise ValueError(
                "store: invalid Redis address, expected redis://[[user]:password@]host[:port][/number]"
            ) from None
        self._errors = redis.exceptions
        self._is_initialized = False
        self._key = b""  # of the deletion markers
        self._scripts = {
            name: self._client.register_script(script)
            for name in redis_scripts.__all__
            if isinstance(script := getattr(redis_scripts, name), str)
        }
        self._erasure = BackgroundErasure(self._erase_deleted_users)

    def __repr__(self) -> str:
        return f"Redis(db={self._client.connection_pool.connection_kwargs.get('db', 0)})"

    def append(self, events: Sequence[Event]) -> list[bool]:
        """See :meth:`segue.serving.stores.store.Store.append`."""
        arguments: list[str] = []
        for e in events:
            context = () if e.context is None else (e.context,)
            encoded = _to_json([e.item, e.time, e.action, e.value, e.key, *context])
            arguments += (e.user, "" if e.key is None else f"k{e.key}", encoded[1:])
        return [flag == 49 for flag in self._run("store events", "APPEND", arguments, writes=True)]  # 49: "1"

    def recent_events(self, users: Sequence[str], limit: int, after: int = 0) -> list[UserEvents]:
        """See :meth:`segue.serving.stores.store.Store.recent_events`."""
        markers = self._markers("read events", users)
        rows = self._run("read events", "RECENT_EVENTS", [self._key, markers, limit, after, *users])
        return [
            UserEvents(
                tuple([Event(user, *event[1:]) for event in json.loads(events)]), total, last_sequence, deleted > 0
            )
            for user, (events, total, last_sequence, deleted) in zip(users, rows, strict=True)
        ]

    def events_after(self, user: str, sequence: int, limit: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.events_after`."""
        events = json.loads(self._run("read events", "EVENTS_AFTER", [user, sequence, limit]) if limit else b"[]")
        return tuple([Event(user, *event[1:]) for event in events]), events[-1][0] if events else sequence

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        """See :meth:`segue.serving.stores.store.Store.get_states`."""
        rows = self._run("read states", "GET_STATES", [model, *users])
        return [None if last is None else UserState(model, int(last.split()[0]), data) for last, data in rows]

    def put_states(self, states: Mapping[str, UserState]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_states`."""
        markers = self._markers("store states", states)
        arguments: list[Any] = []
        for user, state in states.items():
            arguments += (user, state.model, state.last_sequence, state.data)
        self._run("store states", "PUT_STATES", [self._key, markers, int(time.time()), *arguments], writes=True)

    def prune_states(self, before: int) -> int:
        """See :meth:`segue.serving.stores.store.Store.prune_states`."""
        count, cursor = 0, -1
        while cursor:
            with self._convert_errors("list states"):
                cursor, keys = self._client.scan(max(cursor, 0), "segue:state:*", PAGE_SIZE)
            count += int(self._run("delete states", "PRUNE_STATES", [before, *keys], writes=True))
        return count

    def delete_user(self, user: str) -> Deletion:
        """See :meth:`segue.serving.stores.store.Store.delete_user`."""
        marker = self._markers("delete a user", [user])
        arguments = [self._key, marker, user, int(time.time())]
        count = self._run("delete a user", "DELETE_USER", arguments, writes=True)
        note = self._erasure.request(ERASURE_SECONDS)
        return Deletion(int(count), not note, note)

    def put_items(self, items: Mapping[str, str | None]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_items`."""
        arguments: list[str] = []
        for item, content in items.items():
            arguments += (item, "" if content is None else f"c{content}")
        self._run("store items", "PUT_ITEMS", arguments, writes=True)

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        """See :meth:`segue.serving.stores.store.Store.item_changes`."""
        rows = self._run("read items", "ITEM_CHANGES", [after, limit]) if limit else []
        return [
            ItemChange(item.decode(), None if content is None else content.decode(), int(created), int(sequence))
            for item, sequence, created, content in rows
        ]

    def get_setting(self, name: str) -> str | None:
        """See :meth:`segue.serving.stores.store.Store.get_setting`."""
        with self._convert_errors("read a setting"):
            value = self._client.hget("segue:settings", name)
        return None if value is None else value.decode()

    def put_setting(self, name: str, value: str) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_setting`."""
        with self._convert_errors("store a setting", writes=True):
            self._client.hset("segue:settings", name, value)

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        """See :meth:`segue.serving.stores.store.Store.record_exposures`."""
        markers = self._markers("store exposures", [e.user for e in exposures])
        arguments: list[Any] = []
        for e in exposures:
            arguments += (e.experiment, e.user, e.time, _to_json([e.variant, e.user, e.time, e.items]))
        fixed = [self._key, markers, CLOCK_SKEW_SECONDS]
        self._run("store exposures", "RECORD_EXPOSURES", fixed + arguments, writes=True)

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """See :meth:`segue.serving.stores.store.Store.exposures`."""
        start = "-"
        while True:
            entries = self._run("read exposures", "EXPOSURES", [experiment, start, PAGE_SIZE])
            for _, encoded in entries:
                variant, user, shown_at, items = json.loads(encoded)
                yield Exposure(experiment, variant, user, shown_at, tuple(items))
            if len(entries) < PAGE_SIZE:
                return
            start = f"({entries[-1][0].decode()}"

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """See :meth:`segue.serving.stores.store.Store.events`."""
        while True:
            rows = self._run("read events", "EVENTS", [after, PAGE_SIZE])
            for user, encoded in rows:
                after, *event = json.loads(encoded)
                yield after, Event(user.decode(), *event)
            if len(rows) < PAGE_SIZE:
                return

    def size_bytes(self) -> int:
        """Return the memory that the server uses, including that of other databases.

        See :meth:`segue.serving.stores.store.Store.size_bytes`.
        """
        with self._convert_errors("read its size"):
            return int(self._client.info("memory")["used_memory"])

    def ping(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.ping`."""
        with self._convert_errors("respond"):
            self._client.ping()

    def close(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.close`."""
        self._erasure.close()
        self._client.close()
        self._client.connection_pool.disconnect()

    def _run(self, operation: str, script: str, arguments: Iterable[Any], writes: bool = False) -> Any:
        with self._convert_errors(operation, writes):
            return self._scripts[script](args=arguments)

    def _markers(self, operation: str, users: Iterable[str]) -> bytes:
        """Return the users' deletion markers one after the other."""
        if not self._is_initialized:
            with self._convert_errors(operation):
                pass
        return b"".join([create_deletion_marker(self._key, user) for user in users])

    def _separate_client(self, timeout: float) -> Any:
        """Return a client with its own connections; ``timeout`` is in seconds."""
        import redis

        pool = self._client.connection_pool
        settings = pool.connection_kwargs | {"socket_timeout": timeout}
        return redis.Redis.from_pool(redis.ConnectionPool(pool.connection_class, **settings))

    def _last_deletions(self, client: Any) -> tuple[int, int]:
        """Return the sequence numbers of the last deletion and of the last erased one."""
        deleted, erased = client.hmget("segue:counters", "deleted", "erased")
        return int(deleted or 0), int(erased or 0)

    def _erase_deleted_users(self) -> str:
        with self._convert_errors("erase deleted users"):
            with self._separate_client(TIMEOUTS["socket_timeout"]) as client:  # survives the end of the service
                deleted, erased = self._last_deletions(client)
                if erased >= deleted:  # by another process
                    return ""
                note = rewrite_files(client, self._errors)
                if not note:
                    with suppress(self._errors.ResponseError):  # out of memory: the next process erases once more
                        client.hset("segue:counters", "erased", deleted)
            return note

    @contextmanager
    def _convert_errors(self, operation: str, writes: bool = False) -> Iterator[None]:
        is_connected = False
        try:
            if not self._is_initialized:
                self._initialize()
            is_connected = True
            yield
        except self._errors.RedisError as error:
            is_connection_error = isinstance(error, self._errors.ConnectionError | self._errors.TimeoutError)
            is_refused = isinstance(error.__context__, ConnectionRefusedError)
            is_lost = is_connected and writes and is_connection_error and not is_refused
            suffix = f"; {OUTCOME_UNKNOWN}" if is_lost else ""
            if str(error).startswith("REPLACED"):
                self._is_initialized = False
            is_full = isinstance(error, self._errors.OutOfMemoryError) or "No space left" in str(error)
            full = f"; {STORE_FULL}" if is_full else ""
            raise StoreError(f"redis: cannot {operation}: {_safe_reason(error)}{full}{suffix}") from None

    def _initialize(self) -> None:
        """Check the storage format and the server's durability settings.

        The key of the deletion markers is read, and a store of the previous format is converted. Warnings
        about durability are logged.

        Raises:
            StoreError: an unsupported format.
        """
        self._client.set("segue:format", redis_scripts.FORMAT, nx=True)
        self._client.set("segue:key", create_deletion_key(), nx=True)
        self._key = self._client.get("segue:key")
        if self._client.get("segue:format") == str(redis_migration.PREVIOUS_FORMAT).encode():
            logger.info("redis: converting format %d to %d", redis_migration.PREVIOUS_FORMAT, redis_scripts.FORMAT)
            with self._separate_client(MIGRATION_SECONDS) as client:
                redis_migration.convert_store(client, self._key)
        stored_format = self._client.get("segue:format").decode()
        if stored_format != str(redis_scripts.FORMAT):
            raise StoreError(f"redis: got format {stored_format}, expected {redis_scripts.FORMAT}")
        self._is_initialized = True
        deleted, erased = self._last_deletions(self._client)
        if erased < deleted:  # shortly before a service was stopped
            self._erasure.request(0)
        info = self._client.info()
        if not info.get("aof_enabled"):
            logger.warning("redis: appendonly is off: a restart may lose acknowledged events")
        elif (policy := self._fsync_policy()) not in (None, "always"):
            logger.info("redis: appendfsync is %s: a power failure may lose recent events; use always", policy)
        if info.get("maxmemory") and str(info.get("maxmemory_policy")).startswith("allkeys"):
            logger.warning("redis: maxmemory-policy may evict events when memory is short; expected noeviction")

    def _fsync_policy(self) -> str | None:
        """Return the server's ``appendfsync`` setting.

        ``None`` if the server does not permit reading it.
        """
        try:
            return dict(self._client.config_get("appendfsync")).get("appendfsync")
        except self._errors.ResponseError:
            return None


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _safe_reason(error: Exception) -> str:
    """Return the type of an error and its Redis error code.

    The rest of the message may contain ids.
    """
    code = str(error).partition(" ")[0]
    return f"{type(error).__name__} {code}" if code.isalpha() and code.isupper() else type(error).__name__
