"""Encoders from Hugging Face transformers over the history.

Wolf et al. 2020, arXiv:1910.03771. Generalizes Transformers4Rec (de Souza Pereira Moreira et al. 2021) to any
architecture that reads a sequence of vectors. The encoder is built from a small configuration with random weights and
trained on the log alone. When it is built, the model tests whether it is causal or bidirectional, and rejects it if it
does not fit the objective.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.types import DataSchema
from segue.nn.huggingface_encoder import HuggingFaceEncoder
from segue.nn.layers.attention import gather_positions
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import SequenceModel, SequenceSettings

__all__ = ["HuggingFace"]


class HuggingFace(SequenceModel):
    """Any architecture of transformers between the item embeddings.

    Needs the extra ``huggingface``.
    """

    reads_full_history = False
    is_bidirectional = True

    class Config(SequenceSettings):
        """Settings of an architecture.

        All other fields of its configuration keep their defaults, or are scaled in proportion.
        """

        architecture: str = "llama"
        """``model_type`` of the architecture: ``llama``, ``gpt2``, ``xlnet``, ``mamba``, ``xlstm``, ``bert``, ..."""
        num_layers: Annotated[int, Gt(0)] = 2
        """Number of layers."""
        num_heads: Annotated[int, Gt(0)] = 2
        """Number of heads, if the architecture has heads."""
        options: dict[str, bool | int | float | str | list[Any] | dict[str, Any]] = {}  # noqa: RUF012 - never changed
        """Further fields of the architecture's configuration, such as ``{"activation_function": "relu"}``."""

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.encoder = HuggingFaceEncoder(
            config.architecture,
            config.embedding_dim,
            config.num_layers,
            config.num_heads,
            config.max_length,
            config.dropout,
            config.options,
            bidirectional=self.is_cloze,
        )

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`; at most ``max_length`` positions."""
        x_BLD = dropout(x_BLD * self.config.embedding_dim**0.5, self.config.dropout, self.training)
        hidden_BLD: Tensor = self.encoder(x_BLD, batch.lengths_B)
        return hidden_BLD if last_B is None else gather_positions(hidden_BLD, last_B)
