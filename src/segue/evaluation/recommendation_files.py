"""Lists of recommendations as tables with outside ids: to measure what another system recommends, or hand ours on.

A table has one row per place: ``user_id``, ``item_id``, and ``rank`` (1 is best) or ``score`` (more is better); with
neither, a user's rows stand best first. Files are ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from segue.core.files import write_text
from segue.core.types import Queries, Recommendations, Vocab

__all__ = ["read_lists", "write_lists"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_lists(source: Path | pl.DataFrame, queries: Queries, users: Vocab, items: Vocab) -> Recommendations:
    """Lists in the order of ``queries``; a user who is not in the table has an empty list.

    Users of the table for whom there is no query are left out.

    Args:
        source: a file, or a table in memory.
        queries: one per user; ``queries.users`` are codes of ``users``.

    Raises:
        ValueError: a missing column, an item id that is not in the catalogue, an item twice in one list, a rank below 1
            or twice, a missing value, or two queries of one user.
    """
    name = str(source) if isinstance(source, Path) else "table"
    frame = _read(source) if isinstance(source, Path) else source
    for column in ("user_id", "item_id"):
        if column not in frame.columns:
            raise ValueError(f"{name}: no column '{column}'; found {', '.join(frame.columns)}")
    if len(np.unique(queries.users)) < len(queries):
        raise ValueError(
            f"{len(queries)} queries of {len(np.unique(queries.users))} users: lists are told apart by user"
        )
    by = next((column for column in ("rank", "score") if column in frame.columns), None)
    if by is not None and not frame[by].dtype.is_numeric():
        raise ValueError(f"{name}: column '{by}': got {frame[by].dtype}, expected numbers")
    given = pl.col(by).cast(pl.Float64) if by else pl.int_range(1, pl.len() + 1).cast(pl.Float64)
    rows = frame.select(
        pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.String), given.alias("by")
    ).with_row_index("row")
    _refuse(rows.filter(pl.any_horizontal(pl.all().is_null() | pl.col("by").is_nan())), name, "a value is missing")
    users_of = pl.DataFrame({"user_id": users.ids, "user": np.arange(len(users))})
    items_of = pl.DataFrame({"item_id": items.ids, "item": np.arange(len(items), dtype=np.int32)})
    asked = pl.DataFrame({"user": queries.users.astype(np.int64), "query": np.arange(len(queries))})
    rows = rows.join(users_of, on="user_id").join(asked, on="user").join(items_of, on="item_id", how="left")
    _refuse(rows.filter(pl.col("item").is_null()), name, "the item is not in the catalogue")
    _refuse(rows.filter(pl.struct("query", "item").is_duplicated()), name, "the item stands in its list twice")
    if by == "rank":
        _refuse(rows.filter(pl.col("by") < 1), name, "expected a rank of at least 1")
        _refuse(rows.filter(pl.struct("query", "by").is_duplicated()), name, "the rank stands in its list twice")
    better = -pl.col("by") if by == "score" else pl.col("by")
    rows = rows.sort("query", better, "row")
    lengths = np.bincount(rows["query"].to_numpy(), minlength=len(queries))
    width = max(1, int(lengths.max(initial=0)))
    used = np.arange(width) < lengths[:, None]
    codes = np.zeros((len(queries), width), np.int32)
    scores = np.zeros((len(queries), width), np.float32)
    codes[used] = rows["item"].to_numpy()
    scores[used] = rows["by"].to_numpy() if by == "score" else -rows["by"].to_numpy()
    return Recommendations(codes, scores, lengths)


def write_lists(path: Path, recommendations: Recommendations, queries: Queries, users: Vocab, items: Vocab) -> None:
    """Write one row per place: ``user_id``, ``item_id``, ``rank`` from 1, ``score``, ``probability`` where known."""
    rows, places = np.nonzero(np.arange(recommendations.items.shape[1]) < recommendations.lengths[:, None])
    columns = {
        "user_id": users.ids.gather(queries.users[rows].astype(np.int64)),
        "item_id": items.ids.gather(recommendations.items[rows, places].astype(np.int64)),
        "rank": places + 1,
        "score": recommendations.scores[rows, places],
    }
    if recommendations.probabilities is not None:
        columns["probability"] = recommendations.probabilities[rows, places]
    _write(path, pl.DataFrame(columns))


def _read(path: Path) -> pl.DataFrame:
    _known(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    texts = {"user_id": pl.String, "item_id": pl.String}
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if path.suffix == ".jsonl":
            return pl.read_ndjson(path)
        return pl.read_csv(path, separator="\t" if path.suffix == ".tsv" else ",", schema_overrides=texts)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: {error}") from None


def _write(path: Path, frame: pl.DataFrame) -> None:
    _known(path)
    if path.suffix == ".parquet":
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            frame.write_parquet(name)
            Path(name).chmod(0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return
    text = io.StringIO()
    if path.suffix == ".jsonl":
        frame.write_ndjson(text)
    else:
        frame.write_csv(text, separator="\t" if path.suffix == ".tsv" else ",")
    write_text(path, text.getvalue())


def _known(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of file '{path.suffix}', expected {', '.join(SUFFIXES)}")


def _refuse(rows: pl.DataFrame, name: str, fault: str) -> None:
    if len(rows):
        row = rows.sort("row").row(0, named=True)
        raise ValueError(
            f"{name}: row {row['row'] + 1}: user_id '{row['user_id']}', item_id '{row['item_id']}': {fault} "
            f"({len(rows)} such rows)"
        )
