"""Meta-learned networks that adapt to each user: MAML with the layers of MeLU.

Finn et al. 2017, arXiv:1703.03400; MeLU: Lee et al. 2019, arXiv:1908.00413.

An item is the sum of vectors of its id and features, and a user the sum of vectors of their features. The decision
layers, an MLP over both, predict a value. For each user, a few gradient steps on their events, the support, adapt a
copy of the decision layers (inner loop):

    w_u <- w_u - inner_learning_rate * grad L(w_u; support of u)

Training minimizes the loss of the adapted layers on other events of the same users, through the gradient steps (outer
loop); embeddings are trained by the outer loop alone. With ``learn_rates`` it also learns the rates, one per step and
tensor (Meta-SGD: Li et al. 2017, arXiv:1707.09835; MAML++: Antoniou et al. 2019, arXiv:1810.09502).

Users have no vectors of their own ids: the adapted layers take their place, so that training users and new users are
treated equally. A query without usable events gets the layers before adaptation, or, for known users, those adapted to
their newest training events.

With explicit feedback, the loss is the squared error of standardized values. With implicit feedback, it is the binary
cross-entropy between items of the user and sampled others; the inner loop uses the same other items for all users, so
that scores are deterministic. Both loops compute in float32, also if the training precision is lower.

Shapes: N queries, I items, U users, C candidates, B users of a batch, S support events, Q query events of a task with
their negatives, R reference items, T stored events, E width of vectors, J columns of features, K inner steps, W tensors
of the decision layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from segue.core.config import Settings, reject_unused
from segue.core.examples.interaction_pairs import InteractionPairs
from segue.core.features import encode_features, infer_features
from segue.core.model import StateArrays
from segue.core.model_arrays import check_range, load_array
from segue.core.network import Loss, Network
from segue.core.ratings import collect_ratings, rated_events
from segue.core.types import Codes, DataSchema, Dataset, Events, Queries, Scores
from segue.nn.adapted_layers import DecisionLayers, FastWeights, PaddedEvents, RecentFastWeights
from segue.nn.inputs.feature_embeddings import FeatureEmbeddings, UserFeatureEmbeddings

__all__ = ["MAML"]

CELLS = 1 << 22
"""Maximum number of activations of a layer in prediction (16 MiB)."""

ADAPTED_USERS = 256
"""Users whose layers are adapted at once in prediction."""

CACHED_QUERIES = 16
"""Number of queries up to which adapted layers are cached, as users of a service come back; evaluation has more."""

SORTED_BATCHES = 8
"""Batches whose users are sorted by their number of events, so that little is padded."""

REFERENCE_ITEMS = 64
"""Items that the inner loop contrasts with the items of a user, for implicit feedback."""

STD = 0.1
"""Standard deviation of the initial vectors."""


@dataclass(frozen=True, eq=False)
class _Examples:
    """Items with targets for each user; the loss is the weighted sum."""

    items_BS: Tensor
    targets_BS: Tensor
    weights_BS: Tensor


@dataclass(frozen=True, eq=False)
class _Batch:
    """The tasks of some users."""

    users_B: NDArray[np.int64]
    support: PaddedEvents
    query: PaddedEvents
    negatives_BQ: NDArray[np.int64] | None = None
    """Sampled items, for implicit feedback."""
    is_negative_BQ: NDArray[np.bool_] | None = None
    """Whether a sampled item counts: it is none of the user's, and its event is not padding."""


