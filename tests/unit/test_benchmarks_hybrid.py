"""The benchmark of combinations."""

from __future__ import annotations

import numpy as np

from benchmarks import hybrid
from segue.core.types import Events
from segue.data.splits import SplitSettings, split
from segue.testing import dataset


def test_the_best_ones_are_chosen_on_validation() -> None:
    rng = np.random.default_rng(0)
    parts = split(dataset(Events.of([rng.permutation(20)[:8].tolist() for _ in range(40)]), 20), SplitSettings())
    found = hybrid.measure(parts, {"ease": {"l2": 10.0}, "popular": {}}, range(2), lambda text: None)
    rows = found["rows"]
    assert set(rows) == {"ease", "popular", *hybrid.METHODS}
    for kind, names in (("member", ["ease", "popular"]), ("combination", list(hybrid.METHODS))):
        assert found["best"][kind] == max(names, key=lambda name: rows[name]["valid"]["ndcg@10"])
    difference = (
        rows[found["best"]["combination"]]["test"]["ndcg@10"]["mean"]
        - (rows[found["best"]["member"]]["test"]["ndcg@10"]["mean"])
    )
    assert abs(found["tests"]["ndcg@10"]["difference"] - difference) < 1e-9
    assert all(len(row["by_seed"]["ndcg@10"]) == 2 for row in rows.values())
    text = hybrid.page({"source": "test", "queries": 40, "warnings": [], "recipes": {}, **found})
    assert "| weighted, equal weights |" in text
    assert "(paired randomization test)" in text
