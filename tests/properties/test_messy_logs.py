"""A log reads the same in every format; harmful changes are errors or reported, and never silent.

The usual run has 300 cases per property. The environment variable ``SEGUE_MESSY_LOGS`` sets another number, as
``make nightly`` does.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core.types import Dataset
from segue.data import load
from segue.data.dataframes import read_table
from segue.data.event_files import read_files
from segue.data.raw_log import RawLog

CASES = int(os.environ.get("SEGUE_MESSY_LOGS", "300"))
FORMATS = ("csv", "tsv", "txt", "jsonl", "parquet", "feather", "arrow", "polars", "pandas", "pyarrow")
TYPES = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
WORDS = st.text(st.sampled_from("ab7é\"',;| -\u4e2d"), min_size=1, max_size=6).filter(lambda t: t == t.strip())


@st.composite
def id_columns(draw: st.DrawFn, size: int) -> pl.Series:
    """Draw a column of ids: texts, or integers of any type up to its limits."""
    if draw(st.booleans()):
        return pl.Series(draw(st.lists(WORDS, min_size=size, max_size=size)), dtype=pl.String)
    dtype = draw(st.sampled_from(TYPES))
    low, high = pl.select(dtype.min()).item(), pl.select(dtype.max()).item()
    numbers = st.one_of(st.integers(low, high), st.integers(max(low, -5), min(high, 5)))
    return pl.Series(draw(st.lists(numbers, min_size=size, max_size=size)), dtype=dtype)


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    size = draw(st.integers(1, 8))
    columns = {"user_id": draw(id_columns(size)), "item_id": draw(id_columns(size))}
    if draw(st.booleans()):
        times = st.integers(1_000_000_000, 1_700_000_000)
        columns["timestamp"] = pl.Series(draw(st.lists(times, min_size=size, max_size=size)), dtype=pl.Int64)
    if draw(st.booleans()):
        values = st.sampled_from([None, 0.5, 1.0, 4.0, -2.25])
        columns["rating"] = pl.Series(draw(st.lists(values, min_size=size, max_size=size)), dtype=pl.Float32)
    if draw(st.booleans()):
        columns["action"] = pl.Series(draw(st.lists(st.sampled_from(["view", "buy"]), min_size=size, max_size=size)))
    if draw(st.booleans()):
        columns["title"] = pl.Series(draw(st.lists(st.text(max_size=5).filter(_is_text), min_size=size, max_size=size)))
    return pl.DataFrame(columns)


def _is_text(text: str) -> bool:
    return text.isprintable() or ("\n" in text and text.replace("\n", "").isprintable())


def write_delimited(draw: Callable[..., Any], frame: pl.DataFrame, separator: str) -> bytes:
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator=newline, quoting=quoting)
    writer.writerow(frame.columns)
    writer.writerows(frame.rows())
    bom = "\ufeff" if draw(st.booleans()) else ""
    text: str = bom + out.getvalue() + newline * draw(st.integers(0, 2))
    return text.encode()


def write(draw: Callable[..., Any], frame: pl.DataFrame, kind: str, folder: Path) -> Any:
    """Write ``frame`` in one of the formats, with harmless variation, and return its source."""
    frame = frame.select(draw(st.permutations(frame.columns)))
    path = folder / f"log.{kind}"
    if kind in ("csv", "tsv", "txt"):
        separator = {"csv": ",", "tsv": "\t"}.get(kind) or draw(st.sampled_from(",\t;|"))
        data = write_delimited(draw, frame, separator)
    elif kind == "jsonl":
        rows = [{k: v for k, v in row.items() if v is not None} for row in frame.iter_rows(named=True)]
        data = "\n".join(json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows).encode()
    else:
        for name in ("user_id", "item_id", "action"):
            if name in frame and frame[name].dtype == pl.String and draw(st.booleans()):
                frame = frame.with_columns(pl.col(name).cast(pl.Categorical))
        if "timestamp" in frame and (parts := draw(st.sampled_from([1, 1000, 10**6]))) > 1:
            frame = frame.with_columns(pl.col("timestamp") * parts)
        if kind in ("polars", "pandas", "pyarrow"):
            table = frame.to_arrow()
            return {"polars": frame, "pyarrow": table}.get(kind, None if kind != "pandas" else frame.to_pandas())
        if kind == "parquet":
            frame.write_parquet(path, compression=draw(st.sampled_from(["zstd", "snappy", "uncompressed"])))
        elif kind == "feather":
            frame.write_ipc(path, compression=draw(st.sampled_from(["lz4", "zstd", "uncompressed"])))
        else:
            frame.write_ipc_stream(path)
        return path
    compression = draw(st.sampled_from(["", ".gz", ".zst"]))
    path = path.with_name(path.name + compression)
    path.write_bytes(
        gzip.compress(data)
        if compression == ".gz"
        else pa.compress(data, "zstd", asbytes=True)
        if compression
        else data
    )
    return path


def read(source: Any) -> Dataset:
    """Build a dataset in memory."""
    from segue.data.build import build

    raw: RawLog = read_files([source]) if isinstance(source, Path) else read_table(source)
    return build(raw, "log")


@settings(max_examples=CASES)
@given(st.data(), logs(), st.sampled_from(FORMATS))
def test_a_log_is_the_same_dataset_in_every_format(data: st.DataObject, frame: pl.DataFrame, kind: str) -> None:
    expected = load(frame)
    with tempfile.TemporaryDirectory() as folder:
        found = read(write(data.draw, frame, kind, Path(folder)))
    assert found.users.ids.to_list() == expected.users.ids.to_list()
    assert found.items.ids.to_list() == expected.items.ids.to_list()
    assert found.header["hash"] == expected.header["hash"]


HARMS = ("cut", "no user", "time in text", "time in another unit", "extra field", "open quote", "not UTF-8", "value")


def harm(data: bytes, kind: str, row: int) -> bytes:
    """Change one of the rows ``user,item,time,value`` below the header of a CSV file."""
    lines = data.split(b"\n")
    user, item, time, value = lines[row].split(b",")
    changed = {
        "cut": b",".join((user, item)),
        "no user": b",".join((b"", item, time, value)),
        "time in text": b",".join((user, item, b"soon", value)),
        "time in another unit": b",".join((user, item, time + b"000", value)),
        "extra field": b",".join((user, item, time, value, b"9")),
        "open quote": b",".join((user, item, time, b'"' + value)),
        "not UTF-8": b",".join((user, item + b"\xe9", time, value)),
        "value": b",".join((user, item, time, b"high")),
    }
    return b"\n".join((*lines[:row], changed[kind], *lines[row + 1 :]))


@settings(max_examples=CASES)
@given(st.data(), st.integers(3, 9), st.sampled_from(HARMS))
def test_harmful_changes_are_errors(data: st.DataObject, size: int, kind: str) -> None:
    rows = [f"u{n % 2},i{n},{1_600_000_000 + n},{n}" for n in range(size)]
    text = "\n".join(["user_id,item_id,timestamp,rating", *rows]).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        path.write_bytes(harm(text, kind, data.draw(st.integers(1, size))))
        with pytest.raises(ValueError, match=r"log\.csv"):
            read(path)
