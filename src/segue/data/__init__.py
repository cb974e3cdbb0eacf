"""Load, filter and split datasets."""

from __future__ import annotations

from segue.data.download import DownloadError
from segue.data.filters import Filters
from segue.data.folder import open_dataset
from segue.data.load import list_sources, load
from segue.data.splits import SplitSettings, folds, sliding_windows, split

__all__ = [
    "DownloadError",
    "Filters",
    "SplitSettings",
    "folds",
    "list_sources",
    "load",
    "open_dataset",
    "sliding_windows",
    "split",
]
