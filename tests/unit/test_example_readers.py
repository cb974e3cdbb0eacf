"""Readers of labeled examples: formats, types, and bad rows by file and line."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import call

import segue
from segue.data.examples.read import list_example_sources, read_examples

CSV = "label,user,price,day,zip,seen\n1,a,1.5,2024-05-31,007,true\n0,b,,2024-06-01,8,false\n1,a,2,,9,\n"


def read(folder: Path, name: str, text: str | bytes, **settings: Any) -> Any:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_examples(path, **settings)


def test_cells_of_text_become_numbers_dates_and_truth_values(tmp_path: Path) -> None:
    table = read(tmp_path, "a.csv", CSV)
    assert table.frame.schema == pl.Schema(
        {
            "label": pl.Int64,
            "user": pl.String,
            "price": pl.Float64,
            "day": pl.Datetime("us"),
            "zip": pl.String,  # a leading zero: no number
            "seen": pl.Boolean,
        }
    )
    assert table.frame["price"].to_list() == [1.5, None, 2]
    assert table.location.describe_row(1) == f"{tmp_path}/a.csv, line 3"
    assert table.take([2, 0]).location.describe_row(0) == f"{tmp_path}/a.csv, line 4"
    assert table.take([2, 0]).take([1]).location.describe_row(0) == f"{tmp_path}/a.csv, line 2"


@pytest.mark.parametrize("missing", ["NA", "na", "nan", "NaN", "n/a", "NULL", "None", "<NA>", "#N/A", "\\N"])
def test_texts_that_mean_missing_are_missing_among_numbers_dates_and_truth_values(tmp_path: Path, missing: str) -> None:
    rows = f"1,{missing},3,2024-05-31,{missing},NA", f"0,2.5,{missing},{missing},true,DE"
    text = "\n".join(["label,price,count,day,seen,country", *rows, ""])
    for content in (text, text.replace("DE", '"D\nE"')):  # quoted line ends are read by another parser
        table = read(tmp_path, "a.csv", content)
        assert table.frame["price"].to_list() == [None, 2.5]
        assert table.frame["count"].to_list() == [3, None]
        assert table.frame["day"].is_null().to_list() == [False, True]
        assert table.frame["seen"].to_list() == [None, True]
        assert table.frame["country"][0] == "NA"
        notes = [note for note in table.notes if "as missing" in note]
        start = (
            f"{tmp_path}/a.csv: column '{{}}': 1 of 2 cells are read as missing, such as {missing!r}; the others are"
        )
        assert notes == [
            f"{start.format('price')} numbers",
            f"{start.format('count')} numbers",
            f"{start.format('day')} dates or truth values",
            f"{start.format('seen')} dates or truth values",
        ]


def test_columns_that_are_nearly_numbers_are_noted(tmp_path: Path) -> None:
    cells = [*map(str, range(19)), "free"]
    csv = "label,price,zip\n" + "".join(f"{at % 2},{cell},0{at}\n" for at, cell in enumerate(cells))
    expected = "column 'price' is read as text: 1 of 20 cells are no numbers, such as 'free'"
    table = read(tmp_path, "a.csv", csv)
    assert table.notes == (f"{tmp_path}/a.csv: {expected}",)
    assert table.frame.schema["price"] == pl.String
    lines = "".join(json.dumps({"label": at % 2, "price": cell}) + "\n" for at, cell in enumerate(cells))
    assert read(tmp_path, "a.jsonl", lines).notes == (f"{tmp_path}/a.jsonl: {expected}",)
    half = "label,price\n" + "".join(f"{at % 2},{'a' if at % 4 else at}\n" for at in range(20))
    assert read(tmp_path, "b.csv", half).notes == ()


def test_missing_numbers_are_reported_in_python_and_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{at % 2},{at / 7:.3f},{'ab'[at % 2]}" for at in range(60)]
    rows[7] = "1,NA,a"
    (tmp_path / "shown.csv").write_text("label,price,kind\n" + "\n".join(rows) + "\n")
    note = "column 'price': 1 of 60 cells are read as missing, such as 'NA'; the others are numbers"
    out = tmp_path / "out"
    status, _, err = call(
        capsys, "clicks", "train", "logistic_regression", "--data", tmp_path / "shown.csv", "--out", out
    )
    assert status == 0
    assert note in err
    notes: list[str] = []
    model = segue.train_clicks("logistic_regression", tmp_path / "shown.csv", log=notes.append)
    assert any(note in one for one in notes)
    for one in (model, segue.open_clicks(out)):
        assert [(column.name, column.kind) for column in one.encoder.columns] == [
            ("price", "number"),
            ("kind", "category"),
        ]


@pytest.mark.parametrize(
    ("name", "text", "settings"),
    [
        ("a.csv", "label,x\n1,a\n0,b\n", {}),
        ("a.csv", "\ufefflabel,x\r\n1,a\r\n0,b\r\n\r\n", {}),
        ("a.csv", "label;x\n1;a\n0;b", {}),
        ("a.tsv", "label\tx\n1\ta\n0\tb\n", {}),
        ("a.txt", "label::x\n1::a\n0::b\n", {"separator": "::"}),
        ("a.csv", 'label,"x"\n1,"a"\n0,"b"\n', {}),
        ("a.jsonl", '{"label": 1, "x": "a"}\n{"x": "b", "label": 0}\n', {}),
        ("a.csv.gz", gzip.compress(b"label,x\n1,a\n0,b\n", mtime=0), {}),
    ],
)
def test_formats_of_text(tmp_path: Path, name: str, text: str | bytes, settings: Any) -> None:
    frame = read(tmp_path, name, text, **settings).frame
    assert frame.to_dict(as_series=False) == {"label": [1, 0], "x": ["a", "b"]}


def test_quoted_fields_may_have_separators_and_line_ends(tmp_path: Path) -> None:
    table = read(tmp_path, "a.csv", 'label,x\n1,"a, ""b"""\n0,c\n')
    assert table.frame["x"].to_list() == ['a, "b"', "c"]
    assert table.location.describe_row(1).endswith("a.csv, line 3")
    table = read(tmp_path, "b.csv", 'label,x,n\n1,"a\nb",5\n0,c,6\n')
    assert table.frame["x"].to_list() == ["a\nb", "c"]
    assert table.frame["n"].to_list() == [5, 6]
    assert table.location.describe_row(1).endswith("b.csv, row 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,x\n1,a\n0\n1,b\n", "a.csv, line 3: got 1 fields, expected 2 fields as in the header"),
        ("label,x\n1,a\n0,b,c\n1,b,d\n", r"line 3: got 3 fields, expected 2 fields as in the header \(2 such lines\)"),
        ("label,x\n1,a\n\n1,b\n", "line 3: got an empty line"),
        ('label,x,y\n1,"a\nb",c\n0,b\n', "row 2: got 2 fields, expected 3"),
        (b"label,x\n1,a\n0,\xff\n", "line 3, character 3: byte 0xff is not UTF-8"),
        ("", "empty file"),
        ("\n\n", "empty file, expected a header"),
        ("1,2\n0,3\n", "line 1: got only numbers, such as '1', expected a header"),
        ("label,x,x\n1,2,3\n", "line 1: two columns have the name 'x'"),
        ("label,\n1,2\n", "line 1: column 2 has no name"),
        ("label\n1\n", "line 1: one column with the separator ','"),
        ("label,x\n", "got no rows, expected examples"),
        (b"PK\x03\x04", "the content is a zip archive"),
    ],
)
def test_bad_rows_of_delimited_text_are_located(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "a.csv", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"label": 1}\n[1]\n', "a.jsonl, line 2: got '.1.', expected one JSON object"),
        ('{"label": 1}\n{"label":\n', "a.jsonl, line 2: got .*, expected one JSON object"),
        (b'{"label": "\xff"}\n', "line 1, character 12: byte 0xff"),
        ('{"label": 1}\n\n{"label": 0, "x": 1, "x": 2}\n', "a.jsonl, line 3: 'x' occurs twice in '.*'"),
        ('{"label": 1, "x": null, "x": 2}\n{"label": 0}\n', "line 1: 'x' occurs twice"),
        ('{"label": 1, "x": 2, "x": null}\n{"label": 0, "x": null}\n', "line 1: 'x' occurs twice"),
        ('{"label": 1, "label": 1, "x": 1}\n{"x": 2}\n', "line 1: 'label' occurs twice"),
        ('{"label": 1, "x": 1, "\\u0078": 2}\n', "line 1: 'x' occurs twice"),
        ('{"label": 1, "é": 1, "\\u00e9": 2}\n', "line 1: 'é' occurs twice"),
    ],
)
def test_bad_rows_of_json_lines_are_located(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "a.jsonl", text)


