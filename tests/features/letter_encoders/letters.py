"""Encode a text as the number of times that each letter of an alphabet occurs in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from segue.core.config import Settings
from segue.core.model import StateArrays
from segue.core.run import Run
from segue.features.text.encoder import TextEncoder, Vectors

__all__ = ["Letters"]


class Letters(TextEncoder):
    """Learns the number of texts; its vectors are counts plus that number."""

    class Config(Settings):
        """Settings of ``letters``."""

        alphabet: str = "abc"
        """Letters that are counted."""
        learns: bool = False
        """Whether to add the number of texts to each count."""
        batch_size: int = 1
        """Changes nothing."""

    speed_settings: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    config: Config
    encoded: ClassVar[list[str]] = []
    """Every text that was encoded."""
    fits: ClassVar[list[int]] = []
    """Number of texts of every call of :meth:`fit`."""

    offset = 0

    def fit(self, texts: Sequence[str], run: Run) -> None:
        self.fits.append(len(texts))
        self.offset = len(texts) if self.config.learns else 0

    @property
    def size(self) -> int:
        return len(self.config.alphabet)

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded.extend(texts)
        counts = [[text.count(letter) for letter in self.config.alphabet] for text in texts]
        vectors = np.array(counts, np.float32).reshape(len(texts), self.size)
        vectors[vectors.sum(1) == 0] = np.nan
        return vectors + self.offset

    def arrays(self) -> StateArrays:
        return {"offset": np.array([self.offset])} if self.config.learns else {}

    def restore(self, arrays: StateArrays) -> None:
        self.offset = int(arrays["offset"][0]) if self.config.learns else 0
