"""The benchmark of a product database: the commands of the page, small sizes, the page of results."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import product_database
from benchmarks.product_database import label, page_steps, shrink


def test_the_commands_and_files_are_those_of_the_page() -> None:
    steps = page_steps()
    assert [name for name, _ in steps if name] == [
        "impressions.sql",
        "tonight.sql",
        "orders.sql",
        "products.sql",
        "users.sql",
    ]
    commands = [text for name, text in steps if not name]
    assert label(commands[0]) == "python examples/product_database.py"
    assert [label(text) for text in commands[1:4]] == [
        "segue clicks train deepfm",
        "segue clicks compare ./clicks logistic_regression gradient_boosting",
        "segue clicks compare ./clicks compared/gradient_boosting --read-test",
    ]
    assert label(commands[-1]) == "segue export runs/shop"


def test_every_small_size_replaces_something_of_the_page() -> None:
    texts = "\n".join(text for _, text in page_steps())
    for large in product_database.SMALL:
        assert large in texts
    assert "--users 60" in shrink(texts)
    assert "u0001" not in shrink(texts)


def found() -> dict[str, Any]:
    """Return figures as ``run`` does."""
    cost = {"seconds": 20.0, "cpu_seconds": 10.0, "server_cpu_seconds": 3.0, "peak_mib": 1234.0}
    test = {"first": "b", "second": "a", "difference": 0.01, "low": 0.005, "high": 0.015, "p": 0.0, "p_holm": 0.001}
    means = {"ndcg@10": 0.1, "recall@10": 0.2}
    ranked = {"means": means, "intervals": {"ndcg@10": [0.09, 0.11], "recall@10": [0.19, 0.21]}}
    latency = {"per_second": 100.0, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0, "cpu_ms": 0.9}
    latency |= {"model_share": 1.0, "errors": 0}
    machine = dict.fromkeys(
        ("processor", "cores", "memory_gib", "system", "python", "torch", "segue", "commit", "command", "date"), "x"
    )
    return {
        "tables": {"users": 5200, "products": 2000, "impressions": 1_016_000, "orders": 126_000},
        "threads": 2,
        "seeds": [0, 1, 2],
        "data_hash": "h",
        "world_seed": 0,
        "commands": [{"command": "segue clicks train deepfm", **cost}],
        "comparisons": [{"command": "segue compare shop popular", **cost}],
        "clicks": {
            "rows": {"train": 8, "valid": 1, "test": 1},
            "models": {"deepfm": {"auc": [0.6, 0.59, 0.61], "log_loss": [0.5, None, None]}},
            "tests": {"auc": [test]},
        },
        "ranking": {"queries": 5000, "models": {"ranker": ranked}, "tests": [test]},
        "load": [{"stages": "ease", "connections": 4, **latency}],
        "seconds_per_row": 10,
        "machine": machine,
        "load_before_percent": 0.0,
        "max_load_percent": 15.0,
    }


@pytest.mark.parametrize(
    "line",
    [
        "A PostgreSQL server with 5,200 users, 2,000 products, 1,016,000 impressions and 126,000 orders",
        "| `segue clicks train deepfm` | 20.0 | 10.0 | 3.0 | 1,234 |",
        "| deepfm | 0.6000 [0.5900, 0.6100] | 0.5000 |  |",
        "| ranker | 0.1000 [0.0900, 0.1100] | 0.2000 [0.1900, 0.2100] |",
        "| ease | 4 | 100 | 1.00 | 2.00 | 3.00 | 0.90 | 100.0% | 0 |",
        "- b - a: +0.0100 [+0.0050, +0.0150], p = 0.0010",
    ],
)
def test_the_page_of_results(line: str) -> None:
    assert line in product_database.page(found())
