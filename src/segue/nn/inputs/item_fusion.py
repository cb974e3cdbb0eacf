"""Represent items by their own embeddings, their text and their other features.

An item without training events has no own embedding: a learned vector for "unknown" takes its place. In training, it
also takes the place of other items' embeddings at random (cf. Volkovs et al. 2017, DropoutNet). So items with and
without events are in one space, and the features of new items score them.

``gated_sum`` multiplies each part (own embedding, text, other features) by gates that depend on all parts (Arevalo et
al. 2017, arXiv:1702.01992). ``cross_attention`` adds a mean of the features, weighted by the attention of the own
embedding to them.

Shapes: N items, I items of the catalog, J columns of an encoded row, D width, F features, P parts, H heads, B
sequences, L positions, S numbers of a vector, C components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.core.features import encode_features
from segue.core.types import Dataset, Feature
from segue.nn.inputs.feature_embeddings import FeatureEmbeddings

__all__ = ["FusedItems", "FusionMethod", "ItemFusion", "PrincipalComponents"]

FusionMethod: TypeAlias = Literal["gated_sum", "cross_attention"]
"""How the own embedding of an item and its features are combined."""

HEADS = 2
"""Heads of the cross-attention."""


INITIAL_LOG_LENGTH = 0.7
"""Initial logarithm of the length of candidates: hidden states of most encoders have the length ``sqrt(D)``."""

MIN_VARIANCE = 1e-6
"""Components with a smaller fraction of the greatest variance are zero: their direction is rounding error."""


@dataclass(frozen=True)
class FusedItems:
    """Vectors of items."""

    table_ND: Tensor
    """With their own embeddings; rows may be those of tokens."""
    alone: Callable[[Tensor], Tensor]
    """Returns the vectors of some rows without their own embeddings."""
    is_item_N: Tensor | None = None
    """Rows that are no tokens; ``None``: all."""


class ItemFusion(nn.Module):
    """Represent items by their own embedding, text vectors and other features.

    It has the interface of :class:`segue.nn.inputs.feature_embeddings.ItemFeatureEmbeddings`.

    Args:
        std: standard deviation of the initial vectors, that of the items' own embeddings.
        id_dropout: probability in training that an item is represented by its features alone, independently at each
            position of a history and as a candidate.
        vector_dim: number of principal components that replace each vector feature; 0: the vectors are used unchanged.
        normalize: whether the vectors of candidates have the same, learned length.
        new_item_bonus: added in prediction to the scores of items without training events.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        n_items: int,
        width: int,
        std: float,
        method: FusionMethod,
        id_dropout: float,
        vector_dim: int,
        normalize: bool,
        new_item_bonus: float,
    ) -> None:
        super().__init__()
        self.features, self.id_dropout, self.new_item_bonus = tuple(features), id_dropout, new_item_bonus
        self.has_ids = True  # if false, features alone represent every item
        sizes = [_reduced_size(feature, vector_dim) for feature in features]
        self.vectors = FeatureEmbeddings(
            [replace(feature, size=size) for feature, size in zip(features, sizes, strict=True)], width, std
        )
        self.components = nn.ModuleDict(
            {
                str(index): PrincipalComponents(feature.size, sizes[index])
                for index, feature in enumerate(features)
                if feature.kind == "vector" and vector_dim
            }
        )
        self.unknown_D = nn.Parameter(torch.randn(width).mul_(std))
        self.log_length = nn.Parameter(torch.full((1,), INITIAL_LOG_LENGTH)) if normalize else None
        is_text = [feature.kind == "vector" for feature in features]
        self.combine = _GatedSum(is_text, width) if method == "gated_sum" else _CrossAttention(len(features), width)
        self.rows_IJ: Tensor
        self.in_training_I: Tensor
        self.register_buffer("rows_IJ", torch.full((n_items, sum(sizes)), torch.nan))
        self.register_buffer("in_training_I", torch.ones(n_items, dtype=torch.bool))
        self._is_shared = False
        self._shared: FusedItems | None = None

    def prepare(self, train: Dataset) -> None:
        """Encode the features of all items, and note which items occur in training.

        The principal components of vectors are those of the items that occur in training.
        """
        assert train.item_features is not None
        self.in_training_I.copy_(torch.from_numpy(np.bincount(train.histories.items, minlength=train.n_items) > 0))
        rows_IJ = torch.from_numpy(encode_features(self.features, train.item_features.collect()))
        for index, part_IS in enumerate(self._split(rows_IJ)):
            if str(index) in self.components:
                self._components(index).fit(part_IS[self.in_training_I & ~part_IS.isnan().any(1)])
        self.rows_IJ.copy_(self._reduce(rows_IJ))

    def encode_rows(self, table: pl.DataFrame) -> Tensor:
        """Encode the features of any items as rows of the buffer ``rows_IJ``."""
        return self._reduce(torch.from_numpy(encode_features(self.features, table)))

    def forward(self, embeddings_ID: Tensor, drop_prob: float = 0.0) -> Tensor:
        """Return the vectors of all items as candidates, ``(I, D)``.

        Args:
            embeddings_ID: the items' own embeddings.
            drop_prob: not used; ``id_dropout`` takes its place.
        """
        fused = self._of_all(embeddings_ID)
        vectors_ID = fused.table_ND
        if self._drops_ids:
            rows = (torch.rand(len(vectors_ID), device=vectors_ID.device) < self.id_dropout).nonzero()[:, 0]
            vectors_ID = vectors_ID.index_copy(0, rows, fused.alone(rows))
        return vectors_ID if self.log_length is None else F.normalize(vectors_ID, dim=-1) * self.log_length.exp()

    def embed(self, codes_BL: Tensor, table_ID: Tensor, drop_prob: float = 0.0) -> Tensor:
        """Return the vectors of the items at each position, ``(B, L, D)``.

        In prediction, only the items at the positions are computed if these are fewer than all.

        Args:
            table_ID: the items' own embeddings, followed by those of the start and mask tokens, which have no features.
            drop_prob: not used; ``id_dropout`` takes its place.
        """
        n_items, codes_N = len(self.in_training_I), codes_BL.flatten()
        if not self.training and len(codes_N) < n_items:
            return self.fuse(codes_N, table_ID).table_ND.view(*codes_BL.shape, -1)
        fused = self._of_all(table_ID[:n_items])
        table_ND = torch.cat([fused.table_ND, table_ID[n_items:]])
        is_item_N = torch.arange(len(table_ND), device=table_ND.device) < n_items
        return self.choose(codes_BL, FusedItems(table_ND, fused.alone, is_item_N))

    def fuse(self, codes_N: Tensor, table_ID: Tensor) -> FusedItems:
        """Return the vectors of items or tokens; see :meth:`embed`."""
        items_N = codes_N.clamp_max(len(self.in_training_I) - 1)
        own_ND = F.embedding(codes_N, table_ID)
        fused = self._fuse(own_ND, self.in_training_I[items_N], self.rows_IJ[items_N])
        is_item_N = codes_N < len(self.in_training_I)
        return FusedItems(torch.where(is_item_N[:, None], fused.table_ND, own_ND), fused.alone, is_item_N)

    def choose(self, index: Tensor, fused: FusedItems) -> Tensor:
        """Look up vectors, in training some of those without own embeddings.

        The probability of the latter is ``id_dropout``, independently for each element of ``index``.
        """
        if not self._drops_ids:
            return F.embedding(index, fused.table_ND)
        is_dropped = torch.rand(index.shape, device=index.device) < self.id_dropout
        if fused.is_item_N is not None:
            is_dropped &= fused.is_item_N[index]
        rows, at = torch.unique(index[is_dropped], return_inverse=True)
        index = index.masked_scatter(is_dropped, at + len(fused.table_ND))
        return F.embedding(index, torch.cat([fused.table_ND, fused.alone(rows)]))

    @property
    def _drops_ids(self) -> bool:
        return self.training and self.has_ids and self.id_dropout > 0

    @contextmanager
    def computed_once(self) -> Iterator[None]:
        """Compute the vectors of all items only once within the context."""
        self._is_shared = True
        try:
            yield
        finally:
            self._is_shared, self._shared = False, None

    def _of_all(self, embeddings_ID: Tensor) -> FusedItems:
        """Return the vectors of all items."""
        if self._shared is not None:
            return self._shared
        fused = self._fuse(embeddings_ID, self.in_training_I, self.rows_IJ)
        self._shared = fused if self._is_shared else None
        return fused

    def _fuse(self, own_ND: Tensor, in_training_N: Tensor, rows_NJ: Tensor) -> FusedItems:
        own_ND = torch.where(in_training_N[:, None], own_ND, self.unknown_D) if self.has_ids else self.unknown_D[None]
        inputs = self.combine.inputs(self.vectors.embed_groups(rows_NJ, self.combine.groups))

        def alone(rows: Tensor) -> Tensor:
            vectors_ND: Tensor = self.combine(self.unknown_D[None], [part_N.index_select(0, rows) for part_N in inputs])
            return vectors_ND

        return FusedItems(self.combine(own_ND, inputs), alone)

    def parts(self, code: int, table_ID: Tensor) -> dict[str, Tensor]:
        """Return the terms whose sum is the vector of a candidate.

        They are ``(D,)`` each, by name: the gated id, text (all vectors) and other features. Only the gated sum has
        such terms.
        """
        if not isinstance(self.combine, _GatedSum):
            return {}
        own_1D = table_ID[code : code + 1] if self.has_ids and self.in_training_I[code] else self.unknown_D[None]
        parts = self.vectors.embed_groups(self.rows_IJ[code : code + 1], self.combine.groups)
        products = self.combine.products(own_1D, parts)
        scale = 1.0
        if self.log_length is not None:
            scale = float(self.log_length.exp() / sum(products[1:], products[0]).norm().clamp_min(1e-12))
        return {name: scale * one[0] for name, one in zip(["id", *self.combine.names], products, strict=True)}

    def _split(self, rows_NJ: Tensor) -> tuple[Tensor, ...]:
        """Split encoded rows into features."""
        parts: tuple[Tensor, ...] = rows_NJ.split([feature.size for feature in self.features], 1)
        return parts

    def _components(self, index: int) -> PrincipalComponents:
        components = self.components[str(index)]
        assert isinstance(components, PrincipalComponents)
        return components

    def _reduce(self, rows_NJ: Tensor) -> Tensor:
        """Replace vector features by their principal components."""
        parts = [
            self._components(index)(part_NS) if str(index) in self.components else part_NS
            for index, part_NS in enumerate(self._split(rows_NJ.to(self.rows_IJ.device)))
        ]
        return torch.cat(parts, 1)


