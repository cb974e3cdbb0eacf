"""The tables of SQLite's store, and the longer of its statements."""

from __future__ import annotations

__all__ = ["ADD", "APPLICATION", "EVENTS", "FORGET", "FORMAT", "LOOK", "REMEMBER", "TABLES"]

FORMAT = 1
APPLICATION = 0x53656775
"""Marks the file as a store of Segue."""

TABLES = f"""
CREATE TABLE places (last INTEGER NOT NULL);
INSERT INTO places VALUES (0);
CREATE TABLE users (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, total INTEGER NOT NULL DEFAULT 0,
    last INTEGER NOT NULL DEFAULT 0, forgotten INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE events (
    person INTEGER NOT NULL, place INTEGER NOT NULL, nth INTEGER NOT NULL, item TEXT NOT NULL, time INTEGER NOT NULL,
    action TEXT, value REAL, key TEXT, PRIMARY KEY (person, place)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_place ON events (place);
CREATE UNIQUE INDEX events_by_key ON events (person, key) WHERE key IS NOT NULL;
CREATE TABLE memories (name TEXT NOT NULL, model TEXT NOT NULL, last INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX memories_by_name ON memories (name, model);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE exposures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, experiment TEXT NOT NULL, variant TEXT NOT NULL, name TEXT NOT NULL,
    time INTEGER NOT NULL, items TEXT NOT NULL
);
CREATE INDEX exposures_by_experiment ON exposures (experiment);
CREATE INDEX exposures_by_name ON exposures (name);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
"""

ADD = """
INSERT INTO events (person, place, nth, item, time, action, value, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (person, key) WHERE key IS NOT NULL DO NOTHING
"""
REMEMBER = """
INSERT INTO memories (name, model, last, data) SELECT ?1, ?2, ?3, ?4
WHERE ?3 >= coalesce((SELECT forgotten FROM users WHERE name = ?1), 0)
ON CONFLICT (name, model) DO UPDATE SET last = excluded.last, data = excluded.data WHERE excluded.last >= memories.last
"""
LOOK = "SELECT rowid, model FROM memories WHERE rowid > ? ORDER BY rowid LIMIT ?"
FORGET = """
INSERT INTO users (name, last, forgotten) SELECT ?, last, last FROM places WHERE true
ON CONFLICT (name) DO UPDATE SET total = 0, last = excluded.last, forgotten = excluded.forgotten
"""
EVENTS = """
SELECT place, name, item, time, action, value, key FROM events JOIN users ON id = person
WHERE place > ? ORDER BY place LIMIT ?
"""
