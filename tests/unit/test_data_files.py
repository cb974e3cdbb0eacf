"""All file formats and table types give the same dataset; errors name file, row and column."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from segue.core.types import Dataset
from segue.data import Filters, load

ROWS: dict[str, list[Any]] = {
    "user_id": ["b", "a", "b", "a"],
    "item_id": ["10", "9", "9", "10"],
    "timestamp": [5, 7, 3, 7],
    "rating": [1.0, 2.0, 3.0, 4.0],
    "action": ["view", "buy", "buy", "view"],
}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEGUE_ARCHIVES", raising=False)
    return tmp_path / "home"


def check(data: Dataset) -> None:
    assert data.users.ids.to_list() == ["a", "b"]
    assert data.items.ids.to_list() == ["9", "10"], "whole numbers are ordered as numbers"
    events = data.histories
    assert events.offsets.tolist() == [0, 2, 4]
    assert events.items.tolist() == [0, 1, 0, 1]
    assert events.times.tolist() == [7, 7, 3, 5]
    assert events.values.tolist() == [2, 4, 3, 1]
    assert data.actions == ("buy", "view")
    assert events.actions.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_all_file_formats(kind: str, tmp_path: Path) -> None:
    path, frame = tmp_path / f"log.{kind}", pl.DataFrame(ROWS)
    match kind:
        case "csv":
            frame.write_csv(path)
        case "tsv":
            frame.write_csv(path, separator="\t")
        case "jsonl":
            frame.write_ndjson(path)
        case "parquet":
            frame.write_parquet(path)
    data = load(str(path), target="buy")
    check(data)
    assert data.target == 0
    assert data.header["hash"] == load(frame, target="buy").header["hash"]
    assert load(path, target="buy").header["folder"] == data.header["folder"]


@pytest.mark.parametrize("table_type", [pl.DataFrame, pl.LazyFrame, pd.DataFrame, pa.table])
def test_all_table_types(table_type: Any, home: Path) -> None:
    check(load(table_type(ROWS)))
    assert not home.exists(), "tables stay in memory"


def test_duckdb_table() -> None:
    """Use a separate process, as DuckDB writes to stderr at exit after exporting a table."""
    code = """
import duckdb
from segue.data import load
data = load(duckdb.sql("select * from (values ('b', 10, 5), ('a', 9, 7), ('b', 9, 3)) t(user_id, item_id, timestamp)"))
print(data.users.ids.to_list(), data.items.ids.to_list(), data.histories.items.tolist())
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "['a', 'b'] ['9', '10'] [0, 0, 1]\n"


