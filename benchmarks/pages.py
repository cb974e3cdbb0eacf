"""``python -m benchmarks.pages``: write the pages of ``docs/results`` again from their figures, measuring nothing."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.__main__ import BY_SOURCE, MODULES, PARTS
from segue.core.files import read_json, write_text

__all__ = ["format_page", "main"]

FOLDER = Path(__file__).parents[1] / "docs" / "results"

PREFIXED = ("ablation", "claimed_gains", "equal_budget_tuning", "ratings", "simple_baselines", "studies", *BY_SOURCE)
"""Parts whose pages are named ``PART-NAME``."""


def format_page(name: str, found: dict[str, Any]) -> str:
    """Format the page ``name`` from its figures."""
    part = name if name in PARTS else name.partition("-")[0]
    if part == "compare_libraries":
        return report.comparison_page(found)
    if part == "time_to_accuracy":
        return report.time_page(found)
    if part in PREFIXED or part in MODULES or part == "gpu":
        text: str = import_module(f"benchmarks.{part}").page(found)
        return text
    if part in PARTS:
        return report.plain_page(PARTS[part], found)
    from benchmarks import accuracy

    return accuracy.page({"board": name, **found})


def main() -> None:
    """Write the named pages, by default all whose figures are in the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("names", nargs="*", help="pages without suffix; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default %(default)s")
    options = parser.parse_args()
    for name in options.names or sorted(path.stem for path in options.folder.glob("*.json")):
        path = options.folder / name
        write_text(path.with_suffix(".md"), format_page(name, read_json(path.with_suffix(".json"))))


if __name__ == "__main__":
    main()
