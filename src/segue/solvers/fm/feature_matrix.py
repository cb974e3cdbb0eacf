"""Features as a sparse table of numbers, for models that are linear in them.

A category or a tag is a column of its own, holding 1, or one over the root of the number of tags; a number and each
place of a vector are columns as they are, standardised. What is not known is 0 there, and 1 in a column that says so.

Shapes: N rows, F columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_array, csr_array, hstack

from segue.core.features import coded, described
from segue.core.types import Feature, Scores

__all__ = ["design", "rows_of"]


def design(table: pl.LazyFrame | pl.DataFrame | None, count: int, setting: str) -> csr_array[Any]:
    """``(count, F)`` the features of a whole table.

    Raises:
        ValueError: nothing in the table can be read as a feature; ``setting`` is named.
    """
    features, left = described(table)
    if table is None or not features:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items()) or "there are none"
        raise ValueError(f"{setting}: no feature can be read ({reasons})")
    rows = rows_of(features, coded(features, table.lazy().collect()))
    assert rows.shape[0] == count, "a row of features for each"
    return rows


def rows_of(features: Sequence[Feature], coded_NJ: Scores) -> csr_array[Any]:
    """``(N, F)`` rows that :func:`segue.core.features.coded` made."""
    ends = np.cumsum([feature.size for feature in features])[:-1]
    parts = [_columns(feature, part) for feature, part in zip(features, np.split(coded_NJ, ends, axis=1), strict=True)]
    return csr_array(hstack(parts, format="csr", dtype=np.float32))


def _columns(feature: Feature, part_NS: Scores) -> csr_array[Any]:
    known_NS = ~np.isnan(part_NS)
    unknown = np.flatnonzero(~known_NS.any(axis=1))
    rows, places = np.nonzero(known_NS)
    if feature.categories:
        columns, width = part_NS[rows, places].astype(np.int64), len(feature.categories)
        values = (1.0 / np.sqrt(np.maximum(known_NS.sum(axis=1), 1)))[rows]
    else:
        columns, width, values = places, feature.size, part_NS[rows, places]
    shape = (len(part_NS), width + 1)
    data = np.concatenate([values, np.ones(len(unknown))]).astype(np.float32)
    at = np.concatenate([rows, unknown]), np.concatenate([columns, np.full(len(unknown), width)])
    return csr_array(coo_array((data, at), shape=shape))
