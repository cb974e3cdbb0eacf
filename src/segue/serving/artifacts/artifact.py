"""A model artifact: a trained model in one self-contained folder.

The folder contains everything that the service needs. Layout:

- ``artifact.json``: metadata, and the SHA-256 of every file;
- ``bundle/``: the trained model;
- ``histories/``: the history of each user when the artifact was built;
- ``neighbors/``, ``popularity.npy``: fallbacks for when the model is unavailable;
- ``golden_queries.json``: queries and the trained model's recommendations;
- ``engine/``: the ONNX graph and the approximate index, if any.

Nothing is pickled; arrays are memory-mapped.

Shapes: I items, U users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel, load, save
from segue.core.events import check_codes, read_only
from segue.core.files import atomic_folder, map_array, read_json, write_checked_json, write_json
from segue.core.model import Factored, Recommender, Streaming
from segue.core.types import Codes, DataSchema, Events, Queries
from segue.serving.artifacts.ann_index import ANN_THRESHOLD, ApproximateIndex, ExactIndex, Index
from segue.serving.artifacts.item_neighbors import ItemNeighbors
from segue.serving.artifacts.manifest import (
    ANN_INDEX,
    BUNDLE_ARRAYS,
    GOLDEN_QUERIES,
    MANIFEST,
    ONNX_MODEL,
    POPULARITY,
    Manifest,
    file_sizes,
    hash_files,
    verify_artifact,
)
from segue.serving.engines.engine import Engine
from segue.serving.engines.golden_queries import (
    MIN_QUERIES,
    GoldenQueries,
    check_coverage,
    check_reproduction,
    sample_queries,
)
from segue.serving.engines.input_columns import COLUMNS, InputColumns, detect_input_columns
from segue.serving.engines.native import NativeEngine
from segue.serving.engines.open import open_engine, prepare_engine

__all__ = ["MANIFEST", "ModelArtifact", "build_artifact", "convert_errors", "load_artifact", "verify_artifact"]

HISTORY_ARRAYS: Mapping[str, Any] = {
    "offsets": np.int64,
    "items": np.int32,
    "actions": np.uint8,
    "values": np.float32,
    "times": np.int64,
    "time_known": np.bool_,
}
"""Type of each array of the histories; only the first two are required."""


@dataclass(frozen=True, eq=False)
class ModelArtifact:
    """A loaded model artifact."""

    name: str
    version: str
    """The first 12 digits of the SHA-256 of the model's arrays."""
    bundle: TrainedModel
    engine: Engine
    histories: Events | None
    """The history of each user of the bundle when the artifact was built."""
    last_sequence: int
    """Sequence number of the newest store event in the histories; 0: no event of the store."""
    neighbors: ItemNeighbors
    popularity: NDArray[np.float32]
    """``(I,)`` events of each item in the histories."""
    n_golden: int
    """Number of golden queries that the engine reproduced."""
    metadata: Mapping[str, Any]
    input_columns: tuple[str, ...]
    """Subset of ``actions``, ``values`` and ``times`` that the model reads."""
    uses_query_time: bool
    """Whether the model reads the time of the query."""
    user_features: tuple[str, ...]
    """Names of the user features in the data."""
    index: Index | None = None
    """Approximate index of a very large catalog, if one was built."""
    file_bytes: int = 0
    """Total size of all files."""

    @cached_property
    def supports_streaming(self) -> bool:
        """Whether the model can update a recurrent state.

        Cached, as the check reads every array of the model.
        """
        model = self.bundle.model
        return isinstance(model, Streaming) and not getattr(model, "is_cloze", False)

    @property
    def streaming_model(self) -> Streaming:
        """The model, typed as a streaming model."""
        return cast("Streaming", self.bundle.model)

    @cached_property
    def state_hash(self) -> str:
        """Hash of a streaming model's arrays, which its states carry."""
        return self.streaming_model.state(Queries.anonymous(Events.of([[]]))).model

    def with_items(self, bundle: TrainedModel, changed: Codes) -> ModelArtifact:
        """Return the artifact with another bundle, which has further items at its end.

        Args:
            bundle: made from that of this artifact by :func:`segue.features.new_items.extend_model`.
            changed: items that were added or whose features were replaced.
        """
        n_added = len(bundle.items) - len(self.bundle.items)
        engine = NativeEngine(bundle.model)
        index, model = self.index, engine.model
        if isinstance(index, ApproximateIndex) and isinstance(model, Factored):
            index = index.with_items(ExactIndex(model.vectors, model.bias), changed)
        return replace(
            self,
            bundle=bundle,
            engine=engine,
            neighbors=self.neighbors.with_items(n_added),
            popularity=read_only(np.pad(self.popularity, (0, n_added))),
            index=index,
        )


