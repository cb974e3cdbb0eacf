"""A running mean of a network's weights, which generalises better than the last of them (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["Average"]


class Average:
    """The exponential mean of all parameters over the steps of the optimiser; buffers are taken as they are.

    Args:
        model: its parameters are the first mean.
        decay: weight of the mean against the newest parameters; after n steps no more than ``(1 + n) / (10 + n)``, so
            that the first, random parameters are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = dict(model.named_parameters())
        self._means = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take the parameters after so many steps."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self._means.values()), list(self._parameters.values()), 1.0 - decay)

    @torch.no_grad()
    def take(self) -> None:
        """Put the means in the place of the parameters, for good."""
        torch._foreach_copy_(list(self._parameters.values()), list(self._means.values()))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model has the means as its parameters."""
        with torch.no_grad():
            own = [p.clone() for p in self._parameters.values()]
            self.take()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(self._parameters.values()), own)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The means by the name of the parameter."""
        return {name: mean.cpu().numpy() for name, mean in self._means.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what :meth:`arrays` gave."""
        for name, mean in self._means.items():
            mean.copy_(torch.from_numpy(np.array(arrays[name])))
