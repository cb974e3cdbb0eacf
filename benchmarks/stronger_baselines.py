"""State on a page that stronger simple baselines than those in its tables are on another page.

The figures are read from the results of ``python -m benchmarks simple_baselines``, so that they follow a new run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from benchmarks.simple_baselines import TUNED, describe_settings
from segue.core.files import read_json
from segue.reports.quantities import metric_label

__all__ = ["SOURCES", "baseline_lines"]

FOLDER = Path(__file__).parents[1] / "docs" / "results"

SOURCES: Mapping[str, str] = {
    "ml-1m": "ml-1m",
    "ml-1m-collaborative": "ml-1m",
    "ml-1m-sasrec": "ml-1m-sasrec",
    "ml-1m-among-100": "ml-1m",
    "amazon-beauty": "amazon-beauty",
    "hybrid-amazon-beauty": "amazon-beauty",
    "hybrid-ml-1m": "ml-1m",
    "hybrid-ml-1m-sasrec": "ml-1m-sasrec",
    "claimed_gains-ml-1m-text": "ml-1m",
    "cold_items-ml-1m-text": "ml-1m",
    "knowledge-ml-1m-kg": "ml-1m",
    "two_stage-ml-1m": "ml-1m",
    "two_stage-ml-1m-sasrec": "ml-1m-sasrec",
    "protocols-ml-100k": "ml-100k",
}
"""Data whose simple baselines a page names, by page."""

CONDITIONS: Mapping[str, str] = {
    "ml-1m-among-100": "over the whole catalog, ",
    "cold_items-ml-1m-text": "with all items in training, ",
    "protocols-ml-100k": "under `full`, ",
}
"""How the evaluation differs from that of the page, which has not measured these baselines itself."""

EARLIER_RECIPE = (
    *("ml-1m", "ml-1m-collaborative", "ml-1m-among-100"),
    *("hybrid-ml-1m", "hybrid-ml-1m-sasrec", "knowledge-ml-1m-kg"),
)
"""Pages measured when the recipe of ``item_knn`` had ``half_life=10`` alone; one that is measured again is removed."""

RECALL = ("knowledge-ml-1m-kg",)
"""Pages ordered by Recall@10, which is HR@10 with one target per query."""


def baseline_lines(page: str, shown: Collection[str] = ()) -> list[str]:
    """Return the statement of a page as a paragraph, if it has one.

    Args:
        shown: rows of the page; there is no statement if the strongest baseline is among them.
    """
    source = SOURCES.get(page)
    if source is None or not (path := FOLDER / f"simple_baselines-{source}.json").exists():
        return []
    found = read_json(path)
    if found["strongest"] in shown:
        return []
    metric = "hit_rate@10" if page in RECALL else "ndcg@10"
    names = [name for name in dict.fromkeys((found["strongest"], TUNED)) if name in found["rows"]]
    rows = [_describe(found["rows"][name], metric) for name in names]
    label = "Recall@10" if page in RECALL else metric_label(metric)
    text = (
        f"**Simple baselines that are stronger on validation are not in the tables**: {CONDITIONS.get(page, '')}"
        f"the {label} of {'; that of '.join(rows)} ([simple baselines](simple_baselines-{source}.md))."
    )
    if page in EARLIER_RECIPE:
        text += " On this page `item_knn` has an earlier recipe, with half_life=10."
    return [text, ""]


def _describe(row: Mapping[str, Any], metric: str) -> str:
    settings = describe_settings(row["settings"])
    name = f"`{row['model']}`" + ("" if settings == "defaults" else f" with {settings}")
    return f"{name} is {row['valid'][metric][0]:.4f} on validation and {row['test'][metric][0]:.4f} on the test part"
