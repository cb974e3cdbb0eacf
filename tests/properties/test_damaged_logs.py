"""Damaged files, and folders of files that differ, are errors or reported, and never another dataset silently.

``SEGUE_MESSY_LOGS`` sets the number of cases, as in ``test_messy_logs.py``.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tempfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties.log_formats import CASES, SEPARATORS, TEXTS, base_rows, compress, read, to_frame, write

DELIMITED_HARMS = (
    "short row", "extra field", "open quote", "Latin-1", "UTF-16", "blank line", "header again", "NUL bytes",
    "no header", "column twice", "gzip", "zip",
)  # fmt: skip
JSON_HARMS = (
    "cut row",
    "array",
    "key twice",
    "text after",
    "NaN",
    "two objects",
    "object as id",
    "Latin-1",
    "UTF-16",
    "NUL bytes",
)


def harm_text(text: str, kind: str, harm: str, row: int) -> bytes:
    """Change one of the rows ``user, item, time, value`` of delimited text, below its header."""
    lines, separator = text.split("\n"), SEPARATORS.get(kind, ";")
    user, item, time, value = lines[row].split(separator)
    changed = {
        "short row": [separator.join((user, item))],
        "extra field": [separator.join((user, item, time, value, "9"))],
        "open quote": [separator.join((user, item, time, '"' + value))],
        "Latin-1": [separator.join((user, f"{item}é", time, value))],
        "blank line": [lines[row], "", lines[row]],
        "header again": [lines[row], lines[0]],
        "NUL bytes": [lines[row], "\0" * 20],
    }
    if harm == "no header":
        lines = lines[1:]
    elif harm == "column twice":
        lines[0] = lines[0].replace("rating", "user_id")
    elif harm in changed:
        lines[row : row + 1] = changed[harm]
    encoded = "\n".join(lines).encode({"Latin-1": "latin-1", "UTF-16": "utf-16"}.get(harm, "utf-8"))
    return gzip.compress(encoded) if harm == "gzip" else b"PK\3\4" + encoded if harm == "zip" else encoded


def harm_json(lines: list[str], harm: str, row: int, cut: int) -> bytes:
    one = lines[row]
    lines[row] = {
        "cut row": one[: 1 + cut % (len(one) - 1)],
        "key twice": one[:-1] + ', "user_id": "other"}',
        "text after": f"{one} x",
        "NaN": one[:-1] + ', "more": NaN}',
        "two objects": one + one,
        "Latin-1": one.replace('"i', '"é'),
        "NUL bytes": "\0" * 20,
    }.get(harm, one)
    if harm == "object as id":
        lines = [json.dumps(json.loads(line) | {"user_id": {"$oid": "a"}}) for line in lines]
    text = "[" + ",\n".join(lines) + "]" if harm == "array" else "\n".join(lines)
    return text.encode({"Latin-1": "latin-1", "UTF-16": "utf-16"}.get(harm, "utf-8"))


@settings(max_examples=CASES)
@given(st.data(), st.integers(3, 9))
def test_harmful_bytes_are_errors(data: st.DataObject, size: int) -> None:
    kind = data.draw(st.sampled_from([*TEXTS, "parquet", "feather"]))
    row = data.draw(st.integers(0, size - 1))
    frame = to_frame(base_rows(size)).drop("action")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log.{kind}"
        if kind == "jsonl":
            lines = frame.write_ndjson().splitlines()
            harm = data.draw(st.sampled_from(JSON_HARMS))
            path = compress(data.draw, path, harm_json(lines, harm, row, data.draw(st.integers(0, 99))))
        elif kind in TEXTS:
            harm = data.draw(st.sampled_from(DELIMITED_HARMS))
            text = frame.write_csv(separator=SEPARATORS.get(kind, ";")).rstrip("\n")
            path = compress(data.draw, path, harm_text(text, kind, harm, row + 1))
        else:
            path = write(data.draw, frame, kind, Path(folder))
            whole = path.read_bytes()
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(ValueError, match=rf"log\.{kind}"):
            read(path)


@settings(max_examples=CASES)
@given(st.data(), st.integers(3, 9), st.sampled_from(["csv.gz", "jsonl.gz", "csv.zst", "jsonl.zst", "arrow"]))
def test_cut_files_are_errors_or_reported(data: st.DataObject, size: int, kind: str) -> None:
    frame = to_frame(base_rows(size))
    text = (frame.write_ndjson() if kind.startswith("jsonl") else frame.write_csv()).encode()
    stream = io.BytesIO()
    frame.write_ipc_stream(stream)
    whole = stream.getvalue() if kind == "arrow" else gzip.compress(text)
    whole = pa.compress(text, "zstd", asbytes=True) if kind.endswith(".zst") else whole
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log.{kind}"
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        try:
            messages = read(path)[3]
        except ValueError as error:
            messages = str(error)
    assert re.search(rf"log\.{kind}: (not a readable|empty file|no rows|the stream has no end marker)", messages), (
        messages
    )


# Folders

FOLDER_ERRORS = ("another unit", "no time", "empty", "UTF-16", "no header", "twice", "text", "dates")
FOLDER_REPORTS = {
    "other separator": "2.csv: the separator is ';'",
    "header only": "1 of 2 files have no rows, such as",
    "folder": "not read: older/",
    "other file": "not read: more.txt",
    "other names": "column 'USER ID' is read as user_id",
    "partition": "user_id: in the files and in the names of their folders",
}


@settings(max_examples=CASES)
@given(st.integers(3, 9), st.sampled_from([*FOLDER_ERRORS, *FOLDER_REPORTS]))
def test_files_that_differ_are_errors_or_reported(size: int, harm: str) -> None:
    frame = to_frame(base_rows(size)).drop("action")
    text = frame.write_csv()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "logs"
        folder.mkdir()
        first, second = folder / "1.csv", folder / "2.csv"
        first.write_text(text)
        match harm:
            case "another unit":
                frame[:1].with_columns(pl.col("timestamp") * 1000).write_csv(second)
            case "no time":
                frame.drop("timestamp").write_csv(second)
            case "empty":
                second.touch()
            case "UTF-16":
                second.write_text(text, "utf-16")
            case "no header":
                frame.write_csv(second, include_header=False)
            case "twice":
                (folder / "1.csv.gz").write_bytes(gzip.compress(first.read_bytes()))
            case "text":
                frame[:1].with_columns(timestamp=pl.lit("today")).write_csv(second)
            case "dates":
                first.unlink()
                frame.write_parquet(folder / "1.parquet")
                frame.with_columns(pl.from_epoch("timestamp")).write_parquet(folder / "2.parquet")
            case "other separator":
                frame.write_csv(second, separator=";")
            case "header only":
                frame[:0].write_csv(second)
            case "folder":
                (folder / "older").mkdir()
            case "other file":
                (folder / "more.txt").write_text(text)
            case "other names":
                frame.rename({"user_id": "USER ID"}).write_csv(second)
            case _:
                (folder / "user_id=7").mkdir()
                first.rename(folder / "user_id=7" / "1.csv")
        if harm in FOLDER_REPORTS:
            assert FOLDER_REPORTS[harm] in read(folder)[3]
            return
        with pytest.raises(ValueError, match=r"logs: got both 1\.csv" if harm == "twice" else r"logs/2\.(csv|parquet)"):
            read(folder)
