"""Opening a prepared dataset in milliseconds: arrays stay on disk, ids and tables are read when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.files import read_json
from segue.core.types import Dataset, Events, Vocab
from segue.data.raw_log import TIME_KNOWN
from segue.data.writer import ARRAYS, FORMAT

__all__ = ["given_split", "is_dataset", "open_dataset"]


def is_dataset(folder: Path) -> bool:
    """Whether ``folder`` holds a prepared dataset."""
    return (folder / "header.json").is_file() and (folder / "offsets.npy").is_file()


def open_dataset(folder: Path | str) -> Dataset:
    """The dataset prepared in ``folder``.

    Raises:
        ValueError: no dataset there, a newer format, or a file that does not fit the header.
    """
    folder = Path(folder)
    if not is_dataset(folder):
        raise ValueError(f"{folder}: no prepared dataset, expected a folder with header.json and offsets.npy")
    header = read_json(folder / "header.json")
    if header.get("format") != FORMAT:
        raise ValueError(f"{folder}: dataset format {header.get('format')}, this Segue reads {FORMAT}")
    arrays: dict[str, Any] = {
        column: _array(folder / f"{column}.npy") for column in ARRAYS if column in header["schema"]
    }
    counts = header["counts"]
    if len(arrays["items"]) != counts["interactions"] or len(arrays["offsets"]) != counts["users"] + 1:
        raise ValueError(f"{folder}: arrays do not fit header.json; prepare the dataset again")
    actions = tuple(header["actions"])
    known = folder / f"{TIME_KNOWN}.npy"
    context = {TIME_KNOWN: _array(known)} if known.is_file() else {}
    return Dataset(
        name=header["name"],
        users=_vocab(folder / "users.parquet", counts["users"]),
        items=_vocab(folder / "items.parquet", counts["items"]),
        histories=Events(**arrays, context=context),
        actions=actions,
        target=None if header["target"] is None else actions.index(header["target"]),
        item_features=pl.scan_parquet(folder / "items.parquet"),
        user_features=pl.scan_parquet(folder / "users.parquet"),
        header={**header, "folder": str(folder)},
    )


def given_split(dataset: Dataset, name: str) -> NDArray[np.uint8]:
    """``(T,)`` part of each event in a split made by others: 1 train, 2 test, 0 neither."""
    known = dataset.header.get("given", [])
    if name not in known or "folder" not in dataset.header:
        raise ValueError(f"split: {dataset.name} has no given split {name!r}; has {', '.join(known) or 'none'}")
    return _array(Path(dataset.header["folder"]) / f"given-{name}.npy")


def _array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: broken array ({error}); prepare the dataset again") from None
    return array


def _vocab(path: Path, size: int) -> Vocab:
    return Vocab(lambda: pl.read_parquet(path, columns=["id"])["id"], size)
