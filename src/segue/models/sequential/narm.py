"""NARM: neural attentive recommendation machine.

Li et al. 2017, arXiv:1711.04725.

A GRU reads the history. Its last state is the global interest (the paper's global encoder); attention of that state
over all states so far is the local interest (the local encoder). Each has its own part of a bilinear decoder, so that
every score is exactly their sum; :meth:`NARM.interests` returns the parts.

Shapes: B sequences, L positions, D width, H width of the recurrent state, A width of the attention, N queries, T
events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.batches import Sequences, query_batches
from segue.core.model import select_candidates
from segue.core.types import Codes, DataSchema, Queries, Scores
from segue.nn.layers.additive_attention import additive_scores
from segue.nn.layers.attention import gather_positions
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import QUERY_TOKENS, SequenceModel, SequenceSettings

__all__ = ["NARM", "Interests"]


@dataclass(frozen=True, eq=False)
class Interests:
    """Explanation of the scores of some queries.

    A score is the sum of its global part, its local part and the bias of the item.
    """

    attention: NDArray[np.float32]
    """``(T,)`` attention weight of every event of the queries' histories; 0 for events that were not read."""
    global_scores: Scores
    """``(N, I)`` or ``(N, C)`` part of each score from the whole history, read in order."""
    local_scores: Scores
    """``(N, I)`` or ``(N, C)`` part of each score from the attended events."""


class NARM(SequenceModel):
    """A GRU whose last state and whose attended states predict the next item."""

    reads_full_history = False

    class Config(SequenceSettings):
        """Settings of NARM."""

        hidden_dim: Annotated[int, Gt(0)] = 128
        """Width of the GRU's state."""
        attention_dim: Annotated[int, Gt(0)] = 64
        """Width of the additive attention; training time grows with it and with the square of the length."""
        attention: Literal["sum", "softmax"] = "softmax"
        """Whether attended states are summed with their raw scores, as in the paper's formula, or averaged with the
        softmax of them, as in the authors' code."""

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.gru = nn.GRU(config.embedding_dim, config.hidden_dim, batch_first=True)
        self.query = nn.Linear(config.hidden_dim, config.attention_dim)
        self.key = nn.Linear(config.hidden_dim, config.attention_dim, bias=False)
        self.attention_weight = nn.Parameter(torch.zeros(config.attention_dim))
        self.global_out = nn.Linear(config.hidden_dim, config.embedding_dim, bias=False)
        self.local_out = nn.Linear(config.hidden_dim, config.embedding_dim, bias=False)

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`; at most ``max_length`` positions."""
        _, global_interest, local_interest = self._encode_parts(x_BLD, batch, last_B)
        return global_interest + local_interest

    def _encode_parts(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the attention ``(B, L, L)`` and both interests ``(B, L, D)``.

        With ``last_B``, return only those at the last positions.
        """
        x_BLD = dropout(x_BLD * self.config.embedding_dim**0.5, self.config.dropout, self.training)
        states_BLH: Tensor = self.gru(x_BLD)[0]
        keys_BLA = self.key(states_BLH)
        length, device = x_BLD.shape[1], x_BLD.device
        # the start token is not an event and gets no attention
        is_event_B1L = (batch.items_BL != self.schema.n_items)[:, None]
        if last_B is None:
            query_states = states_BLH
            scores = additive_scores(self.query(states_BLH), keys_BLA, self.attention_weight)
            visible = is_event_B1L & torch.ones(length, length, dtype=torch.bool, device=device).tril()
        else:
            query_states = gather_positions(states_BLH, last_B)[:, None]
            scores = (torch.sigmoid(self.query(query_states) + keys_BLA) @ self.attention_weight)[:, None]
            visible = is_event_B1L & (torch.arange(length, device=device) <= last_B[:, None])[:, None]
        if self.config.attention == "softmax":
            scores = torch.softmax(scores.masked_fill(~visible, torch.finfo(scores.dtype).min), -1)
        attention = scores * visible
        global_interest = self.global_out(dropout(query_states, self.config.dropout, self.training))
        local_interest = self.local_out(dropout(attention @ states_BLH, self.config.dropout, self.training))
        if last_B is None:
            return attention, global_interest, local_interest
        return attention[:, 0], global_interest[:, 0], local_interest[:, 0]

    @torch.inference_mode()
    def interests(self, queries: Queries, candidates: Codes | None = None) -> Interests:
        """Return the attention of each query, and the two parts of every score.

        Scores are those of all items, or of the candidates.
        """
        training = self.training
        self.eval()
        attention_T = np.zeros(queries.history.size, np.float32)
        global_ND, local_ND = np.empty((2, len(queries), self.config.embedding_dim), np.float32)
        ends = queries.history.offsets[1:]
        for rows, cpu_batch in query_batches(queries, self.schema.n_items, self.config.max_length, QUERY_TOKENS):
            batch = cpu_batch.to(self.device)
            last_B = batch.lengths_B - 1
            attention_BL, global_BD, local_BD = self._encode_parts(self.embed(batch), batch, last_B)
            global_ND[rows], local_ND[rows] = global_BD.cpu().numpy(), local_BD.cpu().numpy()
            row, column = np.nonzero(cpu_batch.items_BL.numpy() != self.schema.n_items)
            from_end = cpu_batch.lengths_B.numpy()[row] - column
            attention_T[ends[rows[row]] - from_end] = attention_BL.cpu().numpy()[row, column]
        self.train(training)
        parts = (select_candidates(part @ self.vectors.T, candidates) for part in (global_ND, local_ND))
        return Interests(attention_T, *parts)
