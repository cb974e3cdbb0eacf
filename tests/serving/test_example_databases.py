"""Labeled examples from a real PostgreSQL server."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from servers import PostgreSQLServer

from segue.data.examples.read import read_examples

ROWS = """
SELECT * FROM (VALUES
  (true, 1::bigint, 1.50::numeric(10, 2), ARRAY['a', 'b'], '2024-05-31 18:30+02'::timestamptz),
  (false, NULL, 2.25, NULL, NULL)
) AS impressions (label, user_id, price, tags, shown)
"""


def test_the_result_of_a_query_is_a_table(postgresql_server: PostgreSQLServer) -> None:
    table = read_examples(postgresql_server.address, ROWS)
    rows = table.frame.to_dict(as_series=False)
    assert rows["label"] == [True, False]
    assert rows["user_id"] == [1, None]
    assert [float(one) for one in rows["price"]] == [1.5, 2.25]
    assert rows["tags"] == [["a", "b"], None]
    assert rows["shown"][0].timestamp() == 1717173000
    assert table.location.describe_row(1).startswith("postgresql query 'SELECT * FROM (VALUES (true, 1::bigint")
    assert table.location.describe_row(1).endswith("...', row 2")


def test_nothing_can_be_written(postgresql_server: PostgreSQLServer) -> None:
    postgresql_server.query("CREATE TABLE IF NOT EXISTS shown AS SELECT 1 AS label")
    postgresql_server.query("CREATE SEQUENCE IF NOT EXISTS numbers")
    with pytest.raises(ValueError, match=r"failed: .*must not contain data-modifying statements in WITH"):
        read_examples(postgresql_server.address, "WITH gone AS (DELETE FROM shown RETURNING *) SELECT * FROM gone")
    for query in ("SELECT nextval('numbers')", "SELECT 1 AS label; DELETE FROM shown"):
        with pytest.raises(ValueError, match=r"failed: (cannot execute .* in a read-only transaction|.*command)"):
            read_examples(postgresql_server.address, query)
    assert postgresql_server.query("SELECT * FROM shown") == [(1,)]
    with pytest.raises(ValueError, match="expected SELECT"):
        read_examples(postgresql_server.address, "CREATE TABLE t (x int)")
    with pytest.raises(ValueError, match='failed: relation "nothing" does not exist'):
        read_examples(postgresql_server.address, "SELECT * FROM nothing")


def test_only_one_statement_is_read(postgresql_server: PostgreSQLServer) -> None:
    with pytest.raises(ValueError, match="failed: cannot insert multiple commands into a prepared statement"):
        read_examples(postgresql_server.address, "SELECT 1 AS label; SELECT 2 AS label")
    table = read_examples(postgresql_server.address, "SELECT 1 AS label, 'a;b' AS text;")
    assert table.frame.to_dicts() == [{"label": 1, "text": "a;b"}]


def test_sqlite_attaches_no_files(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "shop.sqlite").close()
    with pytest.raises(ValueError, match="failed: not authorized"):
        read_examples(f"sqlite:///{tmp_path}/shop.sqlite", f"ATTACH DATABASE '{tmp_path}/new.sqlite' AS new")
    assert not (tmp_path / "new.sqlite").exists()


def test_passwords_are_not_shown() -> None:
    with pytest.raises(ValueError, match=r"data: cannot connect to 127\.0\.0\.1") as caught:
        read_examples("postgresql://u:secret@127.0.0.1:1/x", "SELECT 1")
    assert "secret" not in str(caught.value)
