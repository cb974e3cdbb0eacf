"""Transformer-XL: attention that goes on from one segment to the next (Dai et al. 2019, arXiv:1901.02860).

A history is read in segments. Each block attends to its segment and to what it read in the positions before, which is
kept without a gradient; positions are relative. In training the memory is carried through a window, when answering
through the whole history, however long. Blocks normalise their input, where the authors normalise the output.

Shapes: B sequences, L positions, S positions of a segment, D width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.nn.layers.attention import at
from segue.nn.layers.dropout import dropout
from segue.nn.layers.relative_attention import RelativeBlock, sinusoids
from segue.nn.sequence_model import SequenceModel, SequenceSettings

__all__ = ["TransformerXL"]


class TransformerXL(SequenceModel):
    """Blocks of causal self-attention by relative distance, over a segment and the memory before it."""

    recurrent = True

    class Config(SequenceSettings):
        """Settings of Transformer-XL."""

        blocks: Annotated[int, Gt(0)] = 2
        """Attention blocks, one on the other."""
        heads: Annotated[int, Gt(0)] = 2
        """Attention heads; they share the width evenly."""
        expansion: Annotated[float, Gt(0)] = 4.0
        """Inner width of the position-wise network, as a multiple of the width."""
        segment: Annotated[int, Gt(0)] = 50
        """Positions that are read at once; a window of training has ``max_length``, which should be more."""
        memory: Annotated[int, Ge(0)] = 50
        """Positions before a segment that every block remembers."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.blocks = nn.ModuleList(
            RelativeBlock(config.width, config.heads, config.expansion, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`."""
        config, length, final = self.config, x_BLD.shape[1], self.blocks[-1]
        x_BLD = dropout(x_BLD * config.width**0.5, config.dropout, self.training)
        if torch.compiler.is_exporting():
            return self._at_once(x_BLD, last_B)
        far_KD = sinusoids(min(length, config.segment + config.memory), config.width, x_BLD)
        memories = [x_BLD[:, :0] for _ in self.blocks]
        parts, ending = [], []
        for start in range(0, length, config.segment):
            x_BSD = x_BLD[:, start : start + config.segment]
            near_KD = far_KD[len(far_KD) - memories[0].shape[1] - x_BSD.shape[1] :]
            for index, block in enumerate(self.blocks[:-1]):
                x_BSD, memories[index] = (
                    block(x_BSD, memories[index], near_KD),
                    self._remembered(memories[index], x_BSD),
                )
            if last_B is None:
                parts.append(final(x_BSD, memories[-1], near_KD))
            elif len(rows := (last_B // config.segment == start // config.segment).nonzero()[:, 0]):
                parts.append(at(final(x_BSD[rows], memories[-1][rows], near_KD), last_B[rows] - start))
                ending.append(rows)
            memories[-1] = self._remembered(memories[-1], x_BSD)
        normed: Tensor = self.norm(torch.cat(parts)[torch.cat(ending).argsort()] if ending else torch.cat(parts, 1))
        return normed

    def _at_once(self, x_BLD: Tensor, last_B: Tensor | None) -> Tensor:
        """The same without a loop over segments, for a graph: what a segment does not remember is hidden from it."""
        config, length = self.config, x_BLD.shape[1]
        here_L = torch.arange(length, device=x_BLD.device)
        forgotten_LL = here_L < (here_L // config.segment * config.segment - config.memory)[:, None]
        far_LD = sinusoids(length, config.width, x_BLD)
        for block in self.blocks:
            x_BLD = block(x_BLD, x_BLD[:, :0], far_LD, forgotten_LL)
        normed: Tensor = self.norm(x_BLD if last_B is None else at(x_BLD, last_B))
        return normed

    def _remembered(self, memory_BZD: Tensor, x_BSD: Tensor) -> Tensor:
        """The newest ``memory`` positions of both, without a gradient."""
        known = torch.cat([memory_BZD, x_BSD], 1).detach()
        return known[:, max(0, known.shape[1] - self.config.memory) :]
