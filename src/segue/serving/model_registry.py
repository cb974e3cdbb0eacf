"""Loaded models: which one is active, and switching between them under load.

The active model is recorded in the store, so that all processes that share the store agree, also after a restart.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from segue.core.config import suggest
from segue.core.files import read_json
from segue.serving import schemas
from segue.serving.artifacts.artifact import MANIFEST, ModelArtifact, load_artifact
from segue.serving.catalog.catalog import Catalog
from segue.serving.rules.rerank import compile_rules
from segue.serving.stores.store import Store

__all__ = ["LoadedModel", "ModelRegistry"]

ACTIVE_SETTING = "models"
"""Name of the store setting that holds the active model and the previous one."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to answer requests."""

    artifact: ModelArtifact
    catalog: Catalog
    info: schemas.ModelInfo

    @classmethod
    def from_artifact(cls, artifact: ModelArtifact, default_rules: schemas.Rules) -> Self:
        """Build the catalog of an artifact and check the default rules against it.

        Raises:
            ValueError: the default rules do not fit the catalog.
        """
        fields = {"name": artifact.name, "key": artifact.bundle.key, "version": artifact.version}
        info = schemas.ModelInfo(**fields, engine=artifact.engine.name)
        catalog = Catalog(artifact.bundle, artifact.popularity)
        catalog.build_indexes()
        compile_rules(schemas.Rules(), default_rules, catalog)
        return cls(artifact, catalog, info)


class ModelRegistry:
    """Model artifacts by name.

    Args:
        folders: artifacts to load at once; the first is active unless the store names another.
        store: keeps the name of the active model.
        library: a folder of further artifacts, one per subfolder, that are loaded on first use.
        on_load: called with each loaded model; may reject it with a ``ValueError``.
        default_rules: rules that apply to every response.
        threads: threads of the engines; see :func:`segue.serving.artifacts.artifact.load_artifact`.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        store: Store,
        library: Path | None = None,
        on_load: Callable[[LoadedModel], None] = lambda model: None,
        default_rules: schemas.Rules = schemas.Rules(),  # noqa: B008 - frozen
        threads: int = 0,
    ) -> None:
        self._store, self._library, self._on_load, self._default_rules = store, library, on_load, default_rules
        self._threads = threads
        self._lock, self._switch_lock = threading.Lock(), threading.Lock()
        self._loaded: dict[str, LoadedModel] = {}
        for folder in folders:
            self._load(folder)
        if not self._loaded:
            raise ValueError("models: got none, expected at least one model artifact")
        self._active = next(iter(self._loaded))
        self._previous: str | None = None
        self.sync_active()

    @property
    def active(self) -> LoadedModel:
        """The model for requests that do not name one."""
        return self._loaded[self._active]

    @property
    def previous(self) -> str | None:
        """The name of the previously active model."""
        return self._previous

    def names(self) -> list[str]:
        """Return the names of all available models, loaded or not."""
        in_library = [] if self._library is None else [path.name for path in sorted(self._library.iterdir())
                                                  if (path / MANIFEST).exists()]  # fmt: skip
        return list(dict.fromkeys([*self._loaded, *in_library]))

    def unloaded_manifests(self) -> dict[str, Mapping[str, Any]]:
        """Return the manifests of available models that are not loaded, by name.

        Manifests that cannot be read are left out.
        """
        found: dict[str, Mapping[str, Any]] = {}
        for name in self.names():
            if name not in self._loaded and self._library is not None:
                with suppress(ValueError):
                    manifest = read_json(self._library / name / MANIFEST)
                    if isinstance(manifest, dict) and {"key", "version", "engine", "metadata"} <= manifest.keys():
                        found[name] = manifest
        return found

    def versions(self) -> set[str]:
        """Return the versions of all available models, loaded or not."""
        return {model.info.version for model in self.loaded()} | {
            str(manifest["version"]) for manifest in self.unloaded_manifests().values()
        }

    def loaded(self) -> list[LoadedModel]:
        """Return the loaded models."""
        return list(self._loaded.values())

    def find(self, name: str | None) -> LoadedModel:
        """Return the model named ``name``, loading it if necessary.

        Args:
            name: ``None``: the active model.

        Raises:
            ValueError: there is no such model, or it cannot be loaded.
        """
        if name is None:
            return self.active
        if name not in self._loaded:
            with self._lock:
                if name not in self._loaded:
                    if self._library is None or name not in self.names():
                        raise ValueError(f"model: unknown '{name}'{suggest(name, self.names())}")
                    self._load(self._library / name, name)
        return self._loaded[name]

    def activate(self, name: str) -> LoadedModel:
        """Make ``name`` the active model; running requests finish with their model.

        Raises:
            ValueError: see :meth:`find`; the active model stays.
            StoreError: the change cannot be stored; the active model stays.
        """
        model = self.find(name)
        with self._switch_lock:
            if name != self._active:
                self._store.put_setting(ACTIVE_SETTING, json.dumps({"active": name, "previous": self._active}))
                self._set_active(name, self._active)
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
        with self._switch_lock:  # a concurrent activation must not be undone by the value read before it
            value = self._store.get_setting(ACTIVE_SETTING)
            if value is None:
                return
            setting = json.loads(value)
            if setting["active"] == self._active or setting["active"] in self.names():
                self.find(setting["active"])
                self._set_active(setting["active"], setting["previous"])

    def _set_active(self, active: str, previous: str | None) -> None:
        self._active, self._previous = active, previous

    def _load(self, folder: Path, name: str | None = None) -> None:
        artifact = load_artifact(folder, threads=self._threads)
        if name not in (None, artifact.name):  # requests could not find it
            raise ValueError(f"model: folder '{name}' holds a model named '{artifact.name}'; rename the folder")
        model = LoadedModel.from_artifact(artifact, self._default_rules)
        if model.info.name in self._loaded:
            raise ValueError(f"{folder}: a model named '{model.info.name}' is loaded already")
        self._on_load(model)
        self._loaded[model.info.name] = model
