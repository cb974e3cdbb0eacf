"""Collect the gradients of one optimizer step.

Gradients are summed over batches, sparse embedding rows are made dense, and the norm is clipped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GradientBuffer"]


class GradientBuffer:
    """Gradients of a model's parameters between two optimizer steps.

    A sparse gradient holds only the embedding rows that a batch looked up. It is copied into a dense gradient that is
    reused from step to step, so that any optimizer can use it without the cost of creating, adding, clipping and
    clearing a table of zeros.

    Args:
        sparse: whether the model's embeddings produce sparse gradients.
    """

    def __init__(self, model: nn.Module, sparse: bool) -> None:
        self._parameters = list(model.parameters())
        self._dense: dict[nn.Parameter, Tensor] = {}
        self._rows: dict[nn.Parameter, Tensor] = {}
        for module in model.modules():
            if sparse and isinstance(module, nn.Embedding):
                module.sparse = True

    def clear(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters:
            parameter.grad = None
        for parameter, rows in self._rows.items():
            self._dense[parameter].index_fill_(0, rows, 0.0)
        self._rows = {}

    @torch.no_grad()
    def finish(self, scale: float, max_norm: float) -> float:
        """Scale the gradients, clip their norm and make them dense.

        Args:
            scale: factor applied to all gradients.
            max_norm: maximum total norm; 0: no clipping.

        Returns:
            The total norm before clipping.
        """
        sparse: dict[nn.Parameter, Tensor] = {}
        parts: list[Tensor] = []
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                sparse[parameter] = parameter.grad.coalesce()
                parts.append(sparse[parameter].values())
            elif parameter.grad is not None:
                parts.append(parameter.grad)
        if scale != 1.0:
            torch._foreach_mul_(parts, scale)
        norm = torch.nn.utils.get_total_norm(parts)
        if max_norm:
            torch._foreach_mul_(parts, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        for parameter, part in sparse.items():
            if parameter not in self._dense:
                self._dense[parameter] = torch.zeros_like(parameter)
            self._rows[parameter] = part.indices()[0]
            parameter.grad = self._dense[parameter].index_copy_(0, self._rows[parameter], part.values())
        return norm.item()
