"""The gradients of one step of the optimiser: from a few batches, bounded, and of large tables only the rows in use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Gradients"]


class Gradients:
    """The gradients of a model's parameters.

    A sparse gradient holds only the rows of a table that a batch looked up. It is written into a dense one that is kept
    from step to step, so that any optimiser can take it: what a dense gradient would cost (making, adding, bounding and
    clearing a table's worth of zeros) is spared, and the step is the same.

    Args:
        rows: whether embeddings of the model shall have sparse gradients.
    """

    def __init__(self, model: nn.Module, rows: bool) -> None:
        self._parameters = list(model.parameters())
        self._dense: dict[nn.Parameter, Tensor] = {}
        self._rows: dict[nn.Parameter, Tensor] = {}
        for module in model.modules():
            if rows and isinstance(module, nn.Embedding):
                module.sparse = True

    def clear(self) -> None:
        """Begin anew."""
        for parameter in self._parameters:
            parameter.grad = None
        for parameter, rows in self._rows.items():
            self._dense[parameter].index_fill_(0, rows, 0.0)
        self._rows = {}

    @torch.no_grad()
    def finish(self, share: float, bound: float) -> float:
        """Multiply them with ``share``, scale them down to a norm of ``bound`` (0: none) and make them dense.

        Returns:
            Their norm before it was bounded.
        """
        sparse: dict[nn.Parameter, Tensor] = {}
        parts: list[Tensor] = []
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                sparse[parameter] = parameter.grad.coalesce()
                parts.append(sparse[parameter].values())
            elif parameter.grad is not None:
                parts.append(parameter.grad)
        if share != 1.0:
            torch._foreach_mul_(parts, share)
        norm = torch.nn.utils.get_total_norm(parts)
        if bound:
            torch._foreach_mul_(parts, torch.clamp(bound / (norm + 1e-6), max=1.0))
        for parameter, part in sparse.items():
            if parameter not in self._dense:
                self._dense[parameter] = torch.zeros_like(parameter)
            self._rows[parameter] = part.indices()[0]
            parameter.grad = self._dense[parameter].index_copy_(0, self._rows[parameter], part.values())
        return norm.item()
