"""EASE: a linear item-item model with a zero diagonal.

Steck 2019, arXiv:1905.03375; see :mod:`segue.solvers.items.item_regression`.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from segue.core.config import Search, Settings
from segue.solvers.items.item_regression import ItemRegression

__all__ = ["EASE"]


class EASE(ItemRegression):
    """Score items by weighted sums over the history.

    An empty history gets popularity.
    """

    key = "ease"

    class Config(Settings):
        """Settings of ``ease``."""

        l2: Annotated[float, Gt(0), Search(1.0, 10_000.0, log=True)] = 500.0
        """L2 regularization, added to the diagonal of the item-item Gram matrix; sparser data needs higher values."""
