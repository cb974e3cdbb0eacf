"""NARM: what the whole history says, and what it is for right now (Li et al. 2017, arXiv:1711.04725).

A GRU reads the history. Its last state is the general interest (the paper's global encoder); an attention of that
state over all states so far is the present interest (the local encoder). Each has its part in a bilinear decoder, so
that every score is their exact sum; :meth:`NARM.interests` shows it.

Shapes: B sequences, L positions, D width, H width of the state, A width of the attention, N queries, T events.
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
from segue.core.model import pick_candidates
from segue.core.types import Codes, Domain, Queries, Scores
from segue.nn.layers.additive_attention import additive_scores
from segue.nn.layers.attention import at
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import QUERY_TOKENS, SequenceModel, SequenceSettings

__all__ = ["NARM", "Interests"]


@dataclass(frozen=True, eq=False)
class Interests:
    """Why some queries are answered as they are: score = general + present + bias of the item."""

    attention: NDArray[np.float32]
    """``(T,)`` weight of every event of the queries' histories in the present interest; 0 where it was not read."""
    general: Scores
    """``(N, I)`` or ``(N, C)`` the part of each score that the whole history has, read in order."""
    present: Scores
    """``(N, I)`` or ``(N, C)`` the part that the attended events have."""


class NARM(SequenceModel):
    """A GRU whose last state and whose attended states vote on the next item."""

    recurrent = False

    class Config(SequenceSettings):
        """Settings of NARM."""

        hidden_width: Annotated[int, Gt(0)] = 128
        """Width of the GRU's state."""
        attention_width: Annotated[int, Gt(0)] = 64
        """Width in which states are compared; time in training grows with it and with the square of the length."""
        attention: Literal["sum", "softmax"] = "softmax"
        """Whether states are added up by their scores, as in the paper's formula, or averaged by the softmax of them,
        as in its authors' code."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.gru = nn.GRU(config.width, config.hidden_width, batch_first=True)
        self.asking = nn.Linear(config.hidden_width, config.attention_width)
        self.asked = nn.Linear(config.hidden_width, config.attention_width, bias=False)
        self.weight = nn.Parameter(torch.zeros(config.attention_width))
        self.general = nn.Linear(config.hidden_width, config.width, bias=False)
        self.present = nn.Linear(config.hidden_width, config.width, bias=False)

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`; at most ``max_length`` positions."""
        _, general, present = self._parts(x_BLD, read, last_B)
        return general + present

    def _parts(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Attention ``(B, L, L)`` and the two interests ``(B, L, D)``, or those of the positions ``last`` alone."""
        x_BLD = dropout(x_BLD * self.config.width**0.5, self.config.dropout, self.training)
        states_BLH: Tensor = self.gru(x_BLD)[0]
        keys_BLA = self.asked(states_BLH)
        length, device = x_BLD.shape[1], x_BLD.device
        # the start of a history is not an event: there is nothing in it to be interested in
        real_B1L = (read.items_BL != self.domain.n_items)[:, None]
        if last_B is None:
            last_states = states_BLH
            scores = additive_scores(self.asking(states_BLH), keys_BLA, self.weight)
            seen = real_B1L & torch.ones(length, length, dtype=torch.bool, device=device).tril()
        else:
            last_states = at(states_BLH, last_B)[:, None]
            scores = (torch.sigmoid(self.asking(last_states) + keys_BLA) @ self.weight)[:, None]
            seen = real_B1L & (torch.arange(length, device=device) <= last_B[:, None])[:, None]
        if self.config.attention == "softmax":
            scores = torch.softmax(scores.masked_fill(~seen, torch.finfo(scores.dtype).min), -1)
        attention = scores * seen
        general = self.general(dropout(last_states, self.config.dropout, self.training))
        present = self.present(dropout(attention @ states_BLH, self.config.dropout, self.training))
        if last_B is None:
            return attention, general, present
        return attention[:, 0], general[:, 0], present[:, 0]

    @torch.inference_mode()
    def interests(self, queries: Queries, candidates: Codes | None = None) -> Interests:
        """Where the present interest of each query lies, and the score of every item, or candidate, in its parts."""
        training = self.training
        self.eval()
        attention_T = np.zeros(queries.history.size, np.float32)
        general_ND, present_ND = np.empty((2, len(queries), self.config.width), np.float32)
        newest = queries.history.offsets[1:]
        for rows, cpu in query_batches(queries, self.domain.n_items, self.config.max_length, QUERY_TOKENS):
            read = cpu.to(self.device)
            last_B = read.lengths_B - 1
            attention_BL, general_BD, present_BD = self._parts(self.embed(read), read, last_B)
            general_ND[rows], present_ND[rows] = general_BD.cpu().numpy(), present_BD.cpu().numpy()
            row, column = np.nonzero(cpu.items_BL.numpy() != self.domain.n_items)
            back = cpu.lengths_B.numpy()[row] - column
            attention_T[newest[rows[row]] - back] = attention_BL.cpu().numpy()[row, column]
        self.train(training)
        parts = (pick_candidates(part @ self.vectors.T, candidates) for part in (general_ND, present_ND))
        return Interests(attention_T, *parts)
