"""A publication: all that the service needs of a trained model, in one folder that stands alone.

``publication.json`` tells what it is and has the SHA-256 of every file; ``bundle/`` the trained model; ``histories/``
what its people had when it was published; ``neighbours/`` and ``popularity.npy`` what answers when the model cannot;
``golden.json`` questions with the trained model's answers; ``engine/`` what an engine runs instead of the model.
Nothing is pickled, arrays stay on disk until they are looked at.

Shapes: I items, U users.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segue.core.bundle import Bundle, load, write
from segue.core.config import Settings, parse, suggest
from segue.core.events import frozen
from segue.core.files import read_json, sha256, write_folder, write_json
from segue.core.model import Model
from segue.core.types import Events, Queries
from segue.serving.engines.engine import Engine
from segue.serving.engines.native import Native
from segue.serving.golden import Golden, askers, check
from segue.serving.neighbours import Neighbours
from segue.serving.reads import COLUMNS, Column, Reads, reads

__all__ = ["FORMAT", "MANIFEST", "Publication", "open_publication", "publish", "verify"]

FORMAT = 1

MANIFEST = "publication.json"

ARRAYS = "bundle/arrays.safetensors"
GRAPH = "engine/model.onnx"

NEEDED = ("bundle/bundle.json", ARRAYS, "bundle/items.parquet", "bundle/users.parquet", "golden.json",
          "popularity.npy", "neighbours/codes.npy", "neighbours/likeness.npy", "neighbours/lengths.npy")  # fmt: skip

HISTORIES = ("offsets", "items", *COLUMNS, "time_known")

ENGINES = ("auto", "native", "onnx")


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
    if engine not in ENGINES:
        raise ValueError(f"engine: unknown '{engine}'{suggest(engine, ENGINES)}")
    if histories is not None and len(histories) != domain.n_users:
        raise ValueError(f"publish: {len(histories)} histories for {domain.n_users} users of the model")
    if out.exists() and not (out / MANIFEST).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is no publication; give another folder")
    asked = askers(histories, domain.n_items, golden)
    read = reads(trained.model, asked)
    expected = Golden.of(Native(trained.model).model, _told(asked, read))
    with write_folder(out) as fresh:
        write(fresh / "bundle", trained)
        if histories is not None:
            _write_histories(fresh / "histories", histories)
        (fresh / "neighbours").mkdir()
        Neighbours.found(histories, domain.n_items).write(fresh / "neighbours")
        np.save(fresh / "popularity.npy", _popularity(histories, domain.n_items), allow_pickle=False)
        write_json(fresh / "golden.json", expected.to_json())
        chosen, note = _build(engine, trained.model, fresh, expected)
        files = sorted(path for path in fresh.rglob("*") if path.is_file())
        hashes = {path.relative_to(fresh).as_posix(): sha256(path) for path in files}
        about = Manifest(
            name=name,
            key=trained.key,
            version=hashes[ARRAYS][:12],
            engine=chosen,
            engine_note=note,
            place=place,
            columns=read.columns,
            tells_time=read.asked,
            facts=dict(facts or {}),
            sha256=hashes,
        )
        write_json(fresh / MANIFEST, about.model_dump(mode="json"))
        open_publication(fresh)
    return open_publication(out)


def open_publication(
    folder: Path, *, engine: str | None = None, threads: int = 0, providers: Sequence[str] | None = None
) -> Publication:
    """Read a publication back, see that every file is as it was written, and that the engine ranks as it must.

    Args:
        engine: ``native`` instead of the one it was published for.
        threads: of an engine with threads of its own; 0: as many as other computations have.
        providers: of ONNX Runtime, by name, those to try first to last.

    Raises:
        ValueError: not a publication, one of a newer format, a file that is missing or was changed, an engine that it
            was not published for or that is not installed, or golden queries that the engine ranks otherwise; the file
            or the query is named.
    """
    about = _manifest(folder)
    if faults := verify(folder):
        raise ValueError("\n".join(faults))
    bundle = load(folder / "bundle")
    live = _engine(engine or about.engine, bundle.model, folder, about, threads, providers)
    expected = Golden.from_json(read_json(folder / "golden.json"))
    if wrong := check(expected, live.model):
        raise ValueError("\n".join(f"{folder}: engine {live.name}: {line}" for line in wrong))
    return Publication(
        about.name,
        about.version,
        bundle,
        live,
        _histories(folder / "histories") if (folder / "histories").is_dir() else None,
        about.place,
        Neighbours.read(folder / "neighbours"),
        frozen(np.load(folder / "popularity.npy", mmap_mode="r", allow_pickle=False)),
        len(expected),
        {**about.facts, "engine_note": about.engine_note},
        about.columns,
        about.tells_time,
        tuple(str(feature) for feature in bundle.facts.get("user_features", ())),
    )


def verify(folder: Path) -> list[str]:
    """What is wrong with the files of a publication, one line each; empty when all hashes agree."""
    hashes = _manifest(folder).sha256
    faults = [f"{folder / name}: not in {MANIFEST}" for name in NEEDED if name not in hashes]
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif (found := sha256(path)) != expected:
            faults.append(f"{path}: sha256 {found}, expected {expected}")
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return faults + [f"{folder / name}: not in {MANIFEST}" for name in there if name not in {*hashes, MANIFEST}]


def _manifest(folder: Path) -> Manifest:
    about = read_json(folder / MANIFEST)
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise ValueError(f"{folder / MANIFEST}: not the manifest of a publication")
    if about["format"] > FORMAT:
        raise ValueError(f"{folder}: publication format {about['format']}, this Segue reads {FORMAT}")
    return parse(Manifest, about, str(folder / MANIFEST))


def _told(asked: Queries, read: Reads) -> Queries:
    """With the columns that are read alone, and the moment where it is told: an hour after the newest event."""
    kept: dict[str, Any] = {name: None for name in COLUMNS if name not in read.columns}
    told = replace(asked, history=replace(asked.history, context={}, **kept))
    if not read.asked:
        return told
    newest = 0 if asked.history.times is None else int(asked.history.times.max(initial=0))
    return replace(told, times=np.full(len(asked), newest + 3_600))


def _build(engine: str, trained: Model, folder: Path, expected: Golden) -> tuple[Literal["native", "onnx"], str]:
    """The engine that is published for, with what it needs in ``folder``, and why it is no other.

    Raises:
        ValueError: the engine was asked for by name, and cannot be had or ranks otherwise.
    """
    if engine == "native":
        return "native", "asked for"
    from segue.serving.engines import onnx

    try:
        if why := onnx.refusal(trained):
            raise ValueError(f"onnx: {why}")
        (folder / GRAPH).parent.mkdir()
        onnx.export(trained, folder / GRAPH)
        if wrong := check(expected, onnx.Onnx(trained, folder / GRAPH).model):
            raise ValueError("\n".join(f"onnx: {line}" for line in wrong))
    except ValueError as error:
        if engine == "onnx":
            raise
        shutil.rmtree((folder / GRAPH).parent, ignore_errors=True)
        return "native", str(error).splitlines()[0]
    return "onnx", ""


def _engine(
    name: str, trained: Model, folder: Path, about: Manifest, threads: int, providers: Sequence[str] | None
) -> Engine:
    if name == "native":
        return Native(trained)
    if name != "onnx":
        raise ValueError(f"engine: unknown '{name}'{suggest(name, ['native', 'onnx'])}")
    if GRAPH not in about.sha256:
        raise ValueError(f"{folder}: published without onnx: {about.engine_note}")
    from segue.serving.engines.onnx import Onnx

    return Onnx(trained, folder / GRAPH, threads, providers)


def _popularity(histories: Events | None, n_items: int) -> NDArray[np.float32]:
    if histories is None:
        return np.zeros(n_items, np.float32)
    return np.bincount(histories.items, minlength=n_items).astype(np.float32)


def _write_histories(folder: Path, histories: Events) -> None:
    folder.mkdir()
    for name, array in {"offsets": histories.offsets, **histories.columns()}.items():
        if name in HISTORIES:
            np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _histories(folder: Path) -> Events:
    arrays: dict[str, Any] = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in HISTORIES
        if (folder / f"{name}.npy").exists()
    }
    context = {name: arrays.pop(name) for name in ("time_known",) if name in arrays}
    return Events(**arrays, context=context)
