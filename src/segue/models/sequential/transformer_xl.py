"""Transformer-XL: attention over segments with a memory of the previous ones.

Dai et al. 2019, arXiv:1901.02860.

A history is read in segments. Each block attends to its segment and to its own inputs at the preceding positions, the
memory, through which no gradient flows; positions are relative. In training the memory spans a window, in prediction
the whole history, however long. Blocks normalize their input; the authors normalize the output.

Shapes: B sequences, L positions, S positions of a segment, D width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import DataSchema
from segue.nn.layers.attention import gather_positions
from segue.nn.layers.dropout import dropout
from segue.nn.layers.relative_attention import RelativeBlock, sinusoidal_encoding
from segue.nn.sequence_model import SequenceModel, SequenceSettings

__all__ = ["TransformerXL"]


class TransformerXL(SequenceModel):
    """Blocks of causal self-attention with relative positions.

    A block attends to a segment and to the memory before it.
    """

    reads_full_history = True

    class Config(SequenceSettings):
        """Settings of Transformer-XL."""

        num_blocks: Annotated[int, Gt(0)] = 2
        """Number of attention blocks."""
        num_heads: Annotated[int, Gt(0)] = 2
        """Attention heads per block; must divide ``embedding_dim``."""
        ffn_expansion: Annotated[float, Gt(0)] = 4.0
        """Inner width of the feed-forward network, as a multiple of ``embedding_dim``."""
        segment_length: Annotated[int, Gt(0)] = 50
        """Positions per segment; ``max_length``, the length of a training window, should be greater."""
        memory_length: Annotated[int, Ge(0)] = 50
        """Positions of the memory before a segment, in every block."""

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.blocks = nn.ModuleList(
            RelativeBlock(config.embedding_dim, config.num_heads, config.ffn_expansion, config.dropout)
            for _ in range(config.num_blocks)
        )
        self.norm = nn.LayerNorm(config.embedding_dim)

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`."""
        config, length, last_block = self.config, x_BLD.shape[1], self.blocks[-1]
        x_BLD = dropout(x_BLD * config.embedding_dim**0.5, config.dropout, self.training)
        if torch.compiler.is_exporting():
            return self._encode_for_export(x_BLD, last_B)
        max_keys = min(length, config.segment_length + config.memory_length)
        all_distances_KD = sinusoidal_encoding(max_keys, config.embedding_dim, x_BLD)
        memories = [x_BLD[:, :0] for _ in self.blocks]
        outputs, output_rows = [], []
        for start in range(0, length, config.segment_length):
            x_BSD = x_BLD[:, start : start + config.segment_length]
            distances_KD = all_distances_KD[max_keys - memories[0].shape[1] - x_BSD.shape[1] :]
            for index, block in enumerate(self.blocks[:-1]):
                x_BSD, memories[index] = (
                    block(x_BSD, memories[index], distances_KD),
                    self._updated_memory(memories[index], x_BSD),
                )
            if last_B is None:
                outputs.append(last_block(x_BSD, memories[-1], distances_KD))
            elif len(rows := (last_B // config.segment_length == start // config.segment_length).nonzero()[:, 0]):
                hidden = last_block(x_BSD[rows], memories[-1][rows], distances_KD)
                outputs.append(gather_positions(hidden, last_B[rows] - start))
                output_rows.append(rows)
            memories[-1] = self._updated_memory(memories[-1], x_BSD)
        if output_rows:
            normed: Tensor = self.norm(torch.cat(outputs)[torch.cat(output_rows).argsort()])
        else:
            normed = self.norm(torch.cat(outputs, 1))
        return normed

    def _encode_for_export(self, x_BLD: Tensor, last_B: Tensor | None) -> Tensor:
        """Compute the hidden states without a loop over segments.

        A mask hides the positions that are not in a segment's memory.
        """
        config, length = self.config, x_BLD.shape[1]
        index_L = torch.arange(length, device=x_BLD.device)
        segment_start_L = index_L // config.segment_length * config.segment_length
        masked_LL = index_L < (segment_start_L - config.memory_length)[:, None]
        distances_LD = sinusoidal_encoding(length, config.embedding_dim, x_BLD)
        for block in self.blocks:
            x_BLD = block(x_BLD, x_BLD[:, :0], distances_LD, masked_LL)
        normed: Tensor = self.norm(x_BLD if last_B is None else gather_positions(x_BLD, last_B))
        return normed

    def _updated_memory(self, memory_BZD: Tensor, x_BSD: Tensor) -> Tensor:
        """Return the newest ``memory_length`` positions of both, without a gradient."""
        known = torch.cat([memory_BZD, x_BSD], 1).detach()
        return known[:, max(0, known.shape[1] - self.config.memory_length) :]
