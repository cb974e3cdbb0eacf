"""Logs in unusual but valid forms are read, with each decision reported; ambiguous ones are errors."""

from __future__ import annotations

import gzip
import io
import json
import os
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from event_pairs import pairs

import segue
from segue.cli import main
from segue.core.types import Dataset
from segue.data import Filters, load

SMALL_TYPES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))


def read(path: Path, text: str | bytes, **settings: Any) -> tuple[Dataset, str]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    messages: list[str] = []
    return load(path, log=messages.append, **settings), "\n".join(messages)


def _write_csv(frame: pl.DataFrame, path: Path) -> None:
    frame.write_csv(path)


WRITERS: dict[str, Callable[[pl.DataFrame, Path], Any]] = {
    "csv": _write_csv,
    "tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    "jsonl": lambda frame, path: frame.write_ndjson(path),
    "parquet": lambda frame, path: frame.write_parquet(path),
    "feather": lambda frame, path: frame.write_ipc(path, compression="lz4"),
    "arrow": lambda frame, path: frame.write_ipc_stream(path),
}


# Ids


@pytest.mark.parametrize("dtype", SMALL_TYPES)
def test_ids_of_every_integer_type_stay_apart(dtype: str) -> None:
    limits = np.iinfo(dtype)
    ids = np.array([limits.max, limits.min, 2, 1, limits.max - 1], dtype)
    table = pd.DataFrame({"user_id": ids, "item_id": ids[::-1]})
    expected = sorted(zip(map(int, ids), map(int, ids[::-1]), strict=True))
    for source in (table, pl.DataFrame(table), pa.Table.from_pandas(table)):
        data = load(source)
        assert [(int(user), int(item)) for user, item in pairs(data)] == expected
        assert data.users.id_type == dtype


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "ids",
    [[-3, 120, -128, 5], [2**64 - 1, 2**63, 2**63 + 1, 1], [10**15, -(10**15), 0, 9]],
    ids=["narrow", "u64", "wide"],
)
def test_files_and_frames_give_the_same_ids(kind: str, ids: list[int], tmp_path: Path) -> None:
    dtype = pl.UInt64 if max(ids) >= 2**63 else pl.Int8 if max(ids) < 128 else pl.Int64
    frame = pl.DataFrame({"user_id": pl.Series(ids, dtype=dtype), "item_id": [1, 2, 3, 4]})
    WRITERS[kind](frame, tmp_path / f"log.{kind}")
    data = load(tmp_path / f"log.{kind}")
    assert data.users.ids.to_list() == [str(one) for one in sorted(ids)]
    assert data.header["hash"] == load(frame).header["hash"]


def test_pandas_downcast_ids_do_not_merge_users() -> None:
    users = pd.to_numeric(pd.Series([-100, 100, 27]), downcast="integer")
    assert str(users.dtype) == "int8"
    assert load(pd.DataFrame({"user_id": users, "item_id": [1, 2, 3]})).n_users == 3


@pytest.mark.parametrize(
    ("ids", "expected", "report"),
    [
        (pl.Series([True, False, True]), ["false", "true"], "true and false"),
        (pl.Series(["b", "a", "b"], dtype=pl.Categorical), ["a", "b"], ""),
        (pl.Series(["3", "20", "3"], dtype=pl.Enum(["3", "20"])), ["3", "20"], ""),
        (pl.Series([3.0, 20.0, 3.0], dtype=pl.Float32), ["3", "20"], "converted to integers"),
        (pl.Series(["3.0", "20.0", "3.0"]), ["3", "20"], "converted to integers"),
        (pl.Series(["3", "20", "3"]).cast(pl.Decimal(10, 0)), ["3", "20"], "converted to integers"),
        (pl.Series([3, 20, 3], dtype=pl.Int128), ["3", "20"], ""),
        (pl.Series(["2024-01-02", "2024-01-01", "2024-01-02"]).str.to_date(), ["2024-01-01", "2024-01-02"], ""),
        (pl.Series([b"b", b"a", b"b"]), ["a", "b"], "UTF-8"),
    ],
)
def test_ids_of_other_types_are_kept_apart(ids: pl.Series, expected: list[str], report: str) -> None:
    messages: list[str] = []
    data = load(pl.DataFrame({"user_id": ids, "item_id": [1, 2, 3]}), log=messages.append)
    assert data.users.ids.to_list() == expected
    assert report in "\n".join(messages)
    if ids[0] != "3.0":
        assert data.users.encode([ids[0]])[1].all(), "the value of the source finds its user"


