"""Schema and statements of the PostgreSQL store.

Sequence numbers come from a PostgreSQL sequence, which assigns them before their rows become visible. Of two
transactions the one with the later number may commit first, and a reader that continues after that number would never
see the earlier one. Sequence numbers are therefore only drawn under a lock (:data:`LOCK_SEQUENCE_SQL`) that is held
until the commit: PostgreSQL makes a transaction's rows visible before it releases its locks, so numbers become visible
in the order in which they were drawn. An advisory lock is used instead of a counter row, because a counter updated
with every batch leaves a dead row each time, all of which remain during a dump.

A statement sees what was committed when it started, so a separate statement takes the lock first. Subqueries in a
column list are executed row by row; as joins they might be planned for a table that was still small.
"""

from __future__ import annotations

__all__ = [
    "ADD_CONTEXT_SQL",
    "APPEND_SQL",
    "CONTEXT_EXISTS_SQL",
    "CREATE_ITEMS_SQL",
    "CREATE_TABLES_SQL",
    "DELETE_USER_SQL",
    "EVENTS_AFTER_SQL",
    "EVENTS_SQL",
    "EXPOSURES_SQL",
    "FORMAT",
    "GET_STATES_SQL",
    "ITEMS_EXIST_SQL",
    "ITEM_CHANGES_SQL",
    "LOCK_ITEMS_SQL",
    "LOCK_SEQUENCE_SQL",
    "LOCK_STATES_SHARED_SQL",
    "LOCK_STATES_SQL",
    "LOCK_TABLES_SQL",
    "MARK_DELETED_SQL",
    "MIGRATE_SQL",
    "OWNED_TABLES_SQL",
    "PREVIOUS_FORMAT",
    "PRUNE_STATES_SQL",
    "PUT_ITEMS_SQL",
    "PUT_SETTING_SQL",
    "PUT_STATES_SQL",
    "RECENT_EVENTS_OF_ONE_SQL",
    "RECENT_EVENTS_SQL",
    "RECORD_EXPOSURES_SQL",
    "SELECT_DELETED_SQL",
    "SELECT_STATES_SQL",
    "SET_KEY_SQL",
    "SIZE_SQL",
    "TABLES_EXIST_SQL",
]

FORMAT = 3
PREVIOUS_FORMAT = 2
_LOCKS = 0x53656775
LOCK_TABLES_SQL = f"SELECT pg_advisory_xact_lock({_LOCKS}, 0)"
"""Held while the tables are created."""
LOCK_SEQUENCE_SQL = f"SELECT pg_advisory_xact_lock({_LOCKS}, 1)"
"""Held while sequence numbers are drawn."""
LOCK_STATES_SQL = f"SELECT pg_advisory_xact_lock({_LOCKS}, 2)"
"""Held while a user is deleted, so that no state and no exposure of the user is stored at the same time."""
LOCK_STATES_SHARED_SQL = f"SELECT pg_advisory_xact_lock_shared({_LOCKS}, 2)"
"""Held while states or exposures are stored."""

LOCK_ITEMS_SQL = f"SELECT pg_advisory_xact_lock({_LOCKS}, 3)"
"""Held while sequence numbers of items are drawn, as for :data:`LOCK_SEQUENCE_SQL`."""

TABLES_EXIST_SQL = (
    "SELECT count(*) FROM pg_tables WHERE tablename = 'segue_store' AND schemaname = ANY (current_schemas(false))"
)
"""Whether the tables exist; a table name alone is resolved in a cache that may lag behind other processes."""

ITEMS_EXIST_SQL = TABLES_EXIST_SQL.replace("segue_store", "segue_items")
CREATE_ITEMS_SQL = """
CREATE TABLE segue_items (
    id text COLLATE "C" PRIMARY KEY, content text, created bigint NOT NULL, sequence bigint NOT NULL UNIQUE
)
"""
"""Created in databases that do not have it; programs that do not know it ignore it. Removed items stay as rows without
content, so that other processes see the removal."""

_TABLES = (
    "segue_users", "segue_events", "segue_states", "segue_exposures", "segue_deletions", "segue_settings", "segue_items"
)  # fmt: skip
_PERSONAL_COLUMNS = {
    "segue_users": ("external_id",),
    "segue_events": ("item", "time", "action", "value", "key", "context"),
    "segue_states": ("external_id", "data"),
    "segue_exposures": ("external_id", "time", "items"),
}
_TYPES = {"time": "bigint", "value": "double precision", "data": "bytea", "external_id": 'text COLLATE "C"',
          "key": 'text COLLATE "C"'}  # fmt: skip

