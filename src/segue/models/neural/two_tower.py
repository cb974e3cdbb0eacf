"""Two-tower retrieval: one network for users, one for items.

Covington et al. 2016 (YouTube); in-batch softmax with correction for the frequency of items: Yi et al. 2019,
doi:10.1145/3298689.3346996. The item tower reads id, text vectors and other features; an item without training events
is scored by its features alone. The user tower reads the history, pooled by attention that depends on the item and on
recency (Zhai et al. 2021, arXiv:2105.14103), the newest item, and the inputs of events and users. Scores are cosines
divided by a temperature.

Only the items of a batch are computed in training, so that its cost does not depend on the size of the catalog. Every
target of the batch counts as a negative of all others, and frequent items do so more often: the logarithm of an item's
probability is subtracted from its score in training (log-Q correction).

Shapes: B sequences, L positions, D width, H heads, K inner width, M targets, U distinct items of a batch, C distinct
targets of a batch, I items.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator
from torch import Tensor, nn

from segue.core.batches import SequenceBatch, Sequences
from segue.core.config import reject_unused
from segue.core.network import Loss
from segue.core.seen_items import SeenItems
from segue.core.types import DataSchema, Dataset
from segue.nn.inputs.input_encoder import InputName
from segue.nn.inputs.item_fusion import FusionMethod, ItemFusion
from segue.nn.layers.attention import gather_positions
from segue.nn.layers.dropout import dropout
from segue.nn.losses.losses import cross_entropy
from segue.nn.precision import full_precision
from segue.nn.sequence_model import SequenceModel, SequenceSettings

__all__ = ["TwoTower"]

MAX_LOGIT = 8.0
"""Bound of the logits of items in the pooling of the history, so that no sum of weights overflows or vanishes."""


class TwoTower(SequenceModel):
    """A user tower and an item tower whose outputs are compared by their cosine."""

    reads_full_history = False
    builtin_loss = "an in-batch softmax with log-Q correction"

    class Config(SequenceSettings):
        """Settings of ``two_tower``."""

        inputs: tuple[InputName, ...] = ("item_features", "user_features")
        """Inputs in addition to the ids of items: ``item_features`` of the item tower; of the user tower
        ``user_features`` and the event inputs ``value``, ``action``, ``gap`` (time since the previous event),
        ``query_time`` (time from the newest event to the query), ``session_position``, and ``hour``, ``weekday``,
        ``month`` and ``season`` of the event or, with the prefix ``query_``, of the query. Features that the data lacks
        are left out."""
        hidden_dim: Annotated[int, Gt(0)] = 256
        """Inner width of both towers."""
        num_heads: Annotated[int, Gt(0)] = 4
        """Heads of the pooling of the history, with a recency profile each; must divide ``embedding_dim``."""
        fusion: FusionMethod = "gated_sum"
        """How the item tower combines id, text and other features; see the model ``fusion``."""
        id_dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
        """Probability in training that an item is represented by its features alone, so that features learn to
        represent new items; drawn independently for every position of a history and every candidate."""
        vector_dim: Annotated[int, Ge(0)] = 128
        """Number of whitened principal components that replace each vector feature; 0: vectors are used unchanged."""
        new_item_bonus: float = 0.0
        """Added to the scores of items without training events. The scores of new items are less certain, so that few
        of them are among the best; a bonus recommends more of them, at some cost for the others. It changes nothing in
        training: choose it on validation, with ``split.cold_items``."""
        feature_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Probability in training that an input of a sequence other than its items is replaced by unknown,
        independently for each input."""
        temperature: Annotated[float, Gt(0)] = 0.05
        """Divisor of the cosines."""
        frequencies: Literal["counts", "streaming"] = "counts"
        """Probabilities of items for the log-Q correction: their counts in the training data, or an estimate from the
        stream of batches, which needs no counts and follows changes (Yi et al. 2019, algorithm 2)."""
        frequency_rate: Annotated[float, Gt(0), Le(1)] = 0.05
        """Weight of the newest observation in the streaming estimate."""

        @model_validator(mode="after")
        def _check_frequencies(self) -> Self:
            has_items = "item_features" in self.inputs
            reject_unused(
                self,
                {
                    "feature_dropout": (
                        bool({*self.inputs} - {"item_features"}),
                        "a model with inputs other than items",
                    ),
                    "frequency_rate": (self.frequencies == "streaming", "frequencies='streaming'"),
                    "fusion": (has_items, "the input item_features"),
                    "id_dropout": (has_items, "the input item_features"),
                    "new_item_bonus": (has_items, "the input item_features"),
                    "vector_dim": (has_items, "the input item_features"),
                },
            )
            return self

    config: Config

    def __init__(self, config: Config, schema: DataSchema) -> None:
        available = tuple(
            name for name in config.inputs if name not in ("item_features", "user_features") or getattr(schema, name)
        )
        super().__init__(config.model_copy(update={"inputs": available}), schema)
        self.config = config
        width = config.embedding_dim
        if width % config.num_heads:
            raise ValueError(f"model.num_heads: got {config.num_heads}, expected a divisor of embedding_dim={width}")
        if schema.item_features and self.inputs is not None and "item_features" in available:
            std = (2.0 / (len(self.items.weight) + width)) ** 0.5
            self.inputs.items = ItemFusion(
                *(schema.item_features, schema.n_items, width, std),
                *(config.fusion, config.id_dropout, config.vector_dim),
                normalize=False,  # the item tower does so
                new_item_bonus=config.new_item_bonus,
            )
        self.pooling = _RecencyAttention(width, config.num_heads, config.max_length)
        self.user_tower = _Tower(2 * width, config.hidden_dim, width, config.dropout)
        self.item_tower = _Tower(width, config.hidden_dim, width, config.dropout)
        self.frequency = _StreamingFrequency(schema.n_items, config.frequency_rate) if _is_streaming(config) else None
        self._counts_I = torch.zeros(schema.n_items)

    def prepare(self, train: Dataset) -> None:
        """Encode the features, compute what the other inputs need, and count the items."""
        super().prepare(train)
        self._counts_I = torch.from_numpy(np.bincount(train.histories.items, minlength=train.n_items)).float()

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`; at most ``max_length`` positions."""
        scale, drop = self.config.embedding_dim**0.5, self.config.dropout
        x_BLD = dropout(x_BLD * scale, drop, self.training)
        pooled: Tensor = self.pooling(x_BLD, last_B)
        newest = x_BLD if last_B is None else gather_positions(x_BLD, last_B)
        user = pooled + self.user_tower(torch.cat([pooled, newest], -1))
        return F.normalize(user, dim=-1) / self.config.temperature

    def objective(self, batch: SequenceBatch, loss: Loss) -> tuple[Tensor, int]:
        """Return the in-batch softmax loss, and the number of targets.

        ``loss`` is not used.
        """
        batch = batch.to(self.device)
        targets_M, n_targets = batch.targets_M, len(batch.targets_M)
        codes = torch.cat([batch.items_BL.flatten(), targets_M])
        items_U, index = torch.unique(codes, return_inverse=True)
        inputs_BL = index[:-n_targets].view_as(batch.items_BL)
        index_C, column_M, counts_C = torch.unique(index[-n_targets:], return_inverse=True, return_counts=True)
        x_BLD, vectors_CD = self._represent(items_U, inputs_BL, index_C)
        if self.inputs is not None:
            x_BLD = self.inputs.add_event_and_user_inputs(x_BLD, batch)
        hidden_MD = self.encode_sequence(x_BLD, batch).flatten(0, 1)[batch.positions_M]
        items_C = items_U[index_C]
        bias_C = counts_C.log() - self._expected_counts(items_C, counts_C).log()
        if self.offsets is not None:
            bias_C = bias_C + self.offsets[items_C]
        seen = None if batch.seen is None else _restrict(batch.seen, items_C)
        return cross_entropy(hidden_MD, self._to_unit(vectors_CD), bias_C, column_M, seen), n_targets

    def item_vectors(self) -> Tensor:
        """Return the vectors that score items, ``(I, D)``; their length is 1."""
        return self._to_unit(super().item_vectors())

    def _represent(self, items_U: Tensor, *indices: Tensor) -> list[Tensor]:
        """Return the vectors of items and tokens before the towers.

        There is one result for each of ``indices``, which are positions in ``items_U``.
        """
        if self.inputs is None or not isinstance(self.inputs.items, ItemFusion):
            vectors_UD = self.items(items_U)
            return [F.embedding(index, vectors_UD) for index in indices]
        fused = self.inputs.items.fuse(items_U, self.items.weight)
        return [self.inputs.items.choose(index, fused) for index in indices]

    def _to_unit(self, vectors_ND: Tensor) -> Tensor:
        """Apply the item tower."""
        vectors_ND = vectors_ND * self.config.embedding_dim**0.5
        return F.normalize(vectors_ND + self.item_tower(vectors_ND), dim=-1)

    def _expected_counts(self, items_C: Tensor, counts_C: Tensor) -> Tensor:
        """Return how often a batch of this size has each target on average, ``(C,)``."""
        n_targets = counts_C.sum()
        if self.frequency is not None:
            return self.frequency.update(items_C, counts_C) * n_targets
        self._counts_I = self._counts_I.to(items_C.device)
        return self._counts_I[items_C].clamp_min(1.0) / self._counts_I.sum() * n_targets


class _StreamingFrequency(nn.Module):
    """Estimate how often items occur in a stream.

    For each item the average number of events from one occurrence to the next is updated by
    ``gap = (1 - rate) gap + rate (now - last)`` (Yi et al. 2019, algorithm 2); its probability is ``1 / gap``. If an
    item occurs n times in a batch, its gaps there are equal. The first gap of an item is the number of events before.

    Args:
        rate: weight of the newest gap.
    """

    def __init__(self, n_items: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.now: Tensor
        self.last_I: Tensor
        self.gap_I: Tensor
        self.register_buffer("now", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("last_I", torch.zeros(n_items, dtype=torch.float64))
        self.register_buffer("gap_I", torch.zeros(n_items))

    @torch.no_grad()
    def update(self, items_C: Tensor, counts_C: Tensor) -> Tensor:
        """Observe distinct items and their counts; return probabilities, ``(C,)``."""
        self.now += counts_C.sum()
        gap_C, previous_C = ((self.now - self.last_I[items_C]) / counts_C).float(), self.gap_I[items_C]
        weight_C = torch.where(previous_C > 0, 1.0 - (1.0 - self.rate) ** counts_C, 1.0)
        self.gap_I[items_C] = torch.lerp(previous_C, gap_C, weight_C)
        self.last_I[items_C] = self.now
        return 1.0 / self.gap_I[items_C].clamp_min(1.0)


class _RecencyAttention(nn.Module):
    """Mean of the inputs up to each position, weighted by the input and by its age.

    The weights of a head are ``exp(a(x) + b(age))``: attention without queries (Zhai et al. 2021), whose cost is
    that of a product with one matrix for all sequences. The initial ``b`` give exponential decays, from none to a
    half-life of one event.
    """

    def __init__(self, width: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        self.weight_HD = nn.Parameter(torch.zeros(num_heads, width))
        rates_H = torch.linspace(0, 1, num_heads).pow_(2).mul_(-math.log(2.0))
        age_L = torch.linspace(0, max_length - 1, max_length)
        self.age_HL = nn.Parameter(age_L.repeat(num_heads, 1).mul_(rates_H[:, None]))

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(B, D)`` for the positions ``last_B``."""
        (rows, length, _), heads = x_BLD.shape, len(self.age_HL)
        index_L = torch.arange(length, device=x_BLD.device)
        logits_BHL = MAX_LOGIT * torch.tanh((x_BLD @ self.weight_HD.t()).transpose(1, 2) / MAX_LOGIT)
        x_BHLE = x_BLD.view(rows, length, heads, -1).transpose(1, 2)
        if last_B is not None:
            age_BL = last_B[:, None] - index_L
            logits_BHL = logits_BHL + self.age_HL[:, age_BL.clamp_min(0)].transpose(0, 1)
            weights_BHL = torch.softmax(logits_BHL.masked_fill(age_BL[:, None] < 0, -math.inf), -1)
            return (weights_BHL[:, :, None] @ x_BHLE).flatten(1)
        means_BHLE: Tensor = _causal_means(x_BHLE, logits_BHL, self.age_HL[:, :length])
        return means_BHLE.transpose(1, 2).flatten(2)


@full_precision
def _causal_means(x_BHLE: Tensor, logits_BHL: Tensor, age_HL: Tensor) -> Tensor:
    """Return means up to each position, with weights ``exp(logit + age)``."""
    index_L = torch.arange(age_HL.shape[1], device=age_HL.device)
    age_LL = index_L[:, None] - index_L
    age_HL = age_HL - age_HL.max(1, keepdim=True).values
    by_age_HLL = age_HL[:, age_LL.clamp_min(0)].masked_fill(age_LL < 0, -math.inf).exp()
    by_item_BHL1 = logits_BHL.exp()[..., None]
    sums_BHLF = by_age_HLL @ torch.cat([by_item_BHL1 * x_BHLE, by_item_BHL1], -1)
    return sums_BHLF[..., :-1] / sums_BHLF[..., -1:]


class _Tower(nn.Module):
    """A hidden layer with GELU."""

    def __init__(self, width: int, inner: int, out: int, drop_prob: float) -> None:
        super().__init__()
        self.hidden, self.out, self.drop_prob = nn.Linear(width, inner), nn.Linear(inner, out), drop_prob

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(dropout(F.gelu(self.hidden(x)), self.drop_prob, self.training))
        return result


def _is_streaming(config: TwoTower.Config) -> bool:
    return config.frequencies == "streaming"


def _restrict(seen: SeenItems, items_C: Tensor) -> SeenItems:
    """Return the seen items among ``items_C``, which are sorted, as their index there."""
    index_T = torch.searchsorted(items_C, seen.items_T).clamp_max(len(items_C) - 1)
    among_T = items_C[index_T] == seen.items_T
    return SeenItems(index_T[among_T], seen.rows_T[among_T], seen.positions_T[among_T], seen.rows_M, seen.n_before_M)
