"""Loaded models: which one is active, and switching between them under load.

The active model is recorded in the store, so that all processes that share the store agree, also after a restart.
Models of the library are loaded when they are needed and unloaded, least recently used first, when others need their
memory.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from segue.core.config import suggest
from segue.core.model import is_factored
from segue.core.types import DataSchema, Feature
from segue.serving import schemas
from segue.serving.artifacts.artifact import ModelArtifact, convert_errors, load_artifact
from segue.serving.artifacts.manifest import Manifest, file_sizes
from segue.serving.catalog.catalog import Catalog
from segue.serving.model_library import Fingerprint, ModelLibrary
from segue.serving.rules.rerank import compile_rules
from segue.serving.stores.store import Store

__all__ = ["InsufficientMemory", "LoadedModel", "ModelRegistry", "UnknownModel"]

ACTIVE_SETTING = "models"
"""Name of the store setting that holds the active model and the previous one."""

ID_BYTES = 200
"""Approximate memory per user or item for the table that maps its id to its code."""

RETRY_SECONDS = 10.0
"""Time after which a model that could not be loaded is tried again, if its manifest has not changed before."""

logger = logging.getLogger("segue.serving")


class UnknownModel(ValueError):
    """There is no model of this name."""


class InsufficientMemory(ValueError):
    """A model needs more memory than the loaded models leave."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to answer requests."""

    artifact: ModelArtifact
    catalog: Catalog
    info: schemas.ModelInfo
    size_bytes: int = 0
    """Approximate memory: all files of the artifact, including those that are memory-mapped and that the system may
    drop from memory; the tables of ids; and the item vectors. Caches of rules, at most 64 MB, are not included."""

    base: LoadedModel | None = None
    """The model without added items; ``None``: it has none."""
    items_sequence: int = 0
    """Sequence number of the last change of items that the model has; see
    :class:`segue.serving.catalog.added_items.AddedItems`."""

    @classmethod
    def from_artifact(cls, artifact: ModelArtifact, default_rules: schemas.Rules) -> Self:
        """Build the catalog of an artifact and check the default rules against it.

        Raises:
            ValueError: the table of items is malformed, or the default rules do not fit it.
        """
        fields = {"name": artifact.name, "key": artifact.bundle.key, "version": artifact.version}
        info = schemas.ModelInfo(**fields, engine=artifact.engine.name)
        with convert_errors(artifact.bundle.folder or Path()):  # the table of items may contain anything
            catalog = Catalog(artifact.bundle, artifact.popularity)
            catalog.build_indexes()
        compile_rules(schemas.Rules(), default_rules, catalog)
        model, n_ids = artifact.engine.model, len(artifact.bundle.users) + len(artifact.bundle.items)
        vector_bytes = model.vectors.nbytes + model.bias.nbytes if is_factored(model) else 0
        return cls(artifact, catalog, info, artifact.file_bytes + ID_BYTES * n_ids + vector_bytes)


@dataclass(frozen=True)
class _Failure:
    fingerprint: Fingerprint
    time: float
    message: str


