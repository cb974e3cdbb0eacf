"""Embeddings of item and user features.

:mod:`segue.core.features` encodes the rows.

Each category and each tag has a vector. Each number, and each element of a vector feature, is multiplied by a learned
direction. Each feature has a vector for "unknown". The vectors of all features are summed; the tags of one feature are
divided by the square root of their number.

Shapes: N rows, J columns of an encoded row, S columns of one feature, D width, I items, U users, B sequences,
L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.features import encode_features
from segue.core.types import Dataset, Feature, Queries

__all__ = ["FeatureEmbeddings", "ItemFeatureEmbeddings", "UserFeatureEmbeddings"]


class FeatureEmbeddings(nn.Module):
    """Map encoded rows to vectors.

    Args:
        std: standard deviation of the initial vectors.
    """

    def __init__(self, features: Sequence[Feature], width: int, std: float) -> None:
        super().__init__()
        self.features = tuple(features)
        self.sizes = [feature.size for feature in features]
        # the last row of each table is the vector of unknown values
        self.tables = nn.ParameterList(
            torch.randn((len(feature.categories) or feature.size) + 1, width).mul_(std) for feature in features
        )
        self._look_ups: dict[tuple[int, ...], _LookUp] = {}

    def forward(self, rows_NJ: Tensor) -> Tensor:
        """Return the summed vectors of all features, ``(N, D)``."""
        (vectors_ND,) = self.embed_groups(rows_NJ, [range(len(self.features))])
        return vectors_ND

    def embed_groups(self, rows_NJ: Tensor, groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the summed vectors of each group of features, ``(N, D)``.

        Args:
            groups: positions of the features of each group.
        """
        return [self._embed_group(rows_NJ, tuple(group)) for group in groups]

    def _embed_group(self, rows_NJ: Tensor, group: tuple[int, ...]) -> Tensor:
        parts = rows_NJ.split(self.sizes, 1)
        looked_up = tuple(at for at in group if self.features[at].categories or self.sizes[at] == 1)
        terms = [_multiply_numbers(parts[at], self.tables[at]) for at in group if at not in looked_up]
        if looked_up:
            table_WD = (
                torch.cat([self.tables[at] for at in looked_up]) if len(looked_up) > 1 else self.tables[looked_up[0]]
            )
            look_up = self._find_look_up(rows_NJ, looked_up)
            terms.append(
                F.embedding_bag(
                    look_up.codes, table_WD, look_up.offsets_N, mode="sum", per_sample_weights=look_up.weights
                )
            )
        return sum(terms[1:], terms[0])

    def _find_look_up(self, rows_NJ: Tensor, group: tuple[int, ...]) -> _LookUp:
        """Return the look-up of a group; in training that of the same rows is made once."""
        if not self.training:
            return self._make_look_up(rows_NJ, group)
        kept = self._look_ups.get(group)
        if kept is None or kept.rows_NJ is not rows_NJ or kept.version != rows_NJ._version:
            kept = self._look_ups[group] = self._make_look_up(rows_NJ, group)
        return kept

    @torch.no_grad()
    def _make_look_up(self, rows_NJ: Tensor, group: tuple[int, ...]) -> _LookUp:
        """Return the rows of the concatenated tables, and their weights."""
        parts, start = rows_NJ.split(self.sizes, 1), 0
        rows, codes, weights = [], [], []
        for at in group:
            is_known_NS = ~parts[at].isnan()
            known, unknown_N = is_known_NS.nonzero()[:, 0], (~is_known_NS.any(1)).nonzero()[:, 0]
            values = parts[at][is_known_NS]
            is_category = bool(self.features[at].categories)
            rows += [known, unknown_N]
            codes += [values.long() + start if is_category else torch.full_like(known, start)]
            codes += [torch.full_like(unknown_N, start + len(self.tables[at]) - 1)]
            weights += [is_known_NS.sum(1)[known].rsqrt() if is_category else values, torch.ones_like(unknown_N)]
            start += len(self.tables[at])
        order = (row := torch.cat(rows)).argsort(stable=True)
        counts_N = row.bincount(minlength=len(rows_NJ))
        all_weights = torch.cat([one.to(rows_NJ.dtype) for one in weights])[order]
        version = rows_NJ._version if self.training else 0
        return _LookUp(rows_NJ, version, torch.cat(codes)[order], counts_N.cumsum(0) - counts_N, all_weights)


@dataclass(frozen=True, eq=False)
class _LookUp:
    """Which rows of tables are summed for each encoded row, with their weights."""

    rows_NJ: Tensor
    version: int
    codes: Tensor
    offsets_N: Tensor
    weights: Tensor


def _multiply_numbers(values_NS: Tensor, table_WD: Tensor) -> Tensor:
    """Multiply values by their directions; use the last row where they are unknown."""
    vectors_ND: Tensor = values_NS.nan_to_num(0.0) @ table_WD[:-1] + values_NS[:, :1].isnan() * table_WD[-1]
    return vectors_ND


