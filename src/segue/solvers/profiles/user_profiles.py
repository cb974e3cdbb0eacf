"""User features as rows of numbers, of users in training and of queries.

Shapes: U users, N queries, F columns of all features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack, issparse

from segue.core.features import encode_features, infer_features
from segue.core.model import StateArrays
from segue.core.model_arrays import load_csr
from segue.core.types import Dataset, Feature, Queries
from segue.solvers.profiles.feature_blocks import KNOTS, FeatureBlocks

__all__ = ["UserProfiles"]


class UserProfiles:
    """The features of training users, and how to encode those of others.

    Args:
        rows_UF: features of training users; a feature that is unknown is a block of zeros.
        prefixes: number of leading characters that are read of a text column, such as ``{"zip_code": 1}``.
    """

    def __init__(self, blocks: FeatureBlocks, rows_UF: csr_array[Any], prefixes: Mapping[str, int]) -> None:
        self.blocks, self.rows_UF, self.prefixes = blocks, rows_UF, prefixes
        widths = [len(statistics_W) for statistics_W in blocks.statistics]
        self.starts = np.cumsum([0, *widths])

    @property
    def features(self) -> tuple[Feature, ...]:
        """Return the features that are read."""
        return self.blocks.features

    @property
    def width(self) -> int:
        """Return the number of columns, F."""
        return int(self.starts[-1])

    @classmethod
    def fit(cls, train: Dataset, prefixes: Mapping[str, int], key: str) -> UserProfiles:
        """Encode the features of the users of ``train``.

        Args:
            key: name of the model, for error messages.

        Raises:
            ValueError: the data has no usable user feature, or a column of ``prefixes`` is missing.
        """
        table = None if train.user_features is None else train.user_features.collect()
        if table is not None:
            if missing := [name for name in prefixes if name not in table.columns]:
                raise ValueError(
                    f"{key}.prefixes: the user_features of {train.name} have no column '{missing[0]}', expected some "
                    f"of {', '.join(name for name in table.columns if name != 'id')}"
                )
            table = _cut(table, prefixes)
        features, unused = infer_features(table)
        if table is None or not features:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unused.items()) or "it has none"
            raise ValueError(
                f"{key}: needs user_features, such as age or country, of which {train.name} has none that is usable "
                f"({reasons})"
            )
        encoded_UJ = encode_features(features, table)
        blocks = FeatureBlocks.fit(features, encoded_UJ)
        return cls(blocks, _join(blocks.encode(encoded_UJ)), prefixes)

    def rows(self, queries: Queries) -> csr_array[Any]:
        """Return the features of the users of ``queries``, ``(N, F)``.

        Features given with the queries take precedence over those of training users.
        """
        stored_NF = self.rows_UF[np.where(queries.known, queries.users, 0)]
        stored_NF = csr_array(stored_NF.multiply(queries.known[:, None].astype(np.float32)))
        if queries.profile is None:
            return stored_NF
        given = self.blocks.encode(encode_features(self.features, _cut(queries.profile, self.prefixes)))
        parts = []
        for number, block in enumerate(given):
            given_NW = csr_array(block)
            is_unknown_N = np.asarray(abs(given_NW).sum(axis=1)).ravel() == 0
            own_NW = stored_NF[:, self.starts[number] : self.starts[number + 1]]
            parts.append(given_NW + own_NW.multiply(is_unknown_N[:, None].astype(np.float32)))
        return _join(parts)

    @property
    def cell_sizes(self) -> list[int]:
        """Return the number of values of each feature in :meth:`cells`."""
        return [
            {"category": len(feature.categories), "number": KNOTS // 2}.get(feature.kind, 0) + 1
            for feature in self.features
        ]

    def cells(self, rows_NF: csr_array[Any]) -> NDArray[np.int32]:
        """Return the category or interval of each feature, ``(N, features)``.

        They are numbered from 1. Unknown is 0; tags and vectors are always unknown.
        """
        cells = np.zeros((rows_NF.shape[0], len(self.features)), np.int32)
        for number, feature in enumerate(self.features):
            if feature.kind in ("category", "number"):
                block_NW = rows_NF[:, self.starts[number] : self.starts[number + 1]].toarray()
                codes_N = block_NW.argmax(axis=1)
                codes_N = codes_N // 2 if feature.kind == "number" else codes_N
                cells[:, number] = np.where(block_NW.any(axis=1), codes_N + 1, 0)
        return cells

    def arrays(self) -> StateArrays:
        """Return the statistics of the features and the rows of the training users."""
        rows_UF = self.rows_UF
        return {
            **self.blocks.arrays("profile/statistics"),
            "profile/values": np.asarray(rows_UF.data, np.float32),
            "profile/columns": rows_UF.indices.astype(np.int32),
            "profile/offsets": rows_UF.indptr.astype(np.int64),
        }

    @classmethod
    def restore(
        cls, features: tuple[Feature, ...], arrays: StateArrays, n_users: int, prefixes: Mapping[str, int]
    ) -> UserProfiles:
        """Load what :meth:`arrays` returned.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        blocks = FeatureBlocks.restore(features, arrays, "profile/statistics")
        width = sum(len(statistics_W) for statistics_W in blocks.statistics)
        shape = n_users, width
        rows_UF = load_csr(arrays, "profile/values", "profile/columns", "profile/offsets", shape)
        return cls(blocks, rows_UF, prefixes)


def _cut(table: pl.DataFrame, prefixes: Mapping[str, int]) -> pl.DataFrame:
    """Cut the texts of some columns to their first characters."""
    present = [name for name in prefixes if name in table.columns]
    return table.with_columns(pl.col(name).cast(pl.String).str.slice(0, prefixes[name]) for name in present)


def _join(blocks: list[Any]) -> csr_array[Any]:
    parts: list[Any] = [block if issparse(block) else csr_array(block) for block in blocks]
    joined = csr_array(hstack(parts, format="csr", dtype=np.float32))
    joined.eliminate_zeros()
    joined.sort_indices()
    return joined
