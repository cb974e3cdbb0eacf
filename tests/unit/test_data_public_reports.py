"""Inputs like those in public bug reports of recommender libraries are read, or rejected with their reason."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from event_pairs import pairs

import segue
from segue.cli import main
from segue.data import load


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))


RECBOLE = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\nA1\t0001\t5.0\t1387670400\nA1\t0002\t4\t1387670401\n"
)
BOOK_CROSSING = '"User-ID";"ISBN";"Book-Rating"\r\n"276725";"034545104X";"0"\r\n"276726";"0155061224";"5"\r\n'

FILES: dict[str, tuple[str, bytes | str, dict[str, Any], list[tuple[str, str]], str]] = {
    "RecBole 1520: atomic file": ("log.inter", RECBOLE, {}, [("A1", "0001"), ("A1", "0002")], "is read as user_id"),
    "RecBole 2000: separated by spaces": (
        "log.inter",
        "user_id Item_id timestamp\n1 5 7\n1 6 8\n",
        {},
        [("1", "5"), ("1", "6")],
        "separator is ' '",
    ),
    "RecBole 1985: time column of another name": (
        "log.csv",
        "user_id,item_id,time\n1,5,8\n1,6,7\n",
        {},
        [("1", "5"), ("1", "6")],
        "column 'time' is not used; if it is the time of events, name it: time=time",
    ),
    "RecBole 1812: no times": (
        "log.csv",
        "user_id,item_id\n1,6\n1,5\n",
        {},
        [("1", "6"), ("1", "5")],
        "no column timestamp; the order of the rows is the order of events",
    ),
    "Surprise 117: no header, blank line at the end": (
        "log.csv",
        "3\t1\t2.897\t1\n3\t2\t2.669\t1\n\n\n",
        {"columns": {"user": 1, "item": 2, "value": 3}},
        [("3", "1"), ("3", "2")],
        "the separator is '\\t'",
    ),
    "Surprise 41: other names": (
        "log.csv",
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n",
        {"columns": {"item": "movieId"}},
        [("1", "31")],
        "column 'userId' is read as user_id",
    ),
    "cornac 398: Book-Crossing": (
        "log.csv",
        BOOK_CROSSING,
        {"columns": {"item": "ISBN", "user": "User-ID", "value": "Book-Rating"}},
        [("276725", "034545104X"), ("276726", "0155061224")],
        "the separator is ';'",
    ),
    "cornac 453: repeated events": (
        "log.csv",
        "user_id,item_id\n1,2\n1,2\n",
        {},
        [("1", "2"), ("1", "2")],
        "1 of 2 events are identical to another",
    ),
    "RecSys Challenge 2017, 38: additional columns": (
        "log.csv",
        "user_id,item_id,career_level\n1,2,3\n",
        {},
        [("1", "2")],
        "columns not used: career_level",
    ),
    "KuaiRec 2: times with milliseconds": (
        "log.csv",
        "user_id,item_id,timestamp\n217,1,2020-09-01 11:27:43.599\n217,2,2020-09-01 11:27:43.1\n",
        {},
        [("217", "2"), ("217", "1")],
        "times have fractions of seconds; used for the order",
    ),
    "Spotlight 30: header user, item": (
        "log.csv",
        "user,item,rating\n1,2,3\n",
        {"columns": {"user": "user", "item": "item"}},
        [("1", "2")],
        "",
    ),
    "LibRecommender 67: floating-point ids": (
        "log.csv",
        "user_id,item_id\n550.0,1\n551.0,2\n550.0,2\n",
        {},
        [("550", "1"), ("550", "2"), ("551", "2")],
        "ids are numbers such as '550.0'; converted to integers",
    ),
    "spreadsheets: separator in the first line": (
        "log.csv",
        "sep=;\r\nuser_id;item_id\r\n1;2\r\n",
        {},
        [("1", "2")],
        "the separator is ';'",
    ),
    "Hive: separated by control characters": (
        "log.txt",
        "user_id\x01item_id\n1\x012\n",
        {"separator": "\x01"},
        [("1", "2")],
        "the separator is '\\x01'",
    ),
    "separator of several characters": (
        "log.txt",
        "user_id ### item_id\n1 ### a,b\n",
        {"separator": " ### "},
        [("1", "a,b")],
        "separator is ' ### '",
    ),
    "numbered columns behind text with other separators": (
        "log.csv",
        "1,2,a|b|c\n1,3,a|b\n",
        {"columns": {"user": 1, "item": 2}},
        [("1", "2"), ("1", "3")],
        "no header",
    ),
}


@pytest.mark.parametrize("report", FILES)
def test_files_of_public_reports_are_read(report: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, content, arguments, expected, message = FILES[report]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    messages: list[str] = []
    data = segue.load(path, log=messages.append, **arguments)
    assert pairs(data) == expected
    assert message in "\n".join(messages)
    options = [f"--{key}={value}" for key, value in arguments.items() if key != "columns"]
    if "columns" in arguments:
        options += ["--columns", ",".join(f"{key}={value}" for key, value in arguments["columns"].items())]
    with pytest.raises(SystemExit) as caught:
        main(["data", "prepare", str(path), "--out", str(tmp_path / "prepared"), *options])
    assert not caught.value.code
    assert message in capsys.readouterr().err
    assert load(tmp_path / "prepared").header["hash"] == data.header["hash"]


REJECTED: dict[str, tuple[str, bytes | str, dict[str, Any], str]] = {
    "RecBole 2125: a dash for a missing price": (
        "log.csv",
        "user_id,item_id,rating\n1,2,3\n1,3,—\n",
        {},
        r"line 3, column rating: got '—', expected a number",
    ),
    "Surprise 91: an additional separator": (
        "log.tsv",
        "user_id\titem_id\trating\n1\t2\t4\n1\t\t3\t4\n",
        {},
        r"line 3: more than 3 columns",
    ),
    "Surprise 41: a header where columns are numbered": (
        "log.csv",
        "userId,movieId,rating\n1,2,3\n",
        {"columns": {"user": 1, "item": 2, "value": 3}},
        r"line 1: got a header \(userId, rating\)",
    ),
    "Surprise 41: no item column": (
        "log.csv",
        "userId,movieId,rating\n1,2,3\n",
        {},
        r"no column 'item_id' \(item\).*name columns like item=movieId",
    ),
    "cornac 398: Book-Crossing in Latin-1": (
        "log.csv",
        "user_id;item_id\n1;caf\xe9\n".encode("latin-1"),
        {},
        r"line 2, .*iconv -f WINDOWS-1252 -t UTF-8",
    ),
    "spreadsheets: Unicode text": (
        "log.txt",
        "user_id\titem_id\n1\t2\n".encode("utf-16"),
        {},
        r"the file is UTF-16, convert it: iconv -f UTF-16",
    ),
    "spreadsheets: a workbook named CSV": ("log.csv", b"PK\x03\x04\x14\x00", {}, "a zip archive or a spreadsheet"),
    "difftre 4: a web page instead of a file": ("log.csv", "<!DOCTYPE html>\n<html>\n", {}, "no column 'user_id'"),
    "RecTools 269: no user in one row": (
        "log.jsonl",
        '{"user_id": 1, "item_id": 2}\n{"user_id": null, "item_id": 3}\n',
        {},
        r"line 2, column user_id: got nothing, expected an id \(1 of 2 rows",
    ),
    "LightFM 561: NULL": (
        "log.csv",
        "user_id,item_id\n1,NULL\n",
        {},
        "line 2, column item_id: got 'NULL', expected an id",
    ),
    "MongoDB export: an object as id": (
        "log.jsonl",
        '{"user_id": {"$oid": "a"}, "item_id": 2}\n',
        {},
        r"line 1, column user_id: got \{\"\$oid\"",
    ),
    "a JSON array": ("log.jsonl", '[{"user_id": 1,\n"item_id": 2}]\n', {}, r"got a JSON array, .*jq -c '\.\[\]'"),
    "two possible separators": ("log.csv", "1,2;3,4\n1,2;3,5\n", {"columns": {"user": 1, "item": 2}}, "',' or ';'"),
    "a separator that does not occur": (
        "log.csv",
        "user_id,item_id\n1,2\n",
        {"separator": ";"},
        "one column with the separator ';'",
    ),
    "an invalid separator": ("log.csv", "user_id,item_id\n1,2\n", {"separator": "comma"}, "separator: got 'comma'"),
    "a separator for JSON lines": ("log.jsonl", '{"user_id": 1}\n', {"separator": ","}, "is not delimited text"),
    "a wide row without header": (
        "log.csv",
        "1,2\n1,3,4\n",
        {"columns": {"user": 1, "item": 2}},
        "line 2: more than 2 columns",
    ),
    "text as value in a file without header": (
        "log.csv",
        "1,2,3\n1,3,x\n",
        {"columns": {"user": 1, "item": 2, "value": 3}},
        "line 2, column 3: got 'x'",
    ),
}


@pytest.mark.parametrize("report", REJECTED)
def test_files_of_public_reports_are_rejected(report: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, content, arguments, message = REJECTED[report]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        segue.load(path, **arguments)
    if not arguments:
        with pytest.raises(SystemExit) as caught:
            main(["data", "describe", str(path)])
        assert caught.value.code
        assert str(path) in capsys.readouterr().err


TABLES: dict[str, tuple[Callable[[], Any], str]] = {
    "LightFM 570: rows of a mixed array": (
        lambda: pd.DataFrame({"user_id": np.array([5863.0, 2.0]), "item_id": [1, 2]}),
        "ids are Float64 with integer values",
    ),
    "RecBole 2204: Float32 times": (
        lambda: pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": pl.Series([1.6e9], dtype=pl.Float32)}),
        "timestamp: Float32 rounds numbers as large as 1600000000 to multiples of 128",
    ),
    "times without zone": (
        lambda: pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [datetime(2024, 1, 1)]}),
        "timestamp: the times have no time zone; read as UTC",
    ),
    "decimals": (
        lambda: pl.DataFrame({"user_id": [Decimal(2**60), Decimal(2**60 + 1)], "item_id": [1, 2]}),
        "ids are Decimal(precision=38, scale=0) with integer values",
    ),
    "booleans as values": (
        lambda: pl.DataFrame({"user_id": [1], "item_id": [1], "rating": [True]}),
        "true and false are read as 1 and 0",
    ),
}


@pytest.mark.parametrize("report", TABLES)
def test_tables_of_public_reports_are_read(report: str) -> None:
    make, message = TABLES[report]
    messages: list[str] = []
    table = make()
    data = load(table, log=messages.append)
    assert data.n_users == len(table)
    assert message in "\n".join(messages)
    assert data.users.encode(table["user_id"].to_list())[1].all(), "the ids of the source are known"


REJECTED_TABLES: dict[str, tuple[Any, str]] = {
    "ids rounded by Float32": (
        pl.DataFrame({"user_id": pl.Series([1, 2**24 + 1], dtype=pl.Float32), "item_id": [1, 2]}),
        "row 2, column user_id: got 16777216.0, expected an id below 16,777,216, above which Float32 is not exact",
    ),
    "ids rounded by Float64": (
        pl.DataFrame({"user_id": [2.0**60], "item_id": [1]}),
        "above which Float64 is not exact",
    ),
    "fractions": (
        pl.DataFrame({"user_id": [Decimal("5.5")], "item_id": [1]}),
        "got 5.5, expected an id: an integer or text",
    ),
    "objects of mixed types": (
        pl.DataFrame({"user_id": pl.Series([1, "1"], dtype=pl.Object), "item_id": [1, 2]}),
        r"row 2, column user_id: got '1' \(str\), expected ids of one type",
    ),
    "objects": (
        pl.DataFrame({"user_id": pl.Series([object()], dtype=pl.Object), "item_id": [1]}),
        r"\(object\), expected ids of",
    ),
    "a header among the rows": (
        pl.DataFrame({"user_id": ["u", "user_id"], "item_id": ["i", "item_id"]}),
        "row 2: got the header again",
    ),
    "a header among categories": (
        pl.DataFrame({"user_id": ["u", "user_id"], "item_id": pl.Series(["i", "item_id"], dtype=pl.Categorical)}),
        "row 2: got the header again",
    ),
    "complex numbers": (
        pd.DataFrame({"user_id": [1], "item_id": [1], "rating": [1j]}),
        "expected columns of one type each",
    ),
    "a series": (pd.Series([1, 2]), "got a Series, expected a table with columns"),
    "a dict": ({"user_id": [1], "item_id": [2]}, r"got dict, .*polars\.DataFrame makes a table"),
    "a list of dicts": ([{"user_id": 1, "item_id": 2}], r"got list, .*polars\.DataFrame makes a table"),
    "a record array": (
        np.rec.fromrecords([(1, 2)], names=["user_id", "item_id"]),
        r"got recarray, .*polars\.DataFrame",
    ),
    "the end of time": (
        pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": pl.Series([2**63 - 1]).cast(pl.Datetime("us"))}),
        "row 1, column timestamp: got 9223372036855 seconds since 1970, expected a time before the year 10000",
    ),
    "equally many times in two units": (
        pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1600000000, 1600000001 * 10**6]}),
        "row 2, column timestamp: got 1600000001000000, expected seconds since 1970 as in other rows",
    ),
}


@pytest.mark.parametrize("report", REJECTED_TABLES)
def test_tables_of_public_reports_are_rejected(report: str) -> None:
    table, message = REJECTED_TABLES[report]
    with pytest.raises(ValueError, match=message):
        load(table)


@pytest.mark.parametrize(
    "dtype", [pl.Int8, pl.UInt64, pl.Float64, pl.Decimal(20, 0), pl.Int128, pl.Categorical, pl.Object]
)
def test_ids_of_every_type_give_the_same_dataset(dtype: Any) -> None:
    ids = pl.Series([3, 20, 3])
    if dtype == pl.Object:
        ids = pl.Series([uuid.UUID(int=one) for one in ids], dtype=pl.Object)
        expected = pl.Series([str(one) for one in ids])
    else:
        expected = ids.cast(pl.String)
        ids = (expected if dtype == pl.Categorical else ids).cast(dtype)
    frames = [pl.DataFrame({"user_id": one, "item_id": [1, 2, 3]}) for one in (ids, expected)]
    assert load(frames[0]).header["hash"] == load(frames[1]).header["hash"]


def test_a_separator_is_given_in_the_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id!item_id\n1!2\n")
    assert pairs(load(f"{path}?separator=!")) == [("1", "2")]
    assert pairs(load(f"{tmp_path}/*.csv?separator=%21")) == [("1", "2")]
    assert pairs(segue.load(path, separator="!")) == [("1", "2")]
    with pytest.raises(SystemExit) as caught:
        main(["data", "describe", str(path), "--separator", "!"])
    assert not caught.value.code
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"unknown setting 'sep', expected .*log\.csv\?separator=CHARACTER"):
        load(f"{path}?sep=!")
    with pytest.raises(ValueError, match="separator is given twice, in the address and as ';'"):
        load(f"{path}?separator=!", separator=";")
    for other in (pl.DataFrame({"user_id": [1], "item_id": [2]}), "ml-100k"):
        with pytest.raises(ValueError, match="separator"):
            load(other, separator=";")


def test_numbered_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        (tmp_path / f"part-{number}.csv").write_text(f"user_id,item_id\nu,{number}\n")
    assert pairs(load(tmp_path)) == [("u", "1"), ("u", "2"), ("u", "10")]


def test_entries_of_a_folder_that_are_not_read_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    (folder / "2023").mkdir(parents=True)
    (folder / "1.csv").write_text("user_id,item_id\n1,2\n")
    (folder / "notes.txt").touch()
    messages: list[str] = []
    load(folder, log=messages.append)
    assert f"{folder}: not read: 2023/, notes.txt" in messages


def test_training_reads_the_given_separator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"u{n % 5}~i{n * 7 % 6}~{n + 10**9}" for n in range(40)]
    (tmp_path / "log.txt").write_text("\n".join(["user_id~item_id~timestamp", *rows]))
    out = tmp_path / "run"
    arguments = ["train", "popular", "--data", str(tmp_path / "log.txt"), "--separator", "~", "--out", str(out)]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--set", "evaluation.baseline=none"])
    assert not caught.value.code, capsys.readouterr().err
    assert 'separator = "~"' in (out / "settings.toml").read_text()
