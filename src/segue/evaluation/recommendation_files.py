"""Read and write recommendation lists as tables with external ids.

A table has one row per recommended item: ``user_id``, ``item_id``, and ``rank`` (1 is best) or ``score`` (more is
better); with neither, the rows of a user are ordered best first. A table with one row per user, ``user`` and a list
``items``, best first, is read too: ``lists.parquet`` of a run is one. Files are ``.csv``, ``.tsv``, ``.jsonl`` or
``.parquet``.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from segue.core.files import check_unique_keys, write_text
from segue.core.messages import warn
from segue.core.types import Queries, Recommendations, Vocab

__all__ = ["SUFFIXES", "read_recommendations", "write_recommendations"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
"""Suffixes of the files that hold recommendation lists."""


def read_recommendations(source: Path | pl.DataFrame, queries: Queries, users: Vocab, items: Vocab) -> Recommendations:
    """Read one list per query; a user who is not in the table has an empty list.

    Users of the table without a query are left out. Both are counted in a :class:`segue.core.messages.SegueWarning`.

    Args:
        source: a file, or a table in memory.
        queries: one per user; ``queries.users`` are codes of ``users``.

    Raises:
        ValueError: no user of the table has a query, a missing column or value, an item id outside the catalog, an item
            twice in one list, a rank below 1 or twice in one list, or two queries of one user.
    """
    name = str(source) if isinstance(source, Path) else "table"
    frame = _read(source) if isinstance(source, Path) else source
    if {"user", "items"} <= set(frame.columns) and isinstance(frame.schema["items"], pl.List | pl.Array):
        frame = _one_row_per_item(frame, name)
    for column in ("user_id", "item_id"):
        if column not in frame.columns:
            raise ValueError(
                f"{name}: no column '{column}'; expected user_id and item_id, found {', '.join(frame.columns)}"
            )
    if len(np.unique(queries.users)) < len(queries):
        raise ValueError(
            f"got {len(queries)} queries of {len(np.unique(queries.users))} users, expected one per user, as lists are "
            "matched by user id"
        )
    by = next((column for column in ("rank", "score") if column in frame.columns), None)
    if by is not None and not frame[by].dtype.is_numeric():
        raise ValueError(f"{name}: column '{by}': got {frame[by].dtype}, expected numbers")
    order = pl.col(by).cast(pl.Float64) if by else pl.int_range(1, pl.len() + 1).cast(pl.Float64)
    rows = frame.select(
        _id_text(frame["user_id"]).alias("user_id"), _id_text(frame["item_id"]).alias("item_id"), order.alias("by")
    ).with_row_index("row")
    _check_no_rows(
        rows.filter(pl.any_horizontal(pl.all().is_null() | pl.col("by").is_nan())), name, "a value is missing"
    )
    users_of = pl.DataFrame({"user_id": users.ids, "user": np.arange(len(users))})
    items_of = pl.DataFrame({"item_id": items.ids, "item": np.arange(len(items), dtype=np.int32)})
    query_of = pl.DataFrame({"user": queries.users.astype(np.int64), "query": np.arange(len(queries))})
    given_users = rows["user_id"].unique(maintain_order=True)
    rows = rows.join(users_of, on="user_id").join(query_of, on="user").join(items_of, on="item_id", how="left")
    _check_no_rows(rows.filter(pl.col("item").is_null()), name, "the item is not in the catalog")
    _check_no_rows(rows.filter(pl.struct("query", "item").is_duplicated()), name, "the item appears twice in its list")
    if by == "rank":
        _check_no_rows(rows.filter(pl.col("by") < 1), name, "expected a rank of at least 1")
        _check_no_rows(
            rows.filter(pl.struct("query", "by").is_duplicated()), name, "the rank appears twice in its list"
        )
    _report_unmatched(name, given_users, rows, queries, users)
    best_first = -pl.col("by") if by == "score" else pl.col("by")
    rows = rows.sort("query", best_first, "row")
    lengths = np.bincount(rows["query"].to_numpy(), minlength=len(queries))
    width = max(1, int(lengths.max(initial=0)))
    used = np.arange(width) < lengths[:, None]
    codes = np.zeros((len(queries), width), np.int32)
    scores = np.zeros((len(queries), width), np.float32)
    codes[used] = rows["item"].to_numpy()
    scores[used] = rows["by"].to_numpy() if by == "score" else -rows["by"].to_numpy()
    return Recommendations(codes, scores, lengths)


def write_recommendations(
    path: Path, recommendations: Recommendations, queries: Queries, users: Vocab, items: Vocab
) -> None:
    """Write one row per recommended item.

    Columns are ``user_id``, ``item_id``, ``rank`` from 1, ``score`` and, of logits, ``probability``.
    """
    rows, positions = np.nonzero(np.arange(recommendations.items.shape[1]) < recommendations.lengths[:, None])
    columns = {
        "user_id": users.ids.gather(queries.users[rows].astype(np.int64)),
        "item_id": items.ids.gather(recommendations.items[rows, positions].astype(np.int64)),
        "rank": positions + 1,
        "score": recommendations.scores[rows, positions],
    }
    if recommendations.probabilities is not None:
        columns["probability"] = recommendations.probabilities[rows, positions]
    _write(path, pl.DataFrame(columns))


def _one_row_per_item(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return one row per item of a table with one list per user.

    Such a table is ``lists.parquet`` of a run.

    Raises:
        ValueError: a list without a user: that of a user who is not in the training part has no id.
    """
    unknown = frame["user"].null_count()
    if unknown:
        raise ValueError(
            f"{name}: {unknown:,} of {len(frame):,} lists have no user id, as the users are not in the training part; "
            "expected an id for each list, as lists are matched by user id"
        )
    rows = frame.select(pl.col("user").alias("user_id"), pl.col("items").alias("item_id")).explode("item_id")
    return rows.filter(pl.col("item_id").is_not_null())