def test_uuids_are_read_from_every_type(tmp_path: Path) -> None:
    ids = [uuid.UUID(int=7 << 100 | n) for n in (255, 128)]
    expected = sorted(str(one) for one in ids)
    tables: list[Any] = [
        pd.DataFrame({"user_id": ids, "item_id": [1, 2]}),
        pl.DataFrame({"user_id": ids, "item_id": [1, 2]}),
        pl.DataFrame({"user_id": [one.bytes for one in ids], "item_id": [1, 2]}),
        pa.table({"user_id": pa.array([one.bytes for one in ids], pa.uuid()), "item_id": [1, 2]}),
    ]
    tables[2].write_parquet(tmp_path / "log.parquet")
    for source in (*tables, tmp_path / "log.parquet"):
        assert load(source).users.ids.to_list() == expected
    with pytest.raises(ValueError, match=r"row 1, column user_id: got b'\\xff', expected an id: UTF-8 text, or a UUID"):
        load(pl.DataFrame({"user_id": [b"\xff"], "item_id": [1]}))


def test_times_and_lists_are_not_ids() -> None:
    moments = pd.to_datetime(["2024-01-01", "2024-01-02"])
    with pytest.raises(ValueError, match=r"column user_id: got a column of type Datetime.*expected ids of one type"):
        load(pd.DataFrame({"user_id": moments, "item_id": [1, 2]}))
    with pytest.raises(ValueError, match="got a column of type List"):
        load(pl.DataFrame({"user_id": [[1], [2]], "item_id": [1, 2]}))


@pytest.mark.parametrize("one", ["x" * 257, "a\tb", "a\x00b"])
def test_ids_that_the_service_rejects_are_reported(one: str) -> None:
    messages: list[str] = []
    data = load(pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", one]}), log=messages.append)
    assert any("item_id: the ids of 1 of 2 events are longer than 256 characters or contain" in t for t in messages)
    assert any("the service rejects them" in text for text in data.header["notes"])


def test_white_space_around_ids_is_reported(tmp_path: Path) -> None:
    data, log = read(tmp_path / "log.csv", "user_id, item_id\n1, 2\n1, 3\n")
    assert data.items.ids.to_list() == [" 2", " 3"]
    assert "begin or end with white space" in log
    assert "column ' item_id' is read as item_id" in log


# Missing cells


@pytest.mark.parametrize("missing", ["NA", "null", "", "NaN", "\\N", "None"])
def test_events_without_a_user_are_an_error_or_left_out(missing: str, tmp_path: Path) -> None:
    text = f"user_id,item_id,timestamp\n1,2,1\n{missing},3,2\n1,4,3\n2,5,soon\n"
    with pytest.raises(ValueError, match=r"line 3, column user_id: got .*expected an id \(1 of 4 rows have none"):
        read(tmp_path / "log.csv", text)
    with pytest.raises(ValueError, match="line 5, column timestamp: got 'soon'"):
        read(tmp_path / "log.csv", text, filters=Filters(incomplete="drop"))
    data, log = read(tmp_path / "log.csv", text.replace("soon", "4"), filters=Filters(incomplete="drop"))
    assert pairs(data) == [("1", "2"), ("1", "4"), ("2", "5")]
    assert "user_id: 1 of 4 events have none and are left out" in log


def test_missing_cells_are_the_same_in_every_format(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["a", None, "b"], "item_id": ["x", "y", "z"], "rating": [1.5, 2.0, None]})
    filters = Filters(incomplete="drop")
    expected = load(frame, filters=filters)
    assert pairs(expected) == [("a", "x"), ("b", "z")]
    assert load(frame.to_pandas(), filters=filters).header["hash"] == expected.header["hash"]
    for kind, write in WRITERS.items():
        write(frame, tmp_path / f"log.{kind}")
        assert load(tmp_path / f"log.{kind}", filters=filters).header["hash"] == expected.header["hash"], kind


