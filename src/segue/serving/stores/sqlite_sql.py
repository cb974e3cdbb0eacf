"""Schema and longer statements of the SQLite store."""

from __future__ import annotations

__all__ = [
    "ADD_CONTEXT_SQL",
    "APPLICATION_ID",
    "CREATE_DELETIONS_SQL",
    "CREATE_ITEMS_SQL",
    "CREATE_STATES_SQL",
    "CREATE_TABLES_SQL",
    "EVENTS_SQL",
    "FORMAT",
    "HAS_CONTEXT_SQL",
    "INSERT_EVENT_SQL",
    "ITEM_CHANGES_SQL",
    "MARK_DELETED_SQL",
    "NEXT_DELETION_SQL",
    "PUT_ITEM_SQL",
    "PUT_STATE_SQL",
    "RECORD_EXPOSURE_SQL",
    "SELECT_STATES_SQL",
]

FORMAT = 3
APPLICATION_ID = 0x53656775
"""Identifies the file as a Segue store."""

CREATE_DELETIONS_SQL = """
CREATE TABLE store (
    last_sequence INTEGER NOT NULL, deletion_key BLOB NOT NULL, last_deletion INTEGER NOT NULL DEFAULT 0,
    last_erasure INTEGER NOT NULL DEFAULT 0, erasure_steps INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE deletions (marker BLOB PRIMARY KEY, sequence INTEGER NOT NULL, time INTEGER NOT NULL) WITHOUT ROWID
"""
"""The only row of the store: the last sequence number, the key of the markers, the sequence numbers of the last
deletion and of the last one whose bytes were erased, and a counter of erasure steps. And the deleted users."""
CREATE_STATES_SQL = """
CREATE TABLE states (
    external_id TEXT NOT NULL, model TEXT NOT NULL, last_sequence INTEGER NOT NULL, written_at INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX states_by_user ON states (external_id, model);
CREATE INDEX states_by_time ON states (written_at)
"""
CREATE_ITEMS_SQL = """
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, content TEXT, created INTEGER NOT NULL, sequence INTEGER NOT NULL UNIQUE
)
"""
"""Created when a file is opened that has no such table; programs that do not know it ignore it. Removed items stay as
rows without content, so that other processes see the removal."""
CREATE_TABLES_SQL = f"""
{CREATE_DELETIONS_SQL};
{CREATE_STATES_SQL};
CREATE TABLE users (
    id INTEGER PRIMARY KEY, external_id TEXT NOT NULL UNIQUE, total INTEGER NOT NULL DEFAULT 0,
    last_sequence INTEGER NOT NULL DEFAULT 0, previous_deletion INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE events (
    user_id INTEGER NOT NULL, sequence INTEGER NOT NULL, event_number INTEGER NOT NULL, item TEXT NOT NULL,
    time INTEGER NOT NULL, action TEXT, value REAL, key TEXT, context TEXT, PRIMARY KEY (user_id, sequence)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_sequence ON events (sequence);
CREATE UNIQUE INDEX events_by_key ON events (user_id, key) WHERE key IS NOT NULL;
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

HAS_CONTEXT_SQL = "SELECT count(*) FROM pragma_table_info('events') WHERE name = 'context'"
ADD_CONTEXT_SQL = "ALTER TABLE events ADD COLUMN context TEXT"
"""Executed when a file is opened that has no such column; programs that do not know it ignore it."""
INSERT_EVENT_SQL = """
INSERT INTO events (user_id, sequence, event_number, item, time, action, value, key, context)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id, key) WHERE key IS NOT NULL DO NOTHING
"""
PUT_STATE_SQL = """
INSERT INTO states (external_id, model, last_sequence, data, written_at) SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM deletions WHERE marker = ?6 AND sequence >= ?3)
ON CONFLICT (external_id, model) DO UPDATE
SET last_sequence = excluded.last_sequence, data = excluded.data, written_at = excluded.written_at
WHERE excluded.last_sequence >= states.last_sequence
"""
PUT_ITEM_SQL = """
INSERT INTO items (id, content, created, sequence)
SELECT ?1, ?2, last + 1, last + 1 FROM (SELECT coalesce(max(sequence), 0) AS last FROM items) WHERE true
ON CONFLICT (id) DO UPDATE SET content = excluded.content, sequence = excluded.sequence,
    created = CASE WHEN items.content IS NULL THEN excluded.created ELSE items.created END
"""
ITEM_CHANGES_SQL = "SELECT id, content, created, sequence FROM items WHERE sequence > ? ORDER BY sequence LIMIT ?"
SELECT_STATES_SQL = "SELECT rowid FROM states WHERE written_at < ? LIMIT ?"
NEXT_DELETION_SQL = "UPDATE store SET last_sequence = last_sequence + 1, last_deletion = last_sequence + 1"
MARK_DELETED_SQL = """
INSERT INTO deletions (marker, sequence, time) VALUES (?, ?, ?)
ON CONFLICT (marker) DO UPDATE SET sequence = excluded.sequence, time = excluded.time
"""
RECORD_EXPOSURE_SQL = """
INSERT INTO exposures (experiment, variant, external_id, time, items) SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM deletions WHERE marker = ?6 AND time >= ?7)
"""
EVENTS_SQL = """
SELECT sequence, external_id, item, time, action, value, key, context FROM events JOIN users ON id = user_id
WHERE sequence > ? ORDER BY sequence LIMIT ?
"""