def test_folder_of_files_is_one_log(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    frame = pl.DataFrame(ROWS)
    frame[2:].select(reversed(frame.columns)).write_csv(folder / "2.csv")
    frame[:2].write_csv(folder / "1.csv")
    check(load(folder))
    check(load(f"{folder}/*.csv"))
    assert load(f"{folder}/*.csv").name == "logs"
    (folder / "3.tsv").write_text("x\n")
    with pytest.raises(ValueError, match=r"got files \.csv, \.tsv, expected one suffix"):
        load(folder)
    (folder / "3.tsv").unlink()
    (folder / "3.csv").write_text("user_id,item_id,timestamp,rating,action\nb,7,1,2,view\nc,7,1,two,view\n")
    with pytest.raises(ValueError, match=r"3\.csv, line 3, column rating: got 'two', expected a number"):
        load(folder)
    (folder / "3.csv").write_text("user_id,item_id\nb,7\n")
    with pytest.raises(ValueError, match=r"3\.csv: got columns user_id, item_id, expected"):
        load(folder)


def test_column_mapping_and_unused_columns(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("customer,sku,ts,stars,color\n1,x,5,4,red\n1,y,6,2,blue\n")
    messages: list[str] = []
    columns = {"user": "customer", "item": "sku", "time": "ts", "value": "stars"}
    data = load(path, columns=columns, log=messages.append)
    assert data.histories.values.tolist() == [4, 2]
    assert any("columns not used: color" in text for text in messages)
    assert any("columns not used: color" in text for text in data.header["notes"])
    with pytest.raises(ValueError, match=r"no column 'custmer' .*did you mean 'customer'"):
        load(path, columns={"user": "custmer", "item": "sku"})
    with pytest.raises(ValueError, match=r"columns\.usr: unknown, did you mean 'user'"):
        load(path, columns={"usr": "customer"})
    with pytest.raises(ValueError, match="no column 'user_id'") as caught:
        load(path)
    assert "no column 'item_id'" in str(caught.value), "all errors are reported together"


def test_unknown_target_action() -> None:
    with pytest.raises(ValueError, match="unknown action 'bui' in polars table, did you mean 'buy'"):
        load(pl.DataFrame(ROWS), target="bui")
    with pytest.raises(ValueError, match="unknown action 'buy': polars table has no column of actions; name it"):
        load(pl.DataFrame(ROWS).drop("action"), target="buy")


BAD = [
    ("user_id,item_id,rating\n1,2,3\n1,3,high\n", "line 3, column rating: got 'high', expected a number"),
    ("user_id,item_id,rating\n1,2,3\n1,3,NaN\n", "line 3, column rating: got nan, expected a finite number"),
    ("user_id,item_id,timestamp\n1,2,3\n1,3,-4\n", "line 3, column timestamp: got -4, expected a time of 1970 or"),
    ("user_id,item_id,timestamp\n1,2,3\n1,3,soon\n", "line 3, column timestamp: got 'soon', expected seconds since"),
    ("user_id,item_id,timestamp\n1,2,3\n1,3,\n", "line 3, column timestamp: got nothing, expected seconds since"),
    ("user_id,item_id,timestamp\n1,2,3\n1,3,NaN\n", "line 3, column timestamp: got 'NaN', expected seconds since"),
    ("user_id,item_id\n1,2\n,3\n", "line 3, column user_id: got nothing, expected an id"),
    ("user_id,item_id\n1,2\n3\n", "line 3, column item_id: got nothing, expected an id"),
    ('user_id,item_id\n1,2\n3,""\n', "line 3, column item_id: got nothing, expected an id"),
    ("user_id,item_id\n1,2\n3,4,5\n", "line 3: more than 2 columns"),
    ("user_id,item_id\n", "no rows, expected events"),
    ("", "empty file"),
    ("user_id,thing\n1,2\n", "no column 'item_id'"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message for _, message in BAD])
def test_invalid_files(text: str, message: str, tmp_path: Path, home: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.csv") as caught:
        load(path)
    assert message in str(caught.value)
    assert not home.exists() or not list(home.rglob("*")), "nothing half-prepared is left behind"


def test_encoding_errors(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("user_id,item_id\n1,a\n2,caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv, line 3, character 6: byte 0xe9 is not UTF-8"):
        load(path)
    path.write_bytes("user_id,item_id\n1,a\n".encode("utf-16"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        load(path)
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"no\.parquet: not a readable \.parquet file"):
        load(tmp_path / "no.parquet")
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path / "absent.csv")


def test_ids_of_mixed_types_are_reported(tmp_path: Path) -> None:
    messages: list[str] = []
    data = load(pl.DataFrame({"user_id": ["2", "x", "10"], "item_id": [1, 2, 3]}), log=messages.append)
    assert data.users.ids.to_list() == ["10", "2", "x"]
    assert any(
        "user_id: ids of mixed type: 2 integers and 1 texts (first 'x' in polars table, row 2)" in t for t in messages
    )
    path = tmp_path / "m.jsonl"
    path.write_text('{"user_id": 1, "item_id": "a"}\n{"user_id": "1", "item_id": "b"}\n')
    messages.clear()
    assert load(path, log=messages.append).users.ids.to_list() == ["1"]
    assert any("1 of 2 are text, the others are not" in text for text in messages)
    with pytest.raises(ValueError, match=r"pandas table, column user_id: .*expected columns of one type each"):
        load(pd.DataFrame({"user_id": pd.Series([1, "x"], dtype=object), "item_id": [1, 2]}))


def test_errors_name_the_column_of_a_pandas_table_that_cannot_be_converted() -> None:
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "zip": pd.Series([1234, "AB"], dtype=object)})
    with pytest.raises(ValueError, match=r"pandas table, column zip: .*expected columns of one type each"):
        load(frame)
    with pytest.raises(ValueError, match=r"pandas table: .*column names.* with different names"):
        load(pd.DataFrame([[1, 2, 3]], columns=["user_id", "item_id", "item_id"]))


def test_errors_name_ids_that_are_the_index_of_a_pandas_table() -> None:
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2]})
    with pytest.raises(ValueError, match=r"no column 'user_id'.*\n.*the index, 'user_id', is not read.*reset_index"):
        load(frame.set_index("user_id"))
    with pytest.raises(ValueError, match="no column 'user_id'") as caught:
        load(frame.rename(columns={"user_id": "u"}))
    assert "index" not in str(caught.value)