_CREATE_DELETIONS_SQL = """
CREATE TABLE segue_deletions (marker bytea PRIMARY KEY, sequence bigint NOT NULL, time bigint NOT NULL);
"""
_NO_STATISTICS_SQL = "".join(
    f"ALTER TABLE {table} {', '.join(f'ALTER COLUMN {column} SET STATISTICS 0' for column in columns)};\n"
    for table, columns in _PERSONAL_COLUMNS.items()
)
"""``ANALYZE`` copies common values to ``pg_statistic``, where they would outlive a deletion; no plan needs them."""

CREATE_TABLES_SQL = f"""
CREATE SEQUENCE segue_sequence AS bigint;
CREATE TABLE segue_users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, external_id text COLLATE "C" NOT NULL UNIQUE,
    total bigint NOT NULL DEFAULT 0, last_sequence bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE TABLE segue_events (
    user_id bigint NOT NULL, sequence bigint NOT NULL UNIQUE, event_number bigint NOT NULL, item text NOT NULL,
    time bigint NOT NULL, action text, value double precision, key text COLLATE "C", context text,
    PRIMARY KEY (user_id, sequence)
);
CREATE UNIQUE INDEX segue_events_key ON segue_events (user_id, key) WHERE key IS NOT NULL;
CREATE TABLE segue_states (
    external_id text COLLATE "C" NOT NULL, model text COLLATE "C" NOT NULL, last_sequence bigint NOT NULL,
    data bytea NOT NULL, written_at bigint NOT NULL, PRIMARY KEY (external_id, model)
);
{_CREATE_DELETIONS_SQL}
CREATE TABLE segue_settings (name text COLLATE "C" PRIMARY KEY, value text NOT NULL);
CREATE TABLE segue_exposures (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, experiment text COLLATE "C" NOT NULL, variant text NOT NULL,
    external_id text COLLATE "C" NOT NULL, time bigint NOT NULL, items text NOT NULL
);
CREATE INDEX segue_exposures_experiment ON segue_exposures (experiment, id);
CREATE INDEX segue_exposures_user ON segue_exposures (external_id);
{_NO_STATISTICS_SQL}
CREATE TABLE segue_store (format integer NOT NULL, key bytea);
INSERT INTO segue_store VALUES ({FORMAT});
"""
"""Creates the tables; the key of the deletion markers is set afterwards."""

CONTEXT_EXISTS_SQL = (
    "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('segue_events') AND attname = 'context'"
)
ADD_CONTEXT_SQL = """
ALTER TABLE segue_events ADD COLUMN context text;
ALTER TABLE segue_events ALTER COLUMN context SET STATISTICS 0;
"""
"""Executed in databases that do not have the column; programs that do not know it ignore it."""

_DROP_STATISTICS_SQL = "".join(
    f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {_TYPES.get(column, 'text')};\n"
    for table, columns in _PERSONAL_COLUMNS.items()
    for column in columns
)
"""Drops the statistics of columns by an assignment of their own type, which does not rewrite the table."""

MIGRATE_SQL = f"""
{_CREATE_DELETIONS_SQL}
DO $$
DECLARE acl record;
BEGIN
    FOR acl IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
        FROM pg_class, aclexplode(relacl) WHERE oid = 'segue_users'::regclass AND grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON segue_deletions TO %s', acl.privilege_type, acl.role);
    END LOOP;
END $$;
TRUNCATE segue_states;
ALTER TABLE segue_states ADD COLUMN written_at bigint NOT NULL;
ALTER TABLE segue_store ADD COLUMN key bytea;
ALTER TABLE segue_events ADD COLUMN context text;
{_DROP_STATISTICS_SQL}
{_NO_STATISTICS_SQL}
DELETE FROM segue_users WHERE deleted_sequence > 0 AND total = 0;
ALTER TABLE segue_users DROP COLUMN deleted_sequence;
UPDATE segue_store SET format = {FORMAT};
"""
"""Converts format 2, which marked deleted users in ``segue_users``.

The markers are inserted afterwards; see :data:`SELECT_DELETED_SQL`.
"""
SELECT_DELETED_SQL = "SELECT external_id, deleted_sequence FROM segue_users WHERE deleted_sequence > 0"
"""Deleted users of format 2."""
SET_KEY_SQL = "UPDATE segue_store SET key = %s WHERE key IS NULL"
"""Sets the key of the deletion markers."""
OWNED_TABLES_SQL = (
    f"SELECT t FROM unnest(ARRAY{[*_PERSONAL_COLUMNS]}) t "
    "JOIN pg_class c ON c.oid = to_regclass(t) WHERE pg_has_role(relowner, 'USAGE')"
)
"""Tables with data of users that this role may vacuum."""
SIZE_SQL = f"SELECT sum(pg_total_relation_size(to_regclass(t))) FROM unnest(ARRAY{[*_TABLES]}) t"

