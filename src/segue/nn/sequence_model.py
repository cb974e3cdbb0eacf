"""Base of all next-item models.

It has the item embeddings, training windows, the objective, and the scoring of queries.

Shapes: B sequences, L positions, D width, M positions with a target, I items, N queries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import torch
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from segue.core.batches import SequenceBatch, Sequences, Windows, query_batches, training_batches
from segue.core.config import Choices, Search, Settings, reject_unused
from segue.core.model import select_candidates
from segue.core.network import Loss, Network
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.nn import training_targets
from segue.nn.added_items import add_items
from segue.nn.inputs.input_encoder import InputEncoder, InputName

__all__ = ["SequenceModel", "SequenceSettings"]

QUERY_TOKENS = 16_384
"""Maximum number of positions, including padding, that are encoded at once in prediction."""


class SequenceSettings(Settings):
    """Settings of all next-item models."""

    embedding_dim: Annotated[int, Gt(0), Choices((32, 64, 128))] = 64
    """Width D of item embeddings and hidden states."""
    max_length: Annotated[int, Gt(0), Choices((50, 100, 200))] = 200
    """Maximum number of targets in a training window. In prediction, attention models read this many events; recurrent
    models read the whole history."""
    windows: Annotated[Literal["last", "all"], Choices(("last", "all"))] = "last"
    """``last``: one training window per user, the end of the history. ``all``: windows over the whole history, cut at a
    new random position in each epoch."""
    objective: Literal["next_item", "all_action", "cloze"] = "next_item"
    """Training objective: predict the next item at every position, or a random later one; or, for bidirectional
    encoders, masked items."""
    horizon: Annotated[int, Ge(0)] = 0
    """Maximum number of events ahead for ``all_action``; 0: to the end of the window."""
    mask_prob: Annotated[float, Gt(0), Lt(1), Search(0.1, 0.6)] = 0.2
    """Probability that ``cloze`` masks an event."""
    mask_last_prob: Annotated[float, Ge(0), Le(1)] = 0.1
    """Probability that ``cloze`` masks only the last event of a window."""
    mask_seen: Annotated[bool, Choices((False, True))] = False
    """Whether to exclude items the user has already seen from the negatives of the loss, as they are excluded from
    recommendations. Scores of seen items are then meaningless: not for logs with repeated consumption. A repeated
    target still counts."""
    dropout: Annotated[float, Ge(0), Lt(1), Search(0.0, 0.5)] = 0.2
    """Probability that an activation is dropped in training."""
    item_bias: bool = False
    """Whether each item has a learned bias."""
    inputs: tuple[InputName, ...] = ()
    """Inputs in addition to the items: the event inputs ``value``, ``action``, ``gap`` (time since the previous event),
    ``query_time`` (time from the newest event to the query), ``session_position``, ``hour``, ``weekday``, ``month`` and
    ``season`` (of the event, UTC), ``query_hour``, ``query_weekday``, ``query_month`` and ``query_season`` (of the
    query); ``item_features``, which are also used for scoring; ``user_features``."""
    session_gap: Annotated[float, Gt(0)] = 1800.0
    """Seconds without an event after which a session ends, for ``session_position``."""
    feature_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Probability in training that an input of a sequence is replaced by unknown, independently for each input, and
    that an item is represented by its features alone: so that the model learns to handle unknown inputs and new
    items."""

    @field_validator("inputs")
    @classmethod
    def _each_once(cls, inputs: tuple[InputName, ...]) -> tuple[InputName, ...]:
        if duplicates := [name for name in inputs if inputs.count(name) > 1]:
            raise ValueError(f"'{duplicates[0]}' is listed more than once")
        return inputs

    @model_validator(mode="after")
    def _check_sequence_settings(self) -> Self:
        is_cloze = self.objective == "cloze"
        reject_unused(
            self,
            {
                "horizon": (self.objective == "all_action", "objective='all_action'"),
                "mask_prob": (is_cloze, "objective='cloze'"),
                "mask_last_prob": (is_cloze, "objective='cloze'"),
                "session_gap": ("session_position" in self.inputs, "the input session_position"),
                "feature_dropout": (bool(self.inputs), "a model with inputs"),
            },
        )
        return self


