"""Examples that are not in memory: batches of one epoch after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from segue.core.examples.fields import Examples, Field

__all__ = ["ExampleStream"]


class ExampleStream(ABC):
    """Labeled examples for networks, which read them by batches."""

    fields: tuple[Field, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples of an epoch."""

    @abstractmethod
    def batches(self, size: int, rng: np.random.Generator) -> tuple[int, Iterator[Examples]]:
        """Return the number of batches of one epoch, and the batches.

        All but the last one have ``size`` examples; the last one is not a single example, which batch normalization
        cannot normalize. The order follows from ``rng``.
        """

    def count_batches(self, size: int) -> int:
        """Return the number of batches of one epoch."""
        return max(1, len(self) // size + (len(self) % size > 1))
