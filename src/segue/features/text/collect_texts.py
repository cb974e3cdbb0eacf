"""Collect the tags, reviews or posts of each item or user.

The input is a table with one row per text.
"""

from __future__ import annotations

import polars as pl

from segue.core.config import suggest

__all__ = ["collect_texts"]


def collect_texts(
    table: pl.DataFrame,
    by: str = "item_id",
    text: str = "tag",
    min_count: int = 1,
    max_texts: int | None = None,
    before: pl.Expr | None = None,
) -> pl.DataFrame:
    """Return one row per item or user, with the list of its texts.

    The list can be joined to a table of item or user features. Models read it as tags, and text encoders as text.

    Args:
        by: column of items or users.
        text: column of texts.
        min_count: smallest number of rows with the same text for the same item or user.
        max_texts: largest number of texts per item or user; ``None``: all.
        before: rows that may be used, such as ``pl.col("timestamp") < end_of_training``; ``None``: all.

    Returns:
        The columns ``by`` and ``text``. Equal texts are listed once; the most frequent come first, and those of equal
        frequency in the order of the table.

    Raises:
        ValueError: a column is missing or holds something other than texts, or a number is below 1.
    """
    for name in (by, text):
        if name not in table.columns:
            raise ValueError(f"texts: the table has no column '{name}'{suggest(name, table.columns)}")
    if table[text].dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise ValueError(f"texts: column '{text}' holds {table[text].dtype}, expected texts")
    for name, value in (("min_count", min_count), ("max_texts", max_texts)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, expected 1 or more")
    rows = table if before is None else table.filter(before)
    cleaned = pl.col(text).cast(pl.String).str.strip_chars()
    counted = (
        rows.select(pl.col(by), cleaned)
        .filter(pl.col(by).is_not_null() & (pl.col(text).str.len_chars() > 0))
        .group_by(by, text, maintain_order=True)
        .len()
        .filter(pl.col("len") >= min_count)
        .sort("len", descending=True, maintain_order=True)
    )
    listed = pl.col(text) if max_texts is None else pl.col(text).head(max_texts)
    found = counted.group_by(by, maintain_order=True).agg(listed)
    order = rows.select(by).unique(maintain_order=True)
    return order.join(found, on=by, how="inner", maintain_order="left")