class SequenceModel(Network):
    """A network that encodes a history and predicts an item at every target position.

    A subclass implements :meth:`encode_sequence`; scores are its output times the item vectors.
    """

    scale: ClassVar[Literal["logit", "score"]] = "logit"
    reads_full_history: ClassVar[bool]
    """Whether prediction reads the whole history, however long."""
    is_bidirectional: ClassVar[bool] = False
    """Whether the encoder can be bidirectional, which the objective ``cloze`` needs."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.is_cloze = config.objective == "cloze"
        if self.is_cloze and not self.is_bidirectional:
            raise ValueError(
                f"model.objective: 'cloze' needs a bidirectional encoder, and {type(self).__name__} is causal; "
                "expected next_item or all_action"
            )
        self.items = nn.Embedding(schema.n_items + 1 + self.is_cloze, config.embedding_dim)
        nn.init.xavier_normal_(self.items.weight)
        self.offsets = nn.Parameter(torch.zeros(schema.n_items)) if config.item_bias else None
        std = (2.0 / (len(self.items.weight) + config.embedding_dim)) ** 0.5  # that of the item embeddings
        self.inputs = InputEncoder(config, schema, std) if config.inputs else None

    @classmethod
    def schema_for(cls, config: Any, data: Dataset) -> DataSchema:
        """Return the schema of ``data`` with the features that ``config.inputs`` needs."""
        return InputEncoder.schema_for(config, data) if config.inputs else data.schema

    def prepare(self, train: Dataset) -> None:
        """Compute what the inputs need from the data; overriding methods call this."""
        if self.inputs is not None:
            self.inputs.prepare(train)

    @abstractmethod
    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """Compute hidden states ``(B, L, D)``, or ``(B, D)`` for the positions ``last_B``.

        For a ``SequenceBatch`` it may return ``(M, D)``, only the positions that have a target.

        Args:
            x_BLD: input vector of every position.
            batch: the same sequences as item codes, and their lengths; causal encoders need neither.
            last_B: int64 last valid position of each sequence, where only that is needed.
        """

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns read in addition to the items.

        They are among :data:`segue.core.batches.COLUMNS`. By default they are the columns of the inputs; a subclass
        whose encoder reads other columns adds them.
        """
        return () if self.inputs is None else self.inputs.columns

    def embed(self, batch: Sequences) -> Tensor:
        """Return the input vector of every position, ``(B, L, D)``.

        It is the sum of the item vector and all inputs.
        """
        if self.inputs is not None:
            return self.inputs.embed(batch, self.items)
        embedded: Tensor = self.items(batch.items_BL)
        return embedded

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[SequenceBatch]]:
        """Return the number of batches of one epoch and the batches.

        Batches consist of windows in random order.
        """
        config = self.config
        return training_batches(
            train.histories,
            self.schema.n_items,
            config.max_length,
            size,
            rng,
            self._make_targets,
            all_windows=config.windows == "all",
            pool=16,
            columns=self.columns,
            seen=config.mask_seen,
        )

    def _make_targets(self, windows: Windows, rng: np.random.Generator) -> SequenceBatch:
        config = self.config
        if self.is_cloze:
            return training_targets.cloze(windows, rng, config.mask_prob, config.mask_last_prob)
        if config.objective == "all_action":
            return training_targets.all_action(windows, rng, config.horizon)
        return training_targets.next_item(windows, rng)

    def objective(self, batch: SequenceBatch, loss: Loss) -> tuple[Tensor, int]:
        """Return the mean loss over the positions that have a target, and their number."""
        batch = batch.to(self.device)
        hidden = self.encode_sequence(self.embed(batch), batch)
        hidden_MD = hidden if hidden.dim() == 2 else hidden.reshape(-1, hidden.shape[-1])[batch.positions_M]
        bias_I = self.offsets if self.inputs is None else self.inputs.training_bias(self.offsets)
        return loss(hidden_MD, self.item_vectors(), bias_I, batch.targets_M, batch.seen), len(batch.targets_M)

    def item_vectors(self) -> Tensor:
        """Return the vectors that score items, ``(I, D)``.

        The dot product of an item vector with a hidden state is a logit.
        """
        embeddings_ID = self.items.weight[: self.schema.n_items]
        return embeddings_ID if self.inputs is None else self.inputs.item_vectors(embeddings_ID)

    @torch.inference_mode()
    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the hidden state after each query's history, ``(N, D)``."""
        training = self.training
        self.eval()
        result = np.empty((len(queries), self.config.embedding_dim), np.float32)
        length = None if self.reads_full_history else self.config.max_length
        parts = query_batches(
            queries, self.schema.n_items, length, QUERY_TOKENS, append_mask=self.is_cloze, columns=self.columns
        )
        user_features = None if self.inputs is None else self.inputs.users
        profile_NJ = None if user_features is None else user_features.rows(queries)
        for rows, batch in parts:
            if profile_NJ is not None:
                batch = replace(batch, profile_BJ=profile_NJ[torch.from_numpy(rows)])
            moved = batch.to(self.device)
            result[rows] = self.encode_sequence(self.embed(moved), moved, moved.lengths_B - 1).float().cpu().numpy()
        self.train(training)
        return result

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the item vectors, ``(I, D)``."""
        training = self.training
        self.eval()
        vectors_ID: NDArray[np.float32] = self.item_vectors().detach().float().cpu().numpy()
        self.train(training)
        return vectors_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the biases of items, ``(I,)``, with the bonus of new items."""
        bias_I = torch.zeros(self.schema.n_items, device=self.device) if self.offsets is None else self.offsets.detach()
        bias_I = bias_I if self.inputs is None else self.inputs.prediction_bias(bias_I)
        return bias_I.float().cpu().numpy()

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return logits of the next item."""
        scores_NI = self.encode(queries) @ self.vectors.T + self.bias
        return select_candidates(scores_NI, candidates)

    @property
    def can_add_items(self) -> bool:
        """See :class:`segue.core.model.Extensible`."""
        return self.inputs is not None and self.inputs.items is not None

    def with_items(self, codes: Codes, table: pl.DataFrame) -> Self:
        """See :meth:`segue.core.model.Extensible.with_items`."""
        extended, rows_NJ = add_items(self, None if self.inputs is None else self.inputs.items, codes, table)
        assert extended.inputs is not None
        assert extended.inputs.items is not None
        extended.inputs.items.rows_IJ[torch.from_numpy(codes.astype(np.int64))] = rows_NJ
        return extended

    def similar(self, items: Codes) -> Scores:
        """Return the cosine similarity of item vectors."""
        unit_ID = self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-12)
        similarity: Scores = unit_ID[items] @ unit_ID.T
        return similarity
