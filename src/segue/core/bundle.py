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
from segue.core.types import Dataset, Domain, Feature, Vocab

__all__ = ["Bundle", "load", "of", "save", "verify", "write"]

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
    """What else is known of it; after reading, the whole of ``bundle.json``."""


def of(key: str, model: Model, data: Dataset, facts: Mapping[str, Any] | None = None) -> Bundle:
    """``model``, trained on ``data``, with the catalogue of ``data``; ``facts`` are what else is to be known of it."""
    items = data.item_features
    catalogue = pl.LazyFrame({"id": data.items.ids}) if items is None else items
    return Bundle(key, model, data.items, data.users, catalogue, facts or {})


def save(folder: Path, key: str, model: Model, data: Dataset, facts: Mapping[str, Any] | None = None) -> None:
    """Write ``model``, trained on ``data``, to ``folder`` in one step."""
    write(folder, of(key, model, data, facts))


def write(folder: Path, bundle: Bundle) -> None:
    """Write a bundle to ``folder`` in one step."""
    with write_folder(folder) as fresh:
        save_arrays(fresh / "arrays.safetensors", bundle.model.arrays())
        bundle.catalogue.collect().write_parquet(fresh / "items.parquet")
        pl.DataFrame({"id": bundle.users.ids}).write_parquet(fresh / "users.parquet")
        about = {
            **bundle.facts,
            "format": FORMAT,
            "segue": __version__,
            "model": bundle.key,
            "config": bundle.model.config.model_dump(mode="json"),
            "domain": asdict(bundle.model.domain),
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
    domain = _domain(facts["domain"])
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


def _domain(values: Mapping[str, Any]) -> Domain:
    """A domain as JSON has it; an older bundle tells of no features."""
    tuples: dict[str, Any] = {"actions": tuple(values["actions"])}
    for name in ("item_features", "user_features"):
        listed = [{**feature, "categories": tuple(feature["categories"])} for feature in values.get(name, [])]
        tuples[name] = tuple(Feature(**feature) for feature in listed)
    return Domain(**{**values, **tuples})


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
