"""Find and read archives of public datasets.

Archives are in the folder ``SEGUE_ARCHIVES`` and recognized by their members.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Archive", "ArchiveSpec", "find_archive"]

BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class ArchiveSpec:
    """How to recognize and download the archive of a source."""

    members: tuple[str, ...]
    """Path suffixes of members that identify the archive."""
    url: str | None = None
    checksum: str | None = None
    """``md5:...`` or ``sha256:...`` of the official archive."""
    files: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """URL and checksum of each published file by member, if there is no official archive."""


class Archive:
    """A zip file whose members are addressed by the end of their path.

    Raises:
        ValueError: the file is not a zip file or is truncated, or a member is broken or missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as file:
                self._members = {info.filename: info for info in file.infolist() if not info.is_dir()}
        except BROKEN as error:
            raise ValueError(f"{path}: broken or truncated archive ({error}), expected a complete zip file") from None

    def name(self, ending: str) -> str | None:
        """Return the full name of the member ``ending`` or ``.../ending``.

        If there are several, the shortest name is returned; ``None`` if there is none.
        """
        found = [name for name in self._members if f"/{name}".endswith(f"/{ending}")]
        return min(found, key=len, default=None)

    def read(self, ending: str) -> bytes:
        """Read a member and check its CRC."""
        name = self.name(ending)
        if name is None:
            raise ValueError(f"{self.path}: no member {ending}")
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.read(name)
        except BROKEN as error:
            raise ValueError(f"{self.path}: member {name} is broken or truncated ({error})") from None

    @property
    def fingerprint(self) -> str:
        """Hash of the names, sizes and CRCs of all members.

        It is computed from the directory of the archive.
        """
        lines = sorted(f"{name} {info.file_size} {info.CRC:08x}" for name, info in self._members.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Text of ``REBUILT.txt`` in one line, if the archive contains it."""
        if self.name("REBUILT.txt") is None:
            return ()
        text = self.read("REBUILT.txt").decode("utf-8", "replace")
        return (f"{self.path.name}: {' '.join(text.split())}",)


def find_archive(members: Sequence[str], key: str) -> Archive | None:
    """Find the first archive in ``SEGUE_ARCHIVES`` with all ``members``.

    Args:
        members: path suffixes.

    Raises:
        ValueError: the folder does not exist, or no archive matches and one named after ``key`` is broken.
    """
    setting = os.environ.get("SEGUE_ARCHIVES")
    if not setting:
        return None
    folder = Path(setting).expanduser()
    if not folder.is_dir():
        raise ValueError(f"SEGUE_ARCHIVES={setting}: no such folder")
    broken: list[ValueError] = []
    for path in sorted(folder.glob("*.zip")):
        try:
            archive = Archive(path)
        except ValueError as error:
            if path.name.lower().startswith(key):
                broken.append(error)
            continue
        if all(archive.name(member) for member in members):
            return archive
    if broken:
        raise broken[0]
    return None
