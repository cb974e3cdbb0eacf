"""A publication: all that the service needs of a trained model, in one folder that stands alone.

``publication.json`` tells what it is and has the SHA-256 of every file; ``bundle/`` the trained model; ``histories/``
what its people had when it was published; ``neighbours/`` and ``popularity.npy`` what answers when the model cannot;
``golden.json`` questions with the trained model's answers; ``engine/`` what an engine runs instead of the model.
Nothing is pickled, arrays stay on disk until they are looked at.

Shapes: I items, U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from segue.core.bundle import Bundle, load, write
from segue.core.events import frozen
from segue.core.files import read_json, write_folder, write_json
from segue.core.model import Factored, Streaming
from segue.core.types import Events
from segue.serving.artifacts.ann_index import LARGE, ApproximateIndex, ExactIndex, Index
from segue.serving.artifacts.item_neighbors import Neighbours
from segue.serving.artifacts.manifest import (
    ARRAYS,
    GOLDEN,
    GRAPH,
    INDEX,
    MANIFEST,
    POPULARITY,
    Manifest,
    hashes,
    verify,
)
from segue.serving.engines.engine import Engine
from segue.serving.engines.golden_queries import Golden, askers, check
from segue.serving.engines.input_columns import COLUMNS, reads
from segue.serving.engines.native import Native
from segue.serving.engines.open import open_engine, prepare

__all__ = ["MANIFEST", "Publication", "open_publication", "publish", "verify"]

HISTORIES = ("offsets", "items", *COLUMNS, "time_known")


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
    index: Index | None = None
    """What finds the best items of a very large catalogue, where it was asked for."""

    @cached_property
    def streams(self) -> bool:
        """Whether the model goes on from a state; asked for once, as it looks at every array of the model."""
        model = self.bundle.model
        return isinstance(model, Streaming) and not getattr(model, "cloze", False)

    @property
    def streaming(self) -> Streaming:
        """The model, where it goes on from a state."""
        return cast("Streaming", self.bundle.model)


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
    index_above: int = LARGE,
) -> Publication:
    """Write a publication to ``out`` in one step, and open it.

    Args:
        name: what requests call it.
        histories: one row per user of ``trained``, oldest event first.
        engine: ``native``, ``onnx``, or ``auto``: onnx where it can be had and ranks as the trained model does.
        place: see :attr:`Publication.place`.
        golden: golden queries.
        facts: what else is to be known of it, such as ``data``, ``trained`` and ``metrics``.
        index_above: items of a factored model above which a graph is built that finds the best without looking at all.

    Raises:
        ValueError: the histories are of other users; ``out`` holds something else; the engine is not known, cannot be
            had, or ranks otherwise than the trained model; a graph is to be built, and usearch is not installed.
    """
    model = trained.model
    n_users, n_items = model.domain.n_users, model.domain.n_items
    if histories is not None and len(histories) != n_users:
        raise ValueError(f"publish: {len(histories)} histories for {n_users} users of the model")
    if out.exists() and not (out / MANIFEST).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is no publication; give another folder")
    asked = askers(histories, n_items, golden)
    read = reads(model, asked)
    held = Native(model).model
    expected = Golden.of(held, read.told(asked))
    with write_folder(out) as fresh:
        chosen, note = prepare(engine, model, fresh / GRAPH, expected)
        write(fresh / "bundle", trained)
        if histories is not None:
            _write_histories(fresh / "histories", histories)
        (fresh / "neighbours").mkdir()
        Neighbours.found(histories, n_items).write(fresh / "neighbours")
        np.save(fresh / POPULARITY, _popularity(histories, n_items), allow_pickle=False)
        write_json(fresh / GOLDEN, expected.to_json())
        if n_items > index_above and isinstance(held, Factored):
            (fresh / INDEX).parent.mkdir(exist_ok=True)
            ApproximateIndex.built(ExactIndex(held.vectors, held.bias)).write(fresh / INDEX)
        files = hashes(fresh)
        about = Manifest(
            name=name,
            key=trained.key,
            version=files[ARRAYS][:12],
            engine=chosen,
            engine_note=note,
            place=place,
            columns=read.columns,
            tells_time=read.asked,
            facts=dict(facts or {}),
            sha256=files,
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
    about = Manifest.read(folder)
    if faults := verify(folder):
        raise ValueError("\n".join(faults))
    bundle = load(folder / "bundle")
    if (answering := getattr(bundle.model, "eval", None)) is not None:
        answering()  # a network, for good: otherwise each answer would turn all its parts to and fro
    live = open_engine(engine or about.engine, bundle.model, folder / GRAPH, threads, providers)
    model = live.model
    expected = Golden.from_json(read_json(folder / GOLDEN))
    if wrong := check(expected, model):
        raise ValueError("\n".join(f"{folder}: engine {live.name}: {line}" for line in wrong))
    index = None
    if INDEX in about.sha256 and isinstance(model, Factored):
        index = ApproximateIndex.read(ExactIndex(model.vectors, model.bias), folder / INDEX)
    return Publication(
        about.name,
        about.version,
        bundle,
        live,
        _histories(folder / "histories") if (folder / "histories").is_dir() else None,
        about.place,
        Neighbours.read(folder / "neighbours"),
        frozen(np.load(folder / POPULARITY, mmap_mode="r", allow_pickle=False)),
        len(expected),
        {**about.facts, "engine_note": about.engine_note},
        about.columns,
        about.tells_time,
        tuple(str(feature) for feature in bundle.facts.get("user_features", ())),
        index,
    )


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
