"""Define what a study is: its grid, its measurements and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MODELS", "Cell", "Grid", "Row", "StudyChart", "StudyTable"]

MODELS = ("lstm", "xlstm", "bert4rec", "sasrec")
"""The models that studies compare unless others are given."""

Cell = dict[str, Any]
"""What was varied and what was measured for it, as JSON; every cell of a study has the same keys."""

Row = list[str | float | int | None]
"""A row of a table."""


@dataclass(frozen=True)
class Grid:
    """What a study trains.

    Attributes:
        values: those of the quantity that is varied, such as lengths; a study names it.
        seeds: one training each.
        settings: overrides of all trainings, such as ``training.epochs=3``.
        models: keys of models.
    """

    values: tuple[Any, ...]
    seeds: tuple[int, ...] = (0,)
    settings: tuple[str, ...] = ()
    models: tuple[str, ...] = MODELS

    def describe(self) -> dict[str, Any]:
        """Return the grid as JSON."""
        return {
            "models": list(self.models),
            "values": list(self.values),
            "seeds": list(self.seeds),
            "settings": list(self.settings),
        }


@dataclass(frozen=True)
class StudyTable:
    """A table of a study's page.

    Attributes:
        rows: texts and numbers; floats are shown with three decimals, or as many as ``digits``; ``None`` is empty.
        note: how the columns are defined, where the title does not say it.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str | float | int | None]]
    note: str = ""
    digits: int = 3


@dataclass(frozen=True)
class StudyChart:
    """A figure of a study's page.

    Attributes:
        spec: the chart as Vega-Lite.
        text: what it shows in words, for readers who do not see it.
        note: how to read it, where the title does not say it.
    """

    spec: Mapping[str, Any]
    text: str
    note: str = ""