def test_blank_ratings_are_kept_without_a_value(tmp_path: Path) -> None:
    data, log = read(tmp_path / "log.csv", "user_id,item_id,rating\n1,2,3\n1,3,\n1,4,NA\n")
    assert data.histories.values is not None
    assert np.isnan(data.histories.values).tolist() == [False, True, True]
    assert "rating: 2 of 3 events have no value" in log
    data, log = read(tmp_path / "log.csv", "user_id,item_id,rating\n1,2,\n1,3,\n")
    assert data.histories.values is None
    assert "rating: no event has a value; the column is ignored" in log


# Columns


@pytest.mark.parametrize("name", [None, ""])
@pytest.mark.parametrize("key", ["value", "rating"])
def test_a_column_can_be_ignored(name: str | None, key: str, tmp_path: Path) -> None:
    text = "user_id,item_id,rating\n1,2,good\n1,3,bad\n"
    data, log = read(tmp_path / "log.csv", text, columns={key: name})
    assert data.histories.values is None
    assert "column rating is ignored" in log
    frame = pl.read_csv(io.StringIO(text))
    assert segue.load(frame, columns={key: name}).header["hash"] == data.header["hash"]
    with pytest.raises(ValueError, match=r"columns\.user: got None, expected a column name"):
        load(frame, columns={"user": None})


def test_columns_are_given_by_either_name(tmp_path: Path) -> None:
    text = "who,what,when,stars,kind\n1,2,3,4,view\n"
    short = {"user": "who", "item": "what", "time": "when", "value": "stars", "action": "kind"}
    long = {"user_id": "who", "item_id": "what", "timestamp": "when", "rating": "stars", "action": "kind"}
    first = read(tmp_path / "log.csv", text, columns=short)[0]
    assert first.histories.values is not None
    assert first.header["folder"] == load(tmp_path / "log.csv", columns=long).header["folder"]
    with pytest.raises(ValueError, match=r"columns\.rating: given twice, as 'value' and as 'rating'"):
        load(tmp_path / "log.csv", columns=short | {"rating": "stars"})
    with pytest.raises(ValueError, match=r"columns\.item: 'who' is already the column of columns\.user"):
        load(tmp_path / "log.csv", columns={"user": "who", "item": "who"})
    with pytest.raises(ValueError, match=r"columns\.user: got 1\.5, expected a column name"):
        load(tmp_path / "log.csv", columns={"user": 1.5})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "header", ["USER_ID,ITEM_ID,TIMESTAMP", "userId,Item ID,TimeStamp", '"User-Id","item_id",timestamp']
)
def test_headers_in_another_case_are_recognized_and_reported(header: str, tmp_path: Path) -> None:
    data, log = read(tmp_path / "log.csv", f"{header}\n1,2,9\n1,3,5\n")
    assert pairs(data) == [("1", "3"), ("1", "2")]
    assert "is read as user_id" in log
    with pytest.raises(ValueError, match="2 columns for user: User_ID, USER_ID; expected one"):
        load(pl.DataFrame({"User_ID": [1], "USER_ID": [2], "item_id": [1]}))
    with pytest.raises(ValueError, match="2 columns for user: user_id, user_id; expected one"):
        read(tmp_path / "log.csv", "user_id,item_id,user_id\n1,2,3\n")


# Delimited text


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".dat"])
def test_separators_are_detected(separator: str, suffix: str, tmp_path: Path) -> None:
    rows = (("user_id", "item_id", "timestamp"), ("1", "a", "9"), ("1", "b", "5"))
    text = "\n".join(separator.join(row) for row in rows)
    data, log = read(tmp_path / f"log{suffix}", text)
    assert pairs(data) == [("1", "b"), ("1", "a")]
    default = "\t" if suffix == ".tsv" else ","
    assert (f"the separator is {separator!r}" in log) == (separator != default)