def test_names_of_columns_in_cells_are_no_repeated_keys(tmp_path: Path) -> None:
    text = '{"label": 1, "x": "label", "y": {"x": "x"}}\n{"label": 0, "x": null, "y": null}\n{"label": 1}\n'
    assert read(tmp_path, "a.jsonl", text).frame["x"].to_list() == ["label", None, None]


def test_labels_and_cells_are_located_in_their_file(tmp_path: Path) -> None:
    good = "label,x\n" + "1,0.5\n0,1.5\n" * 5
    (tmp_path / "bad.csv").write_text("label,x\n1,0.5\n7,1.5\n")
    (tmp_path / "good.csv").write_text(good)
    (tmp_path / "inf.csv").write_text("label,x\n1,0.5\n0,inf\n")
    with pytest.raises(ValueError, match=r"bad.csv, line 3, column 'label': got 7, expected 0 or 1"):
        segue.train_clicks("deepfm", tmp_path / "bad.csv")
    with pytest.raises(ValueError, match=r"bad.csv, line 3, column 'label': got 7"):
        segue.train_clicks("deepfm", tmp_path / "good.csv", tmp_path / "bad.csv")
    with pytest.raises(ValueError, match=r"inf.csv, line 3, column 'x': got 'inf', expected a number"):
        segue.train_clicks("deepfm", tmp_path / "good.csv", tmp_path / "inf.csv")
    split = segue.split_examples(segue.load_examples(tmp_path / "good.csv"), valid=0.2, test=0.2)
    assert str(tmp_path) in split.test.location.describe_row(0)


