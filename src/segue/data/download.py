"""Downloads."""

from __future__ import annotations

from pathlib import Path

from segue.data.archives import Archived
from segue.data.log import Say

__all__ = ["DownloadError", "download"]


class DownloadError(OSError):
    """A file that is needed could not be fetched."""


def download(archived: Archived, key: str, folder: Path, say: Say) -> Path:
    """The archive of ``key``, fetched into ``folder``."""
    raise DownloadError(f"{key}: no archive of it in SEGUE_ARCHIVES")
