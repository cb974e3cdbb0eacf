"""Average the weights of a network over training.

The mean often generalizes better (Polyak & Juditsky 1992).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["WeightEMA"]


class WeightEMA:
    """Exponential moving average of all parameters over the optimizer steps.

    Buffers are not averaged.

    Args:
        model: its parameters are the initial average.
        decay: weight of the average against the newest parameters. After n steps at most ``(1 + n) / (10 + n)``, so
            that the random initial parameters are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = dict(model.named_parameters())
        self._means = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, n_updates: int) -> None:
        """Add the current parameters to the average, after ``n_updates`` optimizer steps."""
        decay = min(self.decay, (1 + n_updates) / (10 + n_updates))
        torch._foreach_lerp_(list(self._means.values()), list(self._parameters.values()), 1.0 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Replace the model's parameters by the average."""
        torch._foreach_copy_(list(self._parameters.values()), list(self._means.values()))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the model the averaged parameters within the context.

        Restore its own afterwards.
        """
        with torch.no_grad():
            own = [p.clone() for p in self._parameters.values()]
            self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(self._parameters.values()), own)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the averages by parameter name."""
        return {name: mean.cpu().numpy() for name, mean in self._means.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what :meth:`arrays` returned."""
        for name, mean in self._means.items():
            mean.copy_(torch.from_numpy(np.array(arrays[name])))
