"""A log reads the same in every format; harmful cells are errors or reported, and never silent.

The usual run has 300 cases per property. The environment variable ``SEGUE_MESSY_LOGS`` sets another number, as
``make nightly`` does.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data import load
from tests.properties.log_formats import (
    CASES,
    FORMATS,
    START,
    TABLES,
    Duck,
    Row,
    base_rows,
    logs,
    read,
    to_frame,
    write,
)


@pytest.fixture(scope="module", autouse=True)
def _duckdb_process() -> Iterator[None]:
    yield
    Duck.stop()


@settings(max_examples=CASES)
@given(st.data(), logs(), st.sampled_from(FORMATS))
def test_a_log_is_the_same_dataset_in_every_format(data: st.DataObject, frame: pl.DataFrame, kind: str) -> None:
    expected = load(frame)
    if "timestamp" in frame and (parts := data.draw(st.sampled_from([1, 1000, 10**6]))) > 1:
        frame = frame.with_columns(pl.col("timestamp") * parts)
    with tempfile.TemporaryDirectory() as folder:
        users, items, digest, _ = read(write(data.draw, frame, kind, Path(folder)))
    assert users == expected.users.ids.to_list()
    assert items == expected.items.ids.to_list()
    assert digest == expected.header["hash"]


# Harmful rows, in every format

Change = Callable[[Row], Row]

ERRORS: dict[str, tuple[Change, str]] = {
    "no user": (lambda row: {"user_id": None}, "user_id"),
    "no item": (lambda row: {"item_id": None}, "item_id"),
    "no time": (lambda row: {"timestamp": None}, "timestamp"),
    "NA": (lambda row: {"user_id": "NA"}, "user_id"),
    "NaN": (lambda row: {"item_id": "nan"}, "item_id"),
    "text as time": (lambda row: {"timestamp": "soon"}, "timestamp"),
    "another unit": (lambda row: {"timestamp": row["timestamp"] * 1000}, "timestamp"),
    "negative time": (lambda row: {"timestamp": -5}, "timestamp"),
    "infinite time": (lambda row: {"timestamp": "inf"}, "timestamp"),
    "day first": (lambda row: {"timestamp": "31/05/2024"}, "timestamp"),
    "a date among numbers": (lambda row: {"timestamp": "2024-05-31"}, "timestamp"),
    "thousands separators": (lambda row: {"timestamp": f"{row['timestamp']:,}"}, "timestamp"),
    "text as value": (lambda row: {"rating": "high"}, "rating"),
    "decimal comma": (lambda row: {"rating": "3,5"}, "rating"),
    "infinite value": (lambda row: {"rating": "inf"}, "rating"),
    "columns swapped": (lambda row: {"user_id": str(row["timestamp"]), "timestamp": row["user_id"]}, "timestamp"),
    "header again": (lambda row: {name: name for name in row}, "got the header again (user_id"),
}
"""Changes of one row, and what the error names."""

REPORTS: dict[str, tuple[Change, str]] = {
    "white space": (lambda row: {"user_id": f"{row['user_id']} "}, "begin or end with white space"),
    "case": (lambda row: {"user_id": row["user_id"].upper()}, "only in case, white space or Unicode form"),
    "Unicode form": (lambda row: {"user_id": row["user_id"].replace("u", "\uff55")}, "white space or Unicode form"),
    "byte order mark": (lambda row: {"user_id": f"\ufeff{row['user_id']}"}, "begin or end with an invisible character"),
    "control character": (lambda row: {"item_id": f"{row['item_id']}\x01"}, "control characters"),
    "long id": (lambda row: {"item_id": "x" * 300}, "longer than 256 characters"),
    "single quotes": (lambda row: {"item_id": f"'{row['item_id']}'"}, "are in single quotes"),
    "scientific notation": (lambda row: {"item_id": "1.23E+12"}, "are in scientific notation"),
    "number among texts": (lambda row: {"item_id": "7"}, "ids of mixed type: 1 integers"),
    "no value": (lambda row: {"rating": None}, "have no value"),
    "NA as value": (lambda row: {"rating": "NA"}, "are 'NA' or similar; read as missing"),
    "time near 1970": (lambda row: {"timestamp": 1234}, "are before 1973"),
    "scientific time": (lambda row: {"timestamp": "1.6E+09"}, "times are in scientific notation"),
    "action in another case": (
        lambda row: {"action": "VIEW"},
        "Unicode form, such as 'VIEW' and 'view'",
    ),
}
"""Changes of one row that are kept, and what the messages say."""

ALL_ROWS: dict[str, tuple[Callable[[int, Row], Row], str]] = {
    "one time without a zone": (
        lambda n, row: {"timestamp": datetime.fromtimestamp(row["timestamp"], UTC).isoformat()[: None if n else 19]},
        "1 of {size} times have no time zone",
    ),
    "integers and floats": (lambda n, row: {"user_id": "1.0" if n else "1"}, "ids are numbers such as '1.0'"),
    "leading zero": (lambda n, row: {"user_id": str(n + 1) if n else "01"}, "1 texts (first '01'"),
    "exponent": (lambda n, row: {"user_id": str(n + 1) if n else "1e5"}, "1 texts (first '1e5'"),
    "booleans": (lambda n, row: {"rating": n % 2 == 0}, "true and false are read as 1 and 0"),
    "no values": (lambda n, row: {"rating": None}, "no event has a value; the column is ignored"),
    "repeated rows": (
        lambda n, row: {"user_id": "u", "item_id": "i", "timestamp": START, "rating": 1},
        "are identical",
    ),
}


@settings(max_examples=CASES)
@given(st.data(), st.integers(4, 9), st.sampled_from([*ERRORS]), st.sampled_from(FORMATS))
def test_harmful_cells_are_errors_in_every_format(data: st.DataObject, size: int, harm: str, kind: str) -> None:
    rows, at = base_rows(size), data.draw(st.integers(0, size - 1))
    change, named = ERRORS[harm]
    rows[at] |= change(rows[at])
    with tempfile.TemporaryDirectory() as folder:
        source = write(data.draw, to_frame(rows), kind, Path(folder))
        with pytest.raises(ValueError, match=re.escape(named)) as caught:
            read(source)
    if kind not in ("folder", "hive"):
        number = at + (1 if kind in (*TABLES, "parquet", "feather", "arrow", "jsonl") else 2)
        assert re.search(rf"(table|log\.{kind}\S*), (line|row) {number}\b", str(caught.value)), caught.value


@settings(max_examples=CASES)
@given(st.data(), st.integers(4, 9), st.sampled_from([*REPORTS, *ALL_ROWS]), st.sampled_from(FORMATS))
def test_unusual_cells_are_reported_in_every_format(data: st.DataObject, size: int, harm: str, kind: str) -> None:
    rows = base_rows(size)
    if harm in REPORTS:
        change, report = REPORTS[harm]
        at = data.draw(st.integers(0, size - 1))
        rows[at] |= change(rows[at])
    else:
        change_all, report = ALL_ROWS[harm]
        rows = [row | change_all(n, row) for n, row in enumerate(rows)]
    frame = to_frame(rows)
    with tempfile.TemporaryDirectory() as folder:
        found = read(write(data.draw, frame, kind, Path(folder)))
    assert report.format(size=size) in found[3]
    assert found[:3] == read(frame)[:3], "the same in every format"
