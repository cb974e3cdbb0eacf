"""The page on product databases, run as it stands: from a real PostgreSQL server to models and the service."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import polars as pl
import pytest
from servers import PostgreSQLServer

import segue
from benchmarks.product_database import page_steps, shrink
from segue.cli import main
from segue.data.examples.database import hide_password, is_query, read_database

ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """Run ``segue ...`` in this process, and return what it printed."""
    with pytest.raises(SystemExit) as left:
        main(shlex.split(os.path.expandvars(line))[1:])
    out, err = capsys.readouterr()
    assert not left.value.code, f"{line}\n{err}"
    return str(out)


@pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")  # few rows
def test_the_page_works(
    postgresql_server: PostgreSQLServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("lightgbm", reason="lightgbm is not installed")
    postgresql_server.query("CREATE DATABASE shop")
    monkeypatch.setenv("SHOP", f"postgresql://segue@/shop?host={postgresql_server.folder}")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    printed = {}
    for name, text in page_steps():
        text = shrink(text)
        if name:
            (tmp_path / name).write_text(text)
        elif text.startswith("python examples/"):
            words = shlex.split(os.path.expandvars(text))
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
            printed["fill"] = capsys.readouterr().out
        else:
            printed[text] = run(capsys, text)
    texts = "\n".join(printed.values())
    assert re.search(r"impressions: \d,\d{3} rows", printed["fill"])
    columns = {"user_id": "category", "shown_at": "time", "age": "number", "genres": "tags"}
    columns |= {"price": "number", "recent_genres": "tags"}
    for column, kind in columns.items():
        assert re.search(rf"{column} +{kind} ", texts), column
    for part in ("validation", "test"):
        assert re.search(rf"\({part}, \d+ rows\)", texts), part
    assert "Paired tests of AUC (DeLong)" in texts

    # nothing is stored but what the page says
    scored = pl.read_parquet("tonight.parquet")
    assert len(scored) == 30
    assert scored["probability"].is_between(0, 1).all()
    data = segue.load("shop")
    orders = int(printed["fill"].split("orders: ")[1].split()[0].replace(",", ""))
    assert (data.n_users, data.n_items, data.histories.size) == (60, 30, orders)
    assert data.item_features is not None
    assert data.item_features.collect_schema().names() == ["id", "title", "genres", "year", "price"]
    stored = [path.read_text() for path in Path("shop").rglob("*.json")]
    assert not any(str(postgresql_server.folder) in text for text in stored)

    from starlette.testclient import TestClient

    from segue.serving.app import create_app
    from segue.serving.server import build_service
    from segue.serving.settings import ServingSettings

    service = build_service([Path("artifacts/shop")], "memory:", None, ServingSettings(deadline_ms=60_000))
    with TestClient(create_app(service)) as client:
        response = client.post("/v1/recommend", json={"user": "u01", "k": 5}).json()
    assert response["source"] == "model"
    served = [one["id"] for one in response["items"]]
    assert served == segue.recommend(segue.open("runs/shop"), ["u01"], k=5)["item_id"].to_list()


def test_logs_of_databases(
    postgresql_server: PostgreSQLServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    address = postgresql_server.new_address(90_001)
    create = """CREATE TABLE s90001.buy AS SELECT * FROM (VALUES
        ('a', 7, 1.5::numeric(4, 1), '00000000-0000-0000-0000-000000000001'::uuid), ('b', 7, 2, NULL), ('b', 8, 3, NULL)
        ) AS rows (user_id, item_id, rating, code)"""
    postgresql_server.query(create)
    data = segue.load(address, query="SELECT user_id, item_id, rating FROM buy")
    assert data.users.ids.to_list() == ["a", "b"]
    assert data.histories.values is not None
    assert sorted(data.histories.values.tolist()) == [1.5, 2, 3]
    folders = list((tmp_path / "data").iterdir())
    segue.load(address, query="SELECT user_id, item_id, rating FROM buy")
    assert list((tmp_path / "data").iterdir()) == folders  # the same rows are prepared once
    coded = segue.load(
        address,
        query="SELECT * FROM buy",
        items="SELECT item_id, 10 * max(rating)::float8 AS price FROM buy GROUP BY item_id",
    )
    assert coded.item_features is not None
    assert "price" in coded.item_features.collect_schema().names()
    for arguments, message in (
        ({}, "query: got none for the database.* prepare the log first: segue data prepare ADDRESS"),
        ({"query": "SELECT user_id FROM buy"}, r"no column 'item_id' \(item\)"),
        ({"query": "SELECT * FROM sell"}, 'relation "sell" does not exist'),
        ({"query": "SELECT * FROM buy", "separator": ";"}, "separator: got ';'"),
        ({"query": "SELECT * FROM buy", "items": "SELECT 1 FROM nothing"}, 'relation "nothing" does not exist'),
    ):
        with pytest.raises(ValueError, match=message):
            segue.load(address, **arguments)
    with pytest.raises(ValueError, match="query: got 'SELECT 1', but the data is not the address of a database"):
        segue.load(pl.DataFrame({"user_id": ["a"], "item_id": ["b"]}), query="SELECT 1")
    with pytest.raises(ValueError, match="items: got the query 'SELECT 1', but the data is not"):
        segue.load(pl.DataFrame({"user_id": ["a"], "item_id": ["b"]}), items="SELECT 1")


def test_results_of_many_rows(postgresql_server: PostgreSQLServer, monkeypatch: pytest.MonkeyPatch) -> None:
    address = postgresql_server.new_address(90_002)
    query = """SELECT number, CASE WHEN number > 3 THEN number / 8.0 END AS price,
        CASE WHEN number > 3 THEN '00000000-0000-0000-0000-000000000001'::uuid END AS code,
        CASE WHEN number = 5 THEN ARRAY['a'] END AS tags FROM generate_series(1, 5) AS number;"""
    whole = read_database(address, query).frame
    assert whole["code"].to_list()[2:4] == [None, "00000000-0000-0000-0000-000000000001"]
    monkeypatch.setattr("segue.data.examples.database.BATCH_ROWS", 2)
    assert read_database(address, query).frame.equals(whole)
    for value in ("NaN", "Infinity"):
        with pytest.raises(ValueError, match=f"got the numeric value {value}, expected a finite one or float8"):
            read_database(address, f"SELECT '{value}'::numeric AS price")
    assert read_database(address, "SELECT 'NaN'::float8 AS price").frame["price"].is_nan().all()
    with pytest.raises(ValueError, match="got no rows"):
        read_database(address, "SELECT 1 AS a WHERE false")
    postgresql_server.query("CREATE TABLE s90002.b (c int)")
    with pytest.raises(ValueError, match="data-modifying"):
        read_database(address, "WITH a AS (DELETE FROM b RETURNING 1) SELECT * FROM a")


def test_queries_are_told_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("with prices.csv").write_text("")
    for text in ("SELECT 1", "  select\n*", "WITH a AS (SELECT 1) SELECT * FROM a", "table products", "VALUES (1)"):
        assert is_query(text), text
    for other in (
        "table.csv",
        "values.parquet",
        "select",
        "selected items.csv",
        "with prices.csv",
        None,
        pl.DataFrame(),
    ):
        assert not is_query(other), other


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://ann:secret@host:5432/shop", "postgresql://ann@host:5432/shop"),
        ("postgresql://ann:se%40cret@host/shop?sslmode=require", "postgresql://ann@host/shop?sslmode=require"),
        ("postgresql://host/shop?user=ann&password=secret", "postgresql://host/shop?user=ann"),
        ("postgresql://host/shop?password=secret&user=ann", "postgresql://host/shop?user=ann"),
        ("postgresql://host/shop", "postgresql://host/shop"),
        ("sqlite:///shop.db", "sqlite:///shop.db"),
        ("shown.csv", "shown.csv"),
    ],
)
def test_passwords_are_left_out_of_stored_addresses(address: str, shown: str) -> None:
    assert hide_password(address) == shown
    from segue.experiment.clicks.click_plan import make_click_plan

    plan = make_click_plan({"model": "deepfm", "data": address, "query": "SELECT 1"})
    assert plan.task.data == address
    assert plan.values()["task"]["data"] == shown
    assert "secret" not in plan.to_toml()