def test_leading_zeros_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "z.csv"
    path.write_text("user_id,item_id\n007,1\n7,1\n")
    assert load(path).users.ids.to_list() == ["007", "7"]


def test_float_ids_must_be_integers() -> None:
    messages: list[str] = []
    data = load(pl.DataFrame({"user_id": [3.0, 1.0], "item_id": [1, 2]}), log=messages.append)
    assert data.users.ids.to_list() == ["1", "3"]
    assert any("ids are Float64" in text for text in messages)
    for bad in (1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"row 2, column user_id: got .*, expected an id"):
            load(pl.DataFrame({"user_id": [3.0, bad], "item_id": [1, 2]}))


@pytest.mark.parametrize(
    ("times", "seconds", "expected"),
    [
        ([3, 1], [1, 3], ""),
        ([1.75, 1.5], [1, 1], "fractions of seconds"),
        (["1970-01-01T00:00:09Z", "1970-01-01T02:00:00+02:00"], [0, 9], ""),
        (["1970-01-02", "1970-01-01 00:00:05"], [5, 86400], "the times have no time zone; read as UTC"),
        (["12", "3"], [3, 12], ""),
        ([1700000000123, 1700000000000], [1700000000, 1700000000], "read as milliseconds"),
        ([datetime(1970, 1, 1, 0, 0, 7), datetime(1970, 1, 1)], [0, 7], ""),
        (
            [datetime(1970, 1, 1, 3, tzinfo=timezone(timedelta(hours=3))), datetime(1970, 1, 2, tzinfo=UTC)],
            [0, 86400],
            "",
        ),
    ],
)
def test_time_formats(times: list[Any], seconds: list[int], expected: str) -> None:
    messages: list[str] = []
    data = load(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": times}), log=messages.append)
    assert data.histories.times.tolist() == seconds
    assert expected in " ".join(messages)
    if times == [1.75, 1.5]:
        assert data.histories.items.tolist() == [1, 0], "fractions decide the order"


def test_pandas_times_and_missing_times() -> None:
    moments = pd.to_datetime(["1970-01-01T00:00:05", "1970-01-01T00:00:00"])
    data = load(pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": moments}))
    assert data.histories.times.tolist() == [0, 5]
    with pytest.raises(ValueError, match="row 2, column timestamp: got nothing"):
        load(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1.0, None]}))
    with pytest.raises(ValueError, match="the column is List"):
        load(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [[1], [2]]}))


def test_values_may_be_missing_where_there_are_actions(tmp_path: Path) -> None:
    messages: list[str] = []
    data = load(pl.DataFrame(ROWS).with_columns(rating=pl.Series([None, 2.0, 3.0, 4.0])), log=messages.append)
    assert np.isnan(data.histories.values).sum() == 1
    assert any("1 of 4 events have no value" in text for text in messages)
    table = pl.DataFrame(ROWS).with_columns(rating=pl.Series([None, 2.0, 3.0, 4.0]))
    there = load(table, out=tmp_path / "d")
    assert load(tmp_path / "d" / "interactions.parquet").header["hash"] == there.header["hash"]
    assert load(table, filters=Filters(min_value=3)).histories.size == 3, "no value is not a small value"


def test_repeated_and_single_events_are_counted_and_logged() -> None:
    messages: list[str] = []
    table = pl.DataFrame({"user_id": [1, 1, 1, 2], "item_id": [5, 5, 5, 5], "timestamp": [1, 1, 2, 1]})
    data = load(table, log=messages.append)
    assert any("1 of 4 events are identical to another one; kept" in text for text in messages)
    assert any("2 of 4 events are repeated user-item events; kept" in text for text in messages)
    assert any("1 of 2 users have one event" in text for text in messages)
    assert data.header["notes"] == messages
    with pytest.raises(ValueError, match="got 2 repeated events, the first of user '1', item '5'"):
        load(table, filters=Filters(duplicates="error"))


def test_inapplicable_filters() -> None:
    table = pl.DataFrame({"user_id": [1], "item_id": [2]})
    with pytest.raises(ValueError, match="the data has no values"):
        load(table, filters=Filters(min_value=3))
    with pytest.raises(ValueError, match="the data has no times"):
        load(table, filters=Filters(start="2001-01-01"))
    with pytest.raises(ValueError, match="expected an ISO date"):
        Filters(start="tomorrow")
