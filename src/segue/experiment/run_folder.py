"""The folder of a run: creation, resumption, manifest and links."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.files import read_json, sha256, write_json, write_text
from segue.core.types import Dataset, Events, Split
from segue.experiment.paths import SETTINGS, runs_folder
from segue.experiment.plan import Plan, format_plan, read_plan
from segue.experiment.test_readings import TEST_READINGS

__all__ = [
    "METRICS",
    "RECORD",
    "check_unchanged",
    "create_run",
    "create_unique_folder",
    "delete_if_untrained",
    "describe_training_data",
    "is_finished",
    "update_link",
    "verify",
    "write_manifest",
]

METRICS = "metrics.json"
MANIFEST = "manifest.json"

RECORD = "training.json"
"""File with what determines a training, beside its checkpoint."""


def create_run(plan: Plan, out: Path | None = None) -> Path:
    """Create the folder of a run, or continue an interrupted run of the same plan.

    Args:
        out: the folder; ``None``: a new one in :func:`segue.experiment.paths.runs_folder`.

    Raises:
        ValueError: ``out`` holds a finished run, a run with other settings, or something else.
    """
    folder = create_unique_folder(runs_folder(), plan.task.data, plan.task.model) if out is None else out
    if (folder / SETTINGS).exists():
        if is_finished(folder):
            raise ValueError(f"{folder}: holds a finished run; give another --out, or remove it")
        if differences := plan.diff(read_plan(folder / SETTINGS)):
            lines = "\n  ".join(differences)
            raise ValueError(f"{folder}: holds an interrupted run with other settings:\n  {lines}")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists and is not a run; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SETTINGS, format_plan(plan))
    if not (folder / "checkpoint").exists():
        (folder / "history.jsonl").unlink(missing_ok=True)
    return folder


def delete_if_untrained(folder: Path) -> None:
    """Delete a run that failed before its first checkpoint."""
    if not (folder / "checkpoint").exists() and not is_finished(folder):
        shutil.rmtree(folder, ignore_errors=True)


def is_finished(folder: Path) -> bool:
    """Return whether the run in this folder is complete."""
    return (folder / METRICS).exists() and (folder / MANIFEST).exists()


def write_manifest(folder: Path) -> None:
    """Write the hash of every file of the run to its manifest."""
    write_json(folder / MANIFEST, {"sha256": {name: sha256(folder / name) for name in _list_files(folder)}})


def verify(folder: Path) -> list[str]:
    """Compare the files of a run with its manifest.

    Returns one line per problem, none if all hashes match.
    """
    if not (folder / MANIFEST).exists():
        return [f"{folder}: not finished: it has no {MANIFEST}"]
    expected: dict[str, str] = read_json(folder / MANIFEST)["sha256"]
    errors = []
    for name, expected_hash in expected.items():
        path = folder / name
        if not path.exists():
            errors.append(f"{path}: missing")
        elif (found := sha256(path)) != expected_hash:
            errors.append(f"{path}: sha256 {found}, expected {expected_hash}")
    return errors + [f"{folder / name}: not in the manifest" for name in _list_files(folder) if name not in expected]


def update_link(link: Path, folder: Path) -> None:
    """Point the symbolic ``link`` to ``folder`` atomically.

    Nothing happens where links are not supported.
    """
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        temporary.symlink_to(os.path.relpath(folder.resolve(), link.parent.resolve()), target_is_directory=True)
        os.replace(temporary, link)
    except OSError:
        temporary.unlink(missing_ok=True)


def create_unique_folder(folder: Path, data: str, *parts: str) -> Path:
    """Create an empty folder named after the data, ``parts`` and the time.

    Two processes that create one at the same moment get two folders.
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(data.partition("?")[0]).stem).strip("-") or "data"
    name = "-".join([name, *parts, f"{datetime.now():%Y%m%d-%H%M%S}"])
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(folder.joinpath, (name, *(f"{name}-{number}" for number in range(2, 1000)))):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise ValueError(f"{folder / name}: exists, and so do its next 998 names")


def _list_files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, TEST_READINGS))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def describe_training_data(data: Split | Dataset) -> dict[str, Any]:
    """Return counts and hashes of the data that training and validation read."""
    train = data.train if isinstance(data, Split) else data
    found: dict[str, Any] = {
        "data.name": train.name,
        "data.users": train.n_users,
        "data.items": train.n_items,
        "data.actions": [list(train.actions), train.target],
        "data.events": train.histories.size,
        "data.source_hash": train.header.get("hash"),
        "data.training_hash": _hash(_columns(train.histories)),
    }
    if isinstance(data, Split):
        valid = data.valid
        found["data.validation_queries"] = len(valid)
        columns = [*_columns(valid.queries.history), *_columns(valid.targets), valid.queries.users, valid.queries.known]
        found["data.validation_hash"] = _hash(column for column in columns if column is not None)
    return found


def check_unchanged(folder: Path, record: Mapping[str, Any]) -> None:
    """Store what determines a training, or compare it with what ``folder`` holds.

    Raises:
        ValueError: the folder has a checkpoint of other settings or data; one line per difference.
    """
    path = folder / RECORD
    if (folder / "checkpoint").exists():
        before = read_json(path) if path.exists() else {}
        differences = [
            f"{name}: {record.get(name)!r} here, {before.get(name)!r} there"
            for name in sorted(record.keys() | before.keys())
            if record.get(name) != before.get(name)
        ]
        if not before:
            differences = [f"{RECORD} is missing, so its settings and data are unknown"]
        if differences:
            lines = "\n  ".join(differences)
            raise ValueError(
                f"{folder}: holds a checkpoint of another training; use another folder, or remove it:\n  {lines}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def _columns(events: Events) -> Iterator[NDArray[Any]]:
    for name in ("offsets", "items", "actions", "values", "times"):
        column = getattr(events, name)
        if column is not None:
            yield column


def _hash(columns: Any) -> str:
    found = hashlib.sha256()
    for column in columns:
        array = np.ascontiguousarray(column)
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.data)
    return found.hexdigest()
