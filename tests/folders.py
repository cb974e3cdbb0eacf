"""Create folders for what several tests share, such as trained models."""

from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

__all__ = ["new_folder"]

_all = TemporaryDirectory(prefix="segue-test-")
"""Holds all of them; it is removed when the process ends."""


def new_folder() -> Path:
    """Create an empty folder."""
    return Path(mkdtemp(dir=_all.name))
