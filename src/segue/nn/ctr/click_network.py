"""Base class of click-through networks.

A click-through network predicts the probability that an example is positive. It learns from a table of labeled
examples, or from an interaction log: each event is a positive example, next to the same user and moment with sampled
items. As a recommender it scores items by the logit.

Shapes: B examples, N queries, C candidates, T pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from torch import Tensor

from segue.core.config import Choices, Search, Settings
from segue.core.examples.context_dropout import hide_context
from segue.core.examples.fields import Examples, Field
from segue.core.examples.interaction_pairs import InteractionPairs
from segue.core.examples.log_fields import NO_CATALOG, LogFields, log_fields, log_schema, positive_events, score_pairs
from segue.core.examples.stream import ExampleStream
from segue.core.network import Loss, Network
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.nn.ctr.candidate_scoring import CandidateScorer, DividedNetwork
from segue.nn.ctr.field_embeddings import INIT_STD, ExampleBatch, FieldEmbeddings
from segue.nn.ctr.layers import Tower
from segue.nn.ctr.listwise import codes_of, listwise_softmax, query_batches

__all__ = ["ClickNetwork", "ClickSettings", "TowerSettings"]

EXAMPLES_PER_BLOCK = 8_192
"""Examples that are predicted at a time."""

Input = Literal["item_features", "user_features", "context", "history"]


class ClickSettings(Settings):
    """Settings that all click-through networks have."""

    embedding_dim: Annotated[int, Gt(0), Choices((8, 16, 32))] = 16
    """Width of the embedding of a field."""
    embedding_l2: Annotated[float, Ge(0), Choices((0.0, 1e-6, 1e-5, 1e-4, 1e-3))] = 0.0
    """L2 regularization of the embeddings: half of it times the sum of their squares is added to the mean loss."""
    inputs: tuple[Input, ...] = ("item_features", "user_features", "context", "history")
    """Inputs of a log in addition to the ids of user and item, where the log has them; a table has its own columns."""
    max_history: Annotated[int, Ge(1)] = 50
    """Number of the newest events of a history that are read."""
    lazy_rows: Annotated[int, Ge(0)] = 100_000
    """Number of rows, of all fields together, from which a step updates only the embeddings and moments of the
    categories in its batch, with the optimizers ``adam``, ``adamw``, ``sgd`` and ``rmsprop``; L2 regularization and
    weight decay likewise. 0: always all embeddings."""
    num_negatives: Annotated[int, Gt(0)] = 4
    """Sampled items per event of a log, from those that the user has not interacted with."""
    context_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Fraction of the events of a log whose context is hidden in training, so that queries without context are ranked
    well."""
    objective: Literal["binary", "softmax"] = "binary"
    """``binary``: the logarithmic loss of each label; ``softmax``: the listwise loss, a softmax over the examples of a
    query: those of a user in a table, or an event of a log with its sampled items. Its scores are no logits of
    probabilities until they are calibrated."""


class TowerSettings(ClickSettings):
    """Settings of networks with fully connected layers."""

    hidden: tuple[Annotated[int, Gt(0)], ...] = (256, 128)
    """Widths of the fully connected layers."""
    dropout: Annotated[float, Ge(0), Lt(1), Search(0.0, 0.5)] = 0.1
    """Dropout after each of them."""
    batch_norm: bool = True
    """Whether they have batch normalization."""


