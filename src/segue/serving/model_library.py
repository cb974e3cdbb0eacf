"""A folder of model artifacts, one per subfolder, without loading them."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TypeAlias

from segue.core.files import is_inside
from segue.serving.artifacts.manifest import MANIFEST, Manifest

__all__ = ["Fingerprint", "ModelLibrary"]

MAX_NAME_LENGTH = 256

Fingerprint: TypeAlias = tuple[int, int, int] | None
"""Time of modification, size and number of a manifest; changes when an artifact is replaced."""

logger = logging.getLogger("segue.serving")


class ModelLibrary:
    """The artifacts of a folder by name, which is the name of their subfolder.

    A subfolder is left out if its name starts with a dot, is too long or is not printable, or if it is a symbolic link
    that leaves the folder. One that holds a model of another name, such as a renamed copy, cannot be loaded.

    Args:
        folder: ``None``: the library is empty.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._manifests: dict[str, tuple[Fingerprint, Manifest | None]] = {}

    def names(self) -> list[str]:
        """Return the names of all artifacts, sorted, even of broken ones."""
        if self._folder is None:
            return []
        try:
            paths = sorted(self._folder.iterdir())
            return [path.name for path in paths if self._is_artifact(path)]
        except OSError as error:
            logger.error("the folder of models cannot be read: %s", error)
            return []

    def path(self, name: str) -> Path | None:
        """Return the folder of the artifact ``name``, or ``None`` if there is none.

        The name is compared with those in the folder, so that no name leads out of it.
        """
        return None if self._folder is None or name not in self.names() else self._folder / name

    def fingerprint(self, name: str) -> Fingerprint:
        """Return the fingerprint of an artifact; ``None``: its manifest is gone."""
        assert self._folder is not None
        try:
            status = (self._folder / name / MANIFEST).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def manifests(self) -> dict[str, Manifest]:
        """Return the manifests of all artifacts by name.

        An unreadable manifest, or one of a model of another name, is logged and left out. A manifest is read again only
        after it has changed.
        """
        with self._lock:
            return self._read_manifests()

    def _read_manifests(self) -> dict[str, Manifest]:
        assert self._folder is not None or not self.names()
        found = {}
        for name in self.names():
            fingerprint = self.fingerprint(name)
            known, manifest = self._manifests.get(name, (None, None))
            if fingerprint != known or known is None:
                manifest = self._read_manifest(name)
                self._manifests[name] = fingerprint, manifest
            if manifest is not None:
                found[name] = manifest
        self._manifests = {name: one for name, one in self._manifests.items() if name in found or one[1] is None}
        return found

    def _read_manifest(self, name: str) -> Manifest | None:
        assert self._folder is not None
        try:
            manifest = Manifest.read(self._folder / name)
        except (ValueError, OSError, RecursionError) as error:
            logger.error("the manifest of model %s cannot be read: %s", name, error)
            return None
        if manifest.name != name:
            logger.error("the folder %s holds a model named %s: rename the folder to load it", name, manifest.name)
            return None
        return manifest

    def _is_artifact(self, path: Path) -> bool:
        assert self._folder is not None
        is_valid_name = path.name.isprintable() and not path.name.startswith(".") and len(path.name) <= MAX_NAME_LENGTH
        return is_valid_name and (path / MANIFEST).is_file() and is_inside(self._folder, path)