APPEND_SQL = """
WITH given AS MATERIALIZED (
    SELECT g.*, (
        SELECT true FROM segue_users u JOIN segue_events e ON e.user_id = u.id AND e.key = g.key
        WHERE u.external_id = g.external_id
    ) AS is_duplicate
    FROM unnest(
        %s::text[], %s::text[], %s::bigint[], %s::text[], %s::double precision[], %s::text[], %s::text[]
    ) WITH ORDINALITY AS g (external_id, item, time, action, value, key, context, row_number)
), new_events AS MATERIALIZED (
    SELECT nextval('segue_sequence') AS sequence, ordered.* FROM (
        SELECT *, count(*) OVER (PARTITION BY external_id)
            - row_number() OVER (PARTITION BY external_id ORDER BY row_number) AS n_later
        FROM given WHERE is_duplicate IS NULL ORDER BY row_number
    ) ordered
), updated_users AS (
    INSERT INTO segue_users AS u (external_id, total, last_sequence)
    SELECT external_id, count(*), max(sequence) FROM new_events GROUP BY external_id
    ON CONFLICT (external_id) DO UPDATE
    SET total = u.total + excluded.total, last_sequence = excluded.last_sequence
    RETURNING id, external_id, total
), inserted AS (
    INSERT INTO segue_events (user_id, sequence, event_number, item, time, action, value, key, context)
    SELECT u.id, n.sequence, u.total - n.n_later, n.item, n.time, n.action, n.value, n.key, n.context
    FROM new_events n JOIN updated_users u ON u.external_id = n.external_id
)
SELECT row_number FROM new_events
"""
"""Parameters: users, items, times, actions, values, keys, contexts, without duplicate keys. Returns the 1-based rows
that are new."""

