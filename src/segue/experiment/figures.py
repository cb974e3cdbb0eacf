"""Figures of a run: how training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from segue.core.files import write_text

__all__ = ["draw"]


def draw(folder: Path, model: str, metric: str, history: Sequence[Mapping[str, float]]) -> None:
    """``figures/training.svg``: loss and validation by epoch; nothing without epochs, or without matplotlib."""
    if find_spec("matplotlib") is None or not any("loss" in line for line in history):
        return
    from segue.reports.plots import svg, training_curves

    write_text(folder / "figures" / "training.svg", svg(training_curves({model: history}, metric)) + "\n")
