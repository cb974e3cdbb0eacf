"""Read files with one user per line: ``user item item item ...``."""

from __future__ import annotations

import polars as pl

from segue.data.archives import Archive
from segue.data.delimited import check_utf8
from segue.data.raw_log import SourceLocation

__all__ = ["read_user_sequences"]


def read_user_sequences(archive: Archive, member: str) -> tuple[pl.DataFrame, SourceLocation]:
    """Return ``user`` and ``item`` of all events in the order of the file.

    Raises:
        ValueError: the file is empty or not UTF-8, or contains something other than integers; the message names the
            line.
    """
    name, data = f"{archive.path.name}:{member}", archive.read(member)
    check_utf8(data, name)
    lines = pl.Series("line", data.decode("utf-8").splitlines(), dtype=pl.String)
    if not len(lines):
        raise ValueError(f"{name}: empty file, expected lines: user item item ...")
    words = lines.str.strip_chars().str.split(" ")
    table = pl.DataFrame({"line": pl.int_range(1, len(lines) + 1, eager=True), "word": words}).explode("word")
    table = table.filter(pl.col("word").is_not_null() & (pl.col("word") != ""))
    codes = table["word"].cast(pl.Int32, strict=False)
    if codes.null_count():
        row = codes.is_null().arg_max() or 0
        raise ValueError(f"{name}, line {table['line'][row]}: got {table['word'][row]!r}, expected integers")
    table = table.select("line", code=codes)
    first = table["line"].is_first_distinct()
    users = table.filter(first).select("line", user="code")
    events = table.filter(~first).join(users, on="line", how="left", maintain_order="left")
    return events.select("user", item="code"), SourceLocation(name, noun="event")
