"""Schema and longer statements of the SQLite store."""

from __future__ import annotations

__all__ = [
    "APPLICATION_ID",
    "CREATE_TABLES_SQL",
    "EVENTS_SQL",
    "FORMAT",
    "INSERT_EVENT_SQL",
    "MARK_DELETED_SQL",
    "PUT_STATE_SQL",
    "SELECT_STATES_SQL",
]

FORMAT = 2
APPLICATION_ID = 0x53656775
"""Identifies the file as a Segue store."""

CREATE_TABLES_SQL = f"""
CREATE TABLE sequence (last INTEGER NOT NULL);
INSERT INTO sequence VALUES (0);
CREATE TABLE users (
    id INTEGER PRIMARY KEY, external_id TEXT NOT NULL UNIQUE, total INTEGER NOT NULL DEFAULT 0,
    last_sequence INTEGER NOT NULL DEFAULT 0, deleted_sequence INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE events (
    user_id INTEGER NOT NULL, sequence INTEGER NOT NULL, event_number INTEGER NOT NULL, item TEXT NOT NULL,
    time INTEGER NOT NULL, action TEXT, value REAL, key TEXT, PRIMARY KEY (user_id, sequence)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_sequence ON events (sequence);
CREATE UNIQUE INDEX events_by_key ON events (user_id, key) WHERE key IS NOT NULL;
CREATE TABLE states (
    external_id TEXT NOT NULL, model TEXT NOT NULL, last_sequence INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE UNIQUE INDEX states_by_user ON states (external_id, model);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE exposures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, experiment TEXT NOT NULL, variant TEXT NOT NULL, external_id TEXT NOT NULL,
    time INTEGER NOT NULL, items TEXT NOT NULL
);
CREATE INDEX exposures_by_experiment ON exposures (experiment);
CREATE INDEX exposures_by_user ON exposures (external_id);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""

INSERT_EVENT_SQL = """
INSERT INTO events (user_id, sequence, event_number, item, time, action, value, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id, key) WHERE key IS NOT NULL DO NOTHING
"""
PUT_STATE_SQL = """
INSERT INTO states (external_id, model, last_sequence, data) SELECT ?1, ?2, ?3, ?4
WHERE ?3 >= coalesce((SELECT deleted_sequence FROM users WHERE external_id = ?1), 0)
ON CONFLICT (external_id, model) DO UPDATE SET last_sequence = excluded.last_sequence, data = excluded.data
WHERE excluded.last_sequence >= states.last_sequence
"""
SELECT_STATES_SQL = "SELECT rowid, model FROM states WHERE rowid > ? ORDER BY rowid LIMIT ?"
MARK_DELETED_SQL = """
INSERT INTO users (external_id, last_sequence, deleted_sequence) SELECT ?, last, last FROM sequence WHERE true
ON CONFLICT (external_id) DO UPDATE
SET total = 0, last_sequence = excluded.last_sequence, deleted_sequence = excluded.deleted_sequence
"""
EVENTS_SQL = """
SELECT sequence, external_id, item, time, action, value, key FROM events JOIN users ON id = user_id
WHERE sequence > ? ORDER BY sequence LIMIT ?
"""
