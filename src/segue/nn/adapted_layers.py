"""Adapt decision layers to each user by gradient steps, and cache their weights.

All users of a batch are adapted at once by :mod:`torch.func`; gradients pass through the steps.

Shapes: B users of a batch, C items to score, S items of the support, E width of vectors, H width of a hidden layer, K
gradient steps, W tensors of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from segue.core.types import Events

__all__ = ["DecisionLayers", "FastWeights", "PaddedEvents", "RecentFastWeights"]

FastWeights = Mapping[str, Tensor]
"""Adapted tensors of the layers by name, each ``(B, ...)``: one per user."""

SupportLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``loss(outputs_S, targets_S, weights_S)`` returns the loss of one user."""

CACHED_NUMBERS = 1 << 22
"""Maximum number of cached weights (16 MiB)."""


@dataclass(frozen=True, eq=False)
class PaddedEvents:
    """Events of each user as a right-padded grid."""

    items_BS: NDArray[np.int64]
    values_BS: NDArray[np.float32]
    lengths_B: NDArray[np.int64]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Return which cells are events, ``(B, S)``."""
        mask: NDArray[np.bool_] = np.arange(self.items_BS.shape[1]) < self.lengths_B[:, None]
        return mask

    def __len__(self) -> int:
        """Return the number of users, B."""
        return len(self.lengths_B)

    def take(self, rows: NDArray[np.int64]) -> PaddedEvents:
        """Return users by index."""
        return PaddedEvents(self.items_BS[rows], self.values_BS[rows], self.lengths_B[rows])

    def key(self, row: int) -> bytes:
        """Return the events of one user as bytes, which identify them."""
        length = self.lengths_B[row]
        items, values = self.items_BS[row, :length], self.values_BS[row, :length]
        return b"".join((length.tobytes(), items.tobytes(), values.tobytes()))

    @classmethod
    def of(cls, events: Events) -> Self:
        """Pad the rows of ``events``; missing values are 0."""
        lengths = events.lengths
        shape = len(events), max(1, int(lengths.max(initial=0)))
        padded = cls(np.zeros(shape, np.int64), np.zeros(shape, np.float32), lengths)
        mask_BS = padded.mask
        padded.items_BS[mask_BS] = events.items
        if events.values is not None:
            padded.values_BS[mask_BS] = events.values
        return padded


class DecisionLayers(nn.Module):
    """MLP over the vectors of a user and of items.

    Args:
        user_width: 0: there are no vectors of users.
    """

    def __init__(self, user_width: int, item_width: int, hidden: int, num_layers: int) -> None:
        super().__init__()
        # the first layer is split in two, so that the part of the user is computed once
        self.item_layer = nn.Linear(item_width, hidden)
        self.user_layer = nn.Linear(user_width, hidden, bias=False) if user_width else None
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(num_layers - 1))
        self.out = nn.Linear(hidden, 1)
        self.tensor_names = [name for name, _ in self.named_parameters()]

    def forward(self, user_E: Tensor, items_CE: Tensor) -> Tensor:
        """Return the outputs for the items of one user, ``(C,)``."""
        x_CH = self.item_layer(items_CE)
        if self.user_layer is not None:
            x_CH = x_CH + self.user_layer(user_E)
        x_CH = x_CH.relu()
        for layer in self.layers:
            x_CH = layer(x_CH).relu()
        outputs_C: Tensor = self.out(x_CH)[..., 0]
        return outputs_C

    def adapt(
        self,
        rates_KW: Tensor,
        users_BE: Tensor,
        items_BSE: Tensor,
        targets_BS: Tensor,
        weights_BS: Tensor,
        loss: SupportLoss,
        first_order: bool,
    ) -> FastWeights:
        """Return the weights of each user after gradient steps on their support.

        Args:
            rates_KW: learning rate of each step and tensor.
            first_order: treat the gradients of the steps as constants.
        """

        def inner_loop(
            start: FastWeights, rates_KW: Tensor, user_E: Tensor, items_SE: Tensor, targets_S: Tensor, weights_S: Tensor
        ) -> FastWeights:
            def inner_loss(fast: FastWeights) -> Tensor:
                return loss(functional_call(self, dict(fast), (user_E, items_SE)), targets_S, weights_S)

            fast = dict(start)
            for rates_W in rates_KW:
                gradients = grad(inner_loss)(fast)
                if first_order:
                    gradients = {name: gradient.detach() for name, gradient in gradients.items()}
                rates = zip(self.tensor_names, rates_W, strict=True)
                fast = {name: fast[name] - rate * gradients[name] for name, rate in rates}
            return fast

        adapt_users = vmap(inner_loop, in_dims=(None, None, 0, 0, 0, 0))
        weights = dict(self.named_parameters())
        found: FastWeights = adapt_users(weights, rates_KW, users_BE, items_BSE, targets_BS, weights_BS)
        return found

    def outputs(self, fast: FastWeights, users_BE: Tensor, items: Tensor) -> Tensor:
        """Return the outputs of adapted layers, ``(B, C)``.

        Args:
            items: ``(B, C, E)`` or, shared by all users, ``(C, E)``.
        """
        in_dims = 0, 0, 0 if items.dim() == 3 else None
        call = vmap(lambda weights, user, rows: functional_call(self, weights, (user, rows)), in_dims)
        outputs_BC: Tensor = call(dict(fast), users_BE, items)
        return outputs_BC


class RecentFastWeights:
    """Cache the fast weights of the newest queries.

    Keys are all that the weights were computed from, so that a further event of a user has another key. The cache must
    be cleared whenever the layers change.

    Args:
        layers: determine the number of users in the cache.
    """

    def __init__(self, layers: DecisionLayers) -> None:
        self.capacity = max(1, CACHED_NUMBERS // sum(weight.numel() for weight in layers.parameters()))
        self._weights: dict[bytes, FastWeights] = {}

    def __len__(self) -> int:
        """Return the number of users in the cache."""
        return len(self._weights)

    def clear(self) -> None:
        """Forget all weights."""
        self._weights.clear()

    def get(self, keys: Sequence[bytes], adapt: Callable[[list[int]], FastWeights]) -> FastWeights:
        """Return the fast weights of each key.

        Args:
            adapt: computes those of some positions of ``keys``.
        """
        cached = {key: self._weights.pop(key, None) for key in keys}
        found = {key: weights for key, weights in cached.items() if weights is not None}
        missing = [position for position, key in enumerate(keys) if key not in found and key not in keys[:position]]
        if missing:
            computed = adapt(missing)
            for row, position in enumerate(missing):
                found[keys[position]] = {name: weight[row] for name, weight in computed.items()}
        self._weights |= found  # the newest are last
        for key in list(self._weights)[: max(0, len(self._weights) - self.capacity)]:
            self._weights.pop(key, None)
        rows = [found[key] for key in keys]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
