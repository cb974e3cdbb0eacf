"""Bins of the context of events: a category's code, or the quantile of a number.

Shapes: B sequences, L positions, W categories, E edges between bins, T events.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.types import Feature

__all__ = ["VALUE_BINS", "ContextBins", "value_bin_edges"]

VALUE_BINS = 32
"""Maximum number of bins of numbers."""


class ContextBins(nn.Module):
    """Bins of one context column.

    Categories that do not occur in training count as unknown.
    """

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        self.is_category = feature.kind == "category"
        self.size = len(feature.categories) if self.is_category else VALUE_BINS
        self.in_training_W: Tensor
        self.edges_E: Tensor
        if self.is_category:
            self.register_buffer("in_training_W", torch.zeros(self.size, dtype=torch.bool))
        else:
            self.register_buffer("edges_E", torch.full((VALUE_BINS - 1,), torch.inf))

    def prepare(self, column_T: NDArray[np.generic]) -> None:
        """Find the categories that occur, or the edges between the bins of numbers.

        Args:
            column_T: column of the training events; see :class:`segue.core.events.Events`.
        """
        if not self.is_category:
            self.edges_E.copy_(torch.from_numpy(value_bin_edges(column_T.astype(np.float32))))
            return
        codes_T = column_T.astype(np.int64)
        counts_W = np.bincount(codes_T[codes_T >= 0], minlength=self.size)
        self.in_training_W.copy_(torch.from_numpy(counts_W > 0))

    def forward(self, values_BL: Tensor) -> Tensor:
        """Return the int64 bins ``(B, L)`` of float32 codes or numbers.

        The bin of unknown values, which are NaN, is -1.
        """
        if not self.is_category:
            return torch.where(values_BL.isnan(), -1, torch.bucketize(values_BL, self.edges_E, right=True))
        codes_BL = values_BL.nan_to_num(0.0).long()
        is_known_BL = ~values_BL.isnan() & self.in_training_W[codes_BL]
        return torch.where(is_known_BL, codes_BL, -1)


def value_bin_edges(values_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the ``(E,)`` edges between the bins of values.

    Edges are midpoints between distinct values if these are few, else quantiles.

    Unused edges are infinite.
    """
    known = values_T[~np.isnan(values_T)]
    distinct = np.unique(known)
    if len(distinct) <= VALUE_BINS:
        edges = (distinct[1:] + distinct[:-1]) / 2
    else:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, VALUE_BINS + 1)[1:-1]))
    edges_E = np.full(VALUE_BINS - 1, np.inf, np.float32)
    edges_E[: len(edges)] = edges
    return edges_E
