"""Features as a sparse numeric matrix, for models that are linear in them.

Each category or tag has an indicator column; tags are divided by the square root of their number. Numbers and the
elements of vectors are standardized columns. A missing value is 0 there, and a further column marks it with 1.

Shapes: N rows, F columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_array, csr_array, hstack

from segue.core.features import encode_features, infer_features
from segue.core.types import Feature, Scores

__all__ = ["feature_block", "feature_rows"]


def feature_block(table: pl.LazyFrame | pl.DataFrame | None, count: int, setting: str) -> csr_array[Any]:
    """Encode the features of a table: ``(count, F)``.

    Raises:
        ValueError: no column is usable as a feature; the message names ``setting``.
    """
    features, skipped = infer_features(table)
    if table is None or not features:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "the data has none"
        raise ValueError(f"{setting}: no usable feature ({reasons})")
    rows = feature_rows(features, encode_features(features, table.lazy().collect()))
    assert rows.shape[0] == count, "a row of features for each entity"
    return rows


def feature_rows(features: Sequence[Feature], encoded_NJ: Scores) -> csr_array[Any]:
    """Convert encoded features to ``(N, F)`` rows.

    The input is the result of :func:`segue.core.features.encode_features`.
    """
    ends = np.cumsum([feature.size for feature in features])[:-1]
    parts = [
        _columns(feature, block) for feature, block in zip(features, np.split(encoded_NJ, ends, axis=1), strict=True)
    ]
    return csr_array(hstack(parts, format="csr", dtype=np.float32))


def _columns(feature: Feature, encoded_NS: Scores) -> csr_array[Any]:
    known_NS = ~np.isnan(encoded_NS)
    unknown = np.flatnonzero(~known_NS.any(axis=1))
    rows, positions = np.nonzero(known_NS)
    if feature.categories:
        columns, width = encoded_NS[rows, positions].astype(np.int64), len(feature.categories)
        values = (1.0 / np.sqrt(np.maximum(known_NS.sum(axis=1), 1)))[rows]
    else:
        columns, width, values = positions, feature.size, encoded_NS[rows, positions]
    shape = (len(encoded_NS), width + 1)
    data = np.concatenate([values, np.ones(len(unknown))]).astype(np.float32)
    coordinates = np.concatenate([rows, unknown]), np.concatenate([columns, np.full(len(unknown), width)])
    return csr_array(coo_array((data, coordinates), shape=shape))
