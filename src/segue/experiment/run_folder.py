"""The folder of a run: begun, gone on with, sealed by a manifest of hashes, and pointed to by links."""

from __future__ import annotations

import os
import re
import shutil
from datetime import datetime
from pathlib import Path

from segue.core.files import read_json, sha256, write_json, write_text
from segue.experiment.paths import SETTINGS, runs_folder
from segue.experiment.plan import Plan, read_plan
from segue.experiment.settings_file import write_plan

__all__ = ["METRICS", "abandon", "begin", "finished", "fresh", "point", "seal", "verify"]

METRICS = "metrics.json"
MANIFEST = "manifest.json"


def begin(plan: Plan, out: Path | None = None) -> Path:
    """The folder for ``plan``: a new one, or ``out``, which may hold the same run, interrupted.

    Raises:
        ValueError: ``out`` holds a finished run, one with other settings, or something else.
    """
    folder = fresh(runs_folder(), plan.task.data, plan.task.model) if out is None else out
    if (folder / SETTINGS).exists():
        if finished(folder):
            raise ValueError(f"{folder}: holds a finished run; give another --out, or remove it")
        if differences := plan.differences(read_plan(folder / SETTINGS)):
            told = "\n  ".join(differences)
            raise ValueError(f"{folder}: holds an interrupted run with other settings:\n  {told}")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists and is not a run; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SETTINGS, write_plan(plan))
    if not (folder / "checkpoint").exists():
        (folder / "history.jsonl").unlink(missing_ok=True)
    return folder


def abandon(folder: Path) -> None:
    """Remove a run that failed before it learned anything; one that can be gone on with stays."""
    if not (folder / "checkpoint").exists() and not finished(folder):
        shutil.rmtree(folder, ignore_errors=True)


def finished(folder: Path) -> bool:
    """Whether a run came to its end."""
    return (folder / METRICS).exists() and (folder / MANIFEST).exists()


def seal(folder: Path) -> None:
    """Write the hash of every file in the run to its manifest."""
    write_json(folder / MANIFEST, {"sha256": {name: sha256(folder / name) for name in _files(folder)}})


def verify(folder: Path) -> list[str]:
    """What is wrong with the files of a run, one line each; empty when every hash agrees."""
    if not (folder / MANIFEST).exists():
        return [f"{folder}: not finished: it has no {MANIFEST}"]
    expected: dict[str, str] = read_json(folder / MANIFEST)["sha256"]
    faults = []
    for name, hashed in expected.items():
        path = folder / name
        if not path.exists():
            faults.append(f"{path}: missing")
        elif (found := sha256(path)) != hashed:
            faults.append(f"{path}: sha256 {found}, expected {hashed}")
    return faults + [f"{folder / name}: not in the manifest" for name in _files(folder) if name not in expected]


def point(link: Path, folder: Path) -> None:
    """Let the symbolic ``link`` lead to ``folder``, in one step; nothing happens where links are not to be had."""
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        fresh.symlink_to(os.path.relpath(folder.resolve(), link.parent.resolve()), target_is_directory=True)
        os.replace(fresh, link)
    except OSError:
        fresh.unlink(missing_ok=True)


def fresh(folder: Path, data: str, *more: str) -> Path:
    """A new empty folder in ``folder``, named after the data, what ``more`` is told, and now.

    Making it is taking it: two who ask at the same moment get two folders.
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(data.partition("?")[0]).stem).strip("-") or "data"
    name = "-".join([name, *more, f"{datetime.now():%Y%m%d-%H%M%S}"])
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(folder.joinpath, (name, *(f"{name}-{number}" for number in range(2, 1000)))):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise ValueError(f"{folder / name}: taken, and so are its 998 next names")


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return sorted(path.relative_to(folder).as_posix() for path in paths)
