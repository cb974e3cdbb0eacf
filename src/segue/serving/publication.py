"""A publication: all that the service needs of a trained model, in one folder that stands alone.

``publication.json`` tells what it is and has the SHA-256 of every file; ``bundle/`` the trained model; ``histories/``
what its people had when it was published; ``neighbours/`` and ``popularity.npy`` what answers when the model cannot;
``golden.json`` questions with the trained model's answers; ``engine/`` what an engine runs instead of the model.
Nothing is pickled, arrays stay on disk until they are looked at.

Shapes: I items, U users.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue import __version__
from segue.core.bundle import Bundle, load, write
from segue.core.config import suggest
from segue.core.events import frozen
from segue.core.files import read_json, sha256, write_folder, write_json
from segue.core.types import Events
from segue.serving.engines.engine import Engine
from segue.serving.engines.native import Native
from segue.serving.golden import Golden, askers, check, golden
from segue.serving.neighbours import Neighbours
from segue.serving.reads import COLUMNS, reads

__all__ = ["FORMAT", "MANIFEST", "Publication", "open_publication", "publish", "verify"]

FORMAT = 1

MANIFEST = "publication.json"

NEEDED = ("bundle/bundle.json", "bundle/arrays.safetensors", "bundle/items.parquet", "bundle/users.parquet",
          "golden.json", "popularity.npy")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Publication:
    """A model that is ready to answer."""

    name: str
    version: str
    """The first 12 digits of the SHA-256 of what the model learned."""
    bundle: Bundle
    engine: Engine
    histories: Events | None
    """Of every user of the bundle what he had when it was published."""
    place: int
    """In the store's order, the newest event that the histories hold; 0: none of the store."""
    neighbours: Neighbours
    popularity: NDArray[np.float32]
    """``(I,)`` events of each item in the histories."""
    golden: int
    """Golden queries that the engine ranked as the trained model does."""
    facts: Mapping[str, Any]
    columns: tuple[str, ...]
    """Of ``actions``, ``values`` and ``times`` those that the model reads."""
    tells_time: bool
    """Whether the model reads the moment of asking."""
    user_features: tuple[str, ...]
    """What the data had of its users, by name."""


def publish(
    name: str,
    trained: Bundle,
    histories: Events | None,
    out: Path,
    *,
    engine: str = "auto",
    place: int = 0,
    golden: int = 64,
    facts: Mapping[str, Any] | None = None,
) -> Publication:
    """Write a publication to ``out`` in one step, and open it.

    Args:
        name: what requests call it.
        histories: one row per user of ``trained``, oldest event first.
        engine: ``native``, ``onnx``, or ``auto``: onnx where it can be had and ranks as the trained model does.
        place: see :attr:`Publication.place`.
        golden: golden queries.
        facts: what else is to be known of it, such as ``data``, ``trained`` and ``metrics``.

    Raises:
        ValueError: the histories are of other users; ``out`` holds something else; the engine is not known, cannot be
            had, or ranks otherwise than the trained model.
    """
    domain = trained.model.domain
    if histories is not None and len(histories) != domain.n_users:
        raise ValueError(f"publish: {len(histories)} histories for {domain.n_users} users of the model")
    if out.exists() and not (out / MANIFEST).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is no publication; give another folder")
    if engine not in ("auto", "native"):
        raise ValueError(f"engine: unknown '{engine}'{suggest(engine, ['auto', 'native', 'onnx'])}")
    asked = askers(histories, domain.n_items, golden)
    read = reads(trained.model, asked)
    with write_folder(out) as fresh:
        write(fresh / "bundle", trained)
        if histories is not None:
            _write_histories(fresh / "histories", histories, read.columns)
        (fresh / "neighbours").mkdir()
        Neighbours.found(histories, domain.n_items).write(fresh / "neighbours")
        np.save(fresh / "popularity.npy", _popularity(histories, domain.n_items), allow_pickle=False)
        write_json(fresh / "golden.json", _golden(trained, asked, read.columns).to_json())
        files = sorted(path for path in fresh.rglob("*") if path.is_file())
        hashes = {path.relative_to(fresh).as_posix(): sha256(path) for path in files}
        about = {
            "format": FORMAT,
            "segue": __version__,
            "name": name,
            "key": trained.key,
            "version": hashes["bundle/arrays.safetensors"][:12],
            "engine": "native",
            "engine_note": "",
            "place": place,
            "columns": list(read.columns),
            "tells_time": read.asked,
            "facts": dict(facts or {}),
            "sha256": hashes,
        }
        write_json(fresh / MANIFEST, about)
        open_publication(fresh)
    return open_publication(out)


def open_publication(folder: Path, *, engine: str | None = None) -> Publication:
    """Read a publication back, see that every file is as it was written, and that the engine ranks as it must.

    Args:
        engine: another than the one it was published for, such as ``native``.

    Raises:
        ValueError: not a publication, one of a newer format, a file that is missing or was changed, or golden queries
            that the engine ranks otherwise; the file or the query is named.
    """
    about = _manifest(folder)
    if faults := verify(folder):
        raise ValueError("\n".join(faults))
    bundle = load(folder / "bundle")
    live: Engine = Native(bundle.model)
    expected = Golden.from_json(read_json(folder / "golden.json"))
    if wrong := check(expected, live.model):
        raise ValueError("\n".join(f"{folder}: engine {live.name}: {line}" for line in wrong))
    histories = _histories(folder / "histories") if (folder / "histories").is_dir() else None
    facts = {**about["facts"], "engine_note": about["engine_note"]}
    return Publication(
        about["name"],
        about["version"],
        bundle,
        live,
        histories,
        int(about["place"]),
        Neighbours.read(folder / "neighbours"),
        frozen(np.load(folder / "popularity.npy", mmap_mode="r", allow_pickle=False)),
        len(expected),
        facts,
        tuple(about["columns"]),
        bool(about["tells_time"]),
        tuple(str(feature) for feature in bundle.facts.get("user_features", ())),
    )


def verify(folder: Path) -> list[str]:
    """What is wrong with the files of a publication, one line each; empty when all hashes agree."""
    hashes: Mapping[str, str] = _manifest(folder)["sha256"]
    faults = [f"{folder / name}: not in {MANIFEST}" for name in NEEDED if name not in hashes]
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif (found := sha256(path)) != expected:
            faults.append(f"{path}: sha256 {found}, expected {expected}")
    return faults


def _manifest(folder: Path) -> Any:
    about = read_json(folder / MANIFEST)
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise ValueError(f"{folder / MANIFEST}: not the manifest of a publication")
    if about["format"] > FORMAT:
        raise ValueError(f"{folder}: publication format {about['format']}, this Segue reads {FORMAT}")
    return about


def _golden(trained: Bundle, asked: Any, columns: tuple[str, ...]) -> Golden:
    from dataclasses import replace

    history = replace(asked.history, **{name: None for name in COLUMNS if name not in columns}, context={})
    return golden(trained.model, replace(asked, history=history))


def _popularity(histories: Events | None, n_items: int) -> NDArray[np.float32]:
    if histories is None:
        return np.zeros(n_items, np.float32)
    return np.bincount(histories.items, minlength=n_items).astype(np.float32)


def _write_histories(folder: Path, histories: Events, columns: tuple[str, ...]) -> None:
    folder.mkdir()
    there = histories.columns()
    for name, array in {"offsets": histories.offsets, **there}.items():
        if name in ("offsets", "items", *COLUMNS):
            np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _histories(folder: Path) -> Events:
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("offsets", "items", *COLUMNS)
        if os.path.exists(folder / f"{name}.npy")
    }
    return Events(**arrays)