class ItemFeatureEmbeddings(nn.Module):
    """Add the embeddings of item features to item vectors.

    An item that does not occur in training is represented by its features alone. It is also never a negative, because
    it cannot be a target. To train features to represent items on their own, a random set of other items, drawn anew in
    each step, is also represented by features alone (cf. Volkovs et al. 2017, DropoutNet).
    """

    def __init__(self, features: Sequence[Feature], n_items: int, width: int, std: float) -> None:
        super().__init__()
        self.vectors = FeatureEmbeddings(features, width, std)
        self.rows_IJ: Tensor
        self.in_training_I: Tensor
        self.register_buffer("rows_IJ", torch.full((n_items, sum(self.vectors.sizes)), torch.nan))
        self.register_buffer("in_training_I", torch.ones(n_items, dtype=torch.bool))

    def prepare(self, train: Dataset) -> None:
        """Encode the features of all items, and note which items occur in training."""
        assert train.item_features is not None
        self.rows_IJ.copy_(self.encode_rows(train.item_features.collect()))
        self.in_training_I.copy_(torch.from_numpy(np.bincount(train.histories.items, minlength=train.n_items) > 0))

    def encode_rows(self, table: pl.DataFrame) -> Tensor:
        """Encode the features of any items as rows of the buffer ``rows_IJ``."""
        return torch.from_numpy(encode_features(self.vectors.features, table))

    def forward(self, embeddings_ID: Tensor, drop_prob: float = 0.0) -> Tensor:
        """Return the vectors of all items, ``(I, D)``.

        Args:
            embeddings_ID: the items' own embeddings.
            drop_prob: probability that an item is represented by its features alone.
        """
        is_used_I = self.in_training_I
        if drop_prob:
            is_used_I = is_used_I & (torch.rand(len(is_used_I), device=is_used_I.device) >= drop_prob)
        vectors: Tensor = embeddings_ID * is_used_I[:, None] + self.vectors(self.rows_IJ)
        return vectors

    def embed(self, codes_BL: Tensor, table_ID: Tensor, drop_prob: float = 0.0) -> Tensor:
        """Return the vectors of the items at each position, ``(B, L, D)``.

        They are computed for all items unless fewer are needed.

        Args:
            table_ID: see :meth:`at_positions`.
            drop_prob: see :meth:`forward`.
        """
        n_items = len(self.in_training_I)
        if not self.training and codes_BL.numel() < n_items:
            return self.at_positions(codes_BL, table_ID)
        return F.embedding(codes_BL, torch.cat([self(table_ID[:n_items], drop_prob), table_ID[n_items:]]))

    def at_positions(self, codes_BL: Tensor, table_ID: Tensor) -> Tensor:
        """Return the vectors of the items at each position, ``(B, L, D)``.

        The vectors of all other items are not computed.

        Args:
            table_ID: the items' own embeddings, followed by those of the start and mask tokens, which have no features.
        """
        codes_N = codes_BL.flatten()
        items_N = codes_N.clamp_max(len(self.in_training_I) - 1)
        is_item_N = codes_N < len(self.in_training_I)
        own_ND = F.embedding(codes_N, table_ID) * (self.in_training_I[items_N] | ~is_item_N)[:, None]
        vectors_ND: Tensor = own_ND + self.vectors(self.rows_IJ[items_N]) * is_item_N[:, None]
        return vectors_ND.view(*codes_BL.shape, -1)


class UserFeatureEmbeddings(nn.Module):
    """Embed the features of the user of each sequence."""

    def __init__(self, features: Sequence[Feature], n_users: int, width: int, std: float) -> None:
        super().__init__()
        self.vectors = FeatureEmbeddings(features, width, std)
        self.rows_UJ: Tensor
        self.register_buffer("rows_UJ", torch.full((n_users, sum(self.vectors.sizes)), torch.nan))

    def prepare(self, train: Dataset) -> None:
        """Encode the features of all users."""
        assert train.user_features is not None
        self.rows_UJ.copy_(torch.from_numpy(encode_features(self.vectors.features, train.user_features.collect())))

    def rows(self, queries: Queries) -> Tensor:
        """Return encoded features of the users of ``queries``, float32 ``(N, J)``.

        Features given with the queries take precedence over the stored ones.
        """
        users_N = torch.from_numpy(np.where(queries.known, queries.users, -1).astype(np.int64))
        stored_NJ = self._stored(users_N.to(self.rows_UJ.device)).cpu()
        if queries.profile is None:
            return stored_NJ
        given_NJ = torch.from_numpy(encode_features(self.vectors.features, queries.profile))
        parts = zip(given_NJ.split(self.vectors.sizes, 1), stored_NJ.split(self.vectors.sizes, 1), strict=True)
        return torch.cat([torch.where(given[:, :1].isnan(), stored, given) for given, stored in parts], 1)

    def forward(self, batch: Sequences, drop_prob: float = 0.0) -> Tensor:
        """Return the vector of each sequence's user, ``(B, 1, D)``.

        Args:
            drop_prob: probability that all features of a sequence's user are replaced by unknown.
        """
        rows_BJ = self._stored(batch.users_B) if batch.profile_BJ is None else batch.profile_BJ
        if drop_prob:
            dropped_B = torch.rand(len(rows_BJ), device=rows_BJ.device) < drop_prob
            rows_BJ = rows_BJ.masked_fill(dropped_B[:, None], torch.nan)
        vectors: Tensor = self.vectors(rows_BJ)
        return vectors[:, None]

    def _stored(self, users_B: Tensor) -> Tensor:
        """Return the stored features, ``(B, J)``; unknown where the user is -1."""
        return self.rows_UJ[users_B.clamp_min(0)].masked_fill((users_B < 0)[:, None], torch.nan)
