"""All that a next-item model may read beside the items, chosen by name.

Of events: ``value``, ``action``, ``gap`` (seconds since the event before), ``query_time`` (seconds from the newest
event to the moment of asking) and ``session_position`` (place within the session). Of items: ``item_features``; of who
asks: ``user_features``. What is not known has learned vectors, never zeros.

Shapes: B sequences, L positions, D width, I items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.features import described
from segue.core.types import Dataset, Domain
from segue.nn.inputs.event_embeddings import READS, EventInputs
from segue.nn.inputs.feature_embeddings import ItemFeatures, UserFeatures

__all__ = ["Input", "Inputs"]

Input: TypeAlias = Literal["value", "action", "gap", "query_time", "session_position", "item_features", "user_features"]

UNMET = -1e3
"""Added in training to the score of items that training never met: as good as minus infinity, and finite."""


class Inputs(nn.Module):
    """The inputs that ``config.inputs`` names; there is at least one.

    Args:
        config: ``inputs``, ``width``, ``session_gap``, ``unknown_share``.
        std: standard deviation of the numbers that vectors begin with, that of item vectors.

    Raises:
        ValueError: features are asked for, and the domain tells of none.
    """

    def __init__(self, config: Any, domain: Domain, std: float) -> None:
        super().__init__()
        names = config.inputs
        self.unknown_share, self.n_items = config.unknown_share, domain.n_items
        for name in ("item_features", "user_features"):
            if name in names and not getattr(domain, name):
                raise ValueError(f"model.inputs: '{name}' is asked for, but the data has none that can be read")
        own = [name for name in READS if name in names]
        kinds = len(domain.actions)
        self.columns = tuple(dict.fromkeys(column for name in own for column in READS[name]))
        self.events = EventInputs(own, config.width, kinds, config.session_gap, std) if own else None
        self.items = self.users = None
        if "item_features" in names:
            self.items = ItemFeatures(domain.item_features, domain.n_items, config.width, std)
        if "user_features" in names:
            self.users = UserFeatures(domain.user_features, domain.n_users, config.width, std)

    @staticmethod
    def domain_of(config: Any, data: Dataset) -> Domain:
        """The domain of ``data`` with the features that are asked for."""
        domain = data.domain
        if "item_features" in config.inputs:
            domain = replace(domain, item_features=described(data.item_features)[0])
        if "user_features" in config.inputs:
            domain = replace(domain, user_features=described(data.user_features)[0])
        return domain

    def prepare(self, train: Dataset) -> None:
        """Take from the data what inputs are made of.

        Raises:
            ValueError: the data has nothing to make one of them of.
        """
        for part in (self.events, self.items, self.users):
            if part is not None:
                part.prepare(train)

    def embed(self, read: Sequences, own: nn.Embedding) -> Tensor:
        """``(B, L, D)`` the vectors of the items and of all inputs.

        Args:
            own: what each item has for itself, and after them the start, and what is hidden.
        """
        x_BLD: Tensor = own(read.items_BL) if self.items is None else self._described(read.items_BL, own.weight)
        if self.events is not None:
            x_BLD = x_BLD + self.events(read, self.n_items, self._unknown)
        if self.users is not None:
            x_BLD = x_BLD + self.users(read, self._unknown)
        return x_BLD

    def counted(self, read: Sequences) -> Sequences:
        """``read`` with places in sessions counted, for a reader that goes on from its last events later."""
        return read if self.events is None else self.events.counted(read, self.n_items)

    def catalogue(self, own_ID: Tensor) -> Tensor:
        """``(I, D)`` the vectors that score."""
        return own_ID if self.items is None else self.items(own_ID, self._unknown)

    def asked_of(self, offsets_I: Tensor | None) -> Tensor | None:
        """``offsets`` for training: an item that training never met is no wrong answer, where features speak for it."""
        if self.items is None or bool(self.items.met_I.all()):
            return offsets_I
        unmet_I = torch.where(self.items.met_I, 0.0, UNMET)
        return unmet_I if offsets_I is None else offsets_I + unmet_I

    @property
    def _unknown(self) -> float:
        """In training some of what is known is taken as not known, so that the vectors for it are learned."""
        return self.unknown_share if self.training else 0.0

    def _described(self, codes_BL: Tensor, own: Tensor) -> Tensor:
        """``(B, L, D)`` items with their features: of all of them, or where fewer are asked for, of these."""
        assert self.items is not None
        if not self.training and codes_BL.numel() < self.n_items:
            return self.items.at(codes_BL, own)
        return F.embedding(codes_BL, torch.cat([self.catalogue(own[: self.n_items]), own[self.n_items :]]))
