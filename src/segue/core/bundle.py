"""A bundle: a trained model in a folder, with its catalogue and the hash of every file; never pickle.

``bundle.json`` (model key, settings, domain, hashes), ``arrays.safetensors``, ``items.parquet`` (ids, titles, ...),
``users.parquet`` (ids).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from segue import __version__
from segue.core.config import parse
from segue.core.files import load_arrays, read_json, save_arrays, sha256, write_folder, write_json
from segue.core.model import Model
from segue.core.registry import model_class
from segue.core.types import Dataset, Domain, Vocab

__all__ = ["Bundle", "load", "save", "verify"]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model that can answer, and the catalogue it answers from."""

    key: str
    model: Model
    items: Vocab
    users: Vocab
    catalogue: pl.LazyFrame
    """One row per item code: ``id``, and ``title``, ``genres``, ... where known."""
    facts: Mapping[str, Any]
    """The whole of ``bundle.json``."""


def save(folder: Path, key: str, model: Model, data: Dataset, facts: Mapping[str, Any] | None = None) -> None:
    """Write ``model``, trained on ``data``, to ``folder`` in one step."""
    config = model.config.model_dump(mode="json")
    with write_folder(folder) as fresh:
        save_arrays(fresh / "arrays.safetensors", model.arrays())
        items = data.item_features.collect() if data.item_features is not None else pl.DataFrame({"id": data.items.ids})
        items.write_parquet(fresh / "items.parquet")
        pl.DataFrame({"id": data.users.ids}).write_parquet(fresh / "users.parquet")
        about = {
            "format": FORMAT,
            "segue": __version__,
            "model": key,
            "config": config,
            "domain": asdict(data.domain),
            **(facts or {}),
            "sha256": {path.name: sha256(path) for path in sorted(fresh.iterdir())},
        }
        write_json(fresh / "bundle.json", about)


def load(folder: Path) -> Bundle:
    """Read a bundle back; what was written by a newer format, or is broken, is a ``ValueError``."""
    facts = read_json(folder / "bundle.json")
    if facts["format"] != FORMAT:
        raise ValueError(f"{folder}: bundle format {facts['format']}, this Segue reads {FORMAT}")
    kind = model_class(facts["model"])
    config = parse(kind.Config, facts["config"], f"{folder}/bundle.json: config")
    domain = Domain(**facts["domain"] | {"actions": tuple(facts["domain"]["actions"])})
    model = kind(config, domain)
    model.restore(load_arrays(folder / "arrays.safetensors"))
    return Bundle(
        facts["model"],
        model,
        _vocab(folder / "items.parquet", domain.n_items),
        _vocab(folder / "users.parquet", domain.n_users),
        pl.scan_parquet(folder / "items.parquet"),
        facts,
    )


def _vocab(path: Path, size: int) -> Vocab:
    return Vocab(lambda: pl.read_parquet(path, columns=["id"])["id"], size)


def verify(folder: Path) -> list[str]:
    """What is wrong with the files of a bundle, one line each; empty when all hashes agree."""
    facts = read_json(folder / "bundle.json")
    faults = []
    for name, expected in facts["sha256"].items():
        path = folder / name
        if not path.exists():
            faults.append(f"{path}: missing")
        elif (found := sha256(path)) != expected:
            faults.append(f"{path}: sha256 {found}, expected {expected}")
    return faults
