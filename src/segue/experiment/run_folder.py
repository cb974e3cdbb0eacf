"""The folder of a run: creation, resumption, manifest and links."""

from __future__ import annotations

import os
import re
import shutil
from datetime import datetime
from pathlib import Path

from segue.core.files import read_json, sha256, write_json, write_text
from segue.experiment.paths import SETTINGS, runs_folder
from segue.experiment.plan import Plan, format_plan, read_plan
from segue.experiment.records.held_out_readings import TEST_READINGS

__all__ = [
    "LISTS",
    "METRICS",
    "WARMTH",
    "create_run",
    "create_unique_folder",
    "delete_if_untrained",
    "is_finished",
    "read_run_plan",
    "update_link",
    "verify",
    "write_manifest",
]

LISTS = "lists.parquet"
"""The user and the recommended items of each query, best first."""
METRICS = "metrics.json"
WARMTH = "warmth.parquet"
"""Values per query of hot, warm and cold items and users."""
MANIFEST = "manifest.json"


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


def read_run_plan(folder: Path) -> Plan:
    """Read the plan of a run; that of a finished run must be unchanged.

    Raises:
        ValueError: the settings are not those of the training, or the settings or the manifest are malformed.
    """
    path = folder / SETTINGS
    expected = _read_hashes(folder).get(SETTINGS) if (folder / MANIFEST).exists() else None
    if expected is not None and (found := sha256(path)) != expected:
        raise ValueError(
            f"{path}: sha256 {found}, expected {expected}: the settings have changed since the training; restore the"
            " file, or train a new run"
        )
    return read_plan(path)


def write_manifest(folder: Path) -> None:
    """Write the hash of every file of the run to its manifest."""
    write_json(folder / MANIFEST, {"sha256": {name: sha256(folder / name) for name in _list_files(folder)}})


def verify(folder: Path) -> list[str]:
    """Compare the files of a run with its manifest.

    Returns one line per problem, none if all hashes match.
    """
    if not (folder / MANIFEST).exists():
        return [f"{folder}: not finished: it has no {MANIFEST}"]
    expected = _read_hashes(folder)
    errors = []
    for name, expected_hash in expected.items():
        path = folder / name
        if not path.exists():
            errors.append(f"{path}: missing")
        elif (found := sha256(path)) != expected_hash:
            errors.append(f"{path}: sha256 {found}, expected {expected_hash}")
    return errors + [f"{folder / name}: not in the manifest" for name in _list_files(folder) if name not in expected]


def _read_hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file of a finished run by its name."""
    manifest = read_json(folder / MANIFEST)
    hashes = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(hashes, dict):
        raise ValueError(
            f"{folder / MANIFEST}: expected an object with the key sha256, the hash of each file by its name"
        )
    return hashes


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
