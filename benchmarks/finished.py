"""Results of finished trainings, so that an interrupted benchmark continues and its rows can run side by side.

They are in the folder ``benchmarks`` among the runs, by commit; with changes that are not committed nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from benchmarks.machine import describe
from segue.core.files import load_arrays, save_arrays
from segue.experiment.paths import runs_folder

__all__ = ["reuse"]

Arrays = dict[str, NDArray[Any]]


def reuse(about: Mapping[str, Any], compute: Callable[[], Arrays], commit: str | None = None) -> Arrays:
    """Return the result of ``compute``, or the one that an earlier run of the same commit has kept.

    Args:
        about: what the result depends on, as JSON: model, settings, data hash, seed.
        commit: default: the current one.
    """
    commit = commit or str(describe()["commit"])
    if commit == "unknown" or commit.endswith("-dirty"):
        return compute()
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
    path = runs_folder() / "benchmarks" / commit / f"{name}.safetensors"
    if not path.exists():
        found = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, found)
    return load_arrays(path)