class ModelRegistry:
    """Model artifacts by name; thread-safe.

    Args:
        folders: artifacts to load at once, which stay loaded; the first is active unless the store names another.
        store: keeps the name of the active model.
        library: a folder of further artifacts, one per subfolder.
        on_load: called with each loaded model; may reject it with a ``ValueError``.
        default_rules: rules that apply to every response.
        threads: threads of the engines; see :func:`segue.serving.artifacts.artifact.load_artifact`.
        max_bytes: limit on the memory of the models that were loaded from the library; 0: no limit.
        on_unload: called with each model that is unloaded; must be quick.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        store: Store,
        library: Path | None = None,
        on_load: Callable[[LoadedModel], None] = lambda model: None,
        default_rules: schemas.Rules = schemas.Rules(),  # noqa: B008 - frozen
        threads: int = 0,
        *,
        max_bytes: int = 0,
        on_unload: Callable[[LoadedModel], None] = lambda model: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._library, self._default_rules = store, ModelLibrary(library), default_rules
        self._on_load, self._on_unload, self._threads, self._clock = on_load, on_unload, threads, clock
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        """Guards the attributes below; nothing is loaded while it is held."""
        self._switch_lock = threading.Lock()
        self._loaded: dict[str, LoadedModel] = {}
        self._last_used: dict[str, float] = {}
        self._loads: dict[str, Future[LoadedModel]] = {}
        self._reserved: Counter[str] = Counter()
        """Bytes of the models that are being loaded."""
        self._failures: dict[str, _Failure] = {}
        self._kept: dict[str, frozenset[str]] = {}
        self._in_use: Counter[str] = Counter()
        for folder in folders:
            self._load_given(folder)
        if not self._loaded:
            raise ValueError("models: got none, expected at least one model artifact")
        self._given = frozenset(self._loaded)
        self._active = next(iter(self._loaded.values()))
        self._previous: str | None = None
        self.sync_active()

    @property
    def active(self) -> LoadedModel:
        """The model for requests that do not name one."""
        return self._active

    @property
    def previous(self) -> str | None:
        """The name of the previously active model."""
        return self._previous

    def names(self) -> list[str]:
        """Return the names of all available models, loaded or not.

        Those of the library whose manifest is broken, or of a model of another name, are left out.
        """
        return list(dict.fromkeys([*self._loaded.copy(), *self._library.manifests()]))

    def has(self, name: str) -> bool:
        """Return whether there is a model of this name, even if it cannot be loaded."""
        return name in self._loaded or self._library.path(name) is not None

    def unloaded_manifests(self) -> dict[str, Manifest]:
        """Return the manifests of available models that are not loaded, by name.

        Manifests that cannot be read are left out.
        """
        return {name: one for name, one in self._library.manifests().items() if name not in self._loaded}

    def loaded(self) -> list[LoadedModel]:
        """Return the loaded models."""
        with self._lock:
            return list(self._loaded.values())

    def context_columns(self, schema: DataSchema | None = None) -> list[Feature]:
        """Return the context columns that loaded models read, those of ``schema`` first.

        A column of another model is no error in a request, because experiments choose the model.
        """
        own = () if schema is None else schema.event_context
        others = (feature for one in self.loaded() for feature in one.artifact.bundle.model.schema.event_context)
        columns: dict[str, Feature] = {}
        for feature in (*own, *self.active.artifact.bundle.model.schema.event_context, *others):
            columns.setdefault(feature.name, feature)
        return list(columns.values())

    def get(self, name: str | None) -> LoadedModel | None:
        """Return the model named ``name`` if it is loaded; ``None``: the active model."""
        if name is None:
            return self.active
        with self._lock:
            if (model := self._loaded.get(name)) is not None:
                self._last_used[name] = self._clock()
            return model

    def find(self, name: str | None) -> LoadedModel:
        """Return the model named ``name``, loading it if necessary.

        Concurrent calls for the same model load it once, and calls for other models do not wait for each other. A model
        that could not be loaded is not tried again for some seconds, unless its manifest changes.

        Args:
            name: ``None``: the active model.

        Raises:
            UnknownModel: there is no such model.
            InsufficientMemory: it does not fit into the memory, even after unloading others.
            ValueError: it cannot be loaded. The message is for the operator: it may contain paths and hashes.
        """
        if (model := self.get(name)) is not None or name is None:
            return self.active if model is None else model
        with self._lock:
            if (model := self._loaded.get(name)) is not None:
                return model
            running = self._loads.get(name)
            future = self._loads.setdefault(name, Future())
        if running is not None:
            return running.result()
        try:
            model = self._load_from_library(name)
        except BaseException as error:
            future.set_exception(error)
            raise
        else:
            future.set_result(model)
        finally:
            with self._lock:
                del self._loads[name]
        return model

    def replace(self, old: LoadedModel, new: LoadedModel) -> None:
        """Replace a loaded model by the same model with other items.

        Nothing happens if it was replaced or unloaded meanwhile.
        """
        with self._lock:
            if self._loaded.get(old.info.name) is old:
                self._loaded[old.info.name] = new
                if self._active is old:
                    self._active = new

    def newest(self, model: LoadedModel) -> LoadedModel:
        """Return the same model with the current items.

        If it is no longer loaded, return ``model``.
        """
        current = self._loaded.get(model.info.name)
        return model if current is None or current.info is not model.info else current

    @property
    def default_rules(self) -> schemas.Rules:
        """Rules that apply to every response."""
        return self._default_rules

    def keep_loaded(self, names: Sequence[str], purpose: str = "experiments") -> None:
        """Load models and keep them loaded.

        Those that were kept for the same purpose before may be unloaded again.

        Raises:
            ValueError: see :meth:`find`; the models that were kept before still are.
        """
        with self._protect(names):
            for name in names:
                self.find(name)
            with self._lock:
                self._kept[purpose] = frozenset(names)

    def activate(self, name: str) -> LoadedModel:
        """Make ``name`` the active model; running requests finish with their model.

        Raises:
            ValueError: see :meth:`find`; the active model stays.
            StoreError: the change cannot be stored; the active model stays.
        """
        with self._protect([name]):
            model = self.find(name)
            with self._switch_lock:
                if name != self._active.info.name:
                    previous = self._active.info.name
                    self._store.put_setting(ACTIVE_SETTING, json.dumps({"active": name, "previous": previous}))
                    self._set_active(model, previous)
        return model

    def rollback(self) -> LoadedModel:
        """Activate the previously active model.

        Raises:
            ValueError: there is no previously active model.
        """
        if self._previous is None:
            raise ValueError("rollback: there is no previously active model")
        return self.activate(self._previous)

    def sync_active(self) -> None:
        """Adopt the active model from the store, as set by another or an earlier process.

        Raises:
            StoreError: the store cannot be read.
            ValueError: the model that the store names cannot be loaded; nothing changes.
        """
        setting = self._read_setting()
        if setting is None or setting == (self._active.info.name, self._previous):
            return
        active, previous = setting
        if active != self._active.info.name and not self.has(active):
            return
        with self._protect([active]):
            model = self.find(active)
            with self._switch_lock:
                # a concurrent activation must not be undone by the value read before it
                if self._read_setting() == setting:
                    self._set_active(model, previous)

    def _read_setting(self) -> tuple[str, str | None] | None:
        value = self._store.get_setting(ACTIVE_SETTING)
        if value is None:
            return None
        setting = json.loads(value)
        return setting["active"], setting["previous"]

    def _set_active(self, model: LoadedModel, previous: str | None) -> None:
        with self._lock:
            # its items may have changed since it was found
            self._active, self._previous = self._loaded.get(model.info.name, model), previous

    @contextmanager
    def _protect(self, names: Sequence[str]) -> Iterator[None]:
        """Keep models loaded during an operation."""
        with self._lock:
            self._in_use.update(names)
        try:
            yield
        finally:
            with self._lock:
                self._in_use -= Counter(names)

    def _load_given(self, folder: Path) -> None:
        """Load a model that stays loaded.

        Raises:
            ValueError: it cannot be loaded, or another one has its name.
        """
        model = self._read_model(folder)
        if model.info.name in self._loaded:
            raise ValueError(f"{folder}: a model named '{model.info.name}' is loaded already")
        self._on_load(model)
        self._loaded[model.info.name] = model

    def _load_from_library(self, name: str) -> LoadedModel:
        """Load a model of the library; see :meth:`find`."""
        folder = self._library.path(name)
        if folder is None:
            raise UnknownModel(f"model: unknown '{name}'{suggest(name, self.names())}")
        fingerprint, now = self._library.fingerprint(name), self._clock()
        failure = self._failures.get(name)
        if failure is not None and failure.fingerprint == fingerprint and now - failure.time < RETRY_SECONDS:
            raise ValueError(failure.message)
        try:
            try:
                self._reserve(name, file_sizes(folder, Manifest.read(folder).sha256))
                model = self._read_model(folder)
                if name != model.info.name:  # requests could not find it
                    raise ValueError(
                        f"model: folder '{name}' holds a model named '{model.info.name}'; rename the folder"
                    )
                self._reserve(name, model.size_bytes)
                self._on_load(model)
            except InsufficientMemory:
                raise
            except Exception as error:
                message = str(error) if isinstance(error, ValueError) else f"{folder}: {type(error).__name__}: {error}"
                with self._lock:
                    self._failures[name] = _Failure(fingerprint, now, message)
                raise ValueError(message) from error
            with self._lock:
                self._failures.pop(name, None)
                self._loaded[name], self._last_used[name] = model, self._clock()
        finally:
            with self._lock:
                del self._reserved[name]
        logger.info("model %s loaded from the library, %.1f MB", name, model.size_bytes / 1e6)
        return model

    def _read_model(self, folder: Path) -> LoadedModel:
        return LoadedModel.from_artifact(load_artifact(folder, threads=self._threads), self._default_rules)

    def _reserve(self, name: str, size: int) -> None:
        """Reserve memory for a model, unloading others if necessary.

        Raises:
            InsufficientMemory: the models that must stay loaded leave too little; nothing is unloaded.
        """
        if self._max_bytes == 0:
            return
        with self._lock:
            used = Counter({key: one.size_bytes for key, one in self._loaded.items() if key not in self._given})
            used += self._reserved
            used[name] = size
            protected = {self._active.info.name, self._previous, name, *self._loads, *self._in_use}
            protected = protected.union(*self._kept.values())
            candidates = [key for key in used if key in self._loaded and key not in protected]
            excess, unloaded = used.total() - self._max_bytes, list[str]()
            for key in sorted(candidates, key=self._last_used.__getitem__):
                if excess <= 0:
                    break
                unloaded.append(key)
                excess -= used[key]
            if excess > 0:
                raise InsufficientMemory(
                    f"model: '{name}' needs {size / 1e6:.1f} MB, {excess / 1e6:.1f} MB more than "
                    f"serving.max_models_bytes ({self._max_bytes / 1e6:.1f} MB) leaves beside models that are in use"
                )
            self._reserved[name] = size
            for key in unloaded:
                self._unload(key)

    def _unload(self, name: str) -> None:
        model = self._loaded.pop(name)
        del self._last_used[name]
        self._on_unload(model)
        logger.info("model %s unloaded", name)
