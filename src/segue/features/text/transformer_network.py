"""Load pretrained transformers, and pool their token vectors.

Nothing is downloaded, no code in the folder of a model is executed, and weights are read from safetensors only.

Shapes: B windows of text, L tokens, K layers, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from segue.features.text.pretrained import EXTRA, PretrainedFolder
from segue.nn.language_models.language_model import describe_failure, offline_transformers

__all__ = ["PooledTransformer", "load_network", "load_tokenizer"]


def load_tokenizer(folder: PretrainedFolder) -> Any:
    """Load the tokenizer of a folder.

    Raises:
        ValueError: transformers is not installed, or it cannot read the tokenizer.
    """
    with offline_transformers(EXTRA) as transformers, _explain(folder, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    if not tokenizer.is_fast:
        raise ValueError(f"text.options.model: {folder.path}: has no fast tokenizer, expected a tokenizer.json")
    return tokenizer


def load_network(folder: PretrainedFolder, *, all_layers: bool, pooling: str, attention: str) -> PooledTransformer:
    """Load the weights of a folder, in single precision, for inference.

    Args:
        attention: implementation of attention, ``sdpa`` or ``eager``.

    Raises:
        ValueError: transformers is not installed, or it cannot read the model.
    """
    with offline_transformers(EXTRA) as transformers, _explain(folder, "weights"):
        network = transformers.AutoModel.from_pretrained(
            folder.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=attention,
        )
    network = getattr(network, "encoder", network) if network.config.is_encoder_decoder else network
    if isinstance(getattr(network, "pooler", None), nn.Module):
        network.pooler = None  # its output is not used
    return PooledTransformer(network, all_layers, pooling).eval()


class PooledTransformer(nn.Module):
    """A transformer that returns one vector per window and layer."""

    def __init__(self, network: nn.Module, all_layers: bool, pooling: str) -> None:
        super().__init__()
        self.network = network
        self.all_layers = all_layers
        self.pooling = pooling

    def forward(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return ``(B, K, D)``: the last layer alone, or the embeddings and every layer."""
        output = self.network(input_ids=tokens_BL, attention_mask=mask_BL, output_hidden_states=self.all_layers)
        layers = output.hidden_states if self.all_layers else (output.last_hidden_state,)
        if self.pooling == "cls":
            return torch.stack([layer_BLD[:, 0] for layer_BLD in layers], dim=1)
        weights_BL1 = mask_BL.unsqueeze(-1).to(layers[0].dtype)
        counts_B1 = weights_BL1.sum(1)
        return torch.stack([(layer_BLD * weights_BL1).sum(1) / counts_B1 for layer_BLD in layers], dim=1)


@contextmanager
def _explain(folder: PretrainedFolder, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers raises all kinds of exceptions for files that it cannot read
        reason = describe_failure(error)
        raise ValueError(f"text.options.model: {folder.path}: cannot read the {what}: {reason}") from None
