"""From a source to a prepared, split dataset."""

from __future__ import annotations

from segue.data.download import DownloadError
from segue.data.filters import Filters
from segue.data.folder import open_dataset
from segue.data.load import load, sources_listed
from segue.data.splits import SplitSettings, split

__all__ = ["DownloadError", "Filters", "SplitSettings", "load", "open_dataset", "sources_listed", "split"]
