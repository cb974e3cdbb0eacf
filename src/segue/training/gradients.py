"""Collect the gradients of one optimizer step, and take the step.

Gradients are summed over batches, and the norm is clipped. A sparse gradient holds only the embedding rows that the
batches looked up. It is made dense, or, for tables that a model created with ``sparse=True``, the optimizer changes
these rows alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GradientBuffer"]


class GradientBuffer:
    """Gradients of a model's parameters between two optimizer steps.

    A dense gradient made from a sparse one is reused from step to step, so that any optimizer can use it without the
    cost of creating, adding, clipping and clearing a table of zeros.

    Args:
        sparse: whether all embeddings of the model produce sparse gradients.
        is_lazy: whether the optimizer changes only the rows of the gradient in tables that the model created with
            ``sparse=True``; it must treat each weight by itself.
    """

    def __init__(self, model: nn.Module, sparse: bool, is_lazy: bool = False) -> None:
        self._parameters = list(model.parameters())
        self._dense: dict[nn.Parameter, Tensor] = {}
        self._rows: dict[nn.Parameter, Tensor] = {}
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse]
        self._lazy = {table.weight for table in tables} if is_lazy else set()
        self._lazy_parts: dict[nn.Parameter, Tensor] = {}
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
        self._lazy_parts = {}

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
            if parameter in self._lazy:
                self._lazy_parts[parameter], parameter.grad = part, None
                continue
            if parameter not in self._dense:
                self._dense[parameter] = torch.zeros_like(parameter)
            self._rows[parameter] = part.indices()[0]
            parameter.grad = self._dense[parameter].index_copy_(0, self._rows[parameter], part.values())
        return norm.item()

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take an optimizer step with the gradients that :meth:`finish` left.

        For lazy tables the optimizer sees only the rows of the gradient and their part of its state, as
        ``torch.optim.SparseAdam`` does: other rows keep their weights and moments, and have no weight decay.
        """
        tables = {
            parameter: (part.indices()[0], parameter.data, _state_like(optimizer, parameter))
            for parameter, part in self._lazy_parts.items()
            if part._nnz()
        }
        for parameter, (rows, weights, state) in tables.items():
            parameter.data = weights[rows]
            parameter.grad = self._lazy_parts[parameter].values()
            for name, whole in state.items():
                optimizer.state[parameter][name] = whole[rows]
        optimizer.step()
        for parameter, (rows, weights, state) in tables.items():
            for name, part in _state_like(optimizer, parameter).items():
                whole = state[name] if name in state else torch.zeros_like(weights)
                optimizer.state[parameter][name] = whole.index_copy_(0, rows, part)
            weights.index_copy_(0, rows, parameter.data)
            parameter.grad = None
            parameter.data = weights


def _state_like(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return the state of a parameter that has its shape, such as moments, by name."""
    state = optimizer.state.get(parameter, {})
    return {
        name: value for name, value in state.items() if isinstance(value, Tensor) and value.shape == parameter.shape
    }
