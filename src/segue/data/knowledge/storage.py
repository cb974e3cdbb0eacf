"""Store the knowledge graph in the folder of a prepared dataset.

Its arrays are memory-mapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.core.knowledge.knowledge import Knowledge
from segue.core.vocab import Vocab, check_id_table

__all__ = ["describe_knowledge", "open_knowledge", "write_knowledge"]

ARRAYS = ("heads", "relation_codes", "tails", "item_entities")
ENTITIES = "entities.parquet"


def describe_knowledge(knowledge: Knowledge) -> dict[str, Any]:
    """Return the entry ``knowledge`` of the header of a dataset."""
    return {
        "entities": len(knowledge.entities),
        "triples": len(knowledge),
        "relations": list(knowledge.relations),
        "sha256": knowledge.digest,
    }


def write_knowledge(folder: Path, knowledge: Knowledge) -> None:
    """Write the ids of the entities and one file per array."""
    pl.DataFrame({"id": knowledge.entities.ids}).write_parquet(folder / ENTITIES)
    for name in ARRAYS:
        np.save(folder / f"knowledge-{name}.npy", getattr(knowledge, name))


def open_knowledge(folder: Path, entry: Mapping[str, Any]) -> Knowledge:
    """Open what :func:`write_knowledge` wrote; ids are read on first use.

    Raises:
        ValueError: a file is broken, or does not match the header.
    """
    size, path = entry["entities"], folder / ENTITIES
    check_id_table(path, size)
    try:
        arrays = [np.load(folder / f"knowledge-{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS]
        heads, relation_codes, tails, item_entities = arrays
        entities = Vocab(lambda: pl.read_parquet(path, columns=["id"])["id"], size)
        found = Knowledge(entities, tuple(entry["relations"]), heads, relation_codes, tails, item_entities)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: broken knowledge graph ({error}); prepare the dataset again") from None
    if len(found) != entry["triples"]:
        raise ValueError(
            f"{folder}: the graph has {len(found)} triples, header.json says {entry['triples']}; prepare the dataset "
            "again"
        )
    return found
