"""Write a log in every format with harmless variation, and read it."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

from segue.data.build import build
from segue.data.dataframes import read_table
from segue.data.event_files import describe_unread, find_files, read_files

CASES = int(os.environ.get("SEGUE_MESSY_LOGS", "300"))
"""Cases per property."""
TEXTS = ("csv", "tsv", "txt", "inter", "jsonl")
TABLES = ("polars", "pandas", "pyarrow", "duckdb")
FORMATS = (*TEXTS, "parquet", "feather", "arrow", *TABLES, "folder", "hive")
SEPARATORS = {"csv": ",", "tsv": "\t", "inter": "\t"}
TYPES = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
WORDS = st.text(st.sampled_from("ab7é\"',;| -\u4e2d"), min_size=1, max_size=6).filter(lambda t: t == t.strip())
START = 1_600_000_000

Draw = Callable[..., Any]
Row = dict[str, Any]
Result = tuple[list[str], list[str], str, str]
"""Ids of users and items, hash, and messages."""


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


def text_of(draw: Draw, frame: pl.DataFrame, kind: str) -> bytes:
    """Return delimited text or JSON Lines, with harmless variation."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    if kind == "jsonl":
        partial = {column.name for column in frame if column.null_count() < len(column)}
        rows = [
            {name: cell for name, cell in row.items() if cell is not None or name not in partial}
            for row in frame.iter_rows(named=True)
        ]
        lines = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows]
        return newline.join([*lines, *[""] * draw(st.integers(0, 2))]).encode()
    separator = SEPARATORS.get(kind) or draw(st.sampled_from(",\t;|"))
    out = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(out, delimiter=separator, lineterminator=newline, quoting=quoting)
    types = ":token" if kind == "inter" and draw(st.booleans()) else ""
    writer.writerow([f"{name}{types}" for name in frame.columns])
    writer.writerows(frame.rows())
    bom = "\ufeff" if draw(st.booleans()) else ""
    text: str = bom + out.getvalue() + newline * draw(st.integers(0, 2))
    return text.encode()


def compress(draw: Draw, path: Path, data: bytes) -> Path:
    """Write text, compressed or not."""
    suffix = draw(st.sampled_from(["", ".gz", ".zst"]))
    path = path.with_name(path.name + suffix)
    packed = {
        "": lambda: data,
        ".gz": lambda: gzip.compress(data),
        ".zst": lambda: pa.compress(data, "zstd", asbytes=True),
    }
    path.write_bytes(packed[suffix]())
    return path


def write(draw: Draw, frame: pl.DataFrame, kind: str, folder: Path) -> Any:
    """Write ``frame`` in one of the formats, with harmless variation, and return its source."""
    frame = frame.select(draw(st.permutations(frame.columns)))
    if kind in ("folder", "hive"):
        return write_parts(draw, frame, kind, folder)
    path = folder / f"log.{kind}"
    if kind in TEXTS:
        return compress(draw, path, text_of(draw, frame, kind))
    for name in ("user_id", "item_id", "action"):
        if name in frame and frame[name].dtype == pl.String and draw(st.booleans()):
            frame = frame.with_columns(pl.col(name).cast(pl.Categorical))
    if kind in TABLES:
        return {"polars": lambda: frame, "pandas": frame.to_pandas, "pyarrow": frame.to_arrow}.get(
            kind, lambda: Duck(frame)
        )()
    if kind == "parquet":
        frame.write_parquet(path, compression=draw(st.sampled_from(["zstd", "snappy", "uncompressed"])))
    elif kind == "feather":
        frame.write_ipc(path, compression=draw(st.sampled_from(["lz4", "zstd", "uncompressed"])))
    else:
        frame.write_ipc_stream(path)
    return path


def write_parts(draw: Draw, frame: pl.DataFrame, kind: str, folder: Path) -> Path:
    """Write rows as numbered files with columns in any order, or as Hive partitions of actions."""
    inner = draw(st.sampled_from(["csv", "tsv", "jsonl", "parquet", "feather"]))
    cuts = sorted({0, len(frame), *draw(st.lists(st.integers(0, len(frame)), max_size=12))})
    if kind == "hive" and "action" in frame:
        actions = frame["action"].to_list()
        cuts = sorted({*cuts, *(row for row in range(1, len(frame)) if actions[row] != actions[row - 1])})
    root = folder / "logs"
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
        part, parent = frame[start:end], root
        if kind == "hive":
            parent = root / f"part={number}"
            if "action" in part:
                parent, part = parent / f"action={part['action'][0]}", part.drop("action")
        parent.mkdir(parents=True, exist_ok=True)
        part = part.select(draw(st.permutations(part.columns)))
        path = parent / f"part-{number}.{inner}"
        if inner in TEXTS:
            compress(draw, path, text_of(draw, part, inner))
        else:
            write(draw, part, inner, parent).rename(path)
    return root


# Reading


DUCKDB = """
import io, json, sys
import duckdb, polars
from segue.data import load
source, target = sys.stdin.buffer, sys.stdout
while size := source.readline():
    table = polars.read_ipc(io.BytesIO(source.read(int(size)))).to_arrow()
    messages = []
    try:
        data = load(duckdb.sql("select * from table_"), log=messages.append)
        result = [data.users.ids.to_list(), data.items.ids.to_list(), data.header["hash"], "\\n".join(messages)]
    except ValueError as error:
        result = str(error)
    print(json.dumps(result), flush=True)
""".replace("table =", "table_ =")


class Duck:
    """A table that another process reads through DuckDB, which writes to stderr when its process ends."""

    process: ClassVar[subprocess.Popen[bytes] | None] = None

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def read(self) -> Result:
        if Duck.process is None:
            pipe, command = subprocess.PIPE, [sys.executable, "-c", DUCKDB]
            Duck.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        stdin, stdout = Duck.process.stdin, Duck.process.stdout
        assert stdin is not None
        assert stdout is not None
        buffer = io.BytesIO()
        self.frame.write_ipc(buffer)
        stdin.write(b"%d\n" % len(buffer.getvalue()) + buffer.getvalue())
        stdin.flush()
        result = json.loads(stdout.readline())
        if isinstance(result, str):
            raise ValueError(result)
        users, items, digest, messages = result
        return users, items, digest, messages

    @classmethod
    def stop(cls) -> None:
        if cls.process is not None:
            cls.process.communicate()
            cls.process = None


def read(source: Any) -> Result:
    """Build a dataset in memory."""
    if isinstance(source, Duck):
        return source.read()
    messages: list[str] = []
    if isinstance(source, Path):
        messages = describe_unread(str(source))
        raw = read_files(find_files(str(source)))
    else:
        raw = read_table(source)
    data = build(raw, "log", log=messages.append)
    return data.users.ids.to_list(), data.items.ids.to_list(), data.header["hash"], "\n".join(messages)


def base_rows(size: int) -> list[Row]:
    return [
        {"user_id": f"u{n % 2}", "item_id": f"i{n}", "timestamp": START + n, "rating": n, "action": "view"}
        for n in range(size)
    ]


def to_frame(rows: list[Row]) -> pl.DataFrame:
    """Convert rows to columns of one type each: of text if the cells have several types."""
    columns = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        if len({type(cell) for cell in cells if cell is not None}) > 1:
            cells = [None if cell is None else str(cell) for cell in cells]
        columns[name] = pl.Series(cells, dtype=pl.String if all(cell is None for cell in cells) else None)
    return pl.DataFrame(columns)