_MARKER = "substring(%(markers)b FROM 32 * row_number::integer - 31 FOR 32)"
"""Marker of a row: markers, of 32 bytes each, are passed one after the other, which is faster than a list."""
_USERS = "unnest(%(users)s::text[]) WITH ORDINALITY"
RECENT_EVENTS_SQL = f"""
SELECT w.row_number, coalesce(u.total, 0) - coalesce(b.event_number, 0), coalesce(u.last_sequence, d.sequence),
    d.sequence IS NOT NULL, e.item, e.time, e.action, e.value, e.key, e.context
FROM {_USERS} AS w (external_id, row_number)
LEFT JOIN LATERAL (SELECT * FROM segue_users WHERE external_id = w.external_id LIMIT 1) u ON true
LEFT JOIN LATERAL (SELECT sequence FROM segue_deletions WHERE marker = {_MARKER} LIMIT 1) d ON true
LEFT JOIN LATERAL (
    SELECT event_number FROM segue_events WHERE user_id = u.id AND sequence <= %(after)s ORDER BY sequence DESC LIMIT 1
) b ON true
LEFT JOIN LATERAL (
    SELECT * FROM segue_events WHERE user_id = u.id AND sequence > %(after)s ORDER BY sequence DESC LIMIT %(limit)s
) e ON true
WHERE u.id IS NOT NULL OR d.sequence IS NOT NULL
ORDER BY w.row_number, e.sequence
"""
RECENT_EVENTS_OF_ONE_SQL = RECENT_EVENTS_SQL.replace(_USERS, "(SELECT (%(users)s::text[])[1], 1)")
"""For one user. PostgreSQL plans it once, but the other each time, as a plan for any number of users is slower."""
EVENTS_AFTER_SQL = """
SELECT item, time, action, value, key, context, sequence FROM segue_events
WHERE user_id = (SELECT id FROM segue_users WHERE external_id = %s) AND sequence > %s ORDER BY sequence LIMIT %s
"""
EVENTS_SQL = """
SELECT sequence, external_id, item, time, action, value, key, context
FROM segue_events JOIN segue_users ON id = user_id
WHERE sequence > %s ORDER BY sequence LIMIT %s
"""
GET_STATES_SQL = "SELECT external_id, last_sequence, data FROM segue_states WHERE external_id = ANY(%s) AND model = %s"
PUT_STATES_SQL = f"""
INSERT INTO segue_states AS s (external_id, model, last_sequence, data, written_at)
SELECT g.external_id, g.model, g.last_sequence, g.data, %(time)s
FROM unnest(%(users)s::text[], %(models)s::text[], %(last_sequences)s::bigint[], %(data)s::bytea[]) WITH ORDINALITY
    AS g (external_id, model, last_sequence, data, row_number)
WHERE g.last_sequence > coalesce((SELECT sequence FROM segue_deletions WHERE marker = {_MARKER}), -1)
ON CONFLICT (external_id, model) DO UPDATE
SET last_sequence = excluded.last_sequence, data = excluded.data, written_at = excluded.written_at
WHERE excluded.last_sequence >= s.last_sequence
"""
SELECT_STATES_SQL = """
SELECT external_id, model, written_at FROM segue_states
WHERE (external_id, model) > (%s, %s) ORDER BY external_id, model LIMIT %s
"""
PRUNE_STATES_SQL = """
DELETE FROM segue_states AS s USING unnest(%s::text[], %s::text[]) AS g (external_id, model)
WHERE s.external_id = g.external_id AND s.model = g.model AND s.written_at < %s
"""
DELETE_USER_SQL = (
    "DELETE FROM segue_events WHERE user_id = (SELECT id FROM segue_users WHERE external_id = %s)",
    "DELETE FROM segue_states WHERE external_id = %s",
    "DELETE FROM segue_exposures WHERE external_id = %s",
    "DELETE FROM segue_users WHERE external_id = %s",
)
MARK_DELETED_SQL = """
INSERT INTO segue_deletions (marker, sequence, time)
SELECT g.marker, coalesce(g.sequence, nextval('segue_sequence')), %s
FROM unnest(%s::bytea[], %s::bigint[]) AS g (marker, sequence)
WHERE EXISTS (SELECT FROM segue_store WHERE key = %s)
ON CONFLICT (marker) DO UPDATE SET sequence = excluded.sequence, time = excluded.time
RETURNING sequence
"""
"""Parameters: time; markers; sequence numbers or null; key of the markers. Returns nothing if the key is another."""
PUT_ITEMS_SQL = """
WITH last AS (SELECT coalesce(max(sequence), 0) AS sequence FROM segue_items)
INSERT INTO segue_items AS i (id, content, created, sequence)
SELECT g.id, g.content, last.sequence + g.row_number, last.sequence + g.row_number
FROM last, unnest(%s::text[], %s::text[]) WITH ORDINALITY AS g (id, content, row_number)
ON CONFLICT (id) DO UPDATE SET content = excluded.content, sequence = excluded.sequence,
    created = CASE WHEN i.content IS NULL THEN excluded.created ELSE i.created END
"""
ITEM_CHANGES_SQL = (
    "SELECT id, content, created, sequence FROM segue_items WHERE sequence > %s ORDER BY sequence LIMIT %s"
)
PUT_SETTING_SQL = "INSERT INTO segue_settings VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
RECORD_EXPOSURES_SQL = f"""
INSERT INTO segue_exposures (experiment, variant, external_id, time, items)
SELECT experiment, variant, external_id, time, items
FROM unnest(
    %(experiments)s::text[], %(variants)s::text[], %(users)s::text[], %(times)s::bigint[], %(items)s::text[]
) WITH ORDINALITY AS g (experiment, variant, external_id, time, items, row_number)
WHERE (SELECT g.time <= d.time + %(clock_skew)s FROM segue_deletions d WHERE d.marker = {_MARKER}) IS NOT TRUE
ORDER BY row_number
"""
EXPOSURES_SQL = """
SELECT id, variant, external_id, time, items FROM segue_exposures
WHERE experiment = %s AND id > %s ORDER BY id LIMIT %s
"""
