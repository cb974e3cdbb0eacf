"""Archives of public datasets: found by their members in the folder ``SEGUE_ARCHIVES``, read without unpacking."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Archive", "Archived", "find"]

BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class Archived:
    """How the archive of a source is known, and where it is downloaded."""

    members: tuple[str, ...]
    """Endings of the paths of members that it alone has."""
    url: str | None = None
    checksum: str | None = None
    """``md5:...`` or ``sha256:...`` of the official file."""
    files: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """Where there is no official archive: member to address and checksum of the published file."""


class Archive:
    """A zip file whose members are known by the end of their path.

    Raises:
        ValueError: the file is no zip, is cut off, or a member is broken or missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as file:
                self._members = {info.filename: info for info in file.infolist() if not info.is_dir()}
        except BROKEN as error:
            raise ValueError(f"{path}: broken or truncated archive ({error}), expected a whole zip file") from None

    def name(self, ending: str) -> str | None:
        """The full name of the member that is ``ending`` or ends with ``/ending``; the shortest of several."""
        found = [name for name in self._members if f"/{name}".endswith(f"/{ending}")]
        return min(found, key=len, default=None)

    def read(self, ending: str) -> bytes:
        """All bytes of a member, checked against its CRC."""
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
        """A hash of the names, sizes and CRCs of all members, from the directory of the archive alone."""
        lines = sorted(f"{name} {info.file_size} {info.CRC:08x}" for name, info in self._members.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The text of ``REBUILT.txt``, in one line, where the archive has one."""
        if self.name("REBUILT.txt") is None:
            return ()
        text = self.read("REBUILT.txt").decode("utf-8", "replace")
        return (f"{self.path.name}: {' '.join(text.split())}",)


def find(members: Sequence[str], key: str) -> Archive | None:
    """The archive in ``SEGUE_ARCHIVES`` that has all ``members`` (endings of paths), the first by name.

    Raises:
        ValueError: the variable names no folder, or nothing fits and an archive named after ``key`` is broken.
    """
    place = os.environ.get("SEGUE_ARCHIVES")
    if not place:
        return None
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ValueError(f"SEGUE_ARCHIVES={place}: no such folder")
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
