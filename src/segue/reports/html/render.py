"""Render a page as one self-contained HTML file.

The page has a content security policy that allows nothing but its own scripts, by their hashes, and its own style: it
cannot load anything, and a script in an id or a title would not run even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files
from itertools import count
from pathlib import Path

from segue.core.files import write_text
from segue.reports.html.charts import chart_height, library_script, themed_spec
from segue.reports.html.layout import Page, Part, Section, page_figures, sort_value
from segue.version import __version__

__all__ = ["MARKER", "render_report", "write_report"]

MARKER = '<meta name="generator" content="Segue '
"""Text of every report."""


def write_report(path: Path, page: Page) -> None:
    """Write a page to ``path`` in one step."""
    write_text(path, render_report(page))


def render_report(page: Page) -> str:
    """Return the page as HTML; equal pages give the same text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    figures = {figure.key: figure for figure in page_figures(page)}
    script, library = _read("page.js"), library_script() if figures else ""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    number, last_number = _numbers()
    return environment.from_string(_read("page.html.j2")).render(
        page=page,
        level=2 if len(page.parts) == 1 else 3,
        contents=_contents(page),
        # in a script element, "<" could end it or begin another one
        specs={key: Markup(themed_spec(figure.spec).replace("<", "\\u003c")) for key, figure in figures.items()},
        heights={key: chart_height(figure.spec) for key, figure in figures.items()},
        style=Markup(_read("page.css")),
        script=Markup(script),
        library=Markup(library),
        policy=_policy(*([library] if library else []), script),
        sort_value=sort_value,
        number=number,
        last_number=last_number,
        version=__version__,
    )


def _read(name: str) -> str:
    return files("segue.reports.html").joinpath(name).read_text(encoding="utf-8").strip()


def _policy(*scripts: str) -> str:
    """Return the content security policy of a page with these scripts."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def _contents(page: Page) -> list[tuple[Part, list[tuple[str, Section]]]]:
    """Return the sections of each part with their anchors."""
    taken: set[str] = set()
    return [(part, [(_anchor(section.title, taken), section) for section in part.sections]) for part in page.parts]


def _anchor(title: str, taken: set[str]) -> str:
    """Return an anchor that is unique on the page."""
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    anchor = next(name for name in names if name not in taken)
    taken.add(anchor)
    return anchor


def _numbers() -> tuple[Callable[[], int], Callable[[], int]]:
    """Return a function that counts its calls, and one that returns the last number."""
    last = [0]

    def number() -> int:
        last[0] += 1
        return last[0]

    return number, lambda: last[0]
