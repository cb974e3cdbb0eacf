"""Architectures of Hugging Face's transformers as encoders of the history (Wolf et al. 2020, arXiv:1910.03771).

What Transformers4Rec (de Souza Pereira Moreira et al. 2021) showed for a few of them, for any that reads a sequence of
vectors: it is built from its configuration, small and with random weights, and trained on the log alone. When it is
built it is tried whether it reads ahead, and refused where it does not fit the objective.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt
from torch import Tensor

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.nn.huggingface_encoder import Architecture
from segue.nn.layers.attention import at
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import SequenceModel, SequenceSettings

__all__ = ["HuggingFace"]


class HuggingFace(SequenceModel):
    """Any architecture of transformers between the item vectors; needs the extra ``huggingface``."""

    recurrent = False
    both_ways = True

    class Config(SequenceSettings):
        """Settings of an architecture; what they do not name keeps its own default or proportion."""

        architecture: str = "llama"
        """``model_type`` of the architecture: ``llama``, ``gpt2``, ``xlnet``, ``mamba``, ``xlstm``, ``bert``, ..."""
        layers: Annotated[int, Gt(0)] = 2
        """Layers, one on the other."""
        heads: Annotated[int, Gt(0)] = 2
        """Heads, where the architecture has such."""
        options: dict[str, bool | int | float | str | list[Any] | dict[str, Any]] = {}  # noqa: RUF012 - never changed
        """Further fields of the architecture's configuration by name, such as ``{"activation_function": "relu"}``."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.encoder = Architecture(
            config.architecture,
            config.width,
            config.layers,
            config.heads,
            config.max_length,
            config.dropout,
            config.options,
            both_ways=self.cloze,
        )

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`; at most ``max_length`` positions."""
        x_BLD = dropout(x_BLD * self.config.width**0.5, self.config.dropout, self.training)
        hidden_BLD: Tensor = self.encoder(x_BLD, read.lengths_B)
        return hidden_BLD if last_B is None else at(hidden_BLD, last_B)
