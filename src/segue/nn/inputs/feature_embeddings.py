"""Learned vectors of what is known of items and of users; rows are coded by :mod:`segue.core.features`.

A category and a tag have a vector each. A number, and each place of a vector, has a direction that it is multiplied
with. Each feature has a vector for "not known". The features of an item or of a person are summed; tags of one feature
count by the square root of their number, so that many weigh no more than one.

Shapes: N rows, J columns of a coded row, S columns of one feature, D width, I items, U users, B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.features import coded
from segue.core.types import Dataset, Feature, Queries

__all__ = ["FeatureVectors", "ItemFeatures", "UserFeatures"]


class FeatureVectors(nn.Module):
    """From coded rows to vectors.

    Args:
        std: standard deviation of the numbers it begins with.
    """

    def __init__(self, features: Sequence[Feature], width: int, std: float) -> None:
        super().__init__()
        self.features = tuple(features)
        self.sizes = [feature.size for feature in features]
        # the last row of each table stands for what is not known
        self.tables = nn.ParameterList(
            std * torch.randn((len(feature.categories) or feature.size) + 1, width) for feature in features
        )

    def forward(self, rows_NJ: Tensor) -> Tensor:
        """``(N, D)``"""
        parts = rows_NJ.split(self.sizes, 1)
        vectors = [
            _words(part_NS, table_WD) if feature.categories else _directions(part_NS, table_WD)
            for feature, table_WD, part_NS in zip(self.features, self.tables, parts, strict=True)
        ]
        return torch.stack(vectors).sum(0)


def _words(codes_NS: Tensor, table_WD: Tensor) -> Tensor:
    """The sum of the words of each row over the root of their number; the last word where there is none."""
    known_NS = ~codes_NS.isnan()
    weight_NS = known_NS / known_NS.sum(1, keepdim=True).clamp_min(1).sqrt()
    weight_NS[:, 0] += ~known_NS.any(1)
    words_NS = torch.where(known_NS, codes_NS, len(table_WD) - 1).long()
    return F.embedding_bag(words_NS, table_WD, mode="sum", per_sample_weights=weight_NS)


def _directions(values_NS: Tensor, table_WD: Tensor) -> Tensor:
    """Values times directions; where nothing is known, the last row."""
    vectors_ND: Tensor = values_NS.nan_to_num(0.0) @ table_WD[:-1] + values_NS[:, :1].isnan() * table_WD[-1]
    return vectors_ND


class ItemFeatures(nn.Module):
    """Adds to the vector of an item what follows from its features.

    An item that training never met has its features alone, and is no wrong answer in training either: it could not have
    been the right one. So that features learn to stand alone, they do for some of the other items too, others in each
    step (cf. Volkovs et al. 2017, DropoutNet).
    """

    def __init__(self, features: Sequence[Feature], n_items: int, width: int, std: float) -> None:
        super().__init__()
        self.vectors = FeatureVectors(features, width, std)
        self.rows_IJ: Tensor
        self.met_I: Tensor
        self.register_buffer("rows_IJ", torch.full((n_items, sum(self.vectors.sizes)), torch.nan))
        self.register_buffer("met_I", torch.ones(n_items, dtype=torch.bool))

    def prepare(self, train: Dataset) -> None:
        """Take the features of all items, and which of them occur in training."""
        assert train.item_features is not None
        self.rows_IJ.copy_(torch.from_numpy(coded(self.vectors.features, train.item_features.collect())))
        self.met_I.copy_(torch.from_numpy(np.bincount(train.histories.items, minlength=train.n_items) > 0))

    def forward(self, own_ID: Tensor, alone: float = 0.0) -> Tensor:
        """``(I, D)`` the vectors of all items.

        Args:
            own_ID: what each item has for itself.
            alone: share of the items whose features stand alone.
        """
        counts_I = self.met_I
        if alone:
            counts_I = counts_I & (torch.rand(len(counts_I), device=counts_I.device) >= alone)
        vectors: Tensor = own_ID * counts_I[:, None] + self.vectors(self.rows_IJ)
        return vectors

    def at(self, codes_BL: Tensor, table_ID: Tensor) -> Tensor:
        """``(B, L, D)`` the vectors of some positions, where those of all items are not at hand.

        Args:
            table_ID: own vectors; those beyond the items, of the start and of what is hidden, stay as they are.
        """
        codes_N = codes_BL.flatten()
        items_N = codes_N.clamp_max(len(self.met_I) - 1)
        is_item_N = codes_N < len(self.met_I)
        own_ND = F.embedding(codes_N, table_ID) * (self.met_I[items_N] | ~is_item_N)[:, None]
        vectors_ND: Tensor = own_ND + self.vectors(self.rows_IJ[items_N]) * is_item_N[:, None]
        return vectors_ND.view(*codes_BL.shape, -1)


class UserFeatures(nn.Module):
    """A vector of what is known of who asks."""

    def __init__(self, features: Sequence[Feature], n_users: int, width: int, std: float) -> None:
        super().__init__()
        self.vectors = FeatureVectors(features, width, std)
        self.rows_UJ: Tensor
        self.register_buffer("rows_UJ", torch.full((n_users, sum(self.vectors.sizes)), torch.nan))

    def prepare(self, train: Dataset) -> None:
        """Take the features of all users."""
        assert train.user_features is not None
        self.rows_UJ.copy_(torch.from_numpy(coded(self.vectors.features, train.user_features.collect())))

    def rows(self, queries: Queries) -> Tensor:
        """``(N, J)`` float32 what the profiles of ``queries`` tell; what they do not tell is as the data knew it."""
        users_N = torch.from_numpy(np.where(queries.known, queries.users, -1).astype(np.int64))
        stored_NJ = self._stored(users_N.to(self.rows_UJ.device)).cpu()
        if queries.profile is None:
            return stored_NJ
        told_NJ = torch.from_numpy(coded(self.vectors.features, queries.profile))
        parts = zip(told_NJ.split(self.vectors.sizes, 1), stored_NJ.split(self.vectors.sizes, 1), strict=True)
        return torch.cat([torch.where(told[:, :1].isnan(), stored, told) for told, stored in parts], 1)

    def forward(self, read: Sequences, hidden: float = 0.0) -> Tensor:
        """``(B, 1, D)``

        Args:
            hidden: share of the sequences in which nothing is known.
        """
        rows_BJ = self._stored(read.users_B) if read.profile_BJ is None else read.profile_BJ
        if hidden:
            away_B = torch.rand(len(rows_BJ), device=rows_BJ.device) < hidden
            rows_BJ = rows_BJ.masked_fill(away_B[:, None], torch.nan)
        vectors: Tensor = self.vectors(rows_BJ)
        return vectors[:, None]

    def _stored(self, users_B: Tensor) -> Tensor:
        """``(B, J)`` what the data knew; nothing where the user is -1."""
        return self.rows_UJ[users_B.clamp_min(0)].masked_fill((users_B < 0)[:, None], torch.nan)