def _id_text(ids: pl.Series) -> pl.Series:
    """Write ids as text.

    Whole floating-point numbers count as integers: pandas has them in integer columns with missing values.
    """
    if ids.dtype.is_float():
        ids = ids.fill_nan(None)
        if ((ids == ids.round()) | ids.is_null()).all():
            ids = ids.cast(pl.Int64)
    return ids.cast(pl.String)


def _report_unmatched(name: str, given: pl.Series, matched: pl.DataFrame, queries: Queries, users: Vocab) -> None:
    """Warn of queries without a list and of lists without a query.

    Raises:
        ValueError: no list has a query.
    """
    n_matched = matched["user_id"].n_unique()
    if len(given) and len(queries) and not n_matched:
        known = users.decode(queries.users[:1])[0]
        raise ValueError(
            f"{name}: none of its {len(given):,} user ids, such as '{given[0]}', is that of a query; the "
            f"{len(queries):,} queries have ids such as '{known}'"
        )
    missing, extra = len(queries) - n_matched, len(given) - n_matched
    if missing or extra:
        warn(
            f"{name}: {missing:,} of {len(queries):,} queries have no list, which counts as an empty one; {extra:,} of "
            f"{len(given):,} lists have no query and are left out"
        )


def _read(path: Path) -> pl.DataFrame:
    _check_suffix(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file; expected a table of recommendations")
    texts = {"user_id": pl.String, "item_id": pl.String}
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if path.suffix == ".jsonl":
            table = pl.read_ndjson(path)
            check_unique_keys(path.read_bytes(), str(path), {one.name: one.count() for one in table})
            return table
        return pl.read_csv(path, separator="\t" if path.suffix == ".tsv" else ",", schema_overrides=texts)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: {error}") from None


def _write(path: Path, frame: pl.DataFrame) -> None:
    """Write a table atomically; the suffix of ``path`` determines the format.

    Raises:
        ValueError: the suffix is unknown.
    """
    _check_suffix(path)
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


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown file type '{path.suffix}', expected {', '.join(SUFFIXES)}")


def _check_no_rows(rows: pl.DataFrame, name: str, problem: str) -> None:
    """Raise for the first of ``rows``, if there is any."""
    if len(rows):
        row = rows.sort("row").row(0, named=True)
        raise ValueError(
            f"{name}: row {row['row'] + 1}: user_id '{row['user_id']}', item_id '{row['item_id']}': {problem} "
            f"({len(rows)} such rows)"
        )
