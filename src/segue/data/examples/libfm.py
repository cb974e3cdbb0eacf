"""Read examples in the format of libFM (Rendle 2012, doi:10.1145/2168752.2168771).

Each row is ``label index:value index:value ...``. What the indices are is inferred from all rows:

* equally many indices in each row, all of value 1: one column of categories per position;
* all values are 1: one column of tags;
* otherwise: one column of numbers per index, 0 where a row does not have it.

Shapes: T rows, P pairs of index and value.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from segue.data.delimited import check_utf8, trim
from segue.data.event_files import COMPRESSIONS, check_is_text, decompress
from segue.data.examples.table import ExampleTable
from segue.data.raw_log import SourceLocation

__all__ = ["LABEL", "is_libfm", "read_libfm"]

LABEL = "label"
"""Name of the column of labels."""

MAX_NUMBERS = 1_000
"""Number of different indices up to which rows of any values become columns of numbers."""


def is_libfm(path: Path) -> bool:
    """Check whether a file has the suffix of the format."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return inner.suffix.lower() == ".libfm"


def read_libfm(path: Path) -> ExampleTable:
    """Read a file; labels of -1 and 1 are read as 0 and 1.

    Raises:
        ValueError: there is no such file, a row is malformed, or there are too many indices with values other than 1.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    name = str(path)
    data = decompress(path)
    check_is_text(data, name)
    check_utf8(data, name)
    location = SourceLocation(name, 1, "line")
    if not data.strip():
        raise ValueError(f"{name}: empty file, expected rows such as '1 3:1 17:1'")
    lines = pl.Series("line", trim(data).decode("utf-8").split("\n")).str.strip_chars().str.split(" ")
    lines = lines.list.eval(pl.element().filter(pl.element() != ""))
    labels, note = _read_labels(lines, location)
    pairs = pl.DataFrame({"row": np.arange(len(lines), dtype=np.int64), "pair": lines.list.slice(1)})
    pairs = pairs.filter(pl.col("pair").list.len() > 0).explode("pair")
    parts = pl.col("pair").str.split_exact(":", 1).struct
    pairs = pairs.with_columns(
        parts.field("field_0").cast(pl.Int64, strict=False).alias("index"),
        parts.field("field_1").cast(pl.Float64, strict=False).alias("value"),
    )
    is_wrong = pairs["index"].is_null() | pairs["value"].is_null() | (pairs["index"] < 0).fill_null(False)
    if is_wrong.any():
        row, pair = pairs.row(int(is_wrong.arg_max() or 0))[:2]
        raise ValueError(f"{location.describe_row(row)}: got {pair!r}, expected index:value such as 17:1")
    twice = pairs.select(pl.struct("row", "index").is_duplicated()).to_series()
    if twice.any():
        row, _, index, _ = pairs.row(int(twice.arg_max() or 0))
        raise ValueError(f"{location.describe_row(row)}: the index {index} occurs twice, expected it once")
    if not len(pairs):
        raise ValueError(f"{name}: no row has an index, expected rows such as '1 3:1 17:1'")
    columns, decision = _to_columns(pairs, len(lines), name)
    frame = pl.DataFrame({LABEL: labels, **columns})
    return ExampleTable(frame, location, (f"{name}: {decision}", *((f"{name}: {note}",) if note else ())))


def _read_labels(lines: pl.Series, location: SourceLocation) -> tuple[pl.Series, str]:
    """Return the labels, and a note if they were converted."""
    texts = lines.list.get(0, null_on_oob=True)
    labels = texts.cast(pl.Float64, strict=False)
    is_wrong = ~labels.is_in([-1.0, 0.0, 1.0]).fill_null(False)
    if is_wrong.any():
        row = int(is_wrong.arg_max() or 0)
        got = "an empty line" if texts[row] is None else f"the label {texts[row]!r}"
        raise ValueError(f"{location.describe_row(row)}: got {got}, expected a label of 0 or 1, or of -1 or 1")
    if not (labels == -1).any():
        return labels.cast(pl.Int8), ""
    if (labels == 0).any():
        row = int((labels == -1).arg_max() or 0)
        raise ValueError(f"{location.describe_row(row)}: got the label -1, but other rows have 0; expected 0 and 1")
    return (labels > 0).cast(pl.Int8), "labels of -1 are read as 0"


def _to_columns(pairs: pl.DataFrame, n_rows: int, name: str) -> tuple[dict[str, pl.Series], str]:
    """Return the columns, and what was decided."""
    lengths_T = np.bincount(pairs["row"].to_numpy(), minlength=n_rows)
    is_binary = bool((pairs["value"] == 1).all())
    if is_binary and lengths_T.min() == lengths_T.max():
        width = int(lengths_T[0])
        indices = pairs["index"].to_numpy().reshape(n_rows, width)
        names = [f"field_{number}" for number in range(1, width + 1)]
        columns = {one: pl.Series(indices[:, at]) for at, one in enumerate(names)}
        return columns, f"each row has {width} indices of value 1, which are read as {width} columns of categories"
    if is_binary:
        lists = pairs.group_by("row", maintain_order=True).agg("index")
        every = pl.DataFrame({"row": np.arange(n_rows, dtype=np.int64)}).join(lists, on="row", how="left")
        tags = every.sort("row")["index"]
        return {"tags": tags}, "all values are 1, and rows differ in their number of indices: read as a column of tags"
    indices_I = pairs["index"].unique().sort()
    if len(indices_I) > MAX_NUMBERS:
        raise ValueError(
            f"{name}: got {len(indices_I):,} indices with values other than 1, expected at most {MAX_NUMBERS:,}; "
            "convert the file to CSV or Parquet with one column per field"
        )
    numbers_TI = np.zeros((n_rows, len(indices_I)))
    numbers_TI[pairs["row"].to_numpy(), indices_I.search_sorted(pairs["index"]).to_numpy()] = pairs["value"].to_numpy()
    columns = {f"x{index}": pl.Series(numbers_TI[:, at]) for at, index in enumerate(indices_I)}
    return columns, f"values are read as numbers of {len(indices_I)} indices, 0 where a row does not have the index"
