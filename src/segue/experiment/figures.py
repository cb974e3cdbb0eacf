"""Figures of a run: how training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

__all__ = ["draw"]


def draw(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """``figures/training.svg``: loss and validation metrics by epoch; nothing without history or matplotlib."""
    if not history or find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ["loss"]), (right, [name for name in history[-1] if name.startswith("valid/")])):
        for name in names:
            points = [(line["step"], line[name]) for line in history if name in line]
            axes.plot([x for x, _ in points], [y for _, y in points], label=name.removeprefix("valid/"))
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        if names:
            axes.legend(frameon=False)
    (folder / "figures").mkdir(exist_ok=True)
    figure.savefig(folder / "figures" / "training.svg", metadata={"Date": None})
