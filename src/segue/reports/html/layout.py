"""What a page consists of: parts of sections of blocks.

A source of reports, such as runs or a log, builds a :class:`Page` from these; :mod:`segue.reports.html.render` knows
nothing else. All texts are plain text, and are escaped where they are rendered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from segue.reports.tables import Table

__all__ = [
    "Block",
    "Cell",
    "CodeBlock",
    "Details",
    "FactsBlock",
    "FigureBlock",
    "FigureRow",
    "ListBlock",
    "ListedItem",
    "ListedItems",
    "Page",
    "Paragraph",
    "Part",
    "Section",
    "TableBlock",
    "UserPanel",
    "UsersBlock",
    "page_figures",
    "sort_value",
]

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "MiB": 1.0, "GiB": 1024.0, "%": 1.0, "x": 1.0}
NUMBER = re.compile(r"[<>]?\s*([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?:\s*([A-Za-z%]+))?")


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    note: str = ""
    """A second line in small type, such as an interval."""
    mark: str = ""
    """A short label beside the text, such as ``strongest``."""


@dataclass(frozen=True)
class TableBlock:
    """A table whose columns can be sorted."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    first_numeric: int = 1
    highlighted: frozenset[int] = frozenset()
    note: str = ""

    @classmethod
    def of(cls, table: Table, note: str = "") -> TableBlock:
        """Convert a table of texts."""
        rows = tuple(tuple(map(Cell, row)) for row in table.rows)
        return cls(table.title, table.columns, rows, table.first_numeric, table.highlighted, note)


@dataclass(frozen=True)
class FigureBlock:
    """A chart with its title and its description in words."""

    key: str
    """Name of its files, unique on the page."""
    title: str
    """What the figure shows, in words."""
    text: str
    """Alternative text with the main values."""
    spec: Mapping[str, Any]
    """The chart as Vega-Lite, with the width ``container``."""
    note: str = ""


@dataclass(frozen=True)
class FigureRow:
    """Figures side by side, where the page is wide enough."""

    figures: tuple[FigureBlock, ...]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str
    is_note: bool = False
    """Whether it is set in smaller type."""


@dataclass(frozen=True)
class ListBlock:
    """A list of sentences."""

    lines: tuple[str, ...]
    is_warning: bool = False


@dataclass(frozen=True)
class FactsBlock:
    """Names and values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CodeBlock:
    """Preformatted text, such as a command or a file."""

    text: str
    label: str


@dataclass(frozen=True)
class ListedItem:
    """An item of a list of recommendations or of a history."""

    name: str
    note: str = ""
    is_target: bool = False


@dataclass(frozen=True)
class ListedItems:
    """Items in order, with a title."""

    title: str
    items: tuple[ListedItem, ...]
    start: int = 1
    note: str = ""


@dataclass(frozen=True)
class UserPanel:
    """One user: why they were chosen, their history and what was recommended."""

    user: str
    reason: str
    facts: tuple[tuple[str, str], ...]
    lists: tuple[ListedItems, ...]
    reasons: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """By recommended item, why it was recommended."""


@dataclass(frozen=True)
class UsersBlock:
    """Users that can be searched by their id."""

    panels: tuple[UserPanel, ...]
    reasons_title: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks that are hidden until they are opened."""

    summary: str
    note: str
    blocks: tuple[Block, ...]


Block: TypeAlias = (
    "TableBlock | FigureBlock | FigureRow | Paragraph | ListBlock | FactsBlock | CodeBlock | UsersBlock | Details"
)


@dataclass(frozen=True)
class Section:
    """A titled section; ``lead`` says in one or two sentences what it shows."""

    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True)
class Part:
    """Sections on one subject, such as the runs of one protocol."""

    title: str
    sections: tuple[Section, ...]
    lead: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    kicker: str
    """What the page is about, above the title."""
    title: str
    """The main finding, in plain words."""
    standfirst: str
    """The finding with its figures."""
    parts: tuple[Part, ...]
    warnings: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = field(default=())
    """A few figures below the standfirst."""


def page_figures(page: Page) -> list[FigureBlock]:
    """Return the figures of a page in order."""
    return [figure for part in page.parts for section in part.sections for figure in _figures_of_blocks(section.blocks)]


def _figures_of_blocks(blocks: Sequence[Block]) -> Iterator[FigureBlock]:
    for block in blocks:
        if isinstance(block, FigureBlock):
            yield block
        elif isinstance(block, FigureRow):
            yield from block.figures
        elif isinstance(block, Details):
            yield from _figures_of_blocks(block.blocks)


def sort_value(text: str) -> float | None:
    """Return the number by which a cell is sorted; ``None`` for other text.

    Durations and sizes are converted to one unit.
    """
    found = NUMBER.fullmatch(text.replace("−", "-").replace("\u202f", " ").strip())
    if found is None or (found[2] is not None and found[2] not in UNITS):
        return None
    return float(found[1].replace(",", "")) * UNITS.get(found[2] or "", 1.0)
