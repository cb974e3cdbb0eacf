"""Charts as Vega-Lite, and their files.

Altair and vl-convert are imported only when a chart is built or written. Colors are roles, see :data:`ROLES`: a page
replaces them by the variables of its style sheet, so that a chart follows light and dark mode; a file uses the light
colors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.core.files import atomic_file, write_text
from segue.reports.html.layout import FigureBlock
from segue.reports.plots import LIGHT

if TYPE_CHECKING:
    import altair as alt

__all__ = [
    "COLORS",
    "DASHES",
    "ROLES",
    "SHAPES",
    "chart_height",
    "chart_of",
    "check_chart_packages",
    "finish_chart",
    "library_script",
    "name_legend",
    "save_charts",
    "series_styles",
    "themed_spec",
    "to_svg",
]

ROLES: Mapping[str, str] = {**LIGHT, "soft": "#565e66", "line": "#dfe1dd", "faint": "#858d95", "ink": "#1d2125"}
"""Colors by role; those of series differ in lightness, too, and each has its own shape or dash."""

VARIABLES: Mapping[str, str] = {color: f"var(--{role})" for role, color in ROLES.items()}
DATA = ("values", "datasets", "domain", "sort")
"""Entries of a chart that hold values of the data."""

COLORS = tuple(color for role, color in LIGHT.items() if role.startswith("c"))
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [1, 3], [10, 4])

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'
_TEXT = {"labelFont": FONT, "titleFont": FONT, "labelFontSize": 12, "titleFontSize": 12, "titleColor": ROLES["soft"]}

CONFIG: Mapping[str, Any] = {
    "font": FONT,
    "background": "transparent",
    "padding": {"left": 2, "right": 8, "top": 4, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        **_TEXT,
        "labelColor": ROLES["soft"],
        "titleFontWeight": "normal",
        "gridColor": ROLES["line"],
        "domainColor": ROLES["faint"],
        "tickColor": ROLES["faint"],
        "labelLimit": 170,
        "labelFlush": False,
        "titlePadding": 8,
    },
    "axisY": {"domain": False, "ticks": False, "labelPadding": 8},
    "text": {"font": FONT, "fontSize": 12, "color": ROLES["ink"]},
    "legend": {**_TEXT, "labelColor": ROLES["ink"], "orient": "top", "title": None},
}
"""Style of all charts."""

FILE_WIDTH = 640
"""Width of a chart in a file, in pixels; on a page it follows the window."""
FILE_SCALE = 2.0
"""Pixels of a PNG per pixel of the chart."""


def check_chart_packages() -> None:
    """Check that the packages that draw charts are installed.

    Raises:
        ValueError: one of them is missing.
    """
    for name in ("altair", "vl_convert"):
        if find_spec(name) is None:
            raise ValueError(f"{name} is not installed: pip install 'segue[report]'")


def chart_of(values: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Return a chart without marks of rows with the same names."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=[dict(row) for row in values]))


def finish_chart(chart: Any, height: int | None = None) -> dict[str, Any]:
    """Return a chart as Vega-Lite with the style of all charts.

    Args:
        chart: of Altair, or several in layers.
        height: in pixels; ``None``: that of the chart, such as a step per row.
    """
    # without Altair's checks against the schema of Vega-Lite, which take most of the time; the tests make them
    spec = dict(chart.to_dict(validate=False))
    size = {} if height is None else {"height": height}
    return {**spec, "width": "container", **size, "config": CONFIG}


def themed_spec(spec: Mapping[str, Any]) -> str:
    """Return a chart as JSON, with the variables of the page's style sheet as colors."""
    return json.dumps(_with_variables(spec), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _with_variables(part: Any) -> Any:
    """Replace colors by variables, but not in the data."""
    if isinstance(part, Mapping):
        return {name: inner if name in DATA else _with_variables(inner) for name, inner in part.items()}
    if isinstance(part, list):
        return [_with_variables(inner) for inner in part]
    return VARIABLES.get(part, part) if isinstance(part, str) else part


def chart_height(spec: Mapping[str, Any]) -> int:
    """Return the approximate height of a chart, which a page reserves for it."""
    height = spec.get("height", 200)
    return int(height) + 45 if isinstance(height, int | float) else 120


@cache
def library_script() -> str:
    """Return the JavaScript that draws the charts of a page."""
    import vl_convert

    script = str(vl_convert.javascript_bundle(snippet=None))  # type: ignore[arg-type] # None: everything on window
    assert "</script" not in script.lower()
    return script


def save_charts(folder: Path, figures: Sequence[FigureBlock]) -> list[Path]:
    """Write each figure with its title as PNG and SVG, and return the files.

    Raises:
        ValueError: ``folder`` is a file.
    """
    import vl_convert

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, expected a folder for the figures")
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for figure in figures:
        paths += [folder / f"{figure.key}.png", folder / f"{figure.key}.svg"]
        text = json.dumps(_file_spec(figure))
        with atomic_file(paths[-2]) as fresh:
            fresh.write_bytes(vl_convert.vegalite_to_png(text, scale=FILE_SCALE))
        write_text(paths[-1], to_svg(figure))
    return paths


def to_svg(figure: FigureBlock) -> str:
    """Return a figure with its title as the text of an SVG file."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(json.dumps(_file_spec(figure)))) + "\n"


def _file_spec(figure: FigureBlock) -> dict[str, Any]:
    """Return the chart of a figure with title, width and background, for a file."""
    title = {
        "text": figure.title,
        "anchor": "start",
        "frame": "group",
        "fontSize": 14,
        "color": ROLES["ink"],
        "offset": 24,
    }
    # a viewer may have a wider font than the one that labels were measured with
    padding = {"left": 44, "top": 12, "right": 12, "bottom": 12}
    config = {**figure.spec["config"], "background": "#ffffff", "padding": padding}
    return {**figure.spec, "title": title, "description": figure.text, "width": FILE_WIDTH, "config": config}


def series_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return color, shape and dash of each series by its name."""
    return {
        name: {
            "color": COLORS[number % len(COLORS)],
            "shape": SHAPES[number % len(SHAPES)],
            "dash": DASHES[number % len(DASHES)],
        }
        for number, name in enumerate(names)
    }


def name_legend(names: Sequence[str]) -> Any:
    """Return a legend whose rows fit on a phone; one name needs none."""
    import altair as alt

    if len(names) == 1:
        return None
    return alt.Legend(columns=max(1, 320 // (7 * max(map(len, names)) + 34)), symbolOpacity=1, labelLimit=240)
