"""Draw the figures of a study, and write them as SVG files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from segue.core.files import write_text
from segue.reports.html.layout import FigureBlock
from segue.studies.framework.study import Cell

if TYPE_CHECKING:
    from segue.studies.framework.study_modules import StudyModule

__all__ = ["study_figures", "write_figures"]


def study_figures(module: StudyModule, cells: Sequence[Cell]) -> list[FigureBlock]:
    """Draw the figures of a study.

    There are none if the packages of the extra ``report`` are missing.
    """
    if any(find_spec(name) is None for name in ("altair", "vl_convert")):
        return []
    return [
        FigureBlock(re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"), title, chart.text, chart.spec, chart.note)
        for title, chart in module.figures(cells).items()
    ]


def write_figures(folder: Path, prefix: str, figures: Sequence[FigureBlock]) -> list[dict[str, str]]:
    """Write figures as SVG files, and return title, note and file of each.

    Args:
        prefix: of the names of the files, such as ``figures/``.
    """
    from segue.reports.html.charts import to_svg

    found = []
    for figure in figures:
        file = f"{prefix}{figure.key}.svg"
        write_text(folder / file, to_svg(figure))
        found.append({"title": figure.title, "note": figure.note, "file": file})
    return found
