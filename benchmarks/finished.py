"""Results of finished trainings, so that an interrupted benchmark continues and its rows can run side by side.

They are in the folder ``benchmarks`` among the runs, by commit; with changes that are not committed nothing is kept.
``--reuse COMMIT`` takes those of an earlier commit, which is right only if nothing that they depend on has changed
since; ``git diff COMMIT -- src`` shows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.machine import describe
from segue.core.files import load_arrays, save_arrays
from segue.experiment.paths import runs_folder

__all__ = ["Finished", "check_earlier", "reuse"]

Arrays = dict[str, NDArray[Any]]

SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class Finished:
    """The result of a training."""

    arrays: Arrays
    commit: str
    """The commit that trained it."""


def reuse(
    about: Mapping[str, Any], compute: Callable[[], Arrays], commit: str | None = None, *, earlier: str | None = None
) -> Finished:
    """Return the result of ``compute``, or the one that an earlier run of the same commit has kept.

    Args:
        about: what the result depends on, as JSON: model, settings, data hash, seed.
        commit: default: the current one.
        earlier: another commit, whose result is returned if it has kept one and ``commit`` has not.
    """
    commit = commit or str(describe()["commit"])
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20] + SUFFIX
    for one in (commit, earlier):
        if one is not None and (path := _folder() / one / name).exists():
            return Finished(load_arrays(path), one)
    found = compute()
    if commit == "unknown" or commit.endswith("-dirty"):
        return Finished(found, commit)
    path = _folder() / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, found)
    return Finished(load_arrays(path), commit)


def check_earlier(commit: str | None) -> None:
    """Check that trainings of a commit are kept; ``None`` is no commit.

    Raises:
        ValueError: there are none.
    """
    kept = sorted({path.parent.name for path in _folder().glob(f"*/*{SUFFIX}")})
    if commit is not None and commit not in kept:
        expected = f"one of {', '.join(kept)}" if kept else "no --reuse, as there are none of any commit"
        raise ValueError(f"--reuse: {_folder()} has no trainings of the commit '{commit}', expected {expected}")


def _folder() -> Path:
    return runs_folder() / "benchmarks"
