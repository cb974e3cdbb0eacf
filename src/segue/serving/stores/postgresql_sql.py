"""The tables of a store in PostgreSQL, and what is asked of them.

A place comes from a sequence, and a sequence gives numbers out before their rows can be seen: of two transactions the
one with the later place may commit first, and a reader who goes on after that place never sees the earlier one. So
places are only drawn under a lock (:data:`ORDER`) that is held until the commit: PostgreSQL shows a transaction's rows
before it lets go of its locks, and places are seen in the order in which they were drawn. An advisory lock, and not a
row with a counter: a counter that is written with every batch leaves a dead row each time, all of which stay while
somebody takes a dump.

A statement sees what was committed when it began, so the lock is taken by a statement of its own, before. Subqueries in
a list of columns are looked up row by row; as joins they might be planned for a table that was still small.
"""

from __future__ import annotations

__all__ = [
    "APPEND",
    "EVENTS",
    "EXPOSE",
    "EXPOSURES",
    "FORGET",
    "FORMAT",
    "KEPT",
    "LOOK",
    "MAKE",
    "MARK",
    "MEMORIES",
    "ORDER",
    "PRUNE",
    "PUT",
    "REMEMBER",
    "SINCE",
    "STATES",
    "STATES_SHARED",
    "TABLES",
    "THERE",
]

FORMAT = 1
_LOCKS = 0x53656775
MAKE = f"SELECT pg_advisory_xact_lock({_LOCKS}, 0)"
"""Held by who makes the tables."""
ORDER = f"SELECT pg_advisory_xact_lock({_LOCKS}, 1)"
"""Held by who draws places."""
STATES = f"SELECT pg_advisory_xact_lock({_LOCKS}, 2)"
"""Held by who forgets a user, so that nobody remembers him at the same time."""
STATES_SHARED = f"SELECT pg_advisory_xact_lock_shared({_LOCKS}, 2)"
"""Held by who remembers."""

THERE = "SELECT count(*) FROM pg_tables WHERE tablename = 'segue_store' AND schemaname = ANY (current_schemas(false))"
"""Whether there are tables; a name alone is looked up in a cache that may not know yet what another process made."""

TABLES = f"""
CREATE SEQUENCE segue_place AS bigint;
CREATE TABLE segue_users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE,
    total bigint NOT NULL DEFAULT 0, last bigint NOT NULL DEFAULT 0, forgotten bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE TABLE segue_events (
    person bigint NOT NULL, place bigint NOT NULL UNIQUE, nth bigint NOT NULL, item text NOT NULL, time bigint NOT NULL,
    action text, value double precision, key text COLLATE "C", PRIMARY KEY (person, place)
);
CREATE UNIQUE INDEX segue_events_key ON segue_events (person, key) WHERE key IS NOT NULL;
CREATE TABLE segue_memories (
    name text COLLATE "C" NOT NULL, model text COLLATE "C" NOT NULL, last bigint NOT NULL, data bytea NOT NULL,
    PRIMARY KEY (name, model)
);
CREATE TABLE segue_settings (name text COLLATE "C" PRIMARY KEY, value text NOT NULL);
CREATE TABLE segue_exposures (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, experiment text COLLATE "C" NOT NULL, variant text NOT NULL,
    name text COLLATE "C" NOT NULL, time bigint NOT NULL, items text NOT NULL
);
CREATE INDEX segue_exposures_experiment ON segue_exposures (experiment, id);
CREATE INDEX segue_exposures_name ON segue_exposures (name);
CREATE TABLE segue_store (format integer NOT NULL);
INSERT INTO segue_store VALUES ({FORMAT});
"""