class MAML(Network):
    """Predict by an MLP whose weights are adapted to each user by gradient steps."""

    builtin_loss = "squared error, or binary cross-entropy for implicit feedback"

    class Config(Settings):
        """Settings of ``maml``."""

        feedback: Literal["implicit", "explicit"] = "implicit"
        """Learn which items the user interacts with, or the values of the events."""
        inputs: tuple[Literal["item_features", "user_features"], ...] = ("item_features", "user_features")
        """Features in addition to the ids of items; those that the data lacks are left out."""
        embedding_dim: Annotated[int, Gt(0)] = 32
        """Width of the vectors of users and items."""
        hidden_dim: Annotated[int, Gt(0)] = 64
        """Width of the hidden layers."""
        num_layers: Annotated[int, Gt(0)] = 2
        """Number of hidden layers; all are adapted."""
        inner_steps: Annotated[int, Ge(0)] = 3
        """Gradient steps per user; 0: no adaptation, the same network for all users."""
        inner_learning_rate: Annotated[float, Gt(0)] = 0.3
        """Learning rate of these steps."""
        learn_rates: bool = True
        """Learn the rate of each step and tensor in the outer loop, starting from ``inner_learning_rate``."""
        first_order: bool = False
        """Ignore second derivatives in the outer loop: faster, and an approximation."""
        support_size: Annotated[int, Gt(0)] = 100
        """Maximum number of events that the layers are adapted to, the newest ones."""
        support_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Probability in training that a user has no support, which trains the layers before adaptation."""
        query_size: Annotated[int, Gt(0)] = 10
        """Maximum number of events per user and epoch in the outer loop, drawn at random; at most half of them."""
        num_negatives: Annotated[int, Gt(0)] = 4
        """For implicit feedback: sampled items per event in the outer loop."""
        id_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Probability in training that an item is represented by its features alone, as items without training events
        are."""
        feature_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Probability in training that the features of a user are replaced by unknown."""
        clip_predictions: bool = False
        """For explicit feedback: clip predictions to the range of the training values."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            adapts = self.inner_steps > 0, "inner_steps above 0"
            names = ("inner_learning_rate", "learn_rates", "first_order", "support_size", "support_dropout")
            reject_unused(
                self,
                {
                    **dict.fromkeys(names, adapts),
                    "num_negatives": (self.feedback == "implicit", "feedback='implicit'"),
                    "clip_predictions": (self.feedback == "explicit", "feedback='explicit'"),
                    "feature_dropout": ("user_features" in self.inputs, "the input user_features"),
                },
            )
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        width, n_items, n_users = config.embedding_dim, schema.n_items, schema.n_users
        # the last row is the vector of items without training events
        self.items_IE = nn.Parameter(torch.randn(n_items + 1, width).mul_(STD))
        self.item_features = FeatureEmbeddings(schema.item_features, width, STD) if schema.item_features else None
        self.users = UserFeatureEmbeddings(schema.user_features, n_users, width, STD) if schema.user_features else None
        self.decision = DecisionLayers(width if self.users else 0, width, config.hidden_dim, config.num_layers)
        self.recent = RecentFastWeights(self.decision)
        # one axis, because weight decay applies to matrices
        n_rates = config.inner_steps * len(self.decision.tensor_names)
        rates = torch.full((n_rates,), float(np.log(config.inner_learning_rate)))
        self.log_rates = nn.Parameter(rates, requires_grad=config.learn_rates)
        self.item_rows_IJ: Tensor
        self.is_training_item_I: Tensor
        self.references_R: Tensor
        self.value_moments_2: Tensor
        self.value_range_2: Tensor
        self.support_items_T: Tensor
        self.support_values_T: Tensor
        self.support_offsets: Tensor
        n_columns = sum(feature.size for feature in schema.item_features)
        n_references = min(max(1, n_items - schema.n_without_events), REFERENCE_ITEMS)  # equal if items are added
        self.register_buffer("item_rows_IJ", torch.full((n_items, n_columns), torch.nan))
        self.register_buffer("is_training_item_I", torch.ones(n_items, dtype=torch.bool))
        self.register_buffer("references_R", torch.zeros(n_references, dtype=torch.int64))
        self.register_buffer("value_moments_2", torch.tensor([0.0, 1.0]))  # mean and standard deviation
        self.register_buffer("value_range_2", torch.zeros(2))
        # the newest events of all users, which predictions for known users need
        self.register_buffer("support_items_T", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("support_values_T", torch.zeros(0))
        self.register_buffer("support_offsets", torch.zeros(n_users + 1, dtype=torch.int64))

    @classmethod
    def schema_for(cls, config: Any, data: Dataset) -> DataSchema:
        """Return the schema of ``data`` with those features of ``config.inputs`` it has."""
        tables: dict[str, Any] = {name: infer_features(getattr(data, name))[0] for name in config.inputs}
        return replace(data.schema, **tables)

    def prepare(self, train: Dataset) -> None:
        """Encode features, standardize values, and store the newest events of all users.

        Raises:
            ValueError: feedback is explicit, and no event has a value.
        """
        events = self._usable(train.histories)
        if self.predicts_ratings:
            values = collect_ratings(train, "maml with feedback='explicit'").values.astype(np.float64)
            scale = float(values.std()) or 1.0
            self.value_moments_2.copy_(torch.tensor([float(values.mean()), scale]))
            self.value_range_2.copy_(torch.tensor([float(values.min()), float(values.max())]))
        self.is_training_item_I.copy_(torch.from_numpy(np.bincount(events.items, minlength=train.n_items) > 0))
        if self.item_features is not None:
            assert train.item_features is not None
            rows_IJ = encode_features(self.schema.item_features, train.item_features.collect())
            self.item_rows_IJ.copy_(torch.from_numpy(rows_IJ))
        if self.users is not None:
            self.users.prepare(train)
        self.references_R.copy_(torch.randperm(train.n_items)[: len(self.references_R)])
        support = events.last(self.config.support_size)
        values_T = np.zeros(support.size, np.float32) if support.values is None else support.values
        self.support_items_T = torch.tensor(support.items, device=self.device)
        self.support_values_T = torch.tensor(values_T, device=self.device)
        self.support_offsets.copy_(torch.tensor(support.offsets))

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.network.Network.restore`.

        Raises:
            ValueError: also if the stored events are malformed.
        """
        items_T = load_array(arrays, "support_items_T", (None,), np.int32)
        values_T = load_array(arrays, "support_values_T", (len(items_T),), np.float32)
        offsets = load_array(arrays, "support_offsets", (self.schema.n_users + 1,), np.int64)
        if offsets[0] != 0 or offsets[-1] != len(items_T) or (np.diff(offsets) < 0).any():
            raise ValueError(f"array 'support_offsets' in the saved model: must increase from 0 to {len(items_T)}")
        check_range("support_items_T", items_T, self.schema.n_items)
        references_R = load_array(arrays, "references_R", (len(self.references_R),), np.int64)
        check_range("references_R", references_R, self.schema.n_items)
        self.support_items_T = torch.tensor(items_T, device=self.device)
        self.support_values_T = torch.tensor(values_T, device=self.device)
        super().restore(arrays)

    @property
    def can_add_items(self) -> bool:
        """See :class:`segue.core.model.Extensible`."""
        return self.item_features is not None

    def with_items(self, codes: Codes, table: pl.DataFrame) -> Self:
        """See :meth:`segue.core.model.Extensible.with_items`."""
        if self.item_features is None:
            raise ValueError("maml: reads no item features, so that items cannot be added")
        size, n_without = self.schema.n_items, self.schema.n_without_events
        n_added = int((codes >= size).sum())
        schema = replace(self.schema, n_items=size + n_added, n_without_events=n_without + n_added)
        arrays = dict(self.arrays())
        for name in ("items_IE", "item_rows_IJ", "is_training_item_I"):
            added = np.zeros((n_added, *arrays[name].shape[1:]), arrays[name].dtype)
            arrays[name] = np.concatenate([arrays[name][:size], added, arrays[name][size:]])
        arrays["item_rows_IJ"][codes] = encode_features(schema.item_features, table)
        with torch.random.fork_rng(devices=[]):
            extended = type(self)(self.config, schema)
        extended.restore(arrays)
        return extended.to(self.device)

    def _usable(self, events: Events) -> Events:
        """Return the events to learn from: those with a value, if feedback is explicit."""
        return rated_events(events) if self.predicts_ratings else events

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Batch]]:
        """Return the number of batches, and batches of users with about as many events.

        The events of a user are divided at random into query and support.
        """
        events = self._usable(train.histories)
        pairs = None if self.predicts_ratings else InteractionPairs(events, train.n_items)
        users = rng.permutation(np.flatnonzero(events.lengths))
        blocks = np.split(users, np.arange(size * SORTED_BATCHES, len(users), size * SORTED_BATCHES))
        users = np.concatenate([block[np.argsort(events.lengths[block], kind="stable")] for block in blocks])
        parts = np.array_split(users, -(-len(users) // size))
        order = rng.permutation(len(parts))
        return len(parts), (self._batch(np.sort(parts[number]), events, pairs, rng) for number in order)

    def _batch(
        self, users_B: NDArray[np.int64], events: Events, pairs: InteractionPairs | None, rng: np.random.Generator
    ) -> _Batch:
        part = events.take(users_B)
        rows, lengths = part.rows, part.lengths
        shuffled = part.select(np.lexsort((rng.random(part.size), rows)), part.offsets)
        n_query = np.minimum(self.config.query_size, (lengths + 1) // 2)
        has_support = rng.random(len(users_B)) >= self.config.support_dropout
        stop = np.where(has_support, np.minimum(lengths, n_query + self.config.support_size), n_query)
        query = PaddedEvents.of(shuffled.slice_rows(np.zeros_like(n_query), n_query))
        batch = _Batch(users_B, PaddedEvents.of(shuffled.slice_rows(n_query, stop)), query)
        if pairs is None:
            return batch
        count = self.config.num_negatives
        negatives, is_seen = pairs.sample_unseen(users_B, count * query.items_BS.shape[1], rng)
        return replace(batch, negatives_BQ=negatives, is_negative_BQ=~is_seen & np.tile(query.mask, count))

    def objective(self, batch: _Batch, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of the adapted layers on the query events, and their number.

        With implicit feedback, the losses of an event's negatives are added. The argument ``loss`` is not used.
        """
        with torch.autocast(torch.device(self.device).type, enabled=False):  # the inner loop needs float32
            users_BE = self._training_users(torch.from_numpy(batch.users_B).to(self.device))
            fast = self.adapt(users_BE, self._support_examples(batch.support))
            query, n_events = batch.query, int(batch.query.lengths_B.sum())
            items_BQ, targets_BQ = query.items_BS, self._standardize(query.values_BS)
            weights_BQ = query.mask.astype(np.float32)
            if batch.negatives_BQ is not None and batch.is_negative_BQ is not None:
                items_BQ = np.concatenate([items_BQ, batch.negatives_BQ], axis=1)
                targets_BQ = np.concatenate([np.ones_like(targets_BQ), np.zeros_like(batch.negatives_BQ)], axis=1)
                weights_BQ = np.concatenate([weights_BQ, batch.is_negative_BQ], axis=1)
            items, targets, weights = self._tensors(items_BQ, targets_BQ, weights_BQ / n_events)
            outputs_BQ = self.decision.outputs(fast, users_BE, self.item_vectors(items))
            return self._loss(outputs_BQ, targets, weights), n_events

    def _training_users(self, users_B: Tensor) -> Tensor:
        if self.users is None:
            return torch.zeros(len(users_B), 0, device=self.device)
        rows_BJ = self.users.rows_UJ[users_B]
        is_unknown_B = torch.rand(len(rows_BJ), device=rows_BJ.device) < self.config.feature_dropout
        vectors_BE: Tensor = self.users.vectors(rows_BJ.masked_fill(is_unknown_B[:, None], torch.nan))
        return vectors_BE

    def item_vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors of items, ``(..., E)``; in training, some without their ids."""
        has_id = self.is_training_item_I[codes]
        if self.training and self.config.id_dropout:
            has_id = has_id & (torch.rand(codes.shape, device=codes.device) >= self.config.id_dropout)
        vectors = F.embedding(torch.where(has_id, codes, self.schema.n_items), self.items_IE)
        if self.item_features is not None:
            features: Tensor = self.item_features(self.item_rows_IJ[codes.flatten()])
            vectors = vectors + features.view_as(vectors)
        return vectors

    def _standardize(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        mean, scale = self.value_moments_2.tolist()
        return ((values - np.float32(mean)) / np.float32(scale)).astype(np.float32)

    def _tensors(self, items: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any]) -> tuple[Tensor, ...]:
        arrays = items.astype(np.int64), targets.astype(np.float32), weights.astype(np.float32)
        return tuple(torch.from_numpy(array).to(self.device) for array in arrays)

    def _support_examples(self, support: PaddedEvents) -> _Examples:
        """Return the examples of the inner loop; a user without support has no weights."""
        mask_BS, counts_B1 = support.mask, np.maximum(support.lengths_B, 1)[:, None]
        if self.predicts_ratings:
            return _Examples(
                *self._tensors(support.items_BS, self._standardize(support.values_BS), mask_BS / counts_B1)
            )
        references_R = self.references_R.numpy(force=True)
        is_own_BR = np.zeros((len(mask_BS), len(references_R)), np.bool_)
        for items_B, mask_B in zip(support.items_BS.T, mask_BS.T, strict=True):
            is_own_BR |= (items_B[:, None] == references_R) & mask_B[:, None]
        negatives_BR = (~is_own_BR / np.maximum((~is_own_BR).sum(axis=1), 1)[:, None]) * mask_BS[:, :1]
        items_BX = np.concatenate([support.items_BS, np.broadcast_to(references_R, is_own_BR.shape)], axis=1)
        targets_BX = np.concatenate([np.ones(mask_BS.shape), np.zeros(is_own_BR.shape)], axis=1)
        weights_BX = np.concatenate([mask_BS / counts_B1, negatives_BR], axis=1) / 2
        return _Examples(*self._tensors(items_BX, targets_BX, weights_BX))

    def adapt(self, users_BE: Tensor, support: _Examples) -> FastWeights:
        """Return the fast weights of each user after the inner loop; differentiable."""
        return self.decision.adapt(
            self.rates,
            users_BE,
            self.item_vectors(support.items_BS),
            support.targets_BS,
            support.weights_BS,
            self._loss,
            self.config.first_order,
        )

    @property
    def rates(self) -> Tensor:
        """Return the learning rate of each inner step and tensor, ``(K, W)``."""
        return self.log_rates.exp().view(self.config.inner_steps, len(self.decision.tensor_names))

    def _loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        if self.predicts_ratings:
            return ((outputs - targets).square() * weights).sum()
        return ((F.softplus(outputs) - outputs * targets) * weights).sum()

    @property
    def predicts_ratings(self) -> bool:
        """Return whether feedback is explicit."""
        return bool(self.config.feedback == "explicit")

    def train(self, mode: bool = True) -> Self:
        """Set the mode; cached weights are computed anew, as the layers may have changed."""
        self.recent.clear()
        return super().train(mode)

    @torch.no_grad()
    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Adapt to each history and score: predicted values, or logits if implicit."""
        support = self._support(queries)
        profiles_NJ = None if self.users is None else self.users.rows(queries)
        count = self.schema.n_items if candidates is None else candidates.shape[1]
        scores_NC = np.empty((len(queries), count), np.float32)
        all_items_IE = None
        if candidates is None and len(queries):
            all_items_IE = self.item_vectors(torch.arange(count, device=self.device))
        rows = max(1, CELLS // max(1, count * self.config.hidden_dim))
        for first in range(0, len(queries), ADAPTED_USERS):
            block = slice(first, first + ADAPTED_USERS)
            users_BE, fast = self._adapted(support, profiles_NJ, np.arange(len(queries))[block])
            for start in range(0, len(users_BE), rows):
                at, into = slice(start, start + rows), slice(first + start, min(first + start + rows, block.stop))
                items = all_items_IE
                if items is None:
                    assert candidates is not None
                    items = self.item_vectors(torch.from_numpy(candidates[into].astype(np.int64)).to(self.device))
                part = {name: weight[at] for name, weight in fast.items()}
                scores_NC[into] = self.decision.outputs(part, users_BE[at], items).cpu().numpy()
        return self._to_values(scores_NC)

    def _support(self, queries: Queries) -> PaddedEvents:
        """Return each query's newest usable events, or the training events of its user."""
        events = self._usable(queries.history).last(self.config.support_size)
        found = PaddedEvents.of(events)
        stored = np.flatnonzero(queries.known & (events.lengths == 0))
        if not len(stored):
            return found
        arrays = (getattr(self, f"support_{name}").numpy(force=True) for name in ("offsets", "items_T", "values_T"))
        offsets, items_T, values_T = arrays
        own = PaddedEvents.of(Events(offsets, items_T, values=values_T).take(queries.users[stored]))
        width = own.items_BS.shape[1]
        extra = ((0, 0), (0, max(0, width - found.items_BS.shape[1])))
        found = PaddedEvents(np.pad(found.items_BS, extra), np.pad(found.values_BS, extra), np.array(found.lengths_B))
        found.items_BS[stored, :width], found.values_BS[stored, :width] = own.items_BS, own.values_BS
        found.lengths_B[stored] = own.lengths_B
        return found

    def _adapted(
        self, support: PaddedEvents, profiles_NJ: Tensor | None, rows: NDArray[np.int64]
    ) -> tuple[Tensor, FastWeights]:
        """Return the user vectors ``(B, E)`` and the fast weights of some rows."""
        profiles_BJ = None if profiles_NJ is None else profiles_NJ[torch.from_numpy(rows)]
        users_BE = torch.zeros(len(rows), 0, device=self.device)
        if self.users is not None and profiles_BJ is not None:
            users_BE = self.users.vectors(profiles_BJ.to(self.device))

        def adapt(at: NDArray[np.int64]) -> FastWeights:
            return self.adapt(users_BE[torch.from_numpy(at)], self._support_examples(support.take(rows[at])))

        if self.training or len(support) > CACHED_QUERIES or not len(rows):
            return users_BE, adapt(np.arange(len(rows)))
        keys = [support.key(row) + (b"" if profiles_NJ is None else profiles_NJ[row].numpy().tobytes()) for row in rows]
        return users_BE, self.recent.get(keys, lambda at: adapt(np.array(at, np.int64)))

    def _to_values(self, outputs: Scores) -> Scores:
        mean, scale = self.value_moments_2.tolist()
        values: Scores = outputs * np.float32(scale) + np.float32(mean)
        return values

    @torch.no_grad()
    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`.

        Raises:
            ValueError: feedback is implicit.
        """
        if not self.predicts_ratings:
            raise ValueError("maml.feedback: got 'implicit', expected 'explicit' to predict values")
        distinct, rows, counts = np.unique(users, return_inverse=True, return_counts=True)
        order = np.argsort(rows, kind="stable")
        pairs = Events(np.concatenate([[0], np.cumsum(counts)]), items[order])
        scores = np.empty(len(users), np.float32)
        by_count = np.argsort(counts, kind="stable")  # so that little is padded
        queries = Queries.of_users(distinct.astype(np.int32), Events.of([[]] * len(distinct)))
        first = 0
        while first < len(distinct):
            longest = counts[by_count[first:]] * self.config.hidden_dim
            fits = np.arange(1, len(longest) + 1) * longest <= CELLS
            at = by_count[first : first + min(ADAPTED_USERS, max(1, int(fits.sum())))]
            padded = PaddedEvents.of(pairs.take(at))
            found = self.score(queries.take(at), padded.items_BS.astype(np.int32))
            cells = np.concatenate([np.arange(pairs.offsets[row], pairs.offsets[row + 1]) for row in at])
            scores[order[cells]] = found[padded.mask]
            first += len(at)
        return self.clip_predictions(scores)

    def clip_predictions(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.clip_predictions`."""
        low, high = self.value_range_2.tolist()
        return np.clip(scores, low, high) if self.config.clip_predictions else scores