class PrincipalComponents(nn.Module):
    """Map vectors to principal components with equal variance.

    Text vectors of common encoders point in similar directions: a few components have most of the variance and say
    little about an item. Components of equal variance separate items better (Su et al. 2021, arXiv:2103.15316; for
    recommendation Zhang et al. 2024, arXiv:2402.17420), and fewer numbers suffice.

    Args:
        size: length of the vectors.
        count: number of components.

    Before :meth:`fit`, all components are zero. Components are scaled so that the mean squared length of the fitted
    vectors is 1.
    """

    def __init__(self, size: int, count: int) -> None:
        super().__init__()
        self.mean_S: Tensor
        self.directions_SC: Tensor
        self.register_buffer("mean_S", torch.zeros(size))
        self.register_buffer("directions_SC", torch.zeros(size, count))

    def fit(self, vectors_NS: Tensor) -> None:
        """Compute the components from rows without NaN; fewer than two rows give zeros."""
        if len(vectors_NS) < 2:
            return
        vectors_NS = vectors_NS.double()
        mean_S = vectors_NS.mean(0)
        centered_NS = vectors_NS - mean_S
        variances_S, directions_SS = torch.linalg.eigh(centered_NS.t() @ centered_NS / len(vectors_NS))
        count = self.directions_SC.shape[1]
        variances_C, directions_SC = variances_S.flip(0)[:count], directions_SS.flip(1)[:, :count]
        is_used_C = variances_C > MIN_VARIANCE * variances_C[0].clamp_min(torch.finfo(torch.float32).tiny)
        scales_C = torch.where(is_used_C, variances_C, torch.inf).rsqrt() / is_used_C.sum().clamp_min(1).sqrt()
        self.mean_S.copy_(mean_S)
        self.directions_SC.copy_(directions_SC * scales_C)

    def forward(self, vectors_NS: Tensor) -> Tensor:
        """Return the components, ``(N, C)``; rows with NaN give NaN."""
        components_NC: Tensor = (vectors_NS - self.mean_S) @ self.directions_SC
        return components_NC


