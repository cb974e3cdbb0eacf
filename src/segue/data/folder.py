"""Open a prepared dataset after checking the hash of every file that is read.

Arrays are memory-mapped; ids and tables are read on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.events import check_codes
from segue.core.files import find_damage, read_checked_json
from segue.core.memory_check import check_not_forked
from segue.core.types import Dataset, Events, Vocab
from segue.core.vocab import check_id_table
from segue.data.knowledge.storage import open_knowledge
from segue.data.raw_log import TIME_KNOWN
from segue.data.writer import ARRAYS, FORMAT

__all__ = ["is_dataset", "load_predefined_split", "open_dataset"]


def is_dataset(folder: Path) -> bool:
    """Check whether ``folder`` contains a prepared dataset."""
    return (folder / "header.json").is_file() and (folder / "offsets.npy").is_file()


def open_dataset(folder: Path | str) -> Dataset:
    """Open the dataset prepared in ``folder``.

    Raises:
        ValueError: there is no dataset, it has another format version, or a file is modified or does not match the
            header; the message names the file.
    """
    check_not_forked("open a dataset")
    folder = Path(folder)
    if not is_dataset(folder):
        raise ValueError(f"{folder}: no prepared dataset, expected a folder with header.json and offsets.npy")
    header = read_checked_json(folder / "header.json", is_required=False)
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{folder}: dataset format {header.get('format')}, this version of Segue reads {FORMAT}; prepare it again"
        )
    if "sha256" in header:  # datasets of earlier versions have no hashes
        header = read_checked_json(folder / "header.json")
        hashes = {name: digest for name, digest in header["sha256"].items() if name != "interactions.parquet"}
        if errors := find_damage(folder, hashes):
            raise ValueError("\n".join([*errors, "prepare the dataset again"]))
    try:
        return _open(folder, header)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'header.json'}: malformed: {error!r}; prepare the dataset again") from None


def _open(folder: Path, header: dict[str, Any]) -> Dataset:
    arrays: dict[str, Any] = {
        column: _open_array(folder / f"{column}.npy") for column in ARRAYS if column in header["schema"]
    }
    counts, id_types = header["counts"], header.get("id_types", {})
    if len(arrays["items"]) != counts["interactions"] or len(arrays["offsets"]) != counts["users"] + 1:
        raise ValueError(f"{folder}: arrays do not match header.json; prepare the dataset again")
    for column, array in arrays.items():
        if array.dtype != ARRAYS[column] or array.ndim != 1:
            raise ValueError(
                f"{folder / column}.npy: got {array.dtype} of {array.ndim} dimensions, expected one of "
                f"{np.dtype(ARRAYS[column]).name}; prepare the dataset again"
            )
    actions = tuple(header["actions"])
    time_known = folder / f"{TIME_KNOWN}.npy"
    context = {TIME_KNOWN: _open_array(time_known)} if time_known.is_file() else {}
    context |= {name: _open_array(folder / f"context-{name}.npy") for name in header.get("context", {})}
    histories = Events(**arrays, context=context)
    try:
        check_codes(histories, counts["users"], counts["items"], len(actions))
    except ValueError as error:
        raise ValueError(f"{folder}: arrays do not match header.json: {error}; prepare the dataset again") from None
    return Dataset(
        name=header["name"],
        users=_open_vocab(folder / "users.parquet", counts["users"], id_types.get("users", "string")),
        items=_open_vocab(folder / "items.parquet", counts["items"], id_types.get("items", "string")),
        histories=histories,
        actions=actions,
        target=None if header["target"] is None else actions.index(header["target"]),
        item_features=pl.scan_parquet(folder / "items.parquet"),
        user_features=pl.scan_parquet(folder / "users.parquet"),
        header={**header, "folder": str(folder)},
        knowledge=open_knowledge(folder, header["knowledge"]) if "knowledge" in header else None,
    )


def load_predefined_split(dataset: Dataset, name: str) -> NDArray[np.uint8]:
    """Load the role of each event in a predefined split, ``(T,)``.

    The roles are: 1 train, 2 test, 3 validation, 0 neither.

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
    check_id_table(path, size)
    return Vocab(lambda: pl.read_parquet(path, columns=["id"])["id"], size, id_type)
