"""The models that one loop trains: layers, and an objective for a batch.

Shapes: M positions with a target, D width, I items, N queries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from segue.core.model import Arrays, Model
from segue.core.seen_items import Seen
from segue.core.types import Dataset, Domain

__all__ = ["Loss", "Network"]

Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor, Seen | None], Tensor]
"""``loss(hidden_MD, vectors_ID, bias_I, targets_M, seen)`` to a scalar: how badly ``hidden @ vectors.T + bias`` ranks,
items that were ``seen`` left out."""


class Network(nn.Module, Model):
    """Layers and an objective; :mod:`segue.training` does the rest."""

    own_loss: ClassVar[str | None] = None
    """What it minimises, in words, where its objective makes no use of the loss that the training names."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__()
        self.config = config
        self.domain = domain

    @classmethod
    def domain_of(cls, config: Any, data: Dataset) -> Domain:
        """What a network of these settings has to know of ``data`` before it is built."""
        return data.domain

    def prepare(self, train: Dataset) -> None:
        """Look at the data once before training: buffers that follow from it, such as features of items.

        Called on a new network, before a checkpoint is taken up; what it sets must be among :meth:`arrays`.
        """

    @abstractmethod
    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[Any]]:
        """One epoch in an order drawn from ``rng``: the number of batches, and the batches of about ``size`` users."""

    @abstractmethod
    def objective(self, batch: Any, loss: Loss) -> tuple[Tensor, int]:
        """The loss of a batch, averaged over its targets, and how many targets there are."""

    def settle(self) -> None:
        """Make what answers are made of and follows from the parameters, such as vectors that a graph has spread.

        Called before each validation and after training; what it sets must be among :meth:`arrays`.
        """

    def arrays(self) -> Arrays:
        """Parameters and buffers by their path."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}

    def restore(self, arrays: Arrays) -> None:
        """Take back parameters and buffers; names and shapes must be those of this network."""
        try:
            self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
        except RuntimeError as error:
            raise ValueError(f"{type(self).__name__}: these arrays are of another network: {error}") from None
        self.eval()

    @property
    def device(self) -> str:
        """Where the parameters are."""
        return str(cast(Tensor, next(self.parameters())).device)