def build_artifact(
    name: str,
    bundle: TrainedModel,
    histories: Events | None,
    out: Path,
    *,
    engine: str = "auto",
    last_sequence: int = 0,
    n_golden: int = 64,
    metadata: Mapping[str, Any] | None = None,
    index_above: int = ANN_THRESHOLD,
) -> ModelArtifact:
    """Write an artifact to ``out`` atomically and load it.

    Args:
        name: the model's name in requests.
        histories: one row per user of ``bundle``, oldest event first.
        engine: ``native``, ``onnx``, or ``auto``: onnx if it is available and ranks as the trained model does.
        last_sequence: see :attr:`ModelArtifact.last_sequence`.
        n_golden: number of golden queries, at least
            :data:`segue.serving.engines.golden_queries.MIN_QUERIES`.
        metadata: further metadata, such as ``data``, ``trained`` and ``metrics``.
        index_above: number of items above which a factored model gets an approximate index.

    Raises:
        ValueError: the histories belong to other users; ``out`` contains something else; the engine is unknown,
            unavailable, or ranks differently from the trained model; an index is required and usearch is not installed.
    """
    model = bundle.model
    n_users, n_items = model.schema.n_users, model.schema.n_items
    if histories is not None and len(histories) != n_users:
        raise ValueError(f"histories: got {len(histories)} rows, expected one for each of {n_users} users of the model")
    if out.exists() and not (out / MANIFEST).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not a model artifact; choose another folder")
    if n_golden < MIN_QUERIES:
        raise ValueError(f"n_golden: got {n_golden}, expected at least {MIN_QUERIES}")
    queries = sample_queries(histories, n_items, n_golden)
    inputs = detect_input_columns(model, queries)
    cached = NativeEngine(model).model
    expected = GoldenQueries.from_model(cached, inputs.restrict(queries))
    with atomic_folder(out) as folder:
        engine_name, engine_note = prepare_engine(engine, model, folder / ONNX_MODEL, expected)
        save(folder / "bundle", bundle)
        if histories is not None:
            _write_histories(folder / "histories", histories, model.schema)
        (folder / "neighbors").mkdir()
        ItemNeighbors.from_histories(histories, n_items).write(folder / "neighbors")
        np.save(folder / POPULARITY, _count_popularity(histories, n_items), allow_pickle=False)
        write_json(folder / GOLDEN_QUERIES, expected.to_json())
        if n_items > index_above and isinstance(cached, Factored):
            (folder / ANN_INDEX).parent.mkdir(exist_ok=True)
            ApproximateIndex.build(ExactIndex(cached.vectors, cached.bias)).write(folder / ANN_INDEX)
        files = hash_files(folder)
        manifest = Manifest(
            name=name,
            key=bundle.key,
            version=files[BUNDLE_ARRAYS][:12],
            engine=engine_name,
            engine_note=engine_note,
            last_sequence=last_sequence,
            input_columns=inputs.columns,
            uses_query_time=inputs.uses_query_time,
            metadata=dict(metadata or {}),
            sha256=files,
        )
        write_checked_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        load_artifact(folder)
    return load_artifact(out)


def load_artifact(
    folder: Path, *, engine: str | None = None, threads: int = 0, providers: Sequence[str] | None = None
) -> ModelArtifact:
    """Load an artifact; verify its files and the rankings of its engine.

    Args:
        engine: ``native`` instead of the engine that the artifact was built for.
        threads: threads of an engine that has its own; 0: as many as other computations use.
        providers: ONNX Runtime providers in order of preference.

    Raises:
        ValueError: the folder is not an artifact or has another format, a file is missing or modified, the engine was
            not prepared or is not installed, or it ranks golden queries differently; the message names the file or
            query.
    """
    with convert_errors(folder):
        return _load_artifact(folder, engine, threads, providers)


@contextmanager
def convert_errors(folder: Path) -> Iterator[None]:
    """Convert all exceptions to a ``ValueError``.

    Content that matches its hash may still be malformed, and the libraries that read it raise all kinds of exceptions.
    """
    try:
        yield
    except ValueError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # the latter is no Exception
        raise ValueError(f"{folder}: malformed: {type(error).__name__}: {error}") from error