def test_parquet_with_empty_row_groups_and_folders(tmp_path: Path) -> None:
    schema = pa.schema({"label": pa.int64(), "x": pa.string()})
    rows = pa.table({"label": [1, 0], "x": ["a", "b"]}, schema=schema)
    empty = schema.empty_table()
    with pq.ParquetWriter(tmp_path / "p-2.parquet", schema) as writer:
        for group in (empty, rows, empty, rows, empty):
            writer.write_table(group)
    assert pq.ParquetFile(tmp_path / "p-2.parquet").num_row_groups == 5
    pq.write_table(rows, tmp_path / "p-10.parquet")
    pq.write_table(empty, tmp_path / "p-1.parquet")
    assert read_examples(tmp_path / "p-2.parquet").frame["label"].to_list() == [1, 0, 1, 0]
    for address in (tmp_path, str(tmp_path / "*.parquet")):
        table = read_examples(address)
        assert table.frame["x"].to_list() == ["a", "b"] * 3
        assert table.location.describe_row(0) == f"{tmp_path}/p-2.parquet, row 1"
        assert table.location.describe_row(5) == f"{tmp_path}/p-10.parquet, row 2"
    with pytest.raises(ValueError, match="got no rows"):
        read_examples(tmp_path / "p-1.parquet")
    pq.write_table(rows.rename_columns(["label", "y"]), tmp_path / "p-3.parquet")
    with pytest.raises(ValueError, match=r"p-3.parquet: got the columns label, y, expected label, x as in"):
        read_examples(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 is not all")
    with pytest.raises(ValueError, match=r"bad.parquet: not a readable .parquet file"):
        read_examples(tmp_path / "bad.parquet")


def test_files_may_disagree_on_the_type_of_a_category(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("label,city,n\n1,5,1\n")
    (tmp_path / "2.csv").write_text("label,city,n\n0,x,1.5\n")
    frame = read_examples(tmp_path).frame
    assert frame["city"].to_list() == ["5", "x"]
    assert frame["n"].to_list() == [1, 1.5]


def test_libfm_with_equal_rows_has_columns_of_categories(tmp_path: Path) -> None:
    table = read(tmp_path, "a.libfm", "1 3:1 10:1\n-1 4:1 11:1\n1 3:1.0 12:1\n")
    assert table.frame.to_dict(as_series=False) == {"label": [1, 0, 1], "field_1": [3, 4, 3], "field_2": [10, 11, 12]}
    assert "labels of -1 are read as 0" in table.notes[1]
    assert "2 columns of categories" in table.notes[0]


def test_libfm_with_other_rows_has_tags_or_numbers(tmp_path: Path) -> None:
    table = read(tmp_path, "a.libfm", "1 3:1 10:1\n0\n1 4:1\n")
    assert table.frame["tags"].to_list() == [[3, 10], None, [4]]
    table = read(tmp_path, "b.libfm", "1 3:0.5 10:2\n0 3:-1\n")
    assert table.frame.drop("label").to_dict(as_series=False) == {"x3": [0.5, -1], "x10": [2, 0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 3:1\n2 4:1\n", "a.libfm, line 2: got the label '2', expected a label of 0 or 1"),
        ("1 3:1\n\n0 3:1\n", "line 2: got an empty line"),
        ("1 3:1\n-1 3:1\n0 3:1\n", "line 2: got the label -1, but other rows have 0"),
        ("1 3:1\n0 4\n", "line 2: got '4', expected index:value"),
        ("1 3:1\n0 x:1\n", "line 2: got 'x:1'"),
        ("1 -3:1\n0 3:1\n", "line 1: got '-3:1'"),
        ("1 3:1\n0 4:1 4:2\n", "line 2: the index 4 occurs twice"),
        ("1\n0\n", "no row has an index"),
        ("", "empty file"),
        (b"1 3:1\n0 \xff:1\n", "line 2, character 3: byte 0xff"),
        ("\n".join(f"1 {n}:2" for n in range(1_001)), "got 1,001 indices with values other than 1, expected at most"),
    ],
)
def test_bad_rows_of_libfm_are_located(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "a.libfm", text)


@pytest.mark.parametrize("ids", [("2024-01-12345", "2024-01-12346"), ("2024-99-1", "2024-98-2"), ("2024-13-01", None)])
def test_text_that_begins_like_a_date_stays_text(tmp_path: Path, ids: tuple[str, str | None]) -> None:
    text = "label,order\n" + "".join(f"{at},{one or ''}\n" for at, one in enumerate(ids))
    assert read(tmp_path, "a.csv", text).frame["order"].to_list() == list(ids)


def test_dates_of_formats_without_dates_are_times(tmp_path: Path) -> None:
    """A derived table that is written as JSON Lines can be split by its times."""
    days = [f"2024-05-{1 + at:02} 18:30:00" for at in range(8)]
    codes = ["2024-05-01", *["x"] * 7]
    frame = pl.DataFrame({"label": [0, 1] * 4, "day": [*days[:7], None], "code": codes})
    frame.write_ndjson(tmp_path / "a.jsonl")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE shown (label INTEGER, day TEXT, code TEXT)")
        connection.executemany("INSERT INTO shown VALUES (?, ?, ?)", frame.rows())
    connection.close()
    frame.write_csv(tmp_path / "a.csv")
    expected = read_examples(tmp_path / "a.csv").frame
    assert expected.schema["day"] == pl.Datetime("us")
    assert read_examples(tmp_path / "a.jsonl").frame.equals(expected)
    table = read_examples(f"sqlite:///{tmp_path}/a.db", "SELECT * FROM shown")
    assert table.frame.equals(expected)


def test_sqlite_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE impressions (clicked INTEGER, city TEXT, price REAL)")
        connection.executemany("INSERT INTO impressions VALUES (?, ?, ?)", [(1, "a", 0.5), (0, None, 2.5), (5, "b", 1)])
    connection.close()
    address = f"sqlite:///{path}"
    table = read_examples(address, "SELECT clicked AS label, city, price FROM impressions")
    assert table.frame.to_dict(as_series=False) == {
        "label": [1, 0, 5],
        "city": ["a", None, "b"],
        "price": [0.5, 2.5, 1],
    }
    with pytest.raises(ValueError, match=r"sqlite query 'SELECT clicked.*', row 3, column 'label': got 5, expected"):
        segue.train_clicks("deepfm", table)
    for query, message in {
        None: "query: got none for the database",
        "SELECT nowhere FROM impressions": "query 'SELECT nowhere FROM impressions' failed: no such column: nowhere",
        "DELETE FROM impressions": "expected SELECT",
        "SELECT * FROM impressions WHERE clicked = 9": "got no rows",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_examples(address, query)
    with pytest.raises(ValueError, match=r"no such file: .*/none.db"):
        read_examples(f"sqlite:///{tmp_path}/none.db", "SELECT 1")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(ValueError, match="unknown kind of database 'mysql'"):
        read_examples("mysql://x/y", "SELECT 1")
    with pytest.raises(ValueError, match="query: got 'SELECT 1', but the data is not the address of a database"):
        read_examples(pl.DataFrame({"label": [1]}), "SELECT 1")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"psycopg is not installed: pip install 'segue\[postgresql\]'"):
        read_examples("postgresql://localhost/x", "SELECT 1")


def test_databases_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.db"
    rows = [(row % 2, None if row < 5000 else row if row < 10_000 else row / 2, f"c{row % 7}") for row in range(20_000)]
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE impressions (clicked INTEGER, price, city TEXT)")
        connection.executemany("INSERT INTO impressions VALUES (?, ?, ?)", rows)
    connection.close()
    query = "SELECT clicked AS label, price, city FROM impressions"
    whole = read_examples(f"sqlite:///{path}", query).frame
    assert whole.schema == {"label": pl.Int64, "price": pl.Float64, "city": pl.String}
    assert whole.rows() == rows
    monkeypatch.setattr("segue.data.examples.database.BATCH_ROWS", 1000)  # nulls, whole numbers, then decimals
    tracemalloc.start()
    try:
        assert read_examples(f"sqlite:///{path}", query).frame.equals(whole)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000  # all rows at once take about 3 MB
    finally:
        tracemalloc.stop()


def test_tables_in_memory() -> None:
    frame = pl.DataFrame({"label": [1, 0], "x": ["a", "b"]})
    for source in (frame, frame.lazy(), frame.to_pandas(), frame.to_arrow(), frame.to_dict(as_series=False)):
        assert read_examples(source).frame.equals(frame)
    with pytest.raises(ValueError, match="expected columns of one type each"):
        read_examples(pd.DataFrame({"label": [1, "a"]}))
    with pytest.raises(ValueError, match="data: the mapping is no table"):
        read_examples({"label": [1, 0], "x": ["a"]})


def test_unknown_addresses_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown source 'frappe-x2', did you mean 'frappe-x1'"):
        read_examples("frappe-x2")
    with pytest.raises(ValueError, match=r"no such file"):
        read_examples(tmp_path / "none.libfm")
    with pytest.raises(ValueError, match=r"separator: got ';', but .* is not delimited text"):
        read(tmp_path, "a.jsonl", "{}", separator=";")
    assert dict(list_example_sources()).keys() == {"frappe-x1", "collm-ml-1m-examples"}


@pytest.mark.skipif("SEGUE_ARCHIVES" not in os.environ, reason="needs SEGUE_ARCHIVES")
def test_public_examples() -> None:
    split = segue.split_examples("frappe-x1")
    assert [len(one) for one in (split.train, split.valid, split.test)] == [202_027, 57_722, 28_860]
    assert split.test.frame["label"].sum() == 9_536
    assert split.train.frame.width == 11
    notes: list[str] = []
    segue.load_examples("frappe-x1", log=notes.append)
    assert any("the negatives of the training part were drawn again" in note for note in notes)
    table = segue.load_examples("collm-ml-1m-examples")
    assert table.frame.columns == ["label", "user", "item", "history", "time", "part"]
    assert segue.split_examples(table).test.frame["label"].to_list().count(1) == 3_998
