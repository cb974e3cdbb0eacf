"""Where runs and recipes live."""

from __future__ import annotations

import os
from pathlib import Path

from segue.core.config import suggest

__all__ = ["SETTINGS", "find_run", "recipes_folder", "run_folders", "runs_folder"]

SETTINGS = "settings.toml"
"""The file that makes a folder a run."""


def runs_folder() -> Path:
    """``runs`` under ``SEGUE_HOME``, or in the working directory where that is not set."""
    home = os.environ.get("SEGUE_HOME")
    return Path(home).expanduser() / "runs" if home else Path("runs")


def recipes_folder() -> Path:
    """The recipes that came with Segue: inside the installed package, or at the root of a source tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def run_folders() -> list[Path]:
    """Folders of all runs, finished or not, oldest name first; links such as ``latest`` are not among them."""
    if not runs_folder().is_dir():
        return []
    return sorted(p for p in runs_folder().iterdir() if not p.is_symlink() and (p / SETTINGS).exists())


def find_run(text: str | Path) -> Path:
    """The folder of the run called ``text``: a path, or a name under :func:`runs_folder` such as ``latest``.

    Raises:
        ValueError: there is no such run; the nearest known one is named.
    """
    for path in (Path(text), runs_folder() / text):
        if (path / SETTINGS).exists():
            return path.resolve() if path.is_symlink() else path
    known = [path.name for path in run_folders()]
    hint = suggest(Path(text).name, known) if known else f"; there are none in {runs_folder()}/ yet: segue train ..."
    raise ValueError(f"run: no run '{text}'{hint}")
