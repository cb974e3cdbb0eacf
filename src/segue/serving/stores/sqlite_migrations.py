"""Conversion of SQLite stores of older formats."""

from __future__ import annotations

import sqlite3
import time

from segue.serving.stores import sqlite_sql
from segue.serving.stores.deletion_markers import create_deletion_key, create_deletion_marker

__all__ = ["migrate"]


def migrate(connection: sqlite3.Connection) -> None:
    """Convert a store of format 2 to format 3, within the transaction of the caller.

    Events stay untouched. The ids of deleted users become markers, and the exposures recorded after their deletion are
    deleted. States are dropped: they are recomputed. Tables and columns get new names where their meaning changes, so
    that a process with older code fails instead of storing ids of deleted users.
    """
    for statement in sqlite_sql.CREATE_DELETIONS_SQL.split(";"):
        connection.execute(statement)
    key, now = create_deletion_key(), int(time.time())
    connection.execute("INSERT INTO store (last_sequence, deletion_key) SELECT last, ? FROM sequence", (key,))
    connection.execute("DROP TABLE sequence")
    deleted = connection.execute("SELECT external_id, deleted_sequence FROM users WHERE deleted_sequence > 0")
    markers = ((create_deletion_marker(key, user), sequence, now) for user, sequence in deleted)
    connection.executemany("INSERT INTO deletions (marker, sequence, time) VALUES (?, ?, ?)", markers)
    connection.execute("UPDATE store SET last_deletion = last_sequence WHERE EXISTS (SELECT 1 FROM deletions)")
    without_events = "SELECT external_id FROM users WHERE total = 0"
    connection.execute(f"DELETE FROM exposures WHERE external_id IN ({without_events})")
    connection.execute("DELETE FROM users WHERE total = 0")
    connection.execute("ALTER TABLE users RENAME COLUMN deleted_sequence TO previous_deletion")
    connection.execute("DROP TABLE states")
    for statement in sqlite_sql.CREATE_STATES_SQL.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {sqlite_sql.FORMAT}")