class ClickNetwork(Network):
    """A network over the fields of examples."""

    builtin_loss = "binary cross-entropy of labels, or a softmax over the examples of a query"
    reads_examples = True
    settings_of_logs = ("inputs", "max_history", "num_negatives", "context_dropout")
    reads_query_context = True

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.is_of_log = not schema.fields
        self.fields: tuple[Field, ...] = schema.fields or log_fields(schema, "history" in config.inputs)
        if self.is_of_log:
            n_users, n_items = schema.n_users, schema.n_items
            for name, count, features in (
                ("user", n_users, schema.user_features),
                ("item", n_items, schema.item_features),
            ):
                width = sum(feature.size for feature in features)
                self.register_buffer(f"is_training_{name}", torch.zeros(count, dtype=torch.bool))
                self.register_buffer(f"{name}_features", torch.full((count, width), torch.nan))
        self._log_fields: LogFields | None = None
        self._scorer: CandidateScorer | None = None
        """What scores the catalog, for the weights since :meth:`finalize`."""

    @classmethod
    def schema_for(cls, config: Any, data: Dataset | Examples | ExampleStream) -> DataSchema:
        """Return the schema of a table or of a log.

        It holds the fields of a table, or the features and context of a log that the settings name.
        """
        if isinstance(data, Examples | ExampleStream):
            return DataSchema(0, 0, fields=data.fields)
        return log_schema(data, config.inputs)

    @abstractmethod
    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""

    def embeddings(
        self,
        dim: int | None = None,
        fields: Sequence[Field] | None = None,
        init_std: float = INIT_STD,
        unpooled: Sequence[Field] = (),
    ) -> FieldEmbeddings:
        """Create embeddings of the fields.

        Args:
            dim: default: ``embedding_dim``; 1 for a linear model.
            fields: default: all.
            init_std: standard deviation of initial values.
            unpooled: lists of categories that have embeddings but are not part of the output.
        """
        fields = self.fields if fields is None else fields
        config = self.config
        return FieldEmbeddings(fields, dim or config.embedding_dim, init_std, unpooled, config.lazy_rows)

    def tower(self, width: int, out: int | None = 1) -> Tower:
        """Create the fully connected layers of the settings."""
        config = self.config
        return Tower(width, config.hidden, config.dropout, config.batch_norm, out)

    def prepare(self, train: Dataset | Examples | ExampleStream) -> None:
        """Encode the features of a log."""
        if isinstance(train, Examples | ExampleStream):
            return
        tables = LogFields.of(train, self.schema, self.fields, self.config.max_history)
        for name in ("is_training_user", "is_training_item", "user_features", "item_features"):
            getattr(self, name).copy_(torch.from_numpy(np.array(getattr(tables, name))))
        self._log_fields = tables

    def batches(
        self, train: Dataset | Examples | ExampleStream, size: int, rng: np.random.Generator
    ) -> tuple[int, Iterator[Examples]]:
        """Return the number of batches of one epoch, and the batches in random order.

        A batch has ``size`` examples of a table, or ``size`` events of a log with their negatives; where the log has a
        target action, they are events with it. The last batch is never a single example, which batch normalization
        cannot normalize.
        """
        if isinstance(train, ExampleStream):
            return train.batches(size, rng)
        events = np.arange(len(train)) if isinstance(train, Examples) else positive_events(train)
        count = len(events)
        n_batches = max(1, count // size + (count % size > 1))
        if isinstance(train, Examples) and self.config.objective == "softmax":
            n_batches, queries = query_batches(train, size, rng)
            return n_batches, (train.take(part) for part in queries)
        order, stops = rng.permutation(count), [*range(size, n_batches * size, size), count]
        parts = (np.sort(part) for part in np.split(order, stops[:-1]))
        if isinstance(train, Examples):
            return n_batches, (train.take(part) for part in parts)
        pairs = InteractionPairs(train.histories, train.n_items)
        return n_batches, (self._examples_of_events(train, events[part], pairs, rng) for part in parts)

    def _examples_of_events(
        self, train: Dataset, events_M: NDArray[np.int64], pairs: InteractionPairs, rng: np.random.Generator
    ) -> Examples:
        """Return events of a log with sampled items.

        The ``users`` of the examples are the events."""
        count = self.config.num_negatives
        examples = self._tables.with_negatives(train, events_M, pairs, count, rng)
        if self.schema.event_context and self.config.context_dropout:
            is_hidden_M = rng.random(len(events_M)) < self.config.context_dropout
            examples = hide_context(examples, np.tile(is_hidden_M, count + 1))
        return replace(examples, users=np.tile(np.arange(len(events_M)), count + 1))

    @property
    def _tables(self) -> LogFields:
        """Features of users and items, as stored in the buffers."""
        if self._log_fields is None:
            stored = {
                name: getattr(self, name).numpy(force=True)
                for name in ("is_training_user", "is_training_item", "user_features", "item_features")
            }
            self._log_fields = LogFields(self.schema, self.fields, max_history=self.config.max_history, **stored)
        return self._log_fields

    def restore(self, arrays: Any) -> None:
        """See :meth:`segue.core.network.Network.restore`."""
        super().restore(arrays)
        self._log_fields = self._scorer = None

    def finalize(self) -> None:
        """Forget what was computed from earlier weights."""
        self._scorer = None

    def divided(self) -> DividedNetwork | None:
        """Return the network, divided into what depends on items, queries, and both.

        ``None``: its layers cannot be divided."""
        return None

    @torch.inference_mode()
    def candidate_scorer(self, items: Examples, n_numbers: int = 0) -> CandidateScorer | None:
        """Prepare fast scores of candidates, see :class:`CandidateScorer`.

        ``None``: the network has none.

        The weights must not change afterwards.
        """
        if self.training or self.device != "cpu":
            return None
        network = self.divided()
        if network is None or not CandidateScorer.fits(network, len(items)):
            return None
        return CandidateScorer(network, items, n_numbers)

    def objective(self, batch: Examples, loss: Loss) -> tuple[Tensor, int]:
        """Return the mean loss of the examples of a batch.

        It is the binary cross-entropy, or the listwise loss of the queries.

        The argument ``loss`` is not used.
        """
        tensors = ExampleBatch(batch, self.device)
        if self.config.objective == "softmax":
            assert batch.users is not None
            groups_B = torch.from_numpy(codes_of(batch.users)).to(self.device)
            assert tensors.labels_B is not None
            value = listwise_softmax(self.logits(tensors), tensors.labels_B, tensors.weights_B, groups_B)
        else:
            value = self.loss_of(tensors)
        if self.config.embedding_l2:
            squares = [one.sum_of_squares(tensors) for one in self.modules() if isinstance(one, FieldEmbeddings)]
            value = value + self.config.embedding_l2 / 2 * torch.stack(squares).sum()
        return value, len(batch)

    def loss_of(self, batch: ExampleBatch) -> Tensor:
        """Return the mean loss of the labels of a batch, without regularization."""
        assert batch.labels_B is not None
        return F.binary_cross_entropy_with_logits(self.logits(batch).float(), batch.labels_B, batch.weights_B)

    @torch.inference_mode()
    def predict_logits(self, examples: Examples) -> Scores:
        """Return the logits of examples, ``(T,)``."""
        logits_T = np.empty(len(examples), np.float32)
        for start in range(0, len(examples), EXAMPLES_PER_BLOCK):
            part = slice(start, start + EXAMPLES_PER_BLOCK)
            batch = ExampleBatch(examples.rows_between(part.start, part.stop), self.device)
            logits_T[part] = self.logits(batch).float().cpu().numpy()
        return logits_T

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the logits of items.

        Raises:
            ValueError: the model was trained on a table of examples.
        """
        if not self.is_of_log:
            raise ValueError(NO_CATALOG)
        tables, n_items = self._tables, self.schema.n_items
        if self._scorer is None and not self.training:
            self._scorer = self.candidate_scorer(tables.of_items())
        if self._scorer is None or self.training:
            return score_pairs(tables, queries, candidates, self.predict_logits, EXAMPLES_PER_BLOCK)
        if candidates is None:
            candidates = np.broadcast_to(np.arange(n_items, dtype=np.int32), (len(queries), n_items))
        scores_NC = np.empty(candidates.shape, np.float32)
        step = max(1, EXAMPLES_PER_BLOCK // max(1, candidates.shape[1]))
        for start in range(0, len(queries), step):
            part, chosen = queries.rows_between(start, start + step), candidates[start : start + step]
            rows = np.arange(len(part))
            examples = tables.of_pairs(part, rows, np.zeros(len(part), np.int32))
            logits_T = self._scorer.score(examples, rows.repeat(chosen.shape[1]), chosen.ravel())
            scores_NC[start : start + step] = logits_T.reshape(chosen.shape)
        return scores_NC