@pytest.mark.parametrize("ending", ["\n\n\n", "\r\n\r\n", "\n  \n\t\n", ""])
def test_blank_lines_at_the_end_are_no_events(ending: str, tmp_path: Path) -> None:
    for kind, rows in {
        "csv": "user_id,item_id\n1,2\n1,3",
        "jsonl": '{"user_id":1,"item_id":2}\n{"user_id":1,"item_id":3}',
    }.items():
        newline = "\r\n" if "\r" in ending else "\n"
        text = "\ufeff" + rows.replace("\n", newline) + ending
        assert pairs(read(tmp_path / f"log.{kind}", text)[0]) == [("1", "2"), ("1", "3")]


def test_carriage_returns_end_lines(tmp_path: Path) -> None:
    assert pairs(read(tmp_path / "log.csv", "user_id,item_id\r1,2\r1,3\r")[0]) == [("1", "2"), ("1", "3")]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_quotes_in_unused_columns_do_not_swallow_lines(kind: str, tmp_path: Path) -> None:
    titles = ['"Great', "x", 'World"', '12" vinyl', '"', "y"]
    separator = "," if kind == "csv" else "\t"
    lines = [separator.join(("user_id", "title", "item_id"))]
    lines += [separator.join(("1", title, str(n))) for n, title in enumerate(titles)]
    data, log = read(tmp_path / f"log.{kind}", "\n".join(lines))
    assert data.histories.size == 6
    assert "read as ordinary characters" in log
    lines[-1] += f"{separator}z"
    with pytest.raises(ValueError, match=r"line \d+: .*expected quoted fields to be closed"):
        read(tmp_path / f"log.{kind}", "\n".join(lines))


def test_tsv_lines_are_not_joined_by_quotes_at_both_ends(tmp_path: Path) -> None:
    text = 'user_id\titem_id\ttitle\n1\t1\t"a\n1\t2\tb\n1\t3\tc"\n'
    assert read(tmp_path / "log.tsv", text)[0].histories.size == 3


def test_quoted_fields_may_contain_separators_quotes_and_line_ends(tmp_path: Path) -> None:
    text = 'user_id,title,item_id\n1,"a, ""b""\nc",x\n2,"d","y ""z"""\n"3",12" vinyl,w\n'
    data, log = read(tmp_path / "log.csv", text)
    assert pairs(data) == [("1", "x"), ("2", 'y "z"'), ("3", "w")]
    assert "1 line ends are inside of quoted fields" in log


def test_files_without_a_header_have_numbered_columns(tmp_path: Path) -> None:
    data, log = read(tmp_path / "log.dat", "7,10,a\n7,5,b\n", columns={"user": 1, "time": 2, "item": 3})
    assert pairs(data) == [("7", "b"), ("7", "a")]
    assert "there is no header" in log
    with pytest.raises(ValueError, match=r"line 2, column 2: got 'x'"):
        read(tmp_path / "log.dat", "7,10,a\n7,x,b\n", columns={"user": 1, "time": 2, "item": 3})
    with pytest.raises(ValueError, match=r"line 1: got a header \(user_id, item_id\)"):
        read(tmp_path / "log.dat", "user_id,item_id\n1,2\n", columns={"user": 1, "item": 2})
    with pytest.raises(ValueError, match=r"no column '9'"):
        read(tmp_path / "log.dat", "7,10,a\n", columns={"user": 1, "item": 9})


# Files and folders


