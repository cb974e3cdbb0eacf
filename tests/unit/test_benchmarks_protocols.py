"""The page of evaluation protocols: order of the models, Kendall's tau, and pairs that change places."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from scipy.stats import kendalltau

from benchmarks.protocols import METRICS, page
from segue.experiment.protocols.presets import PROTOCOLS
from segue.studies.protocols import kendall_tau

MACHINE = {
    **dict.fromkeys(("processor", "cores", "memory_gib", "system", "python", "torch", "segue", "commit"), "x"),
    **{"command": "x", "date": "x"},
}


def test_tau_is_that_of_scipy() -> None:
    first = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    for order in permutations(first.values()):
        second = dict(zip(first, order, strict=True))
        assert kendall_tau(first, second) == pytest.approx(kendalltau(list(first.values()), order).statistic)


def found(values: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Results in which a model has one value of all metrics under a protocol."""
    names = (*METRICS, "sampled_ndcg@10", "sampled_hit_rate@10")
    counts = {"train_events": 90, "queries": 9, "targets_in_history": 0.25}
    return {
        "source": "small",
        "data": {"users": 9, "items": 8, "events": 99, "hash": "0"},
        "seeds": 3,
        "settings": {"popular": {"baseline": "none"}, "ease": {"l2": 9.0}},
        "seconds": 60.0,
        "machine": MACHINE,
        "protocols": {
            protocol: {
                "counts": counts,
                "models": {
                    model: {"metrics": {name: [value, value - 0.01, value + 0.01] for name in names}}
                    for model, value in models.items()
                },
            }
            for protocol, models in values.items()
        },
    }


def test_the_page_shows_the_order_and_the_pairs_that_change_places() -> None:
    values = {name: {"popular": 0.1, "ease": 0.2} for name in PROTOCOLS}
    values["repeats"] = {"popular": 0.2, "ease": 0.1}
    text = page(found(values))
    assert "| `full` | ease, popular |" in text
    assert "| `repeats` | popular, ease |" in text
    assert "| `full` | 1.00 | 1.00 | -1.00 | 1.00 | 1.00 |" in text
    assert "`popular` is above `ease` under `repeats`, and not under `full`, `window`, `ncf`, `session`" in text
    assert "- `popular`: 0.1000 under `full`, 0.2000 under `repeats`, 2.0 times as much." in text
    assert "- `ease`: l2=9.0" in text
    assert all(f"| `{name}` | {protocol.summary} |" in text for name, protocol in PROTOCOLS.items())
