"""Added items as the store holds them and as rows of a model's catalog.

Shapes: N items, D numbers per vector.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from segue.core.types import TextEncoding
from segue.features.new_items import extend_model, read_items
from segue.features.text.encode_items import ItemTexts, vector_column
from segue.features.text.encoder import Vectors
from segue.serving.model_registry import LoadedModel
from segue.serving.stores.store import ItemChange

__all__ = ["AddedItem", "encoding_key", "find_invalid", "from_json", "to_json", "to_table"]

MAX_ATTEMPTS = 100
"""Largest number of attempts to find the items that a model cannot be extended with."""


@dataclass(frozen=True, eq=False)
class AddedItem:
    """An item that clients added."""

    id: str
    created: int
    features: Mapping[str, Any]
    vectors: dict[str, Vectors | None]
    """``(D,)`` by :func:`encoding_key`; ``None``: the text has no vector."""


def find_invalid(base: LoadedModel, items: Sequence[AddedItem]) -> set[AddedItem]:
    """Return items that a model cannot be extended with, by halving groups that fail.

    After ``MAX_ATTEMPTS`` whole groups are returned.
    """
    invalid: set[AddedItem] = set()
    groups, attempts = [list(items)], 0
    while groups:
        group, attempts = groups.pop(0), attempts + 1
        try:
            if attempts <= MAX_ATTEMPTS:
                extend_model(base.artifact.bundle, to_table(base, group))
                continue
        except Exception:  # the caller logs the error
            pass
        if len(group) == 1 or attempts > MAX_ATTEMPTS:
            invalid.update(group)
        else:
            groups += [group[: len(group) // 2], group[len(group) // 2 :]]
    return invalid


def to_table(base: LoadedModel, items: Sequence[AddedItem]) -> pl.DataFrame:
    """Return items as rows of a model's catalog, with the vectors of their text."""
    encodings, by_id = base.artifact.bundle.text_encodings, {item.id: item for item in items}
    table = read_items(base.artifact.bundle, [{**item.features, "id": item.id} for item in items], skip_invalid=True)
    for name, encoding in zip(ItemTexts(encodings).names, encodings, strict=True):
        found = [by_id[item].vectors[encoding_key(encoding)] for item in table["id"]]
        size = next((len(one) for one in found if one is not None), 1)
        missing = np.full(size, np.nan, np.float32)
        vectors_ND = np.stack([missing, *(missing if one is None else one for one in found)])[1:]
        table = table.with_columns(vector_column(name, vectors_ND).cast(table.schema[name]))
    return table


def encoding_key(encoding: TextEncoding) -> str:
    """Hash what determines the vectors: the encoder and the columns with text."""
    parts = [encoding.digest, list(encoding.settings["columns"])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def to_json(item: Mapping[str, Any], vectors: Mapping[str, Vectors | None]) -> str:
    """Encode an item and its vectors for the store."""
    encoded = {
        key: None if vector_D is None else base64.b64encode(vector_D.astype("<f4").tobytes()).decode()
        for key, vector_D in vectors.items()
    }
    features = {name: value for name, value in item.items() if name != "id" and value is not None}
    return json.dumps({"features": features, "vectors": encoded}, separators=(",", ":"))


def from_json(change: ItemChange) -> AddedItem:
    """Decode an item of the store.

    Raises:
        KeyError: it is malformed; also ``TypeError``, ``ValueError`` and ``AttributeError``.
    """
    content = json.loads(change.content or "")
    vectors = {
        key: None if text is None else np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
        for key, text in content["vectors"].items()
    }
    return AddedItem(change.item, change.created, dict(content["features"]), vectors)