def test_json_fields_that_appear_late_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"user_id": n, "item_id": n} for n in range(1500)]
    rows += [{"user_id": 1, "item_id": 2, "rating": 4.5, "note": {"a": [1]}}]
    data, log = read(tmp_path / "log.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert data.histories.values is not None
    assert np.isfinite(data.histories.values).sum() == 1
    assert "columns not used: note" in log


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_compressed_text_is_read(suffix: str, compression: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": ["x", "y"], "timestamp": [9, 5]})
    WRITERS[suffix[1:]](frame, tmp_path / f"log{suffix}")
    plain = (tmp_path / f"log{suffix}").read_bytes()
    whole = gzip.compress(plain) if compression == ".gz" else pa.compress(plain, "zstd", asbytes=True)
    (tmp_path / f"log{suffix}{compression}").write_bytes(whole)
    assert load(tmp_path / f"log{suffix}{compression}").header["hash"] == load(frame).header["hash"]
    (tmp_path / f"log{suffix}{compression}").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"not a readable \.(gz|zst) file"):
        load(tmp_path / f"log{suffix}{compression}")


@pytest.mark.parametrize("kind", WRITERS)
def test_hive_partitions_are_read(kind: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": ["x", "y"]})
    for day in (2, 1):
        folder = tmp_path / "log" / f"timestamp=2024-01-0{day}" / "action=a%2Fb"
        folder.mkdir(parents=True)
        WRITERS[kind](frame, folder / f"part-0.{kind}")
        (folder / f".part-0.{kind}.crc").write_bytes(b"x")
    (tmp_path / "log" / "_SUCCESS").touch()
    data = load(tmp_path / "log")
    assert data.histories.times is not None
    assert np.unique(data.histories.times).tolist() == [1704067200, 1704153600]
    assert data.actions == ("a/b",)
    assert data.histories.size == 4


def test_ids_of_different_types_in_two_files_are_exact(tmp_path: Path) -> None:
    for number, (dtype, one) in enumerate(((pl.Int64, -1), (pl.UInt64, 2**63 + 1))):
        pl.DataFrame({"user_id": pl.Series([one], dtype=dtype), "item_id": [1]}).write_parquet(
            tmp_path / f"{number}.parquet"
        )
    assert sorted(load(tmp_path / "*.parquet").users.ids) == ["-1", str(2**63 + 1)]


def test_a_file_replaced_by_one_of_equal_size_and_time_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    read(path, "user_id,item_id\n1,2\n")
    status = path.stat()
    for replacement in (tmp_path / "new.csv", path):
        replacement.write_text("user_id,item_id\n1,3\n" if replacement != path else "user_id,item_id\n1,4\n")
        os.utime(replacement, ns=(status.st_atime_ns, status.st_mtime_ns))
        replacement.replace(path)
        assert path.stat().st_mtime_ns == status.st_mtime_ns
        assert load(path).items.ids.to_list() == (["3"] if replacement != path else ["4"])


# Real files

ARCHIVE = Path(os.environ.get("SEGUE_ARCHIVES", "")) / "messy-logs.zip"
REAL: dict[str, tuple[dict[str, Any], int, int, int, str]] = {
    "yoochoose_clicks.dat": ({"user": 1, "time": 2, "item": 3}, 1913, 461, 907, "there is no header"),
    "diginetica_item_views.csv": (
        {"user": "session_id", "time": "eventdate"},
        12391,
        2986,
        -1,
        "the separator is ';'",
    ),
    "retailrocket_events.csv": ({}, 10080, 2496, 5566, "17 of 10080 events are identical"),
}


@pytest.mark.skipif("SEGUE_ARCHIVES" not in os.environ or not ARCHIVE.is_file(), reason="messy-logs.zip is absent")
@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_with_their_decisions_reported(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        path = Path(archive.extract(f"messy-logs/{name}", tmp_path))
    columns, events, users, items, report = REAL[name]
    messages: list[str] = []
    data = segue.load(path, columns=columns, log=messages.append)
    assert (data.histories.size, data.n_users) == (events, users)
    assert items in (-1, data.n_items)
    assert report in "\n".join(messages)
    pairs_text = ",".join(f"{key}={value}" for key, value in columns.items())
    out = tmp_path / "prepared"
    with pytest.raises(SystemExit):
        main(["data", "prepare", str(path), "--out", str(out), *(["--columns", pairs_text] if columns else [])])
    captured = capsys.readouterr()
    assert report in " ".join((captured.out + captured.err).split())
    assert load(out).header["hash"] == data.header["hash"]


@pytest.mark.skipif("SEGUE_ARCHIVES" not in os.environ or not ARCHIVE.is_file(), reason="messy-logs.zip is absent")
def test_real_rows_without_a_user_are_reported(tmp_path: Path) -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        path = Path(archive.extract("messy-logs/diginetica_item_views.csv", tmp_path))
    with pytest.raises(ValueError, match=r"line 2, column user_id: got 'NA', expected an id \(7681 of 12391 rows"):
        load(path)
    messages: list[str] = []
    data = load(path, filters=Filters(incomplete="drop"), log=messages.append)
    assert data.histories.size == 12391 - 7681
    assert any("7681 of 12391 events have none and are left out" in text for text in messages)