class _GatedSum(nn.Module):
    """Sum of the own embedding, the text and the other features, each gated.

    There is a gate for each component; the initial gates are 1.
    """

    def __init__(self, is_text: Sequence[bool], width: int) -> None:
        super().__init__()
        groups = [[index for index, one in enumerate(is_text) if one is kind] for kind in (True, False)]
        self.groups = [group for group in groups if group]
        self.names = [name for name, group in zip(("text", "features"), groups, strict=True) if group]
        n_parts = 1 + len(self.groups)
        self.own_gate = nn.Linear(width, n_parts * width)
        self.feature_gate = nn.Linear(width * len(self.groups), n_parts * width, bias=False)
        for weight in (self.own_gate.weight, self.own_gate.bias, self.feature_gate.weight):
            nn.init.zeros_(weight)

    def inputs(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return what :meth:`forward` reads of the features of each item.

        It is their part of the gates, ``(N, P D)``, and the vectors of the groups, ``(N, D)`` each.
        """
        return [self.feature_gate(torch.cat([*parts], 1) * parts[0].shape[1] ** 0.5), *parts]

    def forward(self, own: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Return the gated sums, ``(N, D)``; ``own`` is ``(N, D)`` or ``(1, D)``."""
        from_features, *parts = inputs
        first, *others = zip(self._gates(own, from_features), [own, *parts], strict=True)
        total = first[0] * first[1]
        for gate, part in others:
            total = torch.addcmul(total, gate, part)
        return 2.0 * total

    def products(self, own: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return the terms of the sum.

        Those of :attr:`names` follow that of the own embedding.
        """
        from_features, *_ = self.inputs(parts)
        return [2.0 * gate * part for gate, part in zip(self._gates(own, from_features), [own, *parts], strict=True)]

    def _gates(self, own: Tensor, from_features: Tensor) -> tuple[Tensor, ...]:
        """Return the gates of all parts.

        Embeddings start small; they are scaled up, so that they affect the gates at once.
        """
        gates = torch.sigmoid(from_features + self.own_gate(own * own.shape[1] ** 0.5))
        chunks: tuple[Tensor, ...] = gates.chunk(1 + len(self.groups), 1)
        return chunks


class _CrossAttention(nn.Module):
    """Own embedding plus the features that it attends to.

    A linear map of keys and values is part of those of queries and outputs, so that features need none.
    """

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.groups = [[index] for index in range(n_features)]
        self.query = nn.Linear(width, HEADS * width)
        self.out = nn.Linear(HEADS * width, width)

    def inputs(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Return what :meth:`forward` reads of the features of each item, ``(N, F, D)``."""
        return [torch.stack(list(vectors), 1)]

    def forward(self, own: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Return ``(N, D)`` for own embeddings that are ``(N, D)`` or ``(1, D)``."""
        (vectors_NFD,) = inputs
        query_HD = self.query(own * own.shape[1] ** 0.5).view(len(own), HEADS, -1)
        logits_NHF = (
            query_HD @ vectors_NFD.transpose(1, 2) if len(own) > 1 else (vectors_NFD @ query_HD[0].t()).transpose(1, 2)
        )
        mixed_NHD = torch.softmax(logits_NHF, -1) @ vectors_NFD
        fused_ND: Tensor = own + self.out(mixed_NHD.flatten(1))
        return fused_ND


def _reduced_size(feature: Feature, vector_dim: int) -> int:
    return min(feature.size, vector_dim) if feature.kind == "vector" and vector_dim else feature.size