APPEND = """
WITH given AS MATERIALIZED (
    SELECT g.*, (
        SELECT true FROM segue_users u JOIN segue_events e ON e.person = u.id AND e.key = g.key WHERE u.name = g.name
    ) AS old
    FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::double precision[], %s::text[]) WITH ORDINALITY
        AS g (name, item, time, action, value, key, nr)
), fresh AS MATERIALIZED (
    SELECT nextval('segue_place') AS place, ordered.* FROM (
        SELECT *, count(*) OVER (PARTITION BY name) - row_number() OVER (PARTITION BY name ORDER BY nr) AS later
        FROM given WHERE old IS NULL ORDER BY nr
    ) ordered
), people AS (
    INSERT INTO segue_users AS u (name, total, last) SELECT name, count(*), max(place) FROM fresh GROUP BY name
    ON CONFLICT (name) DO UPDATE SET total = u.total + excluded.total, last = excluded.last
    RETURNING id, name, total
), added AS (
    INSERT INTO segue_events (person, place, nth, item, time, action, value, key)
    SELECT p.id, f.place, p.total - f.later, f.item, f.time, f.action, f.value, f.key
    FROM fresh f JOIN people p ON p.name = f.name
)
SELECT nr FROM fresh
"""
"""Users, items, times, actions, values, keys, none twice: which rows, from 1, are new."""

KEPT = """
SELECT w.nr, u.total - coalesce(b.nth, 0), u.last, u.forgotten > 0, e.item, e.time, e.action, e.value, e.key
FROM unnest(%(users)s::text[]) WITH ORDINALITY AS w (name, nr)
CROSS JOIN LATERAL (SELECT * FROM segue_users WHERE name = w.name LIMIT 1) u
LEFT JOIN LATERAL (
    SELECT nth FROM segue_events WHERE person = u.id AND place <= %(after)s ORDER BY place DESC LIMIT 1
) b ON true
LEFT JOIN LATERAL (
    SELECT * FROM segue_events WHERE person = u.id AND place > %(after)s ORDER BY place DESC LIMIT %(most)s
) e ON true
ORDER BY w.nr, e.place
"""
SINCE = """
SELECT item, time, action, value, key, place FROM segue_events
WHERE person = (SELECT id FROM segue_users WHERE name = %s) AND place > %s ORDER BY place LIMIT %s
"""
EVENTS = """
SELECT place, name, item, time, action, value, key FROM segue_events JOIN segue_users ON id = person
WHERE place > %s ORDER BY place LIMIT %s
"""
MEMORIES = "SELECT name, last, data FROM segue_memories WHERE name = ANY(%s) AND model = %s"
REMEMBER = """
INSERT INTO segue_memories AS m (name, model, last, data)
SELECT g.name, g.model, g.last, g.data
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bytea[]) AS g (name, model, last, data)
WHERE g.last >= coalesce((SELECT forgotten FROM segue_users WHERE name = g.name), 0)
ON CONFLICT (name, model) DO UPDATE SET last = excluded.last, data = excluded.data WHERE excluded.last >= m.last
"""
LOOK = """
SELECT name, model FROM segue_memories WHERE (name, model) > (%s, %s) ORDER BY name, model LIMIT %s
"""
PRUNE = """
DELETE FROM segue_memories AS m USING unnest(%s::text[], %s::text[]) AS g (name, model)
WHERE m.name = g.name AND m.model = g.model
"""
FORGET = (
    "DELETE FROM segue_events WHERE person = (SELECT id FROM segue_users WHERE name = %s)",
    "DELETE FROM segue_memories WHERE name = %s",
    "DELETE FROM segue_exposures WHERE name = %s",
)
MARK = """
INSERT INTO segue_users (name, last, forgotten)
SELECT %s, place, place FROM (SELECT nextval('segue_place') AS place) drawn
ON CONFLICT (name) DO UPDATE SET total = 0, last = excluded.last, forgotten = excluded.forgotten
"""
PUT = "INSERT INTO segue_settings VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
EXPOSE = """
INSERT INTO segue_exposures (experiment, variant, name, time, items)
SELECT e, v, n, t, i FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[]) WITH ORDINALITY
    AS g (e, v, n, t, i, nr) ORDER BY nr
"""
EXPOSURES = """
SELECT id, variant, name, time, items FROM segue_exposures WHERE experiment = %s AND id > %s ORDER BY id LIMIT %s
"""
