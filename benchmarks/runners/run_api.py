"""Run one library's ten tasks cell by cell and write the results as arrays; the last cell runs in a new process.

The job names the library. ``api_LIBRARY.py`` is split at ``# %% NAME``; its cells share a namespace, as in a notebook.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

FIRST = ["split", "train", "evaluate", "recommend", "new_user", "allow_list", "similar", "ratings", "compare", "save"]
"""Cells of the first process, after the imports; ``load`` runs in the second."""

TABLES = [
    "test_pairs",
    "recommendations",
    "new_recommendations",
    "allowed_recommendations",
    "similar_items",
    "predictions",
]
"""Frames that the first process writes."""

HERE = Path(__file__).resolve().parent


def cells(library: str) -> dict[str, str]:
    """Read the source of each cell by name."""
    parts = (HERE / f"api_{library}.py").read_text().split("\n# %% ")[1:]
    return {name.strip(): code for name, _, code in (part.partition("\n") for part in parts)}


def execute(code: dict[str, str], names: list[str], namespace: dict[str, Any]) -> dict[str, Any]:
    """Run cells in order; return the seconds of each, and the traceback of those that failed."""
    found: dict[str, Any] = {}
    for name in names:
        start = time.perf_counter()
        error = None
        try:
            exec(compile(code[name], f"<{name}>", "exec"), namespace)
        except Exception:  # every cell is reported, whatever is wrong with another
            error = traceback.format_exc(limit=-3)
        found[name] = {"seconds": time.perf_counter() - start, "error": error}
    return found


def columns(table: Any) -> dict[str, Any]:
    """Return the id and score columns of a pandas or Polars frame as arrays."""
    return {
        name: np.asarray(table[name]) for name in table.columns if name in ("user_id", "item_id", "prediction", "score")
    }


def write_tables(namespace: dict[str, Any], names: list[str]) -> None:
    """Write the columns of the named frames to ``NAME.COLUMN.npy``."""
    for name in names:
        if namespace.get(name) is not None:
            for column, values in columns(namespace[name]).items():
                np.save(f"{name}.{column}.npy", values)


def main() -> None:
    folder, last = Path(sys.argv[1]), sys.argv[2:] == ["load"]
    job = json.loads((folder / "job.json").read_text())
    library = job["library"]
    os.environ["LK_NUM_PROCS"] = "1"  # LensKit: no worker processes for so little data
    code = cells(library)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    warnings.simplefilter("ignore")
    if last:
        steps = execute(code, ["given", "imports", "load"], namespace)
        write_tables(namespace, ["reloaded"])
        (folder / "loaded.json").write_text(json.dumps(steps["load"]))
        return
    steps = execute(code, ["given", "imports", *FIRST], namespace)
    subprocess.run([sys.executable, __file__, str(folder), "load"], cwd=folder, check=True)
    steps["load"] = json.loads((folder / "loaded.json").read_text())
    steps |= execute(code, ["results"], namespace)
    write_tables(namespace, TABLES)
    if steps["results"]["error"]:  # the names below may hold anything
        namespace = {}
    number = namespace.get("rmse")
    figures = {
        "steps": steps,
        "metrics": {key: float(value) for key, value in (namespace.get("result") or {}).items()},
        "compared": {
            key: {name: float(value) for name, value in row.items()}
            for key, row in (namespace.get("compared") or {}).items()
        },
        "rmse": None if number is None else float(number),
    }
    (folder / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
