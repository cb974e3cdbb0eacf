"""xLSTM: extended long short-term memory over the history.

Beck et al. 2024, arXiv:2405.04517. A stack of residual blocks; ``slstm_at`` lists those that are sLSTM (scalar memory,
recurrent mixing), all others are mLSTM (matrix memory, parallel in training). Written from the paper; ``make
crosscheck`` compares the cells with the authors' package.

With ``objective=cloze`` the blocks alternate between backward and forward reading, as in Vision-LSTM (Alkin et al.
2024, arXiv:2406.04303). The last block reads forward, because the mask token of a query is at the end.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.config import Choices
from segue.core.types import DataSchema
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import SequenceSettings
from segue.nn.streaming_model import RecurrentState, StreamingModel
from segue.nn.xlstm.blocks import MLSTMBlock, SLSTMBlock
from segue.nn.xlstm.triton_kernels import Kernels

__all__ = ["XLSTM"]


class XLSTM(StreamingModel):
    """Blocks of mLSTM and sLSTM.

    There are no positional embeddings, because the recurrence depends on the order.
    """

    is_bidirectional = True

    class Config(SequenceSettings):
        """Settings of xLSTM, named as in the authors' package."""

        embedding_dim: Annotated[int, Gt(0), Choices((64, 128))] = 128
        """Width of item embeddings and of the residual stream."""
        num_blocks: Annotated[int, Gt(0)] = 2
        """Number of residual blocks."""
        num_heads: Annotated[int, Gt(0), Choices((1, 2, 4))] = 2
        """Heads of every cell; must divide its width."""
        slstm_at: tuple[Annotated[int, Ge(0)], ...] = (1,)
        """Indices of the sLSTM blocks, from 0; empty: all blocks are mLSTM."""
        conv1d_kernel_size: Annotated[int, Gt(0)] = 4
        """Kernel size of the causal convolution before a cell."""
        qkv_proj_blocksize: Annotated[int, Gt(0)] = 4
        """Channels per block of the block-diagonal query, key and value projections."""
        proj_factor: Annotated[float, Gt(0)] = 2.0
        """Inner width of an mLSTM block, as a multiple of ``embedding_dim``."""
        ffn_proj_factor: Annotated[float, Gt(0)] = 1.3
        """Inner width of the feed-forward network after an sLSTM cell, as a multiple of ``embedding_dim``."""
        gate_soft_cap: Annotated[float, Ge(0)] = 15.0
        """Soft cap of the mLSTM gates' pre-activations; 0: none."""
        mlstm_form: Literal["auto", "parallel", "chunkwise"] = "auto"
        """How mLSTM computes a sequence. Both forms compute the same function; ``parallel`` takes quadratic time in its
        length, ``chunkwise`` linear time.
        """
        chunk_size: Annotated[int, Gt(0)] = 64
        """Positions per chunk of the chunkwise form."""
        chunkwise_kernel: Literal[
            "auto",
            "native",
            "chunkwise--triton_xl_chunk",
            "chunkwise--triton_limit_chunk",
            "parallel--triton_limit_headdim",
        ] = "auto"
        """Implementation of mLSTM over a sequence, unless ``mlstm_form`` is ``parallel``: Segue's own (``native``), or
        a kernel of the package ``mlstm_kernels``; ``auto`` uses the first kernel if the package is installed and
        the model is on a CUDA device."""
        sequence_kernel: Literal["auto", "native", "native_sequence__triton"] = "auto"
        """Same as ``chunkwise_kernel``, for fewer than 16 events that continue a state."""
        step_kernel: Literal["auto", "native", "triton"] = "auto"
        """Same as ``chunkwise_kernel``, for one event that continues a state."""

        @model_validator(mode="after")
        def _blocks_exist(self) -> XLSTM.Config:
            if any(index >= self.num_blocks for index in self.slstm_at):
                raise ValueError(
                    f"slstm_at: got {list(self.slstm_at)} for {self.num_blocks} blocks, expected indices "
                    f"0..{self.num_blocks - 1}"
                )
            return self

        @model_validator(mode="after")
        def _reads_both_directions(self) -> XLSTM.Config:
            if self.objective == "cloze" and self.num_blocks < 2:
                raise ValueError("objective: 'cloze' needs at least 2 blocks, because they alternate in direction")
            return self

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.blocks = nn.ModuleList(self._make_block(config, index) for index in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.embedding_dim, bias=False)

    @staticmethod
    def _make_block(config: Config, index: int) -> nn.Module:
        sizes = config.embedding_dim, config.num_heads, config.num_blocks
        if index in config.slstm_at:
            return SLSTMBlock(*sizes, index, config.conv1d_kernel_size, config.ffn_proj_factor, config.dropout)
        return MLSTMBlock(
            *sizes,
            config.conv1d_kernel_size,
            config.qkv_proj_blocksize,
            config.proj_factor,
            config.gate_soft_cap,
            config.dropout,
            config.mlstm_form,
            config.chunk_size,
            Kernels(config.chunkwise_kernel, config.sequence_kernel, config.step_kernel, config.chunk_size),
        )

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`."""
        lengths_B = batch.lengths_B
        x_BLD = dropout(x_BLD * self.config.embedding_dim**0.5, self.config.dropout, self.training)
        for n_after, block in zip(range(len(self.blocks) - 1, 0, -1), self.blocks, strict=False):
            if self.is_cloze and n_after % 2 == 1:
                x_BLD = reverse_sequences(block(reverse_sequences(x_BLD, lengths_B)), lengths_B)
            else:
                x_BLD = block(x_BLD)
        normed: Tensor = self.norm(self.blocks[-1](x_BLD, last_B))
        return normed

    def initial_state(self, rows: int) -> RecurrentState:
        """See :meth:`StreamingModel.initial_state`.

        Names start with the index of the block.
        """
        return {
            f"{index}.{name}": part
            for index, block in self._indexed_blocks()
            for name, part in block.initial_state(rows).items()
        }

    def advance(
        self, x_BLD: Tensor, lengths_B: Tensor, recurrent_state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """See :meth:`StreamingModel.advance`."""
        x_BLD = x_BLD * self.config.embedding_dim**0.5
        after: RecurrentState = {}
        for index, block in self._indexed_blocks():
            prefix = f"{index}."
            own = {n.removeprefix(prefix): part for n, part in recurrent_state.items() if n.startswith(prefix)}
            x_BLD, own = block.advance(x_BLD, lengths_B, own)
            after |= {f"{prefix}{name}": part for name, part in own.items()}
        normed: Tensor = self.norm(x_BLD)
        return normed, after

    def _indexed_blocks(self) -> Iterator[tuple[int, MLSTMBlock | SLSTMBlock]]:
        for index, block in enumerate(self.blocks):
            yield index, cast("MLSTMBlock | SLSTMBlock", block)


def reverse_sequences(x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
    """Reverse each sequence within its length; padding stays in place."""
    index_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
    from_BL = torch.where(index_L < lengths_B[:, None], lengths_B[:, None] - 1 - index_L, index_L)
    return x_BLD.gather(1, from_BL[..., None].expand_as(x_BLD))
