"""The manifest of a publication: what it is, and the SHA-256 of every file in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from segue.core.config import Settings, parse
from segue.core.files import read_json, sha256
from segue.serving.engines.input_columns import Column

__all__ = ["ARRAYS", "FORMAT", "GOLDEN", "GRAPH", "INDEX", "MANIFEST", "POPULARITY", "Manifest", "hashes", "verify"]

FORMAT = 1

MANIFEST = "publication.json"

ARRAYS = "bundle/arrays.safetensors"
GOLDEN = "golden.json"
GRAPH = "engine/model.onnx"
INDEX = "engine/items.usearch"
POPULARITY = "popularity.npy"

NEEDED = ("bundle/bundle.json", ARRAYS, "bundle/items.parquet", "bundle/users.parquet", GOLDEN, POPULARITY,
          "neighbours/codes.npy", "neighbours/likeness.npy", "neighbours/lengths.npy")  # fmt: skip
"""What every publication has."""


class Manifest(Settings):
    """What ``publication.json`` tells."""

    format: int = FORMAT
    name: str
    key: str
    version: str
    engine: Literal["native", "onnx"]
    engine_note: str
    """Why it is no other engine."""
    place: int
    columns: tuple[Column, ...]
    tells_time: bool
    facts: dict[str, Any]
    sha256: dict[str, str]
    """By file, with ``/`` between folders; every file but the manifest."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in a folder.

        Raises:
            ValueError: there is none, it is broken, or of a newer format.
        """
        about = read_json(folder / MANIFEST)
        if not isinstance(about, dict) or not isinstance(about.get("format"), int):
            raise ValueError(f"{folder / MANIFEST}: not the manifest of a publication")
        if about["format"] > FORMAT:
            raise ValueError(f"{folder}: publication format {about['format']}, this Segue reads {FORMAT}")
        return parse(cls, about, str(folder / MANIFEST))


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file but the manifest, by its name in the folder."""
    return {name: sha256(folder / name) for name in _files(folder)}


def verify(folder: Path) -> list[str]:
    """What is wrong with the files of a publication, one line each; empty when all hashes agree.

    Raises:
        ValueError: see :meth:`Manifest.read`.
    """
    expected = Manifest.read(folder).sha256
    faults = [f"{folder / name}: not in {MANIFEST}" for name in NEEDED if name not in expected]
    for name, hashed in expected.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif (found := sha256(path)) != hashed:
            faults.append(f"{path}: sha256 {found}, expected {hashed}")
    return faults + [f"{folder / name}: not in {MANIFEST}" for name in _files(folder) if name not in expected]


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST)
