"""Encode features as blocks of columns.

Inner products of rows are similarities from -1 to 1.

Categories and tags have one column each, weighted by inverse document frequency (Spärck Jones 1972,
doi:10.1108/eb026526). A number lies between two of :data:`KNOTS` quantiles of the catalog and has a column for each
quantile, so that the similarity of two numbers decreases with the share of items between them. Vectors are centered.
Rows have length 1; a row is zero where the feature is unknown, which is similar to nothing.

Shapes: N rows of a table, J columns of encoded features, W columns of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.types import Feature, Scores

__all__ = ["KNOTS", "FeatureBlocks", "unit_rows"]

KNOTS = 8
"""Quantiles that a number is described by."""


class FeatureBlocks:
    """The statistics of a catalog that turn encoded features into blocks.

    Args:
        statistics: per feature ``(W,)``: the weights of categories, the quantiles of a number or the mean of a vector.
    """

    def __init__(self, features: Sequence[Feature], statistics: Sequence[Scores]) -> None:
        self.features, self.statistics = tuple(features), tuple(statistics)

    @classmethod
    def fit(cls, features: Sequence[Feature], encoded_NJ: Scores) -> FeatureBlocks:
        """Compute the statistics of a catalog.

        Args:
            encoded_NJ: the result of :func:`segue.core.features.encode_features`.
        """
        parts = zip(features, _split(features, encoded_NJ), strict=True)
        return cls(features, [_statistics(feature, part_NS) for feature, part_NS in parts])

    def encode(self, encoded_NJ: Scores) -> list[csr_array[Any] | Scores]:
        """Return the block ``(N, W)`` of each feature; sparse for categories and tags."""
        parts = zip(self.features, _split(self.features, encoded_NJ), self.statistics, strict=True)
        return [_block(feature, part_NS, statistics_W) for feature, part_NS, statistics_W in parts]

    def arrays(self, name: str) -> StateArrays:
        """Return the statistics as arrays whose names start with ``name``."""
        return {f"{name}/{number}": array for number, array in enumerate(self.statistics)}

    @classmethod
    def restore(cls, features: Sequence[Feature], arrays: StateArrays, name: str) -> FeatureBlocks:
        """Load what :meth:`arrays` returned.

        Raises:
            ValueError: an array is missing or does not fit its feature.
        """
        return cls(
            features,
            [
                load_array(arrays, f"{name}/{number}", (_width(feature),), np.float32)
                for number, feature in enumerate(features)
            ],
        )


def _split(features: Sequence[Feature], encoded_NJ: Scores) -> list[Scores]:
    return np.split(encoded_NJ, np.cumsum([feature.size for feature in features])[:-1], axis=1)


def _width(feature: Feature) -> int:
    return KNOTS if feature.kind == "number" else len(feature.categories) or feature.size


def _statistics(feature: Feature, encoded_NS: Scores) -> Scores:
    known_NS = ~np.isnan(encoded_NS)
    if feature.kind == "vector":
        mean_S: Scores = encoded_NS[known_NS.any(axis=1)].mean(axis=0).astype(np.float32)
        return mean_S
    known = encoded_NS[known_NS]
    if feature.kind == "number":
        return np.quantile(known, np.linspace(0.0, 1.0, KNOTS)).astype(np.float32)
    counts_W = np.bincount(known.astype(np.int64), minlength=len(feature.categories))
    weights_W: Scores = np.log((1.0 + len(encoded_NS)) / (1.0 + counts_W)).astype(np.float32)
    return weights_W + np.float32(1e-3)  # a value that all items have is not zero: it is still known


def _block(feature: Feature, encoded_NS: Scores, statistics_W: Scores) -> csr_array[Any] | Scores:
    known_NS = ~np.isnan(encoded_NS)
    known_N = known_NS.any(axis=1)
    if feature.categories:
        rows, positions = np.nonzero(known_NS)
        codes = encoded_NS[rows, positions].astype(np.int64)
        weights = statistics_W[codes]
        norms_N = np.sqrt(np.bincount(rows, np.square(weights, dtype=np.float64), minlength=len(encoded_NS)))
        values = (weights / norms_N[rows]).astype(np.float32)
        return csr_array(coo_array((values, (rows, codes)), shape=(len(encoded_NS), len(statistics_W))))
    block_NW = np.zeros((len(encoded_NS), len(statistics_W)), np.float32)
    if feature.kind == "vector":
        block_NW[known_N] = encoded_NS[known_N] - statistics_W
    else:
        block_NW[known_N] = _between_quantiles(encoded_NS[known_N, 0], statistics_W)
    return unit_rows(block_NW)


def _between_quantiles(numbers_N: Scores, quantiles_W: Scores) -> Scores:
    """Return the weights of the two quantiles around each number, ``(N, W)``."""
    distinct, first = np.unique(quantiles_W, return_index=True)
    last = len(quantiles_W) - 1 - np.unique(quantiles_W[::-1], return_index=True)[1]
    positions_N = np.interp(numbers_N, distinct, (first + last) / 2)
    distances_NW = np.abs(positions_N[:, None] - np.arange(len(quantiles_W)))
    weights_NW: NDArray[np.float32] = np.maximum(1.0 - distances_NW / 2, 0.0).astype(np.float32)
    return weights_NW


def unit_rows(rows_NW: Scores) -> Scores:
    """Scale rows to length 1; rows of zeros stay zero."""
    norms_N1: Scores = np.linalg.norm(rows_NW, axis=1, keepdims=True).astype(np.float32)
    norms_N1[norms_N1 <= 1e-12] = 1.0
    unit_NW: Scores = rows_NW / norms_N1
    return unit_NW
