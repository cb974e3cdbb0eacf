"""Events in Redis, for several machines that serve together; needs the extra ``redis`` and a server from 6.2 on.

How long acknowledged events last is the server's ``appendonly`` and ``appendfsync``: with ``always`` they survive a
power cut, with ``everysec`` all but the last second; a word is said where they are not kept at all. All of it must fit
into the server's memory. One server with replicas, not a cluster: a batch of events of many users is one script.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from segue.serving.stores import redis_scripts
from segue.serving.stores.store import UNSURE, Event, Exposure, Kept, Memory, StoreError

__all__ = ["Redis"]

logger = logging.getLogger("segue.serving.stores")

PAGE = 1_000
"""Entries that an iterator reads at once."""
TIMES = {"socket_connect_timeout": 3.0, "socket_timeout": 10.0}
"""How soon a server that is gone is noticed, in seconds, where the address does not say."""


class Redis:
    """A :class:`segue.serving.stores.store.Store` in the server at ``address``, as redis-py has it
    (``redis://[[user]:password@]host[:port][/number]``, ``rediss://`` with TLS). It is reached when it is first used.

    Raises:
        ValueError: the extra is not installed, or the address cannot be read.
    """

    name, prompt = "redis", False

    def __init__(self, address: str) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise ValueError("redis is not installed: pip install 'segue[redis]'") from None
        never = Retry(NoBackoff(), 0)  # what was sent once may have been done: a second time, events stand there twice
        try:
            if not re.fullmatch(r"/?\d*", urlsplit(address).path):
                raise ValueError
            self._client: Any = redis.Redis.from_url(address, protocol=2, retry=never, **TIMES)
            self._client.connection_pool.make_connection()  # refuses options that it does not know
        except (ValueError, TypeError):  # the message may quote parts of the address
            raise ValueError(
                "store: an address of Redis that cannot be read, expected redis://[[user]:password@]host[:port][/number]"
            ) from None
        self._errors = redis.exceptions
        self._ready = False
        self._scripts = {name: self._client.register_script(getattr(redis_scripts, name)) for name in redis_scripts.__all__
                         if name != "FORMAT"}  # fmt: skip

    def __repr__(self) -> str:
        return f"Redis(db={self._client.connection_pool.connection_kwargs.get('db', 0)})"

    def append(self, events: Sequence[Event]) -> list[bool]:
        """See :meth:`segue.serving.stores.store.Store.append`."""
        arguments: list[str] = []
        for e in events:
            told = _json([e.item, e.time, e.action, e.value, e.key])
            arguments += (e.user, "" if e.key is None else f"k{e.key}", told[1:])
        return [new == 49 for new in self._run("keep events", "APPEND", arguments, writes=True)]  # 49: "1"

    def kept(self, users: Sequence[str], most: int, after: int = 0) -> list[Kept]:
        """See :meth:`segue.serving.stores.store.Store.kept`."""
        found = self._run("read events", "KEPT", [most, after, *users])
        return [
            Kept(tuple([Event(user, *event[1:]) for event in json.loads(events)]), total, last, forgotten > 0)
            for user, (events, total, last, forgotten) in zip(users, found, strict=True)
        ]

    def since(self, user: str, place: int, most: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.since`."""
        told = self._run("read events", "SINCE", [user, place, most]) if most else b"[]"
        events = json.loads(told)
        return tuple([Event(user, *event[1:]) for event in events]), events[-1][0] if events else place

    def memories(self, users: Sequence[str], model: str) -> list[Memory | None]:
        """See :meth:`segue.serving.stores.store.Store.memories`."""
        found = self._run("read memories", "MEMORIES", [model, *users])
        return [None if last is None else Memory(model, int(last), data) for last, data in found]

    def remember(self, memories: Mapping[str, Memory]) -> None:
        """See :meth:`segue.serving.stores.store.Store.remember`."""
        arguments = [part for user, m in memories.items() for part in (user, m.model, m.last, m.data)]
        self._run("keep memories", "REMEMBER", arguments, writes=True)

    def prune(self, models: Collection[str]) -> int:
        """See :meth:`segue.serving.stores.store.Store.prune`."""
        count, cursor = 0, -1
        while cursor:
            with self._told("look for old memories"):
                cursor, keys = self._client.scan(max(cursor, 0), "segue:memory:*", PAGE)
            count += int(self._run("delete old memories", "PRUNE", [len(models), *models, *keys], writes=True))
        return count

    def forget(self, user: str) -> int:
        """See :meth:`segue.serving.stores.store.Store.forget`."""
        return int(self._run("forget a user", "FORGET", [user], writes=True))

    def get(self, name: str) -> str | None:
        """See :meth:`segue.serving.stores.store.Store.get`."""
        with self._told("read a setting"):
            value = self._client.hget("segue:settings", name)
        return None if value is None else value.decode()

    def put(self, name: str, value: str) -> None:
        """See :meth:`segue.serving.stores.store.Store.put`."""
        with self._told("keep a setting", writes=True):
            self._client.hset("segue:settings", name, value)

    def expose(self, exposures: Sequence[Exposure]) -> None:
        """See :meth:`segue.serving.stores.store.Store.expose`."""
        arguments: list[str] = []
        for e in exposures:
            arguments += (e.experiment, e.user, _json([e.variant, e.user, e.time, e.items]))
        self._run("keep exposures", "EXPOSE", arguments, writes=True)

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """See :meth:`segue.serving.stores.store.Store.exposures`."""
        after = "-"
        while True:
            with self._told("read exposures"):
                found = self._client.xrange(f"segue:exposures:{experiment}", after, "+", PAGE)
            for _, entry in found:
                variant, user, time, items = json.loads(entry[b"e"])
                yield Exposure(experiment, variant, user, time, tuple(items))
            if len(found) < PAGE:
                return
            after = f"({found[-1][0].decode()}"

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """See :meth:`segue.serving.stores.store.Store.events`."""
        while True:
            found = self._run("read events", "EVENTS", [after, PAGE])
            for user, told in found:
                after, *event = json.loads(told)
                yield after, Event(user.decode(), *event)
            if len(found) < PAGE:
                return

    def ping(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.ping`."""
        with self._told("answer"):
            self._client.ping()

    def close(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.close`."""
        self._client.close()
        self._client.connection_pool.disconnect()

    def _run(self, what: str, name: str, arguments: Iterable[Any], writes: bool = False) -> Any:
        with self._told(what, writes):
            return self._scripts[name](args=arguments)

    @contextmanager
    def _told(self, what: str, writes: bool = False) -> Iterator[None]:
        reached = False
        try:
            if not self._ready:
                self._look()
            reached = True
            yield
        except self._errors.RedisError as error:
            lost = reached and writes and isinstance(error, self._errors.ConnectionError | self._errors.TimeoutError)
            refused = isinstance(error.__context__, ConnectionRefusedError)
            unknown = f"; {UNSURE}" if lost and not refused else ""
            raise StoreError(f"redis: cannot {what}: {_reason(error)}{unknown}") from None

    def _look(self) -> None:
        """See what is there, and how safe it is.

        Raises:
            StoreError: a format that this Segue cannot read.
        """
        self._client.set("segue:format", redis_scripts.FORMAT, nx=True)
        there = self._client.get("segue:format").decode()
        if there != str(redis_scripts.FORMAT):
            raise StoreError(f"redis: what is there has format {there}, this Segue reads {redis_scripts.FORMAT}")
        self._ready = True
        about = self._client.info()
        if not about.get("aof_enabled"):
            logger.warning("redis: appendonly is off: a restart can lose events that were acknowledged")
        elif (sync := self._sync()) not in (None, "always"):
            logger.info("redis: appendfsync is %s: a power cut can lose the newest events; always keeps them", sync)
        if about.get("maxmemory") and str(about.get("maxmemory_policy")).startswith("allkeys"):
            logger.warning("redis: maxmemory-policy throws events away when memory is short; expected noeviction")

    def _sync(self) -> str | None:
        """The server's ``appendfsync``; none where it does not tell."""
        try:
            return dict(self._client.config_get("appendfsync")).get("appendfsync")
        except self._errors.ResponseError:
            return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _reason(error: Exception) -> str:
    """What may be told of an error: its kind, and the word in capitals that Redis begins with."""
    word = str(error).partition(" ")[0]
    return f"{type(error).__name__} {word}" if word.isalpha() and word.isupper() else type(error).__name__
