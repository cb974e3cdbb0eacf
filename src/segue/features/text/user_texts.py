"""Encode the texts in profiles of new users as in training."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from segue.core.types import TextEncoding
from segue.features.text.encode_items import ItemTexts

__all__ = ["EncodedProfile", "EncoderUnavailable", "UserTexts", "open_user_texts"]

MAX_OPEN = 8
"""Number of models whose encoders stay open."""


class EncoderUnavailable(ValueError):
    """An encoder cannot be opened; the message may name files."""


@dataclass(frozen=True)
class EncodedProfile:
    """The features of a user, with the vectors of their texts."""

    values: dict[str, Any]
    """Features and vectors by name; lists of texts are joined."""
    unknown_texts: Mapping[str, frozenset[str]]
    """By the name of a vector, the features with a text of which the encoder knows no word."""


class UserTexts:
    """Adds the vectors of texts to profiles; thread-safe."""

    def __init__(self, encodings: Sequence[TextEncoding]) -> None:
        self._texts, self._lock = ItemTexts(encodings), threading.Lock()
        columns = [tuple(one.settings["columns"]) for one in encodings]
        self.vectors: Mapping[str, tuple[str, ...]] = dict(zip(self._texts.names, columns, strict=True))
        """Names of the vectors, and the user features that each is computed from."""
        self.columns = frozenset(name for names in columns for name in names)
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
        given = {name: value for name, value in (profile or {}).items() if value is not None}
        texts = {name: value for name, value in given.items() if name in self.columns}
        for name, value in texts.items():
            parts = value if isinstance(value, list | tuple) else [value]
            if not all(text is None or isinstance(text, str) for text in parts):
                raise ValueError(f"{name}: got {value!r}, expected a text or a list of texts")
        for name, columns in self.vectors.items():
            if name in given and not texts.keys().isdisjoint(columns):
                raise ValueError(f"{name}: got a vector, which is computed from {', '.join(columns)}; give one of both")
        if texts:
            try:
                self.open()
            except ValueError as error:
                raise EncoderUnavailable(f"{min(texts)}: the text cannot be encoded: {error}") from None

    def encode(self, profiles: Sequence[Mapping[str, Any] | None]) -> list[EncodedProfile]:
        """Return the profiles with the vectors of their texts.

        A text without a known word has no vector. Lists of texts are joined.

        Raises:
            ValueError: see :meth:`check`.
        """
        found = [EncodedProfile(dict(profile or {}), {}) for profile in profiles]
        for one in found:
            self.check(one.values)
            one.values.update({name: _join(one.values[name]) for name in self.columns & one.values.keys()})
        for index, (name, columns) in enumerate(self.vectors.items()):
            given = [[column for column in columns if _has_text(one.values.get(column))] for one in found]
            self._add_vectors(index, name, found, given)
        return found

    def _add_vectors(
        self, index: int, name: str, profiles: list[EncodedProfile], given: Sequence[Sequence[str]]
    ) -> None:
        """Add the vectors of one encoding, and note texts without a known word.

        Args:
            given: the features of each profile that have a text.
        """
        rows = [row for row, columns in enumerate(given) if columns]
        if not rows:
            return
        # several texts have one vector, so each of them is encoded alone, too
        parts = [(row, column) for row in rows if len(given[row]) > 1 for column in given[row]]
        cells = [{column: profiles[row].values[column] for column in given[row]} for row in rows]
        cells += [{column: profiles[row].values[column]} for row, column in parts]
        table = pl.DataFrame(cells, schema=dict.fromkeys(self.vectors[name], pl.String))
        with self._lock:
            vectors_ND = self._texts.encode(index, table)
        is_unknown_N = np.asarray(np.isnan(vectors_ND).any(axis=1))
        unknown: dict[int, set[str]] = {row: set() for row in rows}
        for row, vector_D, is_unknown in zip(rows, vectors_ND, is_unknown_N, strict=False):
            if is_unknown:
                unknown[row].update(given[row])
            else:
                profiles[row].values[name] = vector_D.tolist()
        for (row, column), is_unknown in zip(parts, is_unknown_N[len(rows) :], strict=True):
            if is_unknown:
                unknown[row].add(column)
        for row in rows:
            texts = {**profiles[row].unknown_texts, name: frozenset(unknown[row])}
            profiles[row] = EncodedProfile(profiles[row].values, texts)


def _join(value: Any) -> Any:
    """Join the texts of a list as those of a table are joined."""
    return ", ".join(text for text in value if text is not None) if isinstance(value, list | tuple) else value


def _has_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


@lru_cache(maxsize=MAX_OPEN)
def open_user_texts(encodings: tuple[TextEncoding, ...]) -> UserTexts:
    """Return the encoders of a model, the same object for the same encodings."""
    return UserTexts(encodings)
