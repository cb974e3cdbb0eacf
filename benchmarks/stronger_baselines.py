"""What pages say about simple baselines that are stronger than those in their tables."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["baseline_lines"]

SEE = "([simple baselines](index.md#simple-baselines))"
COUNTS = "`transitions`, which counts what followed the last item,"
TUNED = f"{COUNTS} has a validation NDCG@10 of 0.134, and `item_knn` 0.098 with a half-life of 3"
HALF_LIFE_10 = f"{TUNED}; here it has a half-life of 10, and 0.078 {SEE}."
DEFAULTS = f"{TUNED}; here it has its defaults, and 0.038 {SEE}."
TWO_STAGES = (
    f"{COUNTS} has a validation NDCG@10 of 0.134 {SEE}. It was measured neither as a retriever nor on the test part."
)
BEAUTY = f"{COUNTS} has a validation NDCG@10 of 0.055, and `item_knn`"

TEXTS: Mapping[str, str] = {
    "ml-1m": HALF_LIFE_10,
    "ml-1m-collaborative": HALF_LIFE_10,
    "ml-1m-sasrec": DEFAULTS,
    "ml-1m-among-100": f"over the whole catalog, {HALF_LIFE_10} Among samples neither was measured.",
    "amazon-beauty": f"{BEAUTY} 0.047, or 0.053 with a half-life of 1 {SEE}.",
    "hybrid-amazon-beauty": f"{BEAUTY} 0.053 {SEE}.",
    "hybrid-ml-1m": HALF_LIFE_10,
    "hybrid-ml-1m-sasrec": HALF_LIFE_10,
    "claimed_gains-ml-1m-text": f"{DEFAULTS} No baseline below reads the order.",
    "cold_items-ml-1m-text": f"with all items in training, {DEFAULTS}",
    "knowledge-ml-1m-kg": (
        f"{COUNTS} has a validation Recall@10 of 0.225, and `item_knn` 0.184 with a half-life of 3; here it has a "
        f"half-life of 10, and 0.149 {SEE}."
    ),
    "two_stage-ml-1m": TWO_STAGES,
    "two_stage-ml-1m-sasrec": TWO_STAGES,
    "protocols-ml-100k": (
        "under `full`, `item_knn` with a half-life of 3 has 0.107 on validation, where its defaults have 0.063, and "
        "0.099 on the test part ([page of context](context.md)), more than each model below. It was not measured under "
        "the other protocols."
    ),
}
"""By page; figures are those of the pages that the texts name."""


def baseline_lines(page: str) -> list[str]:
    """Return the statement of a page as a paragraph, if it has one."""
    text = TEXTS.get(page)
    return [] if text is None else [f"**Stronger simple baselines are not in the tables**: {text}", ""]
