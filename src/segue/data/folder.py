"""Open a prepared dataset in milliseconds.

Arrays are memory-mapped; ids and tables are read on first use.
"""

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

__all__ = ["is_dataset", "load_predefined_split", "open_dataset"]


def is_dataset(folder: Path) -> bool:
    """Check whether ``folder`` contains a prepared dataset."""
    return (folder / "header.json").is_file() and (folder / "offsets.npy").is_file()


def open_dataset(folder: Path | str) -> Dataset:
    """Open the dataset prepared in ``folder``.

    Raises:
        ValueError: there is no dataset, it has another format version, or a file does not match the header.
    """
    folder = Path(folder)
    if not is_dataset(folder):
        raise ValueError(f"{folder}: no prepared dataset, expected a folder with header.json and offsets.npy")
    header = read_json(folder / "header.json")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{folder}: dataset format {header.get('format')}, this version of Segue reads {FORMAT}; prepare it again"
        )
    arrays: dict[str, Any] = {
        column: _open_array(folder / f"{column}.npy") for column in ARRAYS if column in header["schema"]
    }
    counts, id_types = header["counts"], header.get("id_types", {})
    if len(arrays["items"]) != counts["interactions"] or len(arrays["offsets"]) != counts["users"] + 1:
        raise ValueError(f"{folder}: arrays do not match header.json; prepare the dataset again")
    actions = tuple(header["actions"])
    time_known = folder / f"{TIME_KNOWN}.npy"
    context = {TIME_KNOWN: _open_array(time_known)} if time_known.is_file() else {}
    return Dataset(
        name=header["name"],
        users=_open_vocab(folder / "users.parquet", counts["users"], id_types.get("users", "string")),
        items=_open_vocab(folder / "items.parquet", counts["items"], id_types.get("items", "string")),
        histories=Events(**arrays, context=context),
        actions=actions,
        target=None if header["target"] is None else actions.index(header["target"]),
        item_features=pl.scan_parquet(folder / "items.parquet"),
        user_features=pl.scan_parquet(folder / "users.parquet"),
        header={**header, "folder": str(folder)},
    )


def load_predefined_split(dataset: Dataset, name: str) -> NDArray[np.uint8]:
    """Load the role of each event in a predefined split, ``(T,)``.

    The roles are: 1 train, 2 test, 0 neither.

    Raises:
        ValueError: the dataset has no predefined split ``name``.
    """
    known = dataset.header.get("predefined_splits", [])
    if name not in known or "folder" not in dataset.header:
        raise ValueError(
            f"split.name: unknown predefined split {name!r}; {dataset.name} has {', '.join(known) or 'none'}"
        )
    return _open_array(Path(dataset.header["folder"]) / f"split-{name}.npy")


def _open_array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: broken array ({error}); prepare the dataset again") from None
    return array


def _open_vocab(path: Path, size: int, id_type: str) -> Vocab:
    return Vocab(lambda: pl.read_parquet(path, columns=["id"])["id"], size, id_type)
