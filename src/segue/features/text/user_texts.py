"""Encode the texts in profiles of new users as in training."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from segue.core.types import TextEncoding
from segue.features.text.encode_items import ItemTexts

__all__ = ["EncoderUnavailable", "UserTexts", "open_user_texts"]

MAX_OPEN = 8
"""Number of models whose encoders stay open."""


class EncoderUnavailable(ValueError):
    """An encoder cannot be opened; the message may name files."""


class UserTexts:
    """Adds the vectors of texts to profiles; thread-safe."""

    def __init__(self, encodings: Sequence[TextEncoding]) -> None:
        self._texts, self._lock = ItemTexts(encodings), threading.Lock()
        self._columns = [tuple(one.settings["columns"]) for one in encodings]
        self.columns = frozenset(name for columns in self._columns for name in columns)
        """User features with text that is encoded."""

    def open(self) -> None:
        """Open all encoders.

        Raises:
            ValueError: an encoder is not available, or its files are others than at the time of training.
        """
        with self._lock:
            self._texts.open()

    def check(self, profile: Mapping[str, Any] | None) -> None:
        """Check the texts of a profile, and that they can be encoded.

        Raises:
            ValueError: starts with the name of the feature.
        """
        given = {name: value for name, value in (profile or {}).items() if name in self.columns}
        for name, value in given.items():
            texts = value if isinstance(value, list | tuple) else [value]
            if not all(text is None or isinstance(text, str) for text in texts):
                raise ValueError(f"{name}: got {value!r}, expected a text or a list of texts")
        for name, columns in zip(self._texts.names, self._columns, strict=True):
            if name in (profile or {}) and not given.keys().isdisjoint(columns):
                raise ValueError(f"{name}: got a vector, which is computed from {', '.join(columns)}; give one of both")
        if given:
            try:
                self.open()
            except ValueError as error:
                raise EncoderUnavailable(f"{min(given)}: the text cannot be encoded: {error}") from None

    def encode(self, profiles: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
        """Return the profiles with the vectors of their texts.

        A text without a known word has no vector. Lists of texts are joined.

        Raises:
            ValueError: see :meth:`check`.
        """
        found = [dict(profile or {}) for profile in profiles]
        for profile in found:
            self.check(profile)
            profile.update({name: _join(profile[name]) for name in self.columns & profile.keys()})
        for index, (name, columns) in enumerate(zip(self._texts.names, self._columns, strict=True)):
            rows = [row for row, profile in enumerate(found) if not profile.keys().isdisjoint(columns)]
            if not rows:
                continue
            table = {column: [found[row].get(column) for row in rows] for column in columns}
            with self._lock:
                vectors_ND = self._texts.encode(index, pl.DataFrame(table, schema=dict.fromkeys(columns, pl.String)))
            for row, vector_D in zip(rows, vectors_ND, strict=True):
                if not np.isnan(vector_D).any():
                    found[row][name] = vector_D.tolist()
        return found


def _join(value: Any) -> Any:
    """Join the texts of a list as those of a table are joined."""
    return ", ".join(text for text in value if text is not None) if isinstance(value, list | tuple) else value


@lru_cache(maxsize=MAX_OPEN)
def open_user_texts(encodings: tuple[TextEncoding, ...]) -> UserTexts:
    """Return the encoders of a model, the same object for the same encodings."""
    return UserTexts(encodings)
