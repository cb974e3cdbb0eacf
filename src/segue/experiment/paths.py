"""Locate the folders of runs, published models and recipes."""

from __future__ import annotations

import os
from pathlib import Path

from segue.core.config import suggest

__all__ = [
    "SETTINGS",
    "artifacts_folder",
    "bundle_folder",
    "find_click_folder",
    "find_run",
    "recipes_folder",
    "run_folders",
    "runs_folder",
]

SETTINGS = "settings.toml"
"""The file that makes a folder a run."""


def runs_folder() -> Path:
    """Return ``runs`` under ``SEGUE_HOME``, or in the working directory."""
    home = os.environ.get("SEGUE_HOME")
    return Path(home).expanduser() / "runs" if home else Path("runs")


def artifacts_folder() -> Path:
    """Return the folder ``artifacts`` of exported models, next to the runs."""
    return runs_folder().parent / "artifacts"


def recipes_folder() -> Path:
    """Return the folder of the recipes that Segue ships.

    It is in the installed package, or in the source tree.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def run_folders() -> list[Path]:
    """List the folders of all runs, finished or not, in order of name.

    Links such as ``latest`` are left out.
    """
    if not runs_folder().is_dir():
        return []
    return sorted(p for p in runs_folder().iterdir() if not p.is_symlink() and (p / SETTINGS).exists())


CLICK_MODEL = "examples.json"
"""File of a model that ``segue clicks`` saved, see :mod:`segue.core.examples.click_model`."""


def find_click_folder(text: str | Path) -> Path | None:
    """Find the folder of a click-through model by its path or run; ``None``: none."""
    for path in (Path(text).expanduser(), runs_folder() / text):
        for folder in (path, path / "model"):
            if (folder / CLICK_MODEL).is_file():
                return folder
        if path.exists():
            return None
    return None


def find_run(text: str | Path) -> Path:
    """Find the folder of a run by its path, or by a name such as ``latest``.

    Raises:
        ValueError: no such run; the message names the most similar one, or says that it is a click-through model.
    """
    for path in (Path(text).expanduser(), runs_folder() / text):
        if (path / SETTINGS).exists():
            return path.resolve() if path.is_symlink() else path
        if any((folder / CLICK_MODEL).is_file() for folder in (path, path / "model")):
            raise ValueError(
                f"run: '{text}' is a click-through model of a table of examples, which has no catalog to recommend "
                "from; predict rows with segue clicks predict, segue.open_clicks(...).predict(table) or segue serve; "
                "for recommendations, train on an interaction log: segue train"
            )
    known = [path.name for path in run_folders()]
    hint = suggest(Path(text).name, known) if known else f"; {runs_folder()}/ has no runs yet: segue train ..."
    raise ValueError(f"run: no run '{text}'{hint}")


def bundle_folder(run: Path) -> Path:
    """Return the folder of the trained model of a run.

    Raises:
        ValueError: the run is not finished.
    """
    folder = run / "bundle"
    if not (folder / "bundle.json").exists():
        raise ValueError(f"{run}: the run is not finished; resume it with: segue train --resume {run}")
    return folder
