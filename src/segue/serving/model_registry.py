"""The models at hand: which is active, and the change from one to another while requests run.

Which model is active stands in the store, so that all processes that share it agree, and a restart goes on with it.
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
from segue.serving.artifacts.artifact import MANIFEST, Publication, open_publication
from segue.serving.catalog.catalog import Catalogue
from segue.serving.rules.rerank import applied
from segue.serving.stores.store import Store

__all__ = ["Ready", "Shelf"]

ACTIVE = "models"
"""The store's setting that tells the active model and the one before it."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A model that can answer at once."""

    publication: Publication
    catalogue: Catalogue
    version: schemas.Version

    @classmethod
    def of(cls, publication: Publication, standing: schemas.Rules) -> Self:
        """With its catalogue indexed.

        Raises:
            ValueError: the standing rules do not fit the catalogue.
        """
        told = {"name": publication.name, "key": publication.bundle.key, "version": publication.version}
        version = schemas.Version(**told, engine=publication.engine.name)
        catalogue = Catalogue(publication.bundle, publication.popularity)
        catalogue.prepare()
        applied(schemas.Rules(), standing, catalogue)
        return cls(publication, catalogue, version)


class Shelf:
    """Publications by name.

    Args:
        folders: of publications; the first is active unless the store names another.
        library: a folder with further publications, one folder each, which are opened when they are asked for.
        opened: is told each model that was opened, and may refuse it with a ``ValueError``.
        standing: rules that hold for every answer.
        threads: of engines; see :func:`segue.serving.artifacts.artifact.open_publication`.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        kept: Store,
        library: Path | None = None,
        opened: Callable[[Ready], None] = lambda ready: None,
        standing: schemas.Rules = schemas.Rules(),  # noqa: B008 - frozen
        threads: int = 0,
    ) -> None:
        self._store, self._library, self._opened, self._standing = kept, library, opened, standing
        self._threads = threads
        self._lock, self._changing = threading.Lock(), threading.Lock()
        self._open: dict[str, Ready] = {}
        for folder in folders:
            self._add(folder)
        if not self._open:
            raise ValueError("models: none was given, expected at least one publication")
        self._active = next(iter(self._open))
        self._previous: str | None = None
        self.follow()

    @property
    def active(self) -> Ready:
        """The model that answers where a question names none."""
        return self._open[self._active]

    @property
    def previous(self) -> str | None:
        """The name of the model that was active before."""
        return self._previous

    def names(self) -> list[str]:
        """Names of all models at hand, opened or not."""
        there = [] if self._library is None else [path.name for path in sorted(self._library.iterdir())
                                                  if (path / MANIFEST).exists()]  # fmt: skip
        return list(dict.fromkeys([*self._open, *there]))

    def closed(self) -> dict[str, Mapping[str, Any]]:
        """Manifests of the models at hand that are not opened, by name; one that cannot be read is left out."""
        found: dict[str, Mapping[str, Any]] = {}
        for name in self.names():
            if name not in self._open and self._library is not None:
                with suppress(ValueError):
                    about = read_json(self._library / name / MANIFEST)
                    if isinstance(about, dict) and {"key", "version", "engine", "facts"} <= about.keys():
                        found[name] = about
        return found

    def versions(self) -> set[str]:
        """Versions of all models at hand, opened or not."""
        return {ready.version.version for ready in self.opened()} | {
            str(about["version"]) for about in self.closed().values()
        }

    def opened(self) -> list[Ready]:
        """The models that can answer at once."""
        return list(self._open.values())

    def find(self, name: str | None) -> Ready:
        """The model of this name, which is opened where it is not yet; the active one without a name.

        Raises:
            ValueError: there is none, or it cannot be opened as it is.
        """
        if name is None:
            return self.active
        if name not in self._open:
            with self._lock:
                if name not in self._open:
                    if self._library is None or name not in self.names():
                        raise ValueError(f"model: unknown '{name}'{suggest(name, self.names())}")
                    self._add(self._library / name, name)
        return self._open[name]

    def activate(self, name: str) -> Ready:
        """Let ``name`` answer from the next question on; requests that run end with the model that they began with.

        Raises:
            ValueError: see :meth:`find`; the active model stays.
            StoreError: it cannot be kept; the active model stays.
        """
        found = self.find(name)
        with self._changing:
            if name != self._active:
                self._store.put(ACTIVE, json.dumps({"active": name, "previous": self._active}))
                self._set(name, self._active)
        return found

    def rollback(self) -> Ready:
        """Activate the model that was active before.

        Raises:
            ValueError: none was.
        """
        if self._previous is None:
            raise ValueError("rollback: no model was active before this one")
        return self.activate(self._previous)

    def follow(self) -> None:
        """Take over what another process, or an earlier one, activated; what cannot be opened leaves all as it is.

        Raises:
            StoreError: the store cannot be read.
            ValueError: the model that the store names cannot be opened.
        """
        with self._changing:  # what was read is not to undo what is kept meanwhile
            told = self._store.get(ACTIVE)
            if told is None:
                return
            wanted = json.loads(told)
            if wanted["active"] == self._active or wanted["active"] in self.names():
                self.find(wanted["active"])
                self._set(wanted["active"], wanted["previous"])

    def _set(self, active: str, previous: str | None) -> None:
        self._active, self._previous = active, previous

    def _add(self, folder: Path, name: str | None = None) -> None:
        opened = open_publication(folder, threads=self._threads)
        if name not in (None, opened.name):  # nobody would find it
            raise ValueError(f"model: the folder '{name}' holds one of another name")
        found = Ready.of(opened, self._standing)
        if found.version.name in self._open:
            raise ValueError(f"{folder}: a model named '{found.version.name}' is open already")
        self._opened(found)
        self._open[found.version.name] = found
