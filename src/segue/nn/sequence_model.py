"""What every next-item model shares: item vectors in and out, windows, the objective at every position, answering.

Shapes: B sequences, L positions, D width, M positions with a target, I items, N queries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from pydantic import field_validator
from torch import Tensor, nn

from segue.core.batches import SequenceBatch, Sequences, Windows, query_batches, training_batches
from segue.core.config import Settings
from segue.core.model import pick_candidates
from segue.core.network import Loss, Network
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.nn import training_targets
from segue.nn.inputs.input_encoder import Input, Inputs

__all__ = ["SequenceModel", "SequenceSettings"]

QUERY_TOKENS = 16_384
"""Positions, padding included, that are encoded at once when answering."""


class SequenceSettings(Settings):
    """Settings that every next-item model has."""

    width: Annotated[int, Gt(0)] = 64
    """Width of item vectors and hidden states, D."""
    max_length: Annotated[int, Gt(0)] = 200
    """Targets in a training window; attention also reads no more than this when it answers."""
    windows: Literal["newest", "all"] = "newest"
    """``newest``: one window per user, the end of the history. ``all``: windows over the whole history, cut anew at a
    random place in each epoch."""
    objective: Literal["next_item", "all_following", "cloze"] = "next_item"
    """What is asked in training: at every position the next item, or one of all that follow; or, of an encoder that
    reads both ways, items that are hidden."""
    horizon: Annotated[int, Ge(0)] = 0
    """Events ahead that ``all_following`` may ask for; 0: all in the window."""
    hidden_share: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the events of a window that ``cloze`` hides."""
    last_share: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of the windows in which ``cloze`` hides the last event alone."""
    mask_seen: bool = False
    """Whether the items that a user already had are left out of the wrong answers of the loss, as they are left out of
    recommendations: nothing has to be learned to keep them down. The scores of such items then mean nothing: not for
    logs in which people come back to items. A target that comes again counts."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share of activations dropped while training."""
    item_bias: bool = False
    """Whether each item has a learned offset beside its vector."""
    inputs: tuple[Input, ...] = ()
    """What is read beside the items: of events ``value``, ``action``, ``gap`` (time since the event before),
    ``query_time`` (time from the newest event to the moment of asking) and ``session_position``; ``item_features``,
    which also score; ``user_features``."""
    session_gap: Annotated[float, Gt(0)] = 1800.0
    """Seconds without an event after which a session ends, for ``session_position``."""
    unknown_share: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the training sequences in which an input is taken as not known, each input by itself, and of the items
    whose features stand alone: so that what to make of the unknown is learned."""

    @field_validator("inputs")
    @classmethod
    def _each_once(cls, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
        if twice := [name for name in inputs if inputs.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is named more than once")
        return inputs


class SequenceModel(Network):
    """A network that reads a history and predicts an item at every position that is asked about.

    A subclass gives :meth:`hidden`; the scores are its output times the item vectors.
    """

    scale: ClassVar[Literal["logit", "score"]] = "logit"
    recurrent: ClassVar[bool]
    """Whether the whole history is read when answering, however long."""
    both_ways: ClassVar[bool] = False
    """Whether the encoder can read in both directions, as the objective ``cloze`` needs."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.cloze = config.objective == "cloze"
        if self.cloze and not self.both_ways:
            raise ValueError(
                f"model.objective: 'cloze' needs an encoder that reads in both directions, and {type(self).__name__} "
                "reads from the first event to the last; expected next_item or all_following"
            )
        self.items = nn.Embedding(domain.n_items + 1 + self.cloze, config.width)
        nn.init.xavier_normal_(self.items.weight)
        self.offsets = nn.Parameter(torch.zeros(domain.n_items)) if config.item_bias else None
        std = (2.0 / (len(self.items.weight) + config.width)) ** 0.5  # of item vectors
        self.inputs = Inputs(config, domain, std) if config.inputs else None

    @classmethod
    def domain_of(cls, config: Any, data: Dataset) -> Domain:
        """With the features that ``config.inputs`` asks for."""
        return Inputs.domain_of(config, data) if config.inputs else data.domain

    def prepare(self, train: Dataset) -> None:
        """Take from the data what the inputs are made of; a subclass that looks at the data does this first."""
        if self.inputs is not None:
            self.inputs.prepare(train)

    @abstractmethod
    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """Hidden states ``(B, L, D)`` of every position, or ``(B, D)`` of the positions ``last`` alone.

        Of a ``SequenceBatch`` it may give ``(M, D)``, the positions that have a target, and spare the others.

        Args:
            x_BLD: what stands at each position, as a vector.
            read: the same as codes, and the lengths; a causal encoder needs neither.
            last_B: int64 the last position in use of each sequence, when nothing else is asked for.
        """

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of events, of :data:`segue.core.batches.COLUMNS`, that are read beside the items.

        Those of the inputs; a subclass whose encoder reads some itself adds them to these.
        """
        return () if self.inputs is None else self.inputs.columns

    def embed(self, read: Sequences) -> Tensor:
        """``(B, L, D)`` what stands at each position: the item and all inputs."""
        if self.inputs is not None:
            return self.inputs.embed(read, self.items)
        embedded: Tensor = self.items(read.items_BL)
        return embedded

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[SequenceBatch]]:
        """One epoch of windows in random order, and how many batches they make."""
        config = self.config
        return training_batches(
            train.histories,
            self.domain.n_items,
            config.max_length,
            size,
            rng,
            self._asked,
            cover=config.windows == "all",
            pool=16,
            columns=self.columns,
            seen=config.mask_seen,
        )

    def _asked(self, windows: Windows, rng: np.random.Generator) -> SequenceBatch:
        config = self.config
        if self.cloze:
            return training_targets.cloze(windows, rng, config.hidden_share, config.last_share)
        if config.objective == "all_following":
            return training_targets.all_following(windows, rng, config.horizon)
        return training_targets.next_item(windows, rng)

    def objective(self, batch: SequenceBatch, loss: Loss) -> tuple[Tensor, int]:
        """The loss at every position that has a target."""
        batch = batch.to(self.device)
        hidden = self.hidden(self.embed(batch), batch)
        hidden_MD = hidden if hidden.dim() == 2 else hidden.reshape(-1, hidden.shape[-1])[batch.positions_M]
        offsets_I = self.offsets if self.inputs is None else self.inputs.asked_of(self.offsets)
        return loss(hidden_MD, self.vectors_ID(), offsets_I, batch.targets_M, batch.seen), len(batch.targets_M)

    def vectors_ID(self) -> Tensor:  # noqa: N802
        """``(n_items, D)`` the vectors that hidden states are multiplied with."""
        own_ID = self.items.weight[: self.domain.n_items]
        return own_ID if self.inputs is None else self.inputs.catalogue(own_ID)

    @torch.inference_mode()
    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """``(N, D)`` the hidden state after each query's history."""
        training = self.training
        self.eval()
        result = np.empty((len(queries), self.config.width), np.float32)
        length = None if self.recurrent else self.config.max_length
        parts = query_batches(
            queries, self.domain.n_items, length, QUERY_TOKENS, hidden=self.cloze, columns=self.columns
        )
        of_users = None if self.inputs is None else self.inputs.users
        profile_NJ = None if of_users is None else of_users.rows(queries)
        for rows, cpu in parts:
            told = cpu if profile_NJ is None else replace(cpu, profile_BJ=profile_NJ[torch.from_numpy(rows)])
            read = told.to(self.device)
            result[rows] = self.hidden(self.embed(read), read, read.lengths_B - 1).float().cpu().numpy()
        self.train(training)
        return result

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, D)`` item vectors."""
        training = self.training
        self.eval()
        found: NDArray[np.float32] = self.vectors_ID().detach().float().cpu().numpy()
        self.train(training)
        return found

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)`` item offsets; zeros where there are none."""
        if self.offsets is None:
            return np.zeros(self.domain.n_items, np.float32)
        return self.offsets.detach().cpu().numpy()

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Logits of the next item."""
        scores_NI = self.encode(queries) @ self.vectors.T + self.bias
        return pick_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """Cosine between item vectors."""
        unit_ID = self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-12)
        likeness: Scores = unit_ID[items] @ unit_ID.T
        return likeness
