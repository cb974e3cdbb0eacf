"""Erasure of deleted users from the files and the slow log of a Redis server."""

from __future__ import annotations

import time
from typing import Any

from segue.serving.stores.store import StoreError

__all__ = ["rewrite_files"]

POLL_SECONDS, MAX_POLL_SECONDS = 0.01, 1.0
MAX_SECONDS = 3600.0
"""Maximum duration of a rewrite."""
_APPEND_ONLY_FILE = ("BGREWRITEAOF", "aof_last_bgrewrite_status")
_SNAPSHOT = ("BGSAVE", "rdb_last_bgsave_status")
_BUSY_FIELDS = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")


def rewrite_files(client: Any, errors: Any) -> str:
    """Rewrite the append-only file and the snapshot, and clear the slow log.

    The snapshot is written even if the server is not configured to write any: one of an earlier run, or of a ``SAVE``,
    may exist, and the server does not say so (``rdb_saves`` starts at 0 with every run).

    The slow log is cleared only if it contains calls of scripts, whose arguments contain ids.

    Args:
        client: ``redis.Redis``.
        errors: ``redis.exceptions``.

    Returns:
        What remains, or an empty string.

    Raises:
        StoreError: a rewrite failed.
        redis.RedisError: the server is unreachable.
    """
    notes = []
    has_append_only_file = bool(client.info("persistence").get("aof_enabled"))
    for command, status in [_APPEND_ONLY_FILE, _SNAPSHOT] if has_append_only_file else [_SNAPSHOT]:
        try:
            _run_and_wait(client, errors, command, status)
        except errors.ResponseError:
            notes.append(f"the server does not permit {command}: run it to erase the user from its files")
    try:
        if any(entry["command"].upper().startswith(b"EVAL") for entry in client.slowlog_get(-1)):
            client.slowlog_reset()
    except errors.ResponseError:
        notes.append("the server does not permit SLOWLOG: its slow log may contain the user's id")
    replication = client.info("replication")
    if int(replication.get("connected_slaves", 0)) or int(replication.get("repl_backlog_active", 0)):
        notes.append("the files of replicas contain bytes of the user until they are rewritten")
    return "; ".join(notes)


def _run_and_wait(client: Any, errors: Any, command: str, status: str) -> None:
    """Run a background command and wait for its end.

    If it is running already, it began too early and is run again.
    """
    deadline = time.monotonic() + MAX_SECONDS
    while True:
        _wait_until_idle(client, deadline)
        try:
            client.execute_command(command)
            break
        except errors.ResponseError as error:
            if "in progress" not in str(error):
                raise
    persistence = _wait_until_idle(client, deadline)
    if persistence.get(status) != "ok":
        raise StoreError(f"redis: {command} failed; see the server's log")


def _wait_until_idle(client: Any, deadline: float) -> dict[str, Any]:
    """Wait until no file is being rewritten, and return ``INFO persistence``."""
    delay = POLL_SECONDS
    while True:
        persistence: dict[str, Any] = client.info("persistence")
        if not any(int(persistence.get(field, 0)) for field in _BUSY_FIELDS):
            return persistence
        if time.monotonic() > deadline:
            raise StoreError("redis: the server has been rewriting its files for too long")
        time.sleep(delay)
        delay = min(2 * delay, MAX_POLL_SECONDS)