def _load_artifact(folder: Path, engine: str | None, threads: int, providers: Sequence[str] | None) -> ModelArtifact:
    manifest = Manifest.read(folder)
    if errors := verify_artifact(folder):
        raise ValueError("\n".join(errors))
    bundle = load(folder / "bundle")
    schema = bundle.model.schema
    facts = {"key": (manifest.key, bundle.key), "version": (manifest.version, manifest.sha256[BUNDLE_ARRAYS][:12])}
    if wrong := [name for name, (found, expected) in facts.items() if found != expected]:
        raise ValueError(f"{folder / MANIFEST}: {wrong[0]} is '{facts[wrong[0]][0]}', expected '{facts[wrong[0]][1]}'")
    bundle.users.encode([])  # read now, so that a malformed table is found now
    bundle.items.encode([])
    if (set_eval_mode := getattr(bundle.model, "eval", None)) is not None:
        set_eval_mode()  # once for a network; otherwise every request would switch all submodules back and forth
    opened_engine = open_engine(engine or manifest.engine, bundle.model, folder / ONNX_MODEL, threads, providers)
    model = opened_engine.model
    expected = GoldenQueries.from_json(read_json(folder / GOLDEN_QUERIES))
    histories = _read_histories(folder / "histories", bundle) if (folder / "histories").is_dir() else None
    check_coverage(expected, schema.n_users, schema.n_items, histories)
    _check_input_columns(manifest, bundle.model, expected, histories)
    if errors := check_reproduction(expected, model):
        raise ValueError("\n".join(f"{folder}: engine {opened_engine.name}: {line}" for line in errors))
    index = None
    if ANN_INDEX in manifest.sha256 and isinstance(model, Factored):
        index = ApproximateIndex.read(ExactIndex(model.vectors, model.bias), folder / ANN_INDEX)
    return ModelArtifact(
        manifest.name,
        manifest.version,
        bundle,
        opened_engine,
        histories,
        manifest.last_sequence,
        ItemNeighbors.read(folder / "neighbors", schema.n_items),
        _read_popularity(folder / POPULARITY, histories, schema.n_items),
        len(expected),
        {**manifest.metadata, "engine_note": manifest.engine_note},
        manifest.input_columns,
        manifest.uses_query_time,
        tuple(str(feature) for feature in bundle.metadata.get("user_features", ())),
        index,
        file_sizes(folder, manifest.sha256),
    )


def _check_input_columns(
    manifest: Manifest, model: Recommender, golden: GoldenQueries, histories: Events | None
) -> None:
    """Check that manifest and golden queries have the inputs of the model.

    Raises:
        ValueError: the model reads other inputs.
    """
    queries = sample_queries(histories, model.schema.n_items, len(golden))
    actual, found = detect_input_columns(model, queries), InputColumns(manifest.input_columns, manifest.uses_query_time)
    if found != actual:
        raise ValueError(f"{MANIFEST}: got {found}, expected {actual}, the inputs of the model")
    columns = {name for name in COLUMNS if getattr(golden.queries.history, name) is not None}
    expected = {name for name in COLUMNS if getattr(actual.restrict(queries).history, name) is not None}
    if columns != expected or (golden.queries.times is not None) != actual.uses_query_time:
        raise ValueError(f"golden queries: got {sorted(columns)}, expected {sorted(expected)}, the inputs of the model")


def _count_popularity(histories: Events | None, n_items: int) -> NDArray[np.float32]:
    if histories is None:
        return np.zeros(n_items, np.float32)
    return np.bincount(histories.items, minlength=n_items).astype(np.float32)


def _write_histories(folder: Path, histories: Events, schema: DataSchema) -> None:
    """Write the histories; context columns are named by their number in the schema."""
    folder.mkdir()
    for number, feature in enumerate(schema.event_context):
        if feature.name in histories.context:
            np.save(folder / f"context-{number}.npy", histories.context[feature.name], allow_pickle=False)
    for name, array in {"offsets": histories.offsets, **histories.columns()}.items():
        if name in HISTORY_ARRAYS:
            np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _read_popularity(path: Path, histories: Events | None, n_items: int) -> NDArray[np.float32]:
    popularity_I: NDArray[np.float32] = read_only(map_array(path, np.float32))
    if len(popularity_I) != n_items or not np.array_equal(popularity_I, _count_popularity(histories, n_items)):
        raise ValueError(f"{path}: malformed: expected the number of events in the histories of {n_items} items")
    return popularity_I


def _read_histories(folder: Path, bundle: TrainedModel) -> Events:
    arrays: dict[str, Any] = {
        name: map_array(folder / f"{name}.npy", dtype)
        for name, dtype in HISTORY_ARRAYS.items()
        if (folder / f"{name}.npy").exists()
    }
    context = {name: arrays.pop(name) for name in ("time_known",) if name in arrays}
    schema = bundle.model.schema
    try:
        context |= _read_context(folder, schema)
        histories = Events(**arrays, context=context)
        check_codes(histories, schema.n_users, schema.n_items, max(1, len(schema.actions)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: malformed: {error}") from None
    if histories.values is not None and np.isinf(histories.values).any():
        raise ValueError(f"{folder / 'values.npy'}: malformed: a value is infinite")
    return histories


def _read_context(folder: Path, schema: DataSchema) -> dict[str, NDArray[Any]]:
    """Read the context columns of the histories.

    Raises:
        ValueError: a code is not that of a category, or a number is infinite.
    """
    context: dict[str, NDArray[Any]] = {}
    for number, feature in enumerate(schema.event_context):
        path, is_category = folder / f"context-{number}.npy", feature.kind == "category"
        if not path.exists():
            continue
        column = map_array(path, np.int32 if is_category else np.float32)
        is_wrong = (column < -1) | (column >= len(feature.categories)) if is_category else np.isinf(column)
        if is_wrong.any():
            expected = f"-1 to {len(feature.categories) - 1}" if is_category else "finite numbers"
            raise ValueError(f"{path.name}: got {column[is_wrong][0]}, expected {expected}")
        context[feature.name] = column
    return context
